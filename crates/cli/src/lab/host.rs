//! A host of the lab: its daemon, and the controllers that program it.
//!
//! First the ports are made, then every policy is put by a controller of its own, in the order of the file. Policies may
//! name each other's resources, so those come before any layer.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, anyhow, bail};
use lamina_api::topology::{Host, HostKind, Link, PolicyChange, Topology};
use lamina_backend::namespace::NetNs;

use super::controller::{Applied, Controller};
use super::daemon::Daemon;
use super::plan::{HostPlan, MAKER, PolicyPlan};
use super::report::Said;

/// A host on which a daemon runs.
#[derive(Debug)]
pub struct LabHost {
    name: String,
    plan: HostPlan,
    // Before the daemon, so that controllers go while it is there.
    controllers: Mutex<Controllers>,
    daemon: Daemon,
}

/// The controllers' processes.
#[derive(Debug)]
struct Controllers {
    maker: Controller,
    /// Of policies that are in force, by the policies' names.
    policies: BTreeMap<String, Controller>,
    /// What those said whose policies are not in force any more.
    gone: Vec<Said>,
}

impl LabHost {
    /// Starts a daemon inside `ns`, the namespace of `host`, and has its policies put.
    pub fn start(ns: &NetNs, topology: &Topology, host: &Host, plan: HostPlan) -> Result<LabHost> {
        let name = host.name.to_string();
        let is_attached = |link: &&Link| link.attachments.iter().any(|(name, _)| *name == host.name);
        let uplinks: Vec<&str> = topology.links.iter().filter(is_attached).map(|link| &*link.name).collect();
        let daemon = Daemon::start(ns, &name, &uplinks, MAKER, plan.controllers.iter().map(String::as_str))?;
        let start = |policy: &str, owner: &str| Controller::start(&name, policy, owner, daemon.socket());
        // They start side by side, and are asked one after the other.
        let mut maker = start(MAKER, MAKER)?;
        let mut policies = BTreeMap::new();
        for policy in &plan.policies {
            policies.insert(policy.name.to_string(), start(&policy.name, &policy.owner)?);
        }
        accepted(maker.put(&plan.ports)?, || format!("the ports of {name}"))?;
        let of = |policy: &PolicyPlan| format!("the policy {} of {name}", policy.name);
        for policy in &plan.policies {
            if let (Some(controller), Some(resources)) = (policies.get_mut(&*policy.name), policy.resources())
            {
                accepted(controller.put(&resources)?, || of(policy))?;
            }
        }
        for policy in &plan.policies {
            if let Some(controller) = policies.get_mut(&*policy.name) {
                accepted(controller.put(&policy.document)?, || of(policy))?;
            }
        }
        let controllers = Controllers { maker, policies, gone: Vec::new() };
        let started = LabHost { name, plan, controllers: controllers.into(), daemon };
        started.attached(host)?;
        Ok(started)
    }

    /// Fails where the port of a machine has no device.
    fn attached(&self, host: &Host) -> Result<()> {
        let HostKind::Lamina { vms, .. } = &host.kind else { return Ok(()) };
        let ports = self.daemon.ports()?;
        for vm in vms {
            let port = ports.iter().find(|port| *port.name == *vm.name);
            let port =
                port.with_context(|| format!("the daemon of {} has no port {}", self.name, vm.name))?;
            if port.state != "running" {
                bail!("the port {} of {} is {}: {}", vm.name, self.name, port.state, port.device);
            }
        }
        Ok(())
    }

    /// Has a controller change its policy, all or nothing. The inner error says why that was refused.
    pub fn apply(&self, change: &PolicyChange) -> Result<Result<Applied, String>> {
        let mut controllers = self.controllers();
        match change {
            PolicyChange::Set(policy) => {
                let planned = match self.plan.policy(policy) {
                    Ok(planned) => planned,
                    Err(report) => {
                        let messages: Vec<_> =
                            report.diagnostics().iter().map(|found| &*found.message).collect();
                        return Ok(Err(messages.join("; ")));
                    }
                };
                if let Some(controller) = controllers.policies.get_mut(&*planned.name) {
                    return controller.put(&planned.document);
                }
                let mut controller =
                    Controller::start(&self.name, &planned.name, &planned.owner, self.daemon.socket())?;
                let put = controller.put(&planned.document)?;
                if put.is_ok() {
                    controllers.policies.insert(planned.name.to_string(), controller);
                } else {
                    controllers.gone.extend(self.said_by(&planned.name, &controller));
                }
                Ok(put)
            }
            PolicyChange::Remove(name) => {
                let Some(controller) = controllers.policies.get_mut(&**name) else {
                    return Ok(Err(format!("no policy of {} is called {name}", self.name)));
                };
                let removed = controller.remove()?;
                if removed.is_ok()
                    && let Some(controller) = controllers.policies.remove(&**name)
                {
                    controllers.gone.extend(self.said_by(name, &controller));
                }
                Ok(removed)
            }
        }
    }

    /// Whom to ask what happened.
    pub fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// What the host's processes wrote to standard error, and which of them ended before they were told to.
    pub fn said(&self) -> Vec<Said> {
        let mut controllers = self.controllers();
        let line = |text: String| Said { host: self.name.clone(), process: "daemon".into(), text };
        let mut all: Vec<Said> = self.daemon.said().into_iter().map(line).collect();
        all.extend(self.said_by(MAKER, &controllers.maker));
        for (name, controller) in &controllers.policies {
            all.extend(self.said_by(name, controller));
        }
        all.append(&mut controllers.gone);
        all
    }

    /// Fails where one of the host's processes has ended before it was told to.
    pub fn check(&self) -> Result<()> {
        self.daemon.check()?;
        let mut controllers = self.controllers();
        controllers.maker.check()?;
        controllers.policies.values_mut().try_for_each(Controller::check)
    }

    /// Tells all processes to stop, without waiting. Controllers go first.
    pub fn hang_up(&self) {
        let mut controllers = self.controllers();
        controllers.maker.hang_up();
        controllers.policies.values_mut().for_each(Controller::hang_up);
        self.daemon.hang_up();
    }

    fn said_by(&self, policy: &str, controller: &Controller) -> Vec<Said> {
        let (host, process) = (self.name.clone(), format!("controller {policy}"));
        let line = |text| Said { host: host.clone(), process: process.clone(), text };
        controller.said().into_iter().map(line).collect()
    }

    fn controllers(&self) -> MutexGuard<'_, Controllers> {
        self.controllers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn accepted(put: Result<Applied, String>, what: impl FnOnce() -> String) -> Result<Applied> {
    put.map_err(|why| anyhow!("{}: {why}", what()))
}
