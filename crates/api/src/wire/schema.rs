//! The contract's descriptors, as tables that a walk over a message can use.
//!
//! Theory. Protobuf bytes carry field numbers, documents carry keys. A descriptor knows both: field `flow_limit`
//! number 5 of `Layer` is the key `flow-limit`. So one walk over bytes with the descriptor at hand yields the
//! document's tree, and one walk over the tree yields the bytes. A few shapes of documents are shorter than the
//! messages behind them; each is one line in [`Shape`].

use std::collections::HashMap;
use std::sync::OnceLock;

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FileDescriptorSet};

/// The index of a message in [`Schema::messages`].
pub(super) type MessageId = usize;

/// Every message of the contract.
#[derive(Debug)]
pub(super) struct Schema {
    messages: Vec<Message>,
    names: HashMap<String, MessageId>,
}

/// A message.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) name: String,
    /// In the order of the contract.
    pub(super) fields: Vec<Field>,
    pub(super) shape: Shape,
}

/// A field of a message.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) number: u32,
    /// Its key in documents.
    pub(super) key: String,
    pub(super) kind: FieldKind,
    pub(super) is_repeated: bool,
    /// A member of a `oneof`.
    pub(super) is_choice: bool,
}

/// What a field holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FieldKind {
    /// A text.
    Text,
    /// Bytes; they have no place in documents.
    Bytes,
    /// A number without sign, of so many bits.
    Unsigned(u32),
    /// An `int32`.
    Signed,
    /// `true` or `false`.
    Boolean,
    /// Another message.
    Message(MessageId),
    /// A map: the message of its entries, key 1 and value 2.
    Map(MessageId),
    /// An enumeration; it has no place in documents.
    Enumeration,
}

/// How a message is written in documents.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shape {
    /// A map with a key for each field that is set. A bare word stands for the choice of that name with nothing said
    /// about it.
    Map,
    /// A map, or this word for none of its fields set.
    OrWord(&'static str),
    /// No fields; as a field's value an empty map.
    Nothing,
    /// One repeated field called `values`: a list; a single item may stand alone.
    List,
    /// A map, or one scalar: the value of this field (an index).
    OrScalar(usize),
    /// A map, or one scalar: the value of both its fields.
    OrBoth,
}

/// Messages that may be written as the one scalar that their field of this name holds.
const SCALARS: [(&str, &str); 6] = [
    ("MacSource", "mac"),
    ("VlanTag", "id"),
    ("TimeToLive", "set"),
    ("AdvertisedPrefix", "prefix"),
    ("AdvertisedRoute", "to"),
    ("Limiter", "name"),
];
/// Messages that a word is short for.
const WORDS: [(&str, &str); 2] = [("Stateful", "true"), ("Guard", "strict")];
/// Messages whose scalar form stands for all of their fields.
const BOTH: [&str; 1] = ["LayerDefault"];
/// Messages whose keys have a dot where the contract has the first underscore: names of header fields.
const DOTTED: [&str; 1] = ["ModifyHeader"];

impl Schema {
    /// The contract of this build.
    pub(super) fn get() -> &'static Schema {
        static SCHEMA: OnceLock<Schema> = OnceLock::new();
        SCHEMA.get_or_init(|| {
            let bytes = include_bytes!(concat!(env!("OUT_DIR"), "/lamina.descriptors"));
            // The build script wrote these bytes from the same library; a unit test reads them.
            Schema::new(&FileDescriptorSet::decode(&bytes[..]).unwrap_or_default())
        })
    }

    fn new(files: &FileDescriptorSet) -> Schema {
        let mut all: Vec<(String, &DescriptorProto)> = Vec::new();
        for file in &files.file {
            for message in &file.message_type {
                collect(&format!(".{}", file.package()), message, &mut all);
            }
        }
        let names: HashMap<String, MessageId> =
            all.iter().enumerate().map(|(id, (name, _))| (name.clone(), id)).collect();
        let messages = all.iter().map(|(_, message)| Message::new(message, &names, &all)).collect();
        Schema { messages, names }
    }

    /// The message called `name`, without its package.
    pub(super) fn find(&self, name: &str) -> Option<MessageId> {
        self.names.get(&format!(".lamina.v1.{name}")).copied()
    }

    pub(super) fn message(&self, id: MessageId) -> &Message {
        &self.messages[id]
    }
}

fn collect<'d>(package: &str, message: &'d DescriptorProto, all: &mut Vec<(String, &'d DescriptorProto)>) {
    let name = format!("{package}.{}", message.name());
    for nested in &message.nested_type {
        collect(&name, nested, all);
    }
    all.push((name, message));
}

impl Message {
    fn new(
        message: &DescriptorProto,
        names: &HashMap<String, MessageId>,
        all: &[(String, &DescriptorProto)],
    ) -> Message {
        let name = message.name().to_string();
        let is_dotted = DOTTED.contains(&message.name());
        let fields: Vec<Field> = message
            .field
            .iter()
            .map(|field| {
                let target = names.get(field.type_name()).copied();
                let is_map = target
                    .is_some_and(|id| all[id].1.options.as_ref().is_some_and(|options| options.map_entry()));
                let kind = match (field.r#type(), target) {
                    (Type::Message, Some(id)) if is_map => FieldKind::Map(id),
                    (Type::Message, Some(id)) => FieldKind::Message(id),
                    (Type::Uint32, _) => FieldKind::Unsigned(32),
                    (Type::Uint64, _) => FieldKind::Unsigned(64),
                    (Type::Int32, _) => FieldKind::Signed,
                    (Type::Bool, _) => FieldKind::Boolean,
                    (Type::Enum, _) => FieldKind::Enumeration,
                    (Type::String, _) => FieldKind::Text,
                    _ => FieldKind::Bytes,
                };
                let dashed = field.name().replace('_', "-");
                let key = if is_dotted { dashed.replacen('-', ".", 1) } else { dashed };
                Field {
                    number: field.number().unsigned_abs(),
                    key,
                    kind,
                    is_repeated: field.label() == Label::Repeated && !is_map,
                    is_choice: field.oneof_index.is_some() && !field.proto3_optional(),
                }
            })
            .collect();
        let scalar = SCALARS.iter().find(|(message, _)| *message == name);
        let shape = match (&fields[..], scalar) {
            ([], _) => Shape::Nothing,
            ([only], _) if only.is_repeated && only.key == "values" => Shape::List,
            (_, Some((_, key))) => {
                fields.iter().position(|field| field.key == *key).map_or(Shape::Map, Shape::OrScalar)
            }
            _ if BOTH.contains(&&*name) => Shape::OrBoth,
            _ => WORDS
                .iter()
                .find(|(message, _)| *message == name)
                .map_or(Shape::Map, |(_, word)| Shape::OrWord(word)),
        };
        Message { name, fields, shape }
    }

    pub(super) fn by_number(&self, number: u32) -> Option<&Field> {
        // Mostly in order and mostly few.
        self.fields.iter().find(|field| field.number == number)
    }

    pub(super) fn by_key(&self, key: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.key == key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_message_is_there_with_its_shape() {
        let schema = Schema::get();
        let shape = |name: &str| schema.message(schema.find(name).unwrap()).shape;
        assert_eq!(shape("Nothing"), Shape::Nothing);
        assert_eq!(shape("Values"), Shape::List);
        assert_eq!(shape("TargetSet"), Shape::List);
        assert_eq!(shape("LayerDefault"), Shape::OrBoth);
        assert_eq!(shape("MacSource"), Shape::OrScalar(0));
        assert_eq!(shape("Rule"), Shape::Map);
        let modify = schema.message(schema.find("ModifyHeader").unwrap());
        assert!(modify.by_key("arp.sender-mac").is_some_and(|field| field.number == 10));
    }

    #[test]
    fn what_documents_can_say_has_only_kinds_that_documents_know() {
        let schema = Schema::get();
        let mut open = vec![schema.find("Document").unwrap()];
        let mut seen = Vec::new();
        while let Some(id) = open.pop() {
            if seen.contains(&id) {
                continue;
            }
            seen.push(id);
            let message = schema.message(id);
            for field in &message.fields {
                let place = format!("{}.{}", message.name, field.key);
                assert!(!matches!(field.kind, FieldKind::Bytes | FieldKind::Enumeration), "{place}");
                match field.kind {
                    FieldKind::Message(next) | FieldKind::Map(next) => open.push(next),
                    _ => {}
                }
            }
        }
        assert!(seen.len() > 30, "{}", seen.len());
    }
}
