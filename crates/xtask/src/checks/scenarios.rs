//! The table in `tests/scenarios/README.md` and the scenario files name each other: a sentence whose scenario is
//! gone, and a scenario that no sentence mentions, are both faults.

use super::Fault;
use crate::repository::Repository;

const FOLDER: &str = "tests/scenarios/";

/// Faults of the table.
pub fn check(repository: &Repository) -> Vec<Fault> {
    let table = format!("{FOLDER}README.md");
    let text = repository.text(&table).unwrap_or_default();
    repository
        .ending(".yaml")
        .filter_map(|file| file.strip_prefix(FOLDER))
        .filter(|name| !text.contains(&format!("({name})")))
        .map(|name| format!("{table}:1: no sentence names the scenario {name}"))
        .collect()
}
