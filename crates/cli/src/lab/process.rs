//! Processes of this very binary: how the lab starts them, hears what they say, and is outlived by none.
//!
//! A process holds the reading end of a pipe as its standard input. The lab holds the other end and never lets another
//! process have it, so the pipe ends when the lab ends it or ends itself, by `kill -9` too; the process takes that as
//! its order to stop. What it says on standard error is kept for the report.
//!
//! Nothing here may depend on what the process does.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use lamina_backend::namespace::NetNs;

/// Lines of a process that are kept: the last ones.
const KEPT_LINES: usize = 100;
/// How long a process may take to stop before it is killed.
const STOP: Duration = Duration::from_secs(5);
/// How often it is looked whether a process has ended.
const LOOK: Duration = Duration::from_millis(1);

/// A process of the lab. When the value goes, so does the process.
#[derive(Debug)]
pub struct Process {
    /// What messages call it.
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    said: Arc<Mutex<Said>>,
    listener: Option<JoinHandle<()>>,
}

/// What a process wrote to standard error.
#[derive(Debug, Default)]
struct Said {
    lines: VecDeque<String>,
    /// Lines before them that are not kept.
    left_out: u64,
}

impl Process {
    /// Starts this binary with `arguments`, inside `ns` where one is given. The second value is its standard output.
    pub fn start(
        name: String,
        ns: Option<&NetNs>,
        arguments: &[&OsStr],
    ) -> Result<(Process, Option<ChildStdout>)> {
        let program = std::env::current_exe().context("the path of this program is not known")?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // These speak of the lab's own service manager.
        command.env_remove("NOTIFY_SOCKET").env_remove("JOURNAL_STREAM");
        let spawned = match ns {
            Some(ns) => ns.run(|| command.spawn()).and_then(|spawned| spawned),
            None => command.spawn(),
        };
        let mut child = spawned.with_context(|| format!("{name} could not be started"))?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let said = Arc::new(Mutex::new(Said::default()));
        let listener = child.stderr.take().map(|errors| {
            let said = said.clone();
            std::thread::spawn(move || listen(BufReader::new(errors), &said))
        });
        Ok((Process { name, child, input, said, listener }, output))
    }

    /// Writes a line to its standard input.
    pub fn tell(&mut self, line: &str) -> Result<()> {
        let told = self.input.as_mut().map(|input| writeln!(input, "{line}"));
        match told {
            Some(Ok(())) => Ok(()),
            _ => Err(self.gone()),
        }
    }

    /// Fails where it has ended, with what it said last.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            _ => Err(self.gone()),
        }
    }

    /// The error that says that it ended, and why as far as is known. It is waited for a moment.
    pub fn gone(&mut self) -> anyhow::Error {
        let Some(status) = self.ended(Instant::now() + Duration::from_millis(500)) else {
            return anyhow!("{} does not listen any more", self.name);
        };
        // The rest of what it said is in the pipe.
        self.listener.take().map(JoinHandle::join);
        let said = self.said();
        let why = said[said.len().saturating_sub(3)..].join("; ");
        let why = if why.is_empty() { "it said nothing".into() } else { why };
        anyhow!("{} has ended ({status}): {why}", self.name)
    }

    /// What it wrote to standard error so far: the last lines, without a stamp of time.
    pub fn said(&self) -> Vec<String> {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let left_out =
            (said.left_out > 0).then(|| format!("... {} lines before these are left out", said.left_out));
        left_out.into_iter().chain(said.lines.iter().cloned()).collect()
    }

    /// Tells it to stop, without waiting.
    pub fn hang_up(&mut self) {
        self.input = None;
    }

    /// Waits until it has ended, at most until `deadline`.
    fn ended(&mut self, deadline: Instant) -> Option<ExitStatus> {
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            if Instant::now() >= deadline {
                return None;
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.hang_up();
        if self.ended(Instant::now() + STOP).is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        self.listener.take().map(JoinHandle::join);
    }
}

/// Keeps what comes until the process closes its end.
fn listen(errors: impl BufRead, said: &Mutex<Said>) {
    for line in errors.split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        let line = without_time(&line).to_string();
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.lines.len() == KEPT_LINES {
            said.lines.pop_front();
            said.left_out += 1;
        }
        said.lines.push_back(line);
    }
}

/// A line of a log without its stamp: a lab is short.
fn without_time(line: &str) -> &str {
    match line.split_once(' ') {
        Some((stamp, rest)) if stamp.ends_with('Z') && stamp.contains('T') => rest.trim_start(),
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_without_their_stamps() {
        let said = Mutex::new(Said::default());
        let text: String = (0..KEPT_LINES + 7)
            .map(|number| format!("2026-11-27T12:00:00.000001Z  WARN line {number}\n"))
            .collect();
        listen(text.as_bytes(), &said);
        let said = said.into_inner().unwrap();
        assert_eq!((said.lines.len(), said.left_out), (KEPT_LINES, 7));
        assert_eq!(said.lines[0], "WARN line 7");
        assert_eq!(without_time("To be or not"), "To be or not");
        assert_eq!(without_time("error: it ended"), "error: it ended");
    }
}
