//! `lamina trace`: what policy does to a packet, layer by layer, and why.
//!
//! The policy files are loaded into a switch in memory, together with an uplink beyond which every address is
//! reachable, and the core's simulation is asked. Packets given with `--after` are sent through that switch for
//! real first, so that the conversations exist which the traced packet may belong to.

mod frame;
mod input;
mod packet;
mod scene;
mod sent;

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::anyhow;
use clap::{Args, ValueEnum};
use lamina_core::flow::Direction;
use lamina_daemon::convert::{PortIds, UPLINK};
use lamina_daemon::explain;

use input::Input;
use scene::Scene;

/// Show what policy does to a packet, layer by layer, and why.
#[derive(Debug, Args)]
#[command(after_help = packet::SYNTAX)]
pub struct TraceArgs {
    /// A policy file; given several times, the documents of several controllers for one host.
    #[arg(short, long, required = true, value_name = "FILE")]
    policy: Vec<PathBuf>,
    /// The port that the packet crosses, or `uplink` for a packet from the network.
    #[arg(long)]
    port: String,
    /// Outbound from the port's NIC, or inbound to it.
    #[arg(long, value_enum, default_value = "outbound")]
    direction: DirectionArg,
    /// For inbound packets: the port by which they entered the switch.
    #[arg(long, default_value = UPLINK)]
    from: String,
    /// Packets to send for real first, each from a port's NIC or from `uplink`: "vm1: tcp ...". Without a port it
    /// is the traced one.
    #[arg(long, value_name = "[PORT:] PACKET")]
    after: Vec<String>,
    /// The frame as hexadecimal bytes; spaces and colons may stand between them.
    #[arg(long, value_name = "BYTES", conflicts_with_all = ["pcap", "packet"])]
    hex: Option<String>,
    /// Take the frame from a pcap or pcapng file.
    #[arg(long, value_name = "FILE", conflicts_with = "packet")]
    pcap: Option<PathBuf>,
    /// Which frame of the file, counted from 1.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "pcap")]
    frame: usize,
    /// This host's address on the underlay: tunnels to it end here, tunnels without `local` come from it.
    #[arg(long, value_name = "ADDRESS", default_values = ["192.0.2.1", "2001:db8::1"])]
    uplink_address: Vec<IpAddr>,
    /// The uplink's MTU in bytes.
    #[arg(long, default_value_t = 65_535)]
    uplink_mtu: u32,
    /// Print the trace as JSON.
    #[arg(long)]
    json: bool,
    /// The packet, in words; see below.
    #[arg(value_name = "PACKET", num_args = 0.., required_unless_present_any = ["hex", "pcap"])]
    packet: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum DirectionArg {
    Inbound,
    Outbound,
}

/// Runs the command; the exit code is 1 when nothing could be traced, not when the packet is dropped.
pub fn run(args: &TraceArgs) -> anyhow::Result<ExitCode> {
    let mut ids = PortIds::default();
    let converted = match crate::policy::load(&args.policy, &mut ids)? {
        Ok(converted) => converted,
        Err(report) => {
            eprint!("{}", report.render(crate::policy::colours(&std::io::stderr())));
            eprintln!("this policy cannot be used");
            return Ok(ExitCode::FAILURE);
        }
    };
    let mut scene = Scene::new(converted.policy, ids, &args.uplink_address, args.uplink_mtu)?;
    let direction = match args.direction {
        DirectionArg::Inbound => Direction::Inbound,
        DirectionArg::Outbound => Direction::Outbound,
    };
    let mut before = Vec::new();
    for text in &args.after {
        let (from, packet) = sender(text, &args.port, direction)?;
        let from = scene.port(from)?;
        let macs = scene.macs(from, Direction::Outbound);
        let frame = Input::Text(packet).frame(macs)?;
        let became = scene.send(from, &frame);
        if !args.json {
            println!("sent   {}", sent::text(&frame, &became));
        }
        before.push((frame, became));
    }
    let id = scene.port(&args.port)?;
    let words = args.packet.join(" ");
    let input = match (&args.hex, &args.pcap) {
        (Some(hex), _) => Input::Hex(hex),
        (_, Some(path)) => Input::Pcap(path, args.frame),
        _ => Input::Text(&words),
    };
    let frame = input.frame(scene.macs(id, direction))?;
    let trace = scene
        .trace(id, direction, scene.port(&args.from)?, &frame)
        .ok_or_else(|| anyhow!("port `{}` cannot be traced in this direction", args.port))?;
    if args.json {
        let mut value = explain::json(&scene, &frame, &trace);
        value["sent"] = before.iter().map(|(frame, became)| sent::json(frame, became)).collect();
        println!("{value}");
    } else {
        print!("{}", explain::text(&scene, &frame, &trace));
    }
    Ok(ExitCode::SUCCESS)
}

/// `vm1: tcp ...` as port and packet.
fn sender<'t>(text: &'t str, traced: &'t str, direction: Direction) -> anyhow::Result<(&'t str, &'t str)> {
    let prefix =
        text.split_once(": ").filter(|(port, _)| !port.is_empty() && !port.contains(char::is_whitespace));
    match prefix {
        Some((port, packet)) => Ok((port, packet)),
        None if direction == Direction::Outbound => Ok((traced, text)),
        None => Err(anyhow!("say from where \"{text}\" is sent: a port's NIC (`vm2: ...`) or `uplink: ...`")),
    }
}
