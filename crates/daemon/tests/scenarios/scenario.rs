//! The scenario file: policy, packets, and what must become of them. The reference is `tests/scenarios/README.md`.
//!
//! Unknown and misspelt keys are errors: a scenario that states something must have it checked.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// One file.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Scenario {
    /// The file's name without `.yaml`.
    pub name: String,
    /// Sentences of `docs/design.md`, each after its section: `§3.3 Each group yields ...`.
    pub proves: Vec<String>,
    /// Names for MAC addresses, beside those of ports and of the usual neighbours.
    #[serde(default)]
    pub macs: BTreeMap<String, String>,
    /// Ports that exist and whose policy is not published at the start.
    #[serde(default)]
    pub unpublished: Vec<String>,
    /// Further UDP ports by which VXLAN is known.
    #[serde(default)]
    pub vxlan_ports: Vec<u16>,
    /// The document that is published at the start.
    pub policy: Value,
    /// What happens, in order.
    pub steps: Vec<Step>,
}

/// One step: exactly one of the keys up to `expect-flows`, and `expect` or `values` where the key asks for them.
#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Step {
    /// A packet is received by a port or an uplink.
    pub send: Option<Send>,
    /// A packet is traced; nothing may change.
    pub simulate: Option<Send>,
    /// Many packets that differ in `$n` are received.
    pub spread: Option<Spread>,
    /// Time passes, with a sweep each second.
    pub wait: Option<String>,
    /// Somebody listens to these events from now on, and to no others.
    pub subscribe: Option<Subscribe>,
    /// Entries of a live mapping table change; packets that waited for them go on.
    pub answer: Option<Answer>,
    /// A controller sends a packet.
    pub inject: Option<Inject>,
    /// After `answer`, `inject` and `wait`: every packet that left the switch, where to and a pattern of what.
    pub leaves: Vec<Leaves>,
    /// After `answer`, `inject` and `wait`: the reason of every packet that was dropped.
    pub drops: Vec<String>,
    /// All events since the last time, in order, as the README writes them.
    pub expect_events: Option<Vec<String>>,
    /// A document replaces the one before.
    pub publish: Option<Value>,
    /// A document is refused, and nothing changes.
    pub refuse: Option<Refuse>,
    /// What ports have counted since the start.
    pub expect_counters: Option<BTreeMap<String, Counters>>,
    /// What ports' tables hold.
    pub expect_flows: Option<BTreeMap<String, Flows>>,
    /// What must become of the packet.
    pub expect: Option<Expect>,
    /// After `spread`: what the pattern's `$name`s were.
    pub values: BTreeMap<String, Spreading>,
}

/// Which events somebody listens to.
#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Subscribe {
    /// Misses of these mapping tables.
    pub misses: Vec<String>,
    /// Packets that rules give to these controllers.
    pub punts: Vec<String>,
    /// Limits reached.
    pub limits: bool,
    /// Rates exceeded.
    pub rates: bool,
}

/// A packet that a controller sends.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Inject {
    /// The port.
    pub port: String,
    /// Which way it goes.
    pub direction: Way,
    /// The packet as text.
    pub packet: String,
    /// Past all layers.
    #[serde(default)]
    pub skip_layers: bool,
    /// Through the layers behind this one only.
    pub behind: Option<String>,
}

/// A direction.
#[derive(Deserialize, Debug, PartialEq, Eq, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// From the guest.
    Outbound,
    /// To the guest.
    Inbound,
}

/// Changes of a live mapping table.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Answer {
    /// The table.
    pub mapping: String,
    /// Entries to put.
    #[serde(default)]
    pub put: Vec<Entry>,
    /// Addresses whose entries to remove.
    #[serde(default)]
    pub remove: Vec<String>,
}

/// An entry of a mapping table.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Entry {
    /// The customer address.
    pub address: String,
    /// Its MAC.
    pub mac: String,
    /// The physical address.
    pub remote: Option<String>,
}

/// A packet that left the switch.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct Leaves {
    /// The port or uplink by which it left.
    pub to: String,
    /// A pattern of it.
    pub packet: String,
}

/// A packet to send.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Send {
    /// The port or uplink that receives it.
    pub from: String,
    /// The packet as text.
    pub packet: String,
    /// How often; the expectation holds each time.
    #[serde(default = "once")]
    pub times: u32,
    /// Work left undone on it.
    #[serde(default)]
    pub offload: Offload,
}

fn once() -> u32 {
    1
}

/// Packets that differ in `$n`.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Spread {
    /// The port or uplink that receives them.
    pub from: String,
    /// The packet as text, with `$n` somewhere.
    pub packet: String,
    /// `$n` runs from 1 to this.
    pub count: u32,
}

/// What one captured value must have been over all packets of a spread.
#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Spreading {
    /// Each value is one of these.
    pub among: Vec<String>,
    /// Each of `among` occurred at least this often.
    pub each_at_least: usize,
    /// Each value is a number between these two.
    pub between: Option<(u64, u64)>,
    /// At least this many different values occurred.
    pub distinct_at_least: usize,
}

/// Work left undone on a packet.
#[derive(Deserialize, Debug, Default, PartialEq, Eq, Clone, Copy)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Offload {
    /// A super-frame, to be cut into segments of this many payload bytes.
    pub segment: Option<u16>,
    /// The transport checksum holds the pseudo header only.
    pub checksum: Option<Partial>,
}

/// The one word.
#[derive(Deserialize, Debug, PartialEq, Eq, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
pub enum Partial {
    /// Left undone.
    Partial,
}

/// What must become of a packet.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Expect {
    /// Forwarded, dropped or answered.
    pub verdict: Verdict,
    /// Where the packet or the reply goes; several for copies.
    #[serde(default)]
    pub to: OneOrMany,
    /// The reason of the drop.
    pub reason: Option<String>,
    /// The last answer of a layer on the way, `layer/group/rule` or `layer/default`.
    pub rule: Option<String>,
    /// All answers of layers on the way.
    pub rules: Option<Vec<String>>,
    /// What leaves: a pattern, or `unchanged`.
    pub packet: Option<String>,
    /// Work that is left undone on what leaves.
    pub offload: Option<Offload>,
    /// What the caches would say beforehand: `hit`, `miss`, `stale` or `blocked`.
    pub cache: Option<String>,
}

/// One name, or a list of names.
#[derive(Deserialize, Debug)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several, or none.
    Many(Vec<String>),
}

impl Default for OneOrMany {
    fn default() -> Self {
        OneOrMany::Many(Vec::new())
    }
}

impl OneOrMany {
    /// The names.
    pub fn names(&self) -> &[String] {
        match self {
            OneOrMany::One(name) => std::slice::from_ref(name),
            OneOrMany::Many(names) => names,
        }
    }
}

/// What becomes of a packet.
#[derive(Deserialize, Debug, PartialEq, Eq, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It goes on.
    Forward,
    /// It is answered.
    Reply,
    /// It is dropped.
    Drop,
    /// A responder takes it and answers nothing.
    Consumed,
    /// It is the host's own, and left to its kernel.
    Host,
    /// It waits for an entry of a mapping table.
    Wait,
    /// A controller gets it.
    Punt,
}

/// A document that is refused.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct Refuse {
    /// The document.
    pub policy: Value,
    /// What the message says, among other things.
    pub because: String,
}

/// What one port has counted; only what is stated is compared.
#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Counters {
    /// Packets by `layer/group/rule` or `layer/default`, both directions.
    pub rules: BTreeMap<String, u64>,
    /// Packets dropped by the port, by reason.
    pub drops: BTreeMap<String, u64>,
    /// Meters: by name, then by key (`all` for a meter without key, `other` for the rest).
    pub meters: BTreeMap<String, BTreeMap<String, Cell>>,
}

/// What one meter cell has counted.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct Cell {
    /// Packets.
    pub packets: u64,
    /// Bytes, where stated.
    pub bytes: Option<u64>,
}

/// What a port's tables hold; only what is stated is compared.
#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Flows {
    /// Unified flows.
    pub unified: Option<usize>,
    /// Conversations that hold state.
    pub conversations: Option<usize>,
    /// Packets that a unified flow answered, since the start.
    pub hits: Option<u64>,
    /// Packets that took the slow path, since the start.
    pub misses: Option<u64>,
    /// Packets that the drop cache answered, since the start.
    pub drop_cache_hits: Option<u64>,
    /// Conversations with layer flows, by layer.
    pub layers: BTreeMap<String, usize>,
}

impl Scenario {
    /// Reads a file's `text`.
    pub fn read(text: &str) -> Result<Scenario, String> {
        let scenario: Scenario = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        for (index, step) in scenario.steps.iter().enumerate() {
            step.check().map_err(|error| format!("step {}: {error}", index + 1))?;
        }
        Ok(scenario)
    }
}

impl Step {
    fn check(&self) -> Result<(), String> {
        let packets = [self.send.is_some(), self.simulate.is_some(), self.spread.is_some()];
        let others = [
            self.wait.is_some(),
            self.subscribe.is_some(),
            self.answer.is_some(),
            self.inject.is_some(),
            self.expect_events.is_some(),
            self.publish.is_some(),
            self.refuse.is_some(),
            self.expect_counters.is_some(),
            self.expect_flows.is_some(),
        ];
        let sends = packets.into_iter().filter(|is| *is).count();
        if sends + others.into_iter().filter(|is| *is).count() != 1 {
            return Err("a step does exactly one thing".into());
        }
        if (sends == 1) != self.expect.is_some() {
            return Err("`expect` belongs to send, simulate and spread, and they need it".into());
        }
        let goes_on = self.wait.is_some() || self.answer.is_some() || self.inject.is_some();
        let says_more = !self.leaves.is_empty() || !self.drops.is_empty();
        if says_more && !goes_on {
            return Err("`leaves` and `drops` belong to wait, answer and inject".into());
        }
        if !self.values.is_empty() && self.spread.is_none() {
            return Err("`values` belongs to spread".into());
        }
        Ok(())
    }
}
