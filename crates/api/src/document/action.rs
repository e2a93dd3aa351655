//! Actions as written: a bare name, or a map with one key.

use std::net::IpAddr;

use super::Respond;
use super::limit::Limiter;
use super::transpose::HeaderOp;
use super::vlan::VlanAction;
use crate::decode::Decoder;
use crate::diagnostic::Code;
use crate::source::At;
use crate::suggest::did_you_mean;
use crate::tree::{Node, Tree, shortened};
use crate::value::{Mac, Name};

/// What a rule does with the packets it matches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Pass unchanged.
    Allow,
    /// Drop.
    Block,
    /// Rewrite addresses and ports.
    Nat(Nat),
    /// Choose a target and rewrite the destination to it.
    LoadBalance {
        /// The target set.
        targets: At<Name>,
        /// What keeps going to the same target.
        affinity: Affinity,
    },
    /// Put into a tunnel.
    Encap(Encap),
    /// Take out of the outermost tunnel, of this kind only where one is named.
    Decap(Option<EncapKind>),
    /// Put into the tunnel that a mapping table names.
    MapEncap(MapEncap),
    /// A header change, operation by operation.
    Transpose(Vec<At<HeaderOp>>),
    /// Count by this meter.
    Meter(At<Name>),
    /// Pass while there are tokens.
    Limit(Limiter),
    /// Put a VLAN tag on, or take it off.
    Vlan(VlanAction),
    /// Set DSCP or metadata.
    Mark {
        /// New DSCP.
        dscp: Option<u8>,
        /// Metadata keys and their new values.
        metadata: Vec<(At<Name>, u32)>,
    },
    /// Answer the packet.
    Respond(Respond),
    /// End this walk and start the other direction's, of this port or of the same one.
    Hairpin(Option<At<Name>>),
    /// Send a copy.
    Mirror(Mirror),
    /// Send to the controller that owns the layer.
    Punt(Punt),
}

/// New source, new destination, or both; at least one is given.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Nat {
    /// New source.
    pub source: Option<NatTo>,
    /// New destination.
    pub destination: Option<NatTo>,
}

/// What one side becomes; at least one is given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NatTo {
    /// New address.
    pub address: Option<At<IpAddr>>,
    /// New port.
    pub port: Option<u16>,
}

/// What keeps going to the same target.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Affinity {
    /// A conversation.
    #[default]
    FiveTuple,
    /// All conversations of a client.
    Source,
}

macro_rules! encap_kinds {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $largest:expr;)+) => {
        /// A kind of tunnel.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum EncapKind { $($(#[doc = $doc])+ $variant,)+ }

        impl EncapKind {
            /// Every kind.
            pub const ALL: &'static [EncapKind] = &[$(EncapKind::$variant,)+];

            /// The name used in documents.
            pub const fn name(self) -> &'static str {
                match self { $(EncapKind::$variant => $name,)+ }
            }

            /// The largest tenant id that it carries; 0 when it carries none.
            pub const fn largest_tenant(self) -> u32 {
                match self { $(EncapKind::$variant => $largest,)+ }
            }
        }
    };
}

encap_kinds! {
    /// Ethernet in UDP, RFC 7348.
    Vxlan = "vxlan", 0x00ff_ffff;
    /// Ethernet in UDP, RFC 8926.
    Geneve = "geneve", 0x00ff_ffff;
    /// Ethernet in GRE, RFC 7637.
    Nvgre = "nvgre", 0x00ff_ffff;
    /// IP in GRE, RFC 2784.
    Gre = "gre", 0;
    /// IP in GRE with a key, RFC 2890.
    GreKeyed = "gre-keyed", u32::MAX;
    /// IP in IP.
    IpInIp = "ip-in-ip", 0;
}

/// What every tunnel action says about its tunnel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tunnel {
    /// Which tunnel.
    pub kind: At<EncapKind>,
    /// Outer source; `None` leaves it to the underlay.
    pub local: Option<At<IpAddr>>,
    /// UDP destination port; `None` takes the kind's own.
    pub udp_port: Option<At<u16>>,
    /// Outer DSCP.
    pub dscp: Dscp,
    /// Tenant id (VNI, VSID, key).
    pub vni: Option<At<u32>>,
}

/// Put into a tunnel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Encap {
    /// The tunnel.
    pub tunnel: Tunnel,
    /// Where to; at least one.
    pub remotes: Vec<At<IpAddr>>,
    /// New destination MAC of the inner Ethernet header.
    pub inner_mac: Option<At<Mac>>,
}

/// Put into the tunnel that a mapping table names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MapEncap {
    /// The tunnel.
    pub tunnel: Tunnel,
    /// The table.
    pub mapping: At<Name>,
    /// The tenant whose entries are looked up.
    pub tenant: u32,
    /// Whether the inner destination MAC becomes the entry's.
    pub rewrite_mac: bool,
}

/// DSCP of an outer header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dscp {
    /// This value.
    Fixed(u8),
    /// A copy of the inner header's.
    Copy,
}

/// A packet that goes to a controller.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Punt {
    /// What it is told with the packet.
    pub queue: At<Name>,
    /// The most bytes of the frame that it gets; `None` takes the default.
    pub max_bytes: Option<u32>,
}

/// A copy that a packet leaves behind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mirror {
    /// Where it goes.
    pub to: MirrorTarget,
    /// The most bytes of it.
    pub truncate: Option<u32>,
    /// One conversation in so many; `None` is all.
    pub sample: Option<u32>,
}

/// Where copies go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MirrorTarget {
    /// To the NIC of this port.
    Port(At<Name>),
    /// In a tunnel, to this address.
    Collector {
        /// The tunnel.
        tunnel: Tunnel,
        /// The collector.
        remote: At<IpAddr>,
    },
}

/// The most bytes of a packet that go to a controller: a jumbo frame, since many wait in queues.
const MAX_PUNT_BYTES: u32 = 9_216;

const ACTIONS: [&str; 16] = [
    "allow",
    "block",
    "nat",
    "load-balance",
    "encap",
    "decap",
    "map-encap",
    "transpose",
    "meter",
    "limit",
    "vlan",
    "mark",
    "respond",
    "hairpin",
    "mirror",
    "punt",
];

impl Decoder<'_> {
    /// `tree` as an action.
    pub(super) fn action(&mut self, tree: &Tree<'_>) -> Option<At<Action>> {
        match &tree.node {
            Node::Scalar { text, .. } => {
                let action = match &**text {
                    "allow" => Action::Allow,
                    "block" => Action::Block,
                    "decap" => Action::Decap(None),
                    "hairpin" => Action::Hairpin(None),
                    other => {
                        self.unknown_action(tree, other);
                        return None;
                    }
                };
                Some(At::new(action, tree.span))
            }
            Node::Map(entries) => {
                let [(key, value)] = entries.as_slice() else {
                    let message = format!("an action is one name, but {} are given", entries.len());
                    let help = "use several layers for several actions, in the order of their priorities";
                    self.error(
                        Code::WrongType,
                        entries.first().map_or(tree.span, |(key, _)| key.span),
                        message,
                        help,
                    );
                    return None;
                };
                let name = self.text(key, "the name of an action")?;
                let action = match name {
                    "allow" => self.no_fields(value, "allow").map(|()| Action::Allow),
                    "block" => self.no_fields(value, "block").map(|()| Action::Block),
                    "nat" => self.nat(value),
                    "load-balance" => self.load_balance(value),
                    "encap" => self.encap(value),
                    "decap" => self.decap(value),
                    "map-encap" => self.map_encap(value),
                    "transpose" => self.transpose(value),
                    "meter" => self.name(value).map(Action::Meter),
                    "vlan" => self.vlan_action(value).map(Action::Vlan),
                    "limit" => self.limiter(value).map(Action::Limit),
                    "mark" => self.mark(value),
                    "respond" => self.respond(value),
                    "hairpin" => self.hairpin(value),
                    "mirror" => self.mirror(value),
                    "punt" => self.punt(value),
                    other => {
                        self.unknown_action(key, other);
                        None
                    }
                };
                action.map(|action| At::new(action, key.span))
            }
            _ => {
                self.wrong_type(tree, "an action");
                None
            }
        }
    }

    fn unknown_action(&mut self, tree: &Tree<'_>, name: &str) {
        if ACTIONS.contains(&name) {
            let message = format!("`{name}` needs to be told more");
            let example = match name {
                "nat" => "{ nat: { destination: { address: 10.0.0.9, port: 8080 } } }",
                "load-balance" => "{ load-balance: { targets: web } }",
                "encap" => "{ encap: { kind: vxlan, vni: 5001, remote: 192.168.1.2 } }",
                "map-encap" => "{ map-encap: { mapping: blue, kind: vxlan, vni: 5001 } }",
                "transpose" => "{ transpose: [ { modify: { ip.ttl: decrement } } ] }",
                "meter" => "{ meter: NAME }",
                "vlan" => "{ vlan: { push: 100 } }",
                "limit" => "{ limit: { packets: 20/s, burst: 40 } }",
                "mark" => "{ mark: { dscp: 46 } }",
                "mirror" => "{ mirror: { port: NAME } }",
                "punt" => "{ punt: { queue: NAME } }",
                _ => "{ respond: echo }",
            };
            self.error(Code::MissingField, tree.span, message, format!("write `{example}`"));
            return;
        }
        let help = did_you_mean(name, ACTIONS, "actions are");
        self.error(Code::UnknownField, tree.span, format!("`{}` is not an action", shortened(name)), help);
    }

    fn no_fields(&mut self, tree: &Tree<'_>, what: &'static str) -> Option<()> {
        self.fields(tree, what, &[]).map(|_| ())
    }

    fn nat(&mut self, tree: &Tree<'_>) -> Option<Action> {
        let fields = self.fields(tree, "nat", &["source", "destination"])?;
        if fields.optional("source").or(fields.optional("destination")).is_none() {
            let help = "give `source`, `destination`, or both";
            self.error(Code::MissingField, fields.span(), "nat changes nothing", help);
            return None;
        }
        let source = fields.optional("source").map(|tree| self.nat_to(tree));
        let destination = fields.optional("destination").map(|tree| self.nat_to(tree));
        Some(Action::Nat(Nat {
            source: source.map_or(Some(None), |side| side.map(Some))?,
            destination: destination.map_or(Some(None), |side| side.map(Some))?,
        }))
    }

    fn nat_to(&mut self, tree: &Tree<'_>) -> Option<NatTo> {
        let fields = self.fields(tree, "one side of nat", &["address", "port"])?;
        if fields.optional("address").or(fields.optional("port")).is_none() {
            let help = "give `address`, `port`, or both";
            self.error(Code::MissingField, tree.span, "this side of nat changes nothing", help);
            return None;
        }
        let address = fields.optional("address").map(|tree| self.address(tree));
        let port = fields.optional("port").map(|tree| self.unsigned::<u16>(tree, "a port", 1, u16::MAX));
        Some(NatTo {
            address: address.map_or(Some(None), |address| address.map(Some))?,
            port: port.map_or(Some(None), |port| port.map(|port| Some(port.value)))?,
        })
    }

    fn load_balance(&mut self, tree: &Tree<'_>) -> Option<Action> {
        let fields = self.fields(tree, "load-balance", &["targets", "affinity"])?;
        let targets = self.required(&fields, "targets", "web").and_then(|tree| self.name(tree));
        let words = [("five-tuple", Affinity::FiveTuple), ("source", Affinity::Source)];
        let affinity = fields.optional("affinity").and_then(|tree| self.word(tree, "an affinity", &words));
        let affinity = affinity.map(|word| word.value).unwrap_or_default();
        Some(Action::LoadBalance { targets: targets?, affinity })
    }

    fn encap_kind(&mut self, tree: &Tree<'_>) -> Option<At<EncapKind>> {
        let words: Vec<_> = EncapKind::ALL.iter().map(|kind| (kind.name(), *kind)).collect();
        self.word(tree, "a kind of tunnel", &words)
    }

    pub(super) fn dscp(&mut self, tree: &Tree<'_>) -> Option<Dscp> {
        match &tree.node {
            Node::Scalar { text, .. } if text == "copy" => Some(Dscp::Copy),
            _ => self.unsigned::<u8>(tree, "a DSCP (or `copy`)", 0, 63).map(|dscp| Dscp::Fixed(dscp.value)),
        }
    }

    fn tunnel(&mut self, fields: &crate::decode::Fields<'_>) -> Option<Tunnel> {
        let kind = self.required(fields, "kind", "vxlan").and_then(|tree| self.encap_kind(tree));
        let local = fields.optional("local").and_then(|tree| self.address(tree));
        let udp_port =
            fields.optional("udp-port").and_then(|tree| self.unsigned(tree, "a port", 1, u16::MAX));
        let dscp = fields.optional("dscp").and_then(|tree| self.dscp(tree));
        let vni = fields.optional("vni").and_then(|tree| self.unsigned(tree, "a tenant id", 0, u32::MAX));
        Some(Tunnel { kind: kind?, local, udp_port, dscp: dscp.unwrap_or(Dscp::Fixed(0)), vni })
    }

    fn encap(&mut self, tree: &Tree<'_>) -> Option<Action> {
        const KNOWN: [&str; 7] = ["kind", "vni", "remote", "local", "dscp", "udp-port", "inner-mac"];
        let fields = self.fields(tree, "encap", &KNOWN)?;
        let tunnel = self.tunnel(&fields);
        let mut remotes = Vec::new();
        if let Some(tree) = self.required(&fields, "remote", "192.168.1.2") {
            let items = self.one_or_list(tree);
            if items.is_empty() {
                self.error(Code::MissingField, tree.span, "encap has no remote", "name at least one address");
            }
            remotes.extend(items.iter().filter_map(|item| self.address(item)));
        }
        let inner_mac = fields.optional("inner-mac").and_then(|tree| self.mac(tree));
        Some(Action::Encap(Encap { tunnel: tunnel?, remotes, inner_mac }))
    }

    fn decap(&mut self, tree: &Tree<'_>) -> Option<Action> {
        let fields = self.fields(tree, "decap", &["kind"])?;
        let kind = fields.optional("kind").map(|tree| self.encap_kind(tree));
        Some(Action::Decap(kind.map_or(Some(None), |kind| kind.map(|kind| Some(kind.value)))?))
    }

    fn map_encap(&mut self, tree: &Tree<'_>) -> Option<Action> {
        const KNOWN: [&str; 8] =
            ["mapping", "kind", "vni", "tenant", "rewrite-mac", "local", "dscp", "udp-port"];
        let fields = self.fields(tree, "map-encap", &KNOWN)?;
        let tunnel = self.tunnel(&fields);
        let mapping = self.required(&fields, "mapping", "blue").and_then(|tree| self.name(tree));
        let tenant =
            fields.optional("tenant").and_then(|tree| self.unsigned(tree, "a tenant id", 0, u32::MAX));
        let rewrite_mac = fields.optional("rewrite-mac").and_then(|tree| self.boolean(tree));
        Some(Action::MapEncap(MapEncap {
            tunnel: tunnel?,
            mapping: mapping?,
            tenant: tenant.map_or(0, |tenant| tenant.value),
            rewrite_mac: rewrite_mac.is_none_or(|value| value.value),
        }))
    }

    fn hairpin(&mut self, tree: &Tree<'_>) -> Option<Action> {
        let fields = self.fields(tree, "hairpin", &["port"])?;
        let port = fields.optional("port").map(|tree| self.name(tree));
        Some(Action::Hairpin(port.map_or(Some(None), |port| port.map(Some))?))
    }

    fn punt(&mut self, tree: &Tree<'_>) -> Option<Action> {
        let fields = self.fields(tree, "punt", &["queue", "max-bytes"])?;
        let queue = self.required(&fields, "queue", "questions").and_then(|tree| self.name(tree));
        let max_bytes = fields
            .optional("max-bytes")
            .map(|tree| self.unsigned::<u32>(tree, "a length", 64, MAX_PUNT_BYTES));
        let max_bytes = max_bytes.map_or(Some(None), |n| n.map(|n| Some(n.value)))?;
        Some(Action::Punt(Punt { queue: queue?, max_bytes }))
    }

    fn mirror(&mut self, tree: &Tree<'_>) -> Option<Action> {
        const TUNNEL: [&str; 6] = ["kind", "vni", "remote", "local", "dscp", "udp-port"];
        const KNOWN: [&str; 9] =
            ["port", "truncate", "sample", "kind", "vni", "remote", "local", "dscp", "udp-port"];
        let fields = self.fields(tree, "mirror", &KNOWN)?;
        let truncate =
            fields.optional("truncate").map(|tree| self.unsigned::<u32>(tree, "a length", 64, 65535));
        let sample = fields.optional("sample").map(|tree| self.unsigned::<u32>(tree, "a sample", 1, 1 << 20));
        let is_tunnel = TUNNEL.iter().any(|key| fields.optional(key).is_some());
        let to = match fields.optional("port") {
            Some(_) if is_tunnel => {
                let help = "give `port`, or `remote` and its tunnel; use a second layer for a second mirror";
                self.error(Code::WrongType, fields.head(), "a mirror's copies go to one place", help);
                return None;
            }
            Some(tree) => self.name(tree).map(MirrorTarget::Port),
            None if is_tunnel => {
                let tunnel = self.tunnel(&fields);
                let remote = self.required(&fields, "remote", "192.168.1.9");
                let remote = remote.and_then(|tree| self.address(tree));
                tunnel.zip(remote).map(|(tunnel, remote)| MirrorTarget::Collector { tunnel, remote })
            }
            None => {
                let help = "give `port: NAME`, or `kind`, `vni` and `remote` of a tunnel to a collector";
                self.error(Code::MissingField, fields.head(), "the mirror's copies go nowhere", help);
                return None;
            }
        };
        Some(Action::Mirror(Mirror {
            to: to?,
            truncate: truncate.map_or(Some(None), |n| n.map(|n| Some(n.value)))?,
            sample: sample.map_or(Some(None), |n| n.map(|n| Some(n.value)))?,
        }))
    }

    fn mark(&mut self, tree: &Tree<'_>) -> Option<Action> {
        let fields = self.fields(tree, "mark", &["dscp", "metadata"])?;
        if fields.optional("dscp").or(fields.optional("metadata")).is_none() {
            self.error(
                Code::MissingField,
                fields.span(),
                "mark sets nothing",
                "give `dscp`, `metadata`, or both",
            );
            return None;
        }
        let dscp = fields.optional("dscp").and_then(|tree| self.unsigned::<u8>(tree, "a DSCP", 0, 63));
        let mut metadata = Vec::new();
        if let Some(tree) = fields.optional("metadata") {
            for (key, tree) in self.named(tree, "metadata") {
                let value = self.unsigned::<u32>(tree, "a metadata value", 0, u32::MAX);
                metadata.extend(value.map(|value| (key, value.value)));
            }
        }
        Some(Action::Mark { dscp: dscp.map(|dscp| dscp.value), metadata })
    }
}
