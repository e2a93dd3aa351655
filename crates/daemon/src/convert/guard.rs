//! A port's guard: a layer nearest the guest that blocks what the guest may not pretend to be.
//!
//! Each check is a group of its own whose last rule blocks and is terminating; what no check blocks passes, or takes
//! the tokens of a rate. Everything is read from the outermost headers: a spoofed packet is spoofed whatever lies
//! inside. Groups that read transport fields leave later fragments alone, which carry none: without the first
//! fragment, which is checked, nobody can put them together.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use lamina_api::document::Guard;
use lamina_core::action::{Action, Limit, Limiter};
use lamina_core::address::MacAddr;
use lamina_core::flow::{HeaderField as F, Value};
use lamina_core::layer::{Condition, Group, Layer, ValueRange};

use super::generated::{self, Rules, any, is, mac, outer, within};
use super::layers::SharedRules;
use super::resources::rate;

/// The layer's name, and its owner's.
pub(super) const NAME: &str = "guard";

const IPV4: u128 = 0x0800;
const ARP: u128 = 0x0806;
const IPV6: u128 = 0x86dd;
const UDP: u128 = 17;
const GRE: u128 = 47;
const ICMPV6: u128 = 58;
const SOLICITATION: u128 = 135;
const ADVERTISEMENT: u128 = 136;
const VXLAN_PORT: u128 = 4789;
const GENEVE_PORT: u128 = 6081;

/// The guard layer of a port with MAC `port` and `addresses`.
pub(super) fn layer(guard: &Guard, port: MacAddr, addresses: &[IpNet], shared: &mut SharedRules) -> Layer {
    let own = Own::new(port, addresses);
    let mut groups: Vec<Group> = Vec::new();
    let mut add = |rules: Rules, name: &str, conditions: Vec<Condition>| {
        let priority = 10 * (groups.len() as i32 + 1);
        groups.push(rules.group(name, priority, conditions, shared));
    };
    if guard.mac {
        // Frames to no address are the switch's own way to say that the underlay has to fill it in.
        let rules = Rules::default()
            .block("no-destination", vec![mac(F::EthDst, MacAddr::ZERO)])
            .allow("own", vec![mac(F::EthSrc, port)])
            .block("spoofed", vec![]);
        add(rules, "mac", vec![]);
    }
    if guard.blocks_non_ip {
        let known = [IPV4, ARP, IPV6].map(|number| ValueRange::single(Value::number(number)));
        let rules =
            Rules::default().allow("ip", vec![outer(F::EthType, known.into())]).block("other", vec![]);
        add(rules, "non-ip", vec![]);
    }
    if guard.arp {
        let sender = || mac(F::ArpSenderMac, port);
        // An address is probed before it is used (RFC 5227); the prober has none yet.
        let rules =
            Rules::default().allow("probe", vec![sender(), is(F::ArpOperation, 1), own.unspecified_v4()]);
        let rules = match own.v4() {
            Some(own) => rules.allow("own", vec![sender(), own]),
            None => rules,
        };
        let rules = rules.block("spoofed-address", vec![sender()]).block("spoofed-mac", vec![]);
        add(rules, "arp", vec![is(F::EthType, ARP)]);
    }
    if guard.ipv4 {
        let broadcast = outer(F::IpDst, vec![ValueRange::single(Value::ip(Ipv4Addr::BROADCAST.into()))]);
        let discover = vec![own.unspecified_v4(), broadcast, is(F::IpProtocol, UDP)];
        let rules = match own.v4() {
            Some(own) => Rules::default().allow("own", vec![own]),
            None => Rules::default(),
        };
        add(
            rules.allow("dhcp-discover", discover).block("spoofed", vec![]),
            "ipv4",
            vec![is(F::EthType, IPV4)],
        );
    }
    if guard.ipv6 {
        // Neighbour solicitations of an address that is not used yet, and multicast reports about it (RFC 3590).
        let groups = ValueRange { low: v6(0xff02 << 112), high: v6((0xff03 << 112) - 1) };
        let detection = vec![own.unspecified_v6(), outer(F::IpDst, vec![groups]), is(F::IpProtocol, ICMPV6)];
        let rules = Rules::default()
            .allow("own", vec![own.v6(F::IpSrc)])
            .allow("detection", detection)
            .block("spoofed", vec![]);
        add(rules, "ipv6", vec![is(F::EthType, IPV6)]);
    }
    if guard.nd {
        let message = |low, high| {
            vec![is(F::IpProtocol, ICMPV6), within(F::IpFragment, 0, 1), within(F::IcmpType, low, high)]
        };
        // Hosts ignore neighbour discovery in fragments (RFC 6980), and the switch cannot see it whole.
        let rules = Rules::default()
            .block("fragment", vec![is(F::IpFragment, 1)])
            .block("redirect", vec![is(F::IcmpType, 137)]);
        add(rules, "nd", message(133, 137));
        let rules = Rules::default()
            .allow("own", vec![mac(F::NdLinkAddress, port)])
            .block("spoofed", vec![any(F::NdLinkAddress)]);
        add(rules, "nd-link-address", message(133, 136));
        let own_target = || Rules::default().allow("own", vec![own.v6(F::NdTarget)]).block("spoofed", vec![]);
        add(own_target(), "nd-advertised", message(ADVERTISEMENT, ADVERTISEMENT));
        let mut detection = message(SOLICITATION, SOLICITATION);
        detection.push(own.unspecified_v6());
        add(own_target(), "nd-detection", detection);
    }
    if guard.dhcp {
        let v4 = |field, port| vec![is(F::EthType, IPV4), is(field, port)];
        let v6 = |field, port| vec![is(F::EthType, IPV6), is(field, port)];
        let rules = Rules::default()
            .block("server", v4(F::L4Src, 67))
            .block("to-client", v4(F::L4Dst, 68))
            .block("server-v6", v6(F::L4Src, 547))
            .block("to-client-v6", v6(F::L4Dst, 546));
        add(rules, "dhcp", vec![is(F::IpProtocol, UDP), within(F::IpFragment, 0, 1)]);
        let rules = Rules::default().block("advertisement", vec![is(F::IcmpType, 134)]);
        add(rules, "router", vec![is(F::IpProtocol, ICMPV6), within(F::IpFragment, 0, 1)]);
    }
    if guard.blocks_tunnels {
        // On a network that is the underlay, another host would take such a frame for one of the switch's, and its
        // tenant id for true.
        // Of a tunnel in fragments no tenant id is read; without the first one nobody can put the others together.
        let first = |protocol| vec![is(F::IpFragment, 1), is(F::IpProtocol, protocol)];
        let first_to = |port| [first(UDP), vec![is(F::L4Dst, port)]].concat();
        let rules = Rules::default()
            .block("built-by-guest", vec![any(F::EncapTenant)])
            .block("fragment-vxlan", first_to(VXLAN_PORT))
            .block("fragment-geneve", first_to(GENEVE_PORT))
            .block("fragment-gre", first(GRE));
        add(rules, "tunnel", vec![within(F::IpFragment, 0, 1)]);
    }
    let mut rates = Rules::default();
    if let Some(written) = &guard.arp_rate {
        let limit = Action::Limit(Limit { by: Limiter::Own(rate(written)) });
        rates = rates.then("arp", vec![is(F::EthType, ARP)], limit);
    }
    if let Some(written) = &guard.broadcast {
        let limit = Action::Limit(Limit { by: Limiter::Own(rate(written)) });
        rates = rates.then("broadcast", vec![is(F::EthMulticast, 1)], limit);
    }
    if guard.arp_rate.is_some() || guard.broadcast.is_some() {
        add(rates, "rate", vec![]);
    }
    generated::layer(NAME, generated::NEAREST_GUEST, Vec::new(), groups)
}

/// What the guest is.
struct Own {
    v4: Vec<ValueRange>,
    v6: Vec<ValueRange>,
}

impl Own {
    fn new(port: MacAddr, addresses: &[IpNet]) -> Self {
        let ranges = |is_v4: bool| {
            let of_family = addresses.iter().filter(move |prefix| prefix.addr().is_ipv4() == is_v4);
            of_family.map(|prefix| ValueRange::prefix(*prefix)).collect::<Vec<_>>()
        };
        let mut v6 = ranges(false);
        v6.push(ValueRange::single(Value::ip(link_local(port).into())));
        Own { v4: ranges(true), v6 }
    }

    /// The IPv4 source, or ARP sender, is an own address; `None` when there is none.
    fn v4(&self) -> Option<Condition> {
        (!self.v4.is_empty()).then(|| outer(F::IpSrc, self.v4.clone()))
    }

    fn v6(&self, field: F) -> Condition {
        outer(field, self.v6.clone())
    }

    fn unspecified_v4(&self) -> Condition {
        outer(F::IpSrc, vec![ValueRange::single(Value::ip(Ipv4Addr::UNSPECIFIED.into()))])
    }

    fn unspecified_v6(&self) -> Condition {
        outer(F::IpSrc, vec![ValueRange::single(Value::ip(Ipv6Addr::UNSPECIFIED.into()))])
    }
}

/// The link-local address that a guest makes of its MAC (RFC 4291, appendix A): nobody else can have it.
fn link_local(MacAddr([a, b, c, d, e, f]): MacAddr) -> Ipv6Addr {
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

fn v6(bits: u128) -> Value {
    Value::ip(Ipv6Addr::from_bits(bits).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_local_address_is_made_of_the_mac() {
        assert_eq!(link_local(MacAddr([0x02, 0, 0, 0xaa, 0xbb, 1])).to_string(), "fe80::ff:feaa:bb01");
    }
}
