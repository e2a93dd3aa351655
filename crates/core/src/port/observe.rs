//! What a walk can tell an observer. The packet path observes nothing; simulation writes everything down.

use super::layer_flow::{PairRule, Side};
use crate::flow::HeaderStack;
use crate::layer::{CompiledLayer, Condition, DefaultAction, Group, Name, Rule};
use crate::transposition::Transposition;

/// How a layer came to its answer.
pub(crate) enum Decision<'a> {
    /// A layer flow that lives.
    Flow { side: Side, rule: &'a PairRule },
    /// A rule.
    Rule { group: &'a Name, rule: &'a Rule },
    /// No rule matched.
    Default(DefaultAction),
    /// The packet is a later fragment and the layer reads transport fields.
    Fragment,
}

/// What a group said.
pub(crate) enum GroupVerdict<'a> {
    /// This condition of the group does not hold.
    Skipped(&'a Condition),
    /// No rule of it matches.
    NoMatch,
    /// This rule of it was selected (a later group may override it).
    Selected(&'a Rule),
}

/// Follows a walk.
pub(crate) trait Observer {
    /// True when skipped groups are wanted too.
    fn is_explaining(&self) -> bool {
        false
    }
    /// The walk enters `layer` with `headers`.
    fn enter_layer(&mut self, _layer: &CompiledLayer, _headers: &HeaderStack) {}
    /// A group was asked.
    fn group(&mut self, _group: &Group, _verdict: GroupVerdict<'_>) {}
    /// The layer decided.
    fn decide(&mut self, _decision: Decision<'_>) {}
    /// The layer's change was applied; these are the headers now.
    fn transposed(&mut self, _transposition: &Transposition, _headers: &HeaderStack) {}
}

/// Observes nothing.
impl Observer for () {}
