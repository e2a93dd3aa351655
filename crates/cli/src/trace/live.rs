//! A trace through the running switch, with the state that it has: its daemon is asked.

use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use lamina_api::Mac;
use lamina_api::wire::v1::object::Content;
use lamina_api::wire::v1::{Direction, Kind, StatusRequest, TraceRequest};
use lamina_core::flow;
use lamina_daemon::convert::UPLINK;
use serde_json::Value;

use super::frame::{DefaultMacs, ELSEWHERE};
use super::{TraceArgs, input};
use crate::host::{Host, Usage, object, plain, print_json, print_text};

/// Asks the daemon what its switch does with the packet; the exit code is 1 when it could not say.
pub fn run(args: &TraceArgs, direction: flow::Direction) -> anyhow::Result<ExitCode> {
    let daemon = args.daemon();
    daemon.run(async || {
        let given = [
            (!args.after.is_empty(), "--after"),
            (args.from.is_some(), "--from"),
            (!args.uplink_address.is_empty(), "--uplink-address"),
            (args.uplink_mtu.is_some(), "--uplink-mtu"),
        ];
        if let Some((_, flag)) = given.iter().find(|(is_given, _)| *is_given) {
            bail!(Usage(format!(
                "{flag} describes a switch in memory: it needs policy files (-p); the daemon's switch is as it is"
            )));
        }
        let mut host = daemon.connect().await?;
        let macs = macs(&mut host, &args.port, direction).await?;
        let words = args.packet.join(" ");
        let packet = input::Input::of(args, &words).frame(macs)?;
        let direction = match direction {
            flow::Direction::Inbound => Direction::Inbound,
            flow::Direction::Outbound => Direction::Outbound,
        };
        let request = TraceRequest {
            port: args.port.clone(),
            direction: direction.into(),
            packet,
            verbose: args.verbose,
        };
        let reply = host.trace(request).await?.into_inner();
        if args.json {
            let value: Value =
                serde_json::from_str(&reply.json).context("the daemon's trace is not JSON: please report it")?;
            print_json(&value)?;
        } else {
            print_text(&reply.text)?;
            if args.hex.is_none() && args.pcap.is_none() && !words.contains("eth-dst=") {
                let trace: Value = serde_json::from_str(&reply.json).unwrap_or_default();
                if finds_nobody(&trace["trace"]) {
                    eprintln!(
                        "help: {ELSEWHERE} stands where a packet names no destination MAC; say the one that the \
                         guest sends to: eth-dst=MAC"
                    );
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// True when the packet, or a copy of it, goes to a MAC that is nobody's.
fn finds_nobody(crossing: &Value) -> bool {
    crossing["outcome"]["reason"] == "no-such-destination"
        || crossing["next"].as_array().is_some_and(|next| next.iter().any(finds_nobody))
}

/// The Ethernet addresses of a packet that names none, crossing `port` in `direction`.
async fn macs(host: &mut Host, port: &str, direction: flow::Direction) -> anyhow::Result<DefaultMacs> {
    let found = object::list(host, plain(Kind::Port, port), "").await?;
    let content = found.into_iter().next().and_then(|object| object.content);
    if let Some(Content::Port(found)) = content {
        let mac = parse_mac(&found.mac)?;
        return Ok(match direction {
            flow::Direction::Outbound => DefaultMacs { src: mac, dst: ELSEWHERE },
            flow::Direction::Inbound => DefaultMacs { src: ELSEWHERE, dst: mac },
        });
    }
    let status = host.status(StatusRequest {}).await?.into_inner();
    let names = || {
        status.ports.iter().map(|port| &*port.name).chain(status.uplinks.iter().map(|uplink| &*uplink.name))
    };
    // The first uplink is what policy calls so.
    match status.uplinks.iter().enumerate().find(|(at, it)| it.name == port || (*at == 0 && port == UPLINK)) {
        Some((_, uplink)) => Ok(DefaultMacs { src: ELSEWHERE, dst: parse_mac(&uplink.mac)? }),
        None => bail!(
            "there is no port `{port}`; {}",
            lamina_api::suggest::did_you_mean(port, names().collect::<Vec<_>>(), "ports are")
        ),
    }
}

fn parse_mac(text: &str) -> anyhow::Result<Mac> {
    text.parse().map_err(|_| anyhow!("the daemon names the MAC `{text}`, which is none: please report it"))
}
