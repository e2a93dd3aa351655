//! Who puts what on a host: the plan of its controllers, and whether its policies can work at all.
//!
//! A topology says what ports are in several places: a machine has its MAC, policies state tenants and limits. The host
//! API has one owner for all properties of a port, so the lab has a controller of its own that makes the ports; those
//! of policies put layers and resources. [`check`] looks at policies as the daemon would, before anything is built.
//!
//! Nothing here may start or ask anything.

use std::collections::{BTreeMap, BTreeSet};

use lamina_api::topology::{
    Apply, Check, Expect, Host, HostKind, NamedPolicy, PolicyChange, Probe, Topology,
};
use lamina_api::wire::v1;
use lamina_api::{Code, Diagnostic, Document, Name, Report, Span};
use lamina_daemon::convert::{self, PortIds};

/// The controller that makes a host's ports.
pub const MAKER: &str = "lab";

/// What the controllers of a host put.
#[derive(Clone, Debug)]
pub struct HostPlan {
    /// The ports with all of their properties, for [`MAKER`].
    pub ports: v1::Document,
    /// The policies that are in force at the start, in the order of the file.
    pub policies: Vec<PolicyPlan>,
    /// Every controller of the host, also of policies that come later.
    pub controllers: BTreeSet<String>,
}

/// What the controller of a policy puts.
#[derive(Clone, Debug)]
pub struct PolicyPlan {
    /// The policy's name.
    pub name: Name,
    /// Who owns what is in it.
    pub owner: String,
    /// Its layers and resources, without properties of ports.
    pub document: v1::Document,
}

impl HostPlan {
    /// The plan of `host`; `None` where no daemon runs on it.
    pub fn of(topology: &Topology, host: &Host) -> Result<Option<HostPlan>, Report> {
        let HostKind::Lamina { base, policies, .. } = &host.kind else { return Ok(None) };
        let mut plan =
            HostPlan { ports: ports(base, policies), policies: Vec::new(), controllers: BTreeSet::new() };
        plan.controllers.insert(MAKER.into());
        for policy in policies {
            let planned = plan.policy(policy)?;
            plan.controllers.insert(planned.owner.clone());
            plan.policies.push(planned);
        }
        for (apply, _) in
            topology.checks.iter().flat_map(changes).filter(|(apply, _)| apply.host == host.name)
        {
            if let PolicyChange::Set(policy) = &apply.change {
                // One that cannot be used has no owner; it is refused when its turn comes.
                plan.controllers.extend(owner(policy).ok());
            }
        }
        Ok(Some(plan))
    }

    /// What the controller of `policy` puts. It may state no property of a port that the port does not have.
    pub fn policy(&self, policy: &NamedPolicy) -> Result<PolicyPlan, Report> {
        let mut document = policy.message.clone();
        for (name, port) in &mut document.ports {
            let stated = std::mem::take(port);
            port.layers = stated.layers.clone();
            let known = self.ports.ports.get(name).cloned().unwrap_or_default();
            let mut both = known.clone();
            state(&mut both, &stated, true);
            if both != known {
                return Err(changed_port(policy, name).into());
            }
        }
        Ok(PolicyPlan { name: policy.name.clone(), owner: owner(policy)?, document })
    }
}

impl PolicyPlan {
    /// Only the resources. They are put first, because policies may name each other's.
    pub fn resources(&self) -> Option<v1::Document> {
        let v1::Document { metadata, resources, .. } = self.document.clone();
        let any = !metadata.is_empty() || resources.is_some();
        any.then(|| v1::Document { version: 1, metadata, resources, ..v1::Document::default() })
    }
}

/// The ports with everything that the machines and the policies say of them.
fn ports(base: &Document, policies: &[NamedPolicy]) -> v1::Document {
    let mut ports: BTreeMap<String, v1::Port> = BTreeMap::new();
    for port in &base.ports {
        // Machines say no more than this.
        let made = v1::Port {
            mac: port.mac.as_ref().map(|mac| mac.value.to_string()).unwrap_or_default(),
            mtu: port.mtu.as_ref().map(|mtu| mtu.value),
            ..v1::Port::default()
        };
        ports.insert(port.name.value.to_string(), made);
    }
    for policy in policies {
        for (name, stated) in &policy.message.ports {
            state(ports.entry(name.clone()).or_default(), stated, false);
        }
    }
    v1::Document { version: 1, ports: ports.into_iter().collect(), ..v1::Document::default() }
}

/// Adds to `port` what `stated` says of it; what is known already stays, unless it is to be `replaced`.
fn state(port: &mut v1::Port, stated: &v1::Port, replaced: bool) {
    let v1::Port { mac, tenants, mtu, malformed, limits, layers: _, addresses, guard, vlan } = stated;
    if !mac.is_empty() && (replaced || port.mac.is_empty()) {
        port.mac.clone_from(mac);
    }
    if !tenants.is_empty() && (replaced || port.tenants.is_empty()) {
        port.tenants.clone_from(tenants);
        port.tenants.sort_unstable();
    }
    if !addresses.is_empty() && (replaced || port.addresses.is_empty()) {
        port.addresses.clone_from(addresses);
    }
    port.mtu = either(port.mtu, *mtu, replaced);
    port.malformed = either(port.malformed.take(), malformed.clone(), replaced);
    port.limits = either(port.limits.take(), limits.clone(), replaced);
    port.guard = either(port.guard.take(), guard.clone(), replaced);
    port.vlan = either(port.vlan.take(), vlan.clone(), replaced);
}

fn either<T>(known: Option<T>, stated: Option<T>, replaced: bool) -> Option<T> {
    if replaced { stated.or(known) } else { known.or(stated) }
}

fn changed_port(policy: &NamedPolicy, name: &str) -> Diagnostic {
    let document = &policy.document;
    let port = document.ports.iter().find(|port| *port.name.value == *name);
    let span = port.map_or_else(Span::default, |port| port.name.span);
    let message = format!("the properties of `{name}` are not those that it was made with");
    Diagnostic::error(Code::Conflict, &document.source, span, message)
        .help("a lab's ports are made at the start: state their properties in a policy of the host")
}

/// Who owns what is in `policy`: the owner that it names, else one of the policy's name.
fn owner(policy: &NamedPolicy) -> Result<String, Box<Diagnostic>> {
    let document = &policy.document;
    let layers = document.ports.iter().flat_map(|port| &port.layers);
    let mut named = document.owner.iter().chain(layers.filter_map(|layer| layer.owner.as_ref()));
    let Some(first) = named.next() else { return Ok(policy.name.to_string()) };
    match named.find(|other| other.value != first.value) {
        None => Ok(first.value.to_string()),
        Some(other) => {
            let message = format!("the policy {} has two owners", policy.name);
            let diagnostic = Diagnostic::error(Code::Conflict, &document.source, other.span, message).also(
                &document.source,
                first.span,
                "this is the other",
            );
            Err(Box::new(diagnostic.help("a policy of a lab is one controller's: write one policy for each")))
        }
    }
}

/// The policy changes of a check, and what should come of them.
fn changes(check: &Check) -> impl Iterator<Item = (&Apply, Expect)> {
    let own = match &check.probe {
        Probe::Apply(apply) => Some((apply, check.expect)),
        _ => None,
    };
    own.into_iter().chain(check.meanwhile.iter().map(|apply| (apply, Expect::Pass)))
}

/// What is probably not meant in the policies that are in force at the start, or why they cannot be used. Changes that
/// checks make are looked at, too, in their order, unless they are expected to be refused.
pub fn check(topology: &Topology) -> Result<Report, Report> {
    let (mut warnings, mut mistakes) = (Report::new(), Report::new());
    let mut in_force: BTreeMap<&str, Vec<NamedPolicy>> = BTreeMap::new();
    for host in &topology.hosts {
        let HostKind::Lamina { base, policies, .. } = &host.kind else { continue };
        match judge(base, policies).and_then(|found| HostPlan::of(topology, host).map(|_| found)) {
            Ok(found) => warnings.append(found),
            Err(found) => mistakes.append(found),
        }
        in_force.insert(&host.name, policies.clone());
    }
    if mistakes.has_errors() {
        return Err(mistakes);
    }
    for (apply, expect) in topology.checks.iter().flat_map(changes) {
        let (Some(host), Some(policies)) = (topology.host(&apply.host), in_force.get_mut(&*apply.host))
        else {
            continue;
        };
        let (HostKind::Lamina { base, .. }, Expect::Pass) = (&host.kind, expect) else { continue };
        let mut then = policies.clone();
        match &apply.change {
            PolicyChange::Set(policy) => {
                if let Some(plan) = HostPlan::of(topology, host)? {
                    plan.policy(policy)?;
                }
                then.retain(|known| known.name != policy.name);
                then.push((**policy).clone());
            }
            PolicyChange::Remove(name) => then.retain(|known| known.name != *name),
        }
        judge(base, &then)?;
        *policies = then;
    }
    Ok(warnings)
}

/// Warnings about policies that are in force together, or why they cannot be.
fn judge(base: &Document, policies: &[NamedPolicy]) -> Result<Report, Report> {
    let with_multicast =
        policies.iter().filter_map(|policy| Some((policy, policy.document.multicast.as_ref()?)));
    if let [(first, _), (second, names), ..] = &with_multicast.collect::<Vec<_>>()[..] {
        let span = names.first().map_or_else(Span::default, |name| name.span);
        let message = format!("{} and {} both state the multicast set", first.name, second.name);
        let diagnostic = Diagnostic::error(Code::Conflict, &second.document.source, span, message);
        return Err(diagnostic.help("a host has one, and it is one controller's").into());
    }
    let documents = std::iter::once(base).chain(policies.iter().map(|policy| &policy.document));
    let documents: Vec<Document> = documents.cloned().collect();
    Ok(convert::merge(&documents, &mut PortIds::default())?.warnings)
}
