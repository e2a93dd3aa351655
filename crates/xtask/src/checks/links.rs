//! Every link from a Markdown file to a file, a folder or a heading of this repository leads somewhere.
//!
//! Only inline links (`[text](target)`) are read, which is the only kind used here; text in code is not a link.
//! Links to other sites are left alone: CI needs no network for them.

use std::collections::HashSet;

use super::Fault;
use crate::repository::Repository;

/// Faults of all Markdown files.
pub fn check(repository: &Repository) -> Vec<Fault> {
    let mut faults = Vec::new();
    for file in repository.ending(".md") {
        let text = repository.text(file).unwrap_or_default();
        for (number, target) in links(&text) {
            if let Some(problem) = problem_of(repository, file, &text, &target) {
                faults.push(format!("{file}:{number}: {problem}"));
            }
        }
    }
    faults
}

fn problem_of(repository: &Repository, file: &str, text: &str, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let headings_of = if path.is_empty() {
        headings(text)
    } else {
        let Some(resolved) = resolve(file, path) else {
            return Some(format!("link {target} leads out of the repository"));
        };
        if !repository.root.join(&resolved).exists() {
            return Some(format!("link {target} leads nowhere"));
        }
        repository.text(&resolved).map(|text| headings(&text)).unwrap_or_default()
    };
    (!anchor.is_empty() && !headings_of.contains(anchor))
        .then(|| format!("there is no heading #{anchor} ({target})"))
}

/// `path` as seen from the folder of `file`, relative to the root; `None` when it leaves the root.
fn resolve(file: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = file.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

/// Lines outside fenced code, with inline code blanked, numbered from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, String)> + '_ {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            return None;
        }
        let kept: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        (!fenced).then_some((index + 1, kept))
    })
}

/// Targets of inline links, with line numbers.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in prose(text) {
        let mut rest = line.as_str();
        while let Some((_, after)) = rest.split_once("](") {
            let Some((target, tail)) = after.split_once(')') else { break };
            // A title may follow the target: [text](target "title").
            found.push((number, target.split_whitespace().next().unwrap_or("").to_string()));
            rest = tail;
        }
    }
    found
}

/// Anchors that GitHub makes for the headings: lower case, words joined by `-`, other marks left out.
fn headings(text: &str) -> HashSet<String> {
    let mut fenced = false;
    let mut anchors = HashSet::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced && line.starts_with('#') {
            let anchor = line.trim_start_matches('#').trim().to_lowercase();
            let anchor: String = anchor
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect();
            anchors.insert(anchor);
        }
    }
    anchors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_outside_code_only() {
        let text = "see [a](b.md) and [c](d.md#e \"title\")\n```\n[x](y)\n```\n`[p](q)` [r](s)";
        let expected = [(1, "b.md"), (1, "d.md#e"), (5, "s")].map(|(n, t)| (n, t.to_string()));
        assert_eq!(links(text), expected);
    }

    #[test]
    fn paths_resolve_from_the_folder_of_the_file() {
        assert_eq!(resolve("docs/a.md", "../README.md").as_deref(), Some("README.md"));
        assert_eq!(resolve("docs/a.md", "b/./c.md").as_deref(), Some("docs/b/c.md"));
        assert_eq!(resolve("README.md", "../x"), None);
    }

    #[test]
    fn headings_become_anchors() {
        let anchors =
            headings("# Life of a packet\n## 3. The policy model (exact semantics)\n```\n# no\n```");
        assert!(anchors.contains("life-of-a-packet"));
        assert!(anchors.contains("3-the-policy-model-exact-semantics"));
        assert_eq!(anchors.len(), 2);
    }
}
