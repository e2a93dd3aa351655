//! Resources, metadata keys, entries of mapping tables, the multicast set.

use std::sync::Arc;

use lamina_api::wire::v1;
use lamina_core::layer::Name;
use lamina_core::resource::MappingChange;

use super::Draft;
use crate::control::key::Key;
use crate::control::mapping;
use crate::control::mistake::mistake;
use crate::control::state;
use crate::control::store::StoreError;

impl Draft<'_> {
    /// The resource's owner and agents when it exists; a mistake, and `Err`, when the caller may not change it.
    pub(super) fn resource_rights(
        &mut self,
        key: &Key,
        reference: &v1::Ref,
    ) -> Result<Option<(Name, Vec<String>)>, StoreError> {
        let Some(before) = self.objects.get(key)? else {
            return Ok(Some((self.owner.clone(), Vec::new())));
        };
        let is_agent = before.agents.iter().any(|agent| **agent == *self.owner);
        if before.owner == *self.owner || is_agent {
            return Ok(Some((before.owner.into(), before.agents)));
        }
        let mistake = self.not_owner(reference, &before.owner);
        self.refuse(reference, mistake);
        Ok(None)
    }

    pub(super) fn put_resource(&mut self, put: v1::PutResource) -> Result<(), StoreError> {
        use v1::object::Content;
        use v1::put_resource::Resource;
        let (kind, content) = match put.resource {
            Some(Resource::Mapping(mapping)) => (v1::Kind::Mapping, Content::Mapping(mapping)),
            Some(Resource::Targets(targets)) => (v1::Kind::Targets, Content::Targets(targets)),
            Some(Resource::Prefixes(prefixes)) => (v1::Kind::Prefixes, Content::Prefixes(prefixes)),
            Some(Resource::Meter(meter)) => (v1::Kind::Meter, Content::Meter(meter)),
            Some(Resource::Limit(limit)) => (v1::Kind::Limit, Content::Limit(limit)),
            Some(Resource::Leases(table)) => (v1::Kind::Leases, Content::Leases(table)),
            Some(Resource::Dns(table)) => (v1::Kind::Dns, Content::Dns(table)),
            None => {
                let help = "set one of the fields of `resource`";
                self.refuse(
                    &v1::Ref::default(),
                    mistake("missing-field", "the operation has no resource", help),
                );
                return Ok(());
            }
        };
        let reference = v1::Ref { kind: kind as i32, name: put.name.clone(), ..v1::Ref::default() };
        let Some(key) = self.key(&reference) else { return Ok(()) };
        let Some((owner, agents)) = self.resource_rights(&key, &reference)? else { return Ok(()) };
        // Agents change what is in it, the owner also who they are.
        let agents = if owner == self.owner { put.agents } else { agents };
        let (content, entries) = match content {
            Content::Mapping(mut mapping) => {
                let entries = std::mem::take(&mut mapping.entries);
                (Content::Mapping(mapping), Some(entries))
            }
            other => (other, None),
        };
        let object = v1::Object { content: Some(content.clone()), ..v1::Object::default() };
        let catalog = Arc::make_mut(&mut self.state.catalog);
        if let Err(error) = state::put_into_catalog(catalog, &put.name, &object) {
            self.refuse(&reference, error);
            return Ok(());
        }
        if self.record(&key, &owner, agents, content)? {
            self.catalog_changed();
        }
        if kind == v1::Kind::Mapping {
            self.outcome.mappings.entry(put.name.as_str().into()).or_default();
        }
        match entries {
            Some(entries) if !put.keep_entries => self.put_entries(v1::PutMappingEntries {
                mapping: put.name,
                entries,
                replace: true,
                transient: false,
            }),
            Some(entries) if !entries.is_empty() => {
                let help = "leave `keep_entries` out, or put the entries by operations of their own";
                let message = "the table is to keep its entries and has entries";
                self.refuse(&reference, mistake("wrong-form", message, help));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn put_entries(&mut self, put: v1::PutMappingEntries) -> Result<(), StoreError> {
        let reference =
            v1::Ref { kind: v1::Kind::Mapping as i32, name: put.mapping.clone(), ..v1::Ref::default() };
        let Some(key) = self.key(&reference) else { return Ok(()) };
        if self.objects.get(&key)?.is_none() || self.doomed.contains(&key) {
            let message = format!("there is no mapping table `{}`", put.mapping);
            self.refuse(&reference, mistake("missing-object", message, "put the table first"));
            return Ok(());
        }
        let Some((owner, _)) = self.resource_rights(&key, &reference)? else { return Ok(()) };
        let table: Name = put.mapping.as_str().into();
        if put.replace {
            let edit = self.outcome.mappings.entry(table.clone()).or_default();
            if edit.replace.is_none() {
                edit.replace = Some(Vec::with_capacity(put.entries.len()));
                edit.changes.clear();
                self.doom_inside(&key)?;
            }
        }
        let mut read = Vec::with_capacity(put.entries.len());
        if !put.transient {
            self.outcome.changes.reserve(put.entries.len());
        }
        for entry in put.entries {
            let meant = match mapping::read(&entry) {
                Ok(meant) => meant,
                Err(error) => {
                    self.refuse(&reference, error);
                    if self.mistakes.is_full() {
                        break;
                    }
                    continue;
                }
            };
            if put.transient {
                self.outcome.updated += 1;
            } else {
                let key = Key::of_entry(&put.mapping, &meant.0);
                self.gather(&key, &owner, v1::object::Content::MappingEntry(entry));
            }
            read.push(meant);
        }
        if read.is_empty() {
            return Ok(());
        }
        let edit = self.outcome.mappings.entry(table).or_default();
        match &mut edit.replace {
            Some(entries) if put.replace => entries.append(&mut read),
            _ => {
                let put = |(key, mapping)| MappingChange::Put(key, mapping);
                edit.changes.extend(read.into_iter().map(put));
            }
        }
        Ok(())
    }

    pub(super) fn put_metadata(&mut self, put: v1::PutMetadata) -> Result<(), StoreError> {
        let reference =
            v1::Ref { kind: v1::Kind::Metadata as i32, name: put.name.clone(), ..v1::Ref::default() };
        let Some(key) = self.key(&reference) else { return Ok(()) };
        let Some((owner, agents)) = self.resource_rights(&key, &reference)? else { return Ok(()) };
        let agents = if owner == self.owner { put.agents } else { agents };
        let content = v1::object::Content::Metadata(v1::Nothing {});
        let object = v1::Object { content: Some(content.clone()), ..v1::Object::default() };
        let catalog = Arc::make_mut(&mut self.state.catalog);
        if let Err(error) = state::put_into_catalog(catalog, &put.name, &object) {
            self.refuse(&reference, error);
            return Ok(());
        }
        if self.record(&key, &owner, agents, content)? {
            self.catalog_changed();
        }
        Ok(())
    }

    pub(super) fn put_multicast(&mut self, put: v1::Multicast) -> Result<(), StoreError> {
        let reference = v1::Ref { kind: v1::Kind::Multicast as i32, ..v1::Ref::default() };
        let Some(key) = self.key(&reference) else { return Ok(()) };
        let before = self.objects.get(&key)?;
        if let Some(before) = before.filter(|before| before.owner != *self.owner) {
            let mistake = self.not_owner(&reference, &before.owner);
            self.refuse(&reference, mistake);
            return Ok(());
        }
        for name in &put.ports {
            if !self.state.ports.contains_key(name.as_str()) {
                let message = format!("there is no port `{name}`");
                self.refuse(&reference, mistake("missing-object", message, "put the port first"));
            }
        }
        let owner = self.owner.clone();
        self.state.multicast = put.ports.iter().map(|name| name.as_str().into()).collect();
        if self.record(&key, &owner, Vec::new(), v1::object::Content::Multicast(put))? {
            self.outcome.is_multicast_changed = true;
        }
        Ok(())
    }
}
