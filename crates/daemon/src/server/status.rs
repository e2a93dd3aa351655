//! Refusals as gRPC statuses, with their details.

use lamina_api::wire::v1;
use prost::Message;
use tonic::{Code, Status};

use crate::control::{ApplyError, Mistakes, StoreError};

/// Bytes of details that a status carries: they travel in a header, of which clients take only so much.
const MAX_DETAILS: usize = 3500;
/// Bytes of a status's message.
const MAX_MESSAGE: usize = 1000;

/// The status of a refused call.
pub fn refused(mistakes: &Mistakes) -> Status {
    let first = mistakes.0.first();
    let code = match first.map(|mistake| &*mistake.code) {
        Some("not-owner" | "not-a-controller" | "not-that-controller" | "no-ports" | "not-a-reader") => {
            Code::PermissionDenied
        }
        Some("changed") => Code::Aborted,
        Some("too-many") => Code::ResourceExhausted,
        Some("missing-object") => Code::NotFound,
        _ => Code::InvalidArgument,
    };
    let place = first.and_then(|mistake| mistake.r#ref.as_ref()).map(crate::control::key::display);
    let mut message = match (first, place) {
        (Some(first), Some(place)) => format!("{place}: {}; {}", first.message, first.help),
        (Some(first), None) => format!("{}; {}", first.message, first.help),
        (None, _) => "refused".into(),
    };
    if mistakes.0.len() > 1 {
        message = format!("{message} (and {} more mistakes)", mistakes.0.len() - 1);
    }
    truncate(&mut message, MAX_MESSAGE);
    let mut refusal = v1::Refusal::default();
    for mistake in &mistakes.0 {
        refusal.mistakes.push(mistake.clone());
        if refusal.encoded_len() > MAX_DETAILS {
            refusal.mistakes.pop();
            break;
        }
    }
    lamina_api::wire::status(code, &message, &refusal)
}

fn truncate(text: &mut String, length: usize) {
    if text.len() > length {
        let mut end = length;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str("...");
    }
}

/// The status of a transaction that was not carried out.
pub fn not_applied(error: ApplyError) -> Status {
    match error {
        ApplyError::Refused(mistakes) => refused(&mistakes),
        ApplyError::Store(error @ StoreError::Unknown(..)) => Status::unknown(error.to_string()),
        ApplyError::Store(error) => Status::internal(format!("{error}; nothing was changed")),
        ApplyError::Busy => Status::resource_exhausted("too many transactions wait; try again later"),
        ApplyError::Thread(error) => Status::internal(format!("a thread could not be started: {error}")),
        ApplyError::Stopping => Status::unavailable("the daemon is stopping; try again later"),
    }
}
