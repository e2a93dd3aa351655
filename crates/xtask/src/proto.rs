//! The protobuf contract as data: services, messages and enums with their comments, read from the `.proto` files.
//!
//! It reads the subset of the language that the contract is written in, one statement on a line, and refuses
//! everything else with its place: a statement that is not understood must never be missing from a page silently.

/// One file.
#[derive(Debug, Default, PartialEq)]
pub struct File {
    /// The comment at its beginning.
    pub comment: String,
    /// What it declares, in its order.
    pub items: Vec<Item>,
}

/// A service, message or enum.
#[derive(Debug, PartialEq)]
pub struct Item {
    /// What it is.
    pub kind: ItemKind,
    /// Its name.
    pub name: String,
    /// Its comment.
    pub comment: String,
    /// What is in it, in its order.
    pub members: Vec<Member>,
}

/// What an [`Item`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItemKind {
    /// Its members are calls.
    Service,
    /// Its members are fields.
    Message,
    /// Its members are values.
    Enum,
}

/// A call, field or value.
#[derive(Debug, PartialEq)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Of a field its type, of a call its request; empty for a value.
    pub takes: String,
    /// Of a call its answer.
    pub gives: String,
    /// Of a field or value.
    pub number: u32,
    /// The `oneof` that a field is in.
    pub oneof: Option<String>,
    /// Its comment.
    pub comment: String,
}

/// Reads `text`; an error is `line: what is wrong`.
pub fn parse(text: &str) -> Result<File, String> {
    let mut file = File::default();
    let mut comment: Vec<&str> = Vec::new();
    let mut item: Option<Item> = None;
    let mut oneof: Option<String> = None;
    for (index, line) in text.lines().enumerate() {
        let fault = |what: &str| format!("{}: {what}", index + 1);
        let line = line.trim();
        if let Some(words) = line.strip_prefix("//") {
            comment.push(words.strip_prefix(' ').unwrap_or(words));
            continue;
        }
        let above = paragraph(&std::mem::take(&mut comment));
        if line.is_empty() || line.starts_with("package ") || line.starts_with("import ") {
            continue;
        }
        if line.starts_with("syntax ") {
            file.comment = above;
            continue;
        }
        if line == "}" {
            // A oneof ends before its message does.
            if oneof.take().is_none() {
                file.items.push(item.take().ok_or_else(|| fault("a block ends that did not begin"))?);
            }
            continue;
        }
        if above.is_empty() {
            return Err(fault("has no comment above it"));
        }
        match (&mut item, block(line)) {
            (None, Some(("service", name, open))) => {
                item = begin(ItemKind::Service, name, above, open, &mut file)
            }
            (None, Some(("message", name, open))) => {
                item = begin(ItemKind::Message, name, above, open, &mut file)
            }
            (None, Some(("enum", name, open))) => item = begin(ItemKind::Enum, name, above, open, &mut file),
            (Some(Item { kind: ItemKind::Message, .. }), Some(("oneof", name, true))) if oneof.is_none() => {
                oneof = Some(name.to_owned());
            }
            (Some(item), None) => {
                let member = member(item.kind, line).ok_or_else(|| fault("is not understood"))?;
                item.members.push(Member { comment: above, oneof: oneof.clone(), ..member });
            }
            _ => return Err(fault("is not understood")),
        }
    }
    match item {
        Some(item) => Err(format!("{} does not end", item.name)),
        None => Ok(file),
    }
}

/// Lines of a comment as one paragraph; an empty line keeps paragraphs apart.
fn paragraph(lines: &[&str]) -> String {
    let mut text = String::new();
    for line in lines {
        match (line.is_empty(), text.is_empty() || text.ends_with('\n')) {
            (true, _) => text.push_str("\n\n"),
            (false, true) => text.push_str(line),
            (false, false) => {
                text.push(' ');
                text.push_str(line);
            }
        }
    }
    text
}

/// `message Name {` and `message Name {}`: the word, the name, whether it stays open.
fn block(line: &str) -> Option<(&str, &str, bool)> {
    let (head, open) = match line.strip_suffix("{}") {
        Some(head) => (head, false),
        None => (line.strip_suffix('{')?, true),
    };
    let (word, name) = head.trim().split_once(' ')?;
    Some((word, name, open))
}

fn begin(kind: ItemKind, name: &str, comment: String, open: bool, file: &mut File) -> Option<Item> {
    let item = Item { kind, name: name.to_owned(), comment, members: Vec::new() };
    if open {
        return Some(item);
    }
    file.items.push(item);
    None
}

/// A call, field or value; its comment and oneof are the caller's.
fn member(kind: ItemKind, line: &str) -> Option<Member> {
    let line = line.strip_suffix(';')?;
    let (name, takes, gives, number) = match kind {
        ItemKind::Service => {
            let (name, rest) = line.strip_prefix("rpc ")?.split_once('(')?;
            let (takes, gives) = rest.strip_suffix(')')?.split_once(") returns (")?;
            (name, takes, gives, 0)
        }
        ItemKind::Message => {
            let (declaration, number) = line.split_once(" = ")?;
            let (takes, name) = declaration.rsplit_once(' ')?;
            (name, takes, "", number.parse().ok()?)
        }
        ItemKind::Enum => {
            let (name, number) = line.split_once(" = ")?;
            (name, "", "", number.parse().ok()?)
        }
    };
    let is_name =
        |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    is_name(name).then(|| Member {
        name: name.to_owned(),
        takes: takes.to_owned(),
        gives: gives.to_owned(),
        number,
        oneof: None,
        comment: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "// All\n// of it.\nsyntax = \"proto3\";\npackage a;\n\n// S.\nservice S {\n  // Calls.\n  \
        rpc C(stream A) returns (B);\n}\n// A.\nmessage A {\n  // M.\n  map<string, B> m = 1;\n  // One.\n  oneof x {\n    \
        // Y.\n    B y = 2;\n  }\n  // Z.\n  optional string z = 3;\n}\n// B.\nmessage B {}\n// E.\nenum E {\n  // O.\n  O = 0;\n}\n";

    #[test]
    fn everything_is_read_with_its_comment() {
        let file = parse(SMALL).unwrap();
        assert_eq!(file.comment, "All of it.");
        let names: Vec<_> = file.items.iter().map(|item| (item.kind, item.name.as_str())).collect();
        use ItemKind::{Enum, Message, Service};
        assert_eq!(names, [(Service, "S"), (Message, "A"), (Message, "B"), (Enum, "E")]);
        let call = &file.items[0].members[0];
        assert_eq!((&*call.name, &*call.takes, &*call.gives), ("C", "stream A", "B"));
        let fields = &file.items[1].members;
        assert_eq!((&*fields[0].takes, fields[0].number), ("map<string, B>", 1));
        assert_eq!((fields[1].oneof.as_deref(), &*fields[1].comment), (Some("x"), "Y."));
        assert_eq!((fields[2].oneof.as_deref(), &*fields[2].takes), (None, "optional string"));
    }

    #[test]
    fn what_is_not_understood_or_not_documented_is_refused_with_its_line() {
        for (text, error) in [
            (SMALL.replace("  // Y.\n", ""), "17: has no comment above it"),
            (SMALL.replace("B y = 2;", "group y = 2 {"), "18: is not understood"),
            (SMALL.replace("O = 0;\n}\n", "O = 0;\n"), "E does not end"),
            (format!("{SMALL}}}\n"), "30: a block ends that did not begin"),
        ] {
            assert_eq!(parse(&text).unwrap_err(), error, "{text}");
        }
    }
}
