//! How ports get their devices: by their names, as soon as they are there.
//!
//! A port called `tap3` is attached to the network interface `tap3`, now or when it appears: who makes virtual
//! machines and who makes policy need not wait for each other. When the interface goes, the port stays.

use std::io;

use lamina_backend::Backend;
use lamina_backend::af_packet::{AfPacket, AfPacketConfig};

/// An opened device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Device {
    /// What people call it.
    pub name: String,
    /// Its number, which differs when another device takes the name.
    pub index: u32,
}

/// Where devices come from.
pub trait Devices: Send {
    /// The device of the port called `port`, opened; `None` when it is not there (yet).
    fn open(&mut self, port: &str) -> io::Result<Option<(Device, Box<dyn Backend>)>>;

    /// True while `device` is what was opened.
    fn is_there(&mut self, device: &Device) -> bool;
}

/// Network interfaces of the process's namespace, called like the ports.
#[derive(Debug, Default)]
pub struct Interfaces;

impl Devices for Interfaces {
    fn open(&mut self, port: &str) -> io::Result<Option<(Device, Box<dyn Backend>)>> {
        let Some(index) = index_of(port) else { return Ok(None) };
        let backend = AfPacket::open(&AfPacketConfig::guest(port))?;
        Ok(Some((Device { name: port.to_string(), index }, Box::new(backend))))
    }

    fn is_there(&mut self, device: &Device) -> bool {
        index_of(&device.name) == Some(device.index)
    }
}

/// The number of the interface called `name`, in the namespace of the calling thread.
fn index_of(name: &str) -> Option<u32> {
    rustix::net::netdevice::name_to_index(socket()?, name).ok()
}

fn socket() -> Option<std::os::fd::OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None).ok()
}
