//! What a port says about its flows and conversations (§14 "live flow list with filters").
//!
//! Plain values with names in them: whoever reads them knows no program and no table. The list is made in slices
//! ([`Switch::flows`](crate::switch::Switch::flows)); each slice is exact for the moment in which it was made.

use alloc::vec::Vec;

use crate::flow::{Direction, HeaderStack};
use crate::layer::{DefaultAction, Name};
use crate::port::{LayerFlowInfo, Tuple};
use crate::stats::Count;
use crate::switch::PortId;
use crate::time::Instant;
use crate::transposition::Transposition;

/// Where a walk through a port's flows goes on. A flow keeps its place while it lives, so a walk shows each flow
/// that lives from its begin to its end once, whatever comes and goes meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct FlowCursor(pub u64);

/// One slice of a port's flows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FlowPage {
    /// Unified flows.
    pub flows: Vec<FlowInfo>,
    /// Conversations that no unified flow of the port belongs to at the moment: their state is all there is of them.
    pub idle: Vec<ConversationInfo>,
    /// Where to go on; `None` at the end.
    pub next: Option<FlowCursor>,
}

/// What one call of [`Switch::clear_flows`](crate::switch::Switch::clear_flows) removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClearPage {
    /// Unified flows that were removed, those of removed conversations included.
    pub flows: u64,
    /// Conversations that were ended, with their state in all layers.
    pub conversations: u64,
    /// Where to go on; `None` at the end.
    pub next: Option<FlowCursor>,
}

/// One unified flow: one direction, one cached answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FlowInfo {
    /// The flow's number: no other flow of the port has had it since the port was made (2^32 uses of one place apart).
    pub id: u64,
    /// Which way its packets cross the port.
    pub direction: Direction,
    /// Its packets' headers as they enter the port: base fields, and those fields beyond the base that the policy
    /// reads; all others are zero.
    pub headers: HeaderStack,
    /// The port or uplink by which its packets enter the switch, where the policy reads that.
    pub ingress: Option<PortId>,
    /// The innermost 5-tuple and tenant; `None` for what is not IP.
    pub tuple: Option<Tuple>,
    /// What pairs it with the flow of the other direction: the tuple of outbound packets on the guest's side.
    pub pair_key: Option<Tuple>,
    /// Its partners: unified flows of the other direction in the same conversation.
    pub partners: Vec<u64>,
    /// The conversation whose state the answer relies on; `None` where no layer keeps state for it.
    pub conversation: Option<ConversationInfo>,
    /// What happens to its packets' headers, the underlay's part included.
    pub change: Transposition,
    /// Where they go.
    pub egress: FlowEgress,
    /// Who answered, layer by layer in the order in which they are crossed.
    pub path: Vec<FlowStep>,
    /// Packets and bytes since the flow was made, the first packet included, exactly.
    pub count: Count,
    /// When it was made.
    pub created: Instant,
    /// When its last packet passed.
    pub last_seen: Instant,
    /// The port's generation for which the answer was resolved.
    pub generation: u64,
    /// The answer is checked again when the flow is next hit (§5.5): `change` and `path` are then what it is to
    /// become, under the policy and state of now; `egress` and the counters are what it was.
    pub is_stale: bool,
}

/// One layer's part in a flow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FlowStep {
    /// The layer.
    pub layer: Name,
    /// The controller that owns it.
    pub owner: Name,
    /// The group and the rule that answered, at once or through the layer flow that it created; `None` for the
    /// layer's default.
    pub rule: Option<(Name, Name)>,
    /// How it answered.
    pub by: StepDecision,
}

/// How a layer came to its answer for a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StepDecision {
    /// The rule matches.
    Rule,
    /// A layer flow of the rule, of the direction that matched it.
    FlowForward,
    /// The layer flow for replies.
    FlowReverse,
    /// No rule matches.
    Default(DefaultAction),
    /// The packet is a later fragment, which the layer cannot judge.
    Fragment,
}

/// Where a flow's packets go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FlowEgress {
    /// To the port's own NIC.
    Nic,
    /// To a side of a port: the inbound one of the port that it is for, or where a hairpin sends it.
    Port {
        /// Which port.
        to: PortId,
        /// Which side.
        direction: Direction,
    },
    /// Out of an uplink.
    Uplink(PortId),
    /// A copy to every port of the multicast set.
    Multicast,
}

/// A conversation that holds state in some layer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConversationInfo {
    /// Its number: used again after it has ended.
    pub id: u32,
    /// The tuple of its outbound packets on the guest's side.
    pub key: Tuple,
    /// When its last packet passed, of either direction.
    pub last_seen: Instant,
    /// Its unified flows, of both directions.
    pub flows: Vec<u64>,
    /// Its state, one entry per layer that keeps some.
    pub layer_flows: Vec<LayerFlowInfo>,
}
