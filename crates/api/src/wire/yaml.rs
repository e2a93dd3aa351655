//! The YAML form of objects: the document's form, key for key, in the order of the contract.
//!
//! What is written here reads back as the same message. Short lists and maps stand in one line, as people write them;
//! a list of maps that do not fit is written in blocks.

use super::text::{FormError, to_tree};
use crate::tree::{Node, Tree};

/// The longest line that is written where breaking it is possible.
const WIDTH: usize = 100;

/// The YAML of the policy `message` (a name of the contract) in `bytes`, as a policy document would say it, with a
/// newline at its end. An object without fields is `{}`.
pub fn to_yaml(message: &str, bytes: &[u8]) -> Result<String, FormError> {
    let tree = to_tree(message, bytes)?;
    let mut out = String::new();
    block(&tree, 0, &mut out);
    Ok(out)
}

/// The same in one line without a newline, however long; an object without fields is `{}`.
pub fn to_line(message: &str, bytes: &[u8]) -> Result<String, FormError> {
    Ok(flow(&to_tree(message, bytes)?))
}

/// Writes `tree` as lines of its own, indented by `indent`.
fn block(tree: &Tree<'_>, indent: usize, out: &mut String) {
    match &tree.node {
        Node::Map(entries) if !entries.is_empty() => {
            for (key, value) in entries {
                spaces(indent, out);
                out.push_str(&flow(key));
                out.push(':');
                below(value, indent, out);
            }
        }
        Node::List(items) if !items.is_empty() => {
            for item in items {
                spaces(indent, out);
                out.push('-');
                if fits(item, indent + 2) {
                    out.push_str(&format!(" {}\n", flow(item)));
                } else {
                    let mut lines = String::new();
                    block(item, indent + 2, &mut lines);
                    // The item's first line stands behind the dash.
                    out.push_str(&lines[indent + 1..]);
                }
            }
        }
        _ => {
            spaces(indent, out);
            out.push_str(&flow(tree));
            out.push('\n');
        }
    }
}

/// Writes the value behind a key that is indented by `indent`.
fn below(value: &Tree<'_>, indent: usize, out: &mut String) {
    let line_start = out.rfind('\n').map_or(0, |newline| newline + 1);
    let column = out.len() - line_start + 1;
    if value.node == Node::Empty {
        out.push('\n');
    } else if fits(value, column) {
        out.push_str(&format!(" {}\n", flow(value)));
    } else {
        out.push('\n');
        block(value, indent + 2, out);
    }
}

fn spaces(count: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', count));
}

/// True when `tree` stands in one line that begins at `column`.
fn fits(tree: &Tree<'_>, column: usize) -> bool {
    match &tree.node {
        Node::Empty | Node::Scalar { .. } => true,
        Node::List(items) if items.is_empty() => true,
        Node::Map(entries) if entries.is_empty() => true,
        _ => !holds_records(tree) && column + flow(tree).len() <= WIDTH,
    }
}

/// True when a list of maps is somewhere below `tree`: those read better in lines.
fn holds_records(tree: &Tree<'_>) -> bool {
    match &tree.node {
        Node::Empty | Node::Scalar { .. } => false,
        Node::List(items) => {
            items.iter().any(|item| matches!(item.node, Node::Map(_)) || holds_records(item))
        }
        Node::Map(entries) => entries.iter().any(|(_, value)| holds_records(value)),
    }
}

/// `tree` in one line.
fn flow(tree: &Tree<'_>) -> String {
    match &tree.node {
        Node::Empty => "null".into(),
        Node::Scalar { text, .. } => scalar(text),
        Node::List(items) => {
            format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", "))
        }
        Node::Map(entries) if entries.is_empty() => "{}".into(),
        Node::Map(entries) => {
            let entries: Vec<_> =
                entries.iter().map(|(key, value)| format!("{}: {}", flow(key), flow(value))).collect();
            format!("{{ {} }}", entries.join(", "))
        }
    }
}

/// `text` as it is where YAML leaves it alone everywhere, else in quotes. A MAC gets quotes too: other readers take it
/// for a number to the base of 60.
fn scalar(text: &str) -> String {
    let starts_plain = text.starts_with(|c: char| c.is_ascii_alphanumeric() || "$+/_.".contains(c))
        || text.strip_prefix('-').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    let is_plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "._/+$@-".contains(c));
    let is_null = matches!(text, "null" | "Null" | "NULL");
    if starts_plain && is_plain && !is_null {
        return text.into();
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                quoted.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::super::{read, v1};
    use super::*;
    use crate::source::Source;

    fn read_back(text: &str) -> v1::Document {
        read::document(&Source::new("t", text)).unwrap_or_else(|report| panic!("{text}\n{report}"))
    }

    #[test]
    fn short_things_stand_in_a_line_and_long_ones_in_lines() {
        let text = "version: 1\nports: { vm1: { mac: \"02:00:00:00:00:01\", layers: [ { name: acl, priority: 20, default: { inbound: block }, inbound: [ { group: web, rules: [ { name: open, when: { ip.src: 10.0.0.0/8, l4.dst: [80, 443] }, action: allow, stateful: true } ] } ] } ] } }\n";
        let document = read_back(text);
        let layer = &document.ports["vm1"].layers[0];
        let yaml = to_yaml("Layer", &layer.encode_to_vec()).unwrap();
        let wanted = "\
name: acl
priority: 20
default: { inbound: block }
inbound:
  - group: web
    rules:
      - name: open
        when: { ip.src: [10.0.0.0/8], l4.dst: [80, 443] }
        action: allow
        stateful: true
";
        // A rule is one line where it fits.
        let one_line = "      - { name: open, when: { ip.src: [10.0.0.0/8], l4.dst: [80, 443] }, action: allow, stateful: true }";
        assert!(one_line.len() > WIDTH);
        assert_eq!(yaml, wanted);
        let whole = to_yaml("Document", &document.encode_to_vec()).unwrap();
        assert!(whole.contains("    mac: \"02:00:00:00:00:01\"\n"), "{whole}");
        assert_eq!(read_back(&whole), document);
    }

    #[test]
    fn scalars_are_quoted_where_yaml_would_read_something_else() {
        for (text, wanted) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("$admins", "$admins"),
            ("+syn-ack", "+syn-ack"),
            ("-5", "-5"),
            ("-", "\"-\""),
            ("", "\"\""),
            ("null", "\"null\""),
            ("fd00::1", "\"fd00::1\""),
            ("a b", "\"a b\""),
            ("ä\"\n\u{1}", "\"ä\\\"\\n\\u0001\""),
        ] {
            assert_eq!(scalar(text), wanted);
        }
    }
}
