//! A trace as JSON. The keys are stable; their meaning is in `docs/reference/trace.md`.

use lamina_core::action::Reply;
use lamina_core::flow::Direction;
use lamina_core::layer::{Condition, DefaultAction};
use lamina_core::simulate::{
    CacheState, CopyTrace, GroupTraceVerdict, Trace, TraceDecision, TraceNode, TraceOutcome,
};
use serde_json::{Value, json};

use super::names::Names;
use super::why::{dropped_by, missed};
use super::{PortPolicies, decode};

/// The whole trace of `frame`, in the form that the reference page documents.
pub fn trace(ports: &dyn PortPolicies, frame: &[u8], trace: &Trace) -> Value {
    json!({ "version": 1, "sent": [], "frame": self::frame(frame), "trace": crossing(ports, trace) })
}

/// A frame: its length, its bytes in hexadecimal, its headers in words.
pub fn frame(frame: &[u8]) -> Value {
    let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
    json!({ "length": frame.len(), "hex": hex, "headers": decode::lines(frame) })
}

fn crossing(ports: &dyn PortPolicies, trace: &Trace) -> Value {
    let names = Names { policy: ports.policy_of(&trace.port), ids: ports.ids() };
    let layers: Vec<Value> = trace.layers.iter().map(|node| layer(&names, node, trace.direction)).collect();
    json!({
        "port": &*trace.port,
        "direction": trace.direction.name(),
        "cache": match trace.cache {
            CacheState::Miss => "miss",
            CacheState::Hit => "hit",
            CacheState::Stale => "stale",
            CacheState::Blocked => "blocked",
        },
        "parsed": trace.entered.is_some(),
        "layers": layers,
        "change": change(&trace.transposition),
        "outcome": outcome(trace),
        "result": if trace.frame.is_empty() { Value::Null } else { frame(&trace.frame) },
        "copies": trace.copies.iter().map(copied).collect::<Vec<_>>(),
        "next": trace.next.iter().map(|next| crossing(ports, next)).collect::<Vec<_>>(),
    })
}

fn copied(copy: &CopyTrace) -> Value {
    match &copy.result {
        Ok((to, frame)) => json!({ "layer": &*copy.layer, "to": &**to, "frame": self::frame(frame) }),
        Err(reason) => json!({ "layer": &*copy.layer, "dropped": reason.name() }),
    }
}

fn change(transposition: &lamina_core::transposition::Transposition) -> Value {
    if transposition.is_identity() { Value::Null } else { json!(transposition.to_string()) }
}

fn layer(names: &Names<'_>, node: &TraceNode, direction: Direction) -> Value {
    let condition = |condition: &Condition| {
        json!({
            "field": names.field(condition.field),
            "values": names.values(condition),
            "packet": names.read(condition.field, &node.headers, direction),
        })
    };
    let groups: Vec<Value> = node
        .groups
        .iter()
        .map(|group| {
            let mut value = match &group.verdict {
                GroupTraceVerdict::Skipped(failed) => {
                    json!({ "verdict": "skipped", "condition": condition(failed) })
                }
                GroupTraceVerdict::NoMatch => {
                    const SHOWN: usize = 10;
                    let (missed, more) = match names.policy {
                        Some(policy) => missed(policy, node, &group.group, direction, SHOWN),
                        None => (Vec::new(), 0),
                    };
                    let missed: Vec<Value> = missed
                        .iter()
                        .map(|miss| json!({ "rule": miss.rule, "condition": condition(miss.condition) }))
                        .collect();
                    json!({ "verdict": "no-match", "missed": missed, "more-rules": more })
                }
                GroupTraceVerdict::Selected { rule, conditions, terminating } => json!({
                    "verdict": "selected",
                    "rule": &**rule,
                    "conditions": conditions.iter().map(condition).collect::<Vec<_>>(),
                    "terminating": terminating,
                }),
            };
            value["group"] = json!(&*group.group);
            value
        })
        .collect();
    json!({
        "layer": &*node.layer,
        "owner": &*node.owner,
        "groups": groups,
        "decision": decision(&node.decision),
        "change": change(&node.transposition),
    })
}

fn decision(decision: &TraceDecision) -> Value {
    match decision {
        TraceDecision::Flow { group, rule, is_reverse } => {
            json!({ "by": "flow", "group": &**group, "rule": &**rule, "reverse": is_reverse })
        }
        TraceDecision::Rule { group, rule, action, is_stateful } => {
            json!({ "by": "rule", "group": &**group, "rule": &**rule, "action": action, "stateful": is_stateful })
        }
        TraceDecision::Default(DefaultAction::Pass) => json!({ "by": "default", "action": "pass" }),
        TraceDecision::Default(DefaultAction::Block) => json!({ "by": "default", "action": "block" }),
        TraceDecision::Fragment => json!({ "by": "fragment" }),
    }
}

fn outcome(trace: &Trace) -> Value {
    match &trace.outcome {
        TraceOutcome::Wait { mapping, key } => json!({
            "kind": "wait", "mapping": &**mapping, "address": key.address.to_string(), "tenant": key.tenant,
        }),
        TraceOutcome::Punt { owner, queue } => {
            json!({ "kind": "punt", "owner": &**owner, "queue": &**queue })
        }
        TraceOutcome::Deliver => json!({ "kind": "deliver" }),
        TraceOutcome::Ports(ports) => {
            json!({ "kind": "ports", "ports": ports.iter().map(|port| &**port).collect::<Vec<_>>() })
        }
        TraceOutcome::Turn(port) => json!({ "kind": "turn", "port": &**port }),
        TraceOutcome::Uplink(name) => json!({ "kind": "uplink", "uplink": &**name }),
        TraceOutcome::Host => json!({ "kind": "host" }),
        TraceOutcome::Reply(Reply::Arp(mac)) => {
            json!({ "kind": "reply", "reply": "arp", "mac": mac.to_string() })
        }
        TraceOutcome::Reply(Reply::NeighborAdvertisement(mac)) => {
            json!({ "kind": "reply", "reply": "nd", "mac": mac.to_string() })
        }
        TraceOutcome::Reply(reply) => json!({ "kind": "reply", "reply": reply.name() }),
        TraceOutcome::Consumed => json!({ "kind": "consumed" }),
        TraceOutcome::Drop(reason) => {
            let by = dropped_by(trace).map(|place| {
                let (group, rule) = place.rule.unzip();
                json!({ "layer": place.layer, "owner": place.owner, "group": group, "rule": rule })
            });
            json!({ "kind": "drop", "reason": reason.name(), "explanation": reason.explanation(), "by": by })
        }
    }
}
