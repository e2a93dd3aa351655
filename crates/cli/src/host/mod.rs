//! Commands that ask or change a running daemon, and how they reach it.
//!
//! Every command is one file. What they share is here: the connection ([`DaemonArgs`]), how results are printed
//! ([`output`]), how objects are named ([`name`]), and how it is told that something failed ([`failure`]).

pub mod apply;
pub mod audit;
pub mod capture;
pub mod delete;
pub mod drops;
pub mod edit;
pub mod events;
mod failure;
pub mod flows;
pub mod get;
pub mod limits;
pub mod list;
pub mod name;
pub mod object;
mod output;
pub mod stats;
pub mod status;
pub mod top;
pub mod watch;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use hyper_util::rt::TokioIo;
use lamina_api::wire::v1;
use lamina_api::wire::v1::host_client::HostClient;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

pub use failure::{Failure, Usage, tell};
pub use name::plain;
pub use output::{json as print_json, line as print_line, text as print_text};

/// A daemon, connected.
pub type Host = HostClient<Channel>;

/// The largest answer that is read. Lists are streams of small messages; only a trace may be large.
const LARGEST_ANSWER: usize = 64 << 20;

/// Where the daemon is, and in which form results are wanted.
#[derive(Clone, Debug, Args)]
pub struct DaemonArgs {
    /// The daemon's socket.
    #[arg(long, value_name = "PATH", env = "LAMINA_SOCKET", default_value = "/run/lamina/lamina.sock")]
    pub socket: PathBuf,
    /// Print results, and failures too, as JSON.
    #[arg(long)]
    pub json: bool,
}

/// A direction on the command line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum DirectionArg {
    /// To the guest.
    Inbound,
    /// From the guest.
    Outbound,
}

/// The contract's number for what the command line said; 0 for nothing.
pub fn direction(direction: Option<DirectionArg>) -> i32 {
    match direction {
        None => v1::Direction::Unspecified,
        Some(DirectionArg::Inbound) => v1::Direction::Inbound,
        Some(DirectionArg::Outbound) => v1::Direction::Outbound,
    }
    .into()
}

impl DaemonArgs {
    /// Connects to the daemon.
    pub async fn connect(&self) -> Result<Host, Failure> {
        let socket = self.socket.clone();
        let connector = service_fn(move |_| {
            let socket = socket.clone();
            async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
        });
        // The name is not resolved: the connector knows the way.
        match Endpoint::from_static("http://lamina").connect_with_connector(connector).await {
            Ok(channel) => Ok(Host::new(channel).max_decoding_message_size(LARGEST_ANSWER)),
            Err(error) => Err(Failure::unreachable(self.socket.clone(), &error)),
        }
    }

    /// Runs a command to its end; failures are told in the form that is wanted.
    pub fn run(&self, command: impl AsyncFnOnce() -> anyhow::Result<ExitCode>) -> anyhow::Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let result = runtime.block_on(command());
        // Names are looked up and files read in threads of the runtime; nothing of them is waited for.
        runtime.shutdown_background();
        Ok(result.unwrap_or_else(|error| failure::tell(error, self.json)))
    }
}

/// All messages of a stream.
pub async fn collect<T>(response: tonic::Response<tonic::Streaming<T>>) -> Result<Vec<T>, tonic::Status> {
    let mut stream = response.into_inner();
    let mut all = Vec::new();
    while let Some(message) = stream.message().await? {
        all.push(message);
    }
    Ok(all)
}
