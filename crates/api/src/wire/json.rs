//! The JSON form of objects: the document's form, key for key.

use serde_json::{Map, Value};

use super::text::{FormError, to_tree};
use crate::decode::parse_number;
use crate::tree::{Node, Tree};

/// The JSON of the policy `message` (a name of the contract) in `bytes`, as a policy document would say it.
pub fn to_json(message: &str, bytes: &[u8]) -> Result<Value, FormError> {
    Ok(value(&to_tree(message, bytes)?))
}

fn value(tree: &Tree<'_>) -> Value {
    match &tree.node {
        Node::Empty => Value::Null,
        Node::Scalar { text, .. } => scalar(text),
        Node::List(items) => Value::Array(items.iter().map(value).collect()),
        Node::Map(entries) => {
            let mut map = Map::new();
            for (key, tree) in entries {
                if let Node::Scalar { text, .. } = &key.node {
                    map.insert(text.to_string(), value(tree));
                }
            }
            Value::Object(map)
        }
    }
}

/// Numbers and booleans as such, so that they read back as what they were.
fn scalar(text: &str) -> Value {
    match text {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        _ => match parse_number(text).filter(|_| !text.starts_with("0x")) {
            Some(number) if number.to_string() == text => {
                i64::try_from(number).map_or_else(|_| Value::from(text), Value::from)
            }
            _ => Value::from(text),
        },
    }
}
