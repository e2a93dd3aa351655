//! The Debian package: what is in it, and that its service starts as the unit says.
//!
//! It is installed with `dpkg` into a folder that serves as root directory, with its own accounts; the daemon runs there in a
//! network namespace, with the unit's user and capabilities and no others, and a member of the group applies a policy.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

const POLICY: &str = r#"
version: 1
ports:
  vm1:
    mac: "02:00:00:00:00:01"
    layers:
      - name: acl
        owner: operator
        priority: 10
        default: { inbound: block, outbound: pass }
"#;
/// An account besides the service's, and its number.
const OPERATOR: (&str, u32) = ("operator", 4321);

/// A folder that is gone at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("lamina-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The service's process, ended with the test.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {errors}", output.status);
    output
}

fn text(command: &mut Command) -> String {
    String::from_utf8(run(command).stdout).unwrap()
}

fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.is_ok()
}

/// Builds the package of this binary in `folder`.
fn package(folder: &Path) -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args([
        "run",
        "--quiet",
        "--package",
        "xtask",
        "--",
        "deb",
        "--binary",
        env!("CARGO_BIN_EXE_lamina"),
    ]);
    let printed = text(cargo.arg("--output").arg(folder).current_dir(env!("CARGO_MANIFEST_DIR")));
    printed.lines().last().unwrap().into()
}

/// The value of a key of the unit.
fn value<'a>(unit: &'a str, key: &str) -> &'a str {
    let line = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    line.unwrap_or_else(|| panic!("the unit has no {key}"))
}

/// Copies a program and the libraries that it needs into `root`, at the same places.
fn copy_program(program: &Path, root: &Path) {
    let listed = text(Command::new("ldd").arg(program));
    let libraries = listed.split_whitespace().filter(|word| word.starts_with('/')).map(Path::new);
    for file in libraries.chain([program]) {
        let place = root.join(file.strip_prefix("/").unwrap());
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        if !place.exists() {
            fs::copy(file, &place).unwrap();
        }
    }
}

fn account(root: &Path, file: &str, name: &str) -> u32 {
    let text = fs::read_to_string(root.join(file)).unwrap();
    let line = text.lines().find(|line| line.starts_with(&format!("{name}:"))).unwrap();
    line.split(':').nth(2).unwrap().parse().unwrap()
}

#[test]
fn the_package_installs_and_its_service_starts_as_the_unit_says() {
    let programs =
        ["dpkg", "dpkg-deb", "gzip", "git", "setpriv", "unshare", "ip", "chroot", "useradd", "ldd"];
    if let Some(missing) = programs.into_iter().find(|program| !has(program)) {
        println!("skipped, because {missing} is not installed");
        return;
    }
    let scratch = Scratch::new("package");
    let package = package(&scratch.0);
    check_contents(&package);
    if !rustix::process::geteuid().is_root() {
        println!(
            "skipped, because only root installs a package: its contents were checked, the service was not started"
        );
        return;
    }
    let root = scratch.0.join("root");
    install(&package, &root);
    let unit = fs::read_to_string(root.join("usr/lib/systemd/system/laminad.service")).unwrap();
    let (uid, gid) = (account(&root, "etc/passwd", "lamina"), account(&root, "etc/group", "lamina"));
    assert_eq!(
        (value(&unit, "User"), value(&unit, "Group"), value(&unit, "Type")),
        ("lamina", "lamina", "notify")
    );
    // What the service manager makes.
    for (key, folder) in [("RuntimeDirectory", "run"), ("StateDirectory", "var/lib")] {
        let folder = root.join(folder).join(value(&unit, key));
        fs::create_dir_all(&folder).unwrap();
        chown(&folder, Some(uid), Some(gid)).unwrap();
    }
    let manager = UnixDatagram::bind(root.join("run/notify")).unwrap();
    fs::set_permissions(root.join("run/notify"), PermissionsExt::from_mode(0o666)).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let heard = || {
        let mut bytes = [0; 4096];
        let length = manager.recv(&mut bytes).expect("the service manager was told nothing within a minute");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    let service = start(&root, &unit, uid, gid);
    let told = heard();
    assert!(told.starts_with("READY=1"), "{told}");
    has_no_more_rights(service.0.id(), uid);

    // A user outside the group cannot open the socket; a member can read, and write once the configuration says so.
    fs::write(root.join("policy.yaml"), POLICY).unwrap();
    let outsider = lamina(&root, OPERATOR.1, &["status"]).output().unwrap();
    assert!(!outsider.status.success());
    let member = gid.to_string();
    let as_member =
        |arguments: &[&str]| lamina(&root, OPERATOR.1, &[&["--groups", &member], arguments].concat());
    run(&mut as_member(&["status"]));
    let apply = ["apply", "-f", "/policy.yaml", "--as", "operator"];
    let refused = as_member(&apply).output().unwrap();
    assert_eq!(refused.status.code(), Some(1), "{}", String::from_utf8_lossy(&refused.stderr));
    let file = root.join("etc/lamina/laminad.toml");
    let config = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{config}\n[controllers.operator]\nusers = [\"{}\"]\n", OPERATOR.0)).unwrap();
    assert_eq!(value(&unit, "ExecReload"), "/bin/kill -HUP $MAINPID");
    let pid = rustix::process::Pid::from_child(&service.0);
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    assert_eq!(heard(), "RELOADING=1");
    assert_eq!(heard(), "READY=1");
    run(&mut as_member(&apply));
    // The port finds its device with the rights that the unit gives.
    let mut status = String::new();
    for _ in 0..100 {
        status = text(&mut as_member(&["status"]));
        if status.lines().any(|line| line.starts_with("vm1 ") && line.contains("running")) {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(status.lines().any(|line| line.starts_with("vm1 ") && line.contains("running")), "{status}");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(heard(), "STOPPING=1");
    let mut service = service;
    assert!(service.0.wait().unwrap().success());
}

fn check_contents(package: &Path) {
    let information = text(Command::new("dpkg-deb").arg("--info").arg(package));
    for wanted in ["Package: lamina", "Depends: libc6 (>= 2.", "conffiles", "postinst", "prerm", "postrm"] {
        assert!(information.contains(wanted), "{wanted}: {information}");
    }
    let contents = text(Command::new("dpkg-deb").arg("--contents").arg(package));
    for (mode, name) in [
        ("-rwxr-xr-x root/root", "./usr/bin/lamina"),
        ("-rw-r--r-- root/root", "./etc/lamina/laminad.toml"),
        ("-rw-r--r-- root/root", "./usr/lib/systemd/system/laminad.service"),
        ("-rw-r--r-- root/root", "./usr/share/man/man1/lamina-daemon.1.gz"),
        ("-rw-r--r-- root/root", "./usr/share/bash-completion/completions/lamina"),
        ("-rw-r--r-- root/root", "./usr/share/doc/lamina/copyright"),
        ("-rw-r--r-- root/root", "./usr/share/doc/lamina/reference/laminad.md"),
    ] {
        let there =
            contents.lines().any(|line| line.starts_with(mode) && line.ends_with(&format!(" {name}")));
        assert!(there, "{mode} {name}: {contents}");
    }
}

/// Installs the package into `root`, which has accounts of its own and nothing else.
fn install(package: &Path, root: &Path) {
    for folder in ["etc", "proc", "run", "var/lib/dpkg/info", "var/lib/dpkg/updates"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::write(root.join("var/lib/dpkg/status"), "").unwrap();
    let (name, number) = OPERATOR;
    fs::write(
        root.join("etc/passwd"),
        format!("root:x:0:0::/:/bin/sh\n{name}:x:{number}:{number}::/:/bin/sh\n"),
    )
    .unwrap();
    fs::write(root.join("etc/group"), format!("root:x:0:\n{name}:x:{number}:\n")).unwrap();
    let mut dpkg = Command::new("dpkg");
    dpkg.arg(format!("--root={}", root.display()));
    // The folder has no shell: scripts run outside and are told of it by DPKG_ROOT.
    run(dpkg.args(["--force-script-chrootless", "--force-depends", "--install"]).arg(package));
    for program in ["/usr/bin/setpriv", env!("CARGO_BIN_EXE_lamina")] {
        copy_program(Path::new(program), root);
    }
}

/// A command in `root` as the user `uid`, without any capability.
fn lamina(root: &Path, uid: u32, arguments: &[&str]) -> Command {
    let (groups, arguments) = match arguments {
        ["--groups", groups, rest @ ..] => (Some(*groups), rest),
        all => (None, all),
    };
    let mut command = Command::new("chroot");
    command.arg(root).args(["/usr/bin/setpriv", &format!("--reuid={uid}"), &format!("--regid={uid}")]);
    match groups {
        Some(groups) => command.arg(format!("--groups={groups}")),
        None => command.arg("--clear-groups"),
    };
    command.args(["--bounding-set=-all", "/usr/bin/lamina"]).args(arguments);
    command
}

/// Starts the unit's command as its user, with its capabilities, in namespaces of its own with a guest's device.
fn start(root: &Path, unit: &str, uid: u32, gid: u32) -> Service {
    let listed = |key: &str| {
        let names = value(unit, key).split_whitespace();
        let names: Vec<String> =
            names.map(|name| format!("+{}", name.strip_prefix("CAP_").unwrap().to_lowercase())).collect();
        format!("-all,{}", names.join(","))
    };
    let ambient = listed("AmbientCapabilities");
    let mut command = Command::new("unshare");
    let surroundings = "mount --bind /proc \"$1/proc\" && ip link add vm1 type veth peer name guest && \
                        ip link set vm1 up && ip link set guest up && exec chroot \"$@\"";
    command.args(["--net", "--mount", "sh", "-ec", surroundings, "sh"]).arg(root).arg("/usr/bin/setpriv");
    command.args([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".into()]);
    command.args([format!("--inh-caps={ambient}"), format!("--ambient-caps={ambient}")]);
    command.arg(format!("--bounding-set={}", listed("CapabilityBoundingSet"))).arg("--no-new-privs");
    command.args(value(unit, "ExecStart").split(' ')).env("NOTIFY_SOCKET", "/run/notify");
    Service(command.stdin(Stdio::null()).spawn().unwrap())
}

/// The process has the user's number and exactly the two capabilities.
fn has_no_more_rights(pid: u32, uid: u32) {
    const NET_ADMIN_AND_NET_RAW: &str = "0000000000003000";
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
    for set in ["CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(set), NET_ADMIN_AND_NET_RAW, "{set}");
    }
    assert_eq!(field("Uid:").split_whitespace().next(), Some(&*uid.to_string()));
}
