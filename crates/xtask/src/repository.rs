//! The repository as a set of files: its root and the files that git tracks.
//!
//! Checks look at tracked files only, so that build output and scratch files are nobody's business; files that
//! git does not ignore count as tracked, so that a new file is checked before it is committed.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The checked-out tree.
pub struct Repository {
    /// The directory that holds the workspace's `Cargo.toml`.
    pub root: PathBuf,
    /// Tracked and new files, relative to the root, with `/` between parts, sorted.
    pub files: Vec<String>,
}

impl Repository {
    /// Finds the tree that this program was built from, and lists its files.
    pub fn open() -> Result<Self, String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .ancestors()
            .nth(2)
            .ok_or("the xtask crate must lie two levels below the root")?
            .to_path_buf();
        let output = Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(&root)
            .output()
            .map_err(|error| format!("git does not start: {error}"))?;
        if !output.status.success() {
            return Err(format!("git ls-files failed: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
        let mut files: Vec<String> = output
            .stdout
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty())
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .filter(|name| root.join(name).is_file())
            .collect();
        files.sort();
        files.dedup();
        Ok(Repository { root, files })
    }

    /// The files whose name ends with `suffix`.
    pub fn ending<'a>(&'a self, suffix: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.files.iter().map(String::as_str).filter(move |name| name.ends_with(suffix))
    }

    /// The content of `name`, if it is text.
    pub fn text(&self, name: &str) -> Option<String> {
        String::from_utf8(std::fs::read(self.root.join(name)).ok()?).ok()
    }
}
