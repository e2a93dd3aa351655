//! Layers that nobody wrote: what a port's `guard` and `vlan` become.
//!
//! They are ordinary layers of ordinary groups and rules, so traces, counters and drops speak of them by name. Here
//! is what both are put together from; what they say is in [`super::guard`] and [`super::vlan`].

use std::sync::Arc;

use lamina_api::document::Port;
use lamina_api::{At, Code, Diagnostic};
use lamina_core::action::{Action, Allow, Block};
use lamina_core::address::MacAddr;
use lamina_core::flow::{Field, HeaderField, Scope, Value};
use lamina_core::layer::{Condition, DefaultAction, Group, Layer, Rule, Selection, ValueRange};

use super::layers::SharedRules;
use super::ports::MergedPort;
use super::{Converter, guard, sorted, vlan};

/// Rules under names, in the order in which they are asked.
#[derive(Default)]
pub(super) struct Rules(Vec<Rule>);

impl Rules {
    /// A further rule, asked behind those before it.
    pub(super) fn then(mut self, name: &str, conditions: Vec<Condition>, action: Action) -> Self {
        // A generated group of one rule, or of many that exclude each other by their order.
        let priority = 10 * (self.0.len() as i32 + 1);
        let terminating = matches!(action, Action::Block(_));
        self.0.push(Rule { name: name.into(), priority, conditions, action, terminating, state: None });
        self
    }

    pub(super) fn allow(self, name: &str, conditions: Vec<Condition>) -> Self {
        self.then(name, conditions, Action::Allow(Allow))
    }

    pub(super) fn block(self, name: &str, conditions: Vec<Condition>) -> Self {
        self.then(name, conditions, Action::Block(Block))
    }

    /// The group of these rules.
    pub(super) fn group(
        self,
        name: &str,
        priority: i32,
        conditions: Vec<Condition>,
        shared: &mut SharedRules,
    ) -> Group {
        let rules = shared.share(sorted(self.0));
        Group {
            name: name.into(),
            priority,
            selection: Selection::Priority,
            conditions: conditions.into(),
            rules,
        }
    }
}

/// The position nearer the guest than any that a document can give.
pub(super) const NEAREST_GUEST: i64 = i32::MIN as i64 - 1;

/// The position nearer the network than any that a document can give.
pub(super) const NEAREST_NETWORK: i64 = i32::MAX as i64 + 1;

/// A layer whose name and owner are `name`.
pub(super) fn layer(name: &str, priority: i64, inbound: Vec<Group>, outbound: Vec<Group>) -> Layer {
    Layer {
        name: name.into(),
        owner: name.into(),
        priority,
        default_inbound: DefaultAction::Pass,
        default_outbound: DefaultAction::Pass,
        inbound: Arc::new(inbound),
        outbound: Arc::new(outbound),
        flow_limit: 1,
    }
}

/// The outermost `field` is one of `ranges`: what a guest sends is judged by what the network sees of it, whatever
/// tunnels the guest puts inside.
pub(super) fn outer(field: HeaderField, ranges: Vec<ValueRange>) -> Condition {
    Condition { field: Field::Header(Scope::Outer, field), ranges, prefix_sets: Vec::new() }
}

/// The outermost `field` is `number`.
pub(super) fn is(field: HeaderField, number: u128) -> Condition {
    outer(field, vec![ValueRange::single(Value::number(number))])
}

/// The outermost `field` is a number from `low` to `high`.
pub(super) fn within(field: HeaderField, low: u128, high: u128) -> Condition {
    outer(field, vec![ValueRange { low: Value::number(low), high: Value::number(high) }])
}

/// The outermost `field` is there, whatever it is.
pub(super) fn any(field: HeaderField) -> Condition {
    within(field, 0, (1 << field.bits()) - 1)
}

/// The outermost `field` is `mac`.
pub(super) fn mac(field: HeaderField, mac: MacAddr) -> Condition {
    outer(field, vec![ValueRange::single(Value::mac(mac))])
}

impl Converter {
    /// Adds what the port's `guard` and `vlan` become to `layers`, which the documents wrote.
    pub(super) fn generated_layers(
        &mut self,
        port: &MergedPort<'_>,
        address: MacAddr,
        layers: &mut Vec<Layer>,
        shared: &mut SharedRules,
    ) {
        let guard = self.agreed(port, "guard", |part| part.guard);
        let addresses = self.agreed(port, "addresses", |part| {
            let list = part.addresses.as_ref()?;
            let first = list.first().map_or(part.name.span, |address| address.span);
            let mut addresses: Vec<_> = list.iter().map(|address| address.value).collect();
            addresses.sort_unstable();
            Some(At::new(addresses, first))
        });
        let modes = self.agreed(port, "VLANs", |part| part.vlan.clone());
        if let Some(checks) = guard {
            self.keep_free(port, guard::NAME, |part| part.guard.map(|guard| guard.span));
            let addresses = addresses.unwrap_or_default();
            if checks.needs_addresses() && addresses.is_empty() {
                self.missing_addresses(port);
            }
            layers.push(guard::layer(&checks, address, &addresses, shared));
        }
        if let Some(mode) = modes {
            self.keep_free(port, vlan::NAME, |part| part.vlan.as_ref().map(|vlan| vlan.span));
            layers.push(vlan::layer(&mode, address, shared));
        }
    }

    /// Reports layers that documents call `name`, which a property of the port needs.
    fn keep_free(
        &mut self,
        port: &MergedPort<'_>,
        name: &str,
        read: impl Fn(&Port) -> Option<lamina_api::Span>,
    ) {
        let stated = port.parts.iter().find_map(|(document, part)| Some((&document.source, read(part)?)));
        let Some((source, span)) = stated else { return };
        for (document, part) in &port.parts {
            for layer in part.layers.iter().filter(|layer| &*layer.name.value == name) {
                let message = format!("`{name}` is the layer that the port's `{name}` becomes");
                let diagnostic =
                    Diagnostic::error(Code::Conflict, &document.source, layer.name.span, message);
                let diagnostic = diagnostic.also(source, span, "asked for here");
                self.say(diagnostic.help(format!("call the layer otherwise, or remove the port's `{name}`")));
            }
        }
    }

    fn missing_addresses(&mut self, port: &MergedPort<'_>) {
        let stated = port
            .parts
            .iter()
            .find_map(|(document, part)| part.guard.map(|guard| (&document.source, guard.span)));
        let Some((source, span)) = stated else { return };
        let message = format!(
            "the guard of port `{}` knows no addresses: of IP, only what asks for one passes",
            port.name.value
        );
        let help = "add `addresses: [10.0.0.5, \"fd00::5\"]` to the port, or switch these checks off: `guard: { ipv4: \
                    false, ipv6: false, arp: false, nd: false }`";
        self.warn(Code::MissingField, source, span, message, help);
    }
}
