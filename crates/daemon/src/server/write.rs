//! Transactions: the request is gathered, bounded, and handed to the control thread.

use std::time::Instant;

use lamina_api::wire::v1;
use prost::Message;
use tokio::sync::oneshot;
use tonic::{Request, Status, Streaming};

use super::{Service, status};
use crate::control::{self, mistake};

impl Service {
    pub(super) async fn apply_stream(
        &self,
        request: Request<Streaming<v1::ApplyRequest>>,
    ) -> Result<v1::ApplyReply, Status> {
        let caller = self.caller(&request)?;
        let mut parts = request.into_inner();
        let mut options: Option<v1::ApplyOptions> = None;
        let mut operations = Vec::new();
        let mut bytes = 0;
        let mut is_first = true;
        while let Some(part) = parts.message().await.inspect_err(|_| self.counters.add("broken-requests"))? {
            bytes += part.encoded_len();
            if bytes > self.transaction_bytes {
                self.counters.add("oversize-transactions");
                let message = format!("the transaction is larger than {} bytes", self.transaction_bytes);
                let help = "split it, or raise `limits.transaction-bytes` in the daemon's configuration";
                return Err(self.refused(&mistake("too-large", message, help).into()));
            }
            if let Some(given) = part.options {
                if !is_first {
                    let help = "send them in the first part only";
                    let message = "options come in the middle of the transaction";
                    return Err(self.refused(&mistake("wrong-form", message, help).into()));
                }
                options = Some(given);
            }
            is_first = false;
            operations.extend(part.operations);
        }
        let options = options.unwrap_or_default();
        let rights = self.shared.rights();
        let controller =
            rights.acting_as(&caller, &options.controller).map_err(|error| self.refused(&error))?;
        let (answer, answered) = oneshot::channel();
        let request = control::Request { controller, options, operations, arrived: Instant::now() };
        self.control.apply(request, move |result| {
            // The caller may have gone; what it asked for is done all the same.
            let _ = answer.send(result);
        });
        match answered.await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(control::ApplyError::Refused(mistakes))) => Err(self.refused(&mistakes)),
            Ok(Err(error)) => {
                self.counters.add("failed-requests");
                Err(status::not_applied(error))
            }
            Err(_) => Err(status::not_applied(control::ApplyError::Stopping)),
        }
    }
}
