//! What a transaction asks for that is allowed and probably not meant: rules that are never selected, blocks that a later
//! group undoes (§7). Only what is the caller's own is told.

use std::collections::BTreeSet;

use lamina_api::wire::v1;
use lamina_core::classify::{PolicyWarning, warnings};
use lamina_core::flow::Direction;
use lamina_core::layer::Name;

use super::key::written;
use super::mistake::{MAX_MISTAKES, mistake};
use super::state::State;

/// The warnings about the layers of `owner` on the ports `touched`, up to the number that an answer names.
pub fn of(state: &State, touched: &BTreeSet<Name>, owner: &Name) -> Vec<v1::Mistake> {
    let ports = touched.iter().filter_map(|name| Some((name, state.ports.get(name)?)));
    let layers = ports.flat_map(|(port, state)| state.layers.values().map(move |layer| (port, &layer.layer)));
    let own = layers.filter(|(_, layer)| layer.owner == *owner);
    own.flat_map(|(port, layer)| {
        warnings(layer).into_iter().map(move |warning| told(port, &layer.name, &warning))
    })
    .take(MAX_MISTAKES)
    .collect()
}

fn told(port: &Name, layer: &Name, warning: &PolicyWarning) -> v1::Mistake {
    let (code, kind, direction, group, name) = match warning {
        PolicyWarning::OverridableBlock { direction, group, rule, .. }
        | PolicyWarning::Shadowed { direction, group, rule, .. } => {
            ("shadowed", v1::Kind::Rule, *direction, group.to_string(), rule)
        }
        PolicyWarning::Incomplete { direction, group } => {
            ("unchecked", v1::Kind::Group, *direction, String::new(), group)
        }
    };
    let text = warning.to_string();
    let (message, help) = text.split_once("; ").unwrap_or((&text, ""));
    let reference = place(port, layer, kind, direction, group, name);
    v1::Mistake { r#ref: Some(reference), ..mistake(code, message, help) }
}

fn place(
    port: &Name,
    layer: &Name,
    kind: v1::Kind,
    direction: Direction,
    group: String,
    name: &Name,
) -> v1::Ref {
    v1::Ref {
        kind: kind as i32,
        port: port.to_string(),
        layer: layer.to_string(),
        direction: written(direction) as i32,
        group,
        name: name.to_string(),
        ..v1::Ref::default()
    }
}
