//! What is wrong with a document, said to a person: message, underlined place, and what to do.
//!
//! A [`Diagnostic`] is a value. How it is shown (drawn in a terminal, or as JSON for a program) is decided at
//! the end, in one place, so that every tool shows the same. It never ends the work that found it: whoever
//! decodes or converts collects diagnostics into a [`Report`] and goes on as far as that makes sense.

use std::fmt;

use miette::{
    GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteError, MietteSpanContents, SourceCode,
};
use miette::{SourceSpan, SpanContents};

use crate::source::{Source, Span};

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// A place that has to do with another diagnostic.
    Note,
    /// The document can be used, but probably does not mean what was intended.
    Warning,
    /// The document cannot be used; nothing of it takes effect.
    Error,
}

impl Severity {
    /// `warning` or `error`.
    pub const fn name(self) -> &'static str {
        match self {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Error => "error",
        }
    }
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal;)+) => {
        /// The kind of a mistake: stable, for programs.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Code { $($(#[doc = $doc])+ $variant,)+ }

        impl Code {
            /// Every kind.
            pub const ALL: &'static [Code] = &[$(Code::$variant,)+];

            /// The stable name used in output.
            pub const fn name(self) -> &'static str {
                match self { $(Code::$variant => $name,)+ }
            }
        }
    };
}

codes! {
    /// The text is not YAML, or YAML that a policy does not use.
    Syntax = "syntax";
    /// A field that does not exist.
    UnknownField = "unknown-field";
    /// A field that must be given is missing.
    MissingField = "missing-field";
    /// A key, name, address or key of a table that is given twice.
    Duplicate = "duplicate";
    /// A list where a map was expected, a text where a number was, and so on.
    WrongType = "wrong-type";
    /// A number outside its range, or a range whose low end is above its high end.
    OutOfRange = "out-of-range";
    /// A text that is not the address, prefix, MAC, duration or word it should be.
    BadValue = "bad-value";
    /// A resource or metadata key that no document declares.
    MissingResource = "missing-resource";
    /// Two things that cannot both hold.
    Conflict = "conflict";
    /// An action that can never be done.
    Impossible = "impossible";
    /// A rule that no packet can ever match.
    NeverMatches = "never-matches";
    /// A rule that another one hides or overrides.
    Shadowed = "shadowed";
    /// Something too large to be checked to the end.
    Unchecked = "unchecked";
}

/// One mistake.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Its kind.
    pub code: Code,
    /// One sentence: what is wrong.
    pub message: String,
    /// The text that the labels' places belong to.
    pub source: Source,
    /// The places; the first one is where the mistake is.
    pub labels: Vec<Label>,
    /// What to do.
    pub help: Option<String>,
    /// Places in other sources that have to do with it.
    pub related: Vec<Diagnostic>,
}

/// A place with a remark.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Label {
    /// The place.
    pub span: Span,
    /// The remark; may be empty.
    pub text: String,
}

impl Diagnostic {
    /// An error at `span` of `source`.
    pub fn error(code: Code, source: &Source, span: Span, message: impl Into<String>) -> Self {
        Diagnostic {
            severity: Severity::Error,
            code,
            message: message.into(),
            source: source.clone(),
            labels: vec![Label { span, text: String::new() }],
            help: None,
            related: Vec::new(),
        }
    }

    /// A warning at `span` of `source`.
    pub fn warning(code: Code, source: &Source, span: Span, message: impl Into<String>) -> Self {
        Diagnostic { severity: Severity::Warning, ..Diagnostic::error(code, source, span, message) }
    }

    /// With a remark at its place.
    pub fn label(mut self, text: impl Into<String>) -> Self {
        if let Some(first) = self.labels.first_mut() {
            first.text = text.into();
        }
        self
    }

    /// With what to do.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// With another place, of the same or of another source.
    pub fn also(mut self, source: &Source, span: Span, text: impl Into<String>) -> Self {
        let text = text.into();
        if *source == self.source {
            self.labels.push(Label { span, text });
        } else {
            let note = Diagnostic::error(self.code, source, span, text);
            self.related.push(Diagnostic { severity: Severity::Note, ..note });
        }
        self
    }

    /// Where it is: `name:line:column`.
    pub fn place(&self) -> String {
        let (line, column) = self.position();
        format!("{}:{line}:{column}", self.source.name)
    }

    fn position(&self) -> (usize, usize) {
        self.source.position(self.labels.first().map_or(0, |label| label.span.start))
    }

    /// The diagnostic as JSON; the keys are stable.
    pub fn to_json(&self) -> serde_json::Value {
        let labels: Vec<_> = self.labels.iter().map(|label| self.label_json(label)).collect();
        serde_json::json!({
            "severity": self.severity.name(),
            "code": self.code.name(),
            "message": self.message,
            "file": &*self.source.name,
            "labels": labels,
            "help": self.help,
            "related": self.related.iter().map(Diagnostic::to_json).collect::<Vec<_>>(),
        })
    }

    fn label_json(&self, label: &Label) -> serde_json::Value {
        let (line, column) = self.source.position(label.span.start);
        let (end_line, end_column) = self.source.position(label.span.end);
        serde_json::json!({
            "line": line, "column": column, "end-line": end_line, "end-column": end_column,
            "offset": label.span.start, "length": label.span.end - label.span.start,
            "text": label.text,
        })
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Diagnostic {}

impl miette::Diagnostic for Diagnostic {
    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.severity {
            Severity::Note => miette::Severity::Advice,
            Severity::Warning => miette::Severity::Warning,
            Severity::Error => miette::Severity::Error,
        })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        Some(Box::new(self.labels.iter().enumerate().map(|(index, label)| {
            let text = (!label.text.is_empty()).then(|| label.text.clone());
            let length = (label.span.end.saturating_sub(label.span.start)) as usize;
            let span = SourceSpan::new((label.span.start as usize).into(), length);
            if index == 0 {
                LabeledSpan::new_primary_with_span(text, span)
            } else {
                LabeledSpan::new_with_span(text, span)
            }
        })))
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn miette::Diagnostic> + 'a>> {
        if self.related.is_empty() {
            return None;
        }
        Some(Box::new(self.related.iter().map(|diagnostic| diagnostic as &dyn miette::Diagnostic)))
    }
}

impl SourceCode for Source {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        lines_before: usize,
        lines_after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let contents = self.text.read_span(span, lines_before, lines_after)?;
        Ok(Box::new(MietteSpanContents::new_named(
            self.name.to_string(),
            contents.data(),
            *contents.span(),
            contents.line(),
            contents.column(),
            contents.line_count(),
        )))
    }
}

/// Everything that was found, in the order of the text.
#[derive(Clone, Debug, Default)]
pub struct Report {
    diagnostics: Vec<Diagnostic>,
    omitted: usize,
}

impl Report {
    /// The most diagnostics that a report keeps; more help nobody, and are only counted.
    pub const LIMIT: usize = 50;

    /// An empty report.
    pub fn new() -> Self {
        Report::default()
    }

    /// Adds one.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        if self.diagnostics.len() < Self::LIMIT {
            self.diagnostics.push(diagnostic);
        } else if diagnostic.severity == Severity::Error
            && let Some(warning) = self.diagnostics.iter().rposition(|d| d.severity == Severity::Warning)
        {
            self.diagnostics[warning] = diagnostic;
            self.omitted += 1;
        } else {
            self.omitted += 1;
        }
    }

    /// Adds all of another report.
    pub fn append(&mut self, other: Report) {
        self.omitted += other.omitted;
        other.diagnostics.into_iter().for_each(|diagnostic| self.push(diagnostic));
    }

    /// Puts the diagnostics into the order of the text; those of several sources in the order in which the sources
    /// were first complained about.
    pub fn sort(&mut self) {
        let mut sources: Vec<std::sync::Arc<str>> = Vec::new();
        for diagnostic in &self.diagnostics {
            if !sources.contains(&diagnostic.source.name) {
                sources.push(diagnostic.source.name.clone());
            }
        }
        self.diagnostics.sort_by_key(|diagnostic| {
            let source = sources.iter().position(|name| *name == diagnostic.source.name);
            (source, diagnostic.labels.first().map(|label| label.span))
        });
    }

    /// True when nothing was found.
    pub fn is_empty(&self) -> bool {
        self.diagnostics.is_empty()
    }

    /// True when something was found that makes the document unusable.
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// What was found.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// How many more there were than are kept.
    pub fn omitted(&self) -> usize {
        self.omitted
    }

    /// The report drawn for a terminal, with colours when `colours` says so.
    pub fn render(&self, colours: bool) -> String {
        let theme = if colours { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        let handler = GraphicalReportHandler::new_themed(theme).with_width(100).with_links(false);
        let mut text = String::new();
        for diagnostic in &self.diagnostics {
            if handler.render_report(&mut text, diagnostic).is_err() {
                text.push_str(&format!("{}: {}\n", diagnostic.place(), diagnostic.message));
            }
        }
        if self.omitted > 0 {
            text.push_str(&format!("... and {} more\n", self.omitted));
        }
        text
    }

    /// The report as JSON; the keys are stable.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "diagnostics": self.diagnostics.iter().map(Diagnostic::to_json).collect::<Vec<_>>(),
            "omitted": self.omitted,
        })
    }
}

impl From<Diagnostic> for Report {
    fn from(diagnostic: Diagnostic) -> Report {
        Report { diagnostics: vec![diagnostic], omitted: 0 }
    }
}

impl From<Box<Diagnostic>> for Report {
    fn from(diagnostic: Box<Diagnostic>) -> Report {
        Report::from(*diagnostic)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Report {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_report_counts_what_it_leaves_out_and_prefers_errors() {
        let source = Source::new("t", "x");
        let mut report = Report::new();
        for _ in 0..Report::LIMIT + 3 {
            report.push(Diagnostic::warning(Code::Shadowed, &source, Span::new(0, 1), "w"));
        }
        assert!(!report.has_errors());
        report.push(Diagnostic::error(Code::Syntax, &source, Span::new(0, 1), "e"));
        assert!(report.has_errors());
        assert_eq!((report.diagnostics().len(), report.omitted()), (Report::LIMIT, 4));
        assert!(report.render(false).contains("and 4 more"));
    }

    #[test]
    fn codes_have_distinct_names() {
        for (index, code) in Code::ALL.iter().enumerate() {
            assert!(Code::ALL[index + 1..].iter().all(|other| other.name() != code.name()));
        }
    }
}
