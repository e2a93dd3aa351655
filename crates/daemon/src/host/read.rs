//! What the workers know, read as if they were one: counters, statistics, traces.

use std::collections::BTreeMap;

use lamina_backend::Statistics;
use lamina_core::inspect::DropRow;
use lamina_core::packet::Packet;
use lamina_core::simulate::Trace;
use lamina_core::stats::PortCounters;
use lamina_core::switch::{Generation, PortId, UplinkConfig, UplinkCounters};

use super::{Host, HostError};

/// What a worker is at.
#[derive(Clone, Debug)]
pub struct WorkerReport {
    /// Its packet buffers that are in use.
    pub buffers_in_use: usize,
    /// The ports that live with it, and the generation of each.
    pub generations: Vec<(PortId, Generation)>,
}

impl WorkerReport {
    /// The generation that each port's worker runs.
    pub(crate) fn all_generations(reports: &[WorkerReport]) -> BTreeMap<PortId, u64> {
        let all = reports.iter().flat_map(|report| &report.generations);
        all.map(|(id, number)| (*id, number.0)).collect()
    }
}

impl Host {
    /// Everything that port `id` counts, cached hits included, exactly.
    pub fn counters(&self, id: PortId) -> Result<PortCounters, HostError> {
        self.call_owner(id, move |switch, _| switch.counters(id))?.ok_or(HostError::NoSuchPort(id))
    }

    /// What uplink `id` counts on all workers: one receives, but each counts what it sends there.
    pub fn uplink_counters(&self, id: PortId) -> Result<UplinkCounters, HostError> {
        let mut sum = UplinkCounters::default();
        for counters in self.broadcast(move |_, switch, _| switch.uplink_counters(id).cloned())? {
            let counters = counters.ok_or(HostError::NoSuchPort(id))?;
            sum.received.add(counters.received);
            sum.transmitted.add(counters.transmitted);
            sum.host.add(counters.host);
            sum.drops.add(&counters.drops);
        }
        Ok(sum)
    }

    /// How uplink `id` is configured.
    pub fn uplink_config(&self, id: PortId) -> Result<UplinkConfig, HostError> {
        let config = self.call_owner(id, move |switch, _| switch.uplink_config(id).cloned())?;
        config.ok_or(HostError::NoSuchPort(id))
    }

    /// What every worker is at, in their order.
    pub fn report(&self) -> Result<Vec<WorkerReport>, HostError> {
        self.broadcast(|_, switch, ports| WorkerReport {
            buffers_in_use: ports.buffers_in_use(),
            generations: switch.ports().filter_map(|(id, _)| Some((id, switch.generation(id)?))).collect(),
        })
    }

    /// Drops of packets for ports that do not exist or no longer do, of all workers.
    pub fn ownerless_drops(&self) -> Result<Vec<DropRow>, HostError> {
        let rows = self.broadcast(|_, switch, _| switch.drop_rows(None))?;
        Ok(rows.into_iter().flatten().flatten().collect())
    }

    /// Counters of the backend of `id`; `None` when it has none.
    pub fn statistics(&self, id: PortId) -> Result<Option<Statistics>, HostError> {
        self.call_owner(id, move |_, ports| ports.statistics(id))
    }

    /// Traces `packet` as if it were received on `from` now, through the ports of all workers.
    pub fn trace(&self, from: PortId, packet: &Packet) -> Result<Trace, HostError> {
        let (now, packet) = (self.now(), packet.clone());
        let trace = self.call_owner(from, move |switch, _| switch.trace_packet(now, from, &packet))?;
        let mut trace = trace.ok_or(HostError::NoSuchPort(from))?;
        self.go_on(&mut trace)?;
        Ok(trace)
    }

    /// Has other workers go on with a trace where it leaves a worker. A packet has only so many turns from port to
    /// port, so this ends.
    fn go_on(&self, trace: &mut Trace) -> Result<(), HostError> {
        for onward in std::mem::take(&mut trace.onward) {
            let now = self.now();
            let place = self.places().get(&onward.to).cloned();
            let asked = onward.clone();
            let next = match place {
                Some(place) => self.call(place.worker, move |switch, _| switch.trace_onward(now, &asked))?,
                None => None,
            };
            match next {
                Some(next) => trace.next.push(next),
                // The port is being removed.
                None => trace.onward.push(onward),
            }
        }
        trace.next.iter_mut().try_for_each(|next| self.go_on(next))
    }
}
