//! YAML as a tree of places: the step between text and document.
//!
//! A derived `Deserialize` stops at its first error, refuses duplicate keys with one place only, and has lost
//! the way a scalar was written. A person who made three mistakes wants to see three, each with its place and
//! what to do. So the events of the YAML parser become a tree whose every node carries its span, and the
//! document is decoded from the tree by code that goes on after an error. Scalars stay text here: whether `10`
//! or `02:00` is a number is for the field that holds it to say, not for YAML.
//!
//! Memory is in proportion to the text: aliases copy at most [`MAX_COPIED`] nodes, and nesting ends at
//! [`MAX_DEPTH`], so a small text cannot ask for much of either.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, ScanError, Span as YamlSpan};

use crate::diagnostic::{Code, Diagnostic};
use crate::source::{Source, Span};

/// The most nodes that the anchors and aliases of one document may copy.
pub(crate) const MAX_COPIED: usize = 2_000_000;
/// The deepest nesting.
pub(crate) const MAX_DEPTH: usize = 48;

/// A node and its place.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Tree<'t> {
    pub(crate) span: Span,
    pub(crate) node: Node<'t>,
}

/// What a node is.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Node<'t> {
    /// Nothing: `key:` with nothing behind it, `~` or `null`.
    Empty,
    /// A scalar; `plain` when it was written without quotes, so that it may be a number or a boolean.
    Scalar { text: Cow<'t, str>, plain: bool },
    /// A list.
    List(Vec<Tree<'t>>),
    /// Keys and values in the order written, duplicates included.
    Map(Vec<(Tree<'t>, Tree<'t>)>),
}

impl<'t> Tree<'t> {
    /// Reads the one YAML document of `source`.
    pub(crate) fn read(source: &'t Source) -> Result<Tree<'t>, Box<Diagnostic>> {
        if source.text.len() >= u32::MAX as usize {
            let whole =
                Diagnostic::error(Code::Syntax, source, Span::default(), "the file is larger than 4 GiB");
            return Err(Box::new(whole.help("split it into several files")));
        }
        let mut builder =
            Builder { source, open: Vec::new(), anchors: HashMap::new(), copied: 0, root: None };
        let mut documents = 0;
        for event in Parser::new_from_str(&source.text) {
            let (event, span) = event.map_err(|error| Box::new(builder.scan_error(&error)))?;
            if matches!(event, Event::DocumentStart(..)) {
                documents += 1;
                if documents > 1 {
                    let second = builder.error(place(&span), "a second YAML document starts here");
                    return Err(Box::new(
                        second.help("write one document per file; several files can be given at once"),
                    ));
                }
            }
            builder.event(event, place(&span))?;
        }
        Ok(builder.root.unwrap_or(Tree { span: Span::default(), node: Node::Empty }))
    }

    /// What a person would call the node, for messages.
    pub(crate) fn kind(&self) -> String {
        match &self.node {
            Node::Empty => "nothing".into(),
            Node::Scalar { text, plain: true } => format!("`{}`", shortened(text)),
            Node::Scalar { text, plain: false } => format!("the text \"{}\"", shortened(text)),
            Node::List(_) => "a list".into(),
            Node::Map(_) => "a map".into(),
        }
    }

    /// How many nodes there are, this one included.
    fn count(&self) -> usize {
        match &self.node {
            Node::Empty | Node::Scalar { .. } => 1,
            Node::List(items) => 1 + items.iter().map(Tree::count).sum::<usize>(),
            Node::Map(entries) => {
                1 + entries.iter().map(|(key, value)| key.count() + value.count()).sum::<usize>()
            }
        }
    }
}

/// `text` cut to a length that fits a message.
pub(crate) fn shortened(text: &str) -> String {
    const LONGEST: usize = 40;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", text[..end].escape_debug()),
        None => text.escape_debug().to_string(),
    }
}

/// Collects events into nodes; `open` are the containers whose end has not come yet.
struct Builder<'t> {
    source: &'t Source,
    open: Vec<Open<'t>>,
    anchors: HashMap<usize, (usize, Tree<'t>)>,
    copied: usize,
    root: Option<Tree<'t>>,
}

/// A list or map that is being read.
struct Open<'t> {
    start: Span,
    anchor: usize,
    items: Vec<Tree<'t>>,
    is_map: bool,
}

impl<'t> Builder<'t> {
    fn event(&mut self, event: Event<'t>, span: Span) -> Result<(), Box<Diagnostic>> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let forced_text = match &tag {
                    None => false,
                    Some(tag) if tag.is_yaml_core_schema() && tag.suffix() == "str" => true,
                    Some(_) => return Err(Box::new(self.tagged(span))),
                };
                let plain = style == ScalarStyle::Plain && !forced_text;
                let empty = plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let node = if empty { Node::Empty } else { Node::Scalar { text, plain } };
                self.add(Tree { span, node }, anchor)
            }
            Event::SequenceStart(_, anchor, tag) | Event::MappingStart(_, anchor, tag) if tag.is_some() => {
                let _ = anchor;
                Err(Box::new(self.tagged(span)))
            }
            Event::SequenceStart(_, anchor, _) => self.open(span, anchor, false),
            Event::MappingStart(_, anchor, _) => self.open(span, anchor, true),
            Event::SequenceEnd | Event::MappingEnd => self.close(span),
            Event::Alias(id) => match self.anchors.get(&id) {
                Some((count, _)) => {
                    self.count_copy(*count, span)?;
                    let copy = self.anchors[&id].1.clone();
                    self.add(copy, 0)
                }
                None => Err(Box::new(self.error(span, "this alias is inside the value that it stands for"))),
            },
            _ => Ok(()),
        }
    }

    fn open(&mut self, start: Span, anchor: usize, is_map: bool) -> Result<(), Box<Diagnostic>> {
        if self.open.len() == MAX_DEPTH {
            return Err(Box::new(self.error(start, "the document is nested too deeply")));
        }
        self.open.push(Open { start, anchor, items: Vec::new(), is_map });
        Ok(())
    }

    fn close(&mut self, end: Span) -> Result<(), Box<Diagnostic>> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        // A container written in blocks ends where the next thing starts; its last item's end is what a person sees.
        let last = open.items.last().map_or(open.start, |item| item.span);
        let closed_by_bracket = matches!(self.source.slice(end), "]" | "}");
        let span = open.start.to(if closed_by_bracket { end } else { last });
        let node = if open.is_map {
            let mut entries = Vec::with_capacity(open.items.len() / 2);
            let mut items = open.items.into_iter();
            while let (Some(key), Some(value)) = (items.next(), items.next()) {
                entries.push((key, value));
            }
            Node::Map(entries)
        } else {
            Node::List(open.items)
        };
        self.add(Tree { span, node }, open.anchor)
    }

    fn add(&mut self, tree: Tree<'t>, anchor: usize) -> Result<(), Box<Diagnostic>> {
        if anchor != 0 {
            let count = tree.count();
            self.count_copy(count, tree.span)?;
            self.anchors.insert(anchor, (count, tree.clone()));
        }
        match self.open.last_mut() {
            Some(open) => open.items.push(tree),
            None => self.root = Some(tree),
        }
        Ok(())
    }

    fn count_copy(&mut self, nodes: usize, span: Span) -> Result<(), Box<Diagnostic>> {
        self.copied += nodes;
        if self.copied > MAX_COPIED {
            return Err(Box::new(
                self.error(span, "anchors and aliases copy too many values").help("write them out"),
            ));
        }
        Ok(())
    }

    fn tagged(&self, span: Span) -> Diagnostic {
        self.error(span, "YAML tags have no meaning in a policy").help("remove the tag")
    }

    fn error(&self, span: Span, message: &str) -> Diagnostic {
        Diagnostic::error(Code::Syntax, self.source, span, message)
    }

    fn scan_error(&self, error: &ScanError) -> Diagnostic {
        let at = error.marker().byte_offset().unwrap_or(0).min(self.source.text.len()) as u32;
        let mut diagnostic = self.error(Span::new(at, at), &format!("this is not YAML: {}", error.info()));
        if let Some(open) = self.open.last() {
            let (line, _) = self.source.position(open.start.start);
            diagnostic = diagnostic.help(format!("the list or map that is being read starts in line {line}"));
        }
        diagnostic
    }
}

fn place(span: &YamlSpan) -> Span {
    let start = span.start.byte_offset().unwrap_or(0) as u32;
    let end = span.end.byte_offset().unwrap_or(start as usize) as u32;
    Span::new(start, end.max(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::new("test.yaml", text)
    }

    #[test]
    fn every_node_knows_its_place() {
        let source = source("a: [1, \"zwei\"]\nbä:\n  c: x y\n");
        let tree = Tree::read(&source).unwrap();
        let Node::Map(entries) = &tree.node else { panic!("{tree:?}") };
        assert_eq!(source.slice(entries[0].0.span), "a");
        assert_eq!(source.slice(entries[0].1.span), "[1, \"zwei\"]");
        assert_eq!(source.slice(entries[1].0.span), "bä");
        let Node::Map(inner) = &entries[1].1.node else { panic!("{tree:?}") };
        assert_eq!(source.slice(inner[0].1.span), "x y");
        assert_eq!(source.slice(entries[1].1.span), "c: x y");
    }

    #[test]
    fn aliases_are_expanded_and_bounded() {
        let plain = source("a: &x [1, 2]\nb: *x\n");
        let tree = Tree::read(&plain).unwrap();
        let Node::Map(entries) = &tree.node else { panic!("{tree:?}") };
        assert_eq!(entries[0].1, entries[1].1);

        let mut bomb = String::from("l0: &l0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let one = format!("*l{}", level - 1);
            bomb += &format!("l{level}: &l{level} [{}]\n", vec![one; 10].join(", "));
        }
        let error = Tree::read(&source(&bomb)).unwrap_err();
        assert!(error.message.contains("copy too many"), "{}", error.message);
    }

    #[test]
    fn bad_yaml_is_an_error_with_a_place_and_never_a_panic() {
        for text in ["a: [1, 2", "a: b: c", "a: *b", "- a\nb: c", "\"", "a: !!int 5", "---\na\n---\nb\n"] {
            let error = Tree::read(&source(text)).unwrap_err();
            assert_eq!(error.code, Code::Syntax, "{text:?}");
            assert!(error.labels[0].span.end as usize <= text.len(), "{text:?}");
        }
        let deep = "[".repeat(500);
        assert!(Tree::read(&source(&deep)).is_err());
        assert_eq!(Tree::read(&source("")).unwrap().node, Node::Empty);
    }
}
