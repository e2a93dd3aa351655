//! Policy messages as parts of documents.
//!
//! A client's message and a policy file that says the same become the same values, decoded by the same code. The
//! places of the values are node numbers of the message's tree, so a mistake is reported with its path
//! (`when.ip.src`) in place of line and column.

use prost::Message;

use super::text::{FormError, path, to_tree};
use super::v1::Kind;
use crate::decode::Decoder;
use crate::diagnostic::{Code, Diagnostic, Report};
use crate::document;
use crate::source::{At, Source, Span};
use crate::tree::{Node, Tree};
use crate::value::Name;

/// Why a message is no part of a policy.
#[derive(Clone, Debug)]
pub enum ReadError {
    /// Its bytes are none of the contract's.
    Form(FormError),
    /// Its values are wrong; each with the path of its place within the message.
    Content(Vec<Problem>),
}

/// A mistake within a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Its kind, stable.
    pub code: &'static str,
    /// One sentence.
    pub message: String,
    /// What to do; may be empty.
    pub help: String,
    /// Its place within the message; empty for the whole.
    pub field: String,
    /// True for what is allowed and probably not meant.
    pub is_warning: bool,
}

/// A part of a document, read from a message.
#[derive(Debug)]
pub struct Part<T> {
    /// The part. Its spans are node numbers.
    pub value: T,
    /// The source that its spans belong to.
    pub source: Source,
    /// The message, for the paths of problems that are found later.
    name: &'static str,
    bytes: Vec<u8>,
}

impl<T> Part<T> {
    /// The path of the place `span` within the message.
    pub fn path(&self, span: Span) -> String {
        to_tree(self.name, &self.bytes).map(|tree| path(&tree, span.start)).unwrap_or_default()
    }

    /// The problems that `report` names, with their paths within this message.
    pub fn problems(&self, report: &Report) -> Vec<Problem> {
        let tree = to_tree(self.name, &self.bytes).ok();
        problems(report, tree.as_ref())
    }
}

fn problems(report: &Report, tree: Option<&Tree<'_>>) -> Vec<Problem> {
    let diagnostics = report.diagnostics().iter();
    diagnostics
        .map(|diagnostic| Problem {
            code: diagnostic.code.name(),
            message: diagnostic.message.clone(),
            help: diagnostic.help.clone().unwrap_or_default(),
            field: diagnostic
                .labels
                .first()
                .and_then(|label| tree.map(|tree| path(tree, label.span.start)))
                .unwrap_or_default(),
            is_warning: diagnostic.severity != crate::Severity::Error,
        })
        .collect()
}

/// The name under which values from messages are known to diagnostics.
const SOURCE: &str = "<request>";

fn read<M: Message, T>(
    name: &'static str,
    message: &M,
    decode: impl FnOnce(&mut Decoder<'_>, &Tree<'_>) -> Option<T>,
) -> Result<Part<T>, ReadError> {
    let bytes = message.encode_to_vec();
    let source = request_source();
    let tree = to_tree(name, &bytes).map_err(ReadError::Form)?;
    let mut decoder = Decoder::new(&source);
    let value = decode(&mut decoder, &tree);
    match value {
        Some(value) if decoder.report.is_empty() => Ok(Part { value, source, name, bytes }),
        _ => Err(ReadError::Content(problems(&decoder.report, Some(&tree)))),
    }
}

/// The source of everything that is read from messages; made once, since a transaction has many.
fn request_source() -> Source {
    static SOURCES: std::sync::OnceLock<Source> = std::sync::OnceLock::new();
    SOURCES.get_or_init(|| Source::new(SOURCE, "")).clone()
}

fn name_tree(name: &str) -> Tree<'_> {
    Tree { span: Span::default(), node: Node::Scalar { text: name.into(), plain: true } }
}

/// `text` as a name of an object.
pub fn name(text: &str) -> Result<Name, ReadError> {
    let source = request_source();
    let mut decoder = Decoder::new(&source);
    match decoder.name(&name_tree(text)) {
        Some(name) => Ok(name.value),
        None => Err(ReadError::Content(problems(&decoder.report, None))),
    }
}

/// A port called `name`; its layers are not looked at.
pub fn port(name: &str, port: &super::v1::Port) -> Result<Part<document::Port>, ReadError> {
    let name = At::new(self::name(name)?, Span::default());
    read("Port", port, |decoder, tree| decoder.port(name, tree))
}

/// A layer with its groups and rules.
pub fn layer(layer: &super::v1::Layer) -> Result<Part<document::Layer>, ReadError> {
    read("Layer", layer, |decoder, tree| decoder.layer(tree))
}

/// A group with its rules.
pub fn group(group: &super::v1::Group) -> Result<Part<document::Group>, ReadError> {
    read("Group", group, |decoder, tree| decoder.group(tree))
}

/// A rule.
pub fn rule(rule: &super::v1::Rule) -> Result<Part<document::Rule>, ReadError> {
    read("Rule", rule, |decoder, tree| decoder.rule(tree))
}

/// A mapping table called `name`.
pub fn mapping(name: &str, mapping: &super::v1::Mapping) -> Result<Part<document::Mapping>, ReadError> {
    let name = At::new(self::name(name)?, Span::default());
    read("Mapping", mapping, |decoder, tree| decoder.mapping(name, tree))
}

/// An entry of a mapping table.
pub fn mapping_entry(entry: &super::v1::MappingEntry) -> Result<Part<document::MappingEntry>, ReadError> {
    read("MappingEntry", entry, |decoder, tree| decoder.mapping_entry(tree))
}

/// A target set called `name`.
pub fn targets(name: &str, targets: &super::v1::TargetSet) -> Result<Part<document::TargetSet>, ReadError> {
    let name = At::new(self::name(name)?, Span::default());
    read("TargetSet", targets, |decoder, tree| Some(decoder.target_set(name, tree)))
}

/// A prefix set called `name`.
pub fn prefixes(name: &str, prefixes: &super::v1::PrefixSet) -> Result<Part<document::PrefixSet>, ReadError> {
    let name = At::new(self::name(name)?, Span::default());
    read("PrefixSet", prefixes, |decoder, tree| Some(decoder.prefix_set(name, tree)))
}

/// A meter called `name`.
pub fn meter(name: &str, meter: &super::v1::Meter) -> Result<Part<document::Meter>, ReadError> {
    let name = At::new(self::name(name)?, Span::default());
    read("Meter", meter, |decoder, tree| decoder.meter(name, tree))
}

/// A lease table called `name`.
pub fn leases(name: &str, table: &super::v1::LeaseTable) -> Result<Part<document::LeaseTable>, ReadError> {
    let name = At::new(self::name(name)?, Span::default());
    read("LeaseTable", table, |decoder, tree| Some(decoder.lease_table(name, tree)))
}

/// A table of domain names called `name`.
pub fn dns(name: &str, table: &super::v1::DnsTable) -> Result<Part<document::DnsTable>, ReadError> {
    let name = At::new(self::name(name)?, Span::default());
    read("DnsTable", table, |decoder, tree| decoder.dns_table(name, tree))
}

/// A limit called `name`.
pub fn limit(name: &str, limit: &super::v1::RateLimit) -> Result<Part<document::Limit>, ReadError> {
    let name = At::new(self::name(name)?, Span::default());
    read("RateLimit", limit, |decoder, tree| decoder.limit(name, tree))
}

/// A whole document.
pub fn whole(document: &super::v1::Document) -> Result<Part<document::Document>, ReadError> {
    read("Document", document, |decoder, tree| decoder.document(tree))
}

/// The message form of the policy document in `source`: clients take the operations that they send from it.
pub fn document(source: &Source) -> Result<super::v1::Document, Report> {
    crate::document::parse(&source.name, &source.text)?;
    document_in(source, &Tree::read(source)?)
}

/// The message form of the policy document that is `tree`, a part of `source`, and was read without a mistake.
pub(crate) fn document_in(source: &Source, tree: &Tree<'_>) -> Result<super::v1::Document, Report> {
    let message = super::text::to_bytes("Document", tree).and_then(|bytes| {
        super::v1::Document::decode(&*bytes).map_err(|error| FormError {
            message: error.to_string(),
            help: "this is a fault of this program: please report it".into(),
        })
    });
    message.map_err(|FormError { message, help }| {
        let mut report = Report::new();
        report.push(Diagnostic::error(Code::WrongType, source, Span::default(), message).help(help));
        report
    })
}

/// The message form of one object, whose YAML form is in `source`: what [`super::to_yaml`] wrote, changed by a person.
/// `object` names it; the bytes are those of the message that its kind has in the contract.
pub fn object(object: &super::v1::Ref, source: &Source) -> Result<Vec<u8>, Report> {
    let tree = Tree::read(source)?;
    let mut decoder = Decoder::new(source);
    let name = At::new(Name::from(&*object.name), Span::default());
    let message = message_of(object.kind());
    // The values are not kept: they are asked for the mistakes that a person can have made.
    match object.kind() {
        Kind::Port => drop(decoder.port(name, &tree)),
        Kind::Layer => drop(decoder.layer(&tree)),
        Kind::Group => drop(decoder.group(&tree)),
        Kind::Rule => drop(decoder.rule(&tree)),
        Kind::Mapping => drop(decoder.mapping(name, &tree)),
        Kind::MappingEntry => drop(decoder.mapping_entry(&tree)),
        Kind::Targets => drop(decoder.target_set(name, &tree)),
        Kind::Prefixes => drop(decoder.prefix_set(name, &tree)),
        Kind::Meter => drop(decoder.meter(name, &tree)),
        Kind::Limit => drop(decoder.limit(name, &tree)),
        Kind::Leases => drop(decoder.lease_table(name, &tree)),
        Kind::Dns => drop(decoder.dns_table(name, &tree)),
        Kind::Multicast => {
            if let Some(fields) = decoder.fields(&tree, "the multicast set", &["ports"])
                && let Some(ports) = fields.optional("ports")
            {
                drop(decoder.names(ports, "port names"));
            }
        }
        Kind::Metadata | Kind::Unspecified => {}
    }
    if !decoder.report.is_empty() {
        decoder.report.sort();
        return Err(decoder.report);
    }
    super::text::to_bytes(message, &tree).map_err(|FormError { message, help }| {
        Report::from(Diagnostic::error(Code::WrongType, source, Span::default(), message).help(help))
    })
}

/// The name of the message that says what an object of `kind` is.
pub fn message_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Port => "Port",
        Kind::Layer => "Layer",
        Kind::Group => "Group",
        Kind::Rule => "Rule",
        Kind::Mapping => "Mapping",
        Kind::MappingEntry => "MappingEntry",
        Kind::Targets => "TargetSet",
        Kind::Prefixes => "PrefixSet",
        Kind::Meter => "Meter",
        Kind::Limit => "RateLimit",
        Kind::Leases => "LeaseTable",
        Kind::Dns => "DnsTable",
        Kind::Multicast => "Multicast",
        Kind::Metadata | Kind::Unspecified => "Nothing",
    }
}
