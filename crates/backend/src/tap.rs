//! `tap`: a virtual Ethernet device whose other end is this process, for QEMU-style guests and for the host's own
//! network stack.
//!
//! Frames carry a virtio-net header both ways, as with `af_packet`; here the kernel hands one frame per system call. The
//! device lives as long as one of its queues is open, unless it was made persistent by somebody else.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use lamina_core::packet::Batch;
use lamina_core::time::Instant;

use crate::backend::{Backend, BackendDrop, Capabilities, Statistics, Traffic, Transmitted};
use crate::finish::Ready;
use crate::interface::{Interface, request_for};
use crate::pool::PacketPool;
use crate::vnet::{self, VNET_HEADER_LEN};

const ETHERNET_LEN: usize = 14;

/// One queue of a TAP device.
pub struct Tap {
    file: File,
    name: String,
    mtu: u32,
    ready: Ready,
    statistics: Statistics,
}

impl Tap {
    /// Opens the TAP device `name`, or makes it in the calling thread's network namespace. Needs `CAP_NET_ADMIN`
    /// unless the device exists and belongs to this user.
    pub fn open(name: &str) -> io::Result<Tap> {
        Self::attach(name, 0)
    }

    /// Opens or makes the device with `count` queues among which the kernel spreads what it sends, by flow; one for
    /// each worker.
    pub fn open_queues(name: &str, count: usize) -> io::Result<Vec<Tap>> {
        (0..count).map(|_| Self::attach(name, libc::IFF_MULTI_QUEUE)).collect()
    }

    fn attach(name: &str, extra: libc::c_int) -> io::Result<Tap> {
        let file =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
        let mut request = request_for(name)?;
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | extra) as i16;
        // SAFETY: TUNSETIFF reads and writes one ifreq, exclusively borrowed. Safe code will not do: std and rustix
        // know nothing of TUN devices.
        if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let header_len = VNET_HEADER_LEN as libc::c_int;
        // SAFETY: TUNSETVNETHDRSZ reads one int, which outlives the call.
        if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ as _, &raw const header_len) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let tcp = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
        let udp = libc::TUN_F_USO4 | libc::TUN_F_USO6;
        // SAFETY: TUNSETOFFLOAD takes its argument as a number, not as a pointer.
        let offload = |flags: libc::c_uint| unsafe {
            libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD as _, libc::c_ulong::from(flags))
        };
        // Kernels before 6.2 cannot leave UDP uncut and refuse the whole set.
        if offload(tcp | udp) != 0 && offload(tcp) != 0 {
            return Err(io::Error::last_os_error());
        }
        let mtu = Interface::find(name)?.mtu()?;
        Ok(Tap {
            file,
            name: name.to_string(),
            mtu,
            ready: Ready::default(),
            statistics: Statistics::default(),
        })
    }

    /// Name of the device.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sets the device up, as `ip link set NAME up` does; call it in the namespace where it was opened.
    pub fn set_up(&self) -> io::Result<()> {
        Interface::find(&self.name)?.change_flags(libc::IFF_UP, 0)
    }
}

impl Backend for Tap {
    fn receive(&mut self, _now: Instant, pool: &mut PacketPool, batch: &mut Batch, limit: usize) -> usize {
        let mut count = 0;
        while count < limit {
            let Some(mut packet) = pool.take() else { break };
            let mut header = [0; VNET_HEADER_LEN];
            let area = packet.reset();
            let room = area.len();
            let Ok(total) =
                self.file.read_vectored(&mut [IoSliceMut::new(&mut header), IoSliceMut::new(area)])
            else {
                // Nothing there, or the device is down.
                pool.give(packet);
                break;
            };
            let length = total.saturating_sub(VNET_HEADER_LEN);
            packet.set_len(length);
            // A frame that fills the buffer to the last byte may have been cut.
            let refusal = if length < ETHERNET_LEN || length >= room {
                BackendDrop::BadLength
            } else {
                match vnet::decode(&header, length) {
                    Ok(offload) => {
                        packet.offload = offload;
                        self.statistics.received.count(length);
                        batch.push(packet);
                        count += 1;
                        continue;
                    }
                    Err(_) => BackendDrop::BadOffload,
                }
            };
            self.statistics.drops[refusal] += 1;
            pool.give(packet);
        }
        count
    }

    fn transmit(&mut self, _now: Instant, pool: &mut PacketPool, batch: &mut Batch) -> Transmitted {
        let Tap { file, ready, statistics, .. } = self;
        ready.transmit(pool, batch, statistics, |ready, sent| send(file, ready, sent))
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::virtio_net(self.mtu)
    }

    fn statistics(&mut self) -> Statistics {
        self.statistics
    }
}

impl fmt::Debug for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tap").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Writes what is ready, a frame per system call, and counts it.
fn send(file: &mut File, ready: &Ready, sent: &mut Traffic) -> Transmitted {
    let mut outcome = Transmitted::default();
    for (packet, header) in ready.packets.iter().zip(&ready.headers) {
        match file.write_vectored(&[IoSlice::new(header), IoSlice::new(packet.frame())]) {
            Ok(_) => {
                sent.count(packet.len());
                outcome.sent += 1;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => outcome.queue_full += 1,
            Err(_) => outcome.failed += 1,
        }
    }
    outcome
}
