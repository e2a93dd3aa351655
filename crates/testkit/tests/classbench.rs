//! Classifiers against answers that others computed: ClassBench sets, whose first matches were found by a linear scan
//! and by DPDK's classifier alike, and longest prefix match in a full routing table, against another trie.

#[allow(dead_code, reason = "shared with benches")]
#[path = "../../core/benches/data/mod.rs"]
mod data;

use data::{FIELDS, FiveTuple, Random};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use lamina_core::classify::Classifier;
use lamina_core::flow::{Family, Value};
use lamina_core::layer::{Rule, Selection, ValueRange};
use lamina_core::resource::Resources;
use prefix_trie::PrefixMap;

#[test]
fn classbench_sets_give_the_known_first_match() {
    let resources = Resources::default();
    for name in data::SETS {
        let Some(set) = data::classbench(name) else {
            data::missing(name);
            continue;
        };
        assert_eq!(set.packets.len(), set.truth.len());
        let classifier = Classifier::build(&set.rules, Selection::Priority, &resources);
        for (number, (packet, truth)) in set.packets.iter().zip(&set.truth).enumerate() {
            let selected = classifier.select(&set.rules, packet, &resources);
            assert_eq!(selected, Some(*truth), "{name}, header {number}");
        }
        let description = classifier.describe();
        assert!(description.bytes < description.rules * 512, "{name}: {description:?}");
    }
}

/// Headers of the traces always hit; these mostly miss, and are checked against every rule.
#[test]
fn headers_that_no_trace_has_are_classified_like_a_linear_scan() {
    let resources = Resources::default();
    for name in ["acl2_1k", "fw2_1k", "ipc2_1k"] {
        let Some(set) = data::classbench(name) else {
            data::missing(name);
            continue;
        };
        let classifier = Classifier::build(&set.rules, Selection::Priority, &resources);
        let mut random = Random(3);
        let (mut hits, mut misses) = (0, 0);
        for _ in 0..20_000 {
            // Each field from another header, so that pairs meet that no rule names.
            let mut packet = set.packets[0];
            for (place, value) in packet.0.iter_mut().enumerate() {
                *value = set.packets[random.below(set.packets.len() as u64) as usize].0[place];
            }
            let selected = classifier.select(&set.rules, &packet, &resources);
            assert_eq!(
                selected,
                classifier.all_matching(&set.rules, &packet, &resources).next(),
                "{packet:?}"
            );
            *(if selected.is_some() { &mut hits } else { &mut misses }) += 1;
        }
        assert!(hits > 0, "{name}: {hits} hits, {misses} misses");
    }
}

#[test]
fn a_full_routing_table_gives_the_longest_prefix() {
    let Some(prefixes) = data::routes() else { return data::missing("the routing table") };
    let field = FIELDS[1];
    let (mut ipv4, mut ipv6) = (PrefixMap::<Ipv4Net, usize>::new(), PrefixMap::<Ipv6Net, usize>::new());
    let mut rules: Vec<Rule> = Vec::with_capacity(prefixes.len());
    for (number, prefix) in prefixes.iter().enumerate() {
        let ValueRange { low, high } = ValueRange::prefix(*prefix);
        rules.push(data::rule(number, vec![data::condition(field, low, high)]));
        match prefix {
            IpNet::V4(prefix) => drop(ipv4.insert(*prefix, number)),
            IpNet::V6(prefix) => drop(ipv6.insert(*prefix, number)),
        }
    }
    let resources = Resources::default();
    let classifier = Classifier::build(&rules, Selection::LongestPrefix(field), &resources);
    let mut random = Random(4);
    let mut hits = 0;
    let mut check = |address: Value| {
        let expected = match address.family {
            Family::Ipv4 => {
                let host = Ipv4Net::from(std::net::Ipv4Addr::from(address.bits as u32));
                ipv4.get_lpm(&host).map(|(_, number)| *number)
            }
            _ => {
                let host = Ipv6Net::from(std::net::Ipv6Addr::from(address.bits));
                ipv6.get_lpm(&host).map(|(_, number)| *number)
            }
        };
        let packet = FiveTuple([address; 5]);
        assert_eq!(classifier.select(&rules, &packet, &resources), expected, "{address:?}");
        hits += usize::from(expected.is_some());
    };
    for _ in 0..200_000 {
        // Any IPv4 address, then the ends of a prefix, an address within it and the addresses beyond it.
        check(data::ipv4(random.below(1 << 31) as u32 * 2));
        let range = rules[random.below(rules.len() as u64) as usize].conditions[0].ranges[0];
        let limit = if range.low.family == Family::Ipv4 { u32::MAX as u128 } else { u128::MAX };
        let host = range.low.bits ^ range.high.bits;
        let inside = range.low.bits | ((random.below(1 << 31) as u128 * 0x1_0000_0001_0000_0001) & host);
        let around = [range.low.bits, range.high.bits, range.low.bits.saturating_sub(1), inside];
        for bits in
            around.into_iter().chain((range.high.bits < limit).then_some(range.high.bits.wrapping_add(1)))
        {
            check(Value { bits, ..range.low });
        }
    }
    assert!(hits > 800_000, "{hits}");
}
