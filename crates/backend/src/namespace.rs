//! Network namespaces: make one, enter one, run a closure in one.
//!
//! The lab and the tests build networks out of namespaces, and a worker may live in one of them. A namespace is a
//! property of a thread, not of a process, and it lives as long as somebody holds it: a thread inside it, or an
//! open file of `/proc/.../ns/net`. [`NetNs`] is that open file, so a namespace made here has no name, leaves
//! nothing behind in `/run/netns`, and goes when its last holder goes, also after a crash.
//!
//! This module must never move the calling thread unasked: only [`NetNs::enter`] and [`unshare_user_and_net`] do,
//! and their names say so.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;
const CAP_SYS_ADMIN: u32 = 21;

/// A network namespace, held open.
#[derive(Debug)]
pub struct NetNs {
    file: OwnedFd,
}

impl NetNs {
    /// Makes a new, empty namespace: one loopback device, down. Needs `CAP_SYS_ADMIN` (see
    /// [`may_make_namespaces`] and [`unshare_user_and_net`]). The calling thread stays where it is.
    pub fn create() -> io::Result<NetNs> {
        in_fresh_thread(|| {
            // SAFETY: unshare takes no pointers; it moves only this thread, which ends right after.
            // Safe code will not do: neither std nor rustix has a safe call for it.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error());
            }
            NetNs::current()
        })?
    }

    /// The namespace of the calling thread.
    pub fn current() -> io::Result<NetNs> {
        Ok(NetNs { file: File::open("/proc/thread-self/ns/net")?.into() })
    }

    /// The namespace that `path` refers to, such as `/run/netns/NAME` or `/proc/PID/ns/net`.
    pub fn open(path: impl AsRef<std::path::Path>) -> io::Result<NetNs> {
        Ok(NetNs { file: File::open(path)?.into() })
    }

    /// Moves the calling thread into this namespace, for good. Sockets that it opened before stay where they
    /// were made.
    pub fn enter(&self) -> io::Result<()> {
        // SAFETY: setns takes a file descriptor that `self` keeps open during the call, and no pointers.
        // Safe code will not do: std has no call for it.
        if unsafe { libc::setns(self.file.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Runs `body` on a fresh thread inside this namespace and returns what it returned. A panic of `body` becomes
    /// an error.
    pub fn run<R: Send>(&self, body: impl FnOnce() -> R + Send) -> io::Result<R> {
        in_fresh_thread(|| {
            self.enter()?;
            Ok(body())
        })?
    }

    /// A path that other processes can open while this value lives, for `nsenter --net=PATH`.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()))
    }

    /// A second holder of the same namespace.
    pub fn try_clone(&self) -> io::Result<NetNs> {
        Ok(NetNs { file: self.file.try_clone()? })
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn in_fresh_thread<R: Send>(body: impl FnOnce() -> R + Send) -> io::Result<R> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, body)?;
        thread.join().map_err(|_| io::Error::other("the thread inside the network namespace panicked"))
    })
}

/// True when this process has what making namespaces and opening raw sockets needs: `CAP_SYS_ADMIN`,
/// `CAP_NET_ADMIN` and `CAP_NET_RAW`. When false, [`unshare_user_and_net`] may still give it.
pub fn may_make_namespaces() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective =
        status_field(&status, "CapEff:").and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0);
    [CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_NET_RAW].iter().all(|bit| effective >> bit & 1 == 1)
}

fn status_field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// Moves this process, which must have one thread only, into a user namespace in which it is root, with a network
/// and a mount namespace of its own. After it an unprivileged process can make further network namespaces and
/// devices in them. The host's network is out of reach from then on.
pub fn unshare_user_and_net() -> Result<(), UnshareError> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if status_field(&status, "Threads:").is_some_and(|threads| threads != "1") {
        return Err(UnshareError::SeveralThreads);
    }
    // SAFETY: these calls take no pointers and cannot fail.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    // SAFETY: unshare takes no pointers; the process has one thread, so no other thread is left behind with the
    // old credentials. Safe code will not do: std has no call for it.
    if unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET | libc::CLONE_NEWNS) } != 0 {
        return Err(UnshareError::explain("unshare", io::Error::last_os_error()));
    }
    // setgroups must be denied before an unprivileged process may write gid_map (user_namespaces(7)).
    for (file, text) in [
        ("/proc/self/setgroups", "deny".to_string()),
        ("/proc/self/uid_map", format!("0 {uid} 1")),
        ("/proc/self/gid_map", format!("0 {gid} 1")),
    ] {
        fs::write(file, text).map_err(|error| UnshareError::explain(file, error))?;
    }
    // SAFETY: all pointers are to NUL-terminated literals or null where mount(2) ignores them; the flags change
    // propagation only. Without it mounts made by this process could reach its parent.
    let mounted = unsafe {
        libc::mount(
            c"none".as_ptr(),
            c"/".as_ptr(),
            std::ptr::null(),
            libc::MS_REC | libc::MS_PRIVATE,
            std::ptr::null(),
        )
    };
    if mounted != 0 {
        return Err(UnshareError::explain("make mounts private", io::Error::last_os_error()));
    }
    Ok(())
}

/// Why [`unshare_user_and_net`] failed, and what would allow it.
#[derive(Debug)]
pub enum UnshareError {
    /// The process already has several threads; call it first thing in `main`.
    SeveralThreads,
    /// The kernel's limit of user namespaces is zero.
    LimitIsZero,
    /// AppArmor denies capabilities inside unprivileged user namespaces.
    AppArmor,
    /// The distribution's switch for unprivileged user namespaces is off.
    UnprivilegedCloneOff,
    /// The kernel refused for another reason (a container's seccomp filter, for one) at the named step.
    Refused(&'static str, io::Error),
}

impl UnshareError {
    fn explain(step: &'static str, error: io::Error) -> Self {
        let setting = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_string());
        Self::explain_with(step, error, setting)
    }

    fn explain_with(step: &'static str, error: io::Error, setting: impl Fn(&str) -> Option<String>) -> Self {
        let is = |path: &str, value: &str| setting(path).as_deref() == Some(value);
        if is("/proc/sys/user/max_user_namespaces", "0") {
            UnshareError::LimitIsZero
        } else if is("/proc/sys/kernel/unprivileged_userns_clone", "0") {
            UnshareError::UnprivilegedCloneOff
        } else if is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") {
            UnshareError::AppArmor
        } else {
            UnshareError::Refused(step, error)
        }
    }
}

impl fmt::Display for UnshareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UnshareError::SeveralThreads => f.write_str("a process with several threads cannot enter a user namespace"),
            UnshareError::LimitIsZero => f.write_str(
                "user namespaces are limited to 0; run as root, or allow some: sysctl user.max_user_namespaces=10000",
            ),
            UnshareError::AppArmor => f.write_str(
                "AppArmor restricts unprivileged user namespaces; run as root, or allow them: \
                 sysctl kernel.apparmor_restrict_unprivileged_userns=0",
            ),
            UnshareError::UnprivilegedCloneOff => f.write_str(
                "unprivileged user namespaces are switched off; run as root, or allow them: \
                 sysctl kernel.unprivileged_userns_clone=1",
            ),
            UnshareError::Refused(step, error) => write!(
                f,
                "the kernel refused a user namespace ({step}: {error}); run as root, or, inside a container, with \
                 CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_NET_RAW and a seccomp filter that allows unshare"
            ),
        }
    }
}

impl std::error::Error for UnshareError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            UnshareError::Refused(_, error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inode(ns: &NetNs) -> String {
        fs::read_link(format!("/proc/self/fd/{}", ns.file.as_raw_fd())).unwrap().display().to_string()
    }

    #[test]
    fn a_made_namespace_is_another_one_and_the_caller_stays() {
        if !may_make_namespaces() {
            println!("skipped, because this process may not make network namespaces");
            return;
        }
        let before = inode(&NetNs::current().unwrap());
        let made = NetNs::create().unwrap();
        assert_ne!(inode(&made), before);
        assert_eq!(made.run(|| inode(&NetNs::current().unwrap())).unwrap(), inode(&made));
        assert_eq!(inode(&NetNs::current().unwrap()), before);
        assert_eq!(inode(&NetNs::open(made.path()).unwrap()), inode(&made));
        assert!(made.run(|| panic!("on purpose")).is_err());
        let devices = made.run(|| fs::read_to_string("/proc/thread-self/net/dev").unwrap()).unwrap();
        assert_eq!(devices.lines().skip(2).count(), 1, "only loopback: {devices}");
    }

    #[test]
    fn several_threads_are_refused() {
        // The test harness itself has more than one thread.
        assert!(matches!(unshare_user_and_net(), Err(UnshareError::SeveralThreads)));
    }

    #[test]
    fn a_refusal_names_the_setting() {
        let refusal = |path: &'static str, value: &'static str| {
            let error = io::Error::from_raw_os_error(libc::EPERM);
            UnshareError::explain_with("unshare", error, |p| (p == path).then(|| value.to_string()))
                .to_string()
        };
        assert!(
            refusal("/proc/sys/user/max_user_namespaces", "0").contains("user.max_user_namespaces=10000")
        );
        assert!(
            refusal("/proc/sys/kernel/unprivileged_userns_clone", "0")
                .contains("unprivileged_userns_clone=1")
        );
        assert!(
            refusal("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1")
                .contains("restrict_unprivileged_userns=0")
        );
        assert!(refusal("/proc/sys/kernel/unprivileged_userns_clone", "1").contains("seccomp"));
    }
}
