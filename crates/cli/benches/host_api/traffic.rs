//! Numbered packets from one guest to the other, at a bounded rate, of which each must arrive.
//!
//! The sender wakes about every millisecond and sends what is due by the clock. When it was held up it sends a burst of
//! [`BURST`] at most and gives up the rest of the lost time, so that a pause of the machine becomes no flood: the rate
//! that was reached is reported. Each packet carries its number; the receiver ticks it off. A socket buffer that is large
//! enough for seconds of packets keeps the receiver from being the one that loses.

use std::fmt;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use rustix::net::sockopt;

use crate::policy;
use crate::rig::Network;

/// Bytes after the UDP header, the first eight of which are the number.
const PAYLOAD: usize = 64;
/// Packets sent in one go at most.
const BURST: u32 = 128;
const PAUSE: Duration = Duration::from_millis(1);
/// What the receiver's socket may hold.
const RECEIVE_BUFFER: usize = 256 << 20;
/// How long the last packets may be under way.
const REST: Duration = Duration::from_millis(500);

/// Packets that flow until they are told to stop.
pub struct Traffic {
    is_over: Arc<AtomicBool>,
    sender: JoinHandle<Result<(u64, Duration)>>,
    receiver: JoinHandle<Arrived>,
}

/// What came.
#[derive(Default)]
struct Arrived {
    /// Whether each number came, as bits.
    seen: Vec<u64>,
    count: u64,
    twice: u64,
}

/// What became of the packets.
pub struct Report {
    /// Packets that were sent,
    pub sent: u64,
    /// in this time.
    pub time: Duration,
    /// Packets that arrived, each counted once.
    pub arrived: u64,
    /// Packets that arrived again.
    pub twice: u64,
}

impl Report {
    /// Packets that did not arrive.
    pub fn lost(&self) -> u64 {
        self.sent - self.arrived
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.sent as f64 / self.time.as_secs_f64();
        let Report { sent, twice, .. } = self;
        write!(f, "{sent} packets meanwhile, {rate:.0} per second: {} lost, {twice} came twice", self.lost())
    }
}

impl Traffic {
    /// Begins to send `rate` packets per second over `flows` flows.
    pub fn start(network: &Network, rate: u32, flows: u16) -> Result<Traffic> {
        let [from, to] = policy::ADDRESSES.map(Ipv4Addr::from);
        let [sending, receiving] = &network.guests;
        let socket = receiving.run(|| UdpSocket::bind((to, policy::UDP_PORT)))??;
        sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER)?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let open = || -> std::io::Result<UdpSocket> {
            let socket = UdpSocket::bind((from, 0))?;
            socket.connect((to, policy::UDP_PORT))?;
            Ok(socket)
        };
        let sockets = (0..flows.max(1)).map(|_| sending.run(open)?).collect::<Result<Vec<_>, _>>()?;
        let is_over = Arc::new(AtomicBool::new(false));
        let over = is_over.clone();
        let sender = std::thread::Builder::new().name("sender".into());
        let sender = sender.spawn(move || send(&sockets, rate, &over))?;
        let over = is_over.clone();
        let receiver = std::thread::Builder::new().name("receiver".into());
        let receiver = receiver.spawn(move || receive(&socket, &over))?;
        Ok(Traffic { is_over, sender, receiver })
    }

    /// Stops sending, waits for what is under way, and reports.
    pub fn stop(self) -> Result<Report> {
        self.is_over.store(true, Ordering::Relaxed);
        let (sent, time) = self.sender.join().map_err(|_| anyhow!("the sender panicked"))??;
        let arrived = self.receiver.join().map_err(|_| anyhow!("the receiver panicked"))?;
        Ok(Report { sent, time, arrived: arrived.count, twice: arrived.twice })
    }
}

fn send(sockets: &[UdpSocket], rate: u32, is_over: &AtomicBool) -> Result<(u64, Duration)> {
    let begin = Instant::now();
    let per_packet = Duration::from_secs(1) / rate;
    // When the next packet is due.
    let mut due = begin;
    let mut sent: u64 = 0;
    let mut packet = [0; PAYLOAD];
    while !is_over.load(Ordering::Relaxed) {
        let now = Instant::now();
        due = due.max(now.checked_sub(per_packet * BURST).unwrap_or(due));
        while due <= now {
            packet[..8].copy_from_slice(&sent.to_be_bytes());
            let socket = &sockets[sent as usize % sockets.len()];
            socket.send(&packet).context("a packet could not be sent")?;
            sent += 1;
            due += per_packet;
        }
        std::thread::sleep(PAUSE);
    }
    Ok((sent, begin.elapsed()))
}

fn receive(socket: &UdpSocket, is_over: &AtomicBool) -> Arrived {
    let mut arrived = Arrived::default();
    let mut packet = [0; PAYLOAD];
    let mut last = Instant::now();
    loop {
        match socket.recv(&mut packet) {
            Ok(PAYLOAD) => {
                arrived.tick(u64::from_be_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|at| packet[at])));
                last = Instant::now();
            }
            Ok(_) => {}
            Err(_) if is_over.load(Ordering::Relaxed) && last.elapsed() > REST => return arrived,
            Err(_) => {}
        }
    }
}

impl Arrived {
    fn tick(&mut self, number: u64) {
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        if word >= self.seen.len() {
            self.seen.resize(word + 1024, 0);
        }
        if self.seen[word] & bit == 0 {
            self.seen[word] |= bit;
            self.count += 1;
        } else {
            self.twice += 1;
        }
    }
}
