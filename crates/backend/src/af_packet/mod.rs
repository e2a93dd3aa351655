//! `af_packet`: a raw socket on a network device, for containers and for uplinks (§10).
//!
//! The socket gets a copy of each frame that comes in by the device and sends frames out by it. The virtio-net header
//! in front of each (`PACKET_VNET_HDR`) carries offload work both ways, so 64 KB super-frames of a container's TCP
//! cross the switch whole. Frames are moved with `recvmmsg` and `sendmmsg`, one copy each way: a memory-mapped ring
//! copies as often, must reserve 64 KB for every slot, and was not faster (see `bench/README.md`).
//!
//! VLAN tags that the kernel takes out of a frame are put back. Tunnelled super-frames from the kernel arrive marked as
//! TCP over IPv4 with the checksum start of the inner header; they are taken as they come, and `finish` cuts them
//! before they are sent, as the kernel would not do it right.
//!
//! A frame that another process sent is never trusted: every header field is checked before use, and what
//! contradicts itself is counted and dropped.

mod messages;

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use lamina_core::packet::{Batch, Packet};
use lamina_core::time::Instant;

use self::messages::{Arrival, Messages};
use crate::backend::{Backend, BackendDrop, Capabilities, Statistics, Traffic, Transmitted};
use crate::finish::{BATCH, Ready};
use crate::interface::Interface;
use crate::pool::PacketPool;
use crate::vnet;

/// Buffers lent to the kernel when it had nothing last time.
const MIN_WINDOW: usize = 4;
const ETHERNET_LEN: usize = 14;
const MAC_ADDRESSES_LEN: usize = 12;

/// How a device is opened.
#[derive(Clone, Debug)]
pub struct AfPacketConfig {
    /// Name of the device in the calling thread's network namespace.
    pub interface: String,
    /// Receive frames for any MAC address.
    pub promiscuous: bool,
    /// What this host's own network stack does with frames that come in by the device.
    pub host_stack: HostStack,
    /// Bytes that may wait in the socket, for each direction. The kernel counts its own overhead in.
    pub queue_bytes: usize,
}

/// Whether this host shares the device with the switch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostStack {
    /// The host goes on to use the device: a shared uplink.
    Shares,
    /// The device is the switch's end of a cable to a guest: the host must not answer on it. It must have no IPv4
    /// address; ARP, IPv6, forwarding and delivery from it are switched off.
    Silent,
}

impl AfPacketConfig {
    /// The switch's end of a guest's or container's veth pair.
    pub fn guest(interface: impl Into<String>) -> Self {
        AfPacketConfig {
            interface: interface.into(),
            promiscuous: true,
            host_stack: HostStack::Silent,
            queue_bytes: 16 << 20,
        }
    }

    /// An uplink that the host goes on to use.
    pub fn uplink(interface: impl Into<String>) -> Self {
        AfPacketConfig {
            promiscuous: false,
            host_stack: HostStack::Shares,
            ..AfPacketConfig::guest(interface)
        }
    }
}

/// A raw socket on one device. Stays bound to it when its thread moves to another namespace.
pub struct AfPacket {
    socket: OwnedFd,
    interface: String,
    mtu: u32,
    messages: Messages,
    /// Buffers lent to the kernel during one receive call,
    empty: Batch,
    /// and how many the next call lends: twice what the last one filled, since lending more than come costs as much
    /// as a small packet.
    window: usize,
    ready: Ready,
    statistics: Statistics,
}

impl AfPacket {
    /// Opens the device. Needs `CAP_NET_RAW`, and `CAP_NET_ADMIN` for [`HostStack::Silent`].
    pub fn open(config: &AfPacketConfig) -> io::Result<AfPacket> {
        let interface = Interface::find(&config.interface)?;
        if config.host_stack == HostStack::Silent {
            interface.silence_host_stack()?;
        }
        Self::bind(config, &interface)
    }

    /// Opens the device with `count` sockets among which the kernel spreads what comes in, by flow; one for each
    /// worker. All can send.
    pub fn open_queues(config: &AfPacketConfig, count: usize) -> io::Result<Vec<AfPacket>> {
        let interface = Interface::find(&config.interface)?;
        if config.host_stack == HostStack::Silent {
            interface.silence_host_stack()?;
        }
        let mut queues: Vec<AfPacket> = Vec::with_capacity(count);
        let mut group = 0;
        for number in 0..count {
            let queue = Self::bind(config, &interface)?;
            let kind = libc::PACKET_FANOUT_HASH;
            // The kernel chooses the group's number for the first socket, so that no other process has it.
            let unique = if number == 0 { libc::PACKET_FANOUT_FLAG_UNIQUEID } else { 0 };
            queue.set_option(libc::PACKET_FANOUT, &(group | (kind | unique) << 16))?;
            if number == 0 {
                group = queue.option::<u32>(libc::PACKET_FANOUT)? & 0xffff;
            }
            queues.push(queue);
        }
        Ok(queues)
    }

    fn bind(config: &AfPacketConfig, interface: &Interface) -> io::Result<AfPacket> {
        // Protocol 0 receives nothing until bind names one, so no frame of another device slips in.
        // SAFETY: socket takes no pointers.
        let fd = unsafe {
            libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let backend = AfPacket {
            // SAFETY: the descriptor was just made and belongs to nobody else.
            socket: unsafe { OwnedFd::from_raw_fd(fd) },
            interface: config.interface.clone(),
            mtu: interface.mtu()?,
            messages: Messages::new(BATCH),
            empty: Batch::with_capacity(BATCH),
            window: BATCH,
            ready: Ready::default(),
            statistics: Statistics::default(),
        };
        backend.set_option(libc::PACKET_VNET_HDR, &1u32)?;
        backend.set_option(libc::PACKET_AUXDATA, &1u32)?;
        backend.set_option(libc::PACKET_IGNORE_OUTGOING, &1u32)?;
        let bytes = u32::try_from(config.queue_bytes).unwrap_or(u32::MAX >> 1).min(u32::MAX >> 1);
        for (forced, limited) in
            [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)]
        {
            // Beyond the system's limit needs CAP_NET_ADMIN over the host; without it the limit is what we get.
            if set_option(backend.socket.as_fd(), libc::SOL_SOCKET, forced, &bytes).is_err() {
                set_option(backend.socket.as_fd(), libc::SOL_SOCKET, limited, &bytes)?;
            }
        }
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
            sll_ifindex: interface.index(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        // SAFETY: the address is a whole sockaddr_ll and its exact length is given. Safe code will not do: std has
        // no packet sockets.
        let bound = unsafe {
            libc::bind(
                backend.socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if bound != 0 {
            return Err(io::Error::last_os_error());
        }
        if config.promiscuous {
            let membership = libc::packet_mreq {
                mr_ifindex: interface.index(),
                mr_type: libc::PACKET_MR_PROMISC as u16,
                mr_alen: 0,
                mr_address: [0; 8],
            };
            backend.set_option(libc::PACKET_ADD_MEMBERSHIP, &membership)?;
        }
        Ok(backend)
    }

    /// Name of the device, as it was opened.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    fn set_option<T: Copy>(&self, name: libc::c_int, value: &T) -> io::Result<()> {
        set_option(self.socket.as_fd(), libc::SOL_PACKET, name, value)
    }

    fn option<T: Copy + Default>(&self, name: libc::c_int) -> io::Result<T> {
        let mut value = T::default();
        let mut length = size_of::<T>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes to `value`, which is plain data (callers ask for
        // integers and arrays of them) and exclusively borrowed. Safe code will not do: std has no such option.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                name,
                (&raw mut value).cast(),
                &raw mut length,
            )
        };
        if result != 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
    }

    /// Makes a packet of what arrived in its buffer.
    fn accept(&mut self, arrival: Arrival, packet: &mut Packet) -> Result<(), BackendDrop> {
        let header = arrival.header.ok_or(BackendDrop::BadLength)?;
        if arrival.truncated || arrival.length < ETHERNET_LEN {
            return Err(BackendDrop::BadLength);
        }
        packet.set_len(arrival.length);
        packet.offload = vnet::decode(&header, packet.len()).map_err(|_| BackendDrop::BadOffload)?;
        let Some((protocol, control)) = arrival.tag else { return Ok(()) };
        let mut front = [0; MAC_ADDRESSES_LEN + 4];
        front[..MAC_ADDRESSES_LEN].copy_from_slice(&packet.frame()[..MAC_ADDRESSES_LEN]);
        front[MAC_ADDRESSES_LEN..][..2].copy_from_slice(&protocol.to_be_bytes());
        front[MAC_ADDRESSES_LEN + 2..].copy_from_slice(&control.to_be_bytes());
        if !packet.replace_front(MAC_ADDRESSES_LEN, &front) {
            return Err(BackendDrop::BadLength);
        }
        if let Some(partial) = &mut packet.offload.checksum {
            partial.start = partial.start.checked_add(4).ok_or(BackendDrop::BadOffload)?;
        }
        Ok(())
    }
}

impl Backend for AfPacket {
    fn receive(&mut self, _now: Instant, pool: &mut PacketPool, batch: &mut Batch, limit: usize) -> usize {
        let mut empty = std::mem::take(&mut self.empty);
        let wanted = limit.min(self.window);
        empty.extend(std::iter::from_fn(|| pool.take()).take(wanted));
        // An error here (the link went down, or it was removed) is told once; the next call goes on.
        let filled = self.messages.receive(self.socket.as_fd(), &mut empty).unwrap_or(0);
        self.window = (filled * 2).clamp(MIN_WINDOW, self.messages.capacity());
        let mut count = 0;
        for (i, mut packet) in empty.drain(..).enumerate() {
            if i >= filled {
                pool.give(packet);
                continue;
            }
            match self.accept(self.messages.arrival(i), &mut packet) {
                Ok(()) => {
                    self.statistics.received.count(packet.len());
                    batch.push(packet);
                    count += 1;
                }
                Err(reason) => {
                    self.statistics.drops[reason] += 1;
                    pool.give(packet);
                }
            }
        }
        self.empty = empty;
        count
    }

    fn transmit(&mut self, _now: Instant, pool: &mut PacketPool, batch: &mut Batch) -> Transmitted {
        let AfPacket { socket, messages, ready, statistics, .. } = self;
        ready.transmit(pool, batch, statistics, |ready, sent| send(socket.as_fd(), messages, ready, sent))
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::virtio_net(self.mtu)
    }

    fn statistics(&mut self) -> Statistics {
        // tpacket_stats: frames seen, frames dropped for want of room; the kernel starts again at 0 when asked.
        if let Ok([_, dropped]) = self.option::<[u32; 2]>(libc::PACKET_STATISTICS) {
            self.statistics.drops[BackendDrop::ReceiveQueueFull] += u64::from(dropped);
        }
        self.statistics
    }
}

impl fmt::Debug for AfPacket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AfPacket").field("interface", &self.interface).finish_non_exhaustive()
    }
}

/// Sends what is ready, and counts it.
fn send(socket: BorrowedFd<'_>, messages: &mut Messages, ready: &Ready, sent: &mut Traffic) -> Transmitted {
    let mut outcome = Transmitted::default();
    let Ready { packets, headers } = ready;
    let mut at = 0;
    while at < packets.len() {
        match messages.send(socket, &packets[at..], &headers[at..]) {
            Ok(count) => {
                let taken = &packets[at..at + count.min(packets.len() - at)];
                taken.iter().for_each(|packet| sent.count(packet.len()));
                outcome.sent += taken.len();
                at += taken.len().max(1);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if is_queue_full(&error) => {
                // Nothing behind it would fit either.
                outcome.queue_full += packets.len() - at;
                break;
            }
            Err(_) => {
                // Too long for the link, or the link is down: this frame is lost, the next may go.
                outcome.failed += 1;
                at += 1;
            }
        }
    }
    outcome
}

fn is_queue_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM))
}

fn set_option<T: Copy>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of a plain value that stays borrowed. Safe code will not do:
    // std knows none of these options.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result != 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
