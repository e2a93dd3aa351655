//! The commands as a person runs them, against golden files.
//!
//! Every case runs the binary in the folder `trace`; its standard output, its errors and its exit code are compared
//! with `trace/NAME.txt`. `UPDATE_GOLDEN=1` writes the files anew; look at the difference before committing it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const SYN: &str = "tcp 10.0.0.1:1234 -> 10.0.99.1:80";
const SYN_ACK: &str = "tcp 10.0.0.2:8080 -> 10.0.0.1:1234 flags=syn+ack";
const TUNNELLED: &str =
    "vxlan 192.168.1.2 -> 192.0.2.1 vni=5001 / tcp 10.0.0.2:8080 -> 10.0.0.1:22 eth-dst=02:00:00:00:00:01";

const CASES: &[(&str, &[&str])] = &[
    ("check-good", &["check", "policy.yaml"]),
    ("check-missing-file", &["check", "no-such-file.yaml"]),
    ("balanced-and-tunnelled", &["trace", "-p", "policy.yaml", "--port", "vm1", SYN]),
    ("blocked-by-rule", &["trace", "-p", "policy.yaml", "--port", "vm1", "tcp 10.0.0.1:1 -> 10.0.0.2:25"]),
    (
        "blocked-by-default",
        &["trace", "-p", "policy.yaml", "--port", "vm1", "--direction", "inbound", SYN_ACK],
    ),
    (
        "reply-of-a-conversation",
        &[
            "trace",
            "-p",
            "policy.yaml",
            "--port",
            "vm1",
            "--direction",
            "inbound",
            "--after",
            "vm1: tcp 10.0.0.1:1234 -> 10.0.99.1:80",
            SYN_ACK,
        ],
    ),
    ("cached", &["trace", "-p", "policy.yaml", "--port", "vm1", "--after", SYN, SYN]),
    ("answered-arp", &["trace", "-p", "policy.yaml", "--port", "vm1", "arp 10.0.0.1 -> 10.0.0.2"]),
    ("mapping-miss", &["trace", "-p", "policy.yaml", "--port", "vm1", "arp 10.0.0.1 -> 10.0.0.3"]),
    ("from-the-network", &["trace", "-p", "policy.yaml", "--port", "uplink", TUNNELLED]),
    (
        "multicast",
        &["trace", "-p", "policy.yaml", "--port", "vm1", "eth type=0x88cc eth-dst=01:80:c2:00:00:0e"],
    ),
    (
        "packet-behind-the-policy",
        &["trace", "--port", "vm1", "-p", "policy.yaml", "arp 10.0.0.1 -> 10.0.0.2"],
    ),
    ("not-a-capture", &["trace", "-p", "policy.yaml", "--port", "vm1", "--pcap", "policy.yaml"]),
    ("empty-frame", &["trace", "-p", "policy.yaml", "--port", "vm1", "--hex", ""]),
    (
        "truncated-frame",
        &["trace", "-p", "policy.yaml", "--port", "vm1", "--hex", "020000000002 020000000001 0800 4500"],
    ),
    ("bad-hex", &["trace", "-p", "policy.yaml", "--port", "vm1", "--hex", "02 0"]),
    ("bad-packet", &["trace", "-p", "policy.yaml", "--port", "vm1", "tcp 10.0.0.1:1 -> 10.0.0.2:2 tll=3"]),
    ("no-such-port", &["trace", "-p", "policy.yaml", "--port", "vm2", SYN]),
    (
        "after-without-port",
        &["trace", "-p", "policy.yaml", "--port", "vm1", "--direction", "inbound", "--after", SYN, SYN_ACK],
    ),
    ("drop-reason", &["explain", "drop-reason", "mapping-miss"]),
    ("drop-reason-by-number", &["explain", "drop-reason", "17", "--json"]),
    ("no-such-drop-reason", &["explain", "drop-reason", "maping-miss"]),
];

const JSON_CASES: &[(&str, &[&str])] = &[
    ("json-check", &["check", "--json", "policy.yaml"]),
    ("json-tunnelled", &["trace", "--json", "-p", "policy.yaml", "--port", "vm1", SYN]),
    (
        "json-blocked",
        &["trace", "--json", "-p", "policy.yaml", "--port", "vm1", "--direction", "inbound", SYN_ACK],
    ),
    ("json-answered", &["trace", "--json", "-p", "policy.yaml", "--port", "vm1", "arp 10.0.0.1 -> 10.0.0.2"]),
    (
        "json-after",
        &[
            "trace",
            "--json",
            "-p",
            "policy.yaml",
            "--port",
            "vm1",
            "--after",
            SYN,
            "--after",
            "arp 10.0.0.1 -> 10.0.0.3",
            SYN,
        ],
    ),
    ("json-empty-frame", &["trace", "--json", "-p", "policy.yaml", "--port", "vm1", "--hex", ""]),
];

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/trace")
}

fn lamina(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lamina")).args(arguments).current_dir(folder()).output().unwrap()
}

fn compare(name: &str, got: &str, wrong: &mut Vec<String>) {
    let golden = folder().join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, got).unwrap();
    } else if fs::read_to_string(&golden).unwrap_or_default() != got {
        wrong.push(format!("--- {name}\n{got}"));
    }
}

#[test]
fn output_is_as_expected() {
    let mut wrong = Vec::new();
    for (name, arguments) in CASES {
        let output = lamina(arguments);
        let (out, errors) =
            (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        let code = output.status.code().expect("no signal ends the command");
        compare(name, &format!("$ lamina {}\n{out}{errors}exit {code}\n", arguments.join(" ")), &mut wrong);
    }
    assert!(wrong.is_empty(), "these differ from their golden file:\n{}", wrong.join("\n"));
}

#[test]
fn json_is_as_expected() {
    let mut wrong = Vec::new();
    for (name, arguments) in JSON_CASES {
        let output = lamina(arguments);
        let value: serde_json::Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{name}: {error}"));
        compare(name, &format!("{}\n", serde_json::to_string_pretty(&value).unwrap()), &mut wrong);
    }
    assert!(wrong.is_empty(), "these differ from their golden file:\n{}", wrong.join("\n"));
}

#[test]
fn a_refused_policy_is_told_as_text_and_as_json() {
    let path = std::env::temp_dir().join(format!("lamina-refused-{}.yaml", std::process::id()));
    fs::write(&path, "version: 1\nports:\n  vm1:\n    mack: \"02:00:00:00:00:01\"\n").unwrap();
    let file = path.to_str().unwrap();
    let text = lamina(&["check", file]);
    assert_eq!(text.status.code(), Some(1));
    assert!(String::from_utf8(text.stderr).unwrap().contains("did you mean `mac`?"));
    let json = lamina(&["check", "--json", file]);
    assert_eq!(json.status.code(), Some(1));
    let value: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(value["ok"], false);
    assert_eq!(value["diagnostics"][0]["code"], "unknown-field");
    assert_eq!(value["diagnostics"][0]["labels"][0]["line"], 4);
    let trace = lamina(&["trace", "-p", file, "--port", "vm1", SYN]);
    assert_eq!(trace.status.code(), Some(1));
    assert!(trace.stdout.is_empty());
    fs::remove_file(&path).unwrap();
}

#[test]
fn every_drop_reason_is_explained() {
    let output = lamina(&["explain", "drop-reasons"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), lamina_core::drop_reason::DropReason::ALL.len());
    for reason in lamina_core::drop_reason::DropReason::ALL {
        assert!(text.contains(reason.name()), "{}", reason.name());
    }
}

#[test]
fn no_frame_makes_the_command_fail() {
    let whole = "020000000002020000000001080045000028000140004006266e0a0000010a00000204d20050000003e8000000005002ffff00000000";
    for length in (0..=whole.len()).step_by(6) {
        let output = lamina(&["trace", "-p", "policy.yaml", "--port", "vm1", "--hex", &whole[..length]]);
        assert_eq!(output.status.code(), Some(0), "{length}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
