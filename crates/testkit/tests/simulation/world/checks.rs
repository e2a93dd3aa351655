//! What must hold after every step, and at the end.

use std::collections::BTreeMap;

use lamina_core::time::Instant;
use lamina_testkit::fabric::Delivery;

use super::{Admission, History, Kind, World};
use crate::policy::{FLOW_LIMIT, TIME_TO_LIVE};
use crate::segment::message_number;

impl World {
    /// Of what reached `host`, exactly what policy admits now came out.
    pub(super) fn check_admission(&mut self, host: usize, frames: &[Vec<u8>], deliveries: &[Delivery]) {
        let count = |frames: &mut dyn Iterator<Item = &Vec<u8>>| {
            let mut counts = BTreeMap::<u64, usize>::new();
            frames.filter_map(|frame| message_number(frame)).for_each(|n| *counts.entry(n).or_default() += 1);
            counts
        };
        let came_in = count(&mut frames.iter());
        let came_out = count(&mut deliveries.iter().map(|delivery| &delivery.frame));
        for number in came_out.keys() {
            assert!(came_in.contains_key(number), "message {number} came from nowhere");
        }
        for (number, copies) in came_in {
            let out = came_out.get(&number).copied().unwrap_or(0);
            let message = &self.messages[number as usize];
            let receiver = &self.guests[message.to];
            assert_eq!(receiver.host, host, "message {number} went to the wrong host");
            let is_admitted = match message.admission {
                Admission::Always => true,
                Admission::Never => false,
                Admission::UnlessStrict => !receiver.variant.is_strict,
                // A retransmission may have made new state: then both are right.
                Admission::WithState(epoch) if epoch != receiver.epoch => out == copies,
                Admission::WithState(_) => true,
            };
            let expected = if is_admitted && receiver.is_up { copies } else { 0 };
            self.refused += (copies - expected) as u64;
            assert_eq!(out, expected, "message {number}, {:?}, {:?}", message.admission, receiver.variant);
        }
    }

    /// Tables stay within their limits.
    pub(super) fn check_limits(&mut self, host: usize) {
        let limit = self.limits.unified_flows;
        for guest in self.guests.iter().filter(|guest| guest.host == host && guest.is_up) {
            let counters = self.fabric.switch(host).counters(guest.port).unwrap();
            assert!(counters.flows.unified <= limit, "{} unified flows", counters.flows.unified);
            for layer in &counters.layers {
                assert!(layer.layer_flows <= FLOW_LIMIT, "{} layer flows", layer.layer_flows);
            }
        }
    }

    /// What must hold when everything is over.
    pub(super) fn finish(mut self) -> History {
        for (index, conversation) in self.conversations.iter().enumerate() {
            assert!(conversation.is_over(), "conversation {index} did not finish");
        }
        if self.kind == Kind::Perfect {
            for (number, message) in self.messages.iter().enumerate() {
                let must = matches!(message.admission, Admission::Always | Admission::WithState(_));
                assert!(!must || message.arrived == 1, "message {number} from {} is missing", message.from);
            }
        }
        let later: Instant = self.fabric.now() + TIME_TO_LIVE + TIME_TO_LIVE;
        let (mut hits, mut counters) = (0, Vec::new());
        for guest in &self.guests {
            let switch = self.fabric.switch(guest.host);
            assert_eq!(switch.layer_flows(guest.port, later), vec![], "expired flows are not shown");
            // Two passes, since one may start in the middle of a table.
            (0..2).for_each(|_| switch.sweep(later));
            let read = switch.counters(guest.port).unwrap();
            assert_eq!((read.flows.conversations, read.flows.unified), (0, 0), "state outlived its time");
            hits += read.flows.hits;
            counters.push(format!("{read:?}"));
        }
        History {
            transcript: self.fabric.transcript(),
            faults: self.fabric.counts(),
            delivered: self.delivered,
            refused: self.refused,
            damaged: self.damaged,
            hits,
            restarts: self.restarts,
            updates: self.updates,
            counters,
        }
    }
}
