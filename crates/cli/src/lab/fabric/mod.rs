//! The network of a lab: namespaces, and the devices that join them.
//!
//! Every host and every virtual machine is a network namespace. A virtual machine has one interface, `eth0`; its
//! other end is in the host's namespace, carries the virtual machine's name, has no address and belongs to the
//! host's switch. A link of two hosts is one virtual Ethernet pair; more hosts meet on a bridge in a namespace of
//! its own, so that a host's namespace holds nothing but the host. The namespaces have no names and nothing on
//! the machine refers to them, so they vanish with the process, however it ends.

mod netlink;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ipnet::{IpNet, Ipv6Net};
use lamina_api::topology::{Host, HostKind, KernelVxlan, Link, Topology, Vm};
use lamina_backend::namespace::NetNs;

use netlink::{Session, VethEnd, Vxlan, within};

/// The interface of every virtual machine, seen from inside.
pub const GUEST_INTERFACE: &str = "eth0";
/// How long the underlay's neighbours may take to answer before the switches start.
const RESOLVE: Duration = Duration::from_secs(1);
/// The port of the discard service (RFC 863).
const DISCARD: u16 = 9;
/// The VXLAN device of a kernel VXLAN host.
const VXLAN_INTERFACE: &str = "vxlan0";

/// The network, standing as long as this value lives.
#[derive(Debug)]
pub struct Fabric {
    hosts: BTreeMap<String, NetNs>,
    vms: BTreeMap<String, NetNs>,
    /// Namespaces of bridges, and how many ports each has.
    bridges: Vec<(NetNs, usize)>,
}

impl Fabric {
    /// Builds the network of `topology`. Needs the capabilities that
    /// [`may_make_namespaces`](lamina_backend::namespace::may_make_namespaces) asks for.
    pub fn build(topology: &Topology) -> Result<Fabric> {
        let mut fabric = Fabric { hosts: BTreeMap::new(), vms: BTreeMap::new(), bridges: Vec::new() };
        for host in &topology.hosts {
            fabric.hosts.insert(host.name.to_string(), namespace()?);
        }
        for link in &topology.links {
            fabric.link(link).with_context(|| format!("the link {} could not be built", link.name))?;
        }
        for host in &topology.hosts {
            fabric.populate(host).with_context(|| format!("the host {} could not be built", host.name))?;
        }
        fabric.settle(topology)?;
        Ok(fabric)
    }

    /// Waits until every device can send, at both ends of every wire.
    fn settle(&self, topology: &Topology) -> Result<()> {
        for link in &topology.links {
            for (host, _) in &link.attachments {
                within(self.existing(host)?, |session| async move { session.settle(&link.name).await })?;
            }
        }
        for (bridge, ports) in &self.bridges {
            within(bridge, |session| async move {
                for number in 0..*ports {
                    session.settle(&bridge_port(number)).await?;
                }
                Ok(())
            })?;
        }
        for host in &topology.hosts {
            let HostKind::Lamina { vms, .. } = &host.kind else { continue };
            within(self.existing(&host.name)?, |session| async move {
                for vm in vms {
                    session.settle(&vm.name).await?;
                }
                Ok(())
            })?;
        }
        for ns in self.vms.values() {
            within(ns, |session| async move { session.settle(GUEST_INTERFACE).await })?;
        }
        Ok(())
    }

    /// Has the kernel of `host` resolve `neighbors`, the other hosts on its links, and waits a moment for them: without
    /// it the first packet to each would be lost to ARP, and no ping could be expected to pass whole.
    pub fn meet(&self, host: &str, neighbors: &[IpAddr]) -> Result<()> {
        let deadline = Instant::now() + RESOLVE;
        within(self.existing(host)?, |session| async move {
            loop {
                let known = session.neighbors().await?;
                let missing: Vec<_> = neighbors.iter().filter(|address| !known.contains(address)).collect();
                if missing.is_empty() || Instant::now() > deadline {
                    return Ok(());
                }
                for address in missing {
                    knock(*address);
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
    }

    /// The namespace of the host called `name`.
    pub fn host(&self, name: &str) -> Option<&NetNs> {
        self.hosts.get(name)
    }

    /// The namespace of a guest: of a virtual machine, or of a kernel VXLAN host.
    pub fn guest(&self, name: &str) -> Option<&NetNs> {
        self.vms.get(name).or_else(|| self.hosts.get(name))
    }

    /// Every namespace a person may want to look into: its name, and what it is.
    pub fn places(&self) -> impl Iterator<Item = (&str, &'static str, &NetNs)> {
        let hosts = self.hosts.iter().map(|(name, ns)| (name.as_str(), "host", ns));
        hosts.chain(self.vms.iter().map(|(name, ns)| (name.as_str(), "virtual machine", ns)))
    }

    fn link(&mut self, link: &Link) -> Result<()> {
        match link.attachments.as_slice() {
            [(a, _), (b, _)] => {
                let (a, b) = (self.existing(a)?, self.existing(b)?);
                let ends = |ns| VethEnd { ns, name: &link.name, mac: None };
                within(a, |session| async move { session.veth(ends(a), ends(b), link.mtu).await })?;
            }
            attachments => {
                let bridge = namespace()?;
                within(&bridge, |session| async move { session.bridge("fabric", link.mtu).await })?;
                for (index, (host, _)) in attachments.iter().enumerate() {
                    let port = bridge_port(index);
                    let host = self.existing(host)?;
                    let (bridge, port) = (&bridge, port.as_str());
                    within(bridge, |session| async move {
                        let bridge_end = VethEnd { ns: bridge, name: port, mac: None };
                        let host_end = VethEnd { ns: host, name: &link.name, mac: None };
                        session.veth(bridge_end, host_end, link.mtu).await?;
                        session.attach(port, "fabric").await?;
                        session.up(port).await
                    })?;
                }
                self.bridges.push((bridge, attachments.len()));
            }
        }
        for (number, (host, addresses)) in link.attachments.iter().enumerate() {
            within(self.existing(host)?, |session| async move {
                session.up(&link.name).await?;
                for address in addresses {
                    session.address(&link.name, *address).await?;
                }
                // Neighbour discovery that no packet of the host's own asks for starts from a link-local address.
                if addresses.iter().any(|address| address.addr().is_ipv6()) {
                    session.address(&link.name, link_local(number as u16 + 1)).await?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn populate(&mut self, host: &Host) -> Result<()> {
        within(self.existing(&host.name)?, |session| async move {
            for route in &host.routes {
                session.route(route).await?;
            }
            Ok(())
        })?;
        match &host.kind {
            HostKind::Lamina { vms, .. } => {
                for vm in vms {
                    let ns = namespace()?;
                    let host_ns = self.existing(&host.name)?;
                    build_vm(host_ns, &ns, vm)
                        .with_context(|| format!("the virtual machine {} could not be built", vm.name))?;
                    self.vms.insert(vm.name.to_string(), ns);
                }
                Ok(())
            }
            HostKind::KernelVxlan(vxlan) => {
                let ns = self.existing(&host.name)?;
                within(ns, |session| async move { build_vxlan(&session, vxlan).await })
            }
        }
    }

    fn existing(&self, host: &str) -> Result<&NetNs> {
        self.hosts.get(host).with_context(|| format!("there is no host {host}"))
    }
}

/// Sends a datagram that nobody awaits, so that the kernel asks for the neighbour. Where that fails the neighbour is
/// asked for by the first packet to it.
fn knock(address: IpAddr) {
    let own: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let _ = UdpSocket::bind((own, 0)).and_then(|socket| socket.send_to(&[], (address, DISCARD)));
}

fn namespace() -> Result<NetNs> {
    let ns = NetNs::create().context("a network namespace could not be made")?;
    within(&ns, |session| async move { session.up("lo").await })?;
    Ok(ns)
}

fn bridge_port(number: usize) -> String {
    format!("port{number}")
}

/// The link-local address of the `number`th host on a link.
fn link_local(number: u16) -> IpNet {
    let address = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, number);
    IpNet::V6(Ipv6Net::new_assert(address, 64))
}

fn build_vm(host: &NetNs, ns: &NetNs, vm: &Vm) -> Result<()> {
    within(host, |session| async move {
        let guest_end = VethEnd { ns, name: GUEST_INTERFACE, mac: Some(vm.mac) };
        let switch_end = VethEnd { ns: host, name: &vm.name, mac: None };
        session.veth(guest_end, switch_end, vm.mtu).await?;
        session.up(&vm.name).await
    })?;
    within(ns, |session| async move {
        session.up(GUEST_INTERFACE).await?;
        for address in &vm.addresses {
            session.address(GUEST_INTERFACE, *address).await?;
        }
        for (address, mac) in &vm.neighbors {
            session.neighbor(GUEST_INTERFACE, *address, *mac).await?;
        }
        for route in &vm.routes {
            session.route(route).await?;
        }
        Ok(())
    })
}

async fn build_vxlan(session: &Session, vxlan: &KernelVxlan) -> Result<()> {
    let device = Vxlan {
        vni: vxlan.vni,
        local: vxlan.local,
        udp_port: vxlan.udp_port,
        mtu: vxlan.mtu,
        mac: vxlan.mac,
    };
    session.vxlan(VXLAN_INTERFACE, &device).await?;
    for address in &vxlan.addresses {
        session.address(VXLAN_INTERFACE, *address).await?;
    }
    for peer in &vxlan.peers {
        session.forward(VXLAN_INTERFACE, peer.mac, peer.remote).await?;
        session.neighbor(VXLAN_INTERFACE, peer.address, peer.mac).await?;
    }
    Ok(())
}
