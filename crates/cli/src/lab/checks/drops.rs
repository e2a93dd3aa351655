//! Drops of all hosts, asked of their daemons: what explains that a check was not as expected.

use std::collections::BTreeMap;

use anyhow::Result;
use lamina_api::wire::v1::Direction;

use crate::lab::Lab;
use crate::lab::report::Dropped;

/// The drops of all hosts so far, their packets by everything else.
pub type Drops = BTreeMap<Dropped, u64>;

/// The drops of all hosts so far.
pub fn read(lab: &Lab) -> Result<Drops> {
    let mut drops = Drops::new();
    for (host, running) in &lab.hosts {
        for drop in running.daemon().drops()? {
            let direction = match drop.direction() {
                Direction::Unspecified => "",
                Direction::Inbound => "inbound",
                Direction::Outbound => "outbound",
            };
            let place = Dropped {
                host: host.clone(),
                direction: direction.into(),
                port: drop.port,
                reason: drop.reason,
                layer: drop.layer,
                group: drop.group,
                rule: drop.rule,
                packets: 0,
            };
            *drops.entry(place).or_default() += drop.packets;
        }
    }
    Ok(drops)
}

/// What was dropped between `before` and `now`, most first.
pub fn since(before: &Drops, now: &Drops) -> Vec<Dropped> {
    let more = now.iter().filter_map(|(place, packets)| {
        let packets = packets.saturating_sub(before.get(place).copied().unwrap_or_default());
        (packets > 0).then(|| Dropped { packets, ..place.clone() })
    });
    let mut more: Vec<_> = more.collect();
    more.sort_by(|a, b| b.packets.cmp(&a.packets).then_with(|| a.cmp(b)));
    more
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_new_is_told_most_first() {
        let place = |reason: &str| Dropped {
            host: "h1".into(),
            port: "vm1".into(),
            direction: "inbound".into(),
            reason: reason.into(),
            layer: String::new(),
            group: String::new(),
            rule: String::new(),
            packets: 0,
        };
        let before = Drops::from([(place("a"), 5), (place("b"), 7), (place("gone"), 1)]);
        let now = Drops::from([(place("a"), 6), (place("b"), 7), (place("c"), 3)]);
        let told = since(&before, &now);
        let told: Vec<_> = told.iter().map(|dropped| (dropped.reason.as_str(), dropped.packets)).collect();
        assert_eq!(told, [("c", 3), ("a", 1)]);
    }
}
