//! The daemon is killed at random moments while it writes: what was acknowledged is there afterwards, and nothing by
//! half.
//!
//! A writer sends numbered transactions, each of which replaces the rules of layers on two ports, a prefix set, and the meter
//! that the transaction before had made. Whatever is there after a restart must be of one and the same transaction:
//! one that was sent, and none before the last that was acknowledged.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use lamina_api::wire::v1;
use lamina_api::wire::v1::operation::Operation;

use crate::random::Random;
use crate::rig::*;

/// Moments at which it is killed.
const KILLS: u32 = 200;
/// Rules of each layer.
const RULES: u64 = 20;
/// The longest time that a daemon lives after its writer has begun.
const LIFE: Duration = Duration::from_millis(60);
const PORTS: &str = r#"{ version: 1, ports: {
    vm1: { mac: "02:00:00:00:00:01" }, vm2: { mac: "02:00:00:00:00:02" } } }"#;

/// The transaction with the number `number`.
fn transaction(number: u64) -> Vec<v1::Operation> {
    let [.., high, middle, low] = number.to_be_bytes();
    let rules: Vec<String> = (0..RULES)
        .map(|rule| {
            format!("{{ name: n{number}-{rule}, when: {{ ip.dst: 10.{high}.{middle}.{low}, l4.dst: {rule} }}, action: allow }}")
        })
        .collect();
    let layer = format!(
        "{{ layers: [ {{ name: acl, priority: 10, inbound: [ {{ group: g, rules: [ {} ] }} ] }} ] }}",
        rules.join(", ")
    );
    let text = format!(
        "{{ version: 1, resources: {{ prefixes: {{ set: [ 10.{high}.{middle}.{low} ] }} }}, ports: {{ vm1: {layer}, vm2: {layer} }} }}"
    );
    let mut all = operations(&text);
    let key = vec!["ip.dst".into()];
    let meter = v1::put_resource::Resource::Meter(v1::Meter { key, ..v1::Meter::default() });
    all.push(operation(Operation::PutResource(v1::PutResource {
        name: format!("n{number}"),
        resource: Some(meter),
        ..v1::PutResource::default()
    })));
    if let Some(before) = number.checked_sub(1) {
        let name = format!("n{before}");
        let reference = v1::Ref { kind: v1::Kind::Meter as i32, name, ..v1::Ref::default() };
        // The one before was made, unless this is the first.
        let must_exist = before > 0;
        all.push(operation(Operation::Delete(v1::Delete { r#ref: Some(reference), must_exist })));
    }
    all
}

/// What a writer knows when its daemon is gone.
#[derive(Clone, Copy)]
struct Written {
    acknowledged: u64,
    sent: u64,
}

/// Writes the transactions after `first` until the daemon is gone.
fn write(socket: &Path, first: u64) -> Written {
    block_on(async {
        let mut written = Written { acknowledged: first, sent: first };
        let Ok(mut client) = connect(socket).await else { return written };
        loop {
            written.sent += 1;
            match apply(&mut client, "acl", transaction(written.sent)).await {
                Ok(_) => written.acknowledged = written.sent,
                Err(status) => {
                    let refusal = lamina_api::wire::refusal(status.details());
                    assert!(refusal.is_none(), "{} is refused: {status}", written.sent);
                    return written;
                }
            }
        }
    })
}

/// The number of the transaction that everything there is of; 0 when there is only what was there at first.
fn found(objects: &[v1::Object]) -> u64 {
    let mut parts: BTreeMap<String, u64> = BTreeMap::new();
    let mut rules = 0;
    for object in objects {
        let name = object.r#ref.clone().unwrap_or_default();
        let of_name = |text: &str| -> u64 {
            let number = text.strip_prefix('n').and_then(|rest| rest.split('-').next());
            number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("whose is {text}?"))
        };
        let of_address = |text: &str| -> u64 {
            let octets =
                text.split('/').next().unwrap().split('.').map(|octet| octet.parse::<u64>().unwrap());
            octets.skip(1).fold(0, |number, octet| number << 8 | octet)
        };
        match &object.content {
            Some(v1::object::Content::Rule(rule)) => {
                rules += 1;
                parts.insert(format!("{}/{} by name", name.port, name.name), of_name(&name.name));
                let condition = format!("{:?}", rule.when);
                let address = condition.split('"').find(|word| word.starts_with("10."));
                let address = address.unwrap_or_else(|| panic!("no address in {condition}"));
                parts.insert(format!("{}/{} by address", name.port, name.name), of_address(address));
            }
            Some(v1::object::Content::Meter(_)) => {
                parts.insert(format!("meter {}", name.name), of_name(&name.name));
            }
            Some(v1::object::Content::Prefixes(set)) => {
                let [prefix] = set.values.as_slice() else { panic!("{set:?}") };
                parts.insert("set".into(), of_address(prefix));
            }
            _ => {}
        }
    }
    let Some(number) = parts.values().next().copied() else { return 0 };
    assert!(parts.values().all(|part| *part == number), "half a transaction is there: {parts:#?}");
    assert_eq!((rules, parts.len() as u64), (2 * RULES, 4 * RULES + 2), "of {number} something is missing");
    number
}

#[test]
fn every_acknowledged_write_survives_and_none_is_half_there() {
    let begin = Instant::now();
    let mut random = Random::seeded();
    let mut daemon = Daemon::new("workers = 2\nbuffers = 256\nlog = \"warn\"");
    daemon.start();
    block_on(async {
        let mut client = connect(&daemon.socket).await.unwrap();
        apply(&mut client, "platform", operations(PORTS)).await.unwrap();
    });
    let mut number = 0;
    let (mut in_flight, mut in_flight_kept, mut restarts_killed) = (0, 0, 0);
    for kill in 0..KILLS {
        let socket = daemon.socket.clone();
        let writer = std::thread::spawn(move || write(&socket, number));
        std::thread::sleep(random.time_below(LIFE));
        daemon.kill();
        let written = writer.join().unwrap();
        // Some are killed again while they start.
        while random.below(4) == 0 {
            daemon.spawn();
            std::thread::sleep(random.time_below(LIFE));
            daemon.kill();
            restarts_killed += 1;
        }
        daemon.start();
        block_on(async {
            let mut client = connect(&daemon.socket).await.unwrap();
            let objects = list(&mut client).await;
            number = found(&objects);
            assert!(
                (written.acknowledged..=written.sent).contains(&number),
                "kill {kill}: {number} is there, {} was acknowledged, {} sent",
                written.acknowledged,
                written.sent
            );
            let mut audit = client.audit(v1::AuditRequest::default()).await.unwrap().into_inner();
            let mut layers = 0;
            while let Some(finding) = audit.message().await.unwrap() {
                assert_eq!(finding.finding, "same", "kill {kill}: {finding:?}");
                assert_eq!(finding.running_rules, RULES, "kill {kill}: {finding:?}");
                layers += 1;
            }
            assert_eq!(layers, if number == 0 { 0 } else { 2 }, "kill {kill}");
        });
        in_flight += u32::from(written.sent > written.acknowledged);
        in_flight_kept += u32::from(number > written.acknowledged);
    }
    println!(
        "{KILLS} kills in {:.1?}, {in_flight} of them with a write on its way, of which {in_flight_kept} are kept; \
         {restarts_killed} more while starting; {number} transactions",
        begin.elapsed()
    );
    assert!(in_flight > KILLS / 4, "the moments are not during writes: {in_flight}");
    assert!(number > u64::from(KILLS), "hardly anything was written: {number}");
}
