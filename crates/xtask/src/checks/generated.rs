//! Pages that are generated are what would be generated now.

use super::Fault;
use crate::api_page;
use crate::repository::Repository;

/// Pages that are stale.
pub fn check(repository: &Repository) -> Vec<Fault> {
    match api_page::page(repository) {
        Err(fault) => vec![fault],
        Ok(page) if repository.text(api_page::PAGE).as_deref() == Some(&page) => Vec::new(),
        Ok(_) => vec![format!("{}:1: is stale; `cargo xtask docs` writes it anew", api_page::PAGE)],
    }
}
