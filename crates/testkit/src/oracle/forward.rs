//! From port to port: receiving, forwarding by MAC, the way out over the underlay (§8.1, §10).

use std::net::IpAddr;

use lamina_core::action::{Mirror, MirrorTarget, Punt, Reply};
use lamina_core::address::MacAddr;
use lamina_core::drop_reason::DropReason;
use lamina_core::flow::{Direction, Fragment};
use lamina_core::layer::{MalformedPolicy, Name};
use lamina_core::packet::HEADROOM;
use lamina_core::switch::PortId;
use lamina_core::time::Instant;

use super::counters::{DropSite, Selected};
use super::port::{Entry, Outcome, Plan, Port};
use super::{Oracle, Punted, Received, action, reply, transpose};
use crate::wire::{Frame, Header, decode, decode_opaque, internet_checksum};

/// A frame on its way, with the length at which it had all its headroom.
#[derive(Clone, Debug)]
struct Moving {
    bytes: Vec<u8>,
    base_length: usize,
    /// How often it was handed to a port.
    turns: u8,
}

/// Where a packet goes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Nic,
    /// To this side of a port.
    Port(PortId, Direction),
    Uplink(PortId, u32),
    Multicast,
    /// It is the host's own.
    Host,
}

/// How often one packet may be handed to a port (§3.5).
const MOST_TURNS: u8 = 4;

/// One side of a port that a packet crosses.
#[derive(Clone, Copy)]
struct Side {
    now: Instant,
    id: PortId,
    direction: Direction,
    ingress: PortId,
}

impl Oracle {
    /// Says whether controllers listen to punted packets. Nothing that is cached answers for what was before.
    pub fn set_heard(&mut self, is_heard: bool) {
        let has_changed = self.is_heard != is_heard;
        self.is_heard = is_heard;
        for port in self.ports.values_mut().filter(|_| has_changed) {
            port.generation += u64::from(port.has_punts());
        }
    }

    /// A controller sends on a frame that a rule of `layer` gave it.
    pub fn send_on(
        &mut self,
        now: Instant,
        (id, direction): (PortId, Direction),
        layer: &Name,
        frame: &[u8],
    ) -> Received {
        let mut received = Received::default();
        let moving = Moving { bytes: frame.to_vec(), base_length: frame.len(), turns: 0 };
        let ingress = match direction {
            Direction::Outbound => id,
            Direction::Inbound => self.uplinks.first().map_or(id, |uplink| uplink.id),
        };
        let side = Side { now, id, direction, ingress };
        let first =
            self.cross(side, Some(layer), moving, &mut received).map(|(way, moving)| (way, id, moving));
        self.follow(now, first, &mut received);
        received
    }

    /// Processes one frame that was received on `from`.
    pub fn receive(&mut self, now: Instant, from: PortId, frame: &[u8]) -> Received {
        let mut received = Received::default();
        let moving = Moving { bytes: frame.to_vec(), base_length: frame.len(), turns: 0 };
        let first = if self.uplinks.iter().any(|uplink| uplink.id == from) {
            match self.way_in(from, frame) {
                Ok(way) => Some((way, from, moving)),
                Err(reason) => {
                    let uplink = self.uplinks.iter_mut().find(|uplink| uplink.id == from);
                    if let Some(uplink) = uplink {
                        *uplink.drops.entry(reason).or_default() += 1;
                        let site = DropSite::new(reason, Direction::Inbound, None);
                        uplink.drop_sites.entry(site).or_default().add(frame.len());
                    }
                    received.drops.push((from, reason));
                    None
                }
            }
        } else {
            let side = Side { now, id: from, direction: Direction::Outbound, ingress: from };
            self.cross(side, None, moving, &mut received).map(|(way, moving)| (way, from, moving))
        };
        self.follow(now, first, &mut received);
        received
    }

    /// Follows a frame from where it was sent first, `next`, to where it ends.
    fn follow(&mut self, now: Instant, mut next: Option<(Way, PortId, Moving)>, received: &mut Received) {
        // The last one waiting goes first: the order shows where one packet enters a port twice and leaves state there.
        let mut waiting: Vec<(PortId, Direction, PortId, Moving)> = Vec::new();
        loop {
            if let Some((way, at, moving)) = next.take() {
                match way {
                    Way::Nic => received.transmit.push((at, moving.bytes)),
                    Way::Uplink(id, _) => received.transmit.push((id, moving.bytes)),
                    Way::Port(to, direction) => waiting.push((to, direction, at, moving)),
                    Way::Host => {}
                    Way::Multicast => {
                        for to in self.multicast.iter().filter(|to| **to != at) {
                            let base_length = moving.bytes.len();
                            waiting.push((
                                *to,
                                Direction::Inbound,
                                at,
                                Moving { base_length, ..moving.clone() },
                            ));
                        }
                    }
                }
            }
            let Some((to, direction, ingress, mut moving)) = waiting.pop() else { break };
            moving.turns += 1;
            if moving.turns > MOST_TURNS {
                if let Some(port) = self.ports.get_mut(&to) {
                    port.counters.dropped(DropReason::TooManyTurns);
                    let site = DropSite::new(DropReason::TooManyTurns, direction, None);
                    port.count_drop(site, moving.bytes.len());
                    received.drops.push((to, DropReason::TooManyTurns));
                }
                continue;
            }
            let side = Side { now, id: to, direction, ingress };
            next = self.cross(side, None, moving, received).map(|(way, moving)| (way, to, moving));
        }
    }

    /// Lets a frame cross one side of a port, all layers or those behind the named one; `None` when it ended there.
    fn cross(
        &mut self,
        side: Side,
        behind: Option<&Name>,
        moving: Moving,
        received: &mut Received,
    ) -> Option<(Way, Moving)> {
        let is_heard = self.is_heard;
        let port = self.ports.get_mut(&side.id)?;
        port.purge(side.now);
        let Some(policy) = port.policy.clone() else {
            port.counters.dropped(DropReason::PortNotReady);
            let site = DropSite::new(DropReason::PortNotReady, side.direction, None);
            port.count_drop(site, moving.bytes.len());
            received.drops.push((side.id, DropReason::PortNotReady));
            return None;
        };
        let frame = match (decode(&moving.bytes), policy.malformed) {
            (Err(_), MalformedPolicy::PassOpaque) => decode_opaque(&moving.bytes),
            (decoded, _) => decoded,
        };
        let frame = match frame {
            Ok(frame) => frame,
            Err(reason) => {
                port.counters.dropped(reason);
                port.count_drop(DropSite::new(reason, side.direction, None), moving.bytes.len());
                received.drops.push((side.id, reason));
                return None;
            }
        };
        let count = policy.layers.len();
        let (first, end) = match behind {
            None => (0, count),
            Some(behind) => {
                let place = policy.layers.iter().position(|layer| layer.name == *behind);
                let Some(place) = place else {
                    port.counters.dropped(DropReason::PuntLayerGone);
                    let site = DropSite::new(DropReason::PuntLayerGone, side.direction, None);
                    port.count_drop(site, moving.bytes.len());
                    received.drops.push((side.id, DropReason::PuntLayerGone));
                    return None;
                };
                if side.direction == Direction::Outbound { (place + 1, count) } else { (0, place) }
            }
        };
        let mut entry = Entry {
            frame,
            direction: side.direction,
            ingress: side.ingress.0,
            now: side.now,
            first,
            end,
            declined: 0,
            is_heard,
        };
        let mut plan = port.walk(&policy, &self.tables, &entry);
        while let Outcome::Reply(reply, _) = &plan.outcome
            && reply::declines(reply, &entry.frame, &policy.resources)
        {
            entry.declined += 1;
            plan = port.walk(&policy, &self.tables, &entry);
        }
        let result = match plan.outcome.clone() {
            Outcome::Drop(reason) => Err(reason),
            Outcome::Forward | Outcome::Turn(_) => {
                // What a responder declined is remembered as no flow: the next packet may ask for something else.
                let is_flow = entry.declined == 0 && behind.is_none();
                self.send(side, &entry, &plan, &moving, is_flow, received)
            }
            Outcome::Punt(punt, _) => {
                return self.punt(side, &entry, &plan, &moving, &punt, received);
            }
            Outcome::Reply(reply, layer) => {
                return self.reply(side, &entry, &plan, moving, (reply, layer), received);
            }
        };
        self.settle(side, &entry, &plan, result, &moving, received)
    }

    /// Records a drop, or hands on the frame.
    fn settle(
        &mut self,
        side: Side,
        entry: &Entry,
        plan: &Plan,
        result: Result<(Way, Moving), DropReason>,
        moving: &Moving,
        received: &mut Received,
    ) -> Option<(Way, Moving)> {
        match result {
            Ok(sent) => Some(sent),
            Err(reason) => {
                let port = self.ports.get_mut(&side.id)?;
                port.commit_drop(entry, plan, reason, (moving.bytes.len(), &self.tables));
                received.drops.push((side.id, reason));
                None
            }
        }
    }

    /// A packet that passed the layers: finds its way, writes it, and carries out its plan.
    fn send(
        &mut self,
        side: Side,
        entry: &Entry,
        plan: &Plan,
        moving: &Moving,
        is_flow: bool,
        received: &mut Received,
    ) -> Result<(Way, Moving), DropReason> {
        let mut frame = plan.frame.clone();
        let way = match (plan.outcome.clone(), side.direction) {
            (Outcome::Turn(to), direction) => match to.unwrap_or(side.id) {
                to if self.ports.contains_key(&to) => Ok(Way::Port(to, direction.opposite())),
                _ => Err(DropReason::NoSuchPort),
            },
            (_, Direction::Inbound) => Ok(Way::Nic),
            (_, Direction::Outbound) => self.way_out(side.id, (&mut frame, &plan.made), received),
        };
        let Some(port) = self.ports.get_mut(&side.id) else {
            return Err(DropReason::NoSuchDestination);
        };
        let bytes = frame.encode();
        let fits = match way {
            Ok(Way::Nic) => is_within(port.config.mtu, &frame, bytes.len()),
            Ok(Way::Uplink(_, mtu)) => is_within(mtu, &frame, bytes.len()),
            _ => true,
        };
        let way = way?;
        if bytes.len() > moving.base_length + HEADROOM {
            return Err(DropReason::NoHeadroom);
        }
        if !fits {
            return Err(DropReason::TooBig);
        }
        let guest_side = match side.direction {
            Direction::Outbound => moving.bytes.len(),
            Direction::Inbound => bytes.len(),
        };
        port.refuse(plan, guest_side, side.now)?;
        let conversation = port.commit(entry, plan, guest_side);
        let seen = moving.bytes.len();
        if is_flow {
            port.remember(entry, plan, conversation);
        }
        self.copy(side, plan, seen, received);
        Ok((way, Moving { bytes, ..moving.clone() }))
    }

    /// Gives a packet to a controller, if the port may.
    fn punt(
        &mut self,
        side: Side,
        entry: &Entry,
        plan: &Plan,
        moving: &Moving,
        punt: &Punt,
        received: &mut Received,
    ) -> Option<(Way, Moving)> {
        let whole = plan.frame.encode();
        if whole.len() > moving.base_length + HEADROOM {
            return self.settle(side, entry, plan, Err(DropReason::NoHeadroom), moving, received);
        }
        let port = self.ports.get_mut(&side.id)?;
        let guest_side = match side.direction {
            Direction::Outbound => moving.bytes.len(),
            Direction::Inbound => whole.len(),
        };
        if let Err(reason) = port.refuse(plan, guest_side, side.now) {
            return self.settle(side, entry, plan, Err(reason), moving, received);
        }
        if !port.may_punt(side.now) {
            let plan = Port::dropped_at_end(plan, DropReason::PuntLimit);
            return self.settle(side, entry, &plan, Err(DropReason::PuntLimit), moving, received);
        }
        port.commit(entry, plan, guest_side);
        if let Some(Selected::Rule(rule)) = Port::ended_by(plan) {
            let frame = whole[..whole.len().min(punt.max_bytes as usize)].to_vec();
            let (port, direction, length) = (side.id, side.direction, whole.len());
            received.cut.insert(frame.clone(), whole);
            received.punted.push(Punted { port, direction, rule: rule.clone(), frame, length });
        }
        self.copy(side, plan, moving.bytes.len(), received);
        None
    }

    /// Answers a packet; the answer crosses the layers that the packet crossed, the other way.
    fn reply(
        &mut self,
        side: Side,
        entry: &Entry,
        plan: &Plan,
        moving: Moving,
        (kind, layer): (Reply, usize),
        received: &mut Received,
    ) -> Option<(Way, Moving)> {
        let is_heard = self.is_heard;
        let policy = self.ports.get(&side.id)?.policy.clone()?;
        let asked = plan.frame.encode();
        // The request stands in the packet's buffer as the layers left it before it can be answered.
        let answer = if asked.len() > moving.base_length + HEADROOM {
            Err(DropReason::NoHeadroom)
        } else {
            decode(&asked).and_then(|request| reply::answer(&kind, &request, &policy.resources))
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(reason) => return self.settle(side, entry, plan, Err(reason), &moving, received),
        };
        let port = self.ports.get_mut(&side.id)?;
        let bytes = answer.encode();
        let guest_side = match side.direction {
            Direction::Outbound => moving.bytes.len(),
            Direction::Inbound => bytes.len(),
        };
        let end = policy.layers.len();
        if let Err(reason) = port.refuse(plan, guest_side, side.now) {
            return self.settle(side, entry, plan, Err(reason), &moving, received);
        }
        port.commit(entry, plan, guest_side);
        self.copy(side, plan, moving.bytes.len(), received);
        let port = self.ports.get_mut(&side.id)?;
        let (first, end) = match side.direction {
            Direction::Outbound => (0, layer),
            Direction::Inbound => (layer + 1, end),
        };
        let back = Side { direction: side.direction.opposite(), ingress: side.id, ..side };
        let entry = Entry {
            frame: answer,
            direction: back.direction,
            ingress: side.id.0,
            now: side.now,
            first,
            end,
            declined: 0,
            is_heard,
        };
        let plan = port.walk(&policy, &self.tables, &entry);
        // An answer may need a larger buffer than its request had.
        let moving = Moving { base_length: moving.base_length.max(bytes.len()), bytes, ..moving };
        let result = match plan.outcome {
            Outcome::Drop(reason) => Err(reason),
            Outcome::Reply(..) => Err(DropReason::CannotRespond),
            Outcome::Punt(ref punt, _) => {
                return self.punt(back, &entry, &plan, &moving, punt, received);
            }
            Outcome::Forward | Outcome::Turn(_) => self.send(back, &entry, &plan, &moving, false, received),
        };
        self.settle(back, &entry, &plan, result, &moving, received)
    }

    /// Makes the copies of a packet that goes on; `length` is what it had when it entered. Those that cannot be made are
    /// drops of the port.
    fn copy(&mut self, side: Side, plan: &Plan, length: usize, received: &mut Received) {
        for (mirror, frame, by) in &plan.copies {
            match self.copy_of(mirror, frame, length, received) {
                Ok(sent) => received.transmit.push(sent),
                Err(reason) => {
                    if let Some(port) = self.ports.get_mut(&side.id) {
                        port.counters.dropped(reason);
                        port.count_drop(DropSite::new(reason, side.direction, Some(by)), length);
                    }
                    received.drops.push((side.id, reason));
                }
            }
        }
    }

    fn copy_of(
        &self,
        mirror: &Mirror,
        frame: &Frame,
        length: usize,
        received: &mut Received,
    ) -> Result<(PortId, Vec<u8>), DropReason> {
        let impossible = |_| DropReason::MirrorImpossible;
        let plain = frame.encode().len();
        let (to, mtu, frame) = match mirror.to {
            MirrorTarget::Port(to) => {
                let port = self.ports.get(&to).ok_or(DropReason::MirrorNoSuchPort)?;
                (to, port.config.mtu, frame.clone())
            }
            MirrorTarget::Collector { tunnel, tenant, remote } => {
                let ops = action::tunnelled(&tunnel, frame, remote, tenant).map_err(impossible)?;
                let mut outside = transpose::apply(&ops, frame).map_err(impossible)?;
                let is_own = |uplink: &super::Uplink| uplink.config.addresses.contains(&remote);
                if self.uplinks.iter().any(is_own) {
                    return Err(DropReason::MirrorUnreachable);
                }
                let way = self.way_to(remote, &mut outside, received);
                let Way::Uplink(to, mtu) = way.map_err(|_| DropReason::MirrorUnreachable)? else {
                    return Err(DropReason::MirrorUnreachable);
                };
                (to, mtu, outside)
            }
        };
        let mut bytes = frame.encode();
        if bytes.len() > length + HEADROOM {
            return Err(DropReason::MirrorImpossible);
        }
        if let Some(most) = mirror.truncate {
            let (grown, whole) = (bytes.len() - plain, bytes.clone());
            cut(
                &frame,
                &mut bytes,
                most as usize + grown,
                matches!(mirror.to, MirrorTarget::Collector { .. }),
            );
            received.cut.insert(bytes.clone(), whole);
        }
        if !is_within(mtu, &frame, bytes.len()) {
            return Err(DropReason::MirrorTooBig);
        }
        Ok((to, bytes))
    }

    /// Where a packet goes after the outbound layers of `from`; fills in what the underlay knows.
    /// `made` are the headers that the layers put on: a tunnel that the guest built is none to this host.
    fn way_out(
        &self,
        from: PortId,
        (frame, made): (&mut Frame, &[bool]),
        received: &mut Received,
    ) -> Result<Way, DropReason> {
        let dst = outer_dst(frame);
        if let Some(to) = self.port_of_mac(dst) {
            return if to == from { Err(DropReason::SamePort) } else { Ok(inbound(to)) };
        }
        let tunnel = frame.headers.iter().position(|header| matches!(header, Header::Tunnel(_)));
        let remote = tunnel_remote(frame).filter(|_| tunnel.is_some_and(|at| made[at]));
        let is_ours =
            |address: IpAddr| self.uplinks.iter().any(|uplink| uplink.config.addresses.contains(&address));
        if remote.is_some_and(is_ours) {
            return match self.port_of_tenant(frame) {
                Some(to) if to == from => Err(DropReason::SamePort),
                Some(to) => Ok(inbound(to)),
                None => Err(DropReason::NoSuchDestination),
            };
        }
        if dst.is_multicast() {
            let has_others = self.multicast.iter().any(|to| *to != from);
            return if has_others { Ok(Way::Multicast) } else { Err(DropReason::MulticastUnanswered) };
        }
        let uplink = self.uplinks.first().ok_or(DropReason::NoSuchDestination)?;
        if dst != MacAddr::ZERO {
            return Ok(Way::Uplink(uplink.id, uplink.config.mtu));
        }
        let remote = remote.ok_or(DropReason::NoSuchDestination)?;
        self.way_to(remote, frame, received)
    }

    /// The way to the remote end of a tunnel; fills in what the underlay knows.
    fn way_to(&self, remote: IpAddr, frame: &mut Frame, received: &mut Received) -> Result<Way, DropReason> {
        let mut routes: Vec<_> =
            self.underlay.routes.iter().filter(|route| route.destination.contains(&remote)).collect();
        routes.sort_by_key(|route| (std::cmp::Reverse(route.destination.prefix_len()), route.metric));
        let route = routes.first().ok_or(DropReason::UnderlayNoRoute)?;
        let hop = route.gateway.unwrap_or(remote);
        let Some((_, mac)) = self.underlay.neighbors.iter().find(|(address, _)| *address == hop) else {
            received.resolve.push(hop);
            return Err(DropReason::UnderlayNeighborUnresolved);
        };
        let uplink = self.uplinks.iter().find(|uplink| uplink.id == route.uplink);
        let uplink = uplink.ok_or(DropReason::UnderlayNoRoute)?;
        let same_family = |address: &&IpAddr| address.is_ipv4() == remote.is_ipv4();
        let source = route.source.or_else(|| uplink.config.addresses.iter().find(same_family).copied());
        for header in frame.headers.iter_mut().take(2) {
            match (header, source) {
                (Header::Ethernet(eth), _) => (eth.src, eth.dst) = (uplink.config.mac, *mac),
                (Header::Ipv4(ip), Some(IpAddr::V4(source))) if ip.src.is_unspecified() => ip.src = source,
                (Header::Ipv6(ip), Some(IpAddr::V6(source))) if ip.src.is_unspecified() => ip.src = source,
                _ => {}
            }
        }
        let mtu = match route.mtu {
            Some(mtu) if mtu > 0 => mtu.min(uplink.config.mtu),
            _ => uplink.config.mtu,
        };
        Ok(Way::Uplink(uplink.id, mtu))
    }

    /// Which port a frame from uplink `from` is for.
    fn way_in(&self, from: PortId, bytes: &[u8]) -> Result<Way, DropReason> {
        let frame = match decode(bytes) {
            Ok(frame) => frame,
            Err(reason) => decode_opaque(bytes).map_err(|_| reason)?,
        };
        let dst = outer_dst(&frame);
        if let Some(to) = self.port_of_mac(dst) {
            return Ok(inbound(to));
        }
        let uplink = self.uplinks.iter().find(|uplink| uplink.id == from);
        let is_ours =
            |address: &IpAddr| self.uplinks.iter().any(|uplink| uplink.config.addresses.contains(address));
        if let Some(remote) = tunnel_remote(&frame) {
            let to = if is_ours(&remote) { self.port_of_tenant(&frame) } else { None };
            return to.map(inbound).ok_or(DropReason::NotForThisHost);
        }
        if cut_tunnel(&frame).is_some_and(|to| is_ours(&to)) {
            return Err(DropReason::TunnelFragmented);
        }
        match uplink {
            _ if dst.is_multicast() && !self.multicast.is_empty() => Ok(Way::Multicast),
            _ if dst.is_multicast() => Ok(Way::Host),
            Some(uplink) if uplink.config.mac == dst => Ok(Way::Host),
            _ => Err(DropReason::NotForThisHost),
        }
    }

    fn port_of_mac(&self, mac: MacAddr) -> Option<PortId> {
        self.ports.iter().find(|(_, port)| port.config.mac == mac).map(|(id, _)| *id)
    }

    /// The port of (tenant, inner destination MAC) of a tunnelled frame, of its outermost tunnel.
    fn port_of_tenant(&self, frame: &Frame) -> Option<PortId> {
        let tunnel = frame.outermost().tunnel().filter(|tunnel| tunnel.kind.has_tenant())?;
        let tenant = tunnel.tenant;
        let mac = frame.groups().get(1)?.l2?.dst;
        let is_it =
            |config: &lamina_core::switch::PortConfig| config.mac == mac && config.tenants.contains(&tenant);
        self.ports.iter().find(|(_, port)| is_it(&port.config)).map(|(id, _)| *id)
    }
}

/// To the side of a port that what is sent to it enters.
fn inbound(to: PortId) -> Way {
    Way::Port(to, Direction::Inbound)
}

fn outer_dst(frame: &Frame) -> MacAddr {
    frame.outermost().l2.map_or(MacAddr::ZERO, |l2| l2.dst)
}

/// The remote end of the outermost tunnel.
fn tunnel_remote(frame: &Frame) -> Option<IpAddr> {
    let outer = frame.outermost();
    outer.tunnel()?;
    outer.l3?.addresses().map(|(_, dst)| dst)
}

/// Cuts `bytes`, which are `frame`, down to `most`. A tunnel around them says the new length, what is inside the old one.
fn cut(frame: &Frame, bytes: &mut Vec<u8>, most: usize, is_tunnelled: bool) {
    if bytes.len() <= most {
        return;
    }
    let less = (bytes.len() - most) as u16;
    bytes.truncate(most);
    if !is_tunnelled {
        return;
    }
    let ip = frame.outermost().l2.map_or(0, |l2| 14 + 4 * l2.tags.len());
    let (length_at, next) = match frame.outermost().l3 {
        Some(Header::Ipv4(_)) => (ip + 2, ip + 20),
        _ => (ip + 4, ip + 40),
    };
    let has_udp = frame.outermost().tunnel().is_some_and(|tunnel| tunnel.udp.is_some());
    for at in [Some(length_at), has_udp.then_some(next + 4)].into_iter().flatten() {
        let length = u16::from_be_bytes([bytes[at], bytes[at + 1]]) - less;
        bytes[at..at + 2].copy_from_slice(&length.to_be_bytes());
    }
    if next == ip + 20 {
        bytes[ip + 10..ip + 12].fill(0);
        let sum = internet_checksum(&bytes[ip..ip + 20]);
        bytes[ip + 10..ip + 12].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Where a packet goes that would be tunnelled if it were not cut: the first of several fragments, which opens nothing.
fn cut_tunnel(frame: &Frame) -> Option<IpAddr> {
    let outer = frame.outermost();
    let ip = outer.l3.filter(|ip| ip.fragment() == Fragment::First)?;
    let protocol = match ip {
        Header::Ipv4(ip) => ip.protocol,
        Header::Ipv6(ip) => ip.protocol,
        _ => return None,
    };
    let is_tunnel = match outer.l4 {
        Some(Header::Udp(udp)) => [4789, 6081].contains(&udp.dst),
        Some(_) => false,
        None => [4, 41, 47].contains(&protocol),
    };
    ip.addresses().filter(|_| is_tunnel).map(|(_, dst)| dst)
}

/// True when a frame of `length` bytes fits a link whose packets have up to `mtu` bytes; 0 is no limit.
fn is_within(mtu: u32, frame: &Frame, length: usize) -> bool {
    let link = frame.outermost().l2.map_or(0, |l2| 14 + 4 * l2.tags.len());
    mtu == 0 || length <= mtu as usize + link
}
