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

#[cfg(test)]
mod tests {
    use lamina_api::topology;

    use super::*;

    /// A host with two machines, and `more`: policies and checks.
    fn topology(more: &str) -> Topology {
        let text = format!(
            r#"
version: 1
name: test
hosts:
  h1:
    ports: [bare]
    vms: {{ a: {{ mac: "02:00:00:00:00:01", mtu: 1400 }}, b: {{ mac: "02:00:00:00:00:02" }} }}
{more}"#
        );
        let parsed = topology::parse("test", &text, |_| Err("no file".into()));
        parsed.unwrap_or_else(|report| panic!("{report}"))
    }

    fn plan(topology: &Topology) -> Result<HostPlan, Report> {
        HostPlan::of(topology, &topology.hosts[0]).map(Option::unwrap)
    }

    #[test]
    fn ports_have_what_machines_and_policies_state_and_policies_put_the_rest() {
        let topology = topology(
            r#"    policies:
      - name: vnet
        document:
          version: 1
          metadata: [mark]
          ports:
            a: { tenants: [9, 7], layers: [{ name: vnet, priority: 1 }] }
            bare: { mac: "02:00:00:00:00:fe", mtu: 9000 }
      - { name: guard, document: { version: 1, owner: security, ports: { a: { tenants: [7, 9], guard: { ipv4: false } } } } }
"#,
        );
        let plan = plan(&topology).unwrap();
        let port = |name: &str| &plan.ports.ports[name];
        assert_eq!((&*port("a").mac, port("a").mtu), ("02:00:00:00:00:01", Some(1400)));
        assert_eq!(port("a").tenants, [7, 9], "however they are ordered");
        assert_eq!(port("a").guard.as_ref().and_then(|guard| guard.ipv4), Some(false));
        assert_eq!((&*port("bare").mac, port("bare").mtu), ("02:00:00:00:00:fe", Some(9000)));
        assert!(plan.ports.ports.values().all(|port| port.layers.is_empty()));
        assert_eq!(plan.ports.ports.len(), 3);
        let [vnet, guard] = &plan.policies[..] else { panic!("two policies") };
        assert_eq!((&*vnet.owner, &*guard.owner), ("vnet", "security"));
        let left = v1::Port { layers: vnet.document.ports["a"].layers.clone(), ..v1::Port::default() };
        assert_eq!(vnet.document.ports["a"], left, "properties are not put again");
        assert_eq!(left.layers.len(), 1);
        assert_eq!(vnet.resources().map(|document| document.metadata), Some(vec!["mark".to_string()]));
        assert_eq!(guard.resources(), None);
        assert!(plan.controllers.iter().eq([MAKER, "security", "vnet"]));
    }

    #[test]
    fn owners_of_policies_that_come_later_are_known_from_the_start() {
        let topology = topology(
            "checks: [{ name: c, apply: { host: h1, policy: { name: late, document: { version: 1 } } } }]\n",
        );
        assert!(plan(&topology).unwrap().controllers.contains("late"));
    }

    #[test]
    fn what_cannot_work_is_said_before_anything_is_built() {
        let policy =
            |name: &str, ports: &str| format!("{{ name: {name}, document: {{ version: 1, {ports} }} }}");
        let bare = policy("bare", r#"ports: { bare: { mac: "02:00:00:00:00:fe" } }"#);
        for (policies, told) in [
            (
                [
                    policy("p", "multicast: [a], ports: { a: { layers: [] } }"),
                    policy("q", "multicast: [b], ports: { b: { layers: [] } }"),
                ],
                "p and q both state the multicast set",
            ),
            (
                [
                    policy(
                        "p",
                        "owner: one, ports: { a: { layers: [{ name: l, owner: two, priority: 1 }] } }",
                    ),
                    policy("q", "ports: { b: { layers: [] } }"),
                ],
                "the policy p has two owners",
            ),
            (
                [policy("p", "ports: { a: { mtu: 1300 } }"), policy("q", "ports: { b: { layers: [] } }")],
                "disagree about the MTU",
            ),
        ] {
            let text = format!("    policies: [{bare}, {}]\n", policies.join(", "));
            let report = check(&topology(&text)).unwrap_err();
            assert!(report.to_string().contains(told), "{told}: {report}");
        }
    }
}
