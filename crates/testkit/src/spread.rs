//! Ports spread over several switches, as over the workers of a host: what one hands over another accepts at once.
//!
//! It has the methods of a switch that tests use, so that what is true of one switch is tested of several.

use lamina_core::event::Interests;
use lamina_core::flow::Direction;
use lamina_core::inspect::{
    CaptureError, CaptureId, CaptureSink, CaptureSpec, ClearPage, DropRow, DropSummary, FlowCursor,
    FlowFilter, FlowPage, RECENT_DROPS,
};
use lamina_core::layer::Policy;
use lamina_core::packet::Batch;
use lamina_core::resource::{LiveMapping, MappingChange, MappingError, MappingTable};
use lamina_core::stats::{DropCounters, PortCounters};
use lamina_core::switch::{
    AddPortError, InjectError, LayerFlowInfo, Output, PortConfig, PortId, PublishError, Switch, SwitchConfig,
    Through, Underlay, UplinkConfig,
};
use lamina_core::time::Instant;

/// Several switches that know each other's ports.
#[derive(Debug)]
pub struct Spread {
    switches: Vec<Switch>,
    /// The switch of each port and uplink.
    places: Vec<(PortId, usize)>,
    /// Packets that were handed over.
    pub handed_over: u64,
}

impl Spread {
    /// `count` switches without ports.
    pub fn new(count: usize, config: SwitchConfig) -> Self {
        let switches = (0..count.max(1)).map(|_| Switch::new(config)).collect();
        Spread { switches, places: Vec::new(), handed_over: 0 }
    }

    /// Adds a port to the switch `place`, counted round.
    pub fn add_port(&mut self, id: PortId, config: PortConfig, place: usize) -> Result<(), AddPortError> {
        let place = place % self.switches.len();
        for (number, switch) in self.switches.iter_mut().enumerate() {
            if number == place {
                switch.add_port(id, config.clone())?;
            } else {
                switch.add_remote_port(id, &config)?;
            }
        }
        self.places.push((id, place));
        Ok(())
    }

    /// Adds an uplink that the switch `place` receives from, counted round.
    pub fn add_uplink(&mut self, id: PortId, config: UplinkConfig, place: usize) -> Result<(), AddPortError> {
        self.switches.iter_mut().try_for_each(|switch| switch.add_uplink(id, config.clone()))?;
        self.places.push((id, place % self.switches.len()));
        Ok(())
    }

    /// The switch that has `id`.
    fn owner(&mut self, id: PortId) -> &mut Switch {
        let place = self.place(id);
        &mut self.switches[place]
    }

    fn place(&self, id: PortId) -> usize {
        self.places.iter().find(|(known, _)| *known == id).map_or(0, |(_, place)| *place)
    }

    /// As [`Switch::set_multicast`], on all.
    pub fn set_multicast(&mut self, ports: &[PortId]) {
        self.switches.iter_mut().for_each(|switch| switch.set_multicast(ports.to_vec()));
    }

    /// As [`Switch::set_underlay`], on all.
    pub fn set_underlay(&mut self, underlay: &Underlay) {
        self.switches.iter_mut().for_each(|switch| switch.set_underlay(underlay.clone()));
    }

    /// As [`Switch::publish`], on the port's.
    pub fn publish(&mut self, id: PortId, policy: Policy) -> Result<(), PublishError> {
        self.owner(id).publish(id, policy).map(|_| ())
    }

    /// As [`Switch::mapping`], of the first switch.
    pub fn mapping(&self, name: &str) -> Option<&LiveMapping> {
        self.switches[0].mapping(name)
    }

    /// As [`Switch::update_mapping`], on all.
    pub fn update_mapping(&mut self, name: &str, changes: &[MappingChange]) -> Result<(), MappingError> {
        self.switches.iter_mut().try_for_each(|switch| switch.update_mapping(name, changes).map(|_| ()))
    }

    /// As [`Switch::replace_mapping`], on all.
    pub fn replace_mapping(&mut self, content: &MappingTable) -> Result<(), MappingError> {
        self.switches.iter_mut().try_for_each(|switch| switch.replace_mapping(content).map(|_| ()))
    }

    /// As [`Switch::set_interests`], on all.
    pub fn set_interests(&mut self, interests: &Interests) {
        self.switches.iter_mut().for_each(|switch| switch.set_interests(interests.clone()));
    }

    /// As [`Switch::inject`], of the port's, and what comes of it at once; nothing is left in [`Output::elsewhere`].
    pub fn inject(
        &mut self,
        now: Instant,
        (id, direction): (PortId, Direction),
        through: Through,
        frame: &[u8],
        output: &mut Output,
    ) -> Result<(), InjectError> {
        let owner = self.owner(id);
        owner.inject(id, direction, through, frame)?;
        owner.resume(now, output);
        self.pass_on(now, output);
        Ok(())
    }

    /// As [`Switch::sweep`], on all.
    pub fn sweep(&mut self, now: Instant) {
        self.switches.iter_mut().for_each(|switch| switch.sweep(now));
    }

    /// As [`Switch::receive`]; nothing is left in [`Output::elsewhere`].
    pub fn receive(&mut self, now: Instant, from: PortId, batch: &mut Batch, output: &mut Output) {
        self.owner(from).receive(now, from, batch, output);
        self.pass_on(now, output);
    }

    fn pass_on(&mut self, now: Instant, output: &mut Output) {
        while !output.elsewhere.is_empty() {
            for handover in std::mem::take(&mut output.elsewhere) {
                self.handed_over += 1;
                self.owner(handover.to).accept(now, &mut vec![handover], output);
            }
        }
    }

    /// As [`Switch::counters`], of the port's.
    pub fn counters(&mut self, id: PortId) -> Option<PortCounters> {
        self.owner(id).counters(id)
    }

    /// Drops that port or uplink `id` counts, on all switches.
    pub fn drops(&self, id: PortId) -> DropCounters {
        let mut sum = DropCounters::default();
        for switch in &self.switches {
            let uplink = switch.uplink_counters(id).map(|counters| &counters.drops);
            switch.drops(id).into_iter().chain(uplink).for_each(|drops| sum.add(drops));
        }
        sum
    }

    /// As [`Switch::layer_flows`], of the port's.
    pub fn layer_flows(&self, id: PortId, now: Instant) -> Vec<LayerFlowInfo> {
        self.switches[self.place(id)].layer_flows(id, now)
    }

    /// As [`Switch::flows`], of the port's.
    pub fn flows(
        &self,
        id: PortId,
        filter: &FlowFilter,
        cursor: FlowCursor,
        budget: u32,
        now: Instant,
    ) -> Option<FlowPage> {
        self.switches[self.place(id)].flows(id, filter, cursor, budget, now)
    }

    /// As [`Switch::clear_flows`], of the port's.
    pub fn clear_flows(
        &mut self,
        id: PortId,
        filter: &FlowFilter,
        cursor: FlowCursor,
        budget: u32,
        now: Instant,
    ) -> Option<ClearPage> {
        self.owner(id).clear_flows(id, filter, cursor, budget, now)
    }

    /// As [`Switch::drop_rows`], of all together.
    pub fn drop_rows(&self, id: PortId) -> Vec<DropRow> {
        let mut all: Vec<DropRow> = Vec::new();
        for row in self.switches.iter().flat_map(|switch| switch.drop_rows(Some(id)).unwrap_or_default()) {
            let site = |row: &DropRow| {
                (row.reason, row.direction, row.layer.clone(), row.group.clone(), row.rule.clone())
            };
            match all.iter_mut().find(|known| site(known) == site(&row)) {
                Some(known) => {
                    known.frames += row.frames;
                    known.packets += row.packets;
                    known.bytes += row.bytes;
                }
                None => all.push(row),
            }
        }
        all
    }

    /// As [`Switch::recent_drops`], of all together.
    pub fn recent_drops(&self, id: PortId) -> Vec<DropSummary> {
        let each = self.switches.iter().flat_map(|switch| switch.recent_drops(Some(id)).unwrap_or_default());
        let mut all: Vec<DropSummary> = each.collect();
        all.sort_by_key(|drop| std::cmp::Reverse(drop.time));
        all.truncate(RECENT_DROPS);
        all
    }

    /// As [`Switch::start_capture`], on all, each with a sink that `sink` makes.
    pub fn start_capture(
        &mut self,
        spec: &CaptureSpec,
        sink: impl Fn() -> Box<dyn CaptureSink>,
    ) -> Result<Vec<CaptureId>, CaptureError> {
        self.switches.iter_mut().map(|switch| switch.start_capture(spec.clone(), sink())).collect()
    }

    /// Ends the captures that [`Spread::start_capture`] started.
    pub fn stop_capture(&mut self, ids: &[CaptureId]) {
        for (switch, id) in self.switches.iter_mut().zip(ids) {
            switch.stop_capture(*id);
        }
    }
}
