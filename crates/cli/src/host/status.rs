//! `lamina status`: the daemon, its workers, uplinks and ports.

use std::process::ExitCode;

use clap::Args;
use lamina_api::wire::v1::{StatusReply, StatusRequest};
use serde_json::{Value, json};

use super::DaemonArgs;
use super::output::{Rows, json, or_dash, text, time};

/// Show the daemon, its workers, uplinks and ports.
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    daemon: DaemonArgs,
}

/// Runs the command.
pub fn run(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    args.daemon.run(async || {
        let mut host = args.daemon.connect().await?;
        let status = host.status(StatusRequest {}).await?.into_inner();
        if args.daemon.json {
            json(&to_json(&status))?
        } else {
            text(&render(&status))?
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn render(status: &StatusReply) -> String {
    let mut out = format!(
        "lamina {}, revision {}, started {}\nyou may be: {}\n",
        status.version,
        status.revision,
        time(status.started),
        who(status)
    );
    let mut rows = Rows::new(&["PORT", "STATE", "DEVICE", ">WORKER", ">GENERATION"]);
    for port in &status.ports {
        rows.add([
            port.name.clone(),
            port.state.clone(),
            or_dash(&port.device).to_string(),
            port.worker.to_string(),
            port.generation.to_string(),
        ]);
    }
    section(&mut out, &rows, status.ports.is_empty());
    let mut rows = Rows::new(&["UPLINK", "MAC", ">MTU", ">RECEIVED", ">SENT", "ADDRESSES"]);
    for uplink in &status.uplinks {
        rows.add([
            uplink.name.clone(),
            uplink.mac.clone(),
            uplink.mtu.to_string(),
            uplink.received_packets.to_string(),
            uplink.transmitted_packets.to_string(),
            uplink.addresses.join(" "),
        ]);
    }
    section(&mut out, &rows, status.uplinks.is_empty());
    let mut rows = Rows::new(&[">WORKER", ">PORTS", ">BUFFERS"]);
    for worker in &status.workers {
        rows.add([u64::from(worker.number), u64::from(worker.ports), worker.buffers_in_use]);
    }
    section(&mut out, &rows, status.workers.is_empty());
    let mut rows = Rows::new(&["API COUNTER", ">COUNT"]);
    for (name, count) in &status.api_counters {
        rows.add([name.clone(), count.to_string()]);
    }
    section(&mut out, &rows, status.api_counters.is_empty());
    out
}

/// Which controllers the caller may be.
fn who(status: &StatusReply) -> String {
    match (status.administrator, &status.controllers[..]) {
        (true, [only]) => format!("every controller; `{only}` unless --as names another"),
        (true, []) => "every controller".into(),
        (true, several) => format!("every controller; listed are {}", several.join(", ")),
        (false, controllers) => or_dash(&controllers.join(", ")).into(),
    }
}

fn section(out: &mut String, rows: &Rows, is_empty: bool) {
    if !is_empty {
        out.push('\n');
        out.push_str(&rows.text());
    }
}

fn to_json(status: &StatusReply) -> Value {
    let ports = status.ports.iter().map(|port| {
        json!({
            "name": port.name, "state": port.state, "device": port.device, "worker": port.worker,
            "generation": port.generation,
        })
    });
    let uplinks = status.uplinks.iter().map(|uplink| {
        json!({
            "name": uplink.name, "mac": uplink.mac, "addresses": uplink.addresses, "mtu": uplink.mtu,
            "received-packets": uplink.received_packets, "received-bytes": uplink.received_bytes,
            "transmitted-packets": uplink.transmitted_packets, "transmitted-bytes": uplink.transmitted_bytes,
        })
    });
    let workers = status.workers.iter().map(|worker| {
        json!({ "number": worker.number, "ports": worker.ports, "buffers-in-use": worker.buffers_in_use })
    });
    json!({
        "version": status.version, "revision": status.revision, "started": status.started,
        "controllers": status.controllers, "administrator": status.administrator, "ports": ports.collect::<Value>(),
        "uplinks": uplinks.collect::<Value>(), "workers": workers.collect::<Value>(),
        "api-counters": status.api_counters,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_administrator_may_be_every_controller() {
        let told = |administrator, controllers: &[&str]| {
            let controllers = controllers.iter().map(|name| name.to_string()).collect();
            who(&StatusReply { administrator, controllers, ..StatusReply::default() })
        };
        assert_eq!(told(true, &["local"]), "every controller; `local` unless --as names another");
        assert_eq!(told(true, &["acl", "vnet"]), "every controller; listed are acl, vnet");
        assert_eq!((told(false, &["acl"]), told(false, &[])), ("acl".into(), "-".into()));
    }
}
