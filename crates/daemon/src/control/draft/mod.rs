//! A transaction that is being made: operations change a copy of the state and a transaction of the store together.
//!
//! Every operation is looked at, whatever the ones before said, so that a caller sees all mistakes at once; with one
//! mistake nothing of either copy is kept. What an operation replaces as a whole (the groups of a layer, the rules of a
//! group) is *doomed* first and saved again by the operations that put it, so that what did not change is not told as a
//! change. Rules are gathered by group and put into the group's list once, at the end.

mod delete;
mod policy;
mod resources;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use lamina_api::wire::v1;
use lamina_core::flow::Direction;
use lamina_core::layer::{Name, Rule};
use lamina_core::resource::{Mapping, MappingChange, MappingKey};
use lamina_core::switch::PortId;

use crate::control::batch::Batch;
use crate::control::key::{self, Key};
use crate::control::mapping;
use crate::control::mistake::{Mistakes, mistake};
use crate::control::rebuild;
use crate::control::rights::Rights;
use crate::control::state::{self, State};
use crate::control::store::{Objects, StoreError};

/// Rules changed in one group beyond which its list is made anew.
const REBUILD_RULES: usize = 64;

/// Objects from which on they are put in the order of their keys.
const BULK: usize = 8;

/// A group's place: port, layer, direction, name.
type Place = (Name, Name, Direction, Name);

/// What happens to the rules of one group.
#[derive(Default)]
struct GroupEdit {
    /// Those that were there are gone.
    is_reset: bool,
    put: Vec<Rule>,
    remove: Vec<Name>,
}

/// A transaction that is being made.
pub struct Draft<'w> {
    /// The state as it will be.
    pub state: State,
    objects: Objects<'w>,
    rights: &'w Rights,
    owner: Name,
    /// The revision that changed objects get.
    revision: u64,
    doomed: BTreeSet<Key>,
    /// Objects that are put before anybody looks for them,
    gathered: Batch,
    /// and their places among the changes.
    places: Vec<usize>,
    edits: HashMap<Place, GroupEdit>,
    /// Ports that were put, by which operation.
    put_ports: Vec<(Name, u32)>,
    /// Owners of layers that operations were about.
    layer_owners: HashMap<(Name, Name), Name>,
    /// The catalog has changed in this transaction,
    is_catalog_changed: bool,
    /// and since the names were made of it.
    are_names_stale: bool,
    must_rebuild: bool,
    operation: u32,
    /// What is wrong.
    pub mistakes: Mistakes,
    /// What the transaction comes to.
    pub outcome: Outcome,
}

/// What a transaction comes to.
#[derive(Default)]
pub struct Outcome {
    /// What changes, in the order of the operations.
    pub changes: Vec<v1::Change>,
    /// Objects made.
    pub created: u64,
    /// Objects changed.
    pub updated: u64,
    /// Objects removed.
    pub deleted: u64,
    /// Objects that are as they were asked to be.
    pub unchanged: u64,
    /// Ports whose policy changes, by name.
    pub touched: BTreeSet<Name>,
    /// Ports that are made.
    pub made: BTreeSet<Name>,
    /// Ports that stay and get another MAC, or other tenants, MTUs or sizes.
    pub reshaped: BTreeSet<Name>,
    /// Ports that are removed.
    pub removed: Vec<(Name, PortId)>,
    /// The multicast set changes.
    pub is_multicast_changed: bool,
    /// Entries of mapping tables that change.
    pub mappings: BTreeMap<Name, MappingEdit>,
    /// Mapping tables that are removed.
    pub removed_mappings: Vec<Name>,
    /// Groups whose rule lists should be made anew.
    pub due: Vec<rebuild::Place>,
}

impl Outcome {
    /// Whether giving the workers the former programs undoes all of it: nothing but layers, and what they name, changes.
    pub fn can_be_taken_back(&self) -> bool {
        self.made.is_empty()
            && self.reshaped.is_empty()
            && self.removed.is_empty()
            && self.mappings.is_empty()
            && self.removed_mappings.is_empty()
            && !self.is_multicast_changed
    }
}

/// What happens to the entries of one mapping table.
#[derive(Default)]
pub struct MappingEdit {
    /// The table has these entries and no others before the changes.
    pub replace: Option<Vec<(MappingKey, Mapping)>>,
    /// Changes, in order.
    pub changes: Vec<MappingChange>,
}

impl<'w> Draft<'w> {
    /// A transaction of `owner` on `objects`, from `state` on.
    pub fn new(state: State, objects: Objects<'w>, rights: &'w Rights, owner: Name, revision: u64) -> Self {
        Draft {
            state,
            objects,
            rights,
            owner,
            revision,
            doomed: BTreeSet::new(),
            gathered: Batch::default(),
            places: Vec::new(),
            edits: HashMap::new(),
            put_ports: Vec::new(),
            layer_owners: HashMap::new(),
            is_catalog_changed: false,
            are_names_stale: false,
            must_rebuild: false,
            operation: 0,
            mistakes: Mistakes::default(),
            outcome: Outcome::default(),
        }
    }

    /// Checks that the caller knows the objects' present revisions.
    pub fn expect(&mut self, expectations: &[v1::Expectation]) -> Result<(), StoreError> {
        for expectation in expectations {
            let reference = expectation.r#ref.clone().unwrap_or_default();
            match Key::of(&reference) {
                Ok(key) => {
                    let revision = self.objects.get(&key)?.map_or(0, |object| object.revision);
                    if revision != expectation.revision {
                        let message = format!(
                            "{} is at revision {revision}, not {}",
                            key::display(&reference),
                            expectation.revision
                        );
                        let help = "somebody changed it: read it again, and decide anew";
                        self.mistakes.add(mistake("changed", message, help).into(), &reference, 0);
                    }
                }
                Err(error) => self.mistakes.add(error, &reference, 0),
            }
        }
        Ok(())
    }

    /// Carries out one operation.
    pub fn operation(&mut self, number: u32, operation: v1::Operation) -> Result<(), StoreError> {
        use v1::operation::Operation;
        self.operation = number;
        let gathers = match &operation.operation {
            Some(Operation::PutMappingEntries(put)) => !put.replace,
            Some(Operation::PutRules(_)) => true,
            _ => false,
        };
        if !gathers {
            self.put_gathered_objects()?;
        }
        let reads_names = !matches!(
            operation.operation,
            Some(Operation::PutResource(_) | Operation::PutMetadata(_) | Operation::PutMappingEntries(_))
        );
        if reads_names {
            self.refresh_names();
        }
        match operation.operation {
            Some(Operation::PutPort(put)) => self.put_port(put),
            Some(Operation::PutLayer(put)) => self.put_layer(put),
            Some(Operation::PutGroup(put)) => self.put_group(put),
            Some(Operation::PutRules(put)) => self.put_rules(put),
            Some(Operation::PutResource(put)) => self.put_resource(put),
            Some(Operation::PutMappingEntries(put)) => self.put_entries(put),
            Some(Operation::PutMetadata(put)) => self.put_metadata(put),
            Some(Operation::PutMulticast(put)) => self.put_multicast(put),
            Some(Operation::Delete(delete)) => self.delete(delete),
            None => {
                let help = "set one of the fields of `Operation`; a newer client may know one that this build does not";
                self.refuse(&v1::Ref::default(), mistake("missing-field", "the operation is empty", help));
                Ok(())
            }
        }
    }

    fn catalog_changed(&mut self) {
        self.is_catalog_changed = true;
        self.are_names_stale = true;
    }

    /// Has names mean what the catalog now says. The numbers of those that were there stay.
    fn refresh_names(&mut self) {
        if !std::mem::take(&mut self.are_names_stale) {
            return;
        }
        match state::names(&self.state.catalog, self.state.names.ids().clone()) {
            Ok(names) => self.state.names = Arc::new(names),
            Err(error) => self.mistakes.add(error, &v1::Ref::default(), self.operation),
        }
    }

    fn refuse(&mut self, reference: &v1::Ref, mistakes: impl Into<Mistakes>) {
        self.mistakes.add(mistakes.into(), reference, self.operation);
    }

    /// The key of `reference`; a mistake where there is none.
    fn key(&mut self, reference: &v1::Ref) -> Option<Key> {
        Key::of(reference).map_err(|error| self.refuse(reference, error)).ok()
    }

    /// Keeps `content` at `key`, unless it is there already. True when that changes something.
    fn record(
        &mut self,
        key: &Key,
        owner: &Name,
        agents: Vec<String>,
        content: v1::object::Content,
    ) -> Result<bool, StoreError> {
        let before = self.objects.get(key)?;
        self.doomed.remove(key);
        let object = v1::Object {
            r#ref: None,
            owner: owner.to_string(),
            revision: self.revision,
            agents,
            content: Some(content),
        };
        let kind = match before {
            Some(before) if is_same(&before, &object) => {
                self.outcome.unchanged += 1;
                return Ok(false);
            }
            Some(_) => v1::ChangeKind::Updated,
            None => v1::ChangeKind::Created,
        };
        self.objects.put(key, &object)?;
        self.change(kind, key, object);
        Ok(true)
    }

    /// Keeps `content` at `key` with what the next operations of the kind bring. Nothing may look for it before
    /// [`Draft::put_gathered_objects`].
    fn gather(&mut self, key: &Key, owner: &Name, content: v1::object::Content) {
        let mut object = v1::Object {
            r#ref: None,
            owner: owner.to_string(),
            revision: self.revision,
            agents: Vec::new(),
            content: Some(content),
        };
        self.gathered.add(key, &object);
        object.r#ref = Some(key.reference());
        // It has its place among the changes now; whether it is one turns out later.
        self.places.push(self.outcome.changes.len());
        let kind = v1::ChangeKind::Created as i32;
        self.outcome.changes.push(v1::Change { kind, object: Some(object), revision: self.revision });
    }

    /// Keeps what was gathered. Many that are new are put in the order of their keys, which takes a fraction of the time.
    fn put_gathered_objects(&mut self) -> Result<(), StoreError> {
        let (batch, places) = (std::mem::take(&mut self.gathered), std::mem::take(&mut self.places));
        let is_new = match batch.len() {
            0..BULK => vec![false; batch.len()],
            _ => self.objects.put_new(&batch)?,
        };
        let mut unchanged = Vec::new();
        for (number, (place, is_new)) in places.into_iter().zip(is_new).enumerate() {
            if is_new {
                self.outcome.created += 1;
                continue;
            }
            let key = Key::from_bytes(batch.key(number));
            self.doomed.remove(&key);
            let change = &mut self.outcome.changes[place];
            let before = self.objects.get(&key)?;
            match (before, &change.object) {
                (Some(before), Some(object)) if is_same(&before, object) => {
                    self.outcome.unchanged += 1;
                    unchanged.push(place);
                    continue;
                }
                (Some(_), _) => {
                    change.kind = v1::ChangeKind::Updated as i32;
                    self.outcome.updated += 1;
                }
                (None, _) => self.outcome.created += 1,
            }
            self.objects.put_of(&batch, number)?;
        }
        if !unchanged.is_empty() {
            // Both ascend.
            let (mut place, mut unchanged) = (0, unchanged.into_iter().peekable());
            self.outcome.changes.retain(|_| {
                place += 1;
                unchanged.next_if_eq(&(place - 1)).is_none()
            });
        }
        Ok(())
    }

    fn change(&mut self, kind: v1::ChangeKind, key: &Key, mut object: v1::Object) {
        match kind {
            v1::ChangeKind::Created => self.outcome.created += 1,
            v1::ChangeKind::Deleted => self.outcome.deleted += 1,
            _ => self.outcome.updated += 1,
        }
        object.r#ref = Some(key.reference());
        let change = v1::Change { kind: kind as i32, object: Some(object), revision: self.revision };
        self.outcome.changes.push(change);
    }

    /// Dooms everything that is in the object at `key`.
    fn doom_inside(&mut self, key: &Key) -> Result<(), StoreError> {
        self.put_gathered_objects()?;
        for prefix in key.inside() {
            self.doomed.extend(self.objects.keys(&prefix)?);
        }
        Ok(())
    }

    fn not_owner(&self, what: &v1::Ref, owner: &str) -> v1::Mistake {
        mistake(
            "not-owner",
            format!("{} belongs to `{owner}`, not to `{}`", key::display(what), self.owner),
            format!(
                "only `{owner}` changes it: act as it (`--as {owner}`) if you may be it, or use a name of your own"
            ),
        )
    }

    /// Ends the operations: removes what stayed doomed, puts the gathered rules into their groups, and converts what
    /// depends on changed resources. Afterwards `mistakes` is final.
    pub fn finish(&mut self) -> Result<(), StoreError> {
        self.put_gathered_objects()?;
        for key in std::mem::take(&mut self.doomed) {
            if let Some(object) = self.objects.get(&key)? {
                self.objects.remove(&key)?;
                if let Some(v1::object::Content::MappingEntry(entry)) = &object.content
                    && let Ok((entry, _)) = mapping::read(entry)
                {
                    let table: Name = key.reference().mapping.into();
                    if !self.outcome.removed_mappings.contains(&table) {
                        let edit = self.outcome.mappings.entry(table).or_default();
                        if edit.replace.is_none() {
                            edit.changes.push(MappingChange::Remove(entry));
                        }
                    }
                }
                self.change(v1::ChangeKind::Deleted, &key, object);
            }
        }
        self.put_gathered_rules();
        self.check_macs();
        if !self.mistakes.is_empty() {
            return Ok(());
        }
        if self.must_rebuild {
            return self.rebuild();
        }
        self.refresh_names();
        if self.is_catalog_changed {
            self.outcome.touched.extend(self.state.ports.keys().cloned());
        }
        Ok(())
    }

    /// Converts everything anew from the objects.
    fn rebuild(&mut self) -> Result<(), StoreError> {
        let (state, mistakes) = State::rebuild(&self.objects, self.state.names.ids().clone())?;
        if !mistakes.is_empty() {
            for mistake in mistakes.0 {
                let reference = mistake.r#ref.clone().unwrap_or_default();
                self.mistakes.add(mistake.into(), &reference, self.operation);
            }
            return Ok(());
        }
        self.outcome.touched.extend(state.ports.keys().cloned());
        self.state = state;
        Ok(())
    }
}

/// True when both say the same, whoever put them when.
fn is_same(a: &v1::Object, b: &v1::Object) -> bool {
    a.content == b.content && a.owner == b.owner && a.agents == b.agents
}

fn layer_reference(port: &str, layer: &str) -> v1::Ref {
    v1::Ref { kind: v1::Kind::Layer as i32, port: port.into(), name: layer.into(), ..v1::Ref::default() }
}

fn same_config(a: &lamina_core::switch::PortConfig, b: &lamina_core::switch::PortConfig) -> bool {
    (a.mac, &a.tenants, a.mtu, a.limits) == (b.mac, &b.tenants, b.mtu, b.limits)
}
