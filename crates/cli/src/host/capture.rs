//! `lamina capture`: copies of packets at any point of the pipeline, as lines or as a pcapng file.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, ValueEnum};
use lamina_api::pcapng::{Packet, Way, Writer};
use lamina_api::wire::v1::{CaptureRequest, CapturedPacket, Direction};
use lamina_daemon::explain::decode;
use serde_json::{Value, json};

use super::events::hex;
use super::flows::FilterArgs;
use super::name::way;
use super::output::{count, json, line, printable, time};
use super::{DaemonArgs, Host};

/// Copy packets at points of the pipeline, as lines or into a pcapng file.
#[derive(Debug, Args)]
pub struct CaptureArgs {
    /// Ports; without one, all.
    ports: Vec<String>,
    /// Points of the pipeline: nic, uplink, drop, or layer:NAME (as the packet enters the layer).
    #[arg(long = "point", value_name = "POINT", value_delimiter = ',', default_value = "nic", value_parser = point)]
    points: Vec<String>,
    #[command(flatten)]
    filter: FilterArgs,
    /// Only packets of which became this.
    #[arg(long, value_enum, value_delimiter = ',')]
    verdict: Vec<Verdict>,
    /// Only packets that were dropped for this reason.
    #[arg(long, value_name = "REASON", value_parser = super::drops::reason)]
    reason: Option<String>,
    /// Write into this pcapng file, `-` for standard output, instead of lines.
    #[arg(short, long, value_name = "FILE", conflicts_with = "json")]
    write: Option<PathBuf>,
    /// The first bytes of each packet only; 0 for all.
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    snap: u32,
    /// End after so many packets.
    #[arg(short, long, value_name = "N")]
    count: Option<u64>,
    /// End after so many seconds.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    duration: Option<u64>,
    #[command(flatten)]
    daemon: DaemonArgs,
}

/// What became of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Verdict {
    Forward,
    Reply,
    Drop,
    Consume,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Verdict::Forward => "forward",
            Verdict::Reply => "reply",
            Verdict::Drop => "drop",
            Verdict::Consume => "consume",
        }
    }
}

fn point(text: &str) -> Result<String, String> {
    match text {
        "nic" | "uplink" | "drop" => Ok(text.into()),
        _ if text.strip_prefix("layer:").is_some_and(|name| !name.is_empty()) => Ok(text.into()),
        _ => Err("a point is `nic`, `uplink`, `drop` or `layer:NAME`".into()),
    }
}

/// Runs the command; it ends at a bound or when it is interrupted.
pub fn run(args: &CaptureArgs) -> anyhow::Result<ExitCode> {
    args.daemon.run(async || {
        let filter = args.filter.filter(None, false)?;
        let mut host = args.daemon.connect().await?;
        // Which verdict a packet has is looked at here: then so many must pass as shall be told.
        let is_narrowed = !args.verdict.is_empty() || args.reason.is_some();
        let request = CaptureRequest {
            ports: args.ports.clone(),
            points: args.points.clone(),
            direction: filter.direction,
            filter: Some(filter),
            snap_length: args.snap,
            packets: if is_narrowed { 0 } else { args.count.unwrap_or(0) },
            duration: args.duration.map_or(0, |seconds| seconds * 1_000_000_000),
        };
        match &args.write {
            Some(path) => into_file(&mut host, args, request, path).await,
            None => as_lines(&mut host, args, request).await,
        }
    })
}

fn is_wanted(args: &CaptureArgs, packet: &CapturedPacket) -> bool {
    let is_verdict =
        args.verdict.is_empty() || args.verdict.iter().any(|verdict| verdict.name() == packet.verdict);
    is_verdict && args.reason.as_ref().is_none_or(|reason| *reason == packet.reason)
}

async fn as_lines(host: &mut Host, args: &CaptureArgs, request: CaptureRequest) -> anyhow::Result<ExitCode> {
    let mut packets = host.capture(request).await?.into_inner();
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        let Some(packet) = packets.message().await? else { break };
        if packet.lost > 0 {
            eprintln!("note: {} were lost, this reader is too slow", count(packet.lost, "packet"));
        }
        if !is_wanted(args, &packet) {
            continue;
        }
        left -= 1;
        if args.daemon.json { json(&to_json(&packet))? } else { line(&printable(&render(&packet)))? }
    }
    Ok(ExitCode::SUCCESS)
}

async fn into_file(
    host: &mut Host,
    args: &CaptureArgs,
    request: CaptureRequest,
    path: &PathBuf,
) -> anyhow::Result<ExitCode> {
    let is_standard_output = path.as_os_str() == "-";
    let out: Box<dyn Write> = if is_standard_output {
        Box::new(io::stdout())
    } else {
        let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        Box::new(BufWriter::new(file))
    };
    let mut writer = Writer::new(out)?;
    let mut packets = host.capture(request).await?.into_inner();
    let (mut written, mut lost) = (0, 0);
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        // An interrupt ends the capture, not the file in the middle of a packet.
        let packet = tokio::select! {
            packet = packets.message() => packet?,
            _ = tokio::signal::ctrl_c() => None,
        };
        let Some(packet) = packet else { break };
        if packet.lost > 0 {
            lost += packet.lost;
            writer.lost(packet.time, lost)?;
        }
        if is_wanted(args, &packet) {
            write(&mut writer, &packet)?;
            // Whoever reads along a pipe wants to see each packet as it comes.
            if is_standard_output {
                writer.flush()?;
            }
            written += 1;
            left -= 1;
        }
    }
    writer.flush()?;
    let lost =
        if lost > 0 { format!(", {lost} lost because this reader is too slow") } else { String::new() };
    eprintln!("{} written{lost}", count(written, "packet"));
    Ok(ExitCode::SUCCESS)
}

/// Adds `packet` to a file. Each point of each port is an interface.
fn write(writer: &mut Writer<impl Write>, packet: &CapturedPacket) -> io::Result<()> {
    let interface = format!("{} {}", packet.port, packet.point);
    writer.packet(&Packet {
        interface: &interface,
        description: &format!("port {}, point {} of the pipeline", packet.port, packet.point),
        time: packet.time,
        way: if packet.direction() == Direction::Outbound { Way::Outbound } else { Way::Inbound },
        comment: &became(packet),
        length: packet.length,
        frame: &packet.packet,
    })
}

/// What became of the packet, and by whom: `drop blocked by acl/in/ssh`.
fn became(packet: &CapturedPacket) -> String {
    let by = if packet.rule.is_empty() { String::new() } else { format!("by {}", packet.rule) };
    let parts = [&packet.verdict, &packet.reason, &by];
    parts.iter().filter(|part| !part.is_empty()).map(|part| part.as_str()).collect::<Vec<_>>().join(" ")
}

fn render(packet: &CapturedPacket) -> String {
    let became = became(packet);
    let parts = [&*packet.port, &packet.point, way(packet.direction), &became];
    let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    let (when, what) = (time(packet.time), decode::line(&packet.packet));
    format!("{when} {}, {} bytes: {what}", parts.join(" "), packet.length)
}

fn to_json(packet: &CapturedPacket) -> Value {
    json!({
        "time": packet.time, "port": packet.port, "point": packet.point, "direction": way(packet.direction),
        "verdict": packet.verdict, "reason": packet.reason, "rule": packet.rule, "length": packet.length,
        "packet": hex(&packet.packet), "lost": packet.lost,
    })
}
