//! Reads hosts: virtual machines, kernel VXLAN devices, routes and policies.

use std::net::IpAddr;

use ipnet::IpNet;

use super::read::ReadFile;
use super::{Host, HostKind, KernelVxlan, NamedPolicy, Peer, Route, Topology, Vm};
use crate::decode::{Decoder, Fields};
use crate::diagnostic::{Code, Report};
use crate::document::{self, Document, Port};
use crate::source::{At, Source};
use crate::tree::Tree;
use crate::value::{Mac, Name};
use crate::wire::{self, v1};

impl Decoder<'_> {
    pub(super) fn host(
        &mut self,
        name: &At<Name>,
        tree: &Tree<'_>,
        topology: &Topology,
        read_file: ReadFile<'_>,
    ) -> Option<Host> {
        let fields = self.fields(tree, "a host", &["routes", "vms", "ports", "policies", "kernel-vxlan"])?;
        let routes = fields.optional("routes").map(|tree| self.routes(tree)).unwrap_or_default();
        let kind = match fields.optional("kernel-vxlan") {
            Some(tree) => {
                for lamina in ["vms", "ports", "policies"] {
                    if let Some(span) = fields.key_span(lamina) {
                        let message = format!("a kernel VXLAN host has no `{lamina}`");
                        self.error(Code::Conflict, span, message, "the host itself is its guest");
                    }
                }
                HostKind::KernelVxlan(self.kernel_vxlan(tree, name, topology)?)
            }
            None => self.lamina_host(&fields, name, topology, read_file),
        };
        Some(Host { name: name.value.clone(), routes, kind })
    }

    fn lamina_host(
        &mut self,
        fields: &Fields<'_>,
        host: &At<Name>,
        topology: &Topology,
        read_file: ReadFile<'_>,
    ) -> HostKind {
        let mut vms: Vec<Vm> = Vec::new();
        let mut ports = Vec::new();
        if let Some(tree) = fields.optional("vms") {
            for (name, tree) in self.named(tree, "the virtual machines") {
                self.device_name(&name, "a virtual machine");
                let is_link = topology.links.iter().any(|link| link.name == name.value);
                if topology.guest_addresses(&name).is_some() || name.value == host.value || is_link {
                    self.taken(&name);
                }
                let Some((vm, mac, mtu)) = self.vm(&name, tree) else { continue };
                vms.push(vm);
                ports.push(Port {
                    name,
                    mac: Some(mac),
                    tenants: None,
                    mtu,
                    malformed: None,
                    limits: None,
                    addresses: None,
                    guard: None,
                    vlan: None,
                    layers: Vec::new(),
                });
            }
        }
        let mut bare: Vec<Name> = Vec::new();
        for tree in fields.optional("ports").map(|tree| self.list(tree, "ports")).unwrap_or_default() {
            let Some(name) = self.name(tree) else { continue };
            let is_guest = topology.guest_addresses(&name).is_some();
            if is_guest || bare.contains(&name.value) || vms.iter().any(|vm| vm.name == name.value) {
                self.taken(&name);
            }
            bare.push(name.value);
        }
        let base = Document {
            source: self.source.clone(),
            owner: None,
            metadata: Vec::new(),
            resources: Default::default(),
            multicast: None,
            ports,
        };
        let mut policies: Vec<NamedPolicy> = Vec::new();
        if let Some(tree) = fields.optional("policies") {
            for item in self.list(tree, "policies") {
                let Some((name, policy)) = self.policy(item, (&vms, &bare), read_file) else { continue };
                if policies.iter().any(|other| other.name == policy.name) {
                    self.taken(&name);
                }
                policies.push(policy);
            }
        }
        HostKind::Lamina { vms, bare, base: Box::new(base), policies }
    }

    #[allow(clippy::type_complexity)]
    fn vm(&mut self, name: &At<Name>, tree: &Tree<'_>) -> Option<(Vm, At<Mac>, Option<At<u32>>)> {
        const KNOWN: [&str; 7] = ["mac", "address", "addresses", "mtu", "gateway", "routes", "neighbors"];
        let fields = self.fields(tree, "a virtual machine", &KNOWN)?;
        let mac = self.required(&fields, "mac", "\"02:00:00:00:00:01\"").and_then(|tree| self.mac(tree))?;
        let addresses = self.addresses(&fields);
        let mut routes = fields.optional("routes").map(|tree| self.routes(tree)).unwrap_or_default();
        for tree in fields.optional("gateway").map(|tree| self.one_or_list(tree)).unwrap_or_default() {
            if let Some(via) = self.address(tree) {
                routes.push(Route { destination: everything(via.value), via: via.value, mtu: None });
            }
        }
        let mut neighbors = Vec::new();
        if let Some(tree) = fields.optional("neighbors") {
            for (address, mac) in self.entries(tree, "the neighbours").unwrap_or_default() {
                if let (Some(address), Some(mac)) = (self.address(address), self.mac(mac)) {
                    neighbors.push((address.value, mac.value));
                }
            }
        }
        let given = fields.optional("mtu").and_then(|tree| self.unsigned::<u32>(tree, "an MTU", 576, 65_535));
        let mtu = given.map_or(1500, |mtu| mtu.value);
        let vm = Vm { name: name.value.clone(), mac: mac.value, addresses, mtu, routes, neighbors };
        Some((vm, mac, given))
    }

    fn addresses(&mut self, fields: &Fields<'_>) -> Vec<IpNet> {
        let mut addresses = Vec::new();
        for name in ["address", "addresses"] {
            if let Some(tree) = fields.optional(name) {
                addresses.extend(self.interface_addresses(tree));
            }
        }
        addresses
    }

    fn routes(&mut self, tree: &Tree<'_>) -> Vec<Route> {
        let items = self.list(tree, "routes");
        items.iter().filter_map(|item| self.route(item)).collect()
    }

    fn route(&mut self, tree: &Tree<'_>) -> Option<Route> {
        let fields = self.fields(tree, "a route", &["to", "via", "mtu"])?;
        let destination = self.required(&fields, "to", "172.16.0.0/12").and_then(|tree| self.prefix(tree))?;
        let via = self.required(&fields, "via", "192.168.50.254").and_then(|tree| self.address(tree))?;
        if destination.addr().is_ipv4() != via.is_ipv4() {
            self.error(
                Code::Conflict,
                via.span,
                "the two addresses are of different families",
                "use one family",
            );
            return None;
        }
        let mtu = fields.optional("mtu").and_then(|tree| self.unsigned::<u32>(tree, "an MTU", 576, 65_535));
        Some(Route { destination: destination.value, via: via.value, mtu: mtu.map(|mtu| mtu.value) })
    }

    fn kernel_vxlan(&mut self, tree: &Tree<'_>, host: &At<Name>, topology: &Topology) -> Option<KernelVxlan> {
        const KNOWN: [&str; 7] = ["vni", "mac", "address", "addresses", "mtu", "udp-port", "peers"];
        let fields = self.fields(tree, "a kernel VXLAN device", &KNOWN)?;
        let vni = self.required(&fields, "vni", "5001");
        let vni = vni.and_then(|tree| self.unsigned::<u32>(tree, "a tenant id", 0, 0x00ff_ffff));
        let mac = self.required(&fields, "mac", "\"02:00:00:00:00:09\"").and_then(|tree| self.mac(tree));
        let addresses = self.addresses(&fields);
        let mtu = self.mtu(&fields, 1450);
        let udp_port =
            fields.optional("udp-port").and_then(|tree| self.unsigned::<u16>(tree, "a UDP port", 1, 65_535));
        let mut peers = Vec::new();
        if let Some(tree) = fields.optional("peers") {
            for item in self.list(tree, "peers") {
                peers.extend(self.peer(item));
            }
        }
        let attached = topology.links.iter().flat_map(|link| &link.attachments);
        let mut own = attached.filter(|(name, _)| *name == host.value).flat_map(|(_, addresses)| addresses);
        let Some(local) = own.next().map(|address| address.addr()) else {
            let message = format!("{} has no underlay address", host.value);
            self.error(
                Code::Conflict,
                host.span,
                message,
                "attach it to a link: VXLAN packets start from there",
            );
            return None;
        };
        Some(KernelVxlan {
            vni: vni?.value,
            local,
            mac: mac?.value,
            addresses,
            mtu,
            udp_port: udp_port.map_or(4789, |port| port.value),
            peers,
        })
    }

    fn peer(&mut self, tree: &Tree<'_>) -> Option<Peer> {
        let fields = self.fields(tree, "a peer", &["address", "mac", "remote"])?;
        let address = self.required(&fields, "address", "10.0.0.1").and_then(|tree| self.address(tree));
        let mac = self.required(&fields, "mac", "\"02:00:00:00:00:01\"").and_then(|tree| self.mac(tree));
        let remote = self.required(&fields, "remote", "192.168.50.1").and_then(|tree| self.address(tree));
        Some(Peer { address: address?.value, mac: mac?.value, remote: remote?.value })
    }

    /// A policy document with its name: written here, or in a file. Its ports must be among `vms`, or ports without a machine.
    pub(super) fn policy(
        &mut self,
        tree: &Tree<'_>,
        (vms, bare): (&[Vm], &[Name]),
        read_file: ReadFile<'_>,
    ) -> Option<(At<Name>, NamedPolicy)> {
        let fields = self.fields(tree, "a policy", &["name", "document", "file"])?;
        let name = self.required(&fields, "name", "acl").and_then(|tree| self.name(tree));
        let (document, message) = match (fields.optional("document"), fields.optional("file")) {
            (Some(tree), None) => {
                let document = self.document(tree)?;
                (document, self.message(tree))
            }
            (None, Some(tree)) => {
                let (document, message) = self.policy_file(tree, read_file)?;
                (document, Some(message))
            }
            _ => {
                let message = "a policy is written here or in a file";
                self.error(Code::MissingField, fields.head(), message, "give one of `document:` and `file:`");
                return None;
            }
        };
        for port in &document.ports {
            let mut known = vms.iter().map(|vm| &vm.name).chain(bare);
            if !known.any(|name| *name == port.name.value) {
                let mut wrong = Decoder::new(&document.source);
                wrong.unknown(&port.name, "virtual machine", vms.iter().map(|vm| &*vm.name));
                self.report.append(wrong.report);
            }
        }
        let name = name?;
        Some((name.clone(), NamedPolicy { name: name.value, document, message: message? }))
    }

    /// The message form of a document that was read; none where there was a mistake, which is reported already.
    fn message(&mut self, tree: &Tree<'_>) -> Option<v1::Document> {
        if self.report.has_errors() {
            return None;
        }
        wire::read::document_in(self.source, tree).map_err(|report| self.report.append(report)).ok()
    }

    fn policy_file(&mut self, tree: &Tree<'_>, read_file: ReadFile<'_>) -> Option<(Document, v1::Document)> {
        let path = self.text(tree, "a path")?;
        let parsed = match read_file(path) {
            Ok(text) => document::parse(path, &text)
                .and_then(|document| Ok((document, wire::read::document(&Source::new(path, text))?))),
            Err(error) => {
                let message = format!("{path} cannot be read: {error}");
                self.error(Code::BadValue, tree.span, message, "paths are relative to the topology file");
                Err(Report::new())
            }
        };
        parsed.map_err(|report| self.report.append(report)).ok()
    }
}

/// The prefix of all addresses of the family of `like`.
fn everything(like: IpAddr) -> IpNet {
    match like {
        IpAddr::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
    }
}
