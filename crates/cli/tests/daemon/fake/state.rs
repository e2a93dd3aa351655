//! Objects in memory, and transactions on them.

use std::collections::{BTreeMap, BTreeSet};

use lamina_api::wire::v1::object::Content;
use lamina_api::wire::v1::operation::Operation as Op;
use lamina_api::wire::v1::put_resource::Resource;
use lamina_api::wire::v1::*;

/// The most changes that a reply lists.
const LISTED: usize = 1000;

pub type Key = (i32, String, String, i32, String, String, String);
pub type Objects = BTreeMap<Key, Object>;

/// What the fake has.
#[derive(Clone, Default)]
pub struct State {
    pub revision: u64,
    pub objects: Objects,
    /// Rises with every reading of counters.
    pub readings: u64,
}

/// The operations of a document, each object at once.
pub fn operations(document: Document) -> Vec<Op> {
    let mut all: Vec<Op> = Vec::new();
    all.extend(
        document.metadata.into_iter().map(|name| Op::PutMetadata(PutMetadata { name, agents: Vec::new() })),
    );
    let resources = document.resources.unwrap_or_default();
    let mut resource = |name: String, resource: Resource| {
        all.push(Op::PutResource(PutResource { name, resource: Some(resource), ..PutResource::default() }));
    };
    resources.mappings.into_iter().for_each(|(name, it)| resource(name, Resource::Mapping(it)));
    resources.targets.into_iter().for_each(|(name, it)| resource(name, Resource::Targets(it)));
    resources.prefixes.into_iter().for_each(|(name, it)| resource(name, Resource::Prefixes(it)));
    resources.meters.into_iter().for_each(|(name, it)| resource(name, Resource::Meter(it)));
    resources.limits.into_iter().for_each(|(name, it)| resource(name, Resource::Limit(it)));
    resources.leases.into_iter().for_each(|(name, it)| resource(name, Resource::Leases(it)));
    resources.dns.into_iter().for_each(|(name, it)| resource(name, Resource::Dns(it)));
    for (name, mut port) in document.ports {
        let layers = std::mem::take(&mut port.layers);
        if !port.mac.is_empty() {
            all.push(Op::PutPort(PutPort { name: name.clone(), port: Some(port) }));
        }
        for layer in layers {
            all.push(Op::PutLayer(PutLayer { port: name.clone(), layer: Some(layer), keep_groups: false }));
        }
    }
    if !document.multicast.is_empty() {
        all.push(Op::PutMulticast(Multicast { ports: document.multicast }));
    }
    all
}

pub fn key(object: &Ref) -> Key {
    let Ref { kind, port, layer, direction, group, mapping, name } = object.clone();
    (kind, port, layer, direction, group, mapping, name)
}

pub fn selects(selector: &Ref, object: &Ref) -> bool {
    let agrees = |wanted: &str, found: &str| wanted.is_empty() || wanted == found;
    (selector.kind == 0 || selector.kind == object.kind)
        && (selector.direction == 0 || selector.direction == object.direction)
        && agrees(&selector.port, &object.port)
        && agrees(&selector.layer, &object.layer)
        && agrees(&selector.group, &object.group)
        && agrees(&selector.mapping, &object.mapping)
        && agrees(&selector.name, &object.name)
}

/// True when `object` is in what `outer` names, or is it.
fn is_within(outer: &Ref, object: &Ref) -> bool {
    let same = |a: &str, b: &str| a == b;
    let is_in = match outer.kind() {
        Kind::Port => same(&object.port, &outer.name),
        Kind::Layer => same(&object.port, &outer.port) && same(&object.layer, &outer.name),
        Kind::Group => {
            same(&object.port, &outer.port)
                && same(&object.layer, &outer.layer)
                && object.direction == outer.direction
                && same(&object.group, &outer.name)
        }
        Kind::Mapping => same(&object.mapping, &outer.name),
        _ => false,
    };
    is_in || object == outer
}

/// A transaction on its way.
pub struct Staged {
    controller: String,
    before: Objects,
    after: Objects,
    touched: BTreeSet<Key>,
    pub mistakes: Vec<Mistake>,
    replaced: BTreeSet<String>,
    pub number: u32,
}

impl Staged {
    pub fn new(state: &State, controller: &str) -> Self {
        Staged {
            controller: controller.into(),
            before: state.objects.clone(),
            after: state.objects.clone(),
            touched: BTreeSet::new(),
            mistakes: Vec::new(),
            replaced: BTreeSet::new(),
            number: 0,
        }
    }

    fn mistake(&mut self, code: &str, message: String, help: &str, object: &Ref, field: &str) {
        self.mistakes.push(Mistake {
            code: code.into(),
            message,
            help: help.into(),
            r#ref: Some(object.clone()),
            field: field.into(),
            operation: self.number,
        });
    }

    /// Whether the caller may change `object`.
    fn may(&mut self, object: &Ref) -> bool {
        let found = self.before.get(&key(object));
        let owner = found.map(|object| object.owner.clone());
        match owner {
            Some(owner) if owner != self.controller => {
                let message = format!("`{}` belongs to {owner}, you are {}", object.name, self.controller);
                self.mistake("not-owner", message, "ask its owner, or put one of another name", object, "");
                false
            }
            _ => true,
        }
    }

    fn put(&mut self, object: Ref, content: Content, agents: Vec<String>) {
        let key = key(&object);
        self.touched.insert(key.clone());
        let (owner, revision) = (self.controller.clone(), 0);
        self.after
            .insert(key, Object { r#ref: Some(object), owner, revision, agents, content: Some(content) });
    }

    fn remove_within(&mut self, outer: &Ref, but_itself: bool) -> usize {
        let before = self.after.len();
        self.after.retain(|_, object| {
            let object = object.r#ref.as_ref().unwrap();
            !is_within(outer, object) || (but_itself && object == outer)
        });
        before - self.after.len()
    }

    pub fn operation(&mut self, op: Op) {
        let object = |kind: Kind, name: &str| Ref { kind: kind.into(), name: name.into(), ..Ref::default() };
        match op {
            Op::PutPort(put) => {
                let named = object(Kind::Port, &put.name);
                if self.may(&named) {
                    self.put(named, Content::Port(put.port.unwrap()), Vec::new());
                }
            }
            Op::PutLayer(put) => {
                let mut layer = put.layer.unwrap();
                let named = Ref { port: put.port.clone(), ..object(Kind::Layer, &layer.name) };
                if !self.may(&named) {
                    return;
                }
                self.remove_within(&named, true);
                let inbound = std::mem::take(&mut layer.inbound);
                let outbound = std::mem::take(&mut layer.outbound);
                let name = layer.name.clone();
                layer.owner.clear();
                self.put(named, Content::Layer(layer), Vec::new());
                for (direction, groups) in [(Direction::Inbound, inbound), (Direction::Outbound, outbound)] {
                    for group in groups {
                        self.group(&put.port, &name, direction.into(), group);
                    }
                }
            }
            Op::PutGroup(put) => self.group(&put.port, &put.layer, put.direction, put.group.unwrap()),
            Op::PutRules(put) => self.rules(&put.port, &put.layer, put.direction, &put.group, put.rules),
            Op::PutResource(put) => self.resource(put),
            Op::PutMappingEntries(put) => {
                if put.replace && self.replaced.insert(put.mapping.clone()) {
                    self.remove_within(&object(Kind::Mapping, &put.mapping), true);
                }
                self.entries(&put.mapping, put.entries);
            }
            Op::PutMetadata(put) => {
                let named = object(Kind::Metadata, &put.name);
                if self.may(&named) {
                    self.put(named, Content::Metadata(Nothing {}), put.agents);
                }
            }
            Op::PutMulticast(put) => {
                let named = object(Kind::Multicast, "");
                if self.may(&named) {
                    self.put(named, Content::Multicast(put), Vec::new());
                }
            }
            Op::Delete(delete) => {
                let named = delete.r#ref.unwrap();
                if self.may(&named) && self.remove_within(&named, false) == 0 && delete.must_exist {
                    let message = format!("there is no `{}`", named.name);
                    self.mistake("missing-object", message, "list what there is", &named, "");
                }
            }
        }
    }

    fn group(&mut self, port: &str, layer: &str, direction: i32, mut group: Group) {
        let named = Ref {
            kind: Kind::Group.into(),
            port: port.into(),
            layer: layer.into(),
            direction,
            name: group.group.clone(),
            ..Ref::default()
        };
        if !self.may(&named) {
            return;
        }
        self.remove_within(&named, true);
        let rules = std::mem::take(&mut group.rules);
        let name = group.group.clone();
        self.put(named, Content::Group(group), Vec::new());
        self.rules(port, layer, direction, &name, rules);
    }

    fn rules(&mut self, port: &str, layer: &str, direction: i32, group: &str, rules: Vec<Rule>) {
        for rule in rules {
            let named = Ref {
                kind: Kind::Rule.into(),
                port: port.into(),
                layer: layer.into(),
                direction,
                group: group.into(),
                name: rule.name.clone(),
                ..Ref::default()
            };
            if !self.may(&named) {
                continue;
            }
            if let Some(action::Action::Meter(meter)) = rule.action.as_ref().and_then(|it| it.action.as_ref())
            {
                let wanted = Ref { kind: Kind::Meter.into(), name: meter.clone(), ..Ref::default() };
                if !self.after.contains_key(&key(&wanted)) {
                    let message = format!("there is no meter `{meter}`");
                    self.mistake("missing-resource", message, "did you mean `web`?", &named, "action.meter");
                }
            }
            self.put(named, Content::Rule(rule), Vec::new());
        }
    }

    fn resource(&mut self, put: PutResource) {
        let PutResource { name, agents, resource, keep_entries } = put;
        let (kind, content) = match resource.unwrap() {
            Resource::Mapping(mut mapping) => {
                let entries = std::mem::take(&mut mapping.entries);
                let named = Ref { kind: Kind::Mapping.into(), name: name.clone(), ..Ref::default() };
                if !self.may(&named) {
                    return;
                }
                if !keep_entries {
                    self.remove_within(&named, true);
                    self.entries(&name, entries);
                }
                (Kind::Mapping, Content::Mapping(mapping))
            }
            Resource::Targets(targets) => (Kind::Targets, Content::Targets(targets)),
            Resource::Prefixes(prefixes) => (Kind::Prefixes, Content::Prefixes(prefixes)),
            Resource::Meter(meter) => (Kind::Meter, Content::Meter(meter)),
            Resource::Limit(limit) => (Kind::Limit, Content::Limit(limit)),
            Resource::Leases(table) => (Kind::Leases, Content::Leases(table)),
            Resource::Dns(table) => (Kind::Dns, Content::Dns(table)),
        };
        let named = Ref { kind: kind.into(), name, ..Ref::default() };
        if self.may(&named) {
            self.put(named, content, agents);
        }
    }

    fn entries(&mut self, mapping: &str, entries: Vec<MappingEntry>) {
        for entry in entries {
            let name = match entry.tenant() {
                0 => entry.address.clone(),
                tenant => format!("{}@{tenant}", entry.address),
            };
            let named =
                Ref { kind: Kind::MappingEntry.into(), mapping: mapping.into(), name, ..Ref::default() };
            self.put(named, Content::MappingEntry(entry), Vec::new());
        }
    }

    /// What has changed; `state` becomes what was staged.
    pub fn commit(self, state: &mut State) -> ApplyReply {
        let revision = state.revision + 1;
        let mut reply = ApplyReply { revision, effective_after: 1_234_567, ..ApplyReply::default() };
        let Staged { before, mut after, touched, .. } = self;
        let mut change = |kind: ChangeKind, object: &Object, count: fn(&mut ApplyReply) -> &mut u64| {
            *count(&mut reply) += 1;
            if reply.changes.len() < LISTED {
                reply.changes.push(Change { kind: kind.into(), object: Some(object.clone()), revision });
            }
        };
        for (key, object) in &mut after {
            match before.get(key) {
                None => {
                    object.revision = revision;
                    change(ChangeKind::Created, object, |reply| &mut reply.created);
                }
                Some(old) if old.content != object.content => {
                    object.revision = revision;
                    change(ChangeKind::Updated, object, |reply| &mut reply.updated);
                }
                Some(old) => object.revision = old.revision,
            }
        }
        for (key, object) in &before {
            if !after.contains_key(key) {
                change(ChangeKind::Deleted, object, |reply| &mut reply.deleted);
            }
        }
        reply.unchanged = touched.len() as u64 - reply.created - reply.updated;
        if reply.created + reply.updated + reply.deleted == 0 {
            reply.revision = state.revision;
        }
        state.revision = reply.revision;
        state.objects = after;
        reply
    }
}
