//! `cargo xtask`: the tasks of this repository, in plain Rust, so that they need nothing but Rust.
//!
//! `ci` is the one command that says whether a commit is good; the README and `.ci/run` name it. `bench` runs
//! the benchmarks and says on what machine; `docs` writes generated pages; `deb` builds the
//! package. Nothing here is shipped, and nothing but `docs` may
//! change tracked files.

mod api_page;
mod bench;
mod checks;
mod ci;
mod command;
mod deb;
mod proto;
mod repository;

use std::process::ExitCode;

const USAGE: &str = "usage:
  cargo xtask ci [STEP...]      every check and every test, or only the named steps
  cargo xtask bench [FILTER]    the benchmarks whose name contains FILTER
  cargo xtask docs              writes the pages that are generated
  cargo xtask deb [--binary FILE] [--output FOLDER]
                                the Debian package, of a release build or of FILE";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((task, steps)) if task == "ci" => ci::run(steps),
        Some((task, filter)) if task == "bench" && filter.len() <= 1 => bench::run(filter.first()),
        Some((task, [])) if task == "docs" => docs(),
        Some((task, flags)) if task == "deb" => deb(flags),
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn docs() -> ExitCode {
    match repository::Repository::open().and_then(|repository| api_page::write(&repository)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn deb(flags: &[String]) -> ExitCode {
    match repository::Repository::open().and_then(|repository| deb::build(&repository, flags)) {
        Ok(package) => {
            println!("{}", package.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
