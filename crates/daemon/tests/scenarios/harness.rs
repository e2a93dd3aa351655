//! One test per file, in a binary without the standard harness: lists and filters as `cargo test` and
//! `cargo nextest` ask, catches panics, prints the ordinary summary.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

/// A named test; an error is one line per failure.
pub struct Test<'a> {
    /// What filters match.
    pub name: String,
    /// The test.
    pub run: Box<dyn Fn() -> Result<(), Vec<String>> + 'a>,
}

/// Does what the command line asks for.
pub fn main(tests: &[Test]) -> ExitCode {
    let mut filters = Vec::new();
    let (mut list, mut exact, mut only_ignored) = (false, false, false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--list" => list = true,
            "--exact" => exact = true,
            "--ignored" => only_ignored = true,
            "--format" | "--test-threads" | "--color" | "--skip" => drop(arguments.next()),
            other if other.starts_with('-') => {}
            filter => filters.push(filter.to_string()),
        }
    }
    let matches = |name: &str| {
        filters.is_empty()
            || filters.iter().any(|filter| if exact { name == filter } else { name.contains(filter) })
    };
    // No test here is ever ignored.
    let chosen: Vec<&Test> = tests.iter().filter(|test| !only_ignored && matches(&test.name)).collect();
    if list {
        chosen.iter().for_each(|test| println!("{}: test", test.name));
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", chosen.len());
    let mut failed = 0;
    for test in &chosen {
        let result = catch_unwind(AssertUnwindSafe(|| (test.run)()))
            .unwrap_or_else(|_| Err(vec!["it panicked".into()]));
        println!("test {} ... {}", test.name, if result.is_ok() { "ok" } else { "FAILED" });
        if let Err(failures) = result {
            failed += 1;
            failures.iter().for_each(|failure| println!("    {failure}"));
        }
    }
    let filtered = tests.len() - chosen.len();
    println!(
        "\ntest result: {}. {} passed; {failed} failed; 0 ignored; 0 measured; {filtered} filtered out\n",
        if failed == 0 { "ok" } else { "FAILED" },
        chosen.len() - failed
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
