//! `lamina trace`: what policy does to a packet, layer by layer, and why.
//!
//! The policy files are loaded into a switch in memory, together with an uplink beyond which every address is
//! reachable, and the core's simulation is asked. Packets given with `--after` are sent through that switch for
//! real first, so that the conversations exist which the traced packet may belong to. Without policy files the running
//! switch is asked, through its daemon.

mod frame;
mod input;
mod live;
mod packet;
mod scene;
mod sent;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::anyhow;
use clap::{Args, ValueEnum};
use lamina_core::flow::Direction;
use lamina_daemon::convert::{PortIds, UPLINK};
use lamina_daemon::explain;

use crate::host::{DaemonArgs, print_json, print_line, print_text};
use input::Input;
use scene::Scene;

/// Show what policy does to a packet, layer by layer, and why.
#[derive(Debug, Args)]
#[command(after_help = packet::SYNTAX)]
pub struct TraceArgs {
    /// A policy file; given several times, the documents of several controllers for one host. Without one, the running
    /// switch is asked.
    #[arg(short, long, value_name = "FILE", conflicts_with = "live")]
    policy: Vec<PathBuf>,
    /// Ask the running switch, also said by leaving out policy files.
    #[arg(long)]
    live: bool,
    /// The daemon's socket.
    #[arg(long, value_name = "PATH", env = "LAMINA_SOCKET", default_value = "/run/lamina/lamina.sock")]
    socket: PathBuf,
    /// From the running switch: also groups and rules that did not match.
    #[arg(long, conflicts_with = "policy")]
    verbose: bool,
    /// The port that the packet crosses, or `uplink` for a packet from the network.
    #[arg(long)]
    port: String,
    /// Outbound from the port's NIC, or inbound to it.
    #[arg(long, value_enum, default_value = "outbound")]
    direction: DirectionArg,
    /// For inbound packets: the port by which they entered the switch; `uplink` unless given.
    #[arg(long)]
    from: Option<String>,
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
    /// This host's address on the underlay: tunnels to it end here, tunnels without `local` come from it. Unless given,
    /// 192.0.2.1 and 2001:db8::1.
    #[arg(long, value_name = "ADDRESS")]
    uplink_address: Vec<IpAddr>,
    /// The uplink's MTU in bytes; 65535 unless given.
    #[arg(long)]
    uplink_mtu: Option<u32>,
    /// Print the trace as JSON.
    #[arg(long)]
    pub json: bool,
    /// The packet, in words; see below.
    #[arg(value_name = "PACKET", num_args = 0.., required_unless_present_any = ["hex", "pcap"])]
    packet: Vec<String>,
}

impl TraceArgs {
    /// The daemon to ask.
    fn daemon(&self) -> DaemonArgs {
        DaemonArgs { socket: self.socket.clone(), json: self.json }
    }
}

/// Addresses and MTU of the uplink of a switch in memory, unless others are given.
const UPLINK_ADDRESSES: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];
const UPLINK_MTU: u32 = 65_535;

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum DirectionArg {
    Inbound,
    Outbound,
}

/// Runs the command; the exit code is 1 when nothing could be traced, not when the packet is dropped.
pub fn run(args: &TraceArgs) -> anyhow::Result<ExitCode> {
    let direction = match args.direction {
        DirectionArg::Inbound => Direction::Inbound,
        DirectionArg::Outbound => Direction::Outbound,
    };
    if args.policy.is_empty() {
        return live::run(args, direction);
    }
    let mut ids = PortIds::default();
    let converted = match crate::policy::load(&args.policy, &mut ids)? {
        Ok(converted) => converted,
        Err(report) => {
            eprint!("{}", report.render(crate::policy::colours(&std::io::stderr())));
            eprintln!("this policy cannot be used");
            return Ok(ExitCode::FAILURE);
        }
    };
    let addresses = if args.uplink_address.is_empty() { &UPLINK_ADDRESSES[..] } else { &args.uplink_address };
    let mut scene = Scene::new(converted.policy, ids, addresses, args.uplink_mtu.unwrap_or(UPLINK_MTU))?;
    let mut before = Vec::new();
    for text in &args.after {
        let (from, packet) = sender(text, &args.port, direction)?;
        let from = scene.port(from)?;
        let macs = scene.macs(from, Direction::Outbound);
        let frame = Input::Text(packet).frame(macs)?;
        let became = scene.send(from, &frame);
        if !args.json {
            print_line(&format!("sent   {}", sent::text(&frame, &became)))?;
        }
        before.push((frame, became));
    }
    let id = scene.port(&args.port)?;
    let words = args.packet.join(" ");
    let frame = Input::of(args, &words).frame(scene.macs(id, direction))?;
    let trace = scene
        .trace(id, direction, scene.port(args.from.as_deref().unwrap_or(UPLINK))?, &frame)
        .ok_or_else(|| anyhow!("port `{}` cannot be traced in this direction", args.port))?;
    if args.json {
        let mut value = explain::json(&scene, &frame, &trace);
        value["sent"] = before.iter().map(|(frame, became)| sent::json(frame, became)).collect();
        print_json(&value)?;
    } else {
        print_text(&explain::text(&scene, &frame, &trace))?;
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
