//! Install: a new program takes the place of the old one, and what belongs to names stays with the names.
//!
//! Counters and tokens follow rule, group, meter and limit names; layer flows follow layer names. This runs between
//! packets, so it takes as long as what changed, not as long as what there is. What can be refused is refused before;
//! installing cannot fail.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use hashbrown::HashMap;

use super::Port;
use super::counters::MeterState;
use super::layer_flow::LayerFlowTable;
use crate::flow::Direction;
use crate::inspect::Full;
use crate::layer::{Name, Program};
use crate::resource::{LiveMappings, MAX_MAPPINGS, MappingChange};
use crate::stats::{Count, Slot};

impl Port {
    /// Why `program` cannot be installed now: a mapping table would not have room for what it declares.
    pub(crate) fn check_install(program: &Program, live: &LiveMappings) -> Result<(), String> {
        live.without_room(&program.resources.mappings).map_or(Ok(()), |table| {
            let name = &table.name;
            Err(format!(
                "mapping table {name}: with what was pushed live it would have more than {MAX_MAPPINGS} entries"
            ))
        })
    }

    /// Replaces the program, and changes of the live mapping tables what changed in their declaration; they must have
    /// room ([`Port::check_install`]). Returns the program that ran before, and the changes.
    ///
    /// Where `program` follows the one that runs, nothing is carried and nothing is folded: counts lie where they lay
    /// ([`crate::layer`]), tables are those of before.
    pub(crate) fn install(
        &mut self,
        program: Arc<Program>,
        live: &mut LiveMappings,
    ) -> (Option<Arc<Program>>, Vec<(u32, MappingChange)>) {
        let (numbers, changes) = live.bind(&program.resources.mappings);
        live.unbind(&core::mem::replace(&mut self.mappings, numbers));
        match &self.program {
            Some(before) if program.follows(before) => {
                self.counters.rules.grow(program.slots.bound);
                if let Some(retirement) = &program.retirement {
                    self.retiring.push_back((retirement.clone(), self.flows.walks));
                }
                self.policers.follow(&program);
            }
            _ => {
                self.policers.carry_own(self.program.as_deref(), &program);
                self.carry_rule_counts(&program);
            }
        }
        self.carry_meters(&program);
        self.policers.carry_shared(&program.resources.limits);
        self.carry_layer_tables(&program);
        let before = self.program.replace(program);
        self.raise_generation();
        (before, changes)
    }

    /// Carries counts by name, from a program of which `new` knows nothing.
    fn carry_rule_counts(&mut self, new: &Program) {
        self.fold_all();
        self.finish_retirements(u64::MAX);
        let before = core::mem::take(&mut self.counters.rules);
        let rules = &mut self.counters.rules;
        rules.grow(new.slots.bound);
        let mut carry = |slot: Slot, count: Count| {
            if let Some(entry) = rules.entry(slot) {
                entry.add(count);
            }
        };
        let Some(old) = &self.program else { return };
        for (place, layer) in new.layers.iter().enumerate() {
            let Some(old) = old.find(&layer.name, place) else { continue };
            for direction in [Direction::Inbound, Direction::Outbound] {
                let (side, old) = (layer.side(direction), old.side(direction));
                carry(side.default_slot, before.of(old.default_slot));
                for (place, (group, compiled)) in side.iter().enumerate() {
                    let Some((old, compiled_old)) = old.find(&group.name, place) else { continue };
                    let (slots, old_slots) = (&compiled.slots, &compiled_old.slots);
                    carry(slots.retired, before.of(old_slots.retired));
                    let mut now: HashMap<&Name, Slot, crate::hash::TableHasher> = HashMap::default();
                    now.extend(group.rules.places().map(|(place, rule)| (&rule.name, slots.of(place))));
                    for (place, rule) in old.rules.places() {
                        let heir = now.get(&rule.name).copied().unwrap_or(slots.retired);
                        carry(heir, before.of(old_slots.of(place)));
                    }
                }
            }
        }
    }

    fn carry_meters(&mut self, new: &Program) {
        let specs = &new.resources.meters;
        let is_same = specs.len() == self.meters.len()
            && specs.iter().zip(&self.meters).all(|(spec, meter)| spec.name == meter.name);
        if is_same {
            specs.iter().zip(&mut self.meters).for_each(|(spec, meter)| meter.limit = spec.limit);
            return;
        }
        // Cells get new numbers, which flows of before must not count by.
        self.fold_all();
        let mut before = core::mem::take(&mut self.meters);
        let cells_before = core::mem::take(&mut self.counters.cells);
        let mut cells = Vec::new();
        for spec in specs {
            let known =
                before.iter().position(|meter| meter.name == spec.name).map(|at| before.swap_remove(at));
            let mut meter = known.unwrap_or_else(|| MeterState {
                name: spec.name.clone(),
                limit: spec.limit,
                cells: HashMap::default(),
                other: u32::MAX,
                full: Full::default(),
            });
            meter.limit = spec.limit;
            let mut move_cell = |index: &mut u32| {
                cells.push(cells_before.get(*index as usize).copied().unwrap_or_default());
                *index = (cells.len() - 1) as u32;
            };
            meter.cells.values_mut().for_each(&mut move_cell);
            move_cell(&mut meter.other);
            self.meters.push(meter);
        }
        self.counters.cells = cells;
    }

    fn carry_layer_tables(&mut self, new: &Program) {
        let is_same = self.program.as_ref().is_some_and(|old| {
            let pairs = old.layers.iter().zip(&new.layers);
            old.layers.len() == new.layers.len() && pairs.into_iter().all(|(old, new)| old.name == new.name)
        });
        if is_same {
            return;
        }
        let keeps = |name: &Name| new.layers.iter().any(|layer| layer.name == *name);
        let gone: Vec<u32> = (0..self.layer_tables.len() as u32)
            .filter(|table| self.layer_table(*table).is_some_and(|flows| !keeps(&flows.name)))
            .collect();
        for table in gone {
            let pairs: Vec<(u32, u32)> = self
                .layer_table(table)
                .into_iter()
                .flat_map(|flows| flows.iter())
                .map(|(id, _)| (table, id))
                .collect();
            self.end_pairs(&pairs);
            self.layer_tables[table as usize] = None;
        }
        self.tables = Vec::with_capacity(new.layers.len());
        for layer in &new.layers {
            let known = self
                .layer_tables
                .iter()
                .position(|table| table.as_ref().is_some_and(|t| t.name == layer.name));
            let table = known.unwrap_or_else(|| {
                let table = LayerFlowTable::new(layer.name.clone(), self.hasher);
                match self.layer_tables.iter().position(|table| table.is_none()) {
                    Some(hole) => {
                        self.layer_tables[hole] = Some(table);
                        hole
                    }
                    None => {
                        self.layer_tables.push(Some(table));
                        self.layer_tables.len() - 1
                    }
                }
            });
            self.tables.push(table as u32);
        }
    }
}
