//! A client that Python generates from the protobuf files drives the daemon: `examples/python/controller.py`.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::rig::*;

/// The repository.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Python with the packages that the continuous integration's step `programs` puts into the build's folder; `None` when they
/// are not there.
pub fn python() -> Option<Command> {
    let command = || {
        let mut command = Command::new("python3");
        command.env("PYTHONPATH", root().join("target/python")).env("PYTHONDONTWRITEBYTECODE", "1");
        command.stdin(Stdio::null());
        command
    };
    let packages = "import grpc, grpc_tools.protoc, google.rpc.status_pb2";
    let is_there =
        command().args(["-c", packages]).stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    if !is_there {
        println!("skipped, because python3 with grpcio is not there: `cargo xtask ci programs` installs it");
    }
    is_there.then(command)
}

#[test]
fn a_generated_client_programs_lists_watches_and_is_refused() {
    let Some(mut python) = python() else { return };
    let mut daemon = Daemon::new("buffers = 256");
    daemon.start();
    let port = "{ version: 1, owner: platform, ports: { vm1: { mac: \"02:00:00:00:00:01\" } } }";
    let file = daemon.folder.write("port.yaml", port);
    daemon.lamina(&["apply", "-f", file.to_str().unwrap()]);

    python.arg(root().join("examples/python/controller.py"));
    let output = python.arg("--socket").arg(&daemon.socket).args(["--port", "vm1"]).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |what: &str| lines.iter().filter(|line| line["what"] == what).collect::<Vec<_>>();

    let [first, second] = of("applied")[..] else { panic!("{printed}") };
    assert!(first["created"].as_u64() > Some(0) && second["created"] == 0, "{printed}");
    assert!(second["unchanged"].as_u64() > Some(0) && second["revision"] == first["revision"], "{printed}");

    let listed = of("listed");
    let https = listed.iter().find(|line| line["rule"] == "https").unwrap_or_else(|| panic!("{printed}"));
    assert_eq!(https["when"]["l4.dst"], serde_json::json!(["443"]));
    assert!(listed.len() == 2 && listed.iter().all(|line| line["owner"] == "python"), "{printed}");

    let watched = of("watched");
    assert!(watched.iter().any(|line| line["object"]["name"] == "ping"), "{printed}");
    assert!(watched.iter().all(|line| line["revision"] == first["revision"]), "{printed}");

    let [refused] = of("refused")[..] else { panic!("{printed}") };
    assert!(refused["message"].as_str().unwrap().contains("nobody-made-this"), "{printed}");
    assert!(
        !refused["help"].as_str().unwrap().is_empty() && !refused["code"].as_str().unwrap().is_empty(),
        "{printed}"
    );

    // What it asked for runs, and the refused part changed nothing.
    let audit = daemon.json(&["audit", "--owner", "python"]);
    assert_eq!((&audit[0]["finding"], &audit[0]["running-rules"]), (&"same".into(), &2.into()), "{audit}");
}
