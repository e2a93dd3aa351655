//! The daemon and its signals, its socket and its users: it stops cleanly, reads its configuration again, does not take
//! a socket that is served, and refuses who may not.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::rig::*;

/// A user that nothing was given to.
const NOBODY: u32 = 65534;
const PORT: &str = "{ version: 1, owner: security, ports: { vm1: { mac: \"02:00:00:00:00:01\" } } }";
const LAYER: &str = "{ version: 1, owner: security, ports: { vm1: { layers: [ { name: acl, priority: 10, inbound: [ { group: g, rules: [ { name: r, action: allow } ] } ] } ] } } }";

/// `lamina` as the user [`NOBODY`], which may not be able to reach the build's folder.
struct Nobody {
    program: PathBuf,
}

impl Nobody {
    fn new(daemon: &Daemon) -> Nobody {
        let program = daemon.folder.0.join("lamina");
        let built = env!("CARGO_BIN_EXE_lamina");
        fs::hard_link(built, &program).or_else(|_| fs::copy(built, &program).map(drop)).unwrap();
        Nobody { program }
    }

    fn run(&self, daemon: &Daemon, arguments: &[&str]) -> Output {
        let mut command = Command::new(&self.program);
        command.env("LAMINA_SOCKET", &daemon.socket).args(arguments).current_dir("/");
        command.uid(NOBODY).gid(NOBODY).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs a command that must fail, and returns its failure's JSON.
    fn refused(&self, daemon: &Daemon, arguments: &[&str]) -> serde_json::Value {
        let output = self.run(daemon, &[arguments, &["--json"]].concat());
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {printed}");
        serde_json::from_str::<serde_json::Value>(&printed)
            .unwrap_or_else(|error| panic!("{error}: {printed}"))["error"]
            .clone()
    }
}

/// How often the API has counted `name`.
fn counted(daemon: &Daemon, name: &str) -> u64 {
    let status = daemon.json(&["status"]);
    let counters = &status["api-counters"];
    counters[name].as_u64().unwrap_or_else(|| panic!("{name} is not in {counters}"))
}

#[test]
fn sigterm_stops_it_cleanly_and_it_comes_back_with_its_policy() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut daemon = Daemon::new("buffers = 256");
        daemon.start();
        let file = daemon.folder.write("port.yaml", PORT);
        daemon.lamina(&["apply", "-f", file.to_str().unwrap()]);
        // Open calls do not hold it up.
        let mut watch =
            daemon.command(&["watch", "--json"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(50));
        daemon.signal(signal);
        assert_eq!(daemon.ended().code(), Some(0), "{}", daemon.log());
        assert!(!daemon.socket.exists(), "its socket is gone");
        watch.wait().unwrap();
        let gone = daemon.command(&["status", "--json"]).output().unwrap();
        assert!(String::from_utf8_lossy(&gone.stdout).contains("unreachable"), "{gone:?}");
        daemon.start();
        assert_eq!(daemon.json(&["list", "port"])[0]["name"], "vm1");
    }
}

#[test]
fn a_served_socket_and_a_used_store_are_refused() {
    let mut daemon = Daemon::new("buffers = 256");
    daemon.start();
    let elsewhere = daemon.folder.0.join("other");
    let same_socket = format!("socket = {:?}\nstate = {elsewhere:?}\n", daemon.socket);
    let same_store = format!(
        "socket = {:?}\nstate = {:?}\n",
        daemon.folder.0.join("b.sock"),
        daemon.folder.0.join("state")
    );
    for (config, reason) in [(same_socket, "is served already"), (same_store, "policy.redb")] {
        let config = daemon.folder.write("second.toml", &config);
        let output = daemon.other(&config);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.contains(reason), "{errors}");
    }
    daemon.json(&["status"]);
    // The socket that a killed one leaves behind is no hindrance.
    daemon.kill();
    assert!(daemon.socket.exists());
    daemon.start();
    daemon.json(&["status"]);
}

#[test]
fn who_may_not_is_refused_and_a_reload_changes_who_may() {
    if !is_root() {
        println!("skipped, because only root can be another user");
        return;
    }
    let keys = |mode: &str, access: &str| {
        format!("buffers = 256\nsocket-mode = \"{mode}\"\n[access]\nadministrators = [\"root\"]\n{access}")
    };
    let mut daemon = Daemon::new(&keys("0600", ""));
    daemon.start();
    let nobody = Nobody::new(&daemon);
    let port = daemon.folder.write("port.yaml", PORT);
    let layer = daemon.folder.write("layer.yaml", LAYER);
    let (port, layer) = (["apply", "-f", port.to_str().unwrap()], ["apply", "-f", layer.to_str().unwrap()]);

    // The socket's own permissions.
    assert_eq!(nobody.refused(&daemon, &["status"])["kind"], "unreachable");
    daemon.signal(Signal::TERM);
    daemon.ended();

    // Everybody may open it; nobody may read but root.
    daemon.configure(&keys("0666", "readers = [\"root\"]"));
    daemon.start();
    let refused = nobody.refused(&daemon, &["list", "port"]);
    assert_eq!(
        (&refused["kind"], &refused["code"]),
        (&"refused".into(), &"permission-denied".into()),
        "{refused}"
    );
    assert!(counted(&daemon, "refused-readers") > 0);
    let refused = nobody.refused(&daemon, &port);
    assert_eq!(refused["code"], "permission-denied", "{refused}");
    assert_eq!(daemon.json(&["list", "port"]), serde_json::json!([]), "nothing was changed");

    // A reload lets it be a controller, one that may not make ports.
    let reloads = |daemon: &Daemon| daemon.log().matches("the configuration is reloaded").count();
    let reload = |daemon: &Daemon| {
        let before = reloads(daemon);
        daemon.signal(Signal::HUP);
        wait_until("the reload", || reloads(daemon) > before);
    };
    let controller = format!("[controllers.security]\nusers = [{NOBODY}]\nports = false");
    daemon.configure(&keys("0666", &format!("readers = [\"root\"]\n{controller}")));
    reload(&daemon);
    let refused = nobody.refused(&daemon, &port);
    assert_eq!(refused["code"], "permission-denied", "{refused}");
    daemon.lamina(&[&port[..], &["--as", "platform"]].concat());
    let applied = nobody.run(&daemon, &layer);
    assert!(applied.status.success(), "{applied:?}");
    let refused = nobody.refused(&daemon, &[&layer[..], &["--as", "vnet"]].concat());
    assert_eq!(refused["code"], "permission-denied", "{refused}");

    // A file with a mistake changes nothing.
    daemon.configure("buffers = \"many\"");
    daemon.signal(Signal::HUP);
    wait_until("the refused reload", || daemon.log().contains("the configuration is not reloaded"));
    let applied = nobody.run(&daemon, &layer);
    assert!(applied.status.success(), "{applied:?}");

    // Another takes the right away.
    daemon.configure(&keys("0666", "readers = [\"root\"]"));
    reload(&daemon);
    assert_eq!(nobody.refused(&daemon, &layer)["code"], "permission-denied");
    assert_eq!(daemon.json(&["list", "layer"])[0]["name"], "acl", "what it had put stays");
}
