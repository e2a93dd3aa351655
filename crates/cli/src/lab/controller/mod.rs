//! A controller of the lab: one process for one policy of one host.
//!
//! The process ([`serve`]) is connected to the host's daemon as its owner and stays so. The lab hands it documents and
//! hears what became of them; lines of JSON go each way.
//!
//! | to the process | it |
//! | --- | --- |
//! | `{"put": "version: 1\n..."}` | makes the daemon have what the document says, and no more what an earlier one of its own said |
//! | `{"remove": true}` | takes back what it put |
//!
//! It answers each with what changed, or `{"refused": "why"}`.

mod serve;

pub use serve::{ControllerArgs, run};

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use lamina_api::wire::{to_yaml, v1};
use prost::Message;
use serde_json::{Value, json};

use super::process::Process;

/// How long an answer may take: a transaction takes milliseconds.
const ANSWER: Duration = Duration::from_secs(60);

/// A controller's process.
#[derive(Debug)]
pub struct Controller {
    name: String,
    process: Process,
    answers: Receiver<String>,
}

/// What a transaction changed.
#[derive(Clone, Debug)]
pub struct Applied {
    /// Ports of whose layers some changed.
    pub ports: usize,
    /// Objects that were made, changed or removed.
    pub changes: u64,
    /// From the end of the request to the moment when every worker ran it.
    pub effective_after: Duration,
    /// From the request to the answer, as the controller saw it.
    pub took: Duration,
}

impl Controller {
    /// Starts the controller of the policy `policy` of `host`, as `owner`.
    pub fn start(host: &str, policy: &str, owner: &str, socket: &Path) -> Result<Controller> {
        let words = [
            "lab".as_ref(),
            "controller".as_ref(),
            "--as".as_ref(),
            owner.as_ref(),
            "--socket".as_ref(),
            socket.as_os_str(),
        ];
        let name = format!("the controller {policy} of {host}");
        let (process, output) = Process::start(name.clone(), None, &words)?;
        let output = output.context("a process has no standard output")?;
        let (told, answers) = channel();
        // It ends with the process.
        std::thread::spawn(move || {
            let lines = BufReader::new(output).lines().map_while(Result::ok);
            lines.take_while(|line| told.send(line.clone()).is_ok()).for_each(drop);
        });
        Ok(Controller { name, process, answers })
    }

    /// Has the daemon have what `document` says in place of what this controller had it have before. The inner error
    /// says why the daemon refused.
    pub fn put(&mut self, document: &v1::Document) -> Result<Result<Applied, String>> {
        let yaml = to_yaml("Document", &document.encode_to_vec()).map_err(|error| anyhow!("{error}"))?;
        self.ask(&json!({ "put": yaml }))
    }

    /// Takes back what this controller put. The inner error says why the daemon refused.
    pub fn remove(&mut self) -> Result<Result<Applied, String>> {
        self.ask(&json!({ "remove": true }))
    }

    /// What it wrote to standard error.
    pub fn said(&self) -> Vec<String> {
        self.process.said()
    }

    /// Fails where it has ended.
    pub fn check(&mut self) -> Result<()> {
        self.process.check()
    }

    /// Tells it to stop, without waiting.
    pub fn hang_up(&mut self) {
        self.process.hang_up();
    }

    fn ask(&mut self, question: &Value) -> Result<Result<Applied, String>> {
        self.process.tell(&question.to_string())?;
        let answer = match self.answers.recv_timeout(ANSWER) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => bail!("{} did not answer within {ANSWER:?}", self.name),
            Err(RecvTimeoutError::Disconnected) => return Err(self.process.gone()),
        };
        let answer: Value =
            serde_json::from_str(&answer).with_context(|| format!("{} answered {answer:?}", self.name))?;
        if let Some(why) = answer["refused"].as_str() {
            return Ok(Err(why.into()));
        }
        let number = |key: &str| {
            answer[key].as_u64().with_context(|| format!("{} answered {answer} without `{key}`", self.name))
        };
        Ok(Ok(Applied {
            ports: number("ports")? as usize,
            changes: number("changes")?,
            effective_after: Duration::from_nanos(number("effective-after")?),
            took: Duration::from_nanos(number("took")?),
        }))
    }
}
