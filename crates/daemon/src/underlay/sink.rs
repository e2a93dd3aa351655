//! Keeps the kernel from answering tunnel packets that the switch takes.
//!
//! An `af_packet` uplink sees a *copy* of what arrives: the kernel's own stack gets every packet as well, finds no
//! socket for a tunnel addressed to this host, and answers with an ICMP error, which the sender takes for a broken
//! path. Bound sockets that keep nothing ([`keep_nothing`]) are enough to keep it quiet, and cost least. A full receive buffer
//! would not do: a raw socket whose buffer is full counts as none. No tool of the host is needed, and it ends with the
//! process.
//!
//! Tunnels over UDP need a socket per port, the others a raw socket per IP protocol.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use lamina_backend::filter::keep_nothing;
use rustix::net::{AddressFamily, Protocol, SocketType, bind, ipproto, socket, sockopt};

/// The UDP ports of VXLAN (RFC 7348) and Geneve (RFC 8926).
pub const TUNNEL_UDP_PORTS: [u16; 2] = [4789, 6081];

/// Sockets that swallow tunnel packets in the network namespace they were made in, until dropped.
#[derive(Debug)]
pub struct Sink {
    sockets: Vec<OwnedFd>,
}

impl Sink {
    /// Opens the sink in the namespace of the calling thread, for tunnels over these UDP ports and for GRE and
    /// IP-in-IP. A port that is in use has its own reader, which keeps the kernel quiet just as well.
    pub fn open(udp_ports: &[u16]) -> io::Result<Sink> {
        let mut sockets = Vec::new();
        let families = [
            (AddressFamily::INET, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))),
            (AddressFamily::INET6, SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))),
        ];
        for (family, any) in families {
            for port in udp_ports {
                let mut address = any;
                address.set_port(*port);
                sockets.extend(udp(family, address)?);
            }
            for protocol in [ipproto::GRE, ipproto::IPIP, ipproto::IPV6] {
                sockets.extend(raw(family, protocol)?);
            }
        }
        Ok(Sink { sockets })
    }

    /// How many sockets there are.
    pub fn len(&self) -> usize {
        self.sockets.len()
    }

    /// True when every port has another reader and no raw socket was needed.
    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }
}

fn udp(family: AddressFamily, address: SocketAddr) -> io::Result<Option<OwnedFd>> {
    let Some(fd) = open(family, SocketType::DGRAM, None)? else { return Ok(None) };
    if family == AddressFamily::INET6 {
        sockopt::set_ipv6_v6only(&fd, true)?;
    }
    keep_nothing(fd.as_fd())?;
    match bind(&fd, &address) {
        Ok(()) => Ok(Some(fd)),
        Err(rustix::io::Errno::ADDRINUSE | rustix::io::Errno::ADDRNOTAVAIL) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn raw(family: AddressFamily, protocol: Protocol) -> io::Result<Option<OwnedFd>> {
    let Some(fd) = open(family, SocketType::RAW, Some(protocol))? else { return Ok(None) };
    keep_nothing(fd.as_fd())?;
    Ok(Some(fd))
}

/// A socket, or `None` where the kernel has no such family.
fn open(family: AddressFamily, kind: SocketType, protocol: Option<Protocol>) -> io::Result<Option<OwnedFd>> {
    match socket(family, kind, protocol) {
        Ok(fd) => Ok(Some(fd)),
        Err(rustix::io::Errno::AFNOSUPPORT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
