//! What belongs to a controller and is not in its files any more.

use std::collections::BTreeSet;

use lamina_api::wire::v1::operation::Operation as Change;
use lamina_api::wire::v1::{Delete, Document, Kind, Operation, Ref};

use super::File;
use crate::host::{Host, name, object};

/// Kinds that are removed, in this order: layers before the resources that they name, ports last. Groups, rules and
/// entries are replaced with what they are in.
const KINDS: [Kind; 11] = [
    Kind::Layer,
    Kind::Mapping,
    Kind::Targets,
    Kind::Prefixes,
    Kind::Meter,
    Kind::Limit,
    Kind::Leases,
    Kind::Dns,
    Kind::Metadata,
    Kind::Multicast,
    Kind::Port,
];

/// The operations that remove what `owner` has and `files` do not name.
pub async fn removals(host: &mut Host, files: &[File], owner: &str) -> anyhow::Result<Vec<Operation>> {
    let named: BTreeSet<String> =
        files.iter().flat_map(|file| names(&file.document)).map(|object| name::full(&object)).collect();
    let mut operations = Vec::new();
    for kind in KINDS {
        let selector = Ref { kind: kind.into(), ..Ref::default() };
        for object in object::list(host, selector, owner).await? {
            let object = object::reference(&object);
            if !named.contains(&name::full(&object)) {
                operations.push(removal(object));
            }
        }
    }
    Ok(operations)
}

/// The operations that remove `objects`, in an order in which nothing names what is already gone.
pub fn removal_of(mut objects: Vec<Ref>) -> Vec<Operation> {
    objects.sort_by_key(|object| KINDS.iter().position(|kind| *kind == object.kind()));
    objects.into_iter().map(removal).collect()
}

fn removal(object: Ref) -> Operation {
    Operation { operation: Some(Change::Delete(Delete { r#ref: Some(object), must_exist: false })) }
}

/// Everything of those kinds that a document names.
pub fn names(document: &Document) -> Vec<Ref> {
    let mut names: Vec<Ref> = document.metadata.iter().map(|key| name::plain(Kind::Metadata, key)).collect();
    if let Some(resources) = &document.resources {
        names.extend(resources.mappings.keys().map(|key| name::plain(Kind::Mapping, key)));
        names.extend(resources.targets.keys().map(|key| name::plain(Kind::Targets, key)));
        names.extend(resources.prefixes.keys().map(|key| name::plain(Kind::Prefixes, key)));
        names.extend(resources.meters.keys().map(|key| name::plain(Kind::Meter, key)));
        names.extend(resources.limits.keys().map(|key| name::plain(Kind::Limit, key)));
        names.extend(resources.leases.keys().map(|key| name::plain(Kind::Leases, key)));
        names.extend(resources.dns.keys().map(|key| name::plain(Kind::Dns, key)));
    }
    for (key, port) in &document.ports {
        names.push(name::plain(Kind::Port, key));
        let layers = port.layers.iter();
        names.extend(layers.map(|layer| Ref { port: key.clone(), ..name::plain(Kind::Layer, &layer.name) }));
    }
    if !document.multicast.is_empty() {
        names.push(name::plain(Kind::Multicast, ""));
    }
    names
}
