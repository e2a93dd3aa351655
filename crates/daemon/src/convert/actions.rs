//! Actions: names become numbers, and what an action cannot do is refused.

use std::net::IpAddr;

use lamina_api::document::{self, Affinity as WrittenAffinity, Dscp};
use lamina_api::{At, Code, Diagnostic, Source, Span};
use lamina_core::action::{
    Action, Affinity, Allow, Block, Decap, Encap, Hairpin, Limit, Limiter, LoadBalance, MapEncap, Mark,
    Meter, Mirror, MirrorTarget, Nat, NatTo, Punt, PushTag, Transpose, Tunnel, Vlan,
};
use lamina_core::address::{MacAddr, VlanTag};
use lamina_core::flow::EncapKind;
use lamina_core::resource::{LimitId, MappingId, MeterId, TargetSetId};
use lamina_core::switch::PortId;
use lamina_core::transposition::{GENEVE_PORT, PushDscp, VXLAN_PORT};

use super::conditions::encap_kind;
use super::holds::Possible;
use super::resources::rate;
use super::{Converter, Scope, UPLINK};

/// Bytes of a packet that a controller gets where the rule does not say: an ordinary frame whole.
const DEFAULT_PUNT_BYTES: u32 = 2_048;

impl Converter {
    /// The action of a rule whose conditions leave `possible`; `None` after an error.
    pub(super) fn action(
        &mut self,
        source: &Source,
        action: &At<document::Action>,
        possible: &Possible,
        scope: &Scope<'_>,
    ) -> Option<Action> {
        Some(match &action.value {
            document::Action::Allow => Action::Allow(Allow),
            document::Action::Block => Action::Block(Block),
            document::Action::Nat(nat) => Action::Nat(self.nat(source, nat, possible)?),
            document::Action::LoadBalance { targets, affinity } => {
                let affinity = match affinity {
                    WrittenAffinity::FiveTuple => Affinity::FiveTuple,
                    WrittenAffinity::Source => Affinity::SourceAddress,
                };
                Action::LoadBalance(LoadBalance {
                    targets: self.targets(source, targets, possible, scope)?,
                    affinity,
                })
            }
            document::Action::Encap(encap) => Action::Encap(self.encap(source, encap)?),
            document::Action::Decap(kind) => Action::Decap(Decap { kind: kind.map(encap_kind) }),
            document::Action::MapEncap(encap) => Action::MapEncap(self.map_encap(source, encap, scope)?),
            document::Action::Transpose(ops) => {
                Action::Transpose(Transpose { transposition: self.transposition(source, ops)? })
            }
            document::Action::Meter(name) => {
                let Some(number) = scope.tables.meters.number(&name.value) else {
                    self.missing(source, name, "meter", scope.tables.meters.names());
                    return None;
                };
                Action::Meter(Meter { meter: MeterId(number) })
            }
            document::Action::Limit(document::Limiter::Own(written)) => {
                Action::Limit(Limit { by: Limiter::Own(rate(written)) })
            }
            document::Action::Limit(document::Limiter::Shared(name)) => {
                let Some(number) = scope.tables.limits.number(&name.value) else {
                    self.missing(source, name, "limit", scope.tables.limits.names());
                    return None;
                };
                Action::Limit(Limit { by: Limiter::Shared(LimitId(number)) })
            }
            document::Action::Vlan(vlan) => Action::Vlan(match vlan {
                document::VlanAction::Push { tag, has_priority } => Vlan::Push(PushTag {
                    tpid: if tag.service { VlanTag::DOT1AD } else { VlanTag::DOT1Q },
                    id: tag.id,
                    priority: has_priority.then_some(tag.priority),
                }),
                document::VlanAction::Pop => Vlan::Pop,
                document::VlanAction::Refuse => Vlan::Refuse,
            }),
            document::Action::Mark { dscp, metadata } => {
                Action::Mark(Mark { dscp: *dscp, metadata: self.marks(source, metadata, scope)? })
            }
            document::Action::Respond(respond) => {
                Action::Respond(self.respond(source, &At::new(respond, action.span), scope)?)
            }
            document::Action::Mirror(mirror) => Action::Mirror(self.mirror(source, mirror, scope)?),
            document::Action::Punt(punt) => Action::Punt(Punt {
                queue: punt.queue.value.clone(),
                max_bytes: punt.max_bytes.unwrap_or(DEFAULT_PUNT_BYTES),
            }),
            document::Action::Hairpin(None) => Action::Hairpin(Hairpin { port: None }),
            document::Action::Hairpin(Some(name)) => {
                Action::Hairpin(Hairpin { port: Some(self.port_called(source, name, scope)?) })
            }
        })
    }

    fn mirror(&mut self, source: &Source, mirror: &document::Mirror, scope: &Scope<'_>) -> Option<Mirror> {
        let to = match &mirror.to {
            document::MirrorTarget::Port(name) => MirrorTarget::Port(self.port_called(source, name, scope)?),
            document::MirrorTarget::Collector { tunnel: written, remote } => {
                let tunnel = self.tunnel(source, written);
                let tenant = self.tenant(source, written);
                self.same_family(source, written.local, remote.value);
                MirrorTarget::Collector { tunnel: tunnel?, tenant: tenant?, remote: remote.value }
            }
        };
        Some(Mirror { to, truncate: mirror.truncate, sample: mirror.sample.unwrap_or(1) })
    }

    /// The number of the port called `name`: the uplink is none.
    fn port_called(
        &mut self,
        source: &Source,
        name: &At<lamina_api::Name>,
        scope: &Scope<'_>,
    ) -> Option<PortId> {
        let id = scope.ids.id(&name.value).filter(|_| &*name.value != UPLINK);
        if id.is_none() {
            self.missing(source, name, "port", scope.ids.names());
        }
        id
    }

    fn nat(&mut self, source: &Source, nat: &document::Nat, possible: &Possible) -> Option<Nat> {
        let side = |to: &Option<document::NatTo>| to.and_then(|to| to.address);
        let (src, dst) = (side(&nat.source), side(&nat.destination));
        if let (Some(src), Some(dst)) = (src, dst)
            && src.is_ipv4() != dst.is_ipv4()
        {
            let message = "the new source and the new destination are not of one family";
            let diagnostic = Diagnostic::error(Code::Conflict, source, dst.span, message);
            let diagnostic = diagnostic.also(source, src.span, "the new source");
            self.say(
                diagnostic.help("use two IPv4 or two IPv6 addresses; a packet cannot change its family"),
            );
            return None;
        }
        for address in [src, dst].into_iter().flatten() {
            self.fits_family(source, address, possible)?;
        }
        let to =
            |to: &document::NatTo| NatTo { address: to.address.map(|address| address.value), port: to.port };
        Some(Nat { source: nat.source.as_ref().map(to), destination: nat.destination.as_ref().map(to) })
    }

    /// Reports an address that no packet of the rule can take.
    fn fits_family(&mut self, source: &Source, address: At<IpAddr>, possible: &Possible) -> Option<()> {
        let (fits, family, other) = match address.value {
            IpAddr::V4(_) => (possible.can_be_ipv4(), "IPv4", "IPv6"),
            IpAddr::V6(_) => (possible.can_be_ipv6(), "IPv6", "IPv4"),
        };
        if fits || !(possible.can_be_ipv4() || possible.can_be_ipv6()) {
            return Some(());
        }
        let message = format!("the rule matches only {other} packets, but this address is {family}");
        let help =
            format!("use an {other} address, or change the conditions; a packet cannot change its family");
        self.error(Code::Conflict, source, address.span, message, help);
        None
    }

    fn targets(
        &mut self,
        source: &Source,
        name: &At<lamina_api::Name>,
        possible: &Possible,
        scope: &Scope<'_>,
    ) -> Option<TargetSetId> {
        let Some(number) = scope.tables.targets.number(&name.value) else {
            self.missing(source, name, "target set", scope.tables.targets.names());
            return None;
        };
        let targets = scope.tables.targets.written(number).map_or(&[][..], |(_, set)| &set.targets);
        let fitting = targets.iter().any(|target| match target.value.address {
            IpAddr::V4(_) => possible.can_be_ipv4(),
            IpAddr::V6(_) => possible.can_be_ipv6(),
        });
        if !fitting && !targets.is_empty() && (possible.can_be_ipv4() || possible.can_be_ipv6()) {
            let family = if possible.can_be_ipv4() { "IPv4" } else { "IPv6" };
            let message = format!(
                "the rule matches only {family} packets, but `{}` has no {family} target",
                name.value
            );
            self.error(
                Code::Conflict,
                source,
                name.span,
                message,
                "name another set, or change the conditions",
            );
            return None;
        }
        Some(TargetSetId(number))
    }

    fn encap(&mut self, source: &Source, encap: &document::Encap) -> Option<Encap> {
        let tunnel = self.tunnel(source, &encap.tunnel);
        let kind = encap.tunnel.kind.value;
        let tenant = self.tenant(source, &encap.tunnel);
        if let Some(first) = encap.remotes.first() {
            let other = encap.remotes.iter().find(|remote| remote.is_ipv4() != first.is_ipv4());
            if let Some(other) = other {
                let diagnostic = Diagnostic::error(
                    Code::Conflict,
                    source,
                    other.span,
                    "the remotes are not of one family",
                );
                let help = "a tunnel's remotes are all IPv4 or all IPv6";
                self.say(diagnostic.also(source, first.span, "the first one").help(help));
            }
            self.same_family(source, encap.tunnel.local, first.value);
            let mut seen = std::collections::HashMap::new();
            for remote in &encap.remotes {
                if let Some(before) = seen.insert(remote.value, remote.span) {
                    let message = format!("the remote {} is listed twice", remote.value);
                    let diagnostic = Diagnostic::error(Code::Duplicate, source, remote.span, message);
                    self.say(diagnostic.also(source, before, "first listed here").help("remove one"));
                }
            }
        }
        let core_kind = encap_kind(kind);
        if let Some(mac) = encap.inner_mac
            && !core_kind.carries_ethernet()
        {
            let message = format!("{} carries IP, so there is no inner MAC", kind.name());
            self.error(Code::Impossible, source, mac.span, message, "remove `inner-mac`");
        }
        Some(Encap {
            tunnel: tunnel?,
            tenant: tenant?,
            remotes: encap.remotes.iter().map(|remote| remote.value).collect(),
            inner_dst_mac: encap.inner_mac.map(|mac| MacAddr(mac.0)),
        })
    }

    /// The tenant id that a tunnel states; an error where its kind needs one and there is none.
    fn tenant(&mut self, source: &Source, tunnel: &document::Tunnel) -> Option<u32> {
        match (tunnel.vni, tunnel.kind.largest_tenant()) {
            (Some(vni), _) => Some(vni.value),
            (None, 0) => Some(0),
            (None, _) => {
                let message = format!("{} needs a tenant id", tunnel.kind.name());
                self.error(Code::MissingField, source, tunnel.kind.span, message, "add `vni: 5001`");
                None
            }
        }
    }

    fn same_family(&mut self, source: &Source, local: Option<At<IpAddr>>, remote: IpAddr) {
        if let Some(local) = local
            && local.is_ipv4() != remote.is_ipv4()
        {
            let message =
                format!("the tunnel's source {} and its remote {remote} are not of one family", local.value);
            let help = "use an address of the remote's family, or leave `local` out: the underlay chooses";
            self.error(Code::Conflict, source, local.span, message, help);
        }
    }

    fn tunnel(&mut self, source: &Source, written: &document::Tunnel) -> Option<Tunnel> {
        let kind = encap_kind(written.kind.value);
        self.tunnel_numbers(source, written.kind, written.vni, written.udp_port)?;
        Some(Tunnel {
            kind,
            local: written.local.map(|local| local.value),
            udp_port: written.udp_port.map_or_else(|| default_port(kind), |port| port.value),
            dscp: push_dscp(written.dscp),
        })
    }

    /// Checks that the kind of tunnel carries such a tenant id and has a UDP port.
    pub(super) fn tunnel_numbers(
        &mut self,
        source: &Source,
        kind: At<document::EncapKind>,
        vni: Option<At<u32>>,
        udp_port: Option<At<u16>>,
    ) -> Option<()> {
        let name = kind.name();
        let largest = kind.largest_tenant();
        if let Some(vni) = vni
            && vni.value > largest
        {
            if largest == 0 {
                let message = format!("{name} carries no tenant id");
                self.error(Code::Impossible, source, vni.span, message, "remove `vni`, or use `gre-keyed`");
            } else {
                let message = format!("a tenant id of {name} is out of range: {}", vni.value);
                self.error(
                    Code::OutOfRange,
                    source,
                    vni.span,
                    message,
                    format!("it must be from 0 to {largest}"),
                );
            }
            return None;
        }
        if let Some(port) = udp_port
            && !encap_kind(kind.value).over_udp()
        {
            let message = format!("{name} does not run over UDP");
            self.error(Code::Impossible, source, port.span, message, "remove `udp-port`");
            return None;
        }
        Some(())
    }

    pub(super) fn mapping(
        &mut self,
        source: &Source,
        name: &At<lamina_api::Name>,
        scope: &Scope<'_>,
    ) -> Option<MappingId> {
        let number = scope.tables.mappings.number(&name.value);
        if number.is_none() {
            self.missing(source, name, "mapping table", scope.tables.mappings.names());
        }
        number.map(MappingId)
    }

    fn map_encap(
        &mut self,
        source: &Source,
        encap: &document::MapEncap,
        scope: &Scope<'_>,
    ) -> Option<MapEncap> {
        let tunnel = self.tunnel(source, &encap.tunnel);
        let mapping = self.mapping(source, &encap.mapping, scope);
        let kind = encap.tunnel.kind;
        let table = mapping.and_then(|id| scope.tables.mappings.written(id.0));
        if let Some((table_source, table)) = table {
            self.entries_fit(source, encap, table_source, table);
        }
        let core_kind = encap_kind(kind.value);
        Some(MapEncap {
            tunnel: tunnel?,
            mapping: mapping?,
            key_tenant: encap.tenant,
            tenant: encap.tunnel.vni.map_or(0, |vni| vni.value),
            rewrite_mac: encap.rewrite_mac && core_kind.carries_ethernet(),
        })
    }

    /// Checks the entries of a mapping table against a tunnel that uses them.
    fn entries_fit(
        &mut self,
        source: &Source,
        encap: &document::MapEncap,
        table_source: &Source,
        table: &document::Mapping,
    ) {
        let kind = encap.tunnel.kind;
        let largest = kind.largest_tenant();
        let used = |entry: &&document::MappingEntry| entry.tenant == encap.tenant && entry.remote.is_some();
        for entry in table.entries.iter().filter(used) {
            let place: (Span, String) = match entry.vni {
                Some(vni) if largest == 0 => (vni.span, format!("{} carries no tenant id", kind.name())),
                Some(vni) if vni.value > largest => (
                    vni.span,
                    format!("a tenant id of {} is at most {largest}, not {}", kind.name(), vni.value),
                ),
                None if largest > 0 && encap.tunnel.vni.is_none() => (
                    entry.address.span,
                    format!("{} needs a tenant id, but neither this entry nor the rule has one", kind.name()),
                ),
                _ => match (entry.remote, encap.tunnel.local) {
                    (Some(remote), Some(local)) if remote.is_ipv4() != local.is_ipv4() => (
                        entry.address.span,
                        format!("this entry's remote {remote} is not of the family of `local`"),
                    ),
                    _ => continue,
                },
            };
            let diagnostic = Diagnostic::error(Code::Conflict, table_source, place.0, place.1);
            let diagnostic = diagnostic.also(source, encap.mapping.span, "the rule that uses the table");
            self.say(diagnostic.help("change the entry, or the tunnel of the rule"));
            return;
        }
        if !table.entries.iter().any(|entry| entry.tenant == encap.tenant) && !table.entries.is_empty() {
            let message = format!(
                "`{}` has no entry of tenant {}, so every packet misses",
                table.name.value, encap.tenant
            );
            let help = "say `tenant:` in the rule as the entries do; without it, entries without `tenant` are looked up";
            self.warn(Code::NeverMatches, source, encap.mapping.span, message, help);
        }
    }

    fn marks(
        &mut self,
        source: &Source,
        metadata: &[(At<lamina_api::Name>, u32)],
        scope: &Scope<'_>,
    ) -> Option<Vec<(u8, u32)>> {
        let declared = &scope.tables.metadata;
        let mut marks = Vec::with_capacity(metadata.len());
        for (key, value) in metadata {
            let index = declared
                .iter()
                .position(|name| *name == key.value)
                .and_then(|index| u8::try_from(index).ok());
            match index {
                Some(index) => marks.push((index, *value)),
                None => self.missing(source, key, "metadata key", declared.iter().map(|key| &**key)),
            }
        }
        (marks.len() == metadata.len()).then_some(marks)
    }
}

/// The IANA port of a tunnel over UDP; 0 for the others.
pub(super) fn default_port(kind: EncapKind) -> u16 {
    match kind {
        EncapKind::Vxlan => VXLAN_PORT,
        EncapKind::Geneve => GENEVE_PORT,
        _ => 0,
    }
}

pub(super) fn push_dscp(dscp: Dscp) -> PushDscp {
    match dscp {
        Dscp::Fixed(dscp) => PushDscp::Fixed(dscp),
        Dscp::Copy => PushDscp::Copy,
    }
}
