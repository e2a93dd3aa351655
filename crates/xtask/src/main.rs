//! `cargo xtask`: the tasks of this repository, in plain Rust, so that they need nothing but Rust.
//!
//! `ci` is the one command that says whether a commit is good; the README and `.ci/run` name it. `bench` runs
//! the benchmarks and says on what machine. Nothing here is shipped, and nothing here may change tracked files.

mod bench;
mod checks;
mod ci;
mod command;
mod repository;

use std::process::ExitCode;

const USAGE: &str = "usage:
  cargo xtask ci [STEP...]      every check and every test, or only the named steps
  cargo xtask bench [FILTER]    the benchmarks whose name contains FILTER";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((task, steps)) if task == "ci" => ci::run(steps),
        Some((task, filter)) if task == "bench" && filter.len() <= 1 => bench::run(filter.first()),
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}
