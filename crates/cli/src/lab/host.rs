//! Lamina on a host of the lab: its switch, its ports, its uplinks, and the policies in force.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::mpsc;

use anyhow::{Context, Result, bail};
use lamina_api::Name;
use lamina_api::document::Document;
use lamina_api::topology::{Host, NamedPolicy, PolicyChange, Topology, Vm};
use lamina_backend::namespace::NetNs;
use lamina_core::address::MacAddr;
use lamina_core::stats::PortCounters;
use lamina_core::switch::{PortConfig, PortId, PortLimits, Switch, SwitchConfig};
use lamina_daemon::underlay::sink::{Sink, TUNNEL_UDP_PORTS};
use lamina_daemon::underlay::{Synchroniser, UplinkInterface};

/// A running switch.
#[derive(Debug)]
pub struct HostSwitch {
    ports: BTreeMap<Name, PortId>,
}

impl HostSwitch {
    pub fn start(
        ns: &NetNs,
        topology: &Topology,
        host: &Host,
        vms: &[Vm],
        base: &Document,
        policies: &[NamedPolicy],
    ) -> Result<HostSwitch> {
        let ports = vms.iter().enumerate().map(|(i, vm)| (vm.name.clone(), PortId(i as u32 + 1))).collect();
        Ok(HostSwitch { ports })
    }
    pub fn apply(&self, change: &PolicyChange) -> Result<usize> {
        bail!("no")
    }
    pub fn counters(&self, port: &str) -> Result<PortCounters> {
        bail!("no")
    }
}
