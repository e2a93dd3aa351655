//! Ports that several documents name become one port each.

use std::collections::HashMap;

use lamina_api::document::{Limits, Malformed, Port};
use lamina_api::{At, Code, Diagnostic, Document, Mac, Source};
use lamina_core::address::MacAddr;
use lamina_core::layer::{MalformedPolicy, Name, Policy};
use lamina_core::switch::{PortConfig, PortId, PortLimits};
use lamina_core::time::Duration;

use super::layers::SharedRules;
use super::{Converter, PortIds, PortPolicy, Scope, UPLINK};

/// One port with every part of it that a document states.
pub(super) struct MergedPort<'d> {
    pub(super) name: At<Name>,
    pub(super) parts: Vec<(&'d Document, &'d Port)>,
}

impl MergedPort<'_> {
    /// Where the port is first named.
    fn source(&self) -> Option<&Source> {
        self.parts.first().map(|(document, _)| &document.source)
    }
}

impl Converter {
    /// The ports of all documents, in the order in which they are first named.
    pub(super) fn merge_ports<'d>(&mut self, documents: &'d [Document]) -> Vec<MergedPort<'d>> {
        let mut ports: Vec<MergedPort<'d>> = Vec::new();
        let mut index: HashMap<&str, usize> = HashMap::new();
        for document in documents {
            for port in &document.ports {
                if &*port.name.value == UPLINK {
                    let help = "the name stands for the host's uplink; call the port otherwise";
                    self.error(
                        Code::Conflict,
                        &document.source,
                        port.name.span,
                        "no port can be called `uplink`",
                        help,
                    );
                }
                let at = *index.entry(&port.name.value).or_insert_with(|| {
                    ports.push(MergedPort { name: port.name.clone(), parts: Vec::new() });
                    ports.len() - 1
                });
                ports[at].parts.push((document, port));
            }
        }
        ports
    }

    /// The ports that get unanswered multicast: those that any document names.
    pub(super) fn multicast(&mut self, documents: &[Document], ids: &PortIds) -> Vec<PortId> {
        let mut multicast = Vec::new();
        let known: Vec<&str> =
            documents.iter().flat_map(|d| &d.ports).map(|port| &*port.name.value).collect();
        for document in documents {
            for name in document.multicast.iter().flatten() {
                if known.contains(&&*name.value) {
                    multicast.extend(ids.id(&name.value).filter(|id| !multicast.contains(id)));
                } else {
                    self.missing(&document.source, name, "port", known.iter().copied());
                }
            }
        }
        multicast
    }

    /// The port with its policy; `None` after an error that leaves no port.
    pub(super) fn port(
        &mut self,
        port: &MergedPort<'_>,
        scope: &Scope<'_>,
        shared: &mut SharedRules,
    ) -> Option<PortPolicy> {
        let mac = self.agreed(port, "MAC", |part| part.mac);
        let tenants = self.agreed(port, "tenants", |part| {
            let first =
                part.tenants.as_ref().map(|tenants| tenants.first().map_or(part.name.span, |t| t.span))?;
            let mut ids: Vec<u32> = part.tenants.iter().flatten().map(|tenant| tenant.value).collect();
            ids.sort_unstable();
            Some(At::new(ids, first))
        });
        let mtu = self.agreed(port, "MTU", |part| part.mtu);
        let malformed = self.agreed(port, "treatment of malformed frames", |part| part.malformed);
        let limits = self.agreed(port, "limits", |part| part.limits);
        let mut layers = self.layers(port, scope, shared);
        if let Some(mac) = mac {
            self.generated_layers(port, MacAddr(mac.0), &mut layers, shared);
        }
        self.check_layer_count(port, &layers);
        let Some(mac) = mac else {
            if let Some(source) = port.source() {
                let message = format!("no document states the MAC of port `{}`", port.name.value);
                let help = "add `mac: \"02:00:00:00:00:01\"` to the port, or name the file that makes the port as well: files are \
                     judged together";
                self.error(Code::MissingField, source, port.name.span, message, help);
            }
            return None;
        };
        let config = PortConfig {
            name: port.name.value.clone(),
            mac: MacAddr(mac.0),
            tenants: tenants.unwrap_or_default(),
            mtu: mtu.unwrap_or(0),
            limits: table_limits(limits.unwrap_or_default()),
        };
        let malformed = match malformed {
            Some(Malformed::Pass) => MalformedPolicy::PassOpaque,
            Some(Malformed::Drop) | None => MalformedPolicy::Drop,
        };
        let policy = Policy {
            layers,
            resources: scope.tables.resources.clone(),
            metadata_keys: scope.tables.metadata.iter().map(|key| key.to_string()).collect(),
            malformed,
        };
        let id = scope.ids.id(&port.name.value)?;
        Some(PortPolicy { id, config, policy })
    }

    /// The one value that the documents give a property of `port`; an error when they disagree.
    pub(super) fn agreed<T: PartialEq>(
        &mut self,
        port: &MergedPort<'_>,
        what: &str,
        read: impl Fn(&Port) -> Option<At<T>>,
    ) -> Option<T> {
        let mut first: Option<(&Source, At<T>)> = None;
        for (document, part) in &port.parts {
            let Some(value) = read(part) else { continue };
            match &first {
                None => first = Some((&document.source, value)),
                Some((_, agreed)) if agreed.value == value.value => {}
                Some((source, agreed)) => {
                    let message =
                        format!("the documents disagree about the {what} of port `{}`", port.name.value);
                    let diagnostic = Diagnostic::error(Code::Conflict, &document.source, value.span, message);
                    let diagnostic = diagnostic.also(source, agreed.span, "stated otherwise here");
                    self.say(diagnostic.help("state it in one document, or the same in all"));
                }
            }
        }
        first.map(|(_, value)| value.value)
    }

    /// Reports ports that have the same MAC: frames are forwarded by it.
    pub(super) fn unique_macs(&mut self, ports: &[MergedPort<'_>]) {
        let mut seen: HashMap<Mac, (&MergedPort<'_>, &Source, At<Mac>)> = HashMap::new();
        for port in ports {
            let stated = port.parts.iter().find_map(|(document, part)| Some((&document.source, part.mac?)));
            let Some((source, mac)) = stated else { continue };
            if let Some((other, other_source, other_mac)) = seen.get(&mac.value) {
                let message = format!(
                    "ports `{}` and `{}` have the same MAC {}",
                    other.name.value, port.name.value, mac.value
                );
                let diagnostic = Diagnostic::error(Code::Duplicate, source, mac.span, message);
                let diagnostic = diagnostic.also(other_source, other_mac.span, "the other port's");
                self.say(
                    diagnostic
                        .help("frames are forwarded by MAC: give every port its own, also across tenants"),
                );
            } else {
                seen.insert(mac.value, (port, source, mac));
            }
        }
    }
}

fn table_limits(limits: Limits) -> PortLimits {
    let default = PortLimits::default();
    PortLimits {
        unified_flows: limits.unified_flows.map_or(default.unified_flows, |n| n as usize),
        drop_cache: limits.drop_cache.map_or(default.drop_cache, |n| n as usize),
        idle: limits.idle.map_or(default.idle, Duration),
    }
}
