//! Questions to the kernel about a network device of the current namespace, and making its host stack silent.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// A network device of the namespace in which it was looked up.
#[derive(Clone, Debug)]
pub(crate) struct Interface {
    name: String,
    index: i32,
}

impl Interface {
    /// The device called `name` in the calling thread's network namespace.
    pub(crate) fn find(name: &str) -> io::Result<Interface> {
        let mut request = request_for(name)?;
        control(libc::SIOCGIFINDEX as _, &mut request)?;
        // SAFETY: the kernel filled `ifru_ifindex`, the union's field for this request.
        Ok(Interface { name: name.to_string(), index: unsafe { request.ifr_ifru.ifru_ifindex } })
    }

    pub(crate) fn index(&self) -> i32 {
        self.index
    }

    /// Largest frame without Ethernet header, in bytes.
    pub(crate) fn mtu(&self) -> io::Result<u32> {
        let mut request = request_for(&self.name)?;
        control(libc::SIOCGIFMTU as _, &mut request)?;
        // SAFETY: the kernel filled `ifru_mtu`, the union's field for this request.
        Ok(u32::try_from(unsafe { request.ifr_ifru.ifru_mtu }).unwrap_or(0))
    }

    /// Sets `set` and clears `clear` among the device's flags (`IFF_*`).
    pub(crate) fn change_flags(&self, set: libc::c_int, clear: libc::c_int) -> io::Result<()> {
        let mut request = request_for(&self.name)?;
        control(libc::SIOCGIFFLAGS as _, &mut request)?;
        // SAFETY: the kernel filled `ifru_flags`, the union's field for this request.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        let wanted = flags & !(clear as i16) | set as i16;
        if wanted == flags {
            return Ok(());
        }
        request.ifr_ifru.ifru_flags = wanted;
        control(libc::SIOCSIFFLAGS as _, &mut request)
    }

    fn has_ipv4_address(&self) -> io::Result<bool> {
        let mut request = request_for(&self.name)?;
        match control(libc::SIOCGIFADDR as _, &mut request) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Keeps this host's own network stack from answering what comes in by this device. A raw socket gets a copy of
    /// each frame before the stack sees it; the stack would go on to answer ARP, neighbour discovery and ping for
    /// any address of the host, past all policy. Without filters of tc or nft, which other software owns:
    ///
    /// - the device must have no IPv4 address;
    /// - `IFF_NOARP`: the stack neither answers nor sends ARP here;
    /// - IPv6 is switched off on the device;
    /// - strict reverse-path filtering: as no route leads out by this device (none may be added), every source is
    ///   invalid and IPv4 is dropped before delivery, whatever its destination;
    /// - and no forwarding from it.
    ///
    /// What is left: an IPv4 broadcast from 0.0.0.0 (DHCP discovery) reaches a server on this host that listens on
    /// all devices.
    pub(crate) fn silence_host_stack(&self) -> io::Result<()> {
        if self.has_ipv4_address()? {
            let name = &self.name;
            let text = format!(
                "{name} has an IPv4 address, so this host would answer on it: `ip address flush dev {name}` removes it"
            );
            return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
        }
        self.change_flags(libc::IFF_NOARP, 0)?;
        self.set("ipv6", "disable_ipv6", "1")?;
        self.set("ipv4", "rp_filter", "1")?;
        self.set("ipv4", "forwarding", "0")
    }

    fn set(&self, family: &str, name: &str, value: &str) -> io::Result<()> {
        let path = format!("/proc/sys/net/{family}/conf/{}/{name}", self.name);
        match fs::read_to_string(&path) {
            // A kernel without IPv6 has nothing to switch off.
            Err(error) if error.kind() == io::ErrorKind::NotFound && family == "ipv6" => return Ok(()),
            Ok(present) if present.trim() == value => return Ok(()),
            _ => {}
        }
        fs::write(&path, value).map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))
    }
}

/// An `ifreq` with `name`, which must fit and cannot hold a zero byte or a slash.
pub(crate) fn request_for(name: &str) -> io::Result<libc::ifreq> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes.len() >= libc::IFNAMSIZ || bytes.iter().any(|b| matches!(b, 0 | b'/')) {
        let text = format!("{name:?} is not the name of a network device (1 to 15 characters)");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    // SAFETY: ifreq is plain data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(bytes) {
        *place = *byte as libc::c_char;
    }
    Ok(request)
}

/// One of the `SIOC*IF*` requests, in the calling thread's network namespace.
fn control(operation: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: socket takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and belongs to nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all requests used here read and write one ifreq, which the exclusive reference keeps valid.
    // Safe code will not do: neither std nor rustix covers these requests.
    if unsafe { libc::ioctl(socket.as_raw_fd(), operation, request as *mut libc::ifreq) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_found_and_a_missing_device_is_not() {
        let lo = Interface::find("lo").unwrap();
        assert!(lo.index() > 0);
        assert!(lo.mtu().unwrap() >= 1500);
        assert_eq!(Interface::find("no-such-dev").unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }

    #[test]
    fn names_that_do_not_fit_are_refused() {
        for name in ["", "sixteen-letters-", "a/b", "a\0b"] {
            assert_eq!(Interface::find(name).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{name:?}");
        }
    }
}
