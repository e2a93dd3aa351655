//! `cargo xtask ci`: every check and every test, each step timed, all failures reported, test totals last.
//!
//! One profile is used throughout. Clippy and rustdoc share the metadata of dependencies, all tests share the
//! compiled code; so a cold tree costs one check and one build.

use std::process::ExitCode;
use std::time::Instant;

use crate::checks;
use crate::command::{command, run_and_read, succeeds};
use crate::repository::Repository;

type StepResult = Result<(), String>;

struct Step {
    name: &'static str,
    what: &'static str,
    run: fn(&Repository, &mut Totals) -> StepResult,
}

const STEPS: &[Step] = &[
    Step { name: "format", what: "cargo fmt --all --check", run: format },
    Step {
        name: "files",
        what: "links, paths, layout of sources",
        run: |repository, _| checks::run(repository),
    },
    Step { name: "clippy", what: "cargo clippy --workspace --all-targets", run: clippy },
    Step { name: "docs", what: "cargo doc --workspace --no-deps", run: docs },
    Step { name: "programs", what: "programs that tests start", run: programs },
    Step { name: "tests", what: "unit, scenario, property and end-to-end tests", run: tests },
    Step { name: "doctests", what: "cargo test --workspace --doc", run: doctests },
];

/// Programs that end-to-end tests start, and the packages that have them.
const PROGRAMS: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("ping", "iputils-ping"),
    ("curl", "curl"),
    ("python3", "python3"),
    ("busybox", "busybox"),
    ("dhclient", "isc-dhcp-client"),
];

/// What the example client in Python needs, kept in the build's folder.
const PYTHON_PACKAGES: &[&str] = &["grpcio", "grpcio-tools", "googleapis-common-protos"];
const PYTHON_FOLDER: &str = "target/python";

/// Runs the steps named in `only`, or all of them.
pub fn run(only: &[String]) -> ExitCode {
    if let Some(unknown) = only.iter().find(|name| !STEPS.iter().any(|step| step.name == name.as_str())) {
        let names: Vec<&str> = STEPS.iter().map(|step| step.name).collect();
        eprintln!("there is no step {unknown}; the steps are {}", names.join(", "));
        return ExitCode::from(2);
    }
    let repository = match Repository::open() {
        Ok(repository) => repository,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let start = Instant::now();
    let mut totals = Totals::default();
    let mut report = Vec::new();
    for step in STEPS.iter().filter(|step| only.is_empty() || only.iter().any(|name| name == step.name)) {
        println!("\n== {}: {}", step.name, step.what);
        let begin = Instant::now();
        let result = (step.run)(&repository, &mut totals);
        let seconds = begin.elapsed().as_secs_f64();
        if let Err(error) = &result {
            println!("{error}");
        }
        println!("== {} {} in {seconds:.1} s", step.name, if result.is_ok() { "ok" } else { "FAILED" });
        report.push((step.name, seconds, result));
    }
    let failed = report.iter().any(|(_, _, result)| result.is_err());
    println!("\n{:<10} {:>8}", "step", "seconds");
    for (name, seconds, result) in &report {
        println!(
            "{name:<10} {seconds:>8.1}  {}",
            result.as_ref().err().map_or("ok", |error| first_line(error))
        );
    }
    println!(
        "{:<10} {:>8.1}  {}",
        "all",
        start.elapsed().as_secs_f64(),
        if failed { "FAILED" } else { "ok" }
    );
    totals.print();
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn format(repository: &Repository, _: &mut Totals) -> StepResult {
    run_cargo(repository, &["fmt", "--all", "--check"])
}

fn clippy(repository: &Repository, _: &mut Totals) -> StepResult {
    let denied = ["-D", "warnings", "-D", "clippy::undocumented_unsafe_blocks"];
    let mut arguments = vec!["clippy", "--quiet", "--keep-going", "--workspace", "--all-targets", "--"];
    arguments.extend(denied);
    run_cargo(repository, &arguments)
}

fn docs(repository: &Repository, _: &mut Totals) -> StepResult {
    let mut cargo = command(&repository.root, "cargo", &["doc", "--quiet", "--workspace", "--no-deps"]);
    cargo.env("RUSTDOCFLAGS", "-D warnings");
    crate::command::run(cargo)
}

/// Sees to the programs that end-to-end tests need. Only root installs; anybody else is told how, and the tests
/// concerned say that they were skipped.
fn programs(repository: &Repository, _: &mut Totals) -> StepResult {
    python_packages(repository);
    let missing: Vec<&str> =
        PROGRAMS.iter().filter(|(program, _)| !on_path(program)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        println!("all there");
        return Ok(());
    }
    let install = format!("apt-get install --yes --no-install-recommends {}", missing.join(" "));
    if !is_root() || !on_path("apt-get") {
        println!("missing, and tests that need them cannot run; as root: {install}");
        return Ok(());
    }
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(&missing);
    let apt = |arguments: &[&str]| {
        let mut apt = command(&repository.root, "apt-get", arguments);
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        crate::command::run(apt)
    };
    if apt(&arguments).or_else(|_| apt(&["update"]).and_then(|()| apt(&arguments))).is_err() {
        println!("could not install them; tests that need them cannot run: {install}");
    }
    Ok(())
}

/// Installs the packages of the example client in Python, where there is a Python.
fn python_packages(repository: &Repository) {
    let folder = repository.root.join(PYTHON_FOLDER);
    let is_there = |path: &str| folder.join(path).exists();
    if ["grpc", "grpc_tools", "google/rpc"].into_iter().all(is_there) {
        return;
    }
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", PYTHON_FOLDER];
    let arguments = [&pip[..], PYTHON_PACKAGES].concat();
    if crate::command::run(command(&repository.root, "python3", &arguments)).is_err() {
        println!(
            "could not install them; the test of the client in Python cannot run: python3 {}",
            arguments.join(" ")
        );
    }
}

fn tests(repository: &Repository, totals: &mut Totals) -> StepResult {
    if !succeeds(&repository.root, "cargo", &["nextest", "--version"]) {
        println!("cargo-nextest is not installed; using cargo test");
        let arguments =
            ["test", "--workspace", "--no-fail-fast", "--lib", "--bins", "--tests", "--", "--show-output"];
        let (lines, result) = run_and_read(command(&repository.root, "cargo", &arguments));
        totals.read(&lines);
        totals.skipped.extend(skipped_in(lines.iter().map(String::as_str)));
        return result;
    }
    let arguments = ["nextest", "run", "--workspace", "--profile", "ci"];
    let (lines, result) = run_and_read(command(&repository.root, "cargo", &arguments));
    totals.read(&lines);
    let junit = repository.root.join("target/nextest/ci/junit.xml");
    match std::fs::read_to_string(&junit) {
        Ok(text) => totals.skipped.extend(skipped_in(text.lines())),
        Err(error) => println!("skipped tests are not counted: {}: {error}", junit.display()),
    }
    result
}

fn doctests(repository: &Repository, totals: &mut Totals) -> StepResult {
    let (lines, result) =
        run_and_read(command(&repository.root, "cargo", &["test", "--quiet", "--workspace", "--doc"]));
    totals.read(&lines);
    result
}

fn run_cargo(repository: &Repository, arguments: &[&str]) -> StepResult {
    crate::command::run(command(&repository.root, "cargo", arguments))
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(std::path::PathBuf::from);
    std::env::split_paths(&path).chain(system).any(|directory| directory.join(program).is_file())
}

fn is_root() -> bool {
    // The owner of a process's own directory in /proc is its effective user.
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or("FAILED")
}

/// What tests said when they could not run here.
fn skipped_in<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<String> {
    lines.filter_map(|line| line.find("skipped, because").map(|at| line[at..].to_string())).collect()
}

/// What the test runners said, added up.
#[derive(Debug, Default, PartialEq)]
struct Totals {
    passed: usize,
    failed: usize,
    ignored: usize,
    skipped: Vec<String>,
    summaries: Vec<String>,
}

impl Totals {
    /// Adds the summary lines of libtest (`test result: ok. 3 passed; ...`) and of nextest
    /// (`Summary [ 1.0s] 3 tests run: 3 passed, 0 skipped`).
    fn read(&mut self, lines: &[String]) {
        for line in lines {
            // What nextest repeats of a failed test is indented, and is already in its own summary.
            let counts = if let Some(rest) = line.strip_prefix("test result: ") {
                rest
            } else if line.trim_start().starts_with("Summary [") {
                self.summaries.push(line.trim().to_string());
                line.split_once("run:").map_or("", |(_, rest)| rest)
            } else {
                continue;
            };
            let words: Vec<&str> = counts.split([' ', ',', ';']).filter(|word| !word.is_empty()).collect();
            for pair in words.windows(2) {
                let Ok(count) = pair[0].trim_start_matches('(').parse::<usize>() else { continue };
                match pair[1] {
                    "passed" => self.passed += count,
                    "failed" | "timed" => self.failed += count,
                    "ignored" | "skipped" => self.ignored += count,
                    _ => {}
                }
            }
        }
    }

    fn print(&self) {
        if !self.skipped.is_empty() {
            println!("{} tests could not run here and count as passed:", self.skipped.len());
            self.skipped.iter().for_each(|line| println!("  {line}"));
        }
        for summary in &self.summaries {
            println!("{summary}");
        }
        if self.passed + self.failed > 0 {
            println!(
                "test result: {}. {} passed; {} failed; {} ignored; 0 measured; 0 filtered out",
                if self.failed == 0 { "ok" } else { "FAILED" },
                self.passed,
                self.failed,
                self.ignored
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_add_both_runners() {
        let lines = [
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s",
            "     Summary [   0.013s] 12 tests run: 10 passed (1 slow), 1 failed, 1 timed out, 4 skipped",
            "    test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 9 filtered out",
            "test something ... ok",
        ]
        .map(String::from);
        let mut totals = Totals::default();
        totals.read(&lines);
        assert_eq!((totals.passed, totals.failed, totals.ignored), (13, 2, 5));
        assert_eq!(totals.summaries.len(), 1);
    }

    #[test]
    fn skipped_lines_are_counted_once_each() {
        let lines =
            ["a: skipped, because the folder is missing", "nothing", "<out>skipped, because not root"];
        assert_eq!(skipped_in(lines.into_iter()), [lines[0][3..].to_string(), lines[2][5..].to_string()]);
    }
}
