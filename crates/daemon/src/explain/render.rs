//! A trace as a tree, for a person.

use std::fmt::Write;

use lamina_core::action::Reply;
use lamina_core::flow::{Direction, HeaderStack};
use lamina_core::layer::{Condition, DefaultAction};
use lamina_core::simulate::{CacheState, GroupTraceVerdict, Trace, TraceDecision, TraceNode, TraceOutcome};

use super::names::Names;
use super::why::{self, Place};
use super::{PortPolicies, decode};

/// The whole trace.
pub fn trace(ports: &dyn PortPolicies, frame: &[u8], trace: &Trace) -> String {
    let mut page = Page { text: String::new(), prefix: String::new() };
    page.crossing(ports, frame, trace);
    page.text
}

struct Page {
    text: String,
    /// What stands before every line: the branches of the tree that go on.
    prefix: String,
}

impl Page {
    fn line(&mut self, text: impl AsRef<str>) {
        let _ = writeln!(self.text, "{}{}", self.prefix, text.as_ref());
    }

    /// Lines below a branch; the last branch of a node has nothing below it.
    fn below(&mut self, is_last: bool, body: impl FnOnce(&mut Page)) {
        let before = self.prefix.len();
        self.prefix.push_str(if is_last { "   " } else { "│  " });
        body(self);
        self.prefix.truncate(before);
    }

    fn branch(&mut self, is_last: bool, text: impl AsRef<str>) {
        let mut lines = text.as_ref().lines();
        let first = lines.next().unwrap_or_default();
        let _ = writeln!(self.text, "{}{} {first}", self.prefix, if is_last { "└─" } else { "├─" });
        self.below(is_last, |page| lines.for_each(|line| page.line(line)));
    }

    fn crossing(&mut self, ports: &dyn PortPolicies, frame: &[u8], trace: &Trace) {
        let names = Names { policy: ports.policy_of(&trace.port), ids: ports.ids() };
        let way = match trace.direction {
            _ if names.policy.is_none() => "from the network by",
            Direction::Inbound => "inbound to",
            Direction::Outbound => "outbound from",
        };
        self.line(format!("{way} {}, {} bytes", trace.port, frame.len()));
        for line in decode::lines(frame) {
            self.line(format!("│  {line}"));
        }
        if let Some(cache) = cache(trace.cache) {
            self.line(format!("│  {cache}"));
        }
        for node in &trace.layers {
            self.branch(false, format!("layer {} ({})", node.layer, node.owner));
            self.below(false, |page| page.layer(&names, node, trace.direction));
        }
        self.copies(trace);
        let follows = !trace.next.is_empty();
        self.branch(true, outcome(trace));
        self.below(true, |page| {
            let changed = !trace.frame.is_empty() && trace.frame != frame;
            if changed && !follows {
                for line in decode::lines(&trace.frame) {
                    page.line(line);
                }
            }
            let next_frame: &[u8] = &trace.frame;
            for next in &trace.next {
                let back = matches!(trace.outcome, TraceOutcome::Reply(_));
                if back {
                    page.way_back(ports, next);
                } else {
                    page.crossing(ports, next_frame, next);
                }
            }
        });
    }

    /// The way of a reply back through the layers already crossed; the trace holds its headers, not its bytes.
    fn way_back(&mut self, ports: &dyn PortPolicies, trace: &Trace) {
        self.line(format!("the reply goes {} through", trace.direction.name()));
        let names = Names { policy: ports.policy_of(&trace.port), ids: ports.ids() };
        for node in &trace.layers {
            self.branch(false, format!("layer {} ({})", node.layer, node.owner));
            self.below(false, |page| page.layer(&names, node, trace.direction));
        }
        self.copies(trace);
        self.branch(true, outcome(trace));
        self.below(true, |page| {
            for line in decode::lines(&trace.frame).iter().filter(|_| !trace.frame.is_empty()) {
                page.line(line);
            }
            for next in &trace.next {
                page.crossing(ports, &trace.frame, next);
            }
        });
    }

    /// The copies that mirrors make.
    fn copies(&mut self, trace: &Trace) {
        for copy in &trace.copies {
            match &copy.result {
                Ok((to, frame)) => {
                    self.branch(false, format!("a copy by layer {} goes to {to}", copy.layer));
                    self.below(false, |page| decode::lines(frame).iter().for_each(|line| page.line(line)));
                }
                Err(reason) => {
                    let (name, why) = (reason.name(), reason.explanation());
                    self.branch(false, format!("no copy by layer {}: {name}\n{why}", copy.layer));
                }
            }
        }
    }

    fn layer(&mut self, names: &Names<'_>, node: &TraceNode, direction: Direction) {
        for group in &node.groups {
            match &group.verdict {
                GroupTraceVerdict::Skipped(condition) => {
                    let why = fails(names, condition, &node.headers, direction);
                    self.branch(false, format!("group {}: skipped, {why}", group.group));
                }
                GroupTraceVerdict::NoMatch => {
                    self.branch(false, format!("group {}: no rule matches", group.group));
                    self.below(false, |page| page.missed(names, node, &group.group, direction));
                }
                GroupTraceVerdict::Selected { rule, conditions, terminating } => {
                    let wins = if *terminating { ", terminating" } else { "" };
                    self.branch(false, format!("group {}: rule {rule} matches{wins}", group.group));
                    self.below(false, |page| {
                        for condition in conditions {
                            page.line(format!("   {}", holds(names, condition, &node.headers, direction)));
                        }
                    });
                }
            }
        }
        self.branch(true, decision(&node.decision));
        if !node.transposition.is_identity() {
            self.below(true, |page| page.line(node.transposition.to_string()));
        }
    }
}

impl Page {
    /// Why the first few rules of a group did not match.
    fn missed(&mut self, names: &Names<'_>, node: &TraceNode, group: &str, direction: Direction) {
        const SHOWN: usize = 3;
        let Some(policy) = names.policy else { return };
        let (missed, more) = why::missed(policy, node, group, direction, SHOWN);
        for miss in missed {
            let why = fails(names, miss.condition, &node.headers, direction);
            self.line(format!("   not {}: {why}", miss.rule));
        }
        if more > 0 {
            self.line(format!("   nor {more} more"));
        }
    }
}

/// What the caches would answer, where that is worth a line.
fn cache(state: CacheState) -> Option<&'static str> {
    match state {
        CacheState::Miss => None,
        CacheState::Hit => Some("a cached flow answers this packet; the walk below is what made it"),
        CacheState::Stale => {
            Some("a cached flow exists, from an older policy: it is checked against the walk below")
        }
        CacheState::Blocked => Some("the drop cache answers this packet; the walk below is what made it"),
    }
}

/// `l4.dst is 80: 80 or 8000-8999`.
fn holds(names: &Names<'_>, condition: &Condition, headers: &HeaderStack, direction: Direction) -> String {
    let (field, wanted) = (names.field(condition.field), names.values(condition));
    match names.read(condition.field, headers, direction) {
        Some(value) if value == wanted => format!("{field} is {value}"),
        Some(value) => format!("{field} is {value}, one of {wanted}"),
        None => format!("{field} is one of {wanted}"),
    }
}

/// `ip.proto is udp, not tcp`.
fn fails(names: &Names<'_>, condition: &Condition, headers: &HeaderStack, direction: Direction) -> String {
    use lamina_core::flow::Field;
    let (field, wanted) = (names.field(condition.field), names.values(condition));
    match names.read(condition.field, headers, direction) {
        Some(value) => format!("{field} is {value}, not {wanted}"),
        None if matches!(condition.field, Field::IngressPort | Field::Metadata(_)) => {
            format!("{field} is not {wanted}")
        }
        None => format!("the packet has no {field} (wanted {wanted})"),
    }
}

fn decision(decision: &TraceDecision) -> String {
    match decision {
        TraceDecision::Flow { group, rule, is_reverse: false } => {
            format!("a conversation that {group}/{rule} began: as then")
        }
        TraceDecision::Flow { group, rule, is_reverse: true } => {
            format!("the reply to a conversation that {group}/{rule} began: restored")
        }
        TraceDecision::Rule { group, rule, action, is_stateful } => {
            let state = if *is_stateful { ", begins a conversation" } else { "" };
            format!("{action} by {group}/{rule}{state}")
        }
        TraceDecision::Default(DefaultAction::Pass) => "no rule: passes, the layer's default".into(),
        TraceDecision::Default(DefaultAction::Block) => "no rule: blocked, the layer's default".into(),
        TraceDecision::Fragment => "a later fragment, whose ports this layer would have to know".into(),
    }
}

/// What becomes of the packet, in words.
fn outcome(trace: &Trace) -> String {
    match &trace.outcome {
        TraceOutcome::Wait { mapping, key } => {
            format!("waits until the controller of {mapping} has answered for {}", key.address)
        }
        TraceOutcome::Punt { owner, queue } => format!("goes to the controller {owner}, queue {queue}"),
        TraceOutcome::Deliver => "delivered to the NIC".into(),
        TraceOutcome::Ports(ports) => {
            let names: Vec<&str> = ports.iter().map(|port| &**port).collect();
            match names.as_slice() {
                [] => "to nobody: the multicast set is empty".into(),
                _ => format!("to {}", names.join(", ")),
            }
        }
        TraceOutcome::Turn(port) => format!("turns round: the walk from {port} starts"),
        TraceOutcome::Uplink(name) => format!("leaves by {name}"),
        TraceOutcome::Host => "left to the host, whose own it is".into(),
        TraceOutcome::Reply(Reply::Arp(mac)) => format!("answered: ARP, at {mac}"),
        TraceOutcome::Reply(Reply::NeighborAdvertisement(mac)) => {
            format!("answered: neighbour advertisement, at {mac}")
        }
        TraceOutcome::Reply(Reply::Echo) => "answered: echo reply".into(),
        TraceOutcome::Reply(Reply::Dhcp(_)) => "answered: DHCP".into(),
        TraceOutcome::Reply(Reply::Dhcpv6(_)) => "answered: DHCPv6".into(),
        TraceOutcome::Reply(Reply::Dns(_)) => "answered: DNS".into(),
        TraceOutcome::Reply(Reply::RouterAdvertisement(_)) => "answered: router advertisement".into(),
        TraceOutcome::Consumed => "taken by a responder, which has nothing to answer".into(),
        TraceOutcome::Drop(reason) => {
            let by = match why::dropped_by(trace) {
                None => String::new(),
                Some(Place { layer, owner, rule: Some((group, rule)) }) => {
                    format!(" by layer {layer} ({owner}), group {group}, rule {rule}")
                }
                Some(Place { layer, owner, rule: None }) => format!(" by layer {layer} ({owner}), no rule"),
            };
            format!("DROPPED{by}\n{}", format_args!("{}: {}", reason.name(), reason.explanation()))
        }
    }
}
