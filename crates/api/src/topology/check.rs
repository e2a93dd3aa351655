//! Reads checks: probes, expectations, counters and policy changes.

use std::time::Duration;

use super::read::{ReadFile, guest_names};
use super::{
    Amount, Apply, Bounds, Check, Count, Counter, Datagrams, Expect, Frames, HostKind, Ping, PolicyChange,
    Probe, Server, Stream, Topology, Vm,
};
use crate::decode::{Decoder, Fields};
use crate::diagnostic::Code;
use crate::source::At;
use crate::tree::{Tree, shortened};
use crate::value::Name;

/// How long an answer is waited for, unless the check says otherwise.
const TIMEOUT: Duration = Duration::from_secs(1);
/// How long a stream may stand still, unless the check says otherwise.
const STREAM_TIMEOUT: Duration = Duration::from_secs(3);

impl Decoder<'_> {
    pub(super) fn check(
        &mut self,
        tree: &Tree<'_>,
        topology: &Topology,
        read_file: ReadFile<'_>,
    ) -> Option<(At<Name>, Check)> {
        const PROBES: [&str; 6] = ["ping", "stream", "datagrams", "frames", "apply", "wait"];
        const KNOWN: [&str; 10] = [
            "name",
            "ping",
            "stream",
            "datagrams",
            "frames",
            "apply",
            "wait",
            "expect",
            "counts",
            "meanwhile",
        ];
        let fields = self.fields(tree, "a check", &KNOWN)?;
        let name = self.required(&fields, "name", "vm1 reaches vm2").and_then(|tree| self.title(tree));
        let given: Vec<_> = PROBES.iter().filter(|probe| fields.optional(probe).is_some()).collect();
        let [kind] = given.as_slice() else {
            let message = "a check does exactly one thing";
            self.error(
                Code::MissingField,
                fields.head(),
                message,
                format!("give one of {}", PROBES.join(", ")),
            );
            return None;
        };
        let probe = fields.optional(kind).and_then(|tree| match **kind {
            "ping" => self.ping(tree, topology).map(Probe::Ping),
            "stream" => self.stream(tree, topology).map(Probe::Stream),
            "datagrams" => self.datagrams(tree, topology).map(Probe::Datagrams),
            "frames" => self.frames(tree, topology).map(Probe::Frames),
            "apply" => self.apply(tree, topology, read_file).map(Probe::Apply),
            _ => self.duration(tree).map(|time| Probe::Wait(Duration::from_nanos(time.value))),
        });
        let words = [("pass", Expect::Pass), ("blocked", Expect::Blocked)];
        let expect = fields.optional("expect").and_then(|tree| self.word(tree, "an expectation", &words));
        let mut counts = Vec::new();
        if let Some(tree) = fields.optional("counts") {
            for item in self.list(tree, "counters") {
                counts.extend(self.count(item, topology));
            }
        }
        let mut meanwhile = Vec::new();
        if let Some(tree) = fields.optional("meanwhile") {
            if !matches!(&probe, Some(Probe::Stream(Stream { amount: Amount::Time(_), .. })) | None) {
                let message = "policy changes need a stream that flows for a time";
                self.error(Code::Conflict, tree.span, message, "use them with `stream:` and its `time:`");
            }
            for item in self.list(tree, "policy changes") {
                meanwhile.extend(self.apply(item, topology, read_file));
            }
        }
        let name = name?;
        let expect = expect.map_or(Expect::Pass, |expect| expect.value);
        Some((name.clone(), Check { name: name.value, probe: probe?, expect, counts, meanwhile }))
    }

    /// A check's name, which unlike other names may be a sentence.
    fn title(&mut self, tree: &Tree<'_>) -> Option<At<Name>> {
        let text = self.text(tree, "a name")?;
        if text.trim().is_empty() || text.chars().count() > 80 || text.contains(char::is_control) {
            let message = format!("\"{}\" cannot be a check's name", shortened(text));
            self.error(Code::BadValue, tree.span, message, "use 1 to 80 characters on one line");
            return None;
        }
        Some(At::new(Name::from(text), tree.span))
    }

    fn ping(&mut self, tree: &Tree<'_>, topology: &Topology) -> Option<Ping> {
        const KNOWN: [&str; 7] = ["from", "to", "count", "size", "dont-fragment", "interval", "timeout"];
        let fields = self.fields(tree, "a ping", &KNOWN)?;
        let from = self.required(&fields, "from", "vm1").and_then(|tree| self.guest(tree, topology));
        let to = self.required(&fields, "to", "10.0.0.2").and_then(|tree| self.destination(tree, topology));
        let count = self.u16_or(&fields, "count", "the number of requests", 1, 3);
        let size = self.u16_or(&fields, "size", "the payload's length", 0, 56);
        let dont_fragment = fields.optional("dont-fragment").and_then(|tree| self.boolean(tree));
        let interval = self.duration_or(&fields, "interval", Duration::from_millis(20));
        let timeout = self.duration_or(&fields, "timeout", TIMEOUT);
        let dont_fragment = dont_fragment.is_some_and(|given| given.value);
        Some(Ping { from: from?, to: to?, count, size, dont_fragment, interval, timeout })
    }

    fn stream(&mut self, tree: &Tree<'_>, topology: &Topology) -> Option<Stream> {
        const KNOWN: [&str; 10] = [
            "from",
            "to",
            "port",
            "served-by",
            "served-port",
            "connections",
            "shares",
            "bytes",
            "time",
            "timeout",
        ];
        let fields = self.fields(tree, "a stream", &KNOWN)?;
        let from = self.required(&fields, "from", "vm1").and_then(|tree| self.guest(tree, topology));
        let to = self.required(&fields, "to", "10.0.0.2").and_then(|tree| self.destination(tree, topology));
        let port = self.u16_or(&fields, "port", "a port", 1, 5001);
        let served_by = self.servers(&fields, topology, to, port);
        let connections = self.u16_or(&fields, "connections", "the number of connections", 1, 1);
        let shares = fields.optional("shares").map(|tree| self.shares(tree, &served_by)).unwrap_or_default();
        let amount = match (fields.optional("bytes"), fields.optional("time")) {
            (Some(_), Some(time)) => {
                let message = "a stream carries so many bytes or lasts so long, not both";
                self.error(Code::Conflict, time.span, message, "remove `bytes:` or `time:`");
                None
            }
            (None, Some(time)) => {
                self.duration(time).map(|time| Amount::Time(Duration::from_nanos(time.value)))
            }
            (Some(bytes), None) => self.byte_count(bytes).map(Amount::Bytes),
            (None, None) => Some(Amount::Bytes(1_000_000)),
        };
        let timeout = self.duration_or(&fields, "timeout", STREAM_TIMEOUT);
        let amount = amount?;
        Some(Stream { from: from?, to: to?, port, served_by, connections, shares, amount, timeout })
    }

    /// How many connections each server should have, by their names.
    fn shares(&mut self, tree: &Tree<'_>, servers: &[Server]) -> Vec<(Name, Bounds)> {
        let mut shares = Vec::new();
        for (name, tree) in self.named(tree, "the shares") {
            if !servers.iter().any(|server| server.guest == name.value) {
                self.unknown(&name, "server of the stream", servers.iter().map(|server| &*server.guest));
            }
            shares.extend(self.bounds(tree).map(|bounds| (name.value, bounds)));
        }
        shares
    }

    fn datagrams(&mut self, tree: &Tree<'_>, topology: &Topology) -> Option<Datagrams> {
        const KNOWN: [&str; 8] =
            ["from", "to", "port", "served-by", "served-port", "count", "size", "timeout"];
        let fields = self.fields(tree, "datagrams", &KNOWN)?;
        let from = self.required(&fields, "from", "vm1").and_then(|tree| self.guest(tree, topology));
        let to = self.required(&fields, "to", "10.0.0.2").and_then(|tree| self.destination(tree, topology));
        let port = self.u16_or(&fields, "port", "a port", 1, 5001);
        let served_by = self.servers(&fields, topology, to, port);
        let count = self.u16_or(&fields, "count", "the number of datagrams", 1, 3);
        let size = self.u16_or(&fields, "size", "the payload's length", 0, 64);
        let timeout = self.duration_or(&fields, "timeout", TIMEOUT);
        Some(Datagrams { from: from?, to: to?, port, served_by, count, size, timeout })
    }

    fn frames(&mut self, tree: &Tree<'_>, topology: &Topology) -> Option<Frames> {
        const KNOWN: [&str; 6] = ["from", "to", "tags", "arrives", "count", "timeout"];
        let fields = self.fields(tree, "frames", &KNOWN)?;
        let from = self.required(&fields, "from", "vm1").and_then(|tree| self.machine(tree, topology));
        let to = self.required(&fields, "to", "vm2").and_then(|tree| self.machine(tree, topology));
        let tags = self.tags(&fields, "tags");
        let arrives = self.tags(&fields, "arrives");
        let count = self.u16_or(&fields, "count", "the number of frames", 1, 3);
        let timeout = self.duration_or(&fields, "timeout", TIMEOUT);
        let (from, to) = (from?, to?);
        let pairs =
            from.addresses.iter().flat_map(|a| to.addresses.iter().map(move |b| [a.addr(), b.addr()]));
        let Some(addresses) = pairs.into_iter().find(|[a, b]| a.is_ipv4() == b.is_ipv4()) else {
            let message = format!("`{}` and `{}` have no addresses of one family", from.name, to.name);
            let help =
                "frames carry IP packets between addresses of both: give both an IPv4 or an IPv6 address";
            self.error(Code::MissingField, fields.head(), message, help);
            return None;
        };
        let (names, macs) = ((from.name.clone(), to.name.clone()), [from.mac, to.mac]);
        Some(Frames { from: names.0, to: names.1, macs, addresses, tags, arrives, count, timeout })
    }

    /// A virtual machine: who has a device that frames can be sent by.
    fn machine<'t>(&mut self, tree: &Tree<'_>, topology: &'t Topology) -> Option<&'t Vm> {
        let name = self.name(tree)?;
        let vm = topology.vm(&name.value);
        if vm.is_none() {
            let names = guest_names(topology);
            let vms = names.iter().map(|name| &**name).filter(|name| topology.vm(name).is_some());
            self.unknown(&name, "virtual machine", vms);
        }
        vm
    }

    /// VLAN ids, outermost first; none where the field is not there.
    fn tags(&mut self, fields: &Fields<'_>, name: &str) -> Vec<u16> {
        let Some(tree) = fields.optional(name) else { return Vec::new() };
        let items = self.list(tree, "VLAN ids");
        if items.len() > 2 {
            let help = "give at most two, the outer one first";
            self.error(Code::OutOfRange, tree.span, "a frame has two VLAN tags at most", help);
        }
        let ids = items.iter().filter_map(|item| self.unsigned::<u16>(item, "a VLAN id", 1, 4094));
        ids.map(|id| id.value).collect()
    }

    /// Who listens: those named, else the guest whose address it is.
    fn servers(
        &mut self,
        fields: &Fields<'_>,
        topology: &Topology,
        to: Option<std::net::IpAddr>,
        port: u16,
    ) -> Vec<Server> {
        let port = self.u16_or(fields, "served-port", "a port", 1, port);
        if let Some(tree) = fields.optional("served-by") {
            let items = self.one_or_list(tree);
            let guests = items.iter().filter_map(|item| self.guest(item, topology));
            return guests.map(|guest| Server { guest, port }).collect();
        }
        let owner = guest_names(topology).into_iter().find(|name| {
            let addresses = topology.guest_addresses(name).unwrap_or_default();
            to.is_some_and(|to| addresses.iter().any(|address| address.addr() == to))
        });
        match (owner, to) {
            (Some(guest), _) => vec![Server { guest, port }],
            (None, Some(to)) => {
                let message = format!("no guest has the address {to}");
                self.error(Code::MissingField, fields.head(), message, "say who listens: `served-by: [vm2]`");
                Vec::new()
            }
            (None, None) => Vec::new(),
        }
    }

    fn u16_or(&mut self, fields: &Fields<'_>, name: &str, what: &str, low: u16, default: u16) -> u16 {
        let tree = fields.optional(name);
        tree.and_then(|tree| self.unsigned::<u16>(tree, what, low, u16::MAX))
            .map_or(default, |given| given.value)
    }

    pub(super) fn apply(
        &mut self,
        tree: &Tree<'_>,
        topology: &Topology,
        read_file: ReadFile<'_>,
    ) -> Option<Apply> {
        let fields = self.fields(tree, "a policy change", &["host", "policy", "remove"])?;
        let host = self.required(&fields, "host", "h1").and_then(|tree| self.name(tree))?;
        let Some(HostKind::Lamina { vms, bare, .. }) = topology.host(&host).map(|host| &host.kind) else {
            let lamina = topology.hosts.iter().filter(|host| matches!(host.kind, HostKind::Lamina { .. }));
            self.unknown(&host, "host with policies", lamina.map(|host| &*host.name));
            return None;
        };
        let change = match (fields.optional("policy"), fields.optional("remove")) {
            (Some(tree), None) => {
                let (_, policy) = self.policy(tree, (vms, bare), read_file)?;
                PolicyChange::Set(Box::new(policy))
            }
            (None, Some(tree)) => PolicyChange::Remove(self.name(tree)?.value),
            _ => {
                let message = "a policy change sets one policy or removes one";
                self.error(Code::MissingField, fields.head(), message, "give one of `policy:` and `remove:`");
                return None;
            }
        };
        Some(Apply { host: host.value, change })
    }

    fn count(&mut self, tree: &Tree<'_>, topology: &Topology) -> Option<Count> {
        const KNOWN: [&str; 8] = ["port", "rule", "meter", "key", "drops", "delivered", "packets", "bytes"];
        let fields = self.fields(tree, "a counter", &KNOWN)?;
        let port = self.required(&fields, "port", "vm1").and_then(|tree| self.name(tree))?;
        let owner = topology.hosts.iter().find(|host| match &host.kind {
            HostKind::Lamina { vms, bare, .. } => {
                vms.iter().any(|vm| vm.name == port.value) || bare.contains(&port.value)
            }
            HostKind::KernelVxlan(_) => false,
        });
        let Some(owner) = owner else {
            let guests = guest_names(topology);
            self.unknown(&port, "port", guests.iter().map(|name| &**name));
            return None;
        };
        let counter = self.counter(&fields)?;
        let packets = fields.optional("packets").and_then(|tree| self.bounds(tree));
        let bytes = fields.optional("bytes").and_then(|tree| self.bounds(tree));
        if fields.optional("packets").is_none() && fields.optional("bytes").is_none() {
            self.error(
                Code::MissingField,
                fields.head(),
                "nothing is expected",
                "give `packets:` or `bytes:`",
            );
            return None;
        }
        Some(Count { host: owner.name.clone(), port: port.value, counter, packets, bytes })
    }

    fn counter(&mut self, fields: &Fields<'_>) -> Option<Counter> {
        let kinds = ["rule", "meter", "drops", "delivered"].map(|name| fields.optional(name));
        match kinds {
            [Some(tree), None, None, None] => {
                let text = self.text(tree, "a rule")?;
                let parts: Vec<_> = text.split('/').collect();
                let [layer, group, rule] = parts.as_slice() else {
                    let message = format!("`{}` does not name a rule", shortened(text));
                    self.error(Code::BadValue, tree.span, message, "write it like `layer/group/rule`");
                    return None;
                };
                let name = |part: &str| Name::from(part);
                Some(Counter::Rule { layer: name(layer), group: name(group), rule: name(rule) })
            }
            [None, Some(tree), None, None] => {
                let meter = self.name(tree)?.value;
                let mut key = Vec::new();
                for part in fields.optional("key").map(|tree| self.one_or_list(tree)).unwrap_or_default() {
                    key.push(self.text(part, "a value of the meter's key")?.to_string());
                }
                Some(Counter::Meter { meter, key })
            }
            [None, None, Some(tree), None] => {
                Some(Counter::Drops(self.text(tree, "a drop reason")?.to_string()))
            }
            [None, None, None, Some(tree)] => match self.text(tree, "`all`")? {
                "all" => Some(Counter::Delivered),
                other => {
                    let message = format!("`{}` is none of what can be delivered", shortened(other));
                    self.error(Code::BadValue, tree.span, message, "write `delivered: all`");
                    None
                }
            },
            _ => {
                let message = "a counter is of one rule, one meter, one drop reason or what is delivered";
                let help = "give one of rule, meter, drops, delivered";
                self.error(Code::MissingField, fields.head(), message, help);
                None
            }
        }
    }
}
