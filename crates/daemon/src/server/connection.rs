//! Connections to the API's socket: counted, bounded for everybody together and for each user, so that a user who opens
//! a thousand and leaves them idle costs the others nothing.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use lamina_backend::credentials::peer_groups;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::Stream;
use tonic::transport::server::Connected;
use tracing::{debug, warn};

use super::counters::Counters;
use crate::control::Caller;

/// How many connections there may be.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Of all users together.
    pub all: usize,
    /// Of one user.
    pub per_user: usize,
}

/// The connections that are open, by user.
#[derive(Debug, Default)]
struct Open {
    all: usize,
    by_user: HashMap<u32, usize>,
}

/// A connection, and its place among the open ones.
pub struct Connection {
    stream: UnixStream,
    caller: Caller,
    open: Arc<Mutex<Open>>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.all -= 1;
        if let Some(count) = open.by_user.get_mut(&self.caller.uid) {
            *count -= 1;
            if *count == 0 {
                open.by_user.remove(&self.caller.uid);
            }
        }
    }
}

/// The connections that `listener` accepts. One that is too many is closed at once and counted.
pub fn incoming(
    listener: UnixListener,
    bounds: Bounds,
    counters: Arc<Counters>,
) -> impl Stream<Item = io::Result<Connection>> {
    let open = Arc::new(Mutex::new(Open::default()));
    futures_util::stream::unfold((listener, open), move |(listener, open)| {
        let counters = counters.clone();
        async move {
            loop {
                let stream = match listener.accept().await {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        // Mostly for want of file descriptors: others may be closed soon.
                        warn!("a connection could not be accepted: {error}");
                        counters.add("connections-failed");
                        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                        continue;
                    }
                };
                let Ok(peer) = stream.peer_cred() else {
                    counters.add("connections-without-credentials");
                    continue;
                };
                // Without them only its main group counts.
                let groups = peer_groups(stream.as_fd()).unwrap_or_default().into();
                let caller = Caller { uid: peer.uid(), gid: peer.gid(), groups };
                let uid = caller.uid;
                if let Some(connection) = admit(stream, caller, &open, bounds) {
                    return Some((Ok(connection), (listener, open)));
                }
                debug!(uid, "a connection is one too many and was closed");
                counters.add("connections-refused");
            }
        }
    })
}

fn admit(stream: UnixStream, caller: Caller, open: &Arc<Mutex<Open>>, bounds: Bounds) -> Option<Connection> {
    let mut counts = open.lock().unwrap_or_else(PoisonError::into_inner);
    let of_user = counts.by_user.get(&caller.uid).copied().unwrap_or(0);
    if counts.all >= bounds.all || of_user >= bounds.per_user {
        return None;
    }
    counts.all += 1;
    counts.by_user.insert(caller.uid, of_user + 1);
    drop(counts);
    Some(Connection { stream, caller, open: open.clone() })
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
