//! One run: guests, what they say to one another, what happens to them, and the checks after every step.

mod checks;

use std::collections::VecDeque;

use lamina_core::address::MacAddr;
use lamina_core::switch::{
    PortConfig, PortId, PortLimits, Route, Switch, SwitchConfig, Underlay, UplinkConfig,
};
use lamina_core::time::Duration;
use lamina_testkit::builder::mac;
use lamina_testkit::fabric::{Delivery, Fabric, FaultCounts, Faults, Random, Step};
use lamina_testkit::wire::decode;

use super::policy::{
    BLOCKED_IN, BLOCKED_OUT, SERVER_PORT, SOMETIMES, TIME_TO_LIVE, VIRTUAL_PORT, Variant, guest_address,
    host_address, host_of, policy, tenant_id, virtual_address,
};
use super::segment::{Segment, message_number};
use super::{GUESTS, HOSTS, TENANTS};

const UPLINK: PortId = PortId(1000);
const GATEWAY: MacAddr = mac(0xff);
const CONVERSATIONS: usize = 14;
const PROBES: u64 = 60;
const CHANGES: u64 = 50;
const CALM: Duration = Duration::from_seconds(12);
const RETRANSMIT: Duration = Duration::from_milliseconds(250);

/// What may happen in a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Policy changes over perfect links.
    Perfect,
    /// Links with faults as well.
    Faults,
    /// Restarts of ports and hosts as well.
    Restarts,
}

/// What a run was.
#[derive(PartialEq, Eq, Debug)]
pub struct History {
    pub transcript: u64,
    pub faults: FaultCounts,
    pub delivered: u64,
    /// Frames that reached a host and that policy did not admit.
    pub refused: u64,
    pub damaged: u64,
    pub hits: u64,
    pub restarts: u64,
    pub updates: u64,
    counters: Vec<String>,
}

struct Guest {
    tenant: usize,
    number: usize,
    host: usize,
    port: PortId,
    variant: Variant,
    is_up: bool,
    /// Rises when the port loses its state.
    epoch: u32,
}

struct Conversation {
    client: usize,
    server: usize,
    is_v6: bool,
    is_tcp: bool,
    is_virtual: bool,
    client_port: u16,
    rounds: u32,
    answered: u32,
    /// Requests sent; a timer of an earlier one is void.
    attempts: u32,
    /// Requests of this round since the links are calm.
    calm_attempts: u32,
}

/// When the receiver's policy admits a message.
#[derive(Clone, Copy, Debug)]
enum Admission {
    Always,
    Never,
    UnlessStrict,
    /// A reply: while the port that asked has the state of that epoch.
    WithState(u32),
}

enum Meaning {
    Request { conversation: usize, round: u32, epoch: u32 },
    Reply { conversation: usize, round: u32 },
    Probe,
}

/// A frame that was sent, and what must arrive.
struct Message {
    from: usize,
    to: usize,
    expected: Vec<u8>,
    admission: Admission,
    meaning: Meaning,
    arrived: u64,
}

/// What timers are for.
#[derive(Clone, Copy)]
enum Timer {
    Client { conversation: usize, attempt: u32 },
    Probe(u64),
    Change,
    Up(usize),
    Calm,
}

pub struct World {
    kind: Kind,
    seed: u64,
    fabric: Fabric,
    /// Apart from the fabric's, so that what guests do does not hang on how many frames there are.
    random: Random,
    guests: Vec<Guest>,
    conversations: Vec<Conversation>,
    messages: Vec<Message>,
    timers: Vec<Timer>,
    limits: PortLimits,
    is_calm: bool,
    delivered: u64,
    refused: u64,
    damaged: u64,
    restarts: u64,
    updates: u64,
}

impl World {
    pub fn new(seed: u64, kind: Kind) -> Self {
        let mut random = Random::new(!seed);
        let delay = Duration(1_000_000 + random.below(4) * 1_000_000);
        let faults = match kind {
            Kind::Perfect => Faults::none(delay),
            _ => Faults {
                loss: random.below(200),
                duplication: random.below(150),
                corruption: random.below(200),
                reorder: random.below(400),
                delay,
                hold: Duration::from_milliseconds(100),
            },
        };
        // Small tables in every other seed: cached flows give way all the time.
        let unified_flows = if seed.is_multiple_of(2) { 8 } else { 1024 };
        let mut world = World {
            kind,
            seed,
            fabric: Fabric::new(seed, faults),
            random,
            guests: Vec::new(),
            conversations: Vec::new(),
            messages: Vec::new(),
            timers: Vec::new(),
            limits: PortLimits { unified_flows, drop_cache: 64, idle: TIME_TO_LIVE },
            is_calm: false,
            delivered: 0,
            refused: 0,
            damaged: 0,
            restarts: 0,
            updates: 0,
        };
        for (tenant, number) in
            (0..TENANTS).flat_map(|tenant| (0..GUESTS).map(move |number| (tenant, number)))
        {
            let port = PortId((1 + tenant * GUESTS + number) as u32);
            let host = host_of(tenant, number);
            let variant = Variant::default();
            world.guests.push(Guest { tenant, number, host, port, variant, is_up: true, epoch: 0 });
        }
        for host in 0..HOSTS {
            let switch = world.make_switch(host);
            world.fabric.add_host(switch, UPLINK, host_mac(host));
        }
        world.plan();
        world
    }

    fn make_switch(&self, host: usize) -> Switch {
        let mut switch = Switch::new(SwitchConfig { seed: self.seed + host as u64 });
        let addresses = vec![host_address(host)];
        let uplink = UplinkConfig { name: "uplink".into(), mac: host_mac(host), addresses, mtu: 1600 };
        switch.add_uplink(UPLINK, uplink).unwrap();
        let destination = "172.16.0.0/24".parse().unwrap();
        let route = Route { destination, gateway: None, uplink: UPLINK, source: None, mtu: None, metric: 0 };
        let neighbors = (0..HOSTS).map(|host| (host_address(host), host_mac(host))).collect();
        switch.set_underlay(Underlay { routes: vec![route], neighbors });
        for guest in self.guests.iter().filter(|guest| guest.host == host) {
            self.add_port(&mut switch, guest);
        }
        switch
    }

    fn add_port(&self, switch: &mut Switch, guest: &Guest) {
        let name = format!("tenant-{}-guest-{}", guest.tenant, guest.number).as_str().into();
        let tenants = vec![tenant_id(guest.tenant)];
        let config = PortConfig { name, mac: guest.mac(), tenants, mtu: 0, limits: self.limits };
        switch.add_port(guest.port, config).unwrap();
        switch.publish(guest.port, policy(guest.tenant, guest.variant)).unwrap();
    }

    /// Everything that is going to happen by itself.
    fn plan(&mut self) {
        for conversation in 0..CONVERSATIONS {
            let client = self.random.below(self.guests.len() as u64) as usize;
            let step = 1 + self.random.below(GUESTS as u64 - 1) as usize;
            let server = client / GUESTS * GUESTS + (client + step) % GUESTS;
            self.conversations.push(Conversation {
                client,
                server,
                is_v6: self.random.chance(400),
                is_tcp: self.random.chance(500),
                is_virtual: self.random.chance(600),
                client_port: 20_000 + conversation as u16,
                rounds: 2 + self.random.below(8) as u32,
                answered: 0,
                attempts: 0,
                calm_attempts: 0,
            });
            let start = Duration(self.random.below(3_000_000_000));
            self.after(start, Timer::Client { conversation, attempt: 0 });
        }
        for probe in 0..PROBES {
            let at = Duration(self.random.below(CALM.0));
            self.after(at, Timer::Probe(probe));
        }
        for _ in 0..CHANGES {
            let at = Duration(self.random.below(CALM.0));
            self.after(at, Timer::Change);
        }
        self.after(CALM, Timer::Calm);
    }

    fn after(&mut self, delay: Duration, timer: Timer) {
        self.timers.push(timer);
        self.fabric.after(delay, self.timers.len() as u64 - 1);
    }

    /// Runs until nothing is left to happen.
    pub fn run(mut self) -> History {
        while let Some(step) = self.fabric.step() {
            match step {
                Step::Timer(token) => self.timer(self.timers[token as usize]),
                Step::Arrived { host, frames, deliveries } => {
                    self.check_admission(host, &frames, &deliveries);
                    self.deliver(deliveries);
                    self.check_limits(host);
                }
            }
        }
        self.finish()
    }

    fn timer(&mut self, timer: Timer) {
        match timer {
            Timer::Client { conversation, attempt } => {
                let is_due = self.conversations[conversation].attempts == attempt;
                if is_due && !self.conversations[conversation].is_over() {
                    self.ask(conversation);
                }
            }
            Timer::Probe(number) => self.probe(number),
            Timer::Change => self.change(),
            Timer::Up(guest) => self.bring_up(guest),
            Timer::Calm => {
                self.is_calm = true;
                self.fabric.faults = Faults::none(self.fabric.faults.delay);
                (0..self.guests.len()).for_each(|guest| self.bring_up(guest));
            }
        }
    }

    /// The client sends its next request, or the same again.
    fn ask(&mut self, index: usize) {
        let conversation = &mut self.conversations[index];
        conversation.attempts += 1;
        let (attempt, round) = (conversation.attempts, conversation.answered);
        conversation.calm_attempts += u32::from(self.is_calm);
        assert!(conversation.calm_attempts <= 3, "conversation {index} does not recover in round {round}");
        self.after(RETRANSMIT, Timer::Client { conversation: index, attempt });
        let conversation = &self.conversations[index];
        if !self.guests[conversation.client].is_up {
            return;
        }
        let epoch = self.guests[conversation.client].epoch;
        let (client, server) =
            (self.guests[conversation.client].number, self.guests[conversation.server].number);
        let v6 = conversation.is_v6;
        let dst = match conversation.is_virtual {
            true => (virtual_address(server, v6), VIRTUAL_PORT),
            false => (guest_address(server, v6), SERVER_PORT),
        };
        let flags = match round {
            0 => 0x02,
            _ if round + 1 == conversation.rounds => 0x11,
            _ => 0x18,
        };
        let segment = Segment {
            src_mac: mac(client as u8 + 1),
            dst_mac: GATEWAY,
            src: (guest_address(client, v6), conversation.client_port),
            dst,
            tcp: conversation.is_tcp.then_some((flags, round * 1000)),
            class: self.class(),
            payload: self.next_payload(),
        };
        let conversation = &self.conversations[index];
        let (from, to) = (conversation.client, conversation.server);
        let arriving = Segment {
            dst_mac: mac(server as u8 + 1),
            dst: (guest_address(server, v6), SERVER_PORT),
            ..segment.clone()
        };
        let meaning = Meaning::Request { conversation: index, round, epoch };
        self.send(from, to, &segment, &arriving, Admission::Always, meaning);
    }

    /// The server answers a request.
    fn answer(&mut self, index: usize, round: u32, epoch: u32) {
        let conversation = &self.conversations[index];
        let (from, to, v6) = (conversation.server, conversation.client, conversation.is_v6);
        let (server, client) = (self.guests[from].number, self.guests[to].number);
        let (client_port, is_virtual, is_tcp) =
            (conversation.client_port, conversation.is_virtual, conversation.is_tcp);
        let flags = if round == 0 { 0x12 } else { 0x18 };
        let segment = Segment {
            src_mac: mac(server as u8 + 1),
            dst_mac: GATEWAY,
            src: (guest_address(server, v6), SERVER_PORT),
            dst: (guest_address(client, v6), client_port),
            tcp: is_tcp.then_some((flags, round * 2000)),
            class: self.class(),
            payload: self.next_payload(),
        };
        let src = match is_virtual {
            true => (virtual_address(server, v6), VIRTUAL_PORT),
            false => segment.src,
        };
        let arriving = Segment { dst_mac: mac(client as u8 + 1), src, ..segment.clone() };
        let meaning = Meaning::Reply { conversation: index, round };
        self.send(from, to, &segment, &arriving, Admission::WithState(epoch), meaning);
    }

    /// One datagram to where policy has something to say.
    fn probe(&mut self, number: u64) {
        let from = self.random.below(self.guests.len() as u64) as usize;
        let step = 1 + self.random.below(GUESTS as u64 - 1) as usize;
        let to = from / GUESTS * GUESTS + (from + step) % GUESTS;
        let v6 = self.random.chance(400);
        let (port, admission) = match self.random.below(5) {
            0 => (BLOCKED_IN, Admission::Never),
            1 => (BLOCKED_OUT, Admission::Never),
            2 => (12_345, Admission::Never),
            _ => (SOMETIMES, Admission::UnlessStrict),
        };
        if !self.guests[from].is_up {
            return;
        }
        let segment = Segment {
            src_mac: self.guests[from].mac(),
            dst_mac: GATEWAY,
            // A few flows only, so that later probes meet what earlier ones left in the caches.
            src: (guest_address(self.guests[from].number, v6), 30_000 + (number % 3) as u16),
            dst: (guest_address(self.guests[to].number, v6), port),
            tcp: None,
            class: self.class(),
            payload: self.next_payload(),
        };
        let arriving = Segment { dst_mac: self.guests[to].mac(), ..segment.clone() };
        self.send(from, to, &segment, &arriving, admission, Meaning::Probe);
    }

    fn class(&mut self) -> (u8, u8, u8) {
        let random = &mut self.random;
        (random.below(64) as u8, random.below(3) as u8, 2 + random.below(250) as u8)
    }

    fn next_payload(&mut self) -> Vec<u8> {
        let extra = self.random.below(600) as usize;
        Segment::payload(self.messages.len() as u64, extra)
    }

    fn send(
        &mut self,
        from: usize,
        to: usize,
        segment: &Segment,
        arriving: &Segment,
        admission: Admission,
        meaning: Meaning,
    ) {
        let expected = arriving.frame();
        self.messages.push(Message { from, to, expected, admission, meaning, arrived: 0 });
        let (host, port) = (self.guests[from].host, self.guests[from].port);
        let frame = segment.frame();
        let deliveries = self.fabric.send(host, port, &frame);
        if self.guests[to].host == host {
            self.check_admission(host, &[frame], &deliveries);
        } else {
            assert!(deliveries.is_empty(), "a packet to another host came out here");
        }
        self.deliver(deliveries);
        self.check_limits(host);
    }

    /// Guests take what came to them, and answer.
    fn deliver(&mut self, deliveries: Vec<Delivery>) {
        let mut deliveries = VecDeque::from(deliveries);
        while let Some(Delivery { host, port, frame }) = deliveries.pop_front() {
            let at = self.guests.iter().position(|guest| (guest.host, guest.port) == (host, port));
            let at = at.expect("only guests have ports");
            let Some(number) = message_number(&frame) else {
                assert!(self.fabric.counts().corrupted > 0, "a frame was damaged in a switch");
                self.damaged += 1;
                continue;
            };
            let message = &mut self.messages[number as usize];
            assert_eq!(at, message.to, "message {number} went to the wrong guest");
            assert_eq!(decode(&frame), decode(&message.expected), "message {number} is not what was sent");
            message.arrived += 1;
            self.delivered += 1;
            if self.fabric.counts().duplicated == 0 {
                assert_eq!(message.arrived, 1, "message {number} arrived twice");
            }
            match message.meaning {
                Meaning::Request { conversation, round, epoch } => self.answer(conversation, round, epoch),
                Meaning::Reply { conversation, round } => self.take_reply(conversation, round),
                Meaning::Probe => {}
            }
        }
    }

    fn take_reply(&mut self, index: usize, round: u32) {
        let conversation = &mut self.conversations[index];
        if round != conversation.answered || conversation.is_over() {
            return;
        }
        conversation.answered += 1;
        conversation.calm_attempts = 0;
        // The timer of the request is void; the next request comes after a pause, sometimes a long one, in
        // which all state expires.
        conversation.attempts += 1;
        let attempt = conversation.attempts;
        let pause = match self.random.below(12) {
            0 => TIME_TO_LIVE.0 + 1_000_000_000,
            _ => 1 + self.random.below(300_000_000),
        };
        self.after(Duration(pause), Timer::Client { conversation: index, attempt });
    }

    /// Policy, ports or hosts change, or a timer of the switch runs.
    fn change(&mut self) {
        let guest = self.random.below(self.guests.len() as u64) as usize;
        let host = self.guests[guest].host;
        match self.random.below(10) {
            0 if self.kind == Kind::Restarts => {
                if self.guests[guest].is_up {
                    assert!(self.fabric.switch(host).remove_port(self.guests[guest].port));
                    self.guests[guest].is_up = false;
                    self.guests[guest].epoch += 1;
                    self.restarts += 1;
                    let pause = Duration(self.random.below(300_000_000));
                    self.after(pause, Timer::Up(guest));
                }
            }
            1 if self.kind == Kind::Restarts => {
                *self.fabric.switch(host) = self.make_switch(host);
                for guest in self.guests.iter_mut().filter(|guest| guest.host == host) {
                    guest.is_up = true;
                    guest.epoch += 1;
                }
                self.restarts += 1;
            }
            2 => {
                let now = self.fabric.now();
                self.fabric.switch(host).sweep(now);
            }
            _ => {
                let pass_layer = match self.random.below(6) {
                    0 => Some(-5),
                    1 => Some(5),
                    2 => Some(200),
                    _ => None,
                };
                let variant = Variant {
                    is_detailed: self.random.chance(500),
                    pass_layer,
                    is_strict: self.random.chance(400),
                };
                self.guests[guest].variant = variant;
                if self.guests[guest].is_up {
                    let (port, tenant) = (self.guests[guest].port, self.guests[guest].tenant);
                    self.fabric.switch(host).publish(port, policy(tenant, variant)).unwrap();
                    self.updates += 1;
                }
            }
        }
    }

    fn bring_up(&mut self, index: usize) {
        if self.guests[index].is_up {
            return;
        }
        self.guests[index].is_up = true;
        let host = self.guests[index].host;
        let mut switch = std::mem::replace(self.fabric.switch(host), Switch::new(SwitchConfig { seed: 0 }));
        self.add_port(&mut switch, &self.guests[index]);
        *self.fabric.switch(host) = switch;
    }
}

impl Guest {
    fn mac(&self) -> MacAddr {
        mac(self.number as u8 + 1)
    }
}

impl Conversation {
    fn is_over(&self) -> bool {
        self.answered == self.rounds
    }
}

fn host_mac(host: usize) -> MacAddr {
    MacAddr([2, 0, 0, 0, 1, host as u8 + 1])
}
