//! A port's guard as written: what the guest may not pretend to be, in one line.

use super::limit::Rate;
use crate::decode::Decoder;
use crate::source::At;
use crate::tree::{Node, Tree};

/// What a guard checks of the packets that a guest sends. All of it, unless the document says otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Guard {
    /// The Ethernet source is the port's MAC.
    pub mac: bool,
    /// The IPv4 source is an address of the port.
    pub ipv4: bool,
    /// The IPv6 source is an address of the port.
    pub ipv6: bool,
    /// ARP speaks of the port's MAC and addresses.
    pub arp: bool,
    /// Neighbour discovery speaks of the port's MAC and addresses.
    pub nd: bool,
    /// The guest is no DHCP server and no router.
    pub dhcp: bool,
    /// Tunnels with a tenant id, which the guest builds itself, are blocked.
    pub blocks_tunnels: bool,
    /// Frames that are not ARP, IPv4 or IPv6 are blocked.
    pub blocks_non_ip: bool,
    /// How many frames to groups of receivers pass.
    pub broadcast: Option<Rate>,
    /// How many ARP packets pass.
    pub arp_rate: Option<Rate>,
}

impl Guard {
    /// Every check, and no limit.
    pub const STRICT: Guard = Guard {
        mac: true,
        ipv4: true,
        ipv6: true,
        arp: true,
        nd: true,
        dhcp: true,
        blocks_tunnels: true,
        blocks_non_ip: true,
        broadcast: None,
        arp_rate: None,
    };

    /// True when a check needs to know the port's addresses.
    pub const fn needs_addresses(&self) -> bool {
        self.ipv4 || self.ipv6 || self.arp || self.nd
    }
}

impl Decoder<'_> {
    /// `tree` as a port's guard.
    pub(super) fn guard(&mut self, tree: &Tree<'_>) -> Option<At<Guard>> {
        if matches!(tree.node, Node::Scalar { .. }) {
            return self.word(tree, "a guard (or a map of what it checks)", &[("strict", Guard::STRICT)]);
        }
        const KNOWN: [&str; 10] =
            ["mac", "ipv4", "ipv6", "arp", "nd", "dhcp", "tunnels", "non-ip", "broadcast", "arp-rate"];
        let fields = self.fields(tree, "a guard", &KNOWN)?;
        let mut check = |name: &str| {
            let value = fields.optional(name).map(|tree| self.boolean(tree));
            value.map_or(Some(true), |value| value.map(|value| value.value))
        };
        let (mac, ipv4, ipv6) = (check("mac"), check("ipv4"), check("ipv6"));
        let (arp, nd, dhcp) = (check("arp"), check("nd"), check("dhcp"));
        let words = [("block", true), ("pass", false)];
        let mut blocks = |name: &str, what: &str| match fields.optional(name) {
            Some(tree) => self.word(tree, what, &words).map(|word| word.value),
            None => Some(true),
        };
        let tunnels = blocks("tunnels", "what happens to the guest's own tunnels");
        let non_ip = blocks("non-ip", "what happens to other protocols");
        let mut rate = |name: &str| match fields.optional(name) {
            Some(tree) => self.per_second(tree).map(|rate| Some(Rate::packets(rate))),
            None => Some(None),
        };
        let (broadcast, arp_rate) = (rate("broadcast"), rate("arp-rate"));
        let guard = Guard {
            mac: mac?,
            ipv4: ipv4?,
            ipv6: ipv6?,
            arp: arp?,
            nd: nd?,
            dhcp: dhcp?,
            blocks_tunnels: tunnels?,
            blocks_non_ip: non_ip?,
            broadcast: broadcast?,
            arp_rate: arp_rate?,
        };
        Some(At::new(guard, fields.head()))
    }
}
