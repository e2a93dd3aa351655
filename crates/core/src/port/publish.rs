//! Publish: a new program takes the place of the old one, and what belongs to names stays with the names.
//!
//! Counters follow rule, group and meter names; layer flows follow layer names. What can be refused is refused
//! when the program is compiled; installing it cannot fail.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use hashbrown::HashMap;

use super::Port;
use super::counters::{MeterState, Retired};
use super::layer_flow::LayerFlowTable;
use crate::flow::Direction;
use crate::inspect::Full;
use crate::layer::{CompiledGroup, Group, Name, Program};
use crate::resource::{LiveMappings, MAX_MAPPINGS};
use crate::stats::Count;

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
    /// room ([`Port::check_install`]). Returns the program that ran before.
    pub(crate) fn install(&mut self, program: Arc<Program>, live: &mut LiveMappings) -> Option<Arc<Program>> {
        let (numbers, _) = live.bind(&program.resources.mappings);
        live.unbind(&core::mem::replace(&mut self.mappings, numbers));
        self.fold_all();
        let before = self.program.take();
        self.carry_rule_counts(before.as_deref(), &program);
        self.carry_meters(&program);
        self.carry_layer_tables(&program);
        self.program = Some(program);
        self.raise_generation();
        before
    }

    fn carry_rule_counts(&mut self, before: Option<&Program>, new: &Program) {
        let mut rules = alloc::vec![Count::default(); new.rule_slots];
        let mut retired = Vec::new();
        if let Some(old) = before {
            for layer in &new.layers {
                let Some(before) = old.layers.iter().find(|before| before.name == layer.name) else {
                    continue;
                };
                for direction in [Direction::Inbound, Direction::Outbound] {
                    let (side, side_before) = (layer.side(direction), before.side(direction));
                    rules[side.default_slot.rule_index()] =
                        self.rule_count(side_before.default_slot.rule_index());
                    for group in side.iter() {
                        let name = &group.0.name;
                        let Some(before) = side_before.iter().find(|before| before.0.name == *name) else {
                            continue;
                        };
                        let mut lost = self.carry_group(before, group, &mut rules);
                        let earlier = self.retired.iter().find(|retired| {
                            retired.layer == layer.name
                                && retired.direction == direction
                                && retired.group == *name
                        });
                        lost.add(earlier.map_or(Count::default(), |earlier| earlier.count));
                        if lost != Count::default() {
                            let (layer, group) = (layer.name.clone(), name.clone());
                            retired.push(Retired { layer, direction, group, count: lost });
                        }
                    }
                }
            }
        }
        self.counters.rules = rules;
        self.retired = retired;
    }

    /// Carries the counts of one group's rules by name; returns what belonged to rules that are gone.
    fn carry_group(
        &self,
        (before, compiled_before): (&Group, &CompiledGroup),
        (after, compiled): (&Group, &CompiledGroup),
        rules: &mut [Count],
    ) -> Count {
        let (first_before, first) = (compiled_before.first_slot, compiled.first_slot);
        if before.rules.is_same(&after.rules) {
            for i in 0..after.rules.len() {
                rules[first + i] = self.rule_count(first_before + i);
            }
            return Count::default();
        }
        let mut counts: HashMap<&Name, Count, crate::hash::TableHasher> = HashMap::default();
        for (i, rule) in before.rules.iter().enumerate() {
            counts.insert(&rule.name, self.rule_count(first_before + i));
        }
        for (i, rule) in after.rules.iter().enumerate() {
            rules[first + i] = counts.remove(&rule.name).unwrap_or_default();
        }
        let mut lost = Count::default();
        counts.values().for_each(|count| lost.add(*count));
        lost
    }

    fn rule_count(&self, slot: usize) -> Count {
        self.counters.rules.get(slot).copied().unwrap_or_default()
    }

    fn carry_meters(&mut self, new: &Program) {
        let mut before = core::mem::take(&mut self.meters);
        let cells_before = core::mem::take(&mut self.counters.cells);
        let mut cells = Vec::new();
        for spec in &new.resources.meters {
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
