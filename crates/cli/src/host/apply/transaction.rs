//! Sending a transaction: its operations in messages that are no larger than a daemon takes.

use anyhow::anyhow;
use lamina_api::wire::v1::{ApplyOptions, ApplyReply, ApplyRequest, Expectation, Operation};
use prost::Message;

use crate::host::Host;

/// The most bytes of one message; a daemon takes 4 MiB.
const LARGEST: usize = 3 << 20;

/// Changes that are asked for together.
#[derive(Clone, Debug, Default)]
pub struct Transaction {
    /// Who asks; empty for the only one that the caller may be.
    pub controller: String,
    /// Only say what would change.
    pub dry_run: bool,
    /// Look for what is probably not meant.
    pub warnings: bool,
    /// Objects that must not have changed.
    pub expect: Vec<Expectation>,
    /// What is asked for.
    pub operations: Vec<Operation>,
}

/// Sends `transaction`. The inner error is the daemon's answer, the outer one is about sending.
pub async fn send(
    host: &mut Host,
    transaction: Transaction,
) -> anyhow::Result<Result<ApplyReply, tonic::Status>> {
    let requests = requests(transaction)?;
    let reply = host.apply(futures_util::stream::iter(requests)).await;
    Ok(reply.map(tonic::Response::into_inner))
}

/// The messages of a transaction.
fn requests(transaction: Transaction) -> anyhow::Result<Vec<ApplyRequest>> {
    let Transaction { controller, dry_run, warnings, expect, operations } = transaction;
    let options = ApplyOptions { controller, dry_run, expect, warnings };
    let mut requests = vec![ApplyRequest { options: Some(options), operations: Vec::new() }];
    let mut size = requests[0].encoded_len();
    for operation in operations {
        // A field's number and length stand before it.
        let length = operation.encoded_len() + 6;
        if length > LARGEST {
            return Err(anyhow!(
                "one object has {:.1} MiB, and a message carries 3 MiB: {}; split it into several",
                length as f64 / f64::from(1 << 20),
                describe(&operation)
            ));
        }
        if size + length > LARGEST {
            requests.push(ApplyRequest::default());
            size = 0;
        }
        size += length;
        if let Some(last) = requests.last_mut() {
            last.operations.push(operation);
        }
    }
    Ok(requests)
}

/// What an operation is about.
fn describe(operation: &Operation) -> String {
    use lamina_api::wire::v1::operation::Operation as Change;
    match &operation.operation {
        Some(Change::PutRules(put)) => {
            let names: Vec<&str> = put.rules.iter().map(|rule| &*rule.name).collect();
            format!("rule `{}` of group `{}`", names.join("`, `"), put.group)
        }
        Some(Change::PutGroup(put)) => {
            let name = put.group.as_ref().map_or("", |group| &group.group);
            format!("group `{name}` of layer `{}`", put.layer)
        }
        Some(Change::PutResource(put)) => format!("resource `{}`", put.name),
        Some(Change::PutPort(put)) => format!("port `{}`", put.name),
        Some(Change::PutMulticast(_)) => "the multicast set".into(),
        _ => "one operation".into(),
    }
}

#[cfg(test)]
mod tests {
    use lamina_api::wire::v1::operation::Operation as Change;
    use lamina_api::wire::v1::{PrefixSet, PutResource, Rule, Values, put_resource::Resource};

    use super::super::operations::of_layer;
    use super::*;

    fn operation(change: Change) -> Operation {
        Operation { operation: Some(change) }
    }

    #[test]
    fn fifty_thousand_rules_are_sent_in_messages_of_three_mebibytes() {
        let rules: Vec<Rule> = (0..50_000)
            .map(|index| Rule {
                name: format!("rule-{index}"),
                when: [(
                    "ip.dst".to_string(),
                    Values { values: vec![format!("10.{}.{}.1", index / 250, index % 250)] },
                )]
                .into(),
                ..Rule::default()
            })
            .collect();
        let group = lamina_api::wire::v1::Group { group: "all".into(), rules, ..Default::default() };
        let layer =
            lamina_api::wire::v1::Layer { name: "acl".into(), inbound: vec![group], ..Default::default() };
        let operations = of_layer("vm1", layer).into_iter().map(operation).collect();
        let requests = requests(Transaction { operations, ..Transaction::default() }).unwrap();
        assert!(requests.iter().all(|request| request.encoded_len() <= LARGEST));
        assert!(
            requests[0].options.is_some() && requests[1..].iter().all(|request| request.options.is_none())
        );
        let changes: Vec<&Change> = requests
            .iter()
            .flat_map(|request| &request.operations)
            .filter_map(|o| o.operation.as_ref())
            .collect();
        assert!(matches!(changes[..2], [Change::PutLayer(_), Change::PutGroup(_)]));
        let names = changes.iter().flat_map(|change| match change {
            Change::PutRules(put) => put.rules.iter().map(|rule| rule.name.clone()).collect(),
            _ => Vec::new(),
        });
        assert!(names.eq((0..50_000).map(|index| format!("rule-{index}"))), "all of them, in order");
    }

    #[test]
    fn what_no_message_can_carry_is_named() {
        let values = (0..400_000).map(|index| format!("10.{}.{}.0/24", index / 250, index % 250)).collect();
        let put = PutResource {
            name: "everything".into(),
            resource: Some(Resource::Prefixes(PrefixSet { values })),
            ..PutResource::default()
        };
        let operations = vec![operation(Change::PutResource(put))];
        let error = requests(Transaction { operations, ..Transaction::default() }).unwrap_err();
        assert!(error.to_string().contains("resource `everything`"), "{error}");
    }
}
