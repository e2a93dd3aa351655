//! Ports, layers, groups and rules.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use lamina_api::wire::v1;
use lamina_core::address::MacAddr;
use lamina_core::flow::Direction;
use lamina_core::layer::{Name, Rule, RuleList};

use super::{Draft, GroupEdit, REBUILD_RULES, layer_reference, same_config};
use crate::control::key::{self, Key};
use crate::control::mistake::mistake;
use crate::control::rebuild;
use crate::control::state::{self, LayerState};
use crate::control::store::StoreError;

impl Draft<'_> {
    pub(super) fn put_port(&mut self, put: v1::PutPort) -> Result<(), StoreError> {
        let reference = v1::Ref { kind: v1::Kind::Port as i32, name: put.name.clone(), ..v1::Ref::default() };
        let Some(key) = self.key(&reference) else { return Ok(()) };
        let Some(port) = put.port else {
            self.refuse(&reference, mistake("missing-field", "the operation has no port", "set `port`"));
            return Ok(());
        };
        if !port.layers.is_empty() {
            let help = "put each layer by an operation of its own: it may belong to somebody else";
            self.refuse(&reference, mistake("wrong-form", "the port has layers in it", help));
            return Ok(());
        }
        let before = self.objects.get(&key)?;
        if let Some(before) = before.as_ref().filter(|before| before.owner != *self.owner) {
            let mistake = self.not_owner(&reference, &before.owner);
            self.refuse(&reference, mistake);
            return Ok(());
        }
        if before.is_none()
            && let Err(error) = self.rights.check_ports(&self.owner)
        {
            self.refuse(&reference, error);
            return Ok(());
        }
        let name: Name = put.name.as_str().into();
        if self.state.names.ids().id(&name).is_none() {
            let mut names = self.state.names.draft();
            names.assign(&name);
            self.state.names = Arc::new(names);
        }
        let content = v1::object::Content::Port(port);
        let object = v1::Object { content: Some(content.clone()), ..v1::Object::default() };
        let mut converted = match state::convert_port(&self.state.names, &name, &object) {
            Ok(converted) => converted,
            Err(error) => {
                self.refuse(&reference, error);
                return Ok(());
            }
        };
        let owner = self.owner.clone();
        if !self.record(&key, &owner, Vec::new(), content)? {
            return Ok(());
        }
        match self.state.ports.get(&name) {
            Some(known) => {
                converted.layers = known.layers.clone();
                if !same_config(&known.config, &converted.config) {
                    self.outcome.reshaped.insert(name.clone());
                }
            }
            None => {
                self.outcome.made.insert(name.clone());
            }
        }
        self.outcome.touched.insert(name.clone());
        self.put_ports.push((name.clone(), self.operation));
        self.state.ports.insert(name, Arc::new(converted));
        Ok(())
    }

    /// Refuses ports that were put and in the end have the MAC of another one. Two may exchange theirs.
    pub(super) fn check_macs(&mut self) {
        let put = std::mem::take(&mut self.put_ports);
        let names: BTreeSet<&Name> = put.iter().map(|(name, _)| name).collect();
        let others = self.state.ports.iter().filter(|(name, _)| !names.contains(name));
        let mut owners: HashMap<MacAddr, Name> =
            others.map(|(name, port)| (port.config.mac, name.clone())).collect();
        for (name, operation) in &put {
            let Some(port) = self.state.ports.get(name) else { continue };
            // Of two that were put the later one is in the wrong.
            let other = owners.entry(port.config.mac).or_insert_with(|| name.clone());
            if other == name {
                continue;
            }
            let message = format!("port `{other}` has the MAC {} already", port.config.mac);
            let help = "frames are forwarded by MAC: give every port its own";
            let reference =
                v1::Ref { kind: v1::Kind::Port as i32, name: name.to_string(), ..v1::Ref::default() };
            self.operation = *operation;
            self.refuse(&reference, mistake("duplicate", message, help));
        }
    }

    /// The owner of a layer that must exist and that the caller may change.
    pub(super) fn own_layer(
        &mut self,
        port: &str,
        layer: &str,
        reference: &v1::Ref,
    ) -> Result<bool, StoreError> {
        let place: (Name, Name) = (port.into(), layer.into());
        let owner = match self.layer_owners.get(&place) {
            Some(owner) => Some(owner.clone()),
            None => {
                let layer_reference = layer_reference(port, layer);
                let Some(key) = self.key(&layer_reference) else { return Ok(false) };
                let owner = self.objects.get(&key)?.map(|object| Name::from(object.owner));
                if let Some(owner) = &owner {
                    self.layer_owners.insert(place, owner.clone());
                }
                owner
            }
        };
        let is_doomed = self.doomed_layer(port, layer);
        match owner {
            Some(owner) if owner == self.owner && !is_doomed => Ok(true),
            Some(owner) if owner != self.owner => {
                let mistake = self.not_owner(&layer_reference(port, layer), &owner);
                self.refuse(reference, mistake);
                Ok(false)
            }
            _ => {
                let help = "put the layer first, in the same transaction or before";
                let message = format!("port `{port}` has no layer `{layer}`");
                self.refuse(reference, mistake("missing-object", message, help));
                Ok(false)
            }
        }
    }

    pub(super) fn doomed_layer(&self, port: &str, layer: &str) -> bool {
        Key::of(&layer_reference(port, layer)).is_ok_and(|key| self.doomed.contains(&key))
    }

    pub(super) fn layer_mut(&mut self, port: &str, layer: &str) -> Option<&mut LayerState> {
        let port = self.state.ports.get_mut(port)?;
        Arc::make_mut(port).layers.get_mut(layer).map(Arc::make_mut)
    }

    pub(super) fn put_layer(&mut self, put: v1::PutLayer) -> Result<(), StoreError> {
        let mut layer = put.layer.unwrap_or_default();
        let reference = layer_reference(&put.port, &layer.name);
        let Some(key) = self.key(&reference) else { return Ok(()) };
        let (inbound, outbound) = (std::mem::take(&mut layer.inbound), std::mem::take(&mut layer.outbound));
        if put.keep_groups && !(inbound.is_empty() && outbound.is_empty()) {
            let help = "leave `keep_groups` out, or put the groups by operations of their own";
            self.refuse(
                &reference,
                mistake("wrong-form", "the layer is to keep its groups and has groups", help),
            );
            return Ok(());
        }
        let (port, name): (Name, Name) = (put.port.as_str().into(), layer.name.as_str().into());
        if !self.state.ports.contains_key(&port) {
            let message = format!("there is no port `{port}`");
            self.refuse(
                &reference,
                mistake("missing-object", message, "put the port first, or watch for it"),
            );
            return Ok(());
        }
        let before = self.objects.get(&key)?;
        if let Some(before) = before.as_ref().filter(|before| before.owner != *self.owner) {
            let mistake = self.not_owner(&reference, &before.owner);
            self.refuse(&reference, mistake);
            return Ok(());
        }
        let generated =
            self.state.ports.get(&port).is_some_and(|port| port.generated.iter().any(|l| l.name == name));
        if generated {
            let message = format!("`{name}` is a layer that port `{port}` makes of its own properties");
            self.refuse(&reference, mistake("conflict", message, "call the layer otherwise"));
            return Ok(());
        }
        layer.owner.clear();
        let owner = self.owner.clone();
        let converted = match state::convert_layer(&self.state.names, &owner, &layer) {
            Ok(converted) => converted,
            Err(error) => {
                self.refuse(&reference, error);
                return Ok(());
            }
        };
        self.layer_owners.insert((port.clone(), name.clone()), owner.clone());
        self.record(&key, &owner, Vec::new(), v1::object::Content::Layer(layer))?;
        self.outcome.touched.insert(port.clone());
        let known = self.state.ports.get(&port).and_then(|port| port.layers.get(&name)).cloned();
        let mut new = LayerState { layer: converted, heads: Default::default() };
        if let Some(known) = known.filter(|_| put.keep_groups) {
            new.layer.inbound = known.layer.inbound.clone();
            new.layer.outbound = known.layer.outbound.clone();
            new.heads = known.heads.clone();
        } else {
            self.doom_inside(&key)?;
            self.edits.retain(|(other, layer, ..), _| *other != port || *layer != name);
        }
        if let Some(port) = self.state.ports.get_mut(&port) {
            Arc::make_mut(port).layers.insert(name.clone(), Arc::new(new));
        }
        for (direction, groups) in [(Direction::Inbound, inbound), (Direction::Outbound, outbound)] {
            for group in groups {
                self.put_group(v1::PutGroup {
                    port: port.to_string(),
                    layer: name.to_string(),
                    direction: key::written(direction) as i32,
                    group: Some(group),
                    keep_rules: false,
                })?;
            }
        }
        Ok(())
    }

    pub(super) fn put_group(&mut self, put: v1::PutGroup) -> Result<(), StoreError> {
        let mut group = put.group.unwrap_or_default();
        let reference = v1::Ref {
            kind: v1::Kind::Group as i32,
            port: put.port.clone(),
            layer: put.layer.clone(),
            direction: put.direction,
            name: group.group.clone(),
            ..v1::Ref::default()
        };
        let Some(key) = self.key(&reference) else { return Ok(()) };
        let Some(direction) = key::direction(put.direction) else { return Ok(()) };
        let rules = std::mem::take(&mut group.rules);
        if put.keep_rules && !rules.is_empty() {
            let help = "leave `keep_rules` out, or put the rules by operations of their own";
            self.refuse(
                &reference,
                mistake("wrong-form", "the group is to keep its rules and has rules", help),
            );
            return Ok(());
        }
        if !self.own_layer(&put.port, &put.layer, &reference)? {
            return Ok(());
        }
        let (head, mut converted) = match state::convert_group(&self.state.names, direction, &group) {
            Ok(converted) => converted,
            Err(error) => {
                self.refuse(&reference, error);
                return Ok(());
            }
        };
        let owner = self.owner.clone();
        let name: Name = group.group.as_str().into();
        let is_changed = self.record(&key, &owner, Vec::new(), v1::object::Content::Group(group))?;
        let (port, layer): (Name, Name) = (put.port.as_str().into(), put.layer.as_str().into());
        self.outcome.touched.insert(port.clone());
        let place = (port.clone(), layer.clone(), direction, name.clone());
        if !put.keep_rules {
            self.doom_inside(&key)?;
            self.edits.insert(place, GroupEdit { is_reset: true, ..GroupEdit::default() });
        }
        let Some(state) = self.layer_mut(&port, &layer) else { return Ok(()) };
        let known = state.groups(direction).iter().position(|group| group.name == name);
        state.heads_mut(direction).insert(name, head);
        match known {
            Some(at) => {
                let groups = state.groups_mut(direction);
                converted.rules = groups[at].rules.clone();
                groups[at] = converted;
                // Rules were converted against the old head.
                if put.keep_rules && is_changed {
                    self.must_rebuild = true;
                }
            }
            None => state.groups_mut(direction).push(converted),
        }
        if !rules.is_empty() {
            self.put_rules(v1::PutRules {
                port: put.port,
                layer: put.layer,
                direction: put.direction,
                group: reference.name,
                rules,
            })?;
        }
        Ok(())
    }

    pub(super) fn put_rules(&mut self, put: v1::PutRules) -> Result<(), StoreError> {
        let mut reference = v1::Ref {
            kind: v1::Kind::Group as i32,
            port: put.port.clone(),
            layer: put.layer.clone(),
            direction: put.direction,
            name: put.group.clone(),
            ..v1::Ref::default()
        };
        let Some(group_key) = self.key(&reference) else { return Ok(()) };
        let Some(direction) = key::direction(put.direction) else { return Ok(()) };
        if !self.own_layer(&put.port, &put.layer, &reference)? {
            return Ok(());
        }
        let layer = self.state.ports.get(&*put.port).and_then(|port| port.layers.get(&*put.layer));
        let head = layer.and_then(|layer| layer.head(direction, &put.group)).cloned();
        let Some(head) = head.filter(|_| !self.doomed.contains(&group_key)) else {
            let message = format!("layer `{}` has no {} group `{}`", put.layer, direction.name(), put.group);
            let help = "put the group first, in the same transaction or before";
            self.refuse(&reference, mistake("missing-object", message, help));
            return Ok(());
        };
        reference.kind = v1::Kind::Rule as i32;
        reference.group = std::mem::take(&mut reference.name);
        let names = self.state.names.clone();
        let of = names.rules_of(direction, &head);
        let owner = self.owner.clone();
        let mut converted = Vec::with_capacity(put.rules.len());
        for rule in put.rules {
            reference.name.clone_from(&rule.name);
            if self.mistakes.is_full() {
                break;
            }
            let Some(key) = self.key(&reference) else { continue };
            match state::convert_rule(&of, &rule) {
                Ok(meant) => {
                    self.gather(&key, &owner, v1::object::Content::Rule(rule));
                    converted.push(meant);
                }
                Err(error) => self.refuse(&reference, error),
            }
        }
        let port: Name = put.port.as_str().into();
        self.outcome.touched.insert(port.clone());
        let place = (port, put.layer.as_str().into(), direction, put.group.as_str().into());
        self.edits.entry(place).or_default().put.append(&mut converted);
        Ok(())
    }

    pub(super) fn put_gathered_rules(&mut self) {
        let mut due = Vec::new();
        for ((port, layer, direction, name), edit) in std::mem::take(&mut self.edits) {
            let Some(state) = self.layer_mut(&port, &layer) else { continue };
            let Some(group) = state.groups_mut(direction).iter_mut().find(|group| group.name == name) else {
                continue;
            };
            if !edit.is_reset && edit.put.len() + edit.remove.len() <= REBUILD_RULES {
                let removed = edit.remove.iter().fold(group.rules.clone(), |rules, name| rules.remove(name));
                group.rules = edit.put.into_iter().fold(removed, |rules, rule| rules.put(rule));
                if group.rules.should_rebuild() {
                    due.push(rebuild::Place { port, layer, direction, group: name });
                }
                continue;
            }
            let mut rules: HashMap<Name, Rule> = HashMap::with_capacity(edit.put.len());
            if !edit.is_reset {
                rules.extend(group.rules.iter().map(|rule| (rule.name.clone(), rule.clone())));
                edit.remove.iter().for_each(|name| drop(rules.remove(name)));
            }
            rules.extend(edit.put.into_iter().map(|rule| (rule.name.clone(), rule)));
            group.rules = RuleList::new(rules.into_values().collect());
        }
        self.outcome.due = due;
    }
}
