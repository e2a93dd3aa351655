//! The host API on its socket: gRPC calls become transactions for the control thread and questions to the workers.
//!
//! | file | is |
//! | --- | --- |
//! | `mod` | the service's methods |
//! | `socket` | the socket's file |
//! | `connection` | connections, bounded |
//! | `streams` | calls that stream for long, bounded for each user |
//! | `write` | transactions |
//! | `objects` | listing and watching objects |
//! | `packets` | packets that callers send, explain and capture |
//! | `read` | counters, drops, flows, limits, status |
//! | `status` | refusals as gRPC statuses |
//! | `counters` | what the API counts of itself |
//!
//! It runs on one thread of its own. A call may take its time, never the others': what asks a worker does so on a thread
//! for that, what streams has a bounded queue, and a reader that does not read holds nothing but its own call.

mod connection;
mod counters;
mod objects;
mod packets;
mod read;
mod socket;
mod status;
mod streams;
mod write;

pub use connection::Bounds;
pub use counters::Counters;
pub use socket::{SocketFile, listen};

use std::os::unix::net::UnixListener as StdListener;
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::Stream;
use lamina_api::wire::v1;
use lamina_api::wire::v1::host_server::HostServer;
use tokio::net::UnixListener;
use tonic::{Request, Response, Status, Streaming};

use crate::control::{Caller, Handle, Mistakes, Shared, mistake};
use streams::Streams;

/// Calls that may be open on one connection.
const STREAMS: u32 = 128;

/// The service.
#[derive(Clone)]
pub struct Service {
    control: Handle,
    shared: Arc<Shared>,
    counters: Arc<Counters>,
    streams: Arc<Streams>,
    /// Bytes of one transaction.
    transaction_bytes: usize,
    started: SystemTime,
}

/// How the API is served.
#[derive(Clone, Copy, Debug)]
pub struct ServerConfig {
    /// Connections.
    pub bounds: Bounds,
    /// Calls of one user that may stream flows, captured packets or events at the same time.
    pub streams_per_user: usize,
    /// Bytes of one message.
    pub message_bytes: usize,
    /// Bytes of one transaction.
    pub transaction_bytes: usize,
}

/// Serves the API on `listener` until `stop` is done.
pub async fn serve(
    listener: StdListener,
    control: Handle,
    shared: Arc<Shared>,
    config: ServerConfig,
    stop: impl Future<Output = ()>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let counters = Arc::new(Counters::default());
    let service = Service {
        control,
        shared,
        counters: counters.clone(),
        streams: Streams::new(config.streams_per_user),
        transaction_bytes: config.transaction_bytes,
        started: SystemTime::now(),
    };
    let incoming = connection::incoming(UnixListener::from_std(listener)?, config.bounds, counters);
    let service = HostServer::new(service).max_decoding_message_size(config.message_bytes);
    tonic::transport::Server::builder()
        .max_concurrent_streams(STREAMS)
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, stop)
        .await?;
    Ok(())
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Service {
    /// Who calls.
    fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        caller.ok_or_else(|| {
            Status::unauthenticated("the connection has no peer credentials: use the Unix socket")
        })
    }

    /// Refuses callers that may not read.
    fn reader<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let caller = self.caller(request)?;
        if self.shared.rights().may_read(&caller) {
            return Ok(caller);
        }
        self.counters.add("refused-readers");
        let message = format!("user {} may not read", caller.uid);
        let help = "list the user under `access.readers` in the daemon's configuration";
        Err(status::refused(&mistake("not-a-reader", message, help).into()))
    }

    /// The controller that the caller acts as.
    fn acting_as<T>(&self, request: &Request<T>, asked: &str) -> Result<lamina_core::layer::Name, Status> {
        let caller = self.caller(request)?;
        self.shared.rights().acting_as(&caller, asked).map_err(|mistakes| self.refused(&mistakes))
    }

    fn refused(&self, mistakes: &Mistakes) -> Status {
        self.counters.add("refused-requests");
        status::refused(mistakes)
    }
}

#[tonic::async_trait]
impl v1::host_server::Host for Service {
    async fn apply(
        &self,
        request: Request<Streaming<v1::ApplyRequest>>,
    ) -> Result<Response<v1::ApplyReply>, Status> {
        self.apply_stream(request).await.map(Response::new)
    }

    type ListStream = Answers<v1::Object>;

    async fn list(&self, request: Request<v1::ListRequest>) -> Result<Response<Self::ListStream>, Status> {
        self.reader(&request)?;
        Ok(Response::new(self.list_objects(request.into_inner())))
    }

    type WatchStream = Answers<v1::Change>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        self.reader(&request)?;
        Ok(Response::new(self.watch_objects(request.into_inner())))
    }

    type EventsStream = Answers<v1::Event>;

    async fn events(
        &self,
        request: Request<v1::EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let caller = self.reader(&request)?;
        let is_administrator = self.shared.rights().is_administrator(&caller);
        let asked = &request.get_ref().controller;
        // Who is no controller hears of what is for everybody.
        let controller = match (&**asked, self.shared.rights().controllers_of(&caller).len()) {
            ("", 0 | 2..) => "".into(),
            (asked, _) => self.acting_as(&request, asked)?,
        };
        let is_administrator = is_administrator && asked.is_empty();
        let place = self.place(&caller)?;
        let events = self.subscribe(controller, is_administrator, request.into_inner()).await;
        Ok(Response::new(place.hold(events)))
    }

    async fn inject(&self, request: Request<v1::InjectRequest>) -> Result<Response<v1::InjectReply>, Status> {
        self.acting_as(&request, &request.get_ref().controller.clone())?;
        self.inject_packet(request.into_inner()).await.map(Response::new)
    }

    type CountersStream = Answers<v1::Counter>;

    async fn counters(
        &self,
        request: Request<v1::CountersRequest>,
    ) -> Result<Response<Self::CountersStream>, Status> {
        self.reader(&request)?;
        self.read_counters(request.into_inner()).await.map(Response::new)
    }

    type DropsStream = Answers<v1::DropCount>;

    async fn drops(&self, request: Request<v1::DropsRequest>) -> Result<Response<Self::DropsStream>, Status> {
        self.reader(&request)?;
        self.read_drops(request.into_inner()).await.map(Response::new)
    }

    type FlowsStream = Answers<v1::Flow>;

    async fn flows(&self, request: Request<v1::FlowsRequest>) -> Result<Response<Self::FlowsStream>, Status> {
        let place = self.place(&self.reader(&request)?)?;
        self.read_flows(request.into_inner()).map(|flows| Response::new(place.hold(flows)))
    }

    async fn clear_flows(
        &self,
        request: Request<v1::ClearFlowsRequest>,
    ) -> Result<Response<v1::ClearFlowsReply>, Status> {
        let caller = self.caller(&request)?;
        let rights = self.shared.rights();
        if rights.controllers_of(&caller).is_empty() && !rights.is_administrator(&caller) {
            let message = format!("user {} may not end flows", caller.uid);
            let help = "only controllers and administrators may: see the daemon's configuration";
            return Err(self.refused(&mistake("not-a-controller", message, help).into()));
        }
        self.end_flows(request.into_inner()).await.map(Response::new)
    }

    async fn trace(&self, request: Request<v1::TraceRequest>) -> Result<Response<v1::TraceReply>, Status> {
        self.reader(&request)?;
        self.explain(request.into_inner()).await.map(Response::new)
    }

    type CaptureStream = Answers<v1::CapturedPacket>;

    async fn capture(
        &self,
        request: Request<v1::CaptureRequest>,
    ) -> Result<Response<Self::CaptureStream>, Status> {
        let caller = self.caller(&request)?;
        let rights = self.shared.rights();
        if rights.controllers_of(&caller).is_empty() && !rights.is_administrator(&caller) {
            let message = format!("user {} may not read packets", caller.uid);
            let help = "only controllers and administrators may: see the daemon's configuration";
            return Err(self.refused(&mistake("not-a-controller", message, help).into()));
        }
        let place = self.place(&caller)?;
        self.capture_packets(request.into_inner()).await.map(|packets| Response::new(place.hold(packets)))
    }

    async fn limits(&self, request: Request<v1::LimitsRequest>) -> Result<Response<v1::LimitsReply>, Status> {
        self.reader(&request)?;
        self.read_limits().await.map(Response::new)
    }

    type AuditStream = Answers<v1::AuditFinding>;

    async fn audit(&self, request: Request<v1::AuditRequest>) -> Result<Response<Self::AuditStream>, Status> {
        self.reader(&request)?;
        self.audit_layers(request.into_inner()).await.map(Response::new)
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Result<Response<v1::StatusReply>, Status> {
        let caller = self.reader(&request)?;
        self.read_status(caller).await.map(Response::new)
    }
}
