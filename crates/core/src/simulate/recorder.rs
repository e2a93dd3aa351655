//! Writes down what a walk tells its observer.

use alloc::vec::Vec;

use super::{GroupTrace, GroupTraceVerdict, TraceDecision, TraceNode};
use crate::flow::HeaderStack;
use crate::layer::{CompiledLayer, DefaultAction, Group};
use crate::port::{Decision, GroupVerdict, Observer, Side};
use crate::transposition::Transposition;

/// The layers crossed so far.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    pub(super) nodes: Vec<TraceNode>,
}

impl Observer for Recorder {
    fn is_explaining(&self) -> bool {
        true
    }

    fn enter_layer(&mut self, layer: &CompiledLayer, headers: &HeaderStack) {
        self.nodes.push(TraceNode {
            layer: layer.name.clone(),
            owner: layer.owner.clone(),
            headers: *headers,
            groups: Vec::new(),
            decision: TraceDecision::Default(DefaultAction::Pass),
            transposition: Transposition::IDENTITY,
        });
    }

    fn group(&mut self, group: &Group, verdict: GroupVerdict<'_>) {
        let verdict = match verdict {
            GroupVerdict::Skipped(condition) => GroupTraceVerdict::Skipped(condition.clone()),
            GroupVerdict::NoMatch => GroupTraceVerdict::NoMatch,
            GroupVerdict::Selected(rule) => GroupTraceVerdict::Selected {
                rule: rule.name.clone(),
                conditions: rule.conditions.clone(),
                terminating: rule.terminating,
            },
        };
        if let Some(node) = self.nodes.last_mut() {
            node.groups.push(GroupTrace { group: group.name.clone(), verdict });
        }
    }

    fn decide(&mut self, decision: Decision<'_>) {
        let decision = match decision {
            Decision::Flow { side, rule } => TraceDecision::Flow {
                group: rule.group.clone(),
                rule: rule.rule.clone(),
                is_reverse: side == Side::Reverse,
            },
            Decision::Rule { group, rule } => TraceDecision::Rule {
                group: group.clone(),
                rule: rule.name.clone(),
                action: rule.action.name(),
                is_stateful: rule.state.is_some(),
            },
            Decision::Default(default) => TraceDecision::Default(default),
            Decision::Fragment => TraceDecision::Fragment,
        };
        if let Some(node) = self.nodes.last_mut() {
            node.decision = decision;
        }
    }

    fn transposed(&mut self, transposition: &Transposition, _headers: &HeaderStack) {
        if let Some(node) = self.nodes.last_mut() {
            node.transposition = transposition.clone();
        }
    }
}
