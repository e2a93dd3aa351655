//! Rules about Rust files that the compiler does not keep: the core stays pure, `unsafe` stays in the backend,
//! files open with what they are, stay short, and hold nothing unfinished.

use super::Fault;
use super::rust_text::code_of;
use crate::repository::Repository;

/// Lines after which a file must be split.
const MAX_LINES: usize = 700;

/// Words of unfinished work, each split so that this file passes its own check.
const UNFINISHED: &[&str] = &[concat!("to", "do!("), concat!("unimple", "mented!("), concat!("#[ig", "nore")];
/// The same in comments and documents.
const UNFINISHED_NOTES: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME")];

/// Faults of all Rust files.
pub fn check(repository: &Repository) -> Vec<Fault> {
    let mut faults = Vec::new();
    for file in repository.ending(".rs") {
        let Some(text) = repository.text(file) else { continue };
        faults
            .extend(faults_of(file, &text).into_iter().map(|(line, what)| format!("{file}:{line}: {what}")));
    }
    for file in repository.ending(".rs").chain(repository.ending(".md")) {
        let text = repository.text(file).unwrap_or_default();
        for (index, line) in text.lines().enumerate() {
            if let Some(note) = UNFINISHED_NOTES.iter().find(|note| has_word(line, note)) {
                faults.push(format!("{file}:{}: a note of unfinished work ({note})", index + 1));
            }
        }
    }
    let root = repository.text("crates/core/src/lib.rs").unwrap_or_default();
    for attribute in ["#![no_std]", "#![forbid(unsafe_code)]"] {
        if !root.lines().any(|line| line == attribute) {
            faults.push(format!("crates/core/src/lib.rs:1: {attribute} is missing"));
        }
    }
    faults
}

fn faults_of(file: &str, text: &str) -> Vec<(usize, String)> {
    let mut faults = Vec::new();
    if !text.starts_with("//!") && !text.starts_with("#![no_main]\n//!") {
        faults.push((1, "a file opens with `//!`: what it is, why, what it must never do".into()));
    }
    let length = text.lines().count();
    if length > MAX_LINES {
        faults.push((length, format!("{length} lines; split it by idea (at most {MAX_LINES})")));
    }
    let code = code_of(text);
    let is_test_file = file.ends_with("tests.rs") || file.contains("/tests/");
    let in_core = file.starts_with("crates/core/src/") && !is_test_file;
    let lines: Vec<&str> = code.lines().collect();
    // The test module closes a file.
    let tests = lines.iter().position(|line| line.starts_with("mod tests {")).unwrap_or(lines.len());
    for (index, line) in lines.iter().enumerate() {
        let mut fault = |what: String| faults.push((index + 1, what));
        if let Some(mark) = UNFINISHED.iter().find(|mark| line.contains(**mark)) {
            fault(format!("unfinished: {mark}"));
        }
        if has_word(line, "unsafe") && !file.starts_with("crates/backend/") {
            fault("unsafe code outside crates/backend".into());
        }
        let for_tests = index > tests || index > 0 && lines[index - 1].contains("#[cfg(test)]");
        if in_core && line.contains("extern crate std") && !for_tests {
            fault("the core has no std".into());
        }
    }
    faults
}

fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(is_part) && !line[at + word.len()..].starts_with(is_part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whats(file: &str, text: &str) -> Vec<String> {
        faults_of(file, text).into_iter().map(|(_, what)| what).collect()
    }

    #[test]
    fn each_rule_finds_its_fault() {
        assert!(whats("crates/api/src/a.rs", "//! A.\nfn f() {}\n").is_empty());
        assert_eq!(whats("a.rs", "fn f() {}\n").len(), 1);
        assert_eq!(whats("crates/api/src/a.rs", "//! A.\nunsafe fn f() {}\n").len(), 1);
        assert!(whats("crates/backend/src/a.rs", "//! A.\nunsafe fn f() {}\n").is_empty());
        assert_eq!(whats("a.rs", &format!("//! A.\nfn f() {{ {}) }}\n", UNFINISHED[0])).len(), 1);
        assert!(whats("a.rs", "//! A.\n// unsafe, in a comment\nlet a = \"unsafe\";\n").is_empty());
        assert_eq!(whats("a.rs", &"//! A.\n".repeat(MAX_LINES + 1)).len(), 1);
    }

    #[test]
    fn std_in_the_core_is_for_tests_only() {
        let core = "crates/core/src/a.rs";
        assert_eq!(whats(core, "//! A.\nextern crate std;\n").len(), 1);
        assert!(whats(core, "//! A.\n#[cfg(test)]\nextern crate std;\n").is_empty());
        assert!(whats(core, "//! A.\n#[cfg(test)]\nmod tests {\n    extern crate std;\n}\n").is_empty());
    }

    #[test]
    fn words_are_whole() {
        assert!(has_word("an unsafe block", "unsafe"));
        assert!(!has_word("forbid(unsafe_code)", "unsafe"));
    }
}
