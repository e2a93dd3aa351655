//! The controller's process: `lamina lab controller`, which only the lab starts.
//!
//! It is a client like any other. Everything it puts belongs to its owner; it remembers what it put, so that of two
//! controllers of one owner each takes back its own only. It never makes ports, except where the document states
//! their properties, which the lab leaves to one controller.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use lamina_api::Source;
use lamina_api::wire::read;
use lamina_api::wire::v1::{ApplyReply, Kind, Operation, Ref};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::host::apply::{File, Transaction, fit, names, of_files, removal_of, send};
use crate::host::{DaemonArgs, Failure, Host, name, object};

/// Put policies for a lab; it is told which on standard input, and stops when that ends.
#[derive(Debug, Args)]
pub struct ControllerArgs {
    /// The controller to act as.
    #[arg(long = "as", value_name = "CONTROLLER")]
    owner: String,
    #[command(flatten)]
    daemon: DaemonArgs,
}

/// Runs the command.
pub fn run(args: &ControllerArgs) -> Result<ExitCode> {
    args.daemon.run(async || {
        let host = args.daemon.connect().await?;
        let mut controller = Serving { owner: args.owner.clone(), host, has: BTreeMap::new() };
        let mut lines = lines_of_input();
        while let Some(line) = lines.recv().await {
            let answer = match controller.carry_out(&line).await {
                Ok(answer) => answer,
                Err(error) => json!({ "refused": why(&error) }),
            };
            crate::host::print_json(&answer)?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// The lines of standard input. While one is waited for, the connection to the daemon is kept.
fn lines_of_input() -> mpsc::Receiver<String> {
    let (told, lines) = mpsc::channel(1);
    std::thread::spawn(move || {
        let lines = std::io::stdin().lock().lines().map_while(Result::ok);
        lines.take_while(|line| told.blocking_send(line.clone()).is_ok()).for_each(drop);
    });
    lines
}

/// A connected controller.
struct Serving {
    owner: String,
    host: Host,
    /// What it put, by its full name.
    has: BTreeMap<String, Ref>,
}

impl Serving {
    async fn carry_out(&mut self, line: &str) -> Result<Value> {
        let order: Value = serde_json::from_str(line).context("no JSON was read")?;
        match (order["put"].as_str(), order["remove"].as_bool()) {
            (Some(text), _) => {
                let source = Source::new("policy", text);
                let document = read::document(&source).map_err(Failure::Policy)?;
                let named = names(&document).into_iter().map(|object| (name::full(&object), object));
                let named = named.collect();
                let put = of_files(&[File { source, document }]).map_err(Failure::Policy)?;
                let put = fit(&mut self.host, put).await?;
                self.change(named, put).await
            }
            (None, Some(true)) => self.change(BTreeMap::new(), Vec::new()).await,
            _ => bail!("neither `put` nor `remove` was read"),
        }
    }

    /// Carries out `put`, after which this controller has `named` and no more what it had.
    async fn change(&mut self, named: BTreeMap<String, Ref>, put: Vec<Operation>) -> Result<Value> {
        let is_gone = |(full, object): &(&String, &Ref)| {
            // Other policies may use a metadata key as well, and it costs nothing; a port has other owners' layers.
            !named.contains_key(*full) && !matches!(object.kind(), Kind::Metadata | Kind::Port)
        };
        let gone = self.has.iter().filter(is_gone).map(|(_, object)| object.clone()).collect();
        let operations: Vec<Operation> = put.into_iter().chain(removal_of(gone)).collect();
        let transaction =
            Transaction { controller: self.owner.clone(), operations, ..Transaction::default() };
        let began = Instant::now();
        let reply = send(&mut self.host, transaction).await?;
        let took = began.elapsed();
        let reply = reply.map_err(|status| Failure::refused(&status, &[]))?;
        self.has = named;
        Ok(answer(&reply, took))
    }
}

fn answer(reply: &ApplyReply, took: std::time::Duration) -> Value {
    let objects = reply.changes.iter().filter_map(|change| change.object.as_ref()).map(object::reference);
    let ports: BTreeSet<String> = objects
        .map(|object| if object.kind() == Kind::Port { object.name } else { object.port })
        .filter(|port| !port.is_empty())
        .collect();
    json!({
        "ports": ports.len(), "changes": reply.created + reply.updated + reply.deleted,
        "effective-after": reply.effective_after, "took": took.as_nanos() as u64,
    })
}

/// The error in one line.
fn why(error: &anyhow::Error) -> String {
    if let Some(Failure::Policy(report)) = error.downcast_ref() {
        let messages: Vec<_> = report.diagnostics().iter().map(|found| found.message.clone()).collect();
        return messages.join("; ");
    }
    if let Some(status) = error.downcast_ref::<tonic::Status>() {
        return format!("the daemon refused: {}", status.message());
    }
    format!("{error:#}")
}
