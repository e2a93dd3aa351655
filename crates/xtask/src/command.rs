//! Running other programs: streamed to the terminal, or streamed and read.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// A command in the repository, without input.
pub fn command(root: &Path, program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root).stdin(Stdio::null());
    command
}

/// Runs `command` with its output on the terminal.
pub fn run(mut command: Command) -> Result<(), String> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{} ended with {status}", describe(&command))),
        Err(error) => Err(format!("{} does not start: {error}", describe(&command))),
    }
}

/// Runs `command` with its output on the terminal, and returns the lines as well.
pub fn run_and_read(mut command: Command) -> (Vec<String>, Result<(), String>) {
    let name = describe(&command);
    let mut child = match command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(error) => return (Vec::new(), Err(format!("{name} does not start: {error}"))),
    };
    let errors = child.stderr.take().map(|stream| std::thread::spawn(move || forward(stream)));
    let mut lines = child.stdout.take().map(forward).unwrap_or_default();
    if let Some(thread) = errors {
        lines.extend(thread.join().unwrap_or_default());
    }
    let result = match child.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{name} ended with {status}")),
        Err(error) => Err(format!("{name} was lost: {error}")),
    };
    (lines, result)
}

/// True when `program` can be started with `arguments` and succeeds, silently.
pub fn succeeds(root: &Path, program: &str, arguments: &[&str]) -> bool {
    command(root, program, arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn forward(stream: impl Read) -> Vec<String> {
    let mut lines = Vec::new();
    let mut reader = BufReader::new(stream);
    let mut bytes = Vec::new();
    while matches!(reader.read_until(b'\n', &mut bytes), Ok(count) if count > 0) {
        let line = String::from_utf8_lossy(&bytes).trim_end().to_string();
        // A closed terminal is no reason to stop a test run.
        let _ = writeln!(std::io::stdout().lock(), "{line}");
        lines.push(line);
        bytes.clear();
    }
    lines
}

fn describe(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}
