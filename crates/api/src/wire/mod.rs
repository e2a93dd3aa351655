//! The protobuf contract (`proto/lamina/v1`), and how its policy messages and policy documents are one thing.
//!
//! [`v1`] is generated: messages, client and server. A policy message and the document that says the same have the
//! same shape by construction, key for key; [`text`] turns one into the other by walking the message's descriptor,
//! so that an action that is added to the contract has its text form at once. What a message means is decided where
//! documents are decoded, by the same code: [`read`].
//!
//! Nothing here may interpret policy or talk to a switch.

mod json;
mod place;
pub mod read;
mod schema;
mod status;
pub mod text;
mod yaml;

/// Messages, client and server of the host API, version 1.
#[allow(missing_docs, reason = "the contract documents them; see docs/reference/api.md")]
#[allow(clippy::all)]
pub mod v1 {
    tonic::include_proto!("lamina.v1");
}

pub use json::to_json;
pub use place::Places;
pub use status::{refusal, status};
pub use yaml::{to_line, to_yaml};
