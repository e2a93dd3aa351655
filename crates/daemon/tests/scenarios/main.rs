//! The scenarios of `tests/scenarios/`: policy, packets and expected outcome as data, one test per file.
//!
//! Each runs against the real switch on fake time. A scenario proves sentences of the design page: those that it
//! quotes must stand there word for word, so that neither can change alone.

mod design;
mod harness;
mod message_text;
mod packet_text;
mod run;
mod scenario;
mod world;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files: Vec<PathBuf> = std::fs::read_dir(root.join("tests/scenarios"))
        .map(|entries| entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect())
        .unwrap_or_default();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    let page = std::fs::read_to_string(root.join("docs/design.md")).unwrap_or_default();
    let readme = std::fs::read_to_string(root.join("tests/scenarios/README.md")).unwrap_or_default();
    let mut tests: Vec<harness::Test> = files
        .iter()
        .map(|path| {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let page = &page;
            harness::Test { name: name.clone(), run: Box::new(move || run::file(path, &name, page)) }
        })
        .collect();
    tests.push(harness::Test {
        name: "every-sentence-of-sections-3-and-4-is-proven-or-listed".into(),
        run: Box::new(|| design::all_listed(&page, &readme)),
    });
    harness::main(&tests)
}
