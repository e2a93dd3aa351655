//! Which core module uses which: exactly what the table in `ARCHITECTURE.md` says, so that a new edge is a
//! decision that somebody wrote down, and a gone one does not linger.
//!
//! Test code is left out: it may use anything.

use std::collections::{BTreeMap, BTreeSet};

use super::Fault;
use super::rust_text::code_of;
use crate::repository::Repository;

const PAGE: &str = "ARCHITECTURE.md";
const CORE: &str = "crates/core/src/";

/// Module to the modules that it uses.
type Edges = BTreeMap<String, BTreeSet<String>>;

/// Differences between the table and the code.
pub fn check(repository: &Repository) -> Vec<Fault> {
    let written = edges_of_table(&repository.text(PAGE).unwrap_or_default());
    let real = edges_of_code(repository);
    let mut faults = Vec::new();
    for module in written.keys().chain(real.keys()).collect::<BTreeSet<_>>() {
        match (written.get(module), real.get(module)) {
            (Some(written), Some(real)) => {
                let name = |to: &String| format!("`{module}` -> `{to}`");
                faults.extend(real.difference(written).map(|to| format!("{PAGE}:1: no edge {}", name(to))));
                faults
                    .extend(written.difference(real).map(|to| format!("{PAGE}:1: stale edge {}", name(to))));
            }
            (None, _) => {
                faults.push(format!("{PAGE}:1: the table of edges lacks the core module `{module}`"))
            }
            (_, None) => faults.push(format!("{PAGE}:1: there is no core module `{module}`")),
        }
    }
    faults
}

/// Rows `| \`module\` | \`a\`, \`b\` |` below the heading `Edges`.
fn edges_of_table(page: &str) -> Edges {
    let mut edges = Edges::new();
    let below = page.split_once("## Edges").map_or("", |(_, below)| below);
    let section = below.split("\n## ").next().unwrap_or("");
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        let mut cells = row.trim_matches('|').split('|');
        let names = |cell: Option<&str>| -> Vec<String> {
            cell.unwrap_or("").split('`').skip(1).step_by(2).map(String::from).collect()
        };
        let (module, uses) = (names(cells.next()), names(cells.next()));
        if let [module] = &module[..] {
            edges.insert(module.clone(), uses.into_iter().collect());
        }
    }
    edges
}

fn edges_of_code(repository: &Repository) -> Edges {
    let files: Vec<&str> = repository.ending(".rs").filter_map(|file| file.strip_prefix(CORE)).collect();
    let modules: BTreeSet<&str> =
        files.iter().map(|file| module_of(file)).filter(|name| *name != "lib").collect();
    let mut edges = Edges::new();
    for file in files {
        let module = module_of(file);
        if module == "lib" || file.ends_with("tests.rs") || file.contains("/tests/") || file.contains("test_")
        {
            continue;
        }
        let text = repository.text(&format!("{CORE}{file}")).unwrap_or_default();
        let uses = edges.entry(module.to_string()).or_default();
        for used in used_modules(&text) {
            if used != module && modules.contains(used.as_str()) {
                uses.insert(used);
            }
        }
    }
    edges
}

fn module_of(file: &str) -> &str {
    file.split(['/', '.']).next().unwrap_or(file)
}

/// Every `name` in `crate::name` and `crate::{name::..., ...}` outside the closing test module.
fn used_modules(text: &str) -> Vec<String> {
    let code = code_of(text);
    let code = code.split("\nmod tests {").next().unwrap_or("");
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for (at, matched) in code.match_indices("crate::") {
        if code[..at].ends_with(is_word) {
            continue;
        }
        let rest = &code[at + matched.len()..];
        match rest.strip_prefix('{') {
            None => found.push(rest.chars().take_while(|c| is_word(*c)).collect()),
            Some(list) => {
                let list = list.split(';').next().unwrap_or("");
                let mut depth = 0;
                let mut word = String::new();
                for c in list.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        ',' if depth == 0 => found.push(std::mem::take(&mut word)),
                        c if depth == 0 && (is_word(c) || c == ':') => word.push(c),
                        _ => {}
                    }
                }
                found.push(word);
            }
        }
    }
    found.into_iter().map(|path| path.split(':').next().unwrap_or("").to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_are_found_in_every_form() {
        let text = "use crate::flow::{A, B};\nuse crate::{layer, port::C};\nfn f() -> crate::time::D {}\n// crate::no\n\
                    #[cfg(test)]\nmod tests {\n    use crate::action;\n}\n";
        assert_eq!(used_modules(text), ["flow", "layer", "port", "time"]);
    }

    #[test]
    fn the_table_is_read_below_its_heading_only() {
        let page = "| `x` | `y` |\n## Edges\n\n| module | uses |\n| --- | --- |\n| `a` | `b`, `c` |\n| `b` | nothing |\n\n## Next\n| `z` | |\n";
        let edges = edges_of_table(page);
        assert_eq!(edges.len(), 2);
        assert_eq!(edges["a"].iter().collect::<Vec<_>>(), ["b", "c"]);
        assert!(edges["b"].is_empty());
    }
}
