//! `lamina events`: what happens on the host, as it happens.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use lamina_api::wire::v1::{Event, EventKind, EventsRequest};
use lamina_daemon::explain::decode;
use serde_json::{Value, json};

use super::DaemonArgs;
use super::name::way;
use super::output::{json, line, printable, time};

/// Follow what happens: mapping misses, punted packets, tables that are full, rates exceeded, ports up and down.
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Only events of these kinds; without one, all.
    #[arg(value_enum)]
    kinds: Vec<EventArg>,
    /// The controller to act as; misses and punts are told to their owners and agents only.
    #[arg(long = "as", value_name = "CONTROLLER")]
    controller: Option<String>,
    /// Begin after the event with this number, as far as it is kept; 0 for new events only.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    after: u64,
    /// End after so many events.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    #[command(flatten)]
    daemon: DaemonArgs,
}

/// A kind of events.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum EventArg {
    MappingMiss,
    Punt,
    Limit,
    Rate,
    PortUp,
    PortDown,
    Lost,
}

impl EventArg {
    fn kind(self) -> EventKind {
        match self {
            EventArg::MappingMiss => EventKind::MappingMiss,
            EventArg::Punt => EventKind::Punt,
            EventArg::Limit => EventKind::Limit,
            EventArg::Rate => EventKind::Rate,
            EventArg::PortUp => EventKind::PortUp,
            EventArg::PortDown => EventKind::PortDown,
            EventArg::Lost => EventKind::Lost,
        }
    }
}

/// The stable name of a kind.
fn kind_name(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Unspecified => "unknown",
        EventKind::MappingMiss => "mapping-miss",
        EventKind::Punt => "punt",
        EventKind::Limit => "limit",
        EventKind::Rate => "rate",
        EventKind::PortUp => "port-up",
        EventKind::PortDown => "port-down",
        EventKind::Lost => "lost",
    }
}

/// Runs the command; it ends when the daemon ends the call.
pub fn run(args: &EventsArgs) -> anyhow::Result<ExitCode> {
    args.daemon.run(async || {
        let mut host = args.daemon.connect().await?;
        let request = EventsRequest {
            controller: args.controller.clone().unwrap_or_default(),
            kinds: args.kinds.iter().map(|kind| kind.kind().into()).collect(),
            after_sequence: args.after,
        };
        let mut events = host.events(request).await?.into_inner();
        let mut left = args.count.unwrap_or(u64::MAX);
        while left > 0 {
            let Some(event) = events.message().await? else { break };
            left -= 1;
            if args.daemon.json {
                json(&to_json(&event))?;
            } else {
                line(&printable(&render(&event)))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn render(event: &Event) -> String {
    let head = format!("{} {} {}", event.sequence, time(event.time), kind_name(event.kind()));
    let port = if event.port.is_empty() { String::new() } else { format!(" port {}", event.port) };
    let what = match event.kind() {
        EventKind::MappingMiss => {
            let tenant =
                if event.tenant == 0 { String::new() } else { format!(" of tenant {}", event.tenant) };
            format!(": {}{tenant} is not in mapping {}", event.address, event.table)
        }
        EventKind::Punt => format!(
            ": {} by layer {} rule {}/{}, queue {}, {} bytes: {}",
            way(event.direction),
            event.layer,
            event.group,
            event.rule,
            event.queue,
            event.length,
            decode::line(&event.packet)
        ),
        EventKind::Limit => format!(": {} is full, its limit is {}", event.table, event.limit),
        EventKind::Rate => {
            let of =
                if event.table.is_empty() { String::new() } else { format!(" of limit {}", event.table) };
            let key =
                if event.key.is_empty() { String::new() } else { format!(" for {}", event.key.join(" ")) };
            format!(
                ": {} {}/{}/{} drops what exceeds {} a second{of}{key}",
                way(event.direction),
                event.layer,
                event.group,
                event.rule,
                event.limit
            )
        }
        EventKind::Lost => format!(": {} events were lost, this reader is too slow", event.lost),
        EventKind::PortUp | EventKind::PortDown | EventKind::Unspecified => String::new(),
    };
    format!("{head}{port}{what}")
}

fn to_json(event: &Event) -> Value {
    let mut value = json!({
        "sequence": event.sequence, "time": event.time, "kind": kind_name(event.kind()), "port": event.port,
    });
    match event.kind() {
        EventKind::MappingMiss => {
            value["table"] = json!(event.table);
            value["address"] = json!(event.address);
            value["tenant"] = json!(event.tenant);
        }
        EventKind::Punt => {
            value["layer"] = json!(event.layer);
            value["group"] = json!(event.group);
            value["rule"] = json!(event.rule);
            value["direction"] = json!(way(event.direction));
            value["queue"] = json!(event.queue);
            value["length"] = json!(event.length);
            value["packet"] = json!(hex(&event.packet));
        }
        EventKind::Limit => {
            value["table"] = json!(event.table);
            value["limit"] = json!(event.limit);
        }
        EventKind::Rate => {
            value["layer"] = json!(event.layer);
            value["group"] = json!(event.group);
            value["rule"] = json!(event.rule);
            value["direction"] = json!(way(event.direction));
            value["table"] = json!(event.table);
            value["key"] = json!(event.key);
            value["limit"] = json!(event.limit);
        }
        EventKind::Lost => value["lost"] = json!(event.lost),
        EventKind::PortUp | EventKind::PortDown | EventKind::Unspecified => {}
    }
    value
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
