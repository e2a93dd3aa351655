//! From tree to values: the tools that every part of the document is decoded with.
//!
//! Theory. Decoding never stops at an error. A decoder returns `None` for what it could not read, having put one
//! diagnostic into the report; its caller leaves the part out and reads on. At the end a document exists only if
//! the report has no error, so no value that was made up to go on is ever used.

use std::fmt::Display;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::diagnostic::{Code, Diagnostic, Report};
use crate::source::{At, Source, Span};
use crate::suggest::{did_you_mean, nearest};
use crate::tree::{Node, Tree, shortened};
use crate::value::{Mac, Name, parse_duration};

/// The source and the report of one decoding.
pub(crate) struct Decoder<'s> {
    pub(crate) source: &'s Source,
    pub(crate) report: Report,
}

/// The entries of a map that is a record: every key must be known.
pub(crate) struct Fields<'t> {
    what: &'static str,
    known: &'static [&'static str],
    span: Span,
    entries: &'t [(Tree<'t>, Tree<'t>)],
}

impl<'t> Fields<'t> {
    /// The value of the field `name`. A key that is given twice was reported; the first one is read.
    pub(crate) fn optional(&self, name: &str) -> Option<&'t Tree<'t>> {
        self.entries.iter().find(|(key, _)| key_text(key) == Some(name)).map(|(_, value)| value)
    }

    /// The place of the key `name`.
    pub(crate) fn key_span(&self, name: &str) -> Option<Span> {
        self.entries.iter().find(|(key, _)| key_text(key) == Some(name)).map(|(key, _)| key.span)
    }

    /// The place of the record.
    pub(crate) fn span(&self) -> Span {
        self.span
    }

    /// A place that stands for the record in a message: its first key.
    pub(crate) fn head(&self) -> Span {
        self.entries.first().map_or(self.span, |(key, _)| key.span)
    }
}

fn key_text<'t>(key: &'t Tree<'_>) -> Option<&'t str> {
    match &key.node {
        Node::Scalar { text, .. } => Some(text),
        _ => None,
    }
}

impl<'s> Decoder<'s> {
    pub(crate) fn new(source: &'s Source) -> Self {
        Decoder { source, report: Report::new() }
    }

    /// Reports an error at `span`.
    pub(crate) fn error(
        &mut self,
        code: Code,
        span: Span,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.report.push(Diagnostic::error(code, self.source, span, message).help(help));
    }

    /// True when `tree` is a map with all of `keys`.
    pub(crate) fn has_all(tree: &Tree<'_>, keys: &[&str]) -> bool {
        let Node::Map(entries) = &tree.node else { return false };
        keys.iter().all(|name| entries.iter().any(|(key, _)| key_text(key) == Some(name)))
    }

    /// `tree` as a record with the keys `known`; `what` names it in messages ("a rule").
    pub(crate) fn fields<'t>(
        &mut self,
        tree: &'t Tree<'t>,
        what: &'static str,
        known: &'static [&'static str],
    ) -> Option<Fields<'t>> {
        let entries = self.entries(tree, what)?;
        for (key, _) in entries {
            match key_text(key) {
                Some(text) if known.contains(&text) => {}
                Some(text) => {
                    let help = did_you_mean(text, known.iter().copied(), &format!("the fields of {what}"));
                    let message = format!("`{}` is not a field of {what}", shortened(text));
                    self.error(Code::UnknownField, key.span, message, help);
                }
                None => {
                    let help = format!("the fields of {what}: {}", known.join(", "));
                    self.error(Code::WrongType, key.span, format!("{} cannot be a key", key.kind()), help);
                }
            }
        }
        Some(Fields { what, known, span: tree.span, entries })
    }

    /// `tree` as a map from names to values.
    pub(crate) fn named<'t>(
        &mut self,
        tree: &'t Tree<'t>,
        what: &'static str,
    ) -> Vec<(At<Name>, &'t Tree<'t>)> {
        let entries = self.entries(tree, what).unwrap_or(&[]);
        entries.iter().filter_map(|(key, value)| Some((self.name(key)?, value))).collect()
    }

    /// The entries of the map `tree`, none of whose keys is given twice (reported here).
    pub(crate) fn entries<'t>(
        &mut self,
        tree: &'t Tree<'t>,
        what: &str,
    ) -> Option<&'t [(Tree<'t>, Tree<'t>)]> {
        let entries = match &tree.node {
            Node::Map(entries) => entries.as_slice(),
            Node::Empty => &[],
            _ => {
                self.wrong_type(tree, &format!("{what} as a map (`key: value`)"));
                return None;
            }
        };
        if entries.len() <= 16 {
            for (index, (key, _)) in entries.iter().enumerate() {
                let Some(text) = key_text(key) else { continue };
                if let Some((first, _)) =
                    entries[..index].iter().find(|(other, _)| key_text(other) == Some(text))
                {
                    self.duplicate_key(key.span, first.span, text);
                }
            }
        } else {
            let mut seen = std::collections::HashMap::with_capacity(entries.len());
            for (key, _) in entries {
                let Some(text) = key_text(key) else { continue };
                if let Some(first) = seen.insert(text, key.span) {
                    self.duplicate_key(key.span, first, text);
                }
            }
        }
        Some(entries)
    }

    fn duplicate_key(&mut self, second: Span, first: Span, text: &str) {
        let message = format!("`{}` is given twice", shortened(text));
        let diagnostic =
            Diagnostic::error(Code::Duplicate, self.source, second, message).label("given again here");
        self.report.push(diagnostic.also(self.source, first, "first given here").help("keep one of them"));
    }

    /// The items of the list `tree`; `what` names the list in messages.
    pub(crate) fn list<'t>(&mut self, tree: &'t Tree<'t>, what: &str) -> &'t [Tree<'t>] {
        match &tree.node {
            Node::List(items) => items,
            Node::Empty => &[],
            _ => {
                self.wrong_type(tree, &format!("a list of {what} (`[a, b]`, or lines that start with `-`)"));
                &[]
            }
        }
    }

    /// The items of `tree` where a list may be written as its only item.
    pub(crate) fn one_or_list<'t>(&mut self, tree: &'t Tree<'t>) -> &'t [Tree<'t>] {
        match &tree.node {
            Node::List(items) => items,
            Node::Empty => &[],
            _ => std::slice::from_ref(tree),
        }
    }

    /// The value of the field `name`, which must be given; `hint` says what to write.
    pub(crate) fn required<'t>(
        &mut self,
        fields: &Fields<'t>,
        name: &str,
        hint: &str,
    ) -> Option<&'t Tree<'t>> {
        let found = fields.optional(name);
        // A misspelt key was reported with this field as its suggestion; saying that it lacks too helps nobody.
        let misspelt = |(key, _): &(Tree<'_>, Tree<'_>)| {
            key_text(key).is_some_and(|text| {
                !fields.known.contains(&text) && nearest(text, fields.known.iter().copied()) == Some(name)
            })
        };
        if found.is_none() && !fields.entries.iter().any(misspelt) {
            let message = format!("{} lacks `{name}`", fields.what);
            let help = format!("add `{name}: {hint}`");
            self.error(Code::MissingField, fields.head(), message, help);
        }
        found
    }

    pub(crate) fn wrong_type(&mut self, tree: &Tree<'_>, expected: &str) {
        let message = format!("expected {expected}, found {}", tree.kind());
        let diagnostic =
            Diagnostic::error(Code::WrongType, self.source, first_line(self.source, tree.span), message);
        let diagnostic = match &tree.node {
            Node::Scalar { plain: false, text }
                if text.parse::<u64>().is_ok() || text == "true" || text == "false" =>
            {
                diagnostic.help("write it without quotes")
            }
            _ => diagnostic,
        };
        self.report.push(diagnostic);
    }

    /// `tree` as a scalar's text.
    pub(crate) fn text<'t>(&mut self, tree: &'t Tree<'t>, what: &str) -> Option<&'t str> {
        match &tree.node {
            Node::Scalar { text, .. } => Some(text),
            _ => {
                self.wrong_type(tree, what);
                None
            }
        }
    }

    /// `tree` as a name: 1 to 64 characters without spaces, `$` or control characters.
    pub(crate) fn name(&mut self, tree: &Tree<'_>) -> Option<At<Name>> {
        let Node::Scalar { text, .. } = &tree.node else {
            self.wrong_type(tree, "a name");
            return None;
        };
        let bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '$' | '"' | '\'');
        if text.is_empty() || text.chars().count() > 64 || text.contains(bad) {
            let message = format!("\"{}\" cannot be a name", shortened(text));
            self.error(
                Code::BadValue,
                tree.span,
                message,
                "use 1 to 64 characters: no spaces, no quotes, no `$`",
            );
            return None;
        }
        Some(At::new(Arc::from(&**text), tree.span))
    }

    /// `tree` as a whole number within `range`; `what` names it.
    pub(crate) fn number(
        &mut self,
        tree: &Tree<'_>,
        what: &str,
        range: RangeInclusive<i64>,
    ) -> Option<At<i64>> {
        let parsed = match &tree.node {
            Node::Scalar { text, plain: true } => parse_number(text),
            _ => None,
        };
        let Some(number) = parsed else {
            self.wrong_type(tree, &format!("{what} as a whole number"));
            return None;
        };
        if number < i128::from(*range.start()) || number > i128::from(*range.end()) {
            let message = format!("{what} is out of range: {number}");
            let help = format!("it must be from {} to {}", range.start(), range.end());
            self.error(Code::OutOfRange, tree.span, message, help);
            return None;
        }
        Some(At::new(number as i64, tree.span))
    }

    /// `tree` as a whole number that fits `T`, from `low` to `high`.
    pub(crate) fn unsigned<T: TryFrom<i64>>(
        &mut self,
        tree: &Tree<'_>,
        what: &str,
        low: T,
        high: T,
    ) -> Option<At<T>>
    where
        i64: From<T>,
    {
        let number = self.number(tree, what, i64::from(low)..=i64::from(high))?;
        T::try_from(number.value).ok().map(|value| At::new(value, tree.span))
    }

    /// `tree` as `true` or `false`.
    pub(crate) fn boolean(&mut self, tree: &Tree<'_>) -> Option<At<bool>> {
        let value = match &tree.node {
            Node::Scalar { text, plain: true } if text == "true" => true,
            Node::Scalar { text, plain: true } if text == "false" => false,
            _ => {
                self.wrong_type(tree, "`true` or `false`");
                return None;
            }
        };
        Some(At::new(value, tree.span))
    }

    /// `tree` as one of `words`, by their value.
    pub(crate) fn word<T: Copy>(
        &mut self,
        tree: &Tree<'_>,
        what: &str,
        words: &[(&str, T)],
    ) -> Option<At<T>> {
        let all = || words.iter().map(|(word, _)| *word);
        let Node::Scalar { text, .. } = &tree.node else {
            self.wrong_type(tree, &format!("{what}: one of {}", all().collect::<Vec<_>>().join(", ")));
            return None;
        };
        match words.iter().find(|(word, _)| word == text) {
            Some((_, value)) => Some(At::new(*value, tree.span)),
            None => {
                let help = did_you_mean(text, all().collect::<Vec<_>>(), &format!("{what} is one of"));
                self.error(Code::BadValue, tree.span, format!("`{}` is not {what}", shortened(text)), help);
                None
            }
        }
    }

    fn parsed<T: FromStr>(&mut self, tree: &Tree<'_>, what: &str, example: &str) -> Option<At<T>> {
        let Node::Scalar { text, .. } = &tree.node else {
            self.wrong_type(tree, what);
            return None;
        };
        let value = text.parse().ok();
        if value.is_none() {
            let message = format!("`{}` is not {what}", shortened(text));
            self.error(Code::BadValue, tree.span, message, format!("write it like {example}"));
        }
        value.map(|value| At::new(value, tree.span))
    }

    /// `tree` as an IP address.
    pub(crate) fn address(&mut self, tree: &Tree<'_>) -> Option<At<IpAddr>> {
        self.parsed(tree, "an IP address", "`10.0.0.1` or `\"fd00::1\"`")
    }

    /// `tree` as a MAC address.
    pub(crate) fn mac(&mut self, tree: &Tree<'_>) -> Option<At<Mac>> {
        self.parsed(tree, "a MAC address", "`\"02:00:00:00:00:01\"`")
    }

    /// `tree` as a prefix; an address is the prefix of itself alone.
    pub(crate) fn prefix(&mut self, tree: &Tree<'_>) -> Option<At<IpNet>> {
        let text = self.text(tree, "a prefix")?;
        match crate::value::parse_prefix(text) {
            Ok(prefix) => Some(At::new(prefix, tree.span)),
            Err(problem) => {
                self.error(Code::BadValue, tree.span, problem.message, problem.help);
                None
            }
        }
    }

    /// `tree` as a duration in nanoseconds.
    pub(crate) fn duration(&mut self, tree: &Tree<'_>) -> Option<At<u64>> {
        let text = self.text(tree, "a duration")?;
        match parse_duration(text) {
            Ok(nanoseconds) => Some(At::new(nanoseconds, tree.span)),
            Err(problem) => {
                self.error(Code::BadValue, tree.span, problem.message, problem.help);
                None
            }
        }
    }

    /// Reports that `tree` is not what `what` may be.
    pub(crate) fn bad_value(&mut self, tree: &Tree<'_>, what: &str, help: impl Display) {
        self.error(Code::BadValue, tree.span, format!("{} is not {what}", tree.kind()), help.to_string());
    }
}

/// `span` cut to its first line, so that a message about a whole block does not underline all of it.
pub(crate) fn first_line(source: &Source, span: Span) -> Span {
    match source.slice(span).find('\n') {
        Some(length) => Span::new(span.start, span.start + length as u32),
        None => span,
    }
}

/// A decimal or `0x` number.
pub(crate) fn parse_number(text: &str) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let magnitude = match digits.strip_prefix("0x") {
        Some(hex) if !hex.is_empty() && hex.bytes().all(|b| b.is_ascii_hexdigit()) => {
            i128::from_str_radix(hex, 16)
        }
        _ if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse(),
        _ => return None,
    };
    magnitude.ok().map(|magnitude| if negative { -magnitude } else { magnitude })
}
