//! Every file in `examples/` is run by a test: an example that nobody runs is wrong sooner or later.

use super::Fault;
use crate::repository::Repository;

const TESTS: &str = "crates/cli/tests/lab.rs";

/// Examples that the lab's tests do not name.
pub fn check(repository: &Repository) -> Vec<Fault> {
    let tests = repository.text(TESTS).unwrap_or_default();
    repository
        .ending(".yaml")
        .filter(|file| file.starts_with("examples/") && !tests.contains(&format!("\"{file}\"")))
        .map(|file| format!("{file}:1: no test of {TESTS} runs this example"))
        .collect()
}
