//! Removing objects, with everything in them.

use std::sync::Arc;

use lamina_api::wire::v1;
use lamina_core::layer::Name;
use lamina_core::resource::MappingChange;

use super::Draft;
use crate::control::key::{self, Key};
use crate::control::mapping;
use crate::control::mistake::mistake;
use crate::control::store::StoreError;

impl Draft<'_> {
    /// Takes an entry of a mapping table that the store does not have out of the live table, where it may be as a
    /// transient one. To who waits for it, this says that there is none.
    fn delete_unkept(&mut self, reference: &v1::Ref) -> Result<(), StoreError> {
        let Some(entry) =
            mapping::key_of(&reference.name).filter(|_| reference.kind() == v1::Kind::MappingEntry)
        else {
            return Ok(());
        };
        let table =
            v1::Ref { kind: v1::Kind::Mapping as i32, name: reference.mapping.clone(), ..v1::Ref::default() };
        let Some(key) = self.key(&table) else { return Ok(()) };
        if self.objects.get(&key)?.is_none() || self.doomed.contains(&key) {
            return Ok(());
        }
        if self.resource_rights(&key, &table)?.is_some() {
            let edit = self.outcome.mappings.entry(reference.mapping.as_str().into()).or_default();
            edit.changes.push(MappingChange::Remove(entry));
        }
        Ok(())
    }

    pub(super) fn delete(&mut self, delete: v1::Delete) -> Result<(), StoreError> {
        let reference = delete.r#ref.unwrap_or_default();
        let Some(key) = self.key(&reference) else { return Ok(()) };
        let Some(before) = self.objects.get(&key)?.filter(|_| !self.doomed.contains(&key)) else {
            if delete.must_exist {
                let message = format!("there is no {}", key::display(&reference));
                self.refuse(
                    &reference,
                    mistake(
                        "missing-object",
                        message,
                        "leave it out, or say `--if-exists` (of the API: clear `must_exist`)",
                    ),
                );
            } else {
                self.outcome.unchanged += 1;
                self.delete_unkept(&reference)?;
            }
            return Ok(());
        };
        let is_agent = reference.kind() == v1::Kind::MappingEntry && {
            let table = v1::Ref {
                kind: v1::Kind::Mapping as i32,
                name: reference.mapping.clone(),
                ..v1::Ref::default()
            };
            let table = Key::of(&table).ok().map(|key| self.objects.get(&key)).transpose()?.flatten();
            table.is_some_and(|table| table.agents.iter().any(|agent| **agent == *self.owner))
        };
        if before.owner != *self.owner && !is_agent {
            let mistake = self.not_owner(&reference, &before.owner);
            self.refuse(&reference, mistake);
            return Ok(());
        }
        self.doom_inside(&key)?;
        self.doomed.insert(key);
        match reference.kind() {
            v1::Kind::Port => {
                if let Some(gone) = self.state.ports.remove(&*reference.name) {
                    let name: Name = reference.name.as_str().into();
                    self.outcome.touched.remove(&name);
                    self.outcome.made.remove(&name);
                    self.outcome.reshaped.remove(&name);
                    self.state.multicast.retain(|other| *other != name);
                    self.edits.retain(|(port, ..), _| *port != name);
                    self.outcome.removed.push((name, gone.id));
                    // Conditions on the port as an ingress may name it no longer.
                    self.outcome.is_multicast_changed = true;
                }
            }
            v1::Kind::Layer => {
                if let Some(port) = self.state.ports.get_mut(&*reference.port) {
                    Arc::make_mut(port).layers.remove(&*reference.name);
                    self.outcome.touched.insert(reference.port.as_str().into());
                    self.edits.retain(|(port, layer, ..), _| {
                        **port != *reference.port || **layer != *reference.name
                    });
                }
            }
            v1::Kind::Group => {
                let direction = key::direction(reference.direction);
                if let (Some(state), Some(direction)) =
                    (self.layer_mut(&reference.port, &reference.layer), direction)
                {
                    state.groups_mut(direction).retain(|group| *group.name != *reference.name);
                    state.heads_mut(direction).remove(&*reference.name);
                    self.outcome.touched.insert(reference.port.as_str().into());
                    let place = (
                        reference.port.as_str().into(),
                        reference.layer.as_str().into(),
                        direction,
                        reference.name.as_str().into(),
                    );
                    self.edits.remove(&place);
                }
            }
            v1::Kind::Rule => {
                if let Some(direction) = key::direction(reference.direction) {
                    let place = (
                        reference.port.as_str().into(),
                        reference.layer.as_str().into(),
                        direction,
                        reference.group.as_str().into(),
                    );
                    self.outcome.touched.insert(reference.port.as_str().into());
                    let edit = self.edits.entry(place).or_default();
                    edit.put.retain(|rule| *rule.name != *reference.name);
                    edit.remove.push(reference.name.as_str().into());
                }
            }
            // What stays doomed is taken out of the live table at the end.
            v1::Kind::MappingEntry => {}
            v1::Kind::Multicast => {
                self.state.multicast.clear();
                self.outcome.is_multicast_changed = true;
            }
            v1::Kind::Mapping
            | v1::Kind::Targets
            | v1::Kind::Prefixes
            | v1::Kind::Meter
            | v1::Kind::Limit
            | v1::Kind::Leases
            | v1::Kind::Dns
            | v1::Kind::Metadata => {
                // Numbers of the others move: everything is converted anew, and what still names it is found.
                self.must_rebuild = true;
                if reference.kind() == v1::Kind::Mapping {
                    self.outcome.mappings.remove(&*reference.name);
                    self.outcome.removed_mappings.push(reference.name.as_str().into());
                }
            }
            v1::Kind::Unspecified => {}
        }
        Ok(())
    }
}
