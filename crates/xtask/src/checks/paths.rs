//! No file names a place that exists on one machine only: home folders, temporary folders, this checkout.

use super::Fault;
use crate::repository::Repository;

/// First parts of absolute paths that mean one machine. Written without their slashes, so that this file passes.
const ROOTS: &[&str] = &["work", "farm", "root", "home", "Users", "tmp", "var/tmp"];

/// Faults of all text files.
pub fn check(repository: &Repository) -> Vec<Fault> {
    let checkout = repository.root.to_string_lossy().into_owned();
    let mut faults = Vec::new();
    for file in &repository.files {
        let Some(text) = repository.text(file) else { continue };
        for (index, line) in text.lines().enumerate() {
            let found = machine_path(line).or_else(|| line.contains(&checkout).then_some(checkout.as_str()));
            if let Some(path) = found {
                faults.push(format!("{file}:{}: mentions {path}, a path of one machine", index + 1));
            }
        }
    }
    faults
}

/// The first absolute path of `line` that starts with one of the [`ROOTS`].
fn machine_path(line: &str) -> Option<&str> {
    for (at, _) in line.match_indices('/') {
        let before = line[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | '/' | '}' | '$' | ')'))
        {
            continue;
        }
        let rest = &line[at + 1..];
        for root in ROOTS {
            if rest.strip_prefix(root).is_some_and(|tail| tail.starts_with('/')) {
                return Some(&line[at..at + root.len() + 2]);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{ROOTS, machine_path};

    #[test]
    fn absolute_paths_are_found_and_others_are_not() {
        let absolute = |root: &str| format!("see \"/{root}/x\"");
        for root in ROOTS {
            assert!(machine_path(&absolute(root)).is_some(), "{root}");
            for before in ["docs", "..", "https://example.org", "$HOME"] {
                let fine = format!("{before}/{root}/x");
                assert_eq!(machine_path(&fine), None, "{fine}");
            }
        }
        for fine in ["1/2", "/proc/self", "/network/x"] {
            assert_eq!(machine_path(fine), None, "{fine}");
        }
    }
}
