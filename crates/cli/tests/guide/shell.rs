//! A root shell in namespaces of its own, beside a daemon: what a reader of the guide has before the first command.
//!
//! Mounts, processes and the network are its own, `/run` is empty, so names of namespaces, interfaces and sockets cannot meet
//! those of the host. Everything ends with the shell.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Programs that pages use, beside the shell's own.
const PROGRAMS: &[&str] = &["unshare", "mount", "bash", "ip", "ss", "ping", "curl", "python3"];
/// Begins the line that ends a block's output.
const DONE: &str = "@@ the block is done";

/// Makes the surroundings, starts the daemon as the service would, then reads names of files with commands and runs
/// these. `$1` is the folder of the test, `$2` that of the command, `$3` is printed behind each.
const PROLOGUE: &str = r#"
exec 2>&1
mount -t tmpfs tmpfs /run && mkdir /run/lamina /run/guide && cd /run/guide && ip link set lo up || exit 1
guide_folder=$1 guide_done=$3 PATH=$2:$PATH
set --
lamina daemon --config "$guide_folder/laminad.toml" >"$guide_folder/log" 2>&1 &
for guide_try in {1..300}; do
    [ -S /run/lamina/lamina.sock ] && break
    sleep 0.1
done
[ -S /run/lamina/lamina.sock ] || exit 1
echo "$guide_done"
set -E
trap 'echo "\`$BASH_COMMAND\` with $?" >>"$guide_folder/failed"' ERR
while read -r -u 9 guide_block; do
    . "$guide_block" </dev/null 9<&-
    printf '\n%s\n' "$guide_done"
done 9<&0
"#;

/// What a block of commands did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// What it printed, errors as well.
    pub printed: String,
    /// The commands that failed.
    pub failed: String,
}

/// The shell.
pub struct Shell {
    /// How long a block may take.
    pub patience: Duration,
    folder: PathBuf,
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Shell {
    /// Starts one; the reason where that cannot be here. A shell that can be and does not start is a panic.
    pub fn start() -> Result<Shell, String> {
        let missing = PROGRAMS.iter().find(|program| {
            let path = std::env::var_os("PATH").unwrap_or_default();
            !std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
        });
        if let Some(missing) = missing {
            return Err(format!("{missing} is not installed"));
        }
        let apart = Command::new("unshare")
            .args(namespaces())
            .args(["ip", "link", "add", "probe", "type", "veth"])
            .output();
        match apart {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                let errors = String::from_utf8_lossy(&output.stderr);
                return Err(format!("namespaces with interfaces cannot be made: {}", errors.trim()));
            }
            Err(error) => return Err(format!("unshare cannot be started: {error}")),
        }
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("lamina-guide-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("laminad.toml"), "state = \"/run/lamina-state\"\n").unwrap();
        let program = PathBuf::from(env!("CARGO_BIN_EXE_lamina"));
        let mut child = Command::new("unshare")
            .args(namespaces())
            .args(["bash", "--noprofile", "--norc", "-c", PROLOGUE, "bash"])
            .args([&folder, program.parent().unwrap()])
            .arg(DONE)
            .env_remove("NOTIFY_SOCKET")
            .env_remove("LAMINA_SOCKET")
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n') {
                let Ok(line) = line else { return };
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
            }
        });
        let mut shell = Shell { patience: Duration::from_secs(60), folder, child, input, lines };
        if let Err(error) = shell.read() {
            panic!("the shell does not start: {error}\n{}", shell.log());
        }
        Ok(shell)
    }

    /// Runs a block of commands to its end.
    pub fn run(&mut self, commands: &str) -> Result<Outcome, String> {
        let (block, failed) = (self.folder.join("block"), self.folder.join("failed"));
        // The last command is not the failing one, or the trap would see it twice.
        fs::write(&block, format!("{commands}\n:\n")).unwrap();
        fs::write(&failed, "").unwrap();
        writeln!(self.input, "{}", block.display()).map_err(|error| format!("the shell is gone: {error}"))?;
        let printed = self.read()?;
        let failed = fs::read_to_string(failed).unwrap().trim_end().replace('\n', ", ");
        Ok(Outcome { printed, failed })
    }

    /// What is printed until the block is done.
    fn read(&mut self) -> Result<String, String> {
        let deadline = Instant::now() + self.patience;
        let mut printed = String::new();
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line == DONE => return Ok(printed),
                Ok(line) => printed.push_str(&format!("{line}\n")),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("not done after {:?}; printed so far:\n{printed}", self.patience));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(format!("the shell ended; printed so far:\n{printed}"));
                }
            }
        }
    }

    /// What the daemon logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // `unshare` takes its child along, and with that first process of a namespace all others of it end.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Options of `unshare`.
fn namespaces() -> Vec<&'static str> {
    let mut options = vec!["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"];
    if !rustix::process::geteuid().is_root() {
        options.extend(["--user", "--map-root-user"]);
    }
    options
}
