//! `cargo xtask bench`: the criterion benchmarks, after a line that says what they ran on.

use std::process::ExitCode;

use crate::command::{self, command};
use crate::repository::Repository;

/// Runs every benchmark target, with `filter` handed to criterion.
fn run_all(repository: &Repository, filter: Option<&String>) -> Result<(), String> {
    println!("machine: {}", machine());
    let mut any = false;
    for manifest in repository.ending("/Cargo.toml").filter(|name| name.starts_with("crates/")) {
        let text = repository.text(manifest).unwrap_or_default();
        for target in bench_targets(&text) {
            any = true;
            let mut arguments =
                vec!["bench", "--manifest-path", manifest, "--bench", target, "--", "--bench"];
            arguments.extend(filter.map(String::as_str));
            command::run(command(&repository.root, "cargo", &arguments))?;
        }
    }
    if any { Ok(()) } else { Err("no crate has a [[bench]] target".into()) }
}

/// The entry point.
pub fn run(filter: Option<&String>) -> ExitCode {
    match Repository::open().and_then(|repository| run_all(&repository, filter)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Names of the `[[bench]]` targets of a manifest.
fn bench_targets(manifest: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut section = "";
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        } else if section == "[[bench]]"
            && let Some(name) = line.strip_prefix("name").and_then(|rest| rest.trim_start().strip_prefix('='))
        {
            names.push(name.trim().trim_matches('"'));
        }
    }
    names
}

fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| {
            line.strip_prefix("model name")?.split_once(':').map(|(_, model)| model.trim().to_string())
        })
        .unwrap_or_else(|| "unknown processor".into());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{model}, {cores} cores, Linux {}", kernel.trim())
}

#[cfg(test)]
mod tests {
    use super::bench_targets;

    #[test]
    fn bench_targets_are_read_from_their_sections_only() {
        let manifest =
            "[package]\nname = \"a\"\n[[bench]]\nname = \"hit\"\nharness = false\n\n[[bench]]\nname=\"x\"\n";
        assert_eq!(bench_targets(manifest), ["hit", "x"]);
    }
}
