//! From a transposition and the input's base headers to an [`Edit`].
//!
//! The result is computed on meaning first; the edit is then what turns the one list of headers into the other.
//! So the compiler knows no rule of its own about what fits. It must read base fields of the input only.

use alloc::vec::Vec;

use super::super::headers::{Header, HeaderList, MAX_HEADERS, ethertype};
use super::super::source::Source;
use super::super::{HeaderOp, Modify, ModifyL3, Push, PushDscp, TransposeError, Transposition, VXLAN_PORT};
use super::{
    Change, Cover, Edit, Extent, IpChange, L4Change, L4Checksum, L4Fields, Network, Piece, Place,
    PushedClass, TcpKind, bytes,
};
use crate::flow::{Encap, EncapKind, Fragment, HeaderStack, IpPair, L3, L4, Level, Ports};
use crate::packet::checksum;

impl Edit {
    /// Compiles `transposition` for packets whose base headers are those of `input`; per-packet fields of `input`
    /// are not looked at.
    pub fn compile(transposition: &Transposition, input: &HeaderStack) -> Result<Edit, TransposeError> {
        let mut list = HeaderList::flatten(input);
        for item in list.items_mut() {
            if let Header::L3(_, extra) = &mut item.header {
                (extra.ttl, extra.ecn, extra.fragment) = (u8::MAX, 0, Fragment::None);
            }
        }
        let output = if transposition.is_identity() { list } else { transposition.run(&list)?.0 };
        let mut compiler = Compiler::new(transposition, &list, &output);
        compiler.front();
        compiler.behind();
        compiler.covers();
        Ok(compiler.finish())
    }
}

struct Compiler<'a> {
    transposition: &'a Transposition,
    input: &'a HeaderList,
    output: &'a HeaderList,
    /// Operations that make the front.
    front_ops: usize,
    /// Headers of input and output that the front takes and leaves.
    consumed: usize,
    emitted: usize,
    /// The first input header behind the last change.
    last_changed: usize,
    /// Where each header of the input starts; then where they end.
    places: [Place; MAX_HEADERS + 1],
    edit: Edit,
    template: Vec<u8>,
    pieces: Vec<Piece>,
    changes: Vec<Change>,
}

impl<'a> Compiler<'a> {
    fn new(transposition: &'a Transposition, input: &'a HeaderList, output: &'a HeaderList) -> Self {
        let mut edit = Edit::default();
        for (network, header) in edit.input.iter_mut().zip(l3_headers(input)) {
            *network = match header {
                L3::Ip(ip) if ip.addresses.is_v4() => Network::V4,
                L3::Ip(_) => Network::V6,
                L3::Arp(_) => Network::Arp,
            };
        }
        Compiler {
            transposition,
            input,
            output,
            front_ops: transposition.structural_ops().max(resizing_ops(transposition, input)),
            consumed: 0,
            emitted: 0,
            last_changed: 0,
            places: places(input),
            edit,
            template: Vec::with_capacity(128),
            pieces: Vec::with_capacity(8),
            changes: Vec::with_capacity(4),
        }
    }

    fn front(&mut self) {
        let transposition = self.transposition;
        let mut sources = transposition.sources.iter().copied();
        for op in &transposition.ops[..self.front_ops] {
            match op {
                HeaderOp::Pop(level) => {
                    let group = self.place(self.consumed).group;
                    if *level == Level::L3 {
                        self.edit.whole |= 1 << group;
                    }
                    if matches!(self.input.items()[self.consumed].header, Header::L4(L4::Tcp(_), _)) {
                        self.edit.tcp = TcpKind::Removed;
                    }
                    self.consumed += 1;
                }
                HeaderOp::Push(push) => {
                    let source = if let Push::Ip(_) = push { sources.next() } else { None };
                    self.push(push, source.unwrap_or_default());
                    self.emitted += 1;
                }
                HeaderOp::Ignore(_) | HeaderOp::Modify(_) => {
                    self.keep_in_front(op);
                    self.consumed += 1;
                    self.emitted += 1;
                }
            }
        }
        self.edit.front_len = self.template.len() as u16;
        if self.front_ops > 0 {
            self.edit.strip = self.place(self.consumed);
        }
    }

    /// Where input header `index` starts; behind the last one, where the headers end.
    fn place(&self, index: usize) -> Place {
        self.places[index.min(MAX_HEADERS)]
    }

    /// The end of what the header that is pushed now holds (see [`Extent`]): where Ethernet is next inside it, the
    /// frame that lies here, padding included; else the IP packet that lies here.
    fn extent(&mut self) -> Extent {
        let group = self.place(self.consumed).group;
        let inside = self.output.items()[self.emitted..].iter().skip(1);
        let mut decisive = inside.filter(|item| match item.header {
            Header::L2(_) => true,
            Header::L3(..) => item.origin.is_some(),
            Header::L4(l4, _) => !matches!(l4, L4::Encap(_)),
        });
        let holds_ethernet = matches!(decisive.next().map(|item| item.header), Some(Header::L2(_)));
        let holds_packet =
            !holds_ethernet && matches!(self.edit.input[group as usize], Network::V4 | Network::V6);
        let extent = match group {
            group if holds_packet => Extent::Group(group),
            0 => Extent::Frame,
            group => Extent::Group(group - 1),
        };
        if let Extent::Group(group) = extent {
            self.edit.reads |= 1 << group;
        }
        extent
    }

    fn read_classes(&mut self, source: Source) {
        for group in source.first..=source.last.min(2) {
            self.edit.reads |= 1 << group;
        }
    }

    fn push(&mut self, push: &Push, source: Source) {
        let header = self.output.items()[self.emitted].header;
        let start = self.template.len();
        match (header, push) {
            (Header::L2(l2), _) => bytes::emit_l2(&mut self.template, &l2),
            (Header::L3(L3::Arp(arp), _), _) => bytes::emit_arp(&mut self.template, &arp),
            (Header::L3(L3::Ip(ip), extra), Push::Ip(push)) => {
                bytes::emit_ip(&mut self.template, &ip.addresses, ip.protocol, extra.ttl);
                self.read_classes(source);
                let dscp = match push.dscp {
                    PushDscp::Fixed(dscp) => Some(dscp),
                    PushDscp::Copy => None,
                };
                let class = PushedClass { dscp, source };
                let extent = self.extent();
                self.pieces.push(match ip.addresses {
                    IpPair::V4 { .. } => Piece::V4 {
                        sum: checksum::fold(checksum::sum(&self.template[start..])),
                        class,
                        extent,
                    },
                    IpPair::V6 { .. } => Piece::V6 { class, extent },
                });
                return;
            }
            (Header::L4(L4::Udp(ports), _), _) => {
                bytes::emit_udp(&mut self.template, ports);
                if let Some(addresses) = addresses_above(self.output, self.emitted) {
                    self.pieces.push(Piece::Udp { addresses });
                }
                return;
            }
            (Header::L4(L4::Icmp(icmp) | L4::Icmpv6(icmp), _), _) => {
                bytes::emit_icmp(&mut self.template, &icmp);
                let addresses = addresses_above(self.output, self.emitted).filter(|pair| !pair.is_v4());
                self.pieces.push(Piece::Icmp { addresses });
                return;
            }
            (Header::L4(L4::Encap(encap), extra), Push::Encap(push)) => {
                if encap.kind.over_udp() {
                    bytes::emit_udp(&mut self.template, Ports { src: extra.entropy, dst: push.udp_port });
                    self.pieces.push(Piece::TunnelUdp);
                }
                let start = self.template.len();
                let carries = self.carried(self.emitted);
                bytes::emit_tunnel(&mut self.template, &encap, carries, extra.entropy);
                self.plain(start);
                return;
            }
            // A push makes a header of its own kind.
            _ => {}
        }
        self.plain(start);
    }

    /// The template from `start` on is a header, or more of the plain header before.
    fn plain(&mut self, start: usize) {
        let len = (self.template.len() - start) as u8;
        if len > 0 {
            self.pieces.push(Piece::Plain { len });
        }
    }

    /// The ethertype of what output header `index`, a tunnel, carries.
    fn carried(&self, index: usize) -> u16 {
        match self.output.items().get(index + 1).map(|item| item.header) {
            Some(Header::L3(l3, _)) => ethertype(&l3),
            _ => 0x6558,
        }
    }

    fn keep_in_front(&mut self, op: &HeaderOp) {
        let start = self.template.len();
        match self.output.items()[self.emitted].header {
            Header::L2(l2) => {
                bytes::emit_l2(&mut self.template, &l2);
                self.plain(start);
            }
            Header::L3(L3::Arp(arp), _) => {
                bytes::emit_arp(&mut self.template, &arp);
                self.plain(start);
            }
            Header::L3(L3::Ip(_), _) => {
                let group = self.place(self.consumed).group;
                self.edit.whole |= 1 << group;
                self.edit.reads |= 1 << group;
                let change = self.ip_change(op, self.consumed, self.emitted);
                self.pieces.push(Piece::Kept(Change::Ip(change)));
            }
            Header::L4(..) => {
                let change = self.l4_change(self.consumed, self.emitted);
                self.pieces.push(Piece::Kept(Change::L4(change)));
            }
        }
    }

    fn behind(&mut self) {
        self.last_changed = self.consumed;
        let count = self.input.items().len() - self.consumed;
        for step in 0..count {
            let (from, to) = (self.consumed + step, self.emitted + step);
            let op = self.transposition.ops.get(self.front_ops + step);
            let op = op.copied().unwrap_or(HeaderOp::Ignore(self.input.items()[from].header.level()));
            let (before, after) = (self.input.items()[from].header, self.output.items()[to].header);
            let place = self.place(from);
            let start = self.template.len();
            let change = match after {
                Header::L2(l2) if before != after => {
                    bytes::emit_l2(&mut self.template, &l2);
                    Some(self.whole(place, start))
                }
                Header::L3(L3::Arp(arp), _) if before != after => {
                    bytes::emit_arp(&mut self.template, &arp);
                    Some(self.whole(place, start))
                }
                Header::L3(L3::Ip(_), _) => {
                    let change = self.ip_change(&op, from, to);
                    let changes = before != after
                        || change.merge.is_some()
                        || change.ttl.is_some()
                        || change.dscp.is_some();
                    changes.then_some(Change::Ip(change))
                }
                Header::L4(..) => {
                    let change = self.l4_change(from, to);
                    let moves = change.pseudo_delta != 0xffff && change.checksum != L4Checksum::Icmp;
                    let fills = matches!(change.checksum, L4Checksum::Udp { fill: Some(_) });
                    let covered = change.checksum == L4Checksum::Covered;
                    (before != after || moves && !covered || fills).then_some(Change::L4(change))
                }
                _ => None,
            };
            if let Some(change) = change {
                self.changes.push(change);
                self.last_changed = from + 1;
            }
        }
        self.edit.changed_end = self.place(self.last_changed);
        self.edit.headers_end = self.place(self.input.items().len());
    }

    fn whole(&self, place: Place, start: usize) -> Change {
        Change::Whole { place, at: start as u16, len: (self.template.len() - start) as u8 }
    }

    fn ip_change(&mut self, op: &HeaderOp, from: usize, to: usize) -> IpChange {
        let group = self.place(from).group;
        let modify = match op {
            HeaderOp::Modify(Modify::L3(modify)) => *modify,
            _ => ModifyL3::default(),
        };
        let (old, new) = (ip_at(self.input, from), ip_at(self.output, to));
        // Where IP headers right outside were popped, their ECN comes in.
        let popped =
            (0..group).rev().take_while(|outer| self.edit.whole & 1 << outer != 0 && !self.is_kept(*outer));
        let merge = popped.last().map(|first| Source { first, last: group });
        if let Some(source) = merge {
            self.read_classes(source);
        }
        let (addresses, protocol) = match new {
            Some((addresses, protocol)) => (addresses, protocol),
            None => (IpPair::V4 { src: [0; 4].into(), dst: [0; 4].into() }, 0),
        };
        IpChange {
            group,
            addresses,
            address_delta: delta(old.map_or(0, |(pair, _)| sum_pair(&pair)), sum_pair(&addresses)),
            dscp: modify.dscp,
            ttl: modify.ttl,
            merge,
            protocol: (old.map(|old| old.1) != Some(protocol)).then_some(protocol),
        }
    }

    /// True where the IP header of input group `group` is in the output.
    fn is_kept(&self, group: u8) -> bool {
        self.output.items().iter().any(|item| {
            item.origin.is_some_and(|at| {
                let place = self.place(at as usize);
                place.group == group && place.level == Some(Level::L3)
            })
        })
    }

    fn l4_change(&mut self, from: usize, to: usize) -> L4Change {
        let group = self.place(from).group;
        let (before, after) = (l4_at(self.input, from), l4_at(self.output, to));
        let (old_pair, new_pair) = (addresses_above(self.input, from), addresses_above(self.output, to));
        let families = (old_pair.map(|pair| pair.is_v4()), new_pair.map(|pair| pair.is_v4()));
        let fields = match after {
            L4::Tcp(ports) | L4::Udp(ports) | L4::Sctp(ports) => L4Fields::Ports(port_bytes(ports)),
            L4::Icmp(icmp) | L4::Icmpv6(icmp) => {
                L4Fields::Icmp { kind: icmp.kind, code: icmp.code, id: icmp.id }
            }
            L4::Encap(Encap { kind, tenant }) => L4Fields::Encap { kind, tenant, carries: self.carried(to) },
        };
        let checksum = match after {
            L4::Tcp(_) => L4Checksum::Tcp,
            L4::Udp(_) => {
                let fill = new_pair.filter(|_| families == (Some(true), Some(false)));
                L4Checksum::Udp { fill }
            }
            L4::Sctp(_) => L4Checksum::Sctp,
            L4::Icmp(_) => L4Checksum::Icmp,
            L4::Icmpv6(_) => L4Checksum::Icmpv6,
            L4::Encap(_) => L4Checksum::Covered,
        };
        if let (L4::Tcp(_), (Some(old), Some(new))) = (after, families)
            && old != new
        {
            self.edit.tcp = TcpKind::Moved { v4: new };
        }
        if matches!(checksum, L4Checksum::Udp { fill: Some(_) } | L4Checksum::Sctp) {
            self.edit.reads |= 1 << group;
        }
        if checksum == L4Checksum::Sctp && before != after {
            self.edit.whole |= 1 << group;
        }
        let pair_sum = |pair: Option<IpPair>| pair.map_or(0, |pair| sum_pair(&pair));
        L4Change {
            group,
            fields,
            checksum,
            pseudo_delta: delta(pair_sum(old_pair), pair_sum(new_pair)),
            own_delta: delta(own_sum(&before), own_sum(&after)),
        }
    }

    fn covers(&mut self) {
        let mut covers = Vec::new();
        if self.pieces.is_empty() && self.changes.is_empty() && self.consumed == 0 {
            return;
        }
        for (to, item) in self.output.items().iter().enumerate() {
            let (Header::L4(L4::Encap(encap), _), Some(from)) = (item.header, item.origin) else { continue };
            let pairs = (addresses_above(self.input, from as usize), addresses_above(self.output, to));
            let place = self.place(from as usize);
            let changes_inside =
                self.edit.changed_end.group >= place.group && encap.kind != EncapKind::IpInIp;
            if let (true, (Some(before), Some(after))) = (changes_inside, pairs) {
                covers.push(Cover { group: place.group, kind: encap.kind, before, after });
                // Its checksum is a changed field for the tunnels around it.
                self.last_changed = self.last_changed.max(from as usize + 1);
            }
        }
        self.edit.changed_end = self.place(self.last_changed);
        self.edit.covers = covers.into();
    }

    fn finish(mut self) -> Edit {
        self.edit.template = self.template.into();
        self.edit.has_copies = self.pieces.iter().any(|piece| matches!(piece, Piece::Kept(_)));
        self.edit.front = self.pieces.into();
        self.edit.behind = self.changes.into();
        self.edit
    }
}

fn places(input: &HeaderList) -> [Place; MAX_HEADERS + 1] {
    let mut places = [Place::default(); MAX_HEADERS + 1];
    let mut group = 0;
    for (place, item) in places.iter_mut().zip(input.items()) {
        *place = Place { group, level: Some(item.header.level()) };
        // The last group is the last even where it ends with a tunnel header.
        group += matches!(item.header, Header::L4(L4::Encap(_), _)) as u8;
    }
    let count = input.items().len();
    let last = if count == 0 { 0 } else { places[count - 1].group };
    for place in &mut places[count..] {
        *place = Place { group: last, level: None };
    }
    places
}

/// How many operations there are up to the last one that changes how many VLAN tags a kept header has.
fn resizing_ops(transposition: &Transposition, input: &HeaderList) -> usize {
    let mut headers = input.items().iter();
    let mut last = 0;
    for (index, op) in transposition.ops.iter().enumerate() {
        if matches!(op, HeaderOp::Push(_)) {
            continue;
        }
        if let (HeaderOp::Modify(Modify::L2(modify)), Some(Header::L2(l2))) =
            (op, headers.next().map(|item| item.header))
            && modify.tags.is_some_and(|tags| tags.count() != l2.tags.count())
        {
            last = index + 1;
        }
    }
    last
}

fn l3_headers(list: &HeaderList) -> impl Iterator<Item = L3> + '_ {
    list.items().iter().filter_map(|item| match item.header {
        Header::L3(l3, _) => Some(l3),
        _ => None,
    })
}

fn ip_at(list: &HeaderList, index: usize) -> Option<(IpPair, u8)> {
    match list.header(index, Level::L3) {
        Some(Header::L3(L3::Ip(ip), _)) => Some((ip.addresses, ip.protocol)),
        _ => None,
    }
}

/// The transport header at `index`, which the caller knows to be one.
fn l4_at(list: &HeaderList, index: usize) -> L4 {
    match list.header(index, Level::L4) {
        Some(Header::L4(l4, _)) => *l4,
        _ => L4::Udp(Ports { src: 0, dst: VXLAN_PORT }),
    }
}

/// The addresses of the IP header right above header `index`.
fn addresses_above(list: &HeaderList, index: usize) -> Option<IpPair> {
    ip_at(list, index.checked_sub(1)?).map(|(addresses, _)| addresses)
}

const fn port_bytes(ports: Ports) -> [u8; 4] {
    let ([a, b], [c, d]) = (ports.src.to_be_bytes(), ports.dst.to_be_bytes());
    [a, b, c, d]
}

fn sum_pair(pair: &IpPair) -> u32 {
    match pair {
        IpPair::V4 { src, dst } => checksum::sum_words(&src.octets()) + checksum::sum_words(&dst.octets()),
        IpPair::V6 { src, dst } => checksum::sum_words(&src.octets()) + checksum::sum_words(&dst.octets()),
    }
}

fn own_sum(l4: &L4) -> u32 {
    match l4 {
        L4::Tcp(ports) | L4::Udp(ports) | L4::Sctp(ports) => ports.src as u32 + ports.dst as u32,
        L4::Icmp(icmp) | L4::Icmpv6(icmp) => {
            ((icmp.kind as u32) << 8) + icmp.code as u32 + icmp.id.unwrap_or(0) as u32
        }
        L4::Encap(_) => 0,
    }
}

/// What is added to a sum when `old` becomes `new` in it; 0xffff (minus zero) for no change.
fn delta(old: u32, new: u32) -> u16 {
    checksum::fold(!checksum::fold(old) as u32 + checksum::fold(new) as u32)
}
