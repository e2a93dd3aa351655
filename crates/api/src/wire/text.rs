//! From message bytes to a document's tree, and back.
//!
//! Both walks follow the contract's descriptors (the module `schema`). They check the form only: that a key is one of the
//! message's, that a number is a number. What a value means is read from the tree by the same decoder that reads
//! policy files, so a mistake is worded the same wherever it comes from.

use std::borrow::Cow;

use super::schema::{Field, FieldKind, MessageId, Schema, Shape};
use crate::decode::parse_number;
use crate::source::Span;
use crate::tree::{Node, Tree, shortened};

/// The deepest nesting of messages.
const MAX_DEPTH: usize = 32;

/// Why bytes are no message of the contract, or a tree no message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FormError {
    /// One sentence.
    pub message: String,
    /// What to do.
    pub help: String,
}

impl FormError {
    fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        FormError { message: message.into(), help: help.into() }
    }
}

impl std::fmt::Display for FormError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; {}", self.message, self.help)
    }
}

impl std::error::Error for FormError {}

/// The tree of the `message` (a name of the contract) in `bytes`. The nodes are numbered from 1: a span's start is its
/// node's number, by which [`path`] finds the node's place.
pub(crate) fn to_tree<'b>(message: &str, bytes: &'b [u8]) -> Result<Tree<'b>, FormError> {
    let schema = Schema::get();
    let id = schema.find(message).ok_or_else(|| {
        FormError::new(format!("there is no message `{message}`"), "this is a fault of this program")
    })?;
    Reader { schema, next: 0 }.message(id, bytes, 0)
}

/// The place of the node with number `number` below `tree`, as keys joined by dots; empty for the tree itself.
pub(crate) fn path(tree: &Tree<'_>, number: u32) -> String {
    fn find(tree: &Tree<'_>, number: u32, path: &mut Vec<String>) -> bool {
        if tree.span.start == number {
            return true;
        }
        match &tree.node {
            Node::List(items) => items.iter().enumerate().any(|(index, item)| {
                path.push(index.to_string());
                let found = find(item, number, path);
                if !found {
                    path.pop();
                }
                found
            }),
            Node::Map(entries) => entries.iter().any(|(key, value)| {
                let Node::Scalar { text, .. } = &key.node else { return false };
                path.push(text.to_string());
                let found = key.span.start == number || find(value, number, path);
                if !found {
                    path.pop();
                }
                found
            }),
            Node::Empty | Node::Scalar { .. } => false,
        }
    }
    let mut parts = Vec::new();
    find(tree, number, &mut parts);
    parts.join(".")
}

struct Reader {
    schema: &'static Schema,
    next: u32,
}

/// What a tag announces.
enum Wire<'b> {
    Varint(u64),
    Bytes(&'b [u8]),
}

impl Reader {
    fn node<'b>(&mut self, node: Node<'b>) -> Tree<'b> {
        self.next += 1;
        Tree { span: Span::new(self.next, self.next), node }
    }

    fn scalar<'b>(&mut self, text: impl Into<Cow<'b, str>>) -> Tree<'b> {
        self.node(Node::Scalar { text: text.into(), plain: true })
    }

    fn message<'b>(&mut self, id: MessageId, bytes: &'b [u8], depth: usize) -> Result<Tree<'b>, FormError> {
        let schema = self.schema;
        let message = schema.message(id);
        if depth > MAX_DEPTH {
            return Err(FormError::new("messages are nested too deeply", "leave some out"));
        }
        let mut entries: Vec<(usize, Tree<'b>)> = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let (number, wire) = read_field(&mut rest)?;
            let Some(field) = message.by_number(number) else {
                return Err(FormError::new(
                    format!("`{}` has no field {number} in this build", message.name),
                    "the client is newer than the daemon: do without the field, or upgrade the daemon",
                ));
            };
            // The index of the field, which names its key.
            let index = message.fields.iter().position(|other| other.number == number).unwrap_or(0);
            let place = entries.iter().position(|(other, _)| *other == index);
            match (field.kind, wire) {
                (FieldKind::Map(entry), Wire::Bytes(bytes)) => {
                    let (key, value) = self.map_entry(entry, bytes, depth)?;
                    let place = place.unwrap_or_else(|| {
                        entries.push((index, self.node(Node::Map(Vec::new()))));
                        entries.len() - 1
                    });
                    if let Node::Map(map) = &mut entries[place].1.node {
                        map.push((key, value));
                    }
                }
                (kind, Wire::Bytes(mut packed)) if field.is_repeated && is_number(kind) => {
                    while !packed.is_empty() {
                        let value = Wire::Varint(read_varint(&mut packed)?);
                        let value = self.value(field, value, depth)?;
                        self.append(&mut entries, index, value);
                    }
                }
                (_, wire) => {
                    let value = self.value(field, wire, depth)?;
                    if field.is_repeated {
                        self.append(&mut entries, index, value);
                    } else if let Some(place) = place {
                        // The last one counts, says protobuf.
                        entries[place].1 = value;
                    } else {
                        entries.push((index, value));
                    }
                }
            }
        }
        let is_empty_message =
            |tree: &Tree<'_>| matches!(&tree.node, Node::Map(entries) if entries.is_empty());
        match (message.shape, &mut entries[..]) {
            (Shape::List, []) => Ok(self.node(Node::List(Vec::new()))),
            (Shape::List, [(_, only)]) => {
                let node = std::mem::replace(&mut only.node, Node::Empty);
                Ok(self.node(node))
            }
            (Shape::OrScalar(scalar), [(index, only)]) if *index == scalar => {
                let node = std::mem::replace(&mut only.node, Node::Empty);
                Ok(self.node(node))
            }
            (Shape::OrWord(word), []) => Ok(self.scalar(word)),
            (Shape::Map, [(index, only)]) if message.fields[*index].is_choice && is_empty_message(only) => {
                Ok(self.scalar(message.fields[*index].key.as_str()))
            }
            _ => {
                let entries = entries
                    .into_iter()
                    .map(|(index, value)| (self.scalar(message.fields[index].key.as_str()), value))
                    .collect();
                Ok(self.node(Node::Map(entries)))
            }
        }
    }

    fn append<'b>(&mut self, entries: &mut Vec<(usize, Tree<'b>)>, index: usize, value: Tree<'b>) {
        match entries.iter_mut().find(|(other, _)| *other == index) {
            Some((_, Tree { node: Node::List(items), .. })) => items.push(value),
            _ => {
                let list = self.node(Node::List(vec![value]));
                entries.push((index, list));
            }
        }
    }

    fn value<'b>(&mut self, field: &Field, wire: Wire<'b>, depth: usize) -> Result<Tree<'b>, FormError> {
        match (field.kind, wire) {
            (FieldKind::Text, Wire::Bytes(bytes)) => match std::str::from_utf8(bytes) {
                Ok(text) => Ok(self.scalar(text)),
                Err(_) => Err(FormError::new(format!("`{}` is not UTF-8", field.key), "send UTF-8 text")),
            },
            (FieldKind::Message(id), Wire::Bytes(bytes)) => self.message(id, bytes, depth + 1),
            (FieldKind::Unsigned(32), Wire::Varint(value)) => Ok(self.scalar((value as u32).to_string())),
            (FieldKind::Unsigned(_), Wire::Varint(value)) => Ok(self.scalar(value.to_string())),
            (FieldKind::Signed, Wire::Varint(value)) => Ok(self.scalar((value as i32).to_string())),
            (FieldKind::Boolean, Wire::Varint(value)) => {
                Ok(self.scalar(if value != 0 { "true" } else { "false" }))
            }
            _ => Err(FormError::new(
                format!("`{}` is sent as another type than the contract's", field.key),
                "generate the client anew from the protobuf files",
            )),
        }
    }

    fn map_entry<'b>(
        &mut self,
        entry: MessageId,
        bytes: &'b [u8],
        depth: usize,
    ) -> Result<(Tree<'b>, Tree<'b>), FormError> {
        let schema = self.schema;
        let message = schema.message(entry);
        let (mut key, mut value) = (None, None);
        let mut rest = bytes;
        while !rest.is_empty() {
            let (number, wire) = read_field(&mut rest)?;
            match message.by_number(number) {
                Some(field) if number == 1 => key = Some(self.value(field, wire, depth)?),
                Some(field) => value = Some(self.value(field, wire, depth)?),
                None => {}
            }
        }
        let key = match key {
            Some(key) => key,
            None => self.scalar(""),
        };
        let value = match (value, message.by_number(2)) {
            (Some(value), _) => value,
            (None, Some(Field { kind: FieldKind::Message(id), .. })) => self.message(*id, &[], depth + 1)?,
            (None, _) => self.scalar("0"),
        };
        Ok((key, value))
    }
}

fn is_number(kind: FieldKind) -> bool {
    matches!(kind, FieldKind::Unsigned(_) | FieldKind::Signed | FieldKind::Boolean)
}

fn cut_short() -> FormError {
    FormError::new("the message is cut short", "send it whole")
}

fn read_field<'b>(rest: &mut &'b [u8]) -> Result<(u32, Wire<'b>), FormError> {
    let tag = read_varint(rest)?;
    let number = u32::try_from(tag >> 3).map_err(|_| cut_short())?;
    let wire = match tag & 7 {
        0 => Wire::Varint(read_varint(rest)?),
        2 => {
            let length = usize::try_from(read_varint(rest)?).map_err(|_| cut_short())?;
            let (bytes, after) = rest.split_at_checked(length).ok_or_else(cut_short)?;
            *rest = after;
            Wire::Bytes(bytes)
        }
        other => {
            return Err(FormError::new(
                format!("wire type {other} of field {number} is none of the contract's"),
                "generate the client anew from the protobuf files",
            ));
        }
    };
    Ok((number, wire))
}

fn read_varint(rest: &mut &[u8]) -> Result<u64, FormError> {
    let mut value = 0u64;
    for (index, byte) in rest.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            *rest = &rest[index + 1..];
            return Ok(value);
        }
    }
    Err(cut_short())
}

/// The bytes of the `message` (a name of the contract) that `tree` says. `tree` must be a correct document: what the
/// document's decoder would refuse gets a shorter error here.
pub(crate) fn to_bytes(message: &str, tree: &Tree<'_>) -> Result<Vec<u8>, FormError> {
    let schema = Schema::get();
    let id = schema.find(message).ok_or_else(|| {
        FormError::new(format!("there is no message `{message}`"), "this is a fault of this program")
    })?;
    let mut bytes = Vec::new();
    Writer { schema }.message(id, tree, &mut bytes)?;
    Ok(bytes)
}

struct Writer {
    schema: &'static Schema,
}

impl Writer {
    fn message(&self, id: MessageId, tree: &Tree<'_>, out: &mut Vec<u8>) -> Result<(), FormError> {
        let message = self.schema.message(id);
        let unlike = || {
            FormError::new(
                format!("{} cannot be said as a `{}` of the API", tree.kind(), message.name),
                "see docs/reference/api.md for the shapes that it knows",
            )
        };
        match (&tree.node, message.shape) {
            (Node::Empty, _) => Ok(()),
            (Node::List(items), Shape::List) => {
                items.iter().try_for_each(|item| self.value(&message.fields[0], item, out))
            }
            (Node::Scalar { text, plain: true }, Shape::List) if text == "none" => Ok(()),
            (_, Shape::List) => self.value(&message.fields[0], tree, out),
            (Node::Map(entries), _) => entries.iter().try_for_each(|(key, value)| {
                let Node::Scalar { text, .. } = &key.node else { return Err(unlike()) };
                let field = message.by_key(text).ok_or_else(|| {
                    FormError::new(
                        format!("`{}` has no field `{}` in the API", message.name, shortened(text)),
                        "see docs/reference/api.md for those that it has",
                    )
                })?;
                self.field(field, value, out)
            }),
            (Node::Scalar { text, .. }, Shape::OrWord(word)) if text == word => Ok(()),
            (Node::Scalar { .. }, Shape::OrBoth) => {
                message.fields.iter().try_for_each(|field| self.value(field, tree, out))
            }
            (Node::Scalar { text, .. }, shape) => match (message.by_key(text), shape) {
                (Some(field), _) if field.is_choice => match field.kind {
                    FieldKind::Message(_) => {
                        write_bytes(out, field.number, &[]);
                        Ok(())
                    }
                    FieldKind::Unsigned(_) => {
                        write_varint_field(out, field.number, 1);
                        Ok(())
                    }
                    _ => Err(unlike()),
                },
                (_, Shape::OrScalar(index)) => self.value(&message.fields[index], tree, out),
                _ => Err(unlike()),
            },
            (Node::List(_), _) => Err(unlike()),
        }
    }

    /// A field with everything that the document says under its key.
    fn field(&self, field: &Field, tree: &Tree<'_>, out: &mut Vec<u8>) -> Result<(), FormError> {
        match (field.kind, &tree.node) {
            (FieldKind::Map(entry), Node::Map(entries)) => {
                let message = self.schema.message(entry);
                for (key, value) in entries {
                    let mut bytes = Vec::new();
                    for (field, tree) in message.fields.iter().zip([key, value]) {
                        self.value(field, tree, &mut bytes)?;
                    }
                    write_bytes(out, field.number, &bytes);
                }
                Ok(())
            }
            (_, Node::Empty) if !matches!(field.kind, FieldKind::Message(_)) => Ok(()),
            (FieldKind::Message(id), Node::Scalar { text, .. })
                if self.schema.message(id).shape == Shape::OrWord("true") && text == "false" =>
            {
                Ok(())
            }
            (_, Node::List(items)) if field.is_repeated => {
                items.iter().try_for_each(|item| self.value(field, item, out))
            }
            _ => self.value(field, tree, out),
        }
    }

    /// One value of a field.
    fn value(&self, field: &Field, tree: &Tree<'_>, out: &mut Vec<u8>) -> Result<(), FormError> {
        if let FieldKind::Message(id) = field.kind {
            let mut bytes = Vec::new();
            self.message(id, tree, &mut bytes)?;
            write_bytes(out, field.number, &bytes);
            return Ok(());
        }
        let unlike = || {
            FormError::new(
                format!("{} is no value of `{}` in the API", tree.kind(), field.key),
                "see docs/reference/api.md for its type",
            )
        };
        let Node::Scalar { text, .. } = &tree.node else { return Err(unlike()) };
        match field.kind {
            FieldKind::Text => write_bytes(out, field.number, text.as_bytes()),
            FieldKind::Boolean => {
                let value = match &**text {
                    "true" => 1,
                    "false" => 0,
                    _ => return Err(unlike()),
                };
                write_varint_field(out, field.number, value);
            }
            FieldKind::Unsigned(bits) => {
                let number = parse_number(text).and_then(|number| u64::try_from(number).ok());
                let number = number.filter(|number| bits == 64 || *number <= u64::from(u32::MAX));
                write_varint_field(out, field.number, number.ok_or_else(unlike)?);
            }
            FieldKind::Signed => {
                let number = parse_number(text).and_then(|number| i32::try_from(number).ok());
                // Negative numbers are sign-extended to 64 bits.
                write_varint_field(out, field.number, i64::from(number.ok_or_else(unlike)?) as u64);
            }
            FieldKind::Bytes | FieldKind::Message(_) | FieldKind::Map(_) | FieldKind::Enumeration => {
                return Err(unlike());
            }
        }
        Ok(())
    }
}

fn write_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn write_varint_field(out: &mut Vec<u8>, number: u32, value: u64) {
    write_varint(out, u64::from(number) << 3);
    write_varint(out, value);
}

fn write_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    write_varint(out, u64::from(number) << 3 | 2);
    write_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}
