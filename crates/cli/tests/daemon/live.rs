//! The commands against the daemon itself: what the fake answers, it must answer too.
//!
//! The daemon runs without uplinks and devices, with its policy in memory, so no rights are needed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Folder, lamina};

/// A daemon that ends with the test.
struct Daemon {
    process: Child,
    socket: PathBuf,
}

impl Daemon {
    fn start(folder: &Folder) -> Daemon {
        let socket = folder.0.join("real.sock");
        let user = fs::metadata(&folder.0).unwrap().uid();
        let config = format!(
            "socket = \"{}\"\nstate = \"\"\n[access]\nadministrators = [{user}]\n[controllers.host]\nports = true\n[controllers.vnet]\n[controllers.acl]\n",
            socket.display()
        );
        let path = folder.0.join("laminad.toml");
        fs::write(&path, config).unwrap();
        let log = fs::File::create(folder.0.join("log")).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_lamina"))
            .args(["daemon", "--config"])
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let daemon = Daemon { process, socket };
        let begin = Instant::now();
        while UnixStream::connect(&daemon.socket).is_err() {
            let log = || fs::read_to_string(folder.0.join("log")).unwrap_or_default();
            assert!(begin.elapsed() < Duration::from_secs(20), "the daemon does not answer: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
        daemon
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn the_daemon_answers_every_command() {
    let folder = Folder::new("live");
    let daemon = Daemon::start(&folder);
    let run = |line: &str| {
        let (_, output) = lamina(&folder, &daemon.socket, line);
        let out = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), out, String::from_utf8(output.stderr).unwrap())
    };
    let json = |line: &str| -> Value {
        let (code, out, errors) = run(line);
        let value =
            serde_json::from_str(&out).unwrap_or_else(|error| panic!("{line}: {error}: {out}{errors}"));
        assert_eq!(code == Some(0), value_is_no_error(&value), "{line}: {value}");
        value
    };
    let changes = |reply: &Value| ["created", "updated", "deleted"].map(|key| reply[key].as_u64().unwrap());

    for (file, created) in [("host", 3), ("vnet", 7), ("acl", 6)] {
        let reply = json(&format!("apply -f {file}.yaml --json"));
        assert_eq!(changes(&reply), [created, 0, 0], "{file}: {reply}");
        let reply = json(&format!("apply -f {file}.yaml --prune --json"));
        assert_eq!(changes(&reply), [0; 3], "again, {file}: {reply}");
        // What it prints is what was applied.
        let (_, document, _) = run(&format!("get all --owner {file} -o yaml"));
        fs::write(folder.0.join("again.yaml"), &document).unwrap();
        let reply = json("apply -f again.yaml --prune --json");
        assert_eq!(changes(&reply), [0; 3], "printed, {file}: {reply}\n{document}");
    }
    assert_eq!(json("list rule --json").as_array().unwrap().len(), 3);

    let reply = json("apply -f acl-changed.yaml --prune --dry-run --json");
    assert_eq!(changes(&reply), [0, 2, 1], "{reply}");
    let difference = reply["changes"].to_string();
    assert!(difference.contains("+when: { l4.dst: [80, 443, 8080] }"), "{difference}");
    assert_eq!(json("get meter --json").as_array().unwrap().len(), 1, "a dry run removes nothing");

    // Mistakes of the daemon are told at their places.
    let error = json("apply -f acl-mistaken.yaml --json");
    let mistake = &error["error"]["mistakes"][0];
    assert_eq!(mistake["code"], "missing-resource", "{error}");
    assert_eq!(mistake["place"]["line"], 13, "{error}");
    let error = json("apply -f not-mine.yaml --json");
    assert_eq!(error["error"]["code"], "permission-denied", "{error}");
    assert_eq!(error["error"]["mistakes"][0]["place"]["line"], 6, "{error}");

    let status = json("status --json");
    let ports: Vec<&str> =
        status["ports"].as_array().unwrap().iter().filter_map(|port| port["name"].as_str()).collect();
    assert_eq!(ports, ["vm1", "vm2"]);
    let kinds: Vec<String> = json("stats --json")
        .as_array()
        .unwrap()
        .iter()
        .map(|counter| counter["kind"].as_str().unwrap().to_owned())
        .collect();
    for kind in ["port", "rule"] {
        assert!(kinds.iter().any(|found| found == kind), "{kinds:?}");
    }
    assert!(!json("limits --json").as_array().unwrap().is_empty());
    let audit = json("audit --json");
    assert_eq!(audit.as_array().unwrap().len(), 2, "{audit}");
    for finding in audit.as_array().unwrap() {
        let port = status["ports"].as_array().unwrap().iter().find(|port| port["name"] == finding["port"]);
        assert_eq!(finding["generation"], port.unwrap()["generation"], "{audit}");
        assert!(finding["generation"].as_u64() > Some(0), "{audit}");
    }
    for line in ["flows --json", "drops --json", "drops --recent --json"] {
        assert!(json(line).is_array(), "{line}");
    }
    assert_eq!(json("flows --clear --all --json")["cleared"], 0);
    assert!(json("flows --rule acl/services/web --json").is_array());
    let (code, _, errors) = run("flows --layer vnet --rule acl/services/web");
    assert!(code == Some(1) && errors.contains("is not in the layer `vnet`"), "{errors}");
    let trace = "trace --port vm1 \"tcp 10.0.0.1:1234 -> 10.0.0.2:80\"";
    let (code, text, errors) = run(trace);
    assert!(code == Some(0) && text.contains("layer acl") && text.contains("layer vnet"), "{text}{errors}");
    assert!(json(&format!("{trace} --json"))["trace"].is_object());
    let (code, _, errors) = run("capture vm1 -w c.pcapng --point nic,drop,layer:acl --duration 1");
    assert_eq!((code, &*errors), (Some(0), "0 packets written\n"));
    assert!(fs::metadata(folder.0.join("c.pcapng")).unwrap().len() > 0);
    let (_, watched, _) = run("watch layer --count 2");
    assert!(watched.contains("existing layer vm1/acl"), "{watched}");

    // One object in an editor, then nothing of it is left.
    let (code, text, errors) = run("EDITOR='sed -i s/443/8443/' edit rule vm1/acl/inbound/services/web");
    assert!(code == Some(0) && text.contains("updated rule vm1/acl/inbound/services/web"), "{text}{errors}");
    let reply = json("delete layer vm1/acl --as acl --json");
    assert_eq!(changes(&reply), [0, 0, 4], "{reply}");
    assert!(json("list layer --port vm1 --json").as_array().unwrap().len() == 1);
}

fn value_is_no_error(value: &Value) -> bool {
    value.get("error").is_none()
}
