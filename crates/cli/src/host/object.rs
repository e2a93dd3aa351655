//! Objects of the daemon as text and JSON, and with everything that is in them.

use std::collections::{BTreeMap, BTreeSet};

use lamina_api::wire::v1::object::Content;
use lamina_api::wire::v1::{self, Direction, Kind, ListRequest, Object, Ref};
use lamina_api::wire::{read, to_json as message_json, to_line, to_yaml};
use prost::Message;
use serde_json::{Value, json};

use super::{Host, collect, name};

/// The object's reference; one without is of no kind.
pub fn reference(object: &Object) -> Ref {
    object.r#ref.clone().unwrap_or_default()
}

/// The name of the object's message in the contract, and its bytes. A layer names its owner beside it.
fn message(object: &Object) -> (&'static str, Vec<u8>) {
    let bytes = match &object.content {
        Some(Content::Port(port)) => port.encode_to_vec(),
        Some(Content::Layer(layer)) => {
            let mut layer = layer.clone();
            layer.owner.clear();
            layer.encode_to_vec()
        }
        Some(Content::Group(group)) => group.encode_to_vec(),
        Some(Content::Rule(rule)) => rule.encode_to_vec(),
        Some(Content::Mapping(mapping)) => mapping.encode_to_vec(),
        Some(Content::MappingEntry(entry)) => entry.encode_to_vec(),
        Some(Content::Targets(targets)) => targets.encode_to_vec(),
        Some(Content::Prefixes(prefixes)) => prefixes.encode_to_vec(),
        Some(Content::Meter(meter)) => meter.encode_to_vec(),
        Some(Content::Limit(limit)) => limit.encode_to_vec(),
        Some(Content::Leases(table)) => table.encode_to_vec(),
        Some(Content::Dns(table)) => table.encode_to_vec(),
        Some(Content::Multicast(multicast)) => multicast.encode_to_vec(),
        Some(Content::Metadata(_)) | None => Vec::new(),
    };
    (read::message_of(reference(object).kind()), bytes)
}

/// What was asked for, as YAML.
pub fn yaml(object: &Object) -> anyhow::Result<String> {
    let (message, bytes) = message(object);
    Ok(to_yaml(message, &bytes)?)
}

/// What was asked for, in a line, without the name that stands beside it.
pub fn line(object: &Object) -> anyhow::Result<String> {
    let mut object = object.clone();
    match &mut object.content {
        Some(Content::Layer(layer)) => layer.name.clear(),
        Some(Content::Group(group)) => group.group.clear(),
        Some(Content::Rule(rule)) => rule.name.clear(),
        Some(Content::MappingEntry(entry)) => (entry.address.clear(), entry.tenant = None).0,
        _ => {}
    }
    let (message, bytes) = message(&object);
    let line = to_line(message, &bytes)?;
    if line == "{}" {
        return Ok(String::new());
    }
    Ok(line.strip_prefix("{ ").and_then(|line| line.strip_suffix(" }")).unwrap_or(&line).to_string())
}

/// The object as JSON: what names it, whose it is, and what was asked for.
pub fn to_json(object: &Object) -> anyhow::Result<Value> {
    let (message, bytes) = message(object);
    let mut value = name::to_json(&reference(object));
    value["owner"] = json!(object.owner);
    value["revision"] = json!(object.revision);
    value["agents"] = json!(object.agents);
    value["content"] = message_json(message, &bytes)?;
    Ok(value)
}

/// The objects that `selector` names, of `owner` if it is not empty.
pub async fn list(host: &mut Host, selector: Ref, owner: &str) -> anyhow::Result<Vec<Object>> {
    let request = ListRequest { selector: Some(selector), owner: owner.into() };
    Ok(collect(host.list(request).await?).await?)
}

/// `object` with everything that is in it: a layer's groups and rules, a group's rules, a table's entries.
pub async fn whole(host: &mut Host, mut object: Object) -> anyhow::Result<Object> {
    let named = reference(&object);
    match &mut object.content {
        Some(Content::Layer(layer)) => {
            let within = Ref { port: named.port.clone(), layer: named.name.clone(), ..Ref::default() };
            let groups = list(host, Ref { kind: Kind::Group.into(), ..within.clone() }, "").await?;
            let rules = list(host, Ref { kind: Kind::Rule.into(), ..within }, "").await?;
            fill_layer(layer, groups, rules);
        }
        Some(Content::Group(group)) => {
            let rules = Ref { kind: Kind::Rule.into(), group: named.name, name: String::new(), ..named };
            group.rules = list(host, rules, "").await?.into_iter().filter_map(into_rule).collect();
        }
        Some(Content::Mapping(mapping)) => {
            let entries = Ref { kind: Kind::MappingEntry.into(), mapping: named.name, ..Ref::default() };
            mapping.entries = list(host, entries, "").await?.into_iter().filter_map(into_entry).collect();
        }
        _ => {}
    }
    Ok(object)
}

fn into_rule(object: Object) -> Option<v1::Rule> {
    match object.content {
        Some(Content::Rule(rule)) => Some(rule),
        _ => None,
    }
}

fn into_entry(object: Object) -> Option<v1::MappingEntry> {
    match object.content {
        Some(Content::MappingEntry(entry)) => Some(entry),
        _ => None,
    }
}

/// Puts a layer's groups and rules into it.
fn fill_layer(layer: &mut v1::Layer, groups: Vec<Object>, rules: Vec<Object>) {
    let mut by_group: BTreeMap<(i32, String), Vec<v1::Rule>> = BTreeMap::new();
    for object in rules {
        let named = reference(&object);
        if let Some(rule) = into_rule(object) {
            by_group.entry((named.direction, named.group)).or_default().push(rule);
        }
    }
    for object in groups {
        let named = reference(&object);
        let Some(Content::Group(mut group)) = object.content else { continue };
        group.rules = by_group.remove(&(named.direction, named.name)).unwrap_or_default();
        if named.direction == i32::from(Direction::Inbound) {
            layer.inbound.push(group);
        } else {
            layer.outbound.push(group);
        }
    }
}

/// The policy document that says what `objects` say; `lamina apply` makes them of it again.
pub fn document(objects: Vec<Object>) -> v1::Document {
    let mut document = v1::Document { version: 1, ..v1::Document::default() };
    let mut resources = v1::Resources::default();
    let mut groups: BTreeMap<(String, String), Vec<Object>> = BTreeMap::new();
    let mut rules = groups.clone();
    let mut layers = Vec::new();
    let owners: BTreeSet<&String> = objects.iter().map(|object| &object.owner).collect();
    if let [owner] = owners.iter().collect::<Vec<_>>()[..] {
        document.owner = (*owner).clone();
    }
    let is_one_owner = !document.owner.is_empty();
    for object in objects {
        let named = reference(&object);
        let place = (named.port.clone(), named.layer.clone());
        match object.content.clone() {
            Some(Content::Port(port)) => drop(document.ports.insert(named.name, port)),
            Some(Content::Layer(mut layer)) => {
                layer.owner = if is_one_owner { String::new() } else { object.owner };
                layers.push((named.port, layer));
            }
            Some(Content::Group(_)) => groups.entry(place).or_default().push(object),
            Some(Content::Rule(_)) => rules.entry(place).or_default().push(object),
            Some(Content::Mapping(mapping)) => {
                resources.mappings.entry(named.name).or_default().entries.extend(mapping.entries);
            }
            Some(Content::MappingEntry(entry)) => {
                resources.mappings.entry(named.mapping).or_default().entries.push(entry);
            }
            Some(Content::Targets(targets)) => drop(resources.targets.insert(named.name, targets)),
            Some(Content::Prefixes(prefixes)) => drop(resources.prefixes.insert(named.name, prefixes)),
            Some(Content::Meter(meter)) => drop(resources.meters.insert(named.name, meter)),
            Some(Content::Limit(limit)) => drop(resources.limits.insert(named.name, limit)),
            Some(Content::Leases(table)) => drop(resources.leases.insert(named.name, table)),
            Some(Content::Dns(table)) => drop(resources.dns.insert(named.name, table)),
            Some(Content::Metadata(_)) => document.metadata.push(named.name),
            Some(Content::Multicast(multicast)) => document.multicast = multicast.ports,
            None => {}
        }
    }
    for (port, mut layer) in layers {
        let place = (port.clone(), layer.name.clone());
        let (groups, rules) = (groups.remove(&place), rules.remove(&place));
        fill_layer(&mut layer, groups.unwrap_or_default(), rules.unwrap_or_default());
        document.ports.entry(port).or_default().layers.push(layer);
    }
    if resources != v1::Resources::default() {
        document.resources = Some(resources);
    }
    document
}
