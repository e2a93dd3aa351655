//! Commands that talk to a daemon, as a person runs them, against golden files.
//!
//! Every case runs the binary against a [`fake`] of its own; what it prints, its errors and its exit codes are compared
//! with `daemon/NAME.txt`. `UPDATE_GOLDEN=1` writes the files anew; look at the difference before committing it.

mod fake;
mod live;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use fake::Fake;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
use pcap_file::pcapng::{Block, PcapNgReader};

/// A name, and command lines that are run one after the other. Words `NAME=VALUE` before the command are environment.
const CASES: &[(&str, &[&str])] = &[
    ("status", &["status", "status --json"]),
    ("list", &["list", "list rule", "list all --owner acl", "list --owner acl --json", "list layers --json"]),
    (
        "get",
        &[
            "get ports",
            "get layer",
            "get rule --layer acl",
            "get group vm1/vnet/outbound/directory",
            "get mapping-entry --mapping blue",
            "get metadata",
            "get multicast",
            "get all --owner acl",
            "get port vm9",
            "get port vm1x",
            "get rule vm1/acl/inbound/services/wep",
            "get rule vm1/acl/web",
            "get rule vm1/acl/up/services/web --json",
        ],
    ),
    (
        "get-forms",
        &[
            "get layer vm1/acl -o yaml",
            "get mapping blue -o yaml",
            "get rule web ssh --group services -o yaml",
            "get all -o yaml",
            "get all --owner vnet -o yaml",
            "get rule vm1/acl/inbound/services/ssh --json",
            "get mapping -o json",
        ],
    ),
    (
        "apply",
        &[
            "apply -f acl.yaml",
            "apply -f acl-changed.yaml --dry-run",
            "apply -f acl-changed.yaml --dry-run --prune",
            "apply -f acl-changed.yaml --prune",
            "apply -f acl-changed.yaml",
            "apply --file host.yaml vnet.yaml --as vnet",
            "apply -f shared-key.yaml",
            "list --owner acl",
        ],
    ),
    ("apply-json", &["apply -f acl-changed.yaml --dry-run --json", "apply -f acl-changed.yaml --json"]),
    ("apply-warnings", &["apply -f acl.yaml --warnings", "apply -f acl.yaml --warnings --json"]),
    (
        "apply-refused",
        &[
            "apply -f acl-mistaken.yaml",
            "apply -f acl-mistaken.yaml --json",
            "apply -f not-mine.yaml",
            "apply -f acl.yaml -f acl-mistaken.yaml",
            "apply -f wrong.yaml",
            "apply -f wrong.yaml --json",
            "apply -f no-mac.yaml",
            "apply -f acl.yaml vnet.yaml",
            "apply -f acl.yaml --as nobody",
            "apply -f no-such-file.yaml",
            "apply",
        ],
    ),
    (
        "delete",
        &[
            "delete rule vm1/acl/inbound/services/web --as acl --dry-run",
            "delete rule vm1/acl/inbound/services/web --as acl",
            "delete rule web --port vm1 --layer acl --direction inbound --group services --as acl",
            "delete rule web --port vm1 --layer acl --direction inbound --group services --as acl --if-exists",
            "delete layer vm1/vnet --as acl --json",
            "delete layer acl --as acl",
            "delete layer",
            "delete all everything",
            "delete multicast --as host --json",
            "delete port vm1",
        ],
    ),
    (
        "edit",
        &[
            "EDITOR='sed -i s/443/8443/' edit rule vm1/acl/inbound/services/web",
            "EDITOR='sed -i s/10.0.0.0/10.1.0.0/' edit layer vm1/vnet",
            "VISUAL='sed -i s/10.0.0.3/10.0.0.4/' EDITOR=false edit mapping blue",
            "get all --owner vnet",
            "EDITOR=true edit rule vm1/acl/inbound/services/web",
            "EDITOR=false edit rule vm1/acl/inbound/services/web",
            "EDITOR='sed -i s/allow/alow/' edit rule vm1/acl/inbound/services/ssh",
            "EDITOR='sed -i s/meter:.web/meter:\\ wep/' edit rule vm1/acl/inbound/services/web",
            "EDITOR='sed -i s/name:.web/name:\\ wep/' edit rule vm1/acl/inbound/services/web",
            "EDITOR='sed -i s,.admins,0.0.0.0/0,' edit rule vm1/acl/inbound/services/ssh --as vnet --json",
            "edit rule vm1/acl/inbound/services/none",
            "edit metadata zone",
        ],
    ),
    (
        "watch",
        &[
            "watch port rule",
            "watch layer --json --count 1",
            "watch rule --layer acl --after 2 --count 9",
            "watch --after 99",
        ],
    ),
    (
        "flows",
        &[
            "flows",
            "flows --direction inbound --limit 1",
            "flows --direction inbound --pair --json",
            "flows --port vm1 --direction outbound --address 10.0.0.0/24 --l4-port 9 --protocol tcp --tenant 7 --layer acl --rule web --min-packets 5 --stale --pair --family 4 --limit 3 --sample 2",
            "flows --clear",
            "flows --clear --all",
            "flows --clear --l4-port 80 --pair --json",
            "flows --all",
            "flows --family 5",
        ],
    ),
    (
        "drops",
        &[
            "drops",
            "drops --port uplink --json",
            "drops --by reason",
            "drops --by rule --json",
            "drops --reason blocked --layer acl --by layer",
            "drops --recent",
            "drops --recent --json",
            "drops --reason mapping-miss",
        ],
    ),
    (
        "stats",
        &["stats", "stats --nonzero --kind rule,meter", "stats --port vm2", "stats --kind port --json"],
    ),
    (
        "trace",
        &[
            "trace --port vm1 \"tcp 10.0.0.1:1234 -> 10.0.99.1:80\"",
            "trace --live --verbose --port vm2 --direction inbound --json \"udp 10.0.0.1:1 -> 10.0.0.2:53\"",
            "trace --port uplink --hex 0102",
            "trace --port vm3 --hex 0102",
            "trace --port vm1 --from uplink --hex 0102",
            "trace -p host.yaml --live --port vm1 --hex 0102",
        ],
    ),
    (
        "capture",
        &[
            "capture vm1",
            "capture vm2 --point nic,layer:acl --verdict drop --json --count 1",
            "capture --point drop --reason mapping-miss",
            "capture -w captured.pcapng --point nic,layer:acl --snap 60",
            "capture --point somewhere",
        ],
    ),
    ("events", &["events", "events --json", "events limit port-up --after 3", "events --count 1"]),
    ("limits", &["limits", "limits --above 50", "limits --scope host --json", "limits --scope nobody"]),
    ("audit", &["audit", "audit --owner acl --json"]),
    (
        "unreachable",
        &[
            "LAMINA_SOCKET=no-such.sock get port",
            "LAMINA_SOCKET=no-such.sock apply -f acl.yaml --json",
            "get port --socket host.yaml",
            "LAMINA_SOCKET=no-such.sock trace --port vm1 --hex 00",
        ],
    ),
    ("explain", &["explain mapping-miss", "explain mapping-miss --json", "explain maping-miss", "explain"]),
];

fn files() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/daemon/files")
}

/// A folder of its own for each test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("lamina-cli-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        for file in fs::read_dir(files()).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), path.join(file.file_name())).unwrap();
        }
        Folder(path)
    }

    fn fake(&self) -> Fake {
        let first: Vec<PathBuf> =
            ["host.yaml", "vnet.yaml", "acl.yaml"].map(|name| files().join(name)).into();
        Fake::start(&self.0, &first.iter().map(PathBuf::as_path).collect::<Vec<_>>())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Words of a command line: separated by spaces; quotes of either kind keep them together.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for letter in line.chars() {
        let word = words.last_mut().unwrap();
        match (letter, quote) {
            (' ', None) => words.push(String::new()),
            ('"' | '\'', None) => quote = Some(letter),
            (_, Some(open)) if letter == open => quote = None,
            _ => word.push(letter),
        }
    }
    words
}

/// Runs a command line; the process's number is that of the file names that it makes up.
fn lamina(folder: &Folder, socket: &Path, line: &str) -> (u32, Output) {
    let words = words(line);
    let is_environment = |word: &&String| {
        word.split_once('=').is_some_and(|(name, _)| {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_')
        })
    };
    let environment: Vec<_> = words.iter().take_while(is_environment).collect();
    let mut command = Command::new(env!("CARGO_BIN_EXE_lamina"));
    command.current_dir(&folder.0).env("LAMINA_SOCKET", socket).env("TMPDIR", &folder.0).env("NO_COLOR", "1");
    command.env_remove("VISUAL").env_remove("EDITOR");
    command.envs(environment.iter().map(|word| word.split_once('=').unwrap()));
    command.args(&words[environment.len()..]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    (child.id(), child.wait_with_output().unwrap())
}

/// JSON lines in the form that is good to read.
fn pretty(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let value: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        out.push_str(&serde_json::to_string_pretty(&value).unwrap());
        out.push('\n');
    }
    out
}

fn shown(folder: &Folder, socket: &Path, line: &str) -> String {
    let (process, output) = lamina(folder, socket, line);
    let (out, errors) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    let is_json = line.contains("--json") || line.contains("-o json");
    let out = if is_json { pretty(&out) } else { out };
    let code = output.status.code().expect("no signal ends the command");
    let environment = line.split(' ').next().unwrap().contains('=');
    let program = if environment { "" } else { "lamina " };
    format!("$ {program}{line}\n{out}{errors}exit {code}\n")
        .replace(&format!("lamina-edit-{process}"), "lamina-edit-N")
        .replace(&folder.0.display().to_string(), "FOLDER")
}

fn compare(name: &str, got: &str, wrong: &mut Vec<String>) {
    let golden = files().join("..").join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, got).unwrap();
    } else if fs::read_to_string(&golden).unwrap_or_default() != got {
        wrong.push(format!("--- {name}\n{got}"));
    }
}

#[test]
fn output_is_as_expected() {
    let mut wrong = Vec::new();
    for (name, lines) in CASES {
        let folder = Folder::new(name);
        let fake = folder.fake();
        let got: Vec<String> = lines.iter().map(|line| shown(&folder, &fake.socket, line)).collect();
        compare(name, &got.join("\n"), &mut wrong);
    }
    assert!(wrong.is_empty(), "these differ from their golden file:\n{}", wrong.join("\n"));
}

#[test]
fn what_get_prints_can_be_applied() {
    let folder = Folder::new("again");
    let fake = folder.fake();
    for owner in ["acl", "vnet", "host"] {
        let (_, document) = lamina(&folder, &fake.socket, &format!("get all --owner {owner} -o yaml"));
        fs::write(folder.0.join("again.yaml"), &document.stdout).unwrap();
        let (_, again) = lamina(&folder, &fake.socket, "apply -f again.yaml --prune --json");
        let reply: serde_json::Value = serde_json::from_slice(&again.stdout).unwrap();
        let counts = ["created", "updated", "deleted"].map(|key| reply[key].as_u64());
        assert_eq!(counts, [Some(0); 3], "{owner}: {reply}");
        assert!(reply["unchanged"].as_u64() > Some(1), "{owner}: {reply}");
    }
    let (_, mapping) = lamina(&folder, &fake.socket, "get mapping blue --json");
    let mapping: serde_json::Value = serde_json::from_slice(&mapping.stdout).unwrap();
    assert_eq!(mapping[0]["agents"], serde_json::json!(["directory"]), "documents have no word for agents");
}

#[test]
fn a_capture_file_is_read_by_others() {
    let folder = Folder::new("pcapng");
    let fake = folder.fake();
    let (_, output) = lamina(&folder, &fake.socket, "capture vm1 -w - --point nic,layer:acl");
    assert!(output.status.success());
    let mut reader = PcapNgReader::new(&output.stdout[..]).unwrap();
    let (mut interfaces, mut packets) = (Vec::new(), Vec::new());
    while let Some(block) = reader.next_block() {
        match block.unwrap().into_owned() {
            Block::InterfaceDescription(interface) => {
                assert!(interface.options.contains(&InterfaceDescriptionOption::IfTsResol(9)));
                interfaces.extend(interface.options.into_iter().filter_map(|option| match option {
                    InterfaceDescriptionOption::IfName(name) => Some(name.into_owned()),
                    _ => None,
                }));
            }
            Block::EnhancedPacket(packet) => packets.push(packet),
            // What was lost.
            Block::InterfaceStatistics(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(interfaces, ["vm1 nic", "vm1 layer:acl"]);
    assert_eq!(packets.iter().map(|packet| packet.interface_id).collect::<Vec<_>>(), [0, 0, 1, 1]);
    let noon = std::time::Duration::from_secs(1_795_780_800);
    assert_eq!(packets[1].timestamp, noon + std::time::Duration::from_nanos(1));
    assert_eq!((packets[1].original_len, packets[1].data.len()), (54, 54));
    let comment = |text: &'static str| EnhancedPacketOption::Comment(text.into());
    assert_eq!(packets[0].options, [EnhancedPacketOption::Flags(1), comment("forward")]);
    let dropped = comment("drop blocked by acl/services/telnet");
    assert_eq!(packets[1].options, [EnhancedPacketOption::Flags(2), dropped]);
    // The captured packet is one that `lamina trace` takes.
    fs::write(folder.0.join("c.pcapng"), &output.stdout).unwrap();
    let (_, traced) = lamina(&folder, &fake.socket, "trace --port vm1 --pcap c.pcapng --frame 3");
    assert!(String::from_utf8(traced.stdout).unwrap().contains("0a0000090a000001"));
}

#[test]
fn fifty_thousand_rules_are_applied_in_pieces() {
    let folder = Folder::new("many");
    let fake = folder.fake();
    let mut text = String::from("version: 1\nowner: acl\nresources: { mappings: { many: { entries: [\n");
    for index in 0..30_000u32 {
        let (high, low) = (index >> 8, index & 255);
        text +=
            &format!("{{ address: 10.1.{high}.{low}, mac: \"02:00:00:00:00:05\", remote: 192.168.1.2 }},\n");
    }
    text += "] } } }\nports:\n  vm2:\n    layers:\n      - name: many\n        priority: 5\n        inbound:\n          - group: all\n            rules:\n";
    for index in 0..50_000u32 {
        let (high, low) = (index >> 8, index & 255);
        text += &format!(
            "            - {{ name: rule-{index}, when: {{ ip.src: 10.1.{high}.{low} }}, action: block }}\n"
        );
    }
    fs::write(folder.0.join("many.yaml"), &text).unwrap();
    let (_, output) = lamina(&folder, &fake.socket, "apply -f many.yaml --json");
    let reply: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    // Rules and entries, a layer, a group, a table.
    assert_eq!(reply["created"], 80_003, "{reply}");
    assert_eq!(reply["changes"].as_array().unwrap().len(), 1000);
    let (_, output) = lamina(&folder, &fake.socket, "list rule --layer many");
    assert_eq!(output.stdout.iter().filter(|byte| **byte == b'\n').count(), 50_000);
    // A mistake in the last rule is shown at its place, and nothing is applied.
    let at = text.rfind("action: block").unwrap();
    text.replace_range(at.., "action: { meter: none } }\n");
    fs::write(folder.0.join("many.yaml"), text.replace("192.168.1.2", "192.168.1.3")).unwrap();
    let (_, output) = lamina(&folder, &fake.socket, "apply -f many.yaml --json");
    assert_eq!(output.status.code(), Some(1));
    let reply: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let mistakes = reply["error"]["mistakes"].as_array().unwrap();
    assert_eq!(mistakes.len(), 1);
    assert_eq!(mistakes[0]["place"]["line"], 80_012, "{reply}");
    let (_, output) = lamina(&folder, &fake.socket, "get mapping-entry many/10.1.0.0 --json");
    assert!(String::from_utf8(output.stdout).unwrap().contains("192.168.1.2"));
}

#[test]
fn top_shows_rates() {
    let folder = Folder::new("top");
    let fake = folder.fake();
    let (_, output) = lamina(&folder, &fake.socket, "top --once --interval 0.2 --json --lines 3");
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let seconds = value["interval"].as_f64().unwrap();
    assert!(seconds >= 0.2, "{value}");
    let rates = value["rates"].as_array().unwrap();
    let of = |rate: &serde_json::Value| {
        (rate["kind"].as_str().unwrap().to_owned(), rate["packets-per-second"].as_f64().unwrap() * seconds)
    };
    let near = |rate: f64, wanted: f64| (rate - wanted).abs() < 0.001;
    let rates: Vec<_> = rates.iter().map(of).collect();
    assert_eq!(rates.len(), 3, "{value}");
    assert!(rates[0].0 == "port" && near(rates[0].1, 60.0), "{value}");
    assert!(near(rates[1].1, 50.0) && near(rates[2].1, 50.0), "{value}");
    assert_eq!(value["hidden"], 1, "the default; what is idle is left out");
    let (_, output) =
        lamina(&folder, &fake.socket, "top --once --interval 0.1 --port vm1 --kind port --idle");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("KIND") && text.contains("vm1") && text.lines().count() == 2, "{text}");
    let (_, output) = lamina(&folder, &fake.socket, "top --interval 0");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn completion_and_manual_pages_are_generated() {
    let folder = Folder::new("generated");
    let socket = folder.0.join("none");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (_, output) = lamina(&folder, &socket, &format!("completion {shell}"));
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success() && script.contains("capture") && script.contains("dry-run"),
            "{shell}"
        );
    }
    let (_, output) = lamina(&folder, &socket, "man pages/man1");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let page = |name: &str| fs::read_to_string(folder.0.join("pages/man1").join(name)).unwrap();
    assert!(page("lamina.1").contains("lamina\\-apply"));
    assert!(page("lamina-apply.1").contains("prune"));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let folder = Folder::new("pipe");
    let fake = folder.fake();
    let topology = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/gateway.yaml");
    let lines = [
        "list rule".to_string(),
        "check host.yaml".into(),
        "check host.yaml --json".into(),
        "explain blocked".into(),
        "explain drop-reasons".into(),
        "explain drop-reasons --json".into(),
        format!("lab check {topology}"),
        format!("lab check {topology} --json"),
        "trace -p host.yaml --port vm1 --hex ffffffffffff0200000000010800".into(),
        "trace -p host.yaml --port vm1 --hex ffffffffffff0200000000010800 --json".into(),
        "trace --port vm1 \"tcp 10.0.0.1:1234 -> 10.0.99.1:80\"".into(),
        "daemon --check --config laminad.toml".into(),
        "completion bash".into(),
    ];
    fs::write(folder.0.join("laminad.toml"), "log = \"warn\"").unwrap();
    for line in &lines {
        // All of it is written to a pipe that nobody reads.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_lamina"));
        command.args(words(line)).current_dir(&folder.0).env("LAMINA_SOCKET", &fake.socket);
        let output = command.stdout(writer).stderr(Stdio::piped()).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && errors.is_empty(), "{line}: {} {errors}", output.status);
    }
}

#[test]
fn failures_without_a_daemon_are_json_too() {
    let folder = Folder::new("failures");
    for line in [
        "check nofile --json",
        "explain nothing --json",
        "explain drop-reason nothing --json",
        "lab check nofile --json",
        "lab run nofile --json",
        "trace -p host.yaml --port vm1 --json tpc",
    ] {
        let (_, output) = lamina(&folder, Path::new("no-such.sock"), line);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && errors.is_empty(), "{line}: {} {errors}", output.status);
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(told["error"]["kind"] == "failed" && told["error"]["message"].is_string(), "{line}: {told}");
        assert_eq!(output.stdout.iter().filter(|byte| **byte == b'\n').count(), 1, "{line}");
    }
}

#[test]
fn a_topology_is_told_from_a_policy() {
    let folder = Folder::new("topology");
    let topology = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/gateway.yaml");
    for line in [format!("check {topology}"), format!("apply -f {topology}")] {
        let (_, output) = lamina(&folder, Path::new("no-such.sock"), &line);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), errors.matches("help:").count()), (Some(1), 1), "{line}: {errors}");
        assert!(
            errors.contains("topology of a lab") && errors.contains("lamina lab check"),
            "{line}: {errors}"
        );
    }
}

#[test]
fn names_that_do_not_exist_are_refused() {
    let folder = Folder::new("names");
    let fake = folder.fake();
    for (line, help) in [
        ("drops --reason blokced", "did you mean `blocked`?"),
        ("capture --reason 999", "lamina explain drop-reasons"),
        ("stats --kind ruel", "'rule'"),
        ("top --kind rule,nothing", "possible values"),
    ] {
        let (_, output) = lamina(&folder, &fake.socket, line);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && errors.contains(help), "{line}: {errors}");
    }
}
