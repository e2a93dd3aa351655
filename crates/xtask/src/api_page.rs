//! `docs/reference/api.md`: the protobuf contract as a page, written from the contract's own comments.
//!
//! The page says nothing of itself but how to read it; `cargo xtask docs` writes it, and `cargo xtask ci files` fails
//! when it is not what would be written.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::proto::{self, File, Item, ItemKind, Member};
use crate::repository::Repository;

/// The page.
pub const PAGE: &str = "docs/reference/api.md";
const FOLDER: &str = "crates/api/proto/lamina/v1/";
const INTRODUCTION: &str = "\
# The host API

The messages and calls of Lamina's host API, generated from the [protobuf files](../../crates/api/proto/lamina/v1) by
`cargo xtask docs`; to change this page, change the comments there. It is gRPC over a Unix socket
(`/run/lamina/lamina.sock` unless the [configuration](laminad.md) says otherwise), in package `lamina.v1`.

A field's number is what is on the wire. *optional* fields tell \"not set\" from zero; of the fields of one `oneof` at most one is
set. A field that is not set takes the default that the [policy reference](policy.md) names.
";

/// Writes the page of `repository`.
pub fn write(repository: &Repository) -> Result<(), String> {
    let page = page(repository)?;
    std::fs::write(repository.root.join(PAGE), page).map_err(|error| format!("{PAGE}: {error}"))
}

/// The page as it should be.
pub fn page(repository: &Repository) -> Result<String, String> {
    let mut files = Vec::new();
    for name in repository.ending(".proto").filter(|name| name.starts_with(FOLDER)) {
        let text = repository.text(name).ok_or_else(|| format!("{name}:1: is not text"))?;
        files.push((name, proto::parse(&text).map_err(|error| format!("{name}:{error}"))?));
    }
    if files.is_empty() {
        return Err(format!("{FOLDER}: there are no .proto files"));
    }
    Ok(render(&files))
}

fn render(files: &[(&str, File)]) -> String {
    let names: BTreeSet<&str> =
        files.iter().flat_map(|(_, file)| &file.items).map(|item| item.name.as_str()).collect();
    let mut page = INTRODUCTION.to_owned();
    for (path, file) in files {
        let name = path.strip_prefix(FOLDER).unwrap_or(path);
        let _ = write!(page, "\n## {name}\n\n{}\n", file.comment);
        let contents: Vec<String> = file.items.iter().map(|item| link(&item.name)).collect();
        let _ = write!(page, "\nContents: {}\n", contents.join(", "));
        for item in &file.items {
            render_item(&mut page, item, &names);
        }
    }
    page
}

fn render_item(page: &mut String, item: &Item, names: &BTreeSet<&str>) {
    let what = match item.kind {
        ItemKind::Service => "Service",
        ItemKind::Message => "Message",
        ItemKind::Enum => "Enum",
    };
    let _ = write!(page, "\n### {}\n\n{what}. {}\n", item.name, item.comment);
    if item.members.is_empty() {
        return;
    }
    page.push_str(match item.kind {
        ItemKind::Service => "\n| call | takes | answers | does |\n| --- | --- | --- | --- |\n",
        ItemKind::Message => "\n| field | number | type | is |\n| --- | --- | --- | --- |\n",
        ItemKind::Enum => "\n| value | number | means |\n| --- | --- | --- |\n",
    });
    for member in &item.members {
        render_member(page, item.kind, member, names);
    }
}

fn render_member(page: &mut String, kind: ItemKind, member: &Member, names: &BTreeSet<&str>) {
    let (name, number) = (&member.name, member.number);
    let comment = member.comment.replace('|', "\\|").replace("\n\n", "<br>");
    let _ = match kind {
        ItemKind::Service => {
            let (takes, gives) = (typed(&member.takes, names), typed(&member.gives, names));
            writeln!(page, "| `{name}` | {takes} | {gives} | {comment} |")
        }
        ItemKind::Message => {
            let one = member.oneof.as_ref().map_or(String::new(), |oneof| format!(", one of `{oneof}`"));
            writeln!(page, "| `{name}` | {number} | {}{one} | {comment} |", typed(&member.takes, names))
        }
        ItemKind::Enum => writeln!(page, "| `{name}` | {number} | {comment} |"),
    };
}

/// A type, with messages and enums as links.
fn typed(text: &str, names: &BTreeSet<&str>) -> String {
    let linked = |name: &str| if names.contains(name) { link(name) } else { format!("`{name}`") };
    if let Some((key, value)) =
        text.strip_prefix("map<").and_then(|map| map.strip_suffix('>')?.split_once(", "))
    {
        return format!("map of `{key}` to {}", linked(value));
    }
    match text.split_once(' ') {
        Some((label, name)) => format!("{label} {}", linked(name)),
        None => linked(text),
    }
}

fn link(name: &str) -> String {
    format!("[{name}](#{})", name.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_link_to_what_the_page_has() {
        let names = BTreeSet::from(["Rule"]);
        assert_eq!(typed("repeated Rule", &names), "repeated [Rule](#rule)");
        assert_eq!(typed("optional uint32", &names), "optional `uint32`");
        assert_eq!(typed("map<string, Rule>", &names), "map of `string` to [Rule](#rule)");
    }
}
