//! Stream: TCP connections that carry data both ways at once, verified byte by byte at either end.
//!
//! Each connection is four loops, a writer and a reader per end. The client first sends a greeting of 16 bytes
//! that names the two patterns' seeds, then both ends write until their amount is reached, close their half, and
//! read until the other's half closes. The probe passes when every end read exactly what the other one wrote. The
//! longest time in which a reader got nothing is kept: it is what a policy change costs a flowing stream.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lamina_api::topology::{Amount, Stream};
use lamina_backend::namespace::NetNs;

use super::pattern::{CHUNK, Pattern};
use super::ping::any;

/// How often a listener looks whether the probe is over.
const ACCEPT_POLL: Duration = Duration::from_millis(2);

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Streamed {
    /// Connections that were made.
    pub connected: u16,
    /// Bytes read and verified, both ends and all connections together.
    pub bytes: u64,
    /// From the first connection's start to the last one's end.
    pub took: Duration,
    /// The longest time between two reads that brought something.
    pub longest_gap: Duration,
    /// How many connections each server served, in the order of the stream's servers.
    pub served: Vec<u16>,
    /// How connecting failed, of the first connection that did.
    pub refusal: Option<Refusal>,
    /// What went wrong after connecting.
    pub failures: Vec<String>,
}

/// How connecting failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Nothing came back.
    Silence,
    /// A reset came back, so packets got through.
    Reset,
    /// An ICMP error came back, or the guest has no route or no neighbour.
    Unreachable,
}

/// Runs `stream` from `client` to listeners in `servers`, which are the namespaces of the stream's servers.
pub fn run(client: &NetNs, servers: &[&NetNs], stream: &Stream, seed: u64) -> io::Result<Streamed> {
    let over = AtomicBool::new(false);
    let mut listeners = Vec::new();
    for (ns, server) in servers.iter().zip(&stream.served_by) {
        let listener = ns.run(|| TcpListener::bind(any(stream.to, server.port)))??;
        listener.set_nonblocking(true)?;
        listeners.push(listener);
    }
    let started = Instant::now();
    let (mut result, served) = std::thread::scope(|scope| {
        let serving: Vec<_> =
            listeners.iter().map(|listener| scope.spawn(|| serve(listener, stream, &over))).collect();
        let connections: Vec<_> = (0..stream.connections)
            .map(|number| {
                let seed = seed.wrapping_add(u64::from(number) << 32);
                scope.spawn(move || connection(client, stream, seed))
            })
            .collect();
        let mut result = Streamed::default();
        for thread in connections {
            match thread.join() {
                Ok(end) => result.add_client(end),
                Err(_) => result.failures.push("a client thread panicked".into()),
            }
        }
        over.store(true, Ordering::Release);
        let served: Vec<_> = serving.into_iter().map(|thread| thread.join().unwrap_or_default()).collect();
        (result, served)
    });
    result.took = started.elapsed();
    for ends in served {
        result.served.push(ends.len() as u16);
        ends.into_iter().for_each(|end| result.add_server(end));
    }
    Ok(result)
}

impl Streamed {
    fn add_client(&mut self, end: Result<End, Refusal>) {
        match end {
            Ok(end) => {
                self.connected += 1;
                self.add(end, "client");
            }
            Err(refusal) => {
                self.refusal.get_or_insert(refusal);
            }
        }
    }

    fn add_server(&mut self, end: End) {
        self.add(end, "server");
    }

    fn add(&mut self, end: End, side: &str) {
        self.bytes += end.received;
        self.longest_gap = self.longest_gap.max(end.longest_gap);
        self.failures.extend(end.failure.map(|failure| format!("{side}: {failure}")));
    }
}

/// What one end of a connection saw.
#[derive(Default)]
struct End {
    received: u64,
    longest_gap: Duration,
    failure: Option<String>,
}

fn connection(client: &NetNs, stream: &Stream, seed: u64) -> Result<End, Refusal> {
    let address = SocketAddr::new(stream.to, stream.port);
    let connected =
        client.run(|| TcpStream::connect_timeout(&address, stream.timeout)).and_then(|result| result);
    let mut socket = connected.map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Refusal::Silence,
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Refusal::Reset,
        _ => Refusal::Unreachable,
    })?;
    let seeds = [seed, seed ^ u64::MAX];
    let greeting: Vec<u8> = seeds.iter().flat_map(|seed| seed.to_le_bytes()).collect();
    let greeted = socket.set_write_timeout(Some(stream.timeout)).and_then(|()| socket.write_all(&greeting));
    Ok(match greeted {
        Ok(()) => exchange(&socket, stream, seeds[0], seeds[1]),
        Err(error) => End { failure: Some(format!("the greeting was not sent: {error}")), ..End::default() },
    })
}

fn serve(listener: &TcpListener, stream: &Stream, over: &AtomicBool) -> Vec<End> {
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        while !over.load(Ordering::Acquire) {
            match listener.accept() {
                Ok((socket, _)) => threads.push(scope.spawn(move || answer(&socket, stream))),
                Err(_) => std::thread::sleep(ACCEPT_POLL),
            }
        }
        let panicked = || End { failure: Some("a server thread panicked".into()), ..End::default() };
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| panicked())).collect()
    })
}

fn answer(mut socket: &TcpStream, stream: &Stream) -> End {
    let mut greeting = [0; 16];
    let greeted = socket
        .set_nonblocking(false)
        .and_then(|()| socket.set_read_timeout(Some(stream.timeout)))
        .and_then(|()| socket.read_exact(&mut greeting));
    if let Err(error) = greeted {
        return End { failure: Some(format!("no greeting came: {error}")), ..End::default() };
    }
    let seed = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap_or_default());
    exchange(socket, stream, seed(&greeting[8..]), seed(&greeting[..8]))
}

/// Writes the pattern of `sends` and verifies that of `receives`, at once.
fn exchange(socket: &TcpStream, stream: &Stream, sends: u64, receives: u64) -> End {
    let limited = socket
        .set_read_timeout(Some(stream.timeout))
        .and_then(|()| socket.set_write_timeout(Some(stream.timeout)));
    if let Err(error) = limited {
        return End { failure: Some(error.to_string()), ..End::default() };
    }
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| write(socket, stream.amount, sends));
        let mut end = read(socket, stream.amount, receives);
        let written = writer.join().unwrap_or_else(|_| Err("the writer panicked".into()));
        // The reader's failure is the more telling one: the writer often only sees what follows from it.
        end.failure = end.failure.or(written.err());
        end
    })
}

fn write(mut socket: &TcpStream, amount: Amount, seed: u64) -> Result<(), String> {
    let mut pattern = Pattern::new(seed);
    let mut chunk = vec![0; CHUNK];
    let started = Instant::now();
    loop {
        let length = match amount {
            Amount::Bytes(bytes) => (bytes - pattern.position()).min(CHUNK as u64) as usize,
            Amount::Time(time) if started.elapsed() < time => CHUNK,
            Amount::Time(_) => 0,
        };
        if length == 0 {
            return socket.shutdown(Shutdown::Write).map_err(|error| format!("closing failed: {error}"));
        }
        pattern.fill(&mut chunk[..length]);
        let at = pattern.position();
        socket
            .write_all(&chunk[..length])
            .map_err(|error| format!("sending stopped before byte {at}: {error}"))?;
    }
}

fn read(mut socket: &TcpStream, amount: Amount, seed: u64) -> End {
    let mut end = End::default();
    let mut pattern = Pattern::new(seed);
    let mut chunk = vec![0; CHUNK];
    let mut last = None;
    end.failure = loop {
        match socket.read(&mut chunk) {
            Ok(0) => break None,
            Ok(length) => {
                let now = Instant::now();
                let gap = last.replace(now).map_or(Duration::ZERO, |last: Instant| now - last);
                end.longest_gap = end.longest_gap.max(gap);
                if let Err(at) = pattern.verify(&chunk[..length]) {
                    break Some(format!("byte {at} is not what was sent"));
                }
                end.received = pattern.position();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break Some(format!("receiving stopped after {} bytes: {error}", end.received)),
        }
    };
    if let (None, Amount::Bytes(bytes)) = (&end.failure, amount)
        && end.received != bytes
    {
        end.failure = Some(format!("{} bytes came instead of {bytes}", end.received));
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;
    use lamina_api::topology::Server;
    use lamina_backend::namespace::may_make_namespaces;

    fn loopback(amount: Amount) -> Streamed {
        let here = NetNs::current().unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let stream = Stream {
            from: "a".into(),
            to: [127, 0, 0, 1].into(),
            port: free,
            served_by: vec![Server { guest: "b".into(), port: free }],
            connections: 2,
            shares: Vec::new(),
            amount,
            timeout: Duration::from_secs(5),
        };
        run(&here, &[&here], &stream, 42).unwrap()
    }

    #[test]
    fn every_byte_arrives_both_ways_on_loopback() {
        if !may_make_namespaces() {
            println!("skipped, because this process may not enter network namespaces");
            return;
        }
        let result = loopback(Amount::Bytes(300_001));
        assert_eq!(result.failures, Vec::<String>::new());
        assert_eq!((result.connected, result.bytes, result.served.clone()), (2, 4 * 300_001, vec![2]));
        let timed = loopback(Amount::Time(Duration::from_millis(50)));
        assert_eq!(timed.failures, Vec::<String>::new());
        assert!(timed.bytes > 0 && timed.took >= Duration::from_millis(50));
    }
}
