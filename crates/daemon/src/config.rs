//! `laminad.toml`: what the daemon is told by its administrator. The reference is `docs/reference/laminad.md`.
//!
//! Reading it changes nothing; a file that is wrong is refused whole, with the place.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use lamina_core::packet::TunnelPorts;
use serde::Deserialize;

use crate::control::{Controller, Rights};

/// The whole file.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Config {
    /// The socket on which the API is served.
    pub socket: PathBuf,
    /// The socket's permissions, as `chmod` writes them.
    pub socket_mode: String,
    /// The group that owns the socket; empty for the daemon's own.
    pub socket_group: String,
    /// The directory in which policy is kept; empty: in memory only.
    pub state: PathBuf,
    /// Worker threads.
    pub workers: usize,
    /// Packet buffers, shared among the workers.
    pub buffers: usize,
    /// `adaptive` sleeps when there is nothing to do, `busy` never does.
    pub polling: PollingMode,
    /// Interfaces that are uplinks; the first one is what policy calls `uplink`.
    pub uplinks: Vec<String>,
    /// Further UDP ports by which VXLAN is known, beside 4789.
    pub vxlan_ports: Vec<u16>,
    /// What is logged: `error`, `warn`, `info`, `debug`, or a filter of `tracing`.
    pub log: String,
    /// Bounds of the API.
    pub limits: Limits,
    /// Who may do what.
    pub access: Access,
    /// Controllers by name.
    pub controllers: BTreeMap<String, ControllerEntry>,
}

/// How workers wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PollingMode {
    /// They sleep when there is nothing to do.
    #[default]
    Adaptive,
    /// They never sleep.
    Busy,
}

/// Bounds of the API.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Limits {
    /// Connections of all users together.
    pub connections: usize,
    /// Connections of one user.
    pub connections_per_user: usize,
    /// Calls of one user that may stream flows, captured packets or events at the same time.
    pub streams_per_user: usize,
    /// Bytes of one message.
    pub message_bytes: usize,
    /// Bytes of one transaction.
    pub transaction_bytes: usize,
}

/// Who may do what without being a controller.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Access {
    /// Users that may be every controller.
    pub administrators: Vec<Account>,
    /// Users that may read; with `reader_groups` empty as well: everybody who can open the socket.
    pub readers: Vec<Account>,
    /// Groups whose members may read.
    pub reader_groups: Vec<Account>,
}

/// A controller.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ControllerEntry {
    /// Users that may be it.
    pub users: Vec<Account>,
    /// Groups whose members may be it.
    pub groups: Vec<Account>,
    /// Whether it may make and remove ports.
    pub ports: bool,
}

/// A user or group: its name or its number.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(untagged)]
pub enum Account {
    /// Its number.
    Number(u32),
    /// Its name, looked up in `/etc/passwd` or `/etc/group`; digits that are nobody's name are a number.
    Name(String),
}

impl Default for Config {
    fn default() -> Self {
        Config {
            socket: "/run/lamina/lamina.sock".into(),
            socket_mode: "0660".into(),
            socket_group: String::new(),
            state: "/var/lib/lamina".into(),
            workers: 1,
            buffers: 4096,
            polling: PollingMode::default(),
            uplinks: Vec::new(),
            vxlan_ports: Vec::new(),
            log: "info".into(),
            limits: Limits::default(),
            access: Access::default(),
            controllers: BTreeMap::new(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 1024,
            connections_per_user: 256,
            streams_per_user: 64,
            message_bytes: 4 << 20,
            transaction_bytes: 256 << 20,
        }
    }
}

impl Default for Access {
    fn default() -> Self {
        Access { administrators: vec![Account::Number(0)], readers: Vec::new(), reader_groups: Vec::new() }
    }
}

impl Default for ControllerEntry {
    fn default() -> Self {
        ControllerEntry { users: Vec::new(), groups: Vec::new(), ports: true }
    }
}

/// Why the configuration cannot be used; the text says where and what to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError(String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

/// Where users and groups are looked up.
#[derive(Clone, Debug)]
pub struct Accounts {
    users: String,
    groups: String,
}

impl Accounts {
    /// Those of this system.
    pub fn of_system() -> Accounts {
        // A system without these files has no names.
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Accounts { users: read("/etc/passwd"), groups: read("/etc/group") }
    }

    fn find(text: &str, name: &str) -> Option<u32> {
        text.lines().find_map(|line| {
            let mut fields = line.split(':');
            if fields.next() != Some(name) {
                return None;
            }
            fields.nth(1)?.parse().ok()
        })
    }

    fn numbers(text: &str, what: &str, accounts: &[Account]) -> Result<Vec<u32>, ConfigError> {
        let number = |account: &Account| match account {
            Account::Number(number) => Ok(*number),
            Account::Name(name) => Self::find(text, name).or_else(|| name.parse().ok()).ok_or_else(|| {
                ConfigError(format!(
                    "there is no {what} `{name}` on this system: make it, or write its number"
                ))
            }),
        };
        accounts.iter().map(number).collect()
    }

    /// The number of the group `name`.
    pub fn group(&self, name: &str) -> Result<u32, ConfigError> {
        let numbers = Self::numbers(&self.groups, "group", &[Account::Name(name.into())])?;
        numbers.first().copied().ok_or_else(|| ConfigError(format!("there is no group `{name}`")))
    }
}

impl Config {
    /// Reads the file at `path`.
    pub fn read(path: &Path) -> Result<Config, ConfigError> {
        let text =
            fs::read_to_string(path).map_err(|error| ConfigError(format!("{}: {error}", path.display())))?;
        Config::parse(&path.display().to_string(), &text)
    }

    /// Reads `text`, which messages call `name`.
    pub fn parse(name: &str, text: &str) -> Result<Config, ConfigError> {
        let config: Config = toml::from_str(text).map_err(|error| ConfigError(format!("{name}: {error}")))?;
        let check = |holds: bool, what: &str| {
            if holds { Ok(()) } else { Err(ConfigError(format!("{name}: {what}"))) }
        };
        check((1..=64).contains(&config.workers), "`workers` must be from 1 to 64")?;
        check(
            config.buffers >= 64 * config.workers && config.buffers <= 1 << 20,
            "`buffers` must be at least 64 for each worker, and 1048576 at most",
        )?;
        check(config.mode().is_some(), "`socket-mode` must be an octal number like \"0660\"")?;
        check(
            config.tunnels().is_some(),
            "`vxlan-ports` must be at most four different UDP ports other than 4789 and 6081, which are known without",
        )?;
        check(config.limits.connections >= 1, "`limits.connections` must be at least 1")?;
        check(
            (64 << 10..=64 << 20).contains(&config.limits.message_bytes),
            "`limits.message-bytes` must be from 65536 to 67108864",
        )?;
        check(
            config.limits.transaction_bytes >= config.limits.message_bytes,
            "`limits.transaction-bytes` must be at least `limits.message-bytes`",
        )?;
        for controller in config.controllers.keys() {
            let is_name = lamina_api::wire::read::name(controller).is_ok();
            check(
                is_name,
                &format!("`{controller}` cannot be a controller's name: no spaces, no quotes, no `$`"),
            )?;
        }
        Ok(config)
    }

    /// The socket's permissions.
    pub fn mode(&self) -> Option<u32> {
        u32::from_str_radix(&self.socket_mode, 8).ok().filter(|mode| *mode <= 0o777)
    }

    /// By which UDP ports tunnels are known.
    pub fn tunnels(&self) -> Option<TunnelPorts> {
        TunnelPorts::with_vxlan(&self.vxlan_ports)
    }

    /// Who may do what. `own_uid` is the daemon's user, which is an administrator too.
    pub fn rights(&self, accounts: &Accounts, own_uid: u32) -> Result<Rights, ConfigError> {
        let users = |accounts_of: &[Account]| Accounts::numbers(&accounts.users, "user", accounts_of);
        let groups = |accounts_of: &[Account]| Accounts::numbers(&accounts.groups, "group", accounts_of);
        let mut administrators = users(&self.access.administrators)?;
        administrators.push(own_uid);
        let mut controllers = BTreeMap::new();
        for (name, entry) in &self.controllers {
            let controller = Controller {
                uids: users(&entry.users)?,
                gids: groups(&entry.groups)?,
                may_ports: entry.ports,
            };
            controllers.insert(name.as_str().into(), controller);
        }
        Ok(Rights {
            controllers,
            administrators,
            reader_uids: users(&self.access.readers)?,
            reader_gids: groups(&self.access.reader_groups)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = r#"
socket = "/run/l.sock"
state = ""
workers = 2
uplinks = ["eth1"]
vxlan-ports = [8472]

[access]
readers = ["nobody"]

[controllers.acl]
users = [1001, "1002", "nobody"]
ports = false
"#;

    fn accounts() -> Accounts {
        let users = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n";
        Accounts { users: users.into(), groups: "lamina:x:999:\n".into() }
    }

    #[test]
    fn what_is_left_out_takes_its_default() {
        assert_eq!(Config::parse("empty", ""), Ok(Config::default()));
        let config = Config::parse("full", FULL).unwrap();
        assert_eq!((config.workers, config.mode()), (2, Some(0o660)));
        let rights = config.rights(&accounts(), 42).unwrap();
        assert_eq!(rights.controllers["acl"].uids, [1001, 1002, 65534]);
        assert!(!rights.controllers["acl"].may_ports);
        assert_eq!((rights.administrators, rights.reader_uids), (vec![0, 42], vec![65534]));
        assert_eq!(accounts().group("lamina"), Ok(999));
    }

    #[test]
    fn mistakes_are_refused_with_their_place() {
        for (text, part) in [
            ("sokket = \"/x\"", "sokket"),
            ("workers = 0", "from 1 to 64"),
            ("workers = \"two\"", "workers"),
            ("socket-mode = \"rw\"", "octal"),
            ("vxlan-ports = [4789]", "known without"),
            ("vxlan-ports = [1, 2, 3, 4, 5]", "at most four"),
            ("[controllers.\"a b\"]", "cannot be a controller's name"),
            ("[limits]\nmessage-bytes = 1", "65536"),
        ] {
            let error = Config::parse("laminad.toml", text).unwrap_err().to_string();
            assert!(error.contains(part) && error.starts_with("laminad.toml"), "{text}: {error}");
        }
        let unknown = Config::parse("t", "[controllers.a]\nusers = [\"nobody-here\"]").unwrap();
        assert!(unknown.rights(&accounts(), 0).unwrap_err().to_string().contains("no user `nobody-here`"));
    }
}
