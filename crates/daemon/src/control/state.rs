//! What runs, as the control thread knows it: every port's policy as meant, ready to be compiled.
//!
//! The store has what controllers asked for; this is made from it ([`State::rebuild`]) and then changed with it, piece
//! by piece. It is a value: a transaction changes a copy (cheap, since everything large is shared) and the copy takes
//! the original's place when the transaction is durable.

use std::collections::BTreeMap;
use std::sync::Arc;

use lamina_api::wire::{read, v1};
use lamina_api::{At, Document, Source, Span, document};
use lamina_core::flow::Direction;
use lamina_core::layer::{Group, Layer, MalformedPolicy, Name, Policy};
use lamina_core::switch::{PortConfig, PortId};

use super::key::{self, Key};
use super::mistake::{Mistakes, from_problem, mistake};
use super::store::{Objects, Store, StoreError};
use crate::convert::PortIds;
use crate::convert::pieces::Names;

/// Everything that runs.
#[derive(Clone)]
pub struct State {
    /// What names mean.
    pub names: Arc<Names>,
    /// Resources and metadata keys, in the order in which they were made.
    pub catalog: Arc<Document>,
    /// Ports by name.
    pub ports: BTreeMap<Name, Arc<PortState>>,
    /// Ports that get unanswered multicast.
    pub multicast: Vec<Name>,
}

/// A port.
#[derive(Clone, Debug)]
pub struct PortState {
    /// Its number.
    pub id: PortId,
    /// What the switch must know to make it.
    pub config: PortConfig,
    /// What happens to frames that cannot be parsed.
    pub malformed: MalformedPolicy,
    /// Layers that follow from the port's own properties.
    pub generated: Vec<Layer>,
    /// Controllers' layers by name.
    pub layers: BTreeMap<Name, Arc<LayerState>>,
    /// Its policy could not be restored: it stays closed.
    pub is_broken: bool,
}

/// A layer.
#[derive(Clone, Debug)]
pub struct LayerState {
    /// As meant.
    pub layer: Layer,
    /// Groups as written, without their rules: what converting a rule needs to know of its group. By direction
    /// (inbound first) and name.
    pub heads: [BTreeMap<Name, Arc<document::Group>>; 2],
}

impl LayerState {
    /// The groups of one direction.
    pub fn groups(&self, direction: Direction) -> &Vec<Group> {
        match direction {
            Direction::Inbound => &self.layer.inbound,
            Direction::Outbound => &self.layer.outbound,
        }
    }

    /// The groups of one direction, to change.
    pub fn groups_mut(&mut self, direction: Direction) -> &mut Vec<Group> {
        match direction {
            Direction::Inbound => Arc::make_mut(&mut self.layer.inbound),
            Direction::Outbound => Arc::make_mut(&mut self.layer.outbound),
        }
    }

    /// The written heads of one direction.
    pub fn heads_mut(&mut self, direction: Direction) -> &mut BTreeMap<Name, Arc<document::Group>> {
        &mut self.heads[direction as usize]
    }

    /// The written head of a group.
    pub fn head(&self, direction: Direction, group: &str) -> Option<&Arc<document::Group>> {
        self.heads[direction as usize].get(group)
    }
}

impl PortState {
    /// The port's policy with the resources that `names` has.
    pub fn policy(&self, names: &Names) -> Policy {
        let layers = self.layers.values().map(|state| state.layer.clone());
        let mut layers: Vec<Layer> = self.generated.iter().cloned().chain(layers).collect();
        layers.sort_by(|a, b| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
        Policy {
            layers,
            resources: names.resources().clone(),
            metadata_keys: names.metadata(),
            malformed: self.malformed,
        }
    }
}

/// An empty document, to put parts into.
pub fn empty_document() -> Document {
    Document {
        source: Source::new("<request>", ""),
        owner: None,
        metadata: Vec::new(),
        resources: document::Resources::default(),
        multicast: None,
        ports: Vec::new(),
    }
}

/// A written name that stands nowhere.
pub fn nowhere(name: &Name) -> At<Name> {
    At::new(name.clone(), Span::default())
}

/// Where objects are read from: the store, or a transaction that is being made.
pub trait ObjectSource {
    /// The objects whose keys start with `prefix`, in the order of keys.
    fn objects(&self, prefix: &[u8]) -> Result<Vec<(Key, v1::Object)>, StoreError>;
}

impl ObjectSource for Objects<'_> {
    fn objects(&self, prefix: &[u8]) -> Result<Vec<(Key, v1::Object)>, StoreError> {
        self.range(prefix)
    }
}

impl ObjectSource for Store {
    fn objects(&self, prefix: &[u8]) -> Result<Vec<(Key, v1::Object)>, StoreError> {
        let mut found = Vec::new();
        self.scan(prefix, |key, object| {
            found.push((key, object));
            true
        })?;
        Ok(found)
    }
}

/// The document that has nothing but one port.
pub fn port_document(port: document::Port) -> Document {
    Document { ports: vec![port], ..empty_document() }
}

impl State {
    /// Nothing.
    pub fn empty() -> Result<State, Mistakes> {
        let catalog = empty_document();
        Ok(State {
            names: Arc::new(names(&catalog, PortIds::default())?),
            catalog: Arc::new(catalog),
            ports: BTreeMap::new(),
            multicast: Vec::new(),
        })
    }

    /// The state that the objects of `source` ask for. A port of which something cannot be converted is broken: it is
    /// there, without policy, and what is wrong is among the mistakes.
    pub fn rebuild(source: &dyn ObjectSource, ids: PortIds) -> Result<(State, Mistakes), StoreError> {
        let mut mistakes = Mistakes::default();
        let of_kind = |kind: v1::Kind| source.objects(&[kind as u8]);
        let mut catalog = empty_document();
        // The order in which they were made keeps the numbers of those that stay.
        let mut resources = Vec::new();
        for kind in [
            v1::Kind::Mapping,
            v1::Kind::Targets,
            v1::Kind::Prefixes,
            v1::Kind::Meter,
            v1::Kind::Limit,
            v1::Kind::Leases,
            v1::Kind::Dns,
            v1::Kind::Metadata,
        ] {
            resources.extend(of_kind(kind)?);
        }
        for (key, object) in resources {
            let reference = key.reference();
            if let Err(error) = put_into_catalog(&mut catalog, &reference.name, &object) {
                mistakes.add(error, &reference, 0);
            }
        }
        let mut port_objects = Vec::new();
        let mut all_ids = ids;
        for (key, object) in of_kind(v1::Kind::Port)? {
            let name: Name = key.reference().name.as_str().into();
            all_ids.assign(&name);
            port_objects.push((key, name, object));
        }
        let names = match names(&catalog, all_ids.clone()) {
            Ok(names) => Arc::new(names),
            Err(error) => {
                mistakes.add(error, &v1::Ref::default(), 0);
                // No port can be restored without its resources; each stays closed.
                let empty = names_or_empty(all_ids);
                Arc::new(empty)
            }
        };
        let mut state =
            State { names, catalog: Arc::new(catalog), ports: BTreeMap::new(), multicast: Vec::new() };
        for (key, name, object) in port_objects {
            let reference = key.reference();
            match convert_port(&state.names, &name, &object) {
                Ok(port) => {
                    state.ports.insert(name, Arc::new(port));
                }
                Err(error) => mistakes.add(error, &reference, 0),
            }
        }
        for (key, object) in of_kind(v1::Kind::Layer)? {
            let reference = key.reference();
            let Some(port) = state.ports.get_mut(&*reference.port) else { continue };
            let port = Arc::make_mut(port);
            match restore_layer(source, &state.names, &key, &object) {
                Ok(layer) => {
                    port.layers.insert(reference.name.as_str().into(), Arc::new(layer));
                }
                Err(Failure::Store(error)) => return Err(error),
                Err(Failure::Mistakes(error)) => {
                    port.is_broken = true;
                    mistakes.add(error, &reference, 0);
                }
            }
        }
        for (_, object) in of_kind(v1::Kind::Multicast)? {
            if let Some(v1::object::Content::Multicast(multicast)) = object.content {
                state.multicast = multicast.ports.iter().map(|name| name.as_str().into()).collect();
            }
        }
        Ok((state, mistakes))
    }
}

fn names_or_empty(ids: PortIds) -> Names {
    // An empty catalog has nothing that could be wrong.
    Names::new(&empty_document(), ids).unwrap_or_else(|_| unreachable!("an empty catalog converts"))
}

/// What `catalog` and `ids` mean.
pub fn names(catalog: &Document, ids: PortIds) -> Result<Names, Mistakes> {
    Names::new(catalog, ids).map_err(|report| {
        let problems = report.diagnostics().iter().map(|diagnostic| {
            let help = diagnostic.help.clone().unwrap_or_default();
            mistake(diagnostic.code.name(), diagnostic.message.clone(), help)
        });
        Mistakes(problems.collect())
    })
}

/// Puts the resource or metadata key `object` called `name` into `catalog`, in the place of one of that name. The
/// entries of mapping tables are not part of it: they change while packets flow.
pub fn put_into_catalog(catalog: &mut Document, name: &str, object: &v1::Object) -> Result<(), Mistakes> {
    fn put<T>(list: &mut Vec<Arc<T>>, item: T, name: impl Fn(&T) -> &Name) {
        match list.iter_mut().find(|known| name(known) == name(&item)) {
            Some(known) => *known = Arc::new(item),
            None => list.push(Arc::new(item)),
        }
    }
    use v1::object::Content;
    let resources = &mut catalog.resources;
    match &object.content {
        Some(Content::Mapping(mapping)) => {
            let mapping = read::mapping(name, mapping)?.value;
            put(&mut resources.mappings, mapping, |item| &item.name.value);
        }
        Some(Content::Targets(targets)) => {
            put(&mut resources.targets, read::targets(name, targets)?.value, |item| &item.name.value);
        }
        Some(Content::Prefixes(prefixes)) => {
            put(&mut resources.prefixes, read::prefixes(name, prefixes)?.value, |item| &item.name.value);
        }
        Some(Content::Meter(meter)) => {
            put(&mut resources.meters, read::meter(name, meter)?.value, |item| &item.name.value);
        }
        Some(Content::Limit(limit)) => {
            put(&mut resources.limits, read::limit(name, limit)?.value, |item| &item.name.value);
        }
        Some(Content::Leases(table)) => {
            put(&mut resources.leases, read::leases(name, table)?.value, |item| &item.name.value);
        }
        Some(Content::Dns(table)) => {
            put(&mut resources.dns, read::dns(name, table)?.value, |item| &item.name.value);
        }
        Some(Content::Metadata(_)) => {
            let name = read::name(name)?;
            if !catalog.metadata.iter().any(|key| key.value == name) {
                catalog.metadata.push(nowhere(&name));
            }
        }
        _ => {
            return Err(
                mistake("missing-field", "the operation names no resource", "set one of `resource`").into()
            );
        }
    }
    Ok(())
}

/// The port that `object` asks for, without controllers' layers.
pub fn convert_port(names: &Names, name: &Name, object: &v1::Object) -> Result<PortState, Mistakes> {
    let Some(v1::object::Content::Port(port)) = &object.content else {
        return Err(mistake("missing-field", "the operation has no port", "set `port`").into());
    };
    let part = read::port(name, port)?;
    let document = port_document(part.value.clone());
    let converted = names
        .port(&document)
        .map_err(|report| Mistakes(part.problems(&report).into_iter().map(from_problem).collect()))?;
    let Some(converted) = converted else {
        return Err(mistake("missing-field", "the port has no MAC", "set `mac`").into());
    };
    Ok(PortState {
        id: converted.id,
        config: converted.config,
        malformed: converted.policy.malformed,
        generated: converted.policy.layers,
        layers: BTreeMap::new(),
        is_broken: false,
    })
}

/// A layer without groups.
pub fn convert_layer(names: &Names, owner: &Name, layer: &v1::Layer) -> Result<Layer, Mistakes> {
    let part = read::layer(layer)?;
    names
        .layer(&part.source, &part.value, owner.clone())
        .map_err(|report| Mistakes(part.problems(&report).into_iter().map(from_problem).collect()))
}

/// A group without rules, as written and as meant.
pub fn convert_group(
    names: &Names,
    direction: Direction,
    group: &v1::Group,
) -> Result<(Arc<document::Group>, Group), Mistakes> {
    let part = read::group(group)?;
    let converted = names
        .group(&part.source, direction, &part.value)
        .map_err(|report| Mistakes(part.problems(&report).into_iter().map(from_problem).collect()))?;
    match converted {
        Some(converted) => Ok((Arc::new(part.value), converted)),
        None => {
            Err(mistake("bad-value", "the group cannot be converted", "see its conditions and `match`")
                .into())
        }
    }
}

enum Failure {
    Store(StoreError),
    Mistakes(Mistakes),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Failure::Store(error)
    }
}

impl From<Mistakes> for Failure {
    fn from(mistakes: Mistakes) -> Self {
        Failure::Mistakes(mistakes)
    }
}

/// A group on its way back: its direction, its written head, its rules.
type Restored = (Direction, Arc<document::Group>, Vec<lamina_core::layer::Rule>);

/// The layer at `key` with everything in it.
fn restore_layer(
    source: &dyn ObjectSource,
    names: &Names,
    key: &Key,
    object: &v1::Object,
) -> Result<LayerState, Failure> {
    let Some(v1::object::Content::Layer(layer)) = &object.content else {
        return Err(StoreError::Object(key.clone()).into());
    };
    let owner: Name = object.owner.as_str().into();
    let mut state = LayerState { layer: convert_layer(names, &owner, layer)?, heads: Default::default() };
    let inside = key.inside();
    let [groups, rules] = &inside[..] else { return Ok(state) };
    let mut found = Mistakes::default();
    let mut places: BTreeMap<(bool, String), Restored> = BTreeMap::new();
    for (key, object) in source.objects(groups)? {
        let reference = key.reference();
        let (Some(direction), Some(v1::object::Content::Group(group))) =
            (key::direction(reference.direction), &object.content)
        else {
            return Err(StoreError::Object(key).into());
        };
        match convert_group(names, direction, group) {
            Ok((head, group)) => {
                state.heads_mut(direction).insert(group.name.clone(), head.clone());
                state.groups_mut(direction).push(group);
                let place = (direction == Direction::Inbound, reference.name);
                places.insert(place, (direction, head, Vec::new()));
            }
            Err(error) => found.add(error, &reference, 0),
        }
    }
    for (key, object) in source.objects(rules)? {
        let reference = key.reference();
        let direction = key::direction(reference.direction);
        let place = (direction == Some(Direction::Inbound), reference.group.clone());
        let Some((direction, head, rules)) = places.get_mut(&place) else { continue };
        let Some(v1::object::Content::Rule(rule)) = &object.content else {
            return Err(StoreError::Object(key).into());
        };
        match convert_rule(&names.rules_of(*direction, head), rule) {
            Ok(rule) => rules.push(rule),
            Err(error) => found.add(error, &reference, 0),
        }
    }
    for ((_, name), (direction, _, rules)) in places {
        let group = state.groups_mut(direction).iter_mut().find(|group| *group.name == *name);
        if let Some(group) = group {
            group.rules = lamina_core::layer::RuleList::new(rules);
        }
    }
    if found.is_empty() { Ok(state) } else { Err(found.into()) }
}

/// A rule of the group that `of` knows.
pub fn convert_rule(
    of: &crate::convert::pieces::RulesOf<'_>,
    rule: &v1::Rule,
) -> Result<lamina_core::layer::Rule, Mistakes> {
    let part = read::rule(rule)?;
    let converted = of
        .rule(&part.source, &part.value)
        .map_err(|report| Mistakes(part.problems(&report).into_iter().map(from_problem).collect()))?;
    converted.ok_or_else(|| mistake("bad-value", "the rule cannot be converted", "see its action").into())
}
