//! Datagrams: UDP that a server sends back, verified byte by byte.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lamina_api::topology::Datagrams;
use lamina_backend::namespace::NetNs;

use super::pattern::Pattern;
use super::ping::any;

/// How often a server looks whether the probe is over.
const SERVER_POLL: Duration = Duration::from_millis(20);

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Exchanged {
    /// Datagrams that left the guest.
    pub sent: u16,
    /// Datagrams that came back unchanged.
    pub answered: u16,
    /// Datagrams that came back changed, or that nobody sent.
    pub wrong: u16,
    /// An ICMP error came back.
    pub unreachable: bool,
    /// How many each server answered, in the order of the probe's servers.
    pub served: Vec<u16>,
}

/// Sends the datagrams of `probe` from `client` to echo servers in `servers`, one at a time.
pub fn run(client: &NetNs, servers: &[&NetNs], probe: &Datagrams, seed: u64) -> io::Result<Exchanged> {
    let over = AtomicBool::new(false);
    let mut sockets = Vec::new();
    for (ns, server) in servers.iter().zip(&probe.served_by) {
        let socket = ns.run(|| UdpSocket::bind(any(probe.to, server.port)))??;
        socket.set_read_timeout(Some(SERVER_POLL))?;
        sockets.push(socket);
    }
    let socket = client.run(|| UdpSocket::bind(any(probe.to, 0)))??;
    let connected = socket.connect(SocketAddr::new(probe.to, probe.port));
    std::thread::scope(|scope| {
        let serving: Vec<_> = sockets.iter().map(|socket| scope.spawn(|| echo(socket, &over))).collect();
        let result = match connected {
            Ok(()) => exchange(&socket, probe, seed),
            // The guest has no route there: nothing is sent, and that is what is seen.
            Err(_) => Ok(Exchanged { unreachable: true, ..Exchanged::default() }),
        };
        over.store(true, Ordering::Release);
        let served = serving.into_iter().map(|thread| thread.join().unwrap_or(0)).collect();
        Ok(Exchanged { served, ..result? })
    })
}

fn echo(socket: &UdpSocket, over: &AtomicBool) -> u16 {
    let mut buffer = vec![0; usize::from(u16::MAX)];
    let mut answered: u16 = 0;
    while !over.load(Ordering::Acquire) {
        if let Ok((length, from)) = socket.recv_from(&mut buffer)
            && socket.send_to(&buffer[..length], from).is_ok()
        {
            answered = answered.saturating_add(1);
        }
    }
    answered
}

fn exchange(socket: &UdpSocket, probe: &Datagrams, seed: u64) -> io::Result<Exchanged> {
    let mut result = Exchanged::default();
    let mut sent = vec![0; usize::from(probe.size)];
    let mut received = vec![0; usize::from(u16::MAX)];
    for number in 0..probe.count {
        Pattern::new(seed.wrapping_add(u64::from(number))).fill(&mut sent);
        match socket.send(&sent) {
            Ok(_) => result.sent += 1,
            Err(_) => {
                result.unreachable = true;
                continue;
            }
        }
        let deadline = Instant::now() + probe.timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            match socket.recv(&mut received) {
                Ok(length) if received[..length] == sent[..] => {
                    result.answered += 1;
                    break;
                }
                Ok(_) => result.wrong += 1,
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    result.unreachable = true;
                    break;
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    result.unreachable = true;
                    break;
                }
            }
        }
    }
    Ok(result)
}
