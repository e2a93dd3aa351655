//! A switch with nothing but forwarding: each device of this namespace becomes a port whose policy is one layer
//! that passes everything. What `bench/netns-throughput.sh` measures.
//!
//! Usage: `forward DEVICE=GUEST-MAC DEVICE=GUEST-MAC...`; runs until it is killed. For example, in the namespace that
//! has the switch's ends of two veth pairs: `forward sa=02:00:00:00:00:01 sb=02:00:00:00:00:02`.

use anyhow::{Context, bail};
use lamina_backend::af_packet::{AfPacket, AfPacketConfig};
use lamina_core::address::MacAddr;
use lamina_core::layer::{DefaultAction, Layer, Policy};
use lamina_core::switch::{PortConfig, PortId, PortLimits, SwitchConfig};
use lamina_daemon::worker::{WorkerConfig, spawn};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.len() < 2 {
        bail!("usage: forward DEVICE=GUEST-MAC DEVICE=GUEST-MAC...");
    }
    let seed = u64::from(std::process::id());
    let worker = spawn("forward", WorkerConfig::new(SwitchConfig { seed }), None)?;
    let mut all = Vec::new();
    for (number, argument) in arguments.iter().enumerate() {
        let (device, mac) = argument.split_once('=').context("DEVICE=GUEST-MAC is wanted")?;
        let mac = parse_mac(mac).with_context(|| format!("{mac:?} is not a MAC address"))?;
        let backend = AfPacket::open(&AfPacketConfig::guest(device)).with_context(|| device.to_string())?;
        let id = PortId(number as u32 + 1);
        let config = PortConfig {
            name: device.into(),
            mac,
            tenants: Vec::new(),
            mtu: 0,
            limits: PortLimits::default(),
        };
        worker.call(move |switch, ports| -> anyhow::Result<()> {
            switch.add_port(id, config).map_err(|error| anyhow::anyhow!("{error:?}"))?;
            switch.publish(id, pass_everything()).map_err(|error| anyhow::anyhow!("{error:?}"))?;
            Ok(ports.attach(id, Box::new(backend))?)
        })??;
        all.push(id);
    }
    worker.call(move |switch, _| switch.set_multicast(all))?;
    loop {
        std::thread::park();
    }
}

fn pass_everything() -> Policy {
    let layer = Layer {
        name: "pass".into(),
        owner: "forward".into(),
        priority: 0,
        default_inbound: DefaultAction::Pass,
        default_outbound: DefaultAction::Pass,
        inbound: Default::default(),
        outbound: Default::default(),
        flow_limit: 0,
    };
    Policy { layers: vec![layer], ..Policy::default() }
}

fn parse_mac(text: &str) -> Option<MacAddr> {
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(MacAddr(bytes))
}
