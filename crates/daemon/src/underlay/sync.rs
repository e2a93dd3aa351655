//! The thread that keeps a snapshot in step with the kernel, and asks it for neighbours.
//!
//! It subscribes first and dumps second, so nothing that happens in between is lost; a message that the dump
//! already covered is applied again, which is harmless because the last message about an object is its state.
//! The kernel is silent in two cases, and then everything is dumped anew: the socket's buffer overran, and IPv4
//! routes that vanish with an address or a link that goes down, or next hops that are dead without its carrier.
//!
//! The switch sends past the kernel's stack, so the kernel would neither look for a MAC nor notice that one no
//! longer answers. Addresses that were asked for are therefore *wanted*: they are resolved at once, and verified
//! again whenever the kernel calls them stale. So are the gateways of all routes: the kernel may have known them
//! before anybody asked.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::mpsc as std_mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures_util::{FutureExt, StreamExt, TryStreamExt};
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::neighbour::{NeighbourFlags, NeighbourState};
use rtnetlink::packet_route::{RouteNetlinkMessage, neighbour::NeighbourMessage};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};
use tokio::sync::{mpsc, oneshot};

use super::facts::{Change, Facts, Snapshot};
use super::netlink::change;
use super::{UplinkInterface, netlink};

/// Requests for resolution that may wait; more are dropped, and asked again by the next packet.
const WAITING_REQUESTS: usize = 1024;
/// Addresses that are kept verified; when full, the one asked for longest ago gives way.
const WANTED_LIMIT: usize = 4096;
/// The same address is not asked for again within this time.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// How often stale wanted neighbours are verified.
const VERIFY: Duration = Duration::from_secs(10);

/// Keeps a [`Snapshot`] in step with the kernel until it is dropped.
#[derive(Debug)]
pub struct Synchroniser {
    requests: mpsc::Sender<IpAddr>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Asks for the MAC of next hops. Cheap to clone; never blocks.
#[derive(Clone, Debug)]
pub struct Resolver {
    requests: mpsc::Sender<IpAddr>,
}

impl Resolver {
    /// Has the kernel find the MAC of `next_hop`. The answer comes with a later snapshot; an address on no uplink
    /// is ignored. Asking often is harmless.
    pub fn resolve(&self, next_hop: IpAddr) {
        // A full queue means that the kernel is asked for a thousand others already; the next packet asks again.
        let _ = self.requests.try_send(next_hop);
    }
}

/// Why the underlay cannot be followed.
#[derive(Debug)]
pub enum StartError {
    /// A thread or a socket could not be made.
    Io(std::io::Error),
    /// The kernel refused to list its links, addresses, routes or neighbours.
    Netlink(rtnetlink::Error),
    /// No interface has this name in this network namespace; check the spelling and the namespace.
    NoSuchInterface(String),
    /// The interface is down or has no MAC; set it up first.
    NotReady(String),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StartError::Io(error) => write!(f, "cannot follow the kernel's routes: {error}"),
            StartError::Netlink(error) => write!(f, "the kernel does not tell its routes: {error}"),
            StartError::NoSuchInterface(name) => {
                write!(f, "no interface is called {name:?}; check the name and the network namespace")
            }
            StartError::NotReady(name) => {
                write!(f, "the interface {name:?} is down or has no MAC address; set it up first")
            }
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StartError::Io(error) => Some(error),
            StartError::Netlink(error) => Some(error),
            StartError::NoSuchInterface(_) | StartError::NotReady(_) => None,
        }
    }
}

impl Synchroniser {
    /// Starts following the kernel, in the network namespace of the calling thread. Returns the first snapshot;
    /// `publish` gets every later one that differs from the one before, on the synchroniser's own thread.
    pub fn start(
        uplinks: Vec<UplinkInterface>,
        publish: impl FnMut(Snapshot) + Send + 'static,
    ) -> Result<(Synchroniser, Snapshot), StartError> {
        let (requests, waiting) = mpsc::channel(WAITING_REQUESTS);
        let (stop, stopped) = oneshot::channel();
        let (first, first_snapshot) = std_mpsc::channel();
        let body = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => runtime.block_on(follow(uplinks, publish, waiting, stopped, first)),
                Err(error) => {
                    let _ = first.send(Err(StartError::Io(error)));
                }
            }
        };
        let thread =
            std::thread::Builder::new().name("underlay".into()).spawn(body).map_err(StartError::Io)?;
        // Made before waiting, so that a failed start ends and joins the thread as well.
        let synchroniser = Synchroniser { requests, stop: Some(stop), thread: Some(thread) };
        let gone = || StartError::Io(std::io::Error::other("the underlay thread ended"));
        let snapshot = first_snapshot.recv().map_err(|_| gone())??;
        Ok((synchroniser, snapshot))
    }

    /// A handle for whoever meets unresolved next hops.
    pub fn resolver(&self) -> Resolver {
        Resolver { requests: self.requests.clone() }
    }
}

impl Drop for Synchroniser {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn follow(
    uplinks: Vec<UplinkInterface>,
    mut publish: impl FnMut(Snapshot),
    mut requests: mpsc::Receiver<IpAddr>,
    mut stopped: oneshot::Receiver<()>,
    first: std_mpsc::Sender<Result<Snapshot, StartError>>,
) {
    let started = start(&uplinks).await;
    let (handle, mut messages, mut facts, mut last) = match started {
        Ok((handle, messages, facts)) => {
            let snapshot = facts.snapshot(&uplinks);
            let _ = first.send(Ok(snapshot.clone()));
            (handle, messages, facts, snapshot)
        }
        Err(error) => {
            let _ = first.send(Err(error));
            return;
        }
    };
    let mut wanted = Wanted::default();
    let mut verify = tokio::time::interval(VERIFY);
    loop {
        let event = futures_util::select_biased! {
            _ = (&mut stopped).fuse() => return,
            request = requests.recv().fuse() => Event::Request(request),
            message = messages.next().fuse() => Event::Message(message),
            _ = verify.tick().fuse() => Event::Verify,
        };
        match event {
            Event::Request(Some(hop)) => {
                if wanted.ask(hop, Instant::now()) {
                    resolve(&handle, &facts, &uplinks, hop).await;
                }
            }
            Event::Request(None) | Event::Message(None) => return,
            Event::Verify => {
                for ((_, address), neighbor) in &facts.neighbors {
                    let is_used = || wanted.contains(*address) || facts.is_gateway(*address, &uplinks);
                    if neighbor.stale && is_used() {
                        resolve(&handle, &facts, &uplinks, *address).await;
                    }
                }
            }
            Event::Message(Some(message)) => {
                let mut silent = apply(&mut facts, message.0);
                // Changes come in bursts; the switch is told once for what has arrived together.
                while let Some(Some(message)) = messages.next().now_or_never() {
                    silent |= apply(&mut facts, message.0);
                }
                if silent {
                    match dump(&handle).await {
                        Ok(dumped) => facts = dumped,
                        Err(error) => tracing::warn!(%error, "the kernel's routes could not be listed again"),
                    }
                }
                let snapshot = facts.snapshot(&uplinks);
                if snapshot != last {
                    last = snapshot.clone();
                    publish(snapshot);
                }
            }
        }
    }
}

enum Event {
    Request(Option<IpAddr>),
    Message(Option<Message>),
    Verify,
}

type Message = (rtnetlink::packet_core::NetlinkMessage<RouteNetlinkMessage>, rtnetlink::sys::SocketAddr);
type Messages = futures_util::stream::BoxStream<'static, Message>;

async fn start(uplinks: &[UplinkInterface]) -> Result<(Handle, Messages, Facts), StartError> {
    let (connection, handle, messages) = rtnetlink::new_multicast_connection(&[
        MulticastGroup::Link,
        MulticastGroup::Neigh,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ])
    .map_err(StartError::Io)?;
    tokio::spawn(connection);
    let facts = dump(&handle).await.map_err(StartError::Netlink)?;
    for uplink in uplinks {
        let link = facts.links.values().find(|link| link.name == uplink.interface);
        let link = link.ok_or_else(|| StartError::NoSuchInterface(uplink.interface.clone()))?;
        if !link.up || link.mac.is_none() {
            return Err(StartError::NotReady(uplink.interface.clone()));
        }
    }
    Ok((handle, messages.boxed(), facts))
}

/// Applies a message; true when the kernel keeps silent about what else went with it.
fn apply(facts: &mut Facts, message: rtnetlink::packet_core::NetlinkMessage<RouteNetlinkMessage>) -> bool {
    let (header, payload) = message.into_parts();
    let change = match payload {
        NetlinkPayload::InnerMessage(message) => change(&message, header.flags),
        NetlinkPayload::Overrun(_) => return true,
        _ => None,
    };
    let Some(change) = change else { return false };
    let silent = match &change {
        Change::Link(index, link) => {
            let known = facts.links.get(index);
            known.is_some_and(|known| (known.up, known.carrier) != (link.up, link.carrier))
        }
        Change::LinkGone(_) | Change::AddressGone(..) => true,
        _ => false,
    };
    facts.apply(change);
    silent
}

async fn dump(handle: &Handle) -> Result<Facts, rtnetlink::Error> {
    let mut facts = Facts::default();
    let mut tell = |message: RouteNetlinkMessage| {
        if let Some(change) = netlink::change(&message, 0) {
            facts.apply(change);
        }
    };
    let mut links = Box::pin(handle.link().get().execute());
    while let Some(link) = links.try_next().await? {
        tell(RouteNetlinkMessage::NewLink(link));
    }
    let mut addresses = Box::pin(handle.address().get().execute());
    while let Some(address) = addresses.try_next().await? {
        tell(RouteNetlinkMessage::NewAddress(address));
    }
    let v4 = RouteMessageBuilder::<std::net::Ipv4Addr>::new().build();
    let v6 = RouteMessageBuilder::<std::net::Ipv6Addr>::new().build();
    for family in [v4, v6] {
        let mut routes = Box::pin(handle.route().get(family).execute());
        while let Some(route) = routes.try_next().await? {
            tell(RouteNetlinkMessage::NewRoute(route));
        }
    }
    let mut neighbors = Box::pin(handle.neighbours().get().execute());
    while let Some(neighbor) = neighbors.try_next().await? {
        let neighbor: NeighbourMessage = neighbor;
        tell(RouteNetlinkMessage::NewNeighbour(neighbor));
    }
    Ok(facts)
}

/// Has the kernel use the neighbour entry of `hop` as if it sent a packet there: a missing one is asked for, a
/// stale one verified (`NTF_USE`).
async fn resolve(handle: &Handle, facts: &Facts, uplinks: &[UplinkInterface], hop: IpAddr) {
    let Some(interface) = facts.interface_towards(hop, uplinks) else { return };
    let request = handle
        .neighbours()
        .add(interface, hop)
        .state(NeighbourState::None)
        .flags(NeighbourFlags::Use)
        .replace();
    if let Err(error) = request.execute().await {
        tracing::debug!(%hop, %error, "the kernel does not resolve a next hop");
    }
}

/// Addresses that the switch sends to, and when each was last asked for.
#[derive(Default)]
struct Wanted {
    asked: HashMap<IpAddr, Instant>,
}

impl Wanted {
    /// Notes that `address` is wanted; true when the kernel is to be asked now.
    fn ask(&mut self, address: IpAddr, now: Instant) -> bool {
        if let Some(asked) = self.asked.get_mut(&address) {
            let again = now.duration_since(*asked) >= ASK_AGAIN;
            if again {
                *asked = now;
            }
            return again;
        }
        if self.asked.len() >= WANTED_LIMIT {
            let oldest = self.asked.iter().min_by_key(|(_, asked)| **asked).map(|(address, _)| *address);
            oldest.map(|oldest| self.asked.remove(&oldest));
        }
        self.asked.insert(address, now);
        true
    }

    fn contains(&self, address: IpAddr) -> bool {
        self.asked.contains_key(&address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_address_is_asked_for_at_a_bounded_rate_and_the_set_is_bounded() {
        let mut wanted = Wanted::default();
        let start = Instant::now();
        let address = |n: u32| IpAddr::V4(n.into());
        assert!(wanted.ask(address(1), start));
        assert!(!wanted.ask(address(1), start + ASK_AGAIN / 2));
        assert!(wanted.ask(address(1), start + ASK_AGAIN));
        for n in 2..WANTED_LIMIT as u32 + 2 {
            assert!(wanted.ask(address(n), start + ASK_AGAIN * 2));
        }
        assert_eq!(wanted.asked.len(), WANTED_LIMIT);
        assert!(!wanted.contains(address(1)), "the one asked for longest ago gave way");
    }
}
