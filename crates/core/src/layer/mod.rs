//! Policy as meant: layers, groups, rules, conditions (§3.2-3.4), and its compiled form.
//!
//! The types of this file are plain values: what a controller asked for, checked and with every name resolved.
//! They come from the documents of the API (policy as written) through the daemon's conversion, and both the
//! switch and the test oracle read them. [`Program`] is the compiled, immutable form that the switch runs.

mod base_cache;
mod compiler;
mod facts;
mod limit_change;
mod program;
mod rule_list;
mod slots;

pub use compiler::{CompileError, Compiler, Rebuilt};
pub(crate) use limit_change::LimitChange;
pub(crate) use program::CompiledLayer;
pub use program::{MAX_LAYERS, MAX_METADATA_KEYS, MAX_MIRROR_LAYERS, Program};
pub(crate) use rule_list::{Added, Place};
pub use rule_list::{OVERLAY_LIMIT, RuleList, RulesIdentity};
pub(crate) use slots::Retirement;

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::action::Action;
use crate::flow::{Field, Value};
use crate::resource::{PrefixSetId, Resources};
use crate::time::Duration;

/// A name that a controller gave: of a layer, group, rule or resource. Cheap to clone.
pub type Name = Arc<str>;

/// Everything that one port is asked to do.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Layers, nearest the guest first: sorted by (priority, name).
    pub layers: Vec<Layer>,
    /// The tables that rules refer to.
    pub resources: Arc<Resources>,
    /// Names of metadata keys; a key's number is its index.
    pub metadata_keys: Vec<String>,
    /// What happens to frames that cannot be parsed.
    pub malformed: MalformedPolicy,
}

/// What a port does with a frame that has a header it cannot parse.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MalformedPolicy {
    /// It is dropped, with the parser's reason.
    #[default]
    Drop,
    /// It passes as an opaque L2 frame: only its Ethernet fields exist.
    PassOpaque,
}

/// An ordered step of a port's policy, owned by one controller (§3.2). Cheap to clone: its groups are shared.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Unique on the port; flow state belongs to this name across updates.
    pub name: Name,
    /// The controller that made it.
    pub owner: Name,
    /// Position: lower is nearer the guest; ties go by name. Wider than what documents can say, so that layers made of
    /// a port's properties lie beyond all others.
    pub priority: i64,
    /// Answer where no rule matches an inbound packet.
    pub default_inbound: DefaultAction,
    /// Answer where no rule matches an outbound packet.
    pub default_outbound: DefaultAction,
    /// Groups for inbound packets, in order of (priority, name).
    pub inbound: Arc<Vec<Group>>,
    /// Groups for outbound packets, in order of (priority, name).
    pub outbound: Arc<Vec<Group>>,
    /// The most conversations that may have layer flows here.
    pub flow_limit: usize,
}

/// A layer's answer where no rule matches.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DefaultAction {
    /// The packet goes on unchanged.
    #[default]
    Pass,
    /// The packet is dropped.
    Block,
}

/// The atomic unit of update: yields at most one rule per packet (§3.3). Cheap to clone.
#[derive(Clone, Debug)]
pub struct Group {
    /// Unique within its layer and direction.
    pub name: Name,
    /// Order within the layer and direction: lower first, ties by name.
    pub priority: i32,
    /// How the one rule is selected.
    pub selection: Selection,
    /// When they do not all hold, the group is skipped.
    pub conditions: Arc<[Condition]>,
    /// The rules, shared by every port that carries the same content (§3.8).
    pub rules: RuleList,
}

/// How a group selects its rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Selection {
    /// The matching rule with the lowest priority number; ties by name.
    #[default]
    Priority,
    /// The rule whose condition on this field has the longest matching prefix, among the rules whose other
    /// conditions hold; ties by priority, then name. A rule without a condition on the field counts as a prefix
    /// of length 0.
    LongestPrefix(Field),
}

/// Conditions and one action (§3.4).
#[derive(Clone, Debug)]
pub struct Rule {
    /// Unique within its group.
    pub name: Name,
    /// Lower wins; ties by name.
    pub priority: i32,
    /// All must hold; none means every packet.
    pub conditions: Vec<Condition>,
    /// What the packet gets.
    pub action: Action,
    /// Wins at once, without asking later groups.
    pub terminating: bool,
    /// Creates a pair of layer flows.
    pub state: Option<Stateful>,
}

/// State that a rule creates (§3.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stateful {
    /// Layer flows end this long after the last packet of either direction.
    pub time_to_live: Duration,
    /// What the reverse flow does with tunnels.
    pub reverse_tunnel: ReverseTunnel,
    /// Whether the reverse flow carries the rule's action contexts (meters) too.
    pub contexts: ContextDirection,
}

impl Default for Stateful {
    fn default() -> Self {
        Stateful {
            time_to_live: Duration::from_seconds(240),
            reverse_tunnel: ReverseTunnel::Restore,
            contexts: ContextDirection::Forward,
        }
    }
}

/// Whether the reverse flow puts replies back into the tunnel (§3.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ReverseTunnel {
    /// The opposite state, tunnels included.
    #[default]
    Restore,
    /// Direct server return: headers are restored, tunnels are not.
    None,
}

/// Which flows of a pair run the rule's action contexts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ContextDirection {
    /// Only the direction that matched the rule.
    #[default]
    Forward,
    /// Both.
    Both,
}

/// A field and the values it may have; any value may match (OR).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Condition {
    /// What is read. A packet that lacks the field does not match.
    pub field: Field,
    /// Inclusive ranges; a single value is a range of one, a prefix an aligned range.
    pub ranges: Vec<ValueRange>,
    /// Prefix sets (tags), any of which may contain the value.
    pub prefix_sets: Vec<PrefixSetId>,
}

/// An inclusive range of values of one family.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ValueRange {
    /// The lowest value.
    pub low: Value,
    /// The highest value, of the same family.
    pub high: Value,
}

impl ValueRange {
    /// The range of the one `value`.
    pub const fn single(value: Value) -> Self {
        ValueRange { low: value, high: value }
    }

    /// The range that `prefix` covers.
    pub fn prefix(prefix: ipnet::IpNet) -> Self {
        ValueRange { low: Value::ip(prefix.network()), high: Value::ip(prefix.broadcast()) }
    }

    /// True when `value` lies within, family included.
    pub fn contains(&self, value: Value) -> bool {
        self.low <= value && value <= self.high
    }

    /// The length of the prefix that the range is, among values of `bits` bits (32 for IPv4, 128 for IPv6, the
    /// field's width for numbers); `None` when it is no prefix.
    pub fn prefix_len(&self, bits: u32) -> Option<u32> {
        let differing = self.low.bits ^ self.high.bits;
        let host_bits = 128 - differing.leading_zeros();
        let aligned = self.low.bits & differing == 0 && differing.count_ones() == host_bits;
        (self.low.family == self.high.family && aligned && host_bits <= bits).then(|| bits - host_bits)
    }
}

impl Condition {
    /// True when `value` (what the packet has, if it has the field) is among the condition's values.
    pub fn holds(&self, value: Option<Value>, resources: &Resources) -> bool {
        let Some(value) = value else { return false };
        self.ranges.iter().any(|range| range.contains(value))
            || self.prefix_sets.iter().any(|id| resources.prefix_set(*id).contains(value))
    }
}
