//! The topology document: a network to build from namespaces, the policy of its hosts, and what to check in it.
//!
//! `lamina lab run` builds what it describes. It has links, hosts on them, virtual machines on the hosts, and
//! checks that run in order. A host either runs Lamina, with policy documents as its controllers would hand them
//! in, or is a plain kernel VXLAN endpoint to interoperate with. Unlike a policy document it is read to its end
//! here: names are resolved and numbers in range, because nothing else gives it meaning. The reference is
//! `docs/reference/lab.md`.

mod check;
mod host;
mod read;

pub use read::parse;

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::document::Document;
use crate::value::{Mac, Name};
use crate::wire::v1;

/// A network with its checks.
#[derive(Clone, Debug)]
pub struct Topology {
    /// What it is called in output.
    pub name: Name,
    /// One or a few sentences for the person who runs it.
    pub description: Option<String>,
    /// The underlay's links.
    pub links: Vec<Link>,
    /// The hosts.
    pub hosts: Vec<Host>,
    /// What is checked, in this order.
    pub checks: Vec<Check>,
}

/// A segment that hosts are attached to: a wire between two, a switch between more.
#[derive(Clone, Debug)]
pub struct Link {
    /// Its name, which is also the name of the hosts' interfaces on it.
    pub name: Name,
    /// Largest frame without Ethernet header.
    pub mtu: u32,
    /// The attached hosts' names and their addresses on it.
    pub attachments: Vec<(Name, Vec<IpNet>)>,
}

/// A host.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its name.
    pub name: Name,
    /// Routes of its underlay, beyond those of its own addresses.
    pub routes: Vec<Route>,
    /// What runs on it.
    pub kind: HostKind,
}

/// What runs on a host.
#[derive(Clone, Debug)]
pub enum HostKind {
    /// Lamina, and virtual machines on its ports.
    Lamina {
        /// The virtual machines; each is a port of the same name.
        vms: Vec<Vm>,
        /// Ports without a machine: policy alone.
        bare: Vec<Name>,
        /// What the virtual machines themselves say about their ports: MAC and MTU. It comes before all policies.
        base: Box<Document>,
        /// The policy documents in force at the start.
        policies: Vec<NamedPolicy>,
    },
    /// The kernel's own VXLAN device; the host itself is the endpoint of checks.
    KernelVxlan(KernelVxlan),
}

/// A route.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    /// Where to.
    pub destination: IpNet,
    /// The next router.
    pub via: IpAddr,
    /// Path MTU, when smaller than the link's.
    pub mtu: Option<u32>,
}

/// A virtual machine: a network namespace with one interface, `eth0`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vm {
    /// Its name, unique in the topology.
    pub name: Name,
    /// The interface's MAC.
    pub mac: Mac,
    /// The interface's addresses.
    pub addresses: Vec<IpNet>,
    /// Largest frame without Ethernet header.
    pub mtu: u32,
    /// Routes beyond those of the addresses.
    pub routes: Vec<Route>,
    /// Neighbours known from the start, so that no ARP or ND is needed for them.
    pub neighbors: Vec<(IpAddr, Mac)>,
}

/// A policy document with a name, by which a check replaces or removes it.
#[derive(Clone, Debug)]
pub struct NamedPolicy {
    /// The name.
    pub name: Name,
    /// The document.
    pub document: Document,
    /// The same as a controller sends it.
    pub message: v1::Document,
}

/// A VXLAN device of the kernel, without learning.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KernelVxlan {
    /// The tenant id.
    pub vni: u32,
    /// The outer source address: one of the host's own.
    pub local: IpAddr,
    /// The device's MAC.
    pub mac: Mac,
    /// The device's addresses.
    pub addresses: Vec<IpNet>,
    /// Largest inner frame without Ethernet header.
    pub mtu: u32,
    /// The UDP port.
    pub udp_port: u16,
    /// The other endpoints of the tenant.
    pub peers: Vec<Peer>,
}

/// A remote endpoint of a [`KernelVxlan`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Its address within the tenant.
    pub address: IpAddr,
    /// Its MAC.
    pub mac: Mac,
    /// The host behind which it is.
    pub remote: IpAddr,
}

/// Something to do and what is expected of it.
#[derive(Clone, Debug)]
pub struct Check {
    /// What it is called in output; unique.
    pub name: Name,
    /// What is done.
    pub probe: Probe,
    /// What should come of it.
    pub expect: Expect,
    /// By how much counters should change meanwhile.
    pub counts: Vec<Count>,
    /// Policy changes that are made while a stream flows, evenly spread over its time.
    pub meanwhile: Vec<Apply>,
}

/// What should come of a probe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    /// Everything sent is answered, unchanged.
    Pass,
    /// Nothing at all comes back.
    Blocked,
}

/// What a check does.
#[derive(Clone, Debug)]
pub enum Probe {
    /// ICMP or ICMPv6 echo.
    Ping(Ping),
    /// TCP, both ways at once, contents verified.
    Stream(Stream),
    /// UDP datagrams that are sent back, contents verified.
    Datagrams(Datagrams),
    /// Frames as a virtual machine's device carries them, with VLAN tags.
    Frames(Frames),
    /// A policy change.
    Apply(Apply),
    /// Nothing but time passes.
    Wait(Duration),
}

/// ICMP or ICMPv6 echo requests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ping {
    /// The virtual machine (or kernel VXLAN host) that sends.
    pub from: Name,
    /// Where to.
    pub to: IpAddr,
    /// How many.
    pub count: u16,
    /// Payload bytes behind the ICMP header.
    pub size: u16,
    /// The guest may not fragment, whatever its own interface's MTU is.
    pub dont_fragment: bool,
    /// Time between requests.
    pub interval: Duration,
    /// How long an answer is waited for.
    pub timeout: Duration,
}

/// TCP connections.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stream {
    /// Who connects.
    pub from: Name,
    /// The address that is connected to: a guest's or a virtual one.
    pub to: IpAddr,
    /// The port that is connected to.
    pub port: u16,
    /// Who listens: any of them may be connected to.
    pub served_by: Vec<Server>,
    /// How many connections, one after the other's start.
    pub connections: u16,
    /// How many of them some of those should serve.
    pub shares: Vec<(Name, Bounds)>,
    /// How much is sent on each, each way.
    pub amount: Amount,
    /// How long connecting may take, and how long a stream may stand still.
    pub timeout: Duration,
}

/// How much a stream carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Amount {
    /// So many bytes each way.
    Bytes(u64),
    /// As much as goes in this time.
    Time(Duration),
}

/// A guest that listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Server {
    /// The guest.
    pub guest: Name,
    /// The port that it listens on.
    pub port: u16,
}

/// UDP datagrams.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Datagrams {
    /// Who sends.
    pub from: Name,
    /// Where to.
    pub to: IpAddr,
    /// The port they are sent to.
    pub port: u16,
    /// Who answers.
    pub served_by: Vec<Server>,
    /// How many.
    pub count: u16,
    /// Bytes of each.
    pub size: u16,
    /// How long an answer is waited for.
    pub timeout: Duration,
}

/// Frames with VLAN tags, sent and heard at the virtual machines' devices, past their network stacks. Each is an
/// IPv4 or IPv6 packet with a UDP datagram to the discard port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frames {
    /// The virtual machine that sends.
    pub from: Name,
    /// The virtual machine at which they arrive.
    pub to: Name,
    /// The MACs of both.
    pub macs: [Mac; 2],
    /// An address of each, of one family.
    pub addresses: [IpAddr; 2],
    /// The VLAN ids of the tags that they are sent with, outermost first. Of two the outer one is 802.1ad.
    pub tags: Vec<u16>,
    /// The VLAN ids of the tags that they arrive with.
    pub arrives: Vec<u16>,
    /// How many.
    pub count: u16,
    /// How long they may take.
    pub timeout: Duration,
}

/// A policy change on one host.
#[derive(Clone, Debug)]
pub struct Apply {
    /// The host.
    pub host: Name,
    /// What changes.
    pub change: PolicyChange,
}

/// What changes.
#[derive(Clone, Debug)]
pub enum PolicyChange {
    /// The document of this name is replaced, or added.
    Set(Box<NamedPolicy>),
    /// The document of this name is removed.
    Remove(Name),
}

/// A counter of a port and by how much it should change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Count {
    /// The port's host.
    pub host: Name,
    /// The port: a virtual machine's name.
    pub port: Name,
    /// Which counter.
    pub counter: Counter,
    /// Packets that should be added to it; `None` where any number is right.
    pub packets: Option<Bounds>,
    /// Bytes that should be added to it; `None` where any number is right.
    pub bytes: Option<Bounds>,
}

/// A counter of a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Counter {
    /// What a rule did, cached hits included.
    Rule {
        /// Its layer.
        layer: Name,
        /// Its group.
        group: Name,
        /// The rule.
        rule: Name,
    },
    /// An entry of a meter.
    Meter {
        /// The meter.
        meter: Name,
        /// The values of its key, as `lamina` prints them.
        key: Vec<String>,
    },
    /// Drops for this reason.
    Drops(String),
    /// Frames that the machine's interface took, whatever became of them there; a super-frame is one.
    Delivered,
}

/// An inclusive range of expected numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// At least.
    pub low: u64,
    /// At most.
    pub high: u64,
}

impl Bounds {
    /// True when `number` lies within.
    pub const fn contains(&self, number: u64) -> bool {
        self.low <= number && number <= self.high
    }
}

impl std::fmt::Display for Bounds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.low, self.high) {
            (low, high) if low == high => write!(f, "{low}"),
            (low, u64::MAX) => write!(f, "at least {low}"),
            (0, high) => write!(f, "at most {high}"),
            (low, high) => write!(f, "{low}-{high}"),
        }
    }
}

impl Topology {
    /// The host called `name`.
    pub fn host(&self, name: &str) -> Option<&Host> {
        self.hosts.iter().find(|host| &*host.name == name)
    }

    /// The virtual machine called `name`.
    pub fn vm(&self, name: &str) -> Option<&Vm> {
        self.hosts.iter().find_map(|host| match &host.kind {
            HostKind::Lamina { vms, .. } => vms.iter().find(|vm| &*vm.name == name),
            HostKind::KernelVxlan(_) => None,
        })
    }

    /// The addresses of the guest called `name`: of a virtual machine, or of a kernel VXLAN host.
    pub fn guest_addresses(&self, name: &str) -> Option<&[IpNet]> {
        self.hosts.iter().find_map(|host| match &host.kind {
            HostKind::Lamina { vms, .. } => {
                vms.iter().find(|vm| &*vm.name == name).map(|vm| vm.addresses.as_slice())
            }
            HostKind::KernelVxlan(vxlan) => (&*host.name == name).then_some(vxlan.addresses.as_slice()),
        })
    }
}
