//! From policy documents to operations of a transaction, none larger than a message can carry.

use std::collections::BTreeMap;

use lamina_api::wire::Places;
use lamina_api::wire::v1::operation::Operation as Change;
use lamina_api::wire::v1::put_resource::Resource;
use lamina_api::wire::v1::{
    Direction, Group, Kind, Layer, Mapping, MappingEntry, Multicast, Operation, Port, PutGroup, PutLayer,
    PutMappingEntries, PutMetadata, PutPort, PutResource, PutRules, Ref, Resources, Rule,
};
use lamina_api::{Code, Diagnostic, Report, Source};
use prost::Message;

use super::File;
use crate::host::name;

/// What is put at once is smaller than this, in bytes; larger layers and tables are put in pieces. Messages have
/// an end, and a piece must leave room for others beside it.
pub const PIECE: usize = 1 << 20;

/// The operations that make what `files` say. Resources come first, since rules name them.
pub fn of_files(files: &[File]) -> Result<Vec<Operation>, Report> {
    let mut report = Report::new();
    let mut seen = BTreeMap::new();
    let (mut resources, mut layers) = (Vec::new(), Vec::new());
    let mut ports: BTreeMap<&str, (&Source, Port)> = BTreeMap::new();
    let mut multicast = None;
    for File { source, document } in files {
        let mut once = |object: Ref| match seen.insert(name::full(&object), source) {
            Some(first) if first.name != source.name => {
                report.push(twice(&object, first, source));
                false
            }
            _ => true,
        };
        for key in &document.metadata {
            // Several documents may use one key; it is made once.
            if once_only(&mut resources, key) {
                resources.push(Change::PutMetadata(PutMetadata { name: key.clone(), agents: Vec::new() }));
            }
        }
        // Every kind is named here, so that one that is added is not left out.
        let Resources { mappings, targets, prefixes, meters, leases, dns, limits } =
            document.resources.clone().unwrap_or_default();
        for (key, mapping) in mappings {
            if once(name::plain(Kind::Mapping, &key)) {
                resources.extend(of_mapping(&key, mapping, Vec::new()));
            }
        }
        let tables = (targets.into_iter().map(|(key, value)| (Kind::Targets, key, Resource::Targets(value))))
            .chain(prefixes.into_iter().map(|(key, value)| (Kind::Prefixes, key, Resource::Prefixes(value))))
            .chain(meters.into_iter().map(|(key, value)| (Kind::Meter, key, Resource::Meter(value))))
            .chain(leases.into_iter().map(|(key, value)| (Kind::Leases, key, Resource::Leases(value))))
            .chain(dns.into_iter().map(|(key, value)| (Kind::Dns, key, Resource::Dns(value))))
            .chain(limits.into_iter().map(|(key, value)| (Kind::Limit, key, Resource::Limit(value))));
        for (kind, key, table) in tables {
            if once(name::plain(kind, &key)) {
                resources.push(resource(&key, table));
            }
        }
        for (key, port) in &document.ports {
            let properties = Port { layers: Vec::new(), ..port.clone() };
            if properties != Port::default() && once(name::plain(Kind::Port, key)) {
                ports.insert(key, (source, properties));
            }
            for layer in &port.layers {
                let named = Ref { port: key.clone(), ..name::plain(Kind::Layer, &layer.name) };
                if once(named) {
                    layers.extend(of_layer(key, Layer { owner: String::new(), ..layer.clone() }));
                }
            }
        }
        if !document.multicast.is_empty() && once(name::plain(Kind::Multicast, "")) {
            multicast = Some(Change::PutMulticast(Multicast { ports: document.multicast.clone() }));
        }
    }
    for (key, (source, port)) in &ports {
        if port.mac.is_empty() {
            report.push(without_mac(key, source));
        }
    }
    if report.has_errors() {
        report.sort();
        return Err(report);
    }
    let ports = ports
        .into_iter()
        .map(|(key, (_, port))| Change::PutPort(PutPort { name: key.into(), port: Some(port) }));
    let changes = resources.into_iter().chain(ports).chain(layers).chain(multicast);
    Ok(changes.map(|change| Operation { operation: Some(change) }).collect())
}

fn once_only(made: &mut [Change], key: &str) -> bool {
    !made.iter().any(|change| matches!(change, Change::PutMetadata(put) if put.name == key))
}

fn resource(name: &str, resource: Resource) -> Change {
    Change::PutResource(PutResource {
        name: name.into(),
        agents: Vec::new(),
        resource: Some(resource),
        keep_entries: false,
    })
}

/// The place of `object` in `source`, or of its beginning.
fn place(object: &Ref, source: &Source) -> lamina_api::Span {
    Places::of_document(source).and_then(|places| places.find(object, "")).unwrap_or_default()
}

fn twice(object: &Ref, first: &Source, second: &Source) -> Diagnostic {
    let message = format!("{} is in two files", name::full(object));
    Diagnostic::error(Code::Duplicate, second, place(object, second), message)
        .also(first, place(object, first), "it is stated here too")
        .help("remove one: a transaction puts an object once")
}

fn without_mac(port: &str, source: &Source) -> Diagnostic {
    let span = place(&name::plain(Kind::Port, port), source);
    let message = format!("properties of port `{port}` are stated without its `mac`");
    Diagnostic::error(Code::MissingField, source, span, message)
        .help("the document that makes a port states all of its properties; others state only its layers")
}

/// Puts a layer with all that is in it: at once, or in pieces where it is large.
pub fn of_layer(port: &str, mut layer: Layer) -> Vec<Change> {
    if layer.encoded_len() <= PIECE {
        return vec![Change::PutLayer(PutLayer {
            port: port.into(),
            layer: Some(layer),
            keep_groups: false,
        })];
    }
    let groups = [
        (Direction::Inbound, std::mem::take(&mut layer.inbound)),
        (Direction::Outbound, std::mem::take(&mut layer.outbound)),
    ];
    let name = layer.name.clone();
    let head = PutLayer { port: port.into(), layer: Some(layer), keep_groups: false };
    let mut changes = vec![Change::PutLayer(head)];
    for (direction, groups) in groups {
        for group in groups {
            changes.extend(of_group(port, &name, direction, group));
        }
    }
    changes
}

/// Puts a group with its rules: at once, or its rules in pieces.
pub fn of_group(port: &str, layer: &str, direction: Direction, mut group: Group) -> Vec<Change> {
    let (port, layer) = (port.to_string(), layer.to_string());
    let direction = direction.into();
    let rules = if group.encoded_len() <= PIECE { Vec::new() } else { std::mem::take(&mut group.rules) };
    let name = group.group.clone();
    let head = PutGroup {
        port: port.clone(),
        layer: layer.clone(),
        direction,
        group: Some(group),
        keep_rules: false,
    };
    let pieces = pieces(rules, Rule::encoded_len).into_iter().map(|rules| {
        let (port, layer, group) = (port.clone(), layer.clone(), name.clone());
        Change::PutRules(PutRules { port, layer, direction, group, rules })
    });
    std::iter::once(Change::PutGroup(head)).chain(pieces).collect()
}

/// Puts a mapping table. Entries that the document states replace those that are there; of a table whose entries
/// come from elsewhere, none stated, they stay.
pub fn of_mapping(name: &str, mapping: Mapping, agents: Vec<String>) -> Vec<Change> {
    let is_small = mapping.encoded_len() <= PIECE;
    let keep_entries = mapping.entries.is_empty() || !is_small;
    let (mapping, entries) =
        if is_small { (mapping, Vec::new()) } else { (Mapping::default(), mapping.entries) };
    let head = Change::PutResource(PutResource {
        name: name.into(),
        agents,
        resource: Some(Resource::Mapping(mapping)),
        keep_entries,
    });
    let pieces = pieces(entries, MappingEntry::encoded_len).into_iter().map(|entries| {
        Change::PutMappingEntries(PutMappingEntries {
            mapping: name.into(),
            entries,
            replace: true,
            transient: false,
        })
    });
    std::iter::once(head).chain(pieces).collect()
}

/// The resource that `change` puts, and the place of its agents.
pub fn agents_of(change: &mut Change) -> Option<(Ref, &mut Vec<String>)> {
    match change {
        Change::PutMetadata(put) => Some((name::plain(Kind::Metadata, &put.name), &mut put.agents)),
        Change::PutResource(put) => {
            let kind = match put.resource.as_ref()? {
                Resource::Mapping(_) => Kind::Mapping,
                Resource::Targets(_) => Kind::Targets,
                Resource::Prefixes(_) => Kind::Prefixes,
                Resource::Meter(_) => Kind::Meter,
                Resource::Limit(_) => Kind::Limit,
                Resource::Leases(_) => Kind::Leases,
                Resource::Dns(_) => Kind::Dns,
            };
            Some((name::plain(kind, &put.name), &mut put.agents))
        }
        _ => None,
    }
}

/// `items` in lists of at most [`PIECE`] bytes, or of one item that is larger.
fn pieces<T>(items: Vec<T>, length: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    /// A field's number and length before each item.
    const FRAME: usize = 6;
    let mut pieces: Vec<Vec<T>> = Vec::new();
    let mut room = 0;
    for item in items {
        let size = length(&item) + FRAME;
        match pieces.last_mut() {
            Some(piece) if size <= room => piece.push(item),
            _ => {
                pieces.push(vec![item]);
                room = PIECE;
            }
        }
        room = room.saturating_sub(size);
    }
    pieces
}

#[cfg(test)]
mod tests {
    use lamina_api::wire::read;

    use super::super::prune;
    use super::*;

    #[test]
    fn every_kind_of_resource_is_put() {
        let text = r#"
version: 1
metadata: [mark]
multicast: [vm1]
resources:
  mappings: { a: { entries: [{ address: 10.0.0.1, mac: "02:00:00:00:00:01" }] } }
  targets: { b: [{ address: 10.0.0.1 }] }
  prefixes: { c: [10.0.0.1] }
  meters: { d: { key: [ip.dst] } }
  leases: { e: [{ mac: "02:00:00:00:00:01", address: 10.0.0.1 }] }
  dns: { f: { records: [{ name: a.example, address: 10.0.0.1 }] } }
  limits: { g: { packets: 10/s } }
ports: { vm1: { mac: "02:00:00:00:00:01", layers: [{ name: acl, priority: 1 }] } }
"#;
        let source = Source::new("all", text);
        let document = read::document(&source).unwrap_or_else(|report| panic!("{report}"));
        let names: Vec<String> = prune::names(&document).iter().map(name::full).collect();
        let operations = of_files(&[File { source, document }]).unwrap();
        let mut put: Vec<String> = operations
            .into_iter()
            .filter_map(|operation| {
                let mut change = operation.operation?;
                let resource = agents_of(&mut change).map(|(resource, _)| resource);
                let named = resource.unwrap_or_else(|| match change {
                    Change::PutPort(port) => name::plain(Kind::Port, &port.name),
                    Change::PutLayer(PutLayer { port, layer, .. }) => {
                        Ref { port, ..name::plain(Kind::Layer, &layer.unwrap_or_default().name) }
                    }
                    Change::PutMulticast(_) => name::plain(Kind::Multicast, ""),
                    other => panic!("{other:?}"),
                });
                Some(name::full(&named))
            })
            .collect();
        put.sort();
        let mut wanted = names;
        wanted.sort();
        assert_eq!(put, wanted);
        assert_eq!(put.len(), 11);
    }

    #[test]
    fn pieces_hold_everything_in_order_and_end_in_time() {
        let items: Vec<usize> = (0..100).map(|index| index * 1000).chain([3 * PIECE, 1]).collect();
        let cut = pieces(items.clone(), |size| *size);
        assert_eq!(cut.concat(), items);
        for piece in &cut {
            let size: usize = piece.iter().map(|size| size + 6).sum();
            assert!(size <= PIECE || piece.len() == 1, "{size}");
        }
        assert_eq!(cut.last(), Some(&vec![1]), "what follows a large item is not put beside it");
    }

    #[test]
    fn a_table_without_entries_keeps_those_of_its_agents() {
        let [Change::PutResource(put)] = &of_mapping("blue", Mapping::default(), Vec::new())[..] else {
            panic!("one operation")
        };
        assert!(put.keep_entries);
        let entry = MappingEntry { address: "10.0.0.1".into(), ..MappingEntry::default() };
        let few = Mapping { entries: vec![entry.clone()], ..Mapping::default() };
        let [Change::PutResource(put)] = &of_mapping("blue", few, Vec::new())[..] else {
            panic!("one operation")
        };
        assert!(!put.keep_entries);
        let many = Mapping { entries: vec![entry; 200_000], ..Mapping::default() };
        let changes = of_mapping("blue", many, Vec::new());
        assert!(changes.len() > 2);
        let entries: usize = changes[1..]
            .iter()
            .map(|change| match change {
                Change::PutMappingEntries(put) if put.replace => put.entries.len(),
                other => panic!("{other:?}"),
            })
            .sum();
        assert_eq!(entries, 200_000);
    }
}
