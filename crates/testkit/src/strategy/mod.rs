//! Random policies, packets and changes, for comparing the core with the oracle ([`crate::compare`]).
//!
//! The universe is small on purpose: a few addresses, ports and MACs, so that rules match, NAT collides, replies
//! come back and conversations meet each other. Everything is a value that proptest can print and shrink.

pub mod change;
pub mod packet;
pub mod policy;
pub mod universe;

use std::fmt;

use lamina_core::flow::Direction;
use lamina_core::inspect::{FlowFilter, PacketFilter};
use lamina_core::layer::Policy;
use lamina_core::resource::MappingChange;
use proptest::collection::vec;
use proptest::prelude::*;

use change::Change;
use packet::{PacketSpec, Tweak};

/// A whole test: the first policies of all ports, then steps.
#[derive(Clone)]
pub struct Scenario {
    /// One policy per port; `None` leaves the port without (not ready).
    pub policies: Vec<Option<Policy>>,
    /// The ports that get multicast at the beginning.
    pub has_multicast: bool,
    /// What happens, in order.
    pub steps: Vec<Step>,
}

/// One step of a scenario.
#[derive(Clone, Debug)]
pub enum Step {
    /// A frame is received from port index `from` (3 is the uplink).
    Packet {
        /// Where from.
        from: usize,
        /// What.
        packet: PacketSpec,
    },
    /// A frame received earlier is received again, slightly changed.
    Again {
        /// Which, counted back from the last one.
        back: usize,
        /// The change.
        tweak: Tweak,
    },
    /// Whoever got a frame answers it.
    Reply {
        /// Which of the frames sent so far, counted back from the last one.
        back: usize,
        /// A change of the answer.
        tweak: Tweak,
    },
    /// Time passes, in milliseconds.
    Advance(u64),
    /// Timers run.
    Sweep,
    /// A port's policy changes.
    Change {
        /// Index of the port.
        port: usize,
        /// How.
        change: Change,
    },
    /// Entries of the mapping table `blue` change on the running switch.
    Mappings(Vec<MappingChange>),
    /// A mapping table gets other content on the running switch.
    Replace(usize),
    /// The flows of a port are listed.
    List {
        /// Index of the port.
        port: usize,
        /// Which.
        filter: FlowFilter,
        /// In slices of this budget.
        budget: u32,
    },
    /// The flows of a port are cleared.
    Clear {
        /// Index of the port.
        port: usize,
        /// Which.
        filter: FlowFilter,
        /// In slices of this budget.
        budget: u32,
    },
    /// From now on every packet is captured at every point, or no more.
    Captures(bool),
    /// The multicast set is named or emptied.
    Multicast(bool),
    /// The underlay changes.
    Underlay(usize),
    /// Controllers begin to listen to punted packets, or no more.
    Hear(bool),
    /// A controller sends on a packet that it got.
    SendOn {
        /// Which, counted back from the last one.
        back: usize,
        /// A change of it.
        tweak: Tweak,
    },
}

fn filters() -> impl Strategy<Value = FlowFilter> {
    let packet = prop_oneof![
        4 => Just(PacketFilter::default()),
        1 => prop_oneof![Just(Direction::Inbound), Just(Direction::Outbound)]
            .prop_map(|direction| PacketFilter { direction: Some(direction), ..PacketFilter::default() }),
        1 => prop_oneof![Just(1u8), Just(6), Just(17)]
            .prop_map(|protocol| PacketFilter { protocol: Some(protocol), ..PacketFilter::default() }),
        1 => any::<bool>().prop_map(|low| {
            let range = if low { (0, 100) } else { (101, u16::MAX) };
            PacketFilter { dst_port: Some(range), ..PacketFilter::default() }
        }),
    ];
    let layer = prop::option::weighted(
        0.2,
        (prop::sample::select(policy::LAYER_KINDS), 0usize..4)
            .prop_map(|(kind, place)| format!("{kind}-{place}").as_str().into()),
    );
    let stale = prop::option::weighted(0.2, any::<bool>());
    (packet, any::<bool>(), layer, stale, 0u64..3, 0u32..3).prop_map(
        |(packet, pair, layer, stale, min_packets, sample)| FlowFilter {
            packet,
            pair,
            layer,
            stale,
            min_packets,
            sample,
            ..FlowFilter::default()
        },
    )
}

fn steps() -> impl Strategy<Value = Step> {
    let from_port =
        (0usize..3, packet::packets(0.05)).prop_map(|(from, packet)| Step::Packet { from, packet });
    let from_uplink = packet::packets(0.7).prop_map(|packet| Step::Packet { from: 3, packet });
    prop_oneof![
        8 => from_port,
        4 => from_uplink,
        10 => (0usize..6, packet::tweaks()).prop_map(|(back, tweak)| Step::Again { back, tweak }),
        12 => (0usize..4, packet::tweaks()).prop_map(|(back, tweak)| Step::Reply { back, tweak }),
        4 => prop_oneof![Just(10u64), Just(700), Just(1_000), Just(1_001), Just(2_500)].prop_map(Step::Advance),
        1 => Just(Step::Sweep),
        4 => (0usize..3, change::changes()).prop_map(|(port, change)| Step::Change { port, change }),
        4 => vec(universe::mapping_changes(), 1..4).prop_map(Step::Mappings),
        1 => (0usize..universe::VARIANTS).prop_map(Step::Replace),
        1 => (0usize..3, filters(), 1u32..30).prop_map(|(port, filter, budget)| Step::List { port, filter, budget }),
        1 => (0usize..3, filters(), 1u32..30).prop_map(|(port, filter, budget)| Step::Clear { port, filter, budget }),
        1 => any::<bool>().prop_map(Step::Captures),
        1 => any::<bool>().prop_map(Step::Multicast),
        1 => (0usize..universe::VARIANTS).prop_map(Step::Underlay),
        2 => prop::bool::weighted(0.8).prop_map(Step::Hear),
        3 => (0usize..3, packet::tweaks()).prop_map(|(back, tweak)| Step::SendOn { back, tweak }),
    ]
}

/// Random scenarios of up to `length` steps.
pub fn scenarios(length: usize) -> impl Strategy<Value = Scenario> {
    let policies = vec(prop::option::weighted(0.97, policy::policies()), universe::PORTS.len());
    (policies, any::<bool>(), vec(steps(), 1..length)).prop_map(|(policies, has_multicast, steps)| Scenario {
        policies,
        has_multicast,
        steps,
    })
}

impl fmt::Debug for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, policy) in self.policies.iter().enumerate() {
            let Some(policy) = policy else {
                writeln!(f, "port {index}: no policy")?;
                continue;
            };
            let variant = (0..universe::VARIANTS)
                .find(|variant| std::sync::Arc::ptr_eq(&policy.resources, &universe::resources(*variant)));
            writeln!(f, "port {index}: resources {variant:?}, malformed {:?}", policy.malformed)?;
            for layer in &policy.layers {
                let (inbound, outbound) = (layer.default_inbound, layer.default_outbound);
                let (name, limit) = (&layer.name, layer.flow_limit);
                writeln!(f, "  layer {name}: else in {inbound:?}, out {outbound:?}, flow limit {limit}")?;
                for (direction, groups) in [("in", &layer.inbound), ("out", &layer.outbound)] {
                    for group in groups.iter() {
                        let (name, priority, selection) = (&group.name, group.priority, group.selection);
                        writeln!(
                            f,
                            "    {direction} {name} {priority} {selection:?} {:?}",
                            group.conditions
                        )?;
                        for rule in group.rules.iter() {
                            writeln!(f, "      {rule:?}")?;
                        }
                    }
                }
            }
        }
        writeln!(f, "multicast: {}", self.has_multicast)?;
        for (index, step) in self.steps.iter().enumerate() {
            writeln!(f, "step {index}: {step:?}")?;
        }
        Ok(())
    }
}
