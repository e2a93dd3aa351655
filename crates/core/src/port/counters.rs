//! A port's counters: where a plan is counted, folding, and the snapshot (§5.6).

use alloc::boxed::Box;
use alloc::vec::Vec;

use hashbrown::HashMap;

use super::Port;
use super::resolve::Resolution;
use crate::flow::{Direction, Value};
use crate::inspect::Full;
use crate::layer::Name;
use crate::stats::{Count, GroupCounters, LayerCounters, MeterCounters, PortCounters, Slot};

pub(super) type CellKey = Box<[Option<Value>]>;

/// A meter's cells. The counts lie in the port's counter table.
#[derive(Debug)]
pub(super) struct MeterState {
    pub(super) name: Name,
    pub(super) limit: usize,
    pub(super) cells: HashMap<CellKey, u32, crate::hash::TableHasher>,
    /// The cell of keys that found the table full.
    pub(super) other: u32,
    /// How often that was so: slow paths, not packets.
    pub(super) full: Full,
}

impl Port {
    /// Where a packet with this plan is counted: its rules and its meter cells, made where the key is new.
    pub(super) fn slots(&mut self, plan: &Resolution) -> Box<[Slot]> {
        let mut slots = plan.slots.clone();
        for (meter, key) in &plan.meters {
            let Some(state) = self.meters.get_mut(meter.0 as usize) else { continue };
            let cells = &mut self.counters.cells;
            let cell = match state.cells.get(key) {
                Some(cell) => *cell,
                None if state.cells.len() >= state.limit => {
                    state.full.note(plan.now);
                    state.other
                }
                None => {
                    cells.push(Count::default());
                    let cell = (cells.len() - 1) as u32;
                    state.cells.insert(key.clone(), cell);
                    cell
                }
            };
            slots.push(Slot::meter_cell(cell as usize));
        }
        slots.into_boxed_slice()
    }

    /// Adds what unified flow `id` has counted to everything on its path.
    pub(super) fn fold(&mut self, id: u32) {
        let count = self.flows.take_count(id);
        if count == Count::default() {
            return;
        }
        let Some(answer) = self.flows.get(id).map(|flow| flow.basis.answer) else { return };
        if let Some(answer) = self.answers.get(answer) {
            for slot in &answer.slots {
                self.counters.add(*slot, count);
            }
        }
    }

    /// Folds every unified flow.
    pub(super) fn fold_all(&mut self) {
        (0..self.flows.bound()).for_each(|id| self.fold(id));
    }

    /// Moves counts of rules that are gone to where their groups keep them, and lets go of the slots: of those that
    /// were gone before the last full walk of `walks` around the flow table. Flows of older generations, the only
    /// ones that may have had packets to add, were folded in it.
    pub(super) fn finish_retirements(&mut self, walks: u64) {
        while self.retiring.front().is_some_and(|(_, begun)| begun + 2 <= walks) {
            let Some((retirement, _)) = self.retiring.pop_front() else { return };
            let rules = &mut self.counters.rules;
            for (slot, heir) in retirement.slots.iter() {
                let count = rules.entry(*slot).map_or(Count::default(), Count::take);
                if let Some(heir) = heir.and_then(|heir| rules.entry(heir)) {
                    heir.add(count);
                }
            }
        }
    }

    /// Everything the port counts, exactly, cached hits included.
    pub(crate) fn read_counters(&mut self) -> PortCounters {
        self.fold_all();
        self.finish_retirements(u64::MAX);
        let mut flows = self.flow_counters;
        flows.unified = self.flows.len();
        flows.conversations = self.conversations.len();
        let mut counters = PortCounters {
            outbound: self.outbound,
            inbound: self.inbound,
            drops: self.drops.clone(),
            layers: Vec::new(),
            meters: Vec::new(),
            flows,
        };
        let Some(program) = &self.program else { return counters };
        let rules = &self.counters.rules;
        for (index, layer) in program.layers.iter().enumerate() {
            let mut groups = Vec::new();
            for direction in [Direction::Inbound, Direction::Outbound] {
                for (group, compiled) in layer.side(direction).iter() {
                    let slots = &compiled.slots;
                    let named = group
                        .rules
                        .places()
                        .map(|(place, rule)| (rule.name.clone(), rules.of(slots.of(place))));
                    groups.push(GroupCounters {
                        name: group.name.clone(),
                        direction,
                        rules: named.collect(),
                        retired: rules.of(slots.retired),
                    });
                }
            }
            let table = self.tables.get(index).and_then(|table| self.layer_table(*table));
            counters.layers.push(LayerCounters {
                name: layer.name.clone(),
                default_inbound: rules.of(layer.inbound.default_slot),
                default_outbound: rules.of(layer.outbound.default_slot),
                groups,
                layer_flows: table.map_or(0, |table| table.len()),
            });
        }
        for meter in &self.meters {
            let cell = |index: u32| self.counters.cells.get(index as usize).copied().unwrap_or_default();
            let mut cells: Vec<_> =
                meter.cells.iter().map(|(key, index)| (key.to_vec(), cell(*index))).collect();
            cells.sort_by(|a, b| a.0.cmp(&b.0));
            counters.meters.push(MeterCounters { name: meter.name.clone(), cells, other: cell(meter.other) });
        }
        counters
    }
}
