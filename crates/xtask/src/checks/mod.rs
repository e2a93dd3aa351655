//! What can be said about the tree by reading it: links, paths of machines, the layout of sources, purity of the
//! core. A check returns one line per fault, `file:line: what is wrong`, and never changes a file.

mod edges;
mod examples;
mod generated;
mod links;
mod paths;
mod rust_text;
mod scenarios;
mod sources;

use crate::repository::Repository;

/// A place and what is wrong with it.
type Fault = String;

/// Runs all checks; the error lists every fault.
pub fn run(repository: &Repository) -> Result<(), String> {
    let checks: [(&str, Vec<Fault>); 7] = [
        ("links", links::check(repository)),
        ("paths of this machine", paths::check(repository)),
        ("sources", sources::check(repository)),
        ("edges of the core", edges::check(repository)),
        ("examples", examples::check(repository)),
        ("scenario table", scenarios::check(repository)),
        ("generated pages", generated::check(repository)),
    ];
    let mut faults = Vec::new();
    for (name, found) in checks {
        println!(
            "{name}: {}",
            if found.is_empty() { "ok".into() } else { format!("{} faults", found.len()) }
        );
        faults.extend(found);
    }
    if faults.is_empty() {
        return Ok(());
    }
    for fault in &faults {
        println!("  {fault}");
    }
    Err(format!("{} faults in the tree", faults.len()))
}
