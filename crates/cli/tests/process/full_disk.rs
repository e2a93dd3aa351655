//! A disk that takes nothing more: what cannot be made to last is refused, and what ran before runs.

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::rig::*;

const PORTS: &str = "{ version: 1, owner: security, ports: {
    vm1: { mac: \"02:00:00:00:00:01\" }, vm2: { mac: \"02:00:00:00:00:02\" } } }";
const PACKET: &str = "udp 10.0.0.1:5000 -> 10.0.0.2:53 eth-dst=02:00:00:00:00:02";

/// A policy of one rule, with which every packet of vm1 meets `action`.
fn policy(action: &str) -> String {
    format!(
        "{{ version: 1, owner: security, ports: {{ vm1: {{ layers: [ {{ name: acl, priority: 10,
            outbound: [ {{ group: g, rules: [ {{ name: r, action: {action} }} ] }} ] }} ] }} }} }}"
    )
}

#[test]
fn what_a_full_disk_refuses_does_not_run() {
    let mut daemon = Daemon::new("").ignoring_file_limits();
    daemon.start();
    let ports = daemon.folder.write("ports.yaml", PORTS);
    let allow = daemon.folder.write("allow.yaml", &policy("allow"));
    let block = daemon.folder.write("block.yaml", &policy("block"));
    let [ports, allow, block] = [&ports, &allow, &block].map(|path| path.to_str().unwrap());
    daemon.lamina(&["apply", "-f", ports]);
    daemon.lamina(&["apply", "-f", allow]);
    let is_blocked = |daemon: &Daemon| daemon.lamina(&["trace", "--port", "vm1", PACKET]).contains("DROPPED");
    assert!(!is_blocked(&daemon));

    // From here on no file of the daemon grows or changes behind its first byte.
    let full = Rlimit { current: Some(1), maximum: None };
    prlimit(Pid::from_raw(daemon.id() as i32), Resource::Fsize, full).unwrap();
    let output = daemon.command(&["apply", "-f", block]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "nothing can be written, and it was acknowledged");
    assert!(errors.contains("store"), "{errors}");
    assert!(!is_blocked(&daemon), "what was refused runs");

    // The disk has room again, and the daemon is started again: it has what it acknowledged, and takes the rest.
    daemon.kill();
    daemon.start();
    assert!(!is_blocked(&daemon));
    daemon.lamina(&["apply", "-f", block]);
    assert!(is_blocked(&daemon));
}

#[test]
fn that_changes_are_refused_is_logged_once() {
    let mut daemon = Daemon::new("").ignoring_file_limits();
    daemon.start();
    let ports = daemon.folder.write("ports.yaml", PORTS);
    let policies = ["allow", "block"].map(|action| daemon.folder.write(action, &policy(action)));
    let apply = |daemon: &Daemon, path: &std::path::Path| {
        let output = daemon.command(&["apply", "-f", path.to_str().unwrap()]).output().unwrap();
        output.status.success()
    };
    assert!(apply(&daemon, &ports));
    // There is room for the log, and for one record in the journal.
    let full = Rlimit { current: Some(4096), maximum: None };
    prlimit(Pid::from_raw(daemon.id() as i32), Resource::Fsize, full).unwrap();
    let refused = (0..4).find(|number| !apply(&daemon, &policies[number % 2]));
    let refused = refused.expect("more was acknowledged than there is room for");
    let told = || daemon.log().matches("changes are refused until the daemon is restarted").count();
    assert_eq!(told(), 1, "{}", daemon.log());
    assert!(!apply(&daemon, &policies[0]));
    // Some rounds of the control thread, each of which would write out what the journal has.
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(told(), 1, "{}", daemon.log());
    daemon.kill();
    daemon.start();
    let is_blocked = daemon.lamina(&["trace", "--port", "vm1", PACKET]).contains("DROPPED");
    // Policy number 1, 3 blocks; the one before the refused one runs.
    assert_eq!(is_blocked, refused > 0 && (refused - 1) % 2 == 1);
}
