//! Refusals as details of a gRPC status, so that a client sees each mistake and not only one sentence.
//!
//! The details are a `google.rpc.Status` with one `Any` of type `lamina.v1.Refusal`: the form that the libraries of
//! other languages read too.

use prost::Message;
use prost_types::Any;

use super::v1::Refusal;

/// The name under which a refusal is known in a status.
const TYPE_URL: &str = "type.googleapis.com/lamina.v1.Refusal";

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// The details of a status with `code` and `message` that carry `refusal`.
pub fn details(code: tonic::Code, message: &str, refusal: &Refusal) -> Vec<u8> {
    let any = Any { type_url: TYPE_URL.into(), value: refusal.encode_to_vec() };
    RpcStatus { code: code as i32, message: message.into(), details: vec![any] }.encode_to_vec()
}

/// A status with `code` and `message` that carries `refusal`.
pub fn status(code: tonic::Code, message: impl Into<String>, refusal: &Refusal) -> tonic::Status {
    let message = message.into();
    let details = details(code, &message, refusal);
    tonic::Status::with_details(code, message, details.into())
}

/// The refusal that a status's `details` carry; `None` when they carry none.
pub fn refusal(details: &[u8]) -> Option<Refusal> {
    let status = RpcStatus::decode(details).ok()?;
    let any = status.details.iter().find(|any| any.type_url.ends_with("/lamina.v1.Refusal"))?;
    Refusal::decode(&*any.value).ok()
}

#[cfg(test)]
mod tests {
    use super::super::v1::Mistake;
    use super::*;

    #[test]
    fn a_refusal_survives_its_status() {
        let mistake = Mistake { code: "not-owner".into(), field: "when.ip.src".into(), ..Mistake::default() };
        let sent = Refusal { mistakes: vec![mistake] };
        let status = status(tonic::Code::PermissionDenied, "it is not yours", &sent);
        assert_eq!(refusal(status.details()), Some(sent));
        assert_eq!(refusal(tonic::Status::internal("x").details()), None);
        for end in 0..status.details().len() {
            // Cut short it is read or refused, never a panic.
            let _ = refusal(&status.details()[..end]);
        }
    }
}
