//! Independent controllers, each processes of its own, program the paper's example while traffic flows: in random
//! order, killed and started again at random, with a fifth that comes later.
//!
//! The network is that of `examples/paper.yaml`, and so are the policies. Each host has a daemon in its namespace. A
//! controller writes its document again and again with a mark in it, the name of a rule that no packet matches, so that it
//! shows whose write is in force, and whether all of it. Every ping must be answered and every stream arrive whole.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lamina_backend::namespace::{NetNs, may_make_namespaces};
use serde_json::{Value, json};

use crate::random::Random;
use crate::rig::*;

const PAPER: &str = include_str!("../../../../examples/paper.yaml");
/// The service's address, and where it is served.
const SERVICE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 1, 0, 100)), 80);
const SERVED: u16 = 8080;
pub const WEB1: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 11);
/// How long controllers come and go.
const STORM: Duration = Duration::from_secs(8);
/// The longest time that a controller lives that is to be killed.
const LIFE: Duration = Duration::from_millis(60);

pub fn namespace() -> NetNs {
    let namespace = NetNs::create().unwrap();
    // Its packets would be noise. Where it cannot be turned off they are dropped by policy.
    let _ = namespace.run(|| {
        ["all", "default"]
            .map(|place| std::fs::write(format!("/proc/sys/net/ipv6/conf/{place}/disable_ipv6"), "1"))
    });
    ip(&namespace, "link set lo up");
    namespace
}

/// The hosts, each with its daemon, and the guests.
pub struct Network {
    pub daemons: BTreeMap<&'static str, Daemon>,
    pub guests: BTreeMap<&'static str, NetNs>,
    _hosts: [NetNs; 2],
}

impl Network {
    pub fn build() -> Network {
        let hosts = [namespace(), namespace()];
        let [h1, h2] = &hosts;
        ip(h1, &format!("link add underlay type veth peer name underlay netns {}", h2.path().display()));
        for (host, address) in [(h1, "192.168.50.1/24"), (h2, "192.168.50.2/24")] {
            ip(host, "link set underlay up");
            ip(host, &format!("addr add {address} dev underlay"));
        }
        let mut guests = BTreeMap::new();
        for (host, name, number) in [(h1, "client", 1), (h2, "web1", 11), (h2, "web2", 12)] {
            let guest = namespace();
            let path = guest.path();
            ip(
                host,
                &format!(
                    "link add {name} mtu 1450 type veth peer name eth0 address 02:00:00:00:00:{number:02} mtu 1450 netns {}",
                    path.display()
                ),
            );
            ip(host, &format!("link set {name} up"));
            ip(&guest, &format!("addr add 10.0.0.{number}/24 dev eth0"));
            ip(&guest, "link set eth0 up");
            ip(&guest, "route add default via 10.0.0.254");
            guests.insert(name, guest);
        }
        let daemon = |host| {
            let mut daemon = Daemon::new("workers = 2\nuplinks = [\"underlay\"]").within(host);
            daemon.start();
            daemon
        };
        let daemons = BTreeMap::from([("h1", daemon(h1)), ("h2", daemon(h2))]);
        Network { daemons, guests, _hosts: hosts }
    }
}

/// The example.
pub fn paper() -> Value {
    serde_saphyr::from_str(PAPER).unwrap()
}

/// Makes the ports, and puts what the controllers say in the order of `parts`.
pub fn serve_policy(network: &Network, platforms: &BTreeMap<&'static str, Value>, parts: &[&Part]) {
    for (host, platform) in platforms {
        let daemon = &network.daemons[host];
        let file = daemon.folder.write("platform.yaml", &platform.to_string());
        daemon.lamina(&["apply", "-f", file.to_str().unwrap()]);
    }
    for part in parts {
        part.write(&network.daemons[part.host], 0);
    }
}

/// What one controller says about one host.
pub struct Part {
    pub host: &'static str,
    pub owner: String,
    pub document: Value,
}

/// The documents of the example's policies without the ports' own properties, and those.
pub fn parts(paper: &Value) -> (Vec<Part>, BTreeMap<&'static str, Value>) {
    let (mut parts, mut platforms) = (Vec::new(), BTreeMap::new());
    for host in ["h1", "h2"] {
        let mut ports = serde_json::Map::new();
        for (name, vm) in paper["hosts"][host]["vms"].as_object().unwrap() {
            ports.insert(name.clone(), json!({ "mac": vm["mac"], "tenants": [5001] }));
        }
        platforms.insert(host, json!({ "version": 1, "owner": "platform", "ports": ports }));
        for policy in paper["hosts"][host]["policies"].as_array().unwrap() {
            let mut document = policy["document"].clone();
            for port in document["ports"].as_object_mut().unwrap().values_mut() {
                port.as_object_mut().unwrap().remove("tenants");
            }
            parts.push(Part { host, owner: document["owner"].as_str().unwrap().into(), document });
        }
    }
    (parts, platforms)
}

impl Part {
    /// The document with the mark `mark` in every layer.
    fn marked(&self, mark: u64) -> Value {
        let mut document = self.document.clone();
        for port in document["ports"].as_object_mut().unwrap().values_mut() {
            for layer in port["layers"].as_array_mut().unwrap() {
                let direction = if layer.get("inbound").is_some() { "inbound" } else { "outbound" };
                layer[direction].as_array_mut().unwrap().push(json!({
                    "group": "mark",
                    "rules": [{ "name": format!("m{mark}"), "when": { "ip.dst": "192.0.2.1" }, "action": "allow" }],
                }));
            }
        }
        document
    }

    /// The rules that the document has, with the mark `mark`.
    fn rules(&self, mark: u64) -> BTreeSet<String> {
        let document = self.marked(mark);
        let mut rules = BTreeSet::new();
        for (port, content) in document["ports"].as_object().unwrap() {
            for layer in content["layers"].as_array().unwrap() {
                for direction in ["inbound", "outbound"] {
                    for group in layer[direction].as_array().into_iter().flatten() {
                        for rule in group["rules"].as_array().unwrap() {
                            let text = |value: &Value| value.as_str().unwrap().to_string();
                            let (layer, group) = (text(&layer["name"]), text(&group["group"]));
                            rules.insert(format!(
                                "{port}/{layer}/{direction}/{group}/{}",
                                text(&rule["name"])
                            ));
                        }
                    }
                }
            }
        }
        rules
    }

    /// Checks that what is in force is this document with one mark, and returns the mark.
    fn in_force(&self, daemon: &Daemon) -> u64 {
        let listed = daemon.json(&["list", "rule", "--owner", &self.owner]);
        let text = |object: &Value, key: &str| object[key].as_str().unwrap().to_string();
        let name =
            |object| ["port", "layer", "direction", "group", "name"].map(|key| text(object, key)).join("/");
        let found: BTreeSet<String> = listed.as_array().unwrap().iter().map(name).collect();
        let mark =
            found.iter().find_map(|name| name.split_once("/mark/m")).map(|(_, mark)| mark.parse().unwrap());
        let mark = mark.unwrap_or_else(|| panic!("{} on {}: {found:?}", self.owner, self.host));
        assert_eq!(found, self.rules(mark), "{} on {}", self.owner, self.host);
        mark
    }

    /// Starts a process that writes the document with the mark `mark`.
    fn process(&self, daemon: &Daemon, mark: u64) -> Command {
        let name = format!("{}-{mark}.yaml", self.owner);
        let file = daemon.folder.write(&name, &self.marked(mark).to_string());
        let mut command = daemon.command(&["apply", "--as", &self.owner, "-f", file.to_str().unwrap()]);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    fn write(&self, daemon: &Daemon, mark: u64) {
        let output = self.process(daemon, mark).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} on {}: {errors}", self.owner, self.host);
    }
}

/// Echoes what comes, for as long as the test runs.
fn serve(guest: &NetNs) {
    let listener = guest.run(|| TcpListener::bind(("0.0.0.0", SERVED))).unwrap().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut stream = stream;
                let mut buffer = vec![0; 16 << 10];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..length]).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

/// Sends `length` bytes and reads them back.
fn exchange(stream: &mut TcpStream, length: usize) {
    let sent: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
    stream.write_all(&sent).unwrap();
    let mut answered = vec![0; length];
    stream.read_exact(&mut answered).unwrap();
    assert!(answered == sent, "a stream is not what was sent");
}

/// A connection to the service.
fn dial(client: &NetNs) -> TcpStream {
    let connect = || TcpStream::connect_timeout(&SERVICE, SOON);
    let stream = client.run(connect).unwrap().unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// A socket that pings `address`.
pub fn ping_socket(client: &NetNs, address: Ipv4Addr) -> UdpSocket {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};
    let open =
        || socket_with(AddressFamily::INET, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::ICMP));
    let socket = UdpSocket::from(client.run(open).unwrap().unwrap());
    socket.connect((address, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    socket
}

pub fn echo_request(number: u16) -> Vec<u8> {
    let echo = etherparse::IcmpEchoHeader { id: 0x1a3, seq: number };
    let header = etherparse::Icmpv4Header::with_checksum(etherparse::Icmpv4Type::EchoRequest(echo), &[0; 56]);
    [&header.to_bytes()[..], &[0; 56]].concat()
}

/// The numbers of the answers that came until `is_over` and nothing more comes.
fn answers(socket: &UdpSocket, is_over: &AtomicBool) -> BTreeSet<u16> {
    let mut numbers = BTreeSet::new();
    let mut buffer = [0; 2048];
    let mut over_since = None;
    loop {
        match socket.recv(&mut buffer) {
            // Behind the IPv4 header: type 0, code, checksum, identifier, number.
            Ok(length) if length >= 28 && buffer[20] == 0 && buffer[24..26] == [0x01, 0xa3] => {
                numbers.insert(u16::from_be_bytes([buffer[26], buffer[27]]));
            }
            _ => {}
        }
        if is_over.load(Ordering::Relaxed) {
            let since = *over_since.get_or_insert_with(Instant::now);
            if since.elapsed() > Duration::from_secs(2) {
                return numbers;
            }
        }
    }
}

/// What every port dropped, by reason.
pub fn drops(network: &Network) -> BTreeMap<String, u64> {
    let mut drops = BTreeMap::new();
    for daemon in network.daemons.values() {
        for drop in daemon.json(&["drops"]).as_array().unwrap() {
            let mut place = drop.clone();
            let packets = place.as_object_mut().unwrap().remove("packets").unwrap();
            *drops.entry(place.to_string()).or_default() += packets.as_u64().unwrap();
        }
    }
    drops
}

/// A controller: it writes its documents again and again, and dies at random. Returns how many writes were acknowledged
/// and how many killed.
fn control(network: &Network, parts: &[&Part], mut random: Random, is_over: &AtomicBool) -> (u32, u32) {
    let (mut acknowledged, mut killed) = (0, 0);
    for mark in 1.. {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let part = parts[random.below(parts.len() as u64) as usize];
        let daemon = &network.daemons[part.host];
        if random.below(2) == 0 {
            part.write(daemon, mark);
            acknowledged += 1;
            continue;
        }
        let mut process = part.process(daemon, mark).spawn().unwrap();
        std::thread::sleep(random.time_below(LIFE));
        process.kill().unwrap();
        process.wait().unwrap();
        killed += 1;
    }
    (acknowledged, killed)
}

#[test]
fn four_controllers_come_and_go_under_traffic_and_a_fifth_joins() {
    if !may_make_namespaces() || !has("ip") {
        println!(
            "skipped, because it needs CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_NET_RAW, and the program ip"
        );
        return;
    }
    let mut random = Random::seeded();
    let paper = paper();
    let (parts, platforms) = parts(&paper);
    let network = Network::build();

    // In random order.
    let mut order: Vec<&Part> = parts.iter().collect();
    for place in (1..order.len()).rev() {
        order.swap(place, random.below(place as u64 + 1) as usize);
    }
    serve_policy(&network, &platforms, &order);
    let client = &network.guests["client"];
    ["web1", "web2"].iter().for_each(|guest| serve(&network.guests[guest]));
    let socket = ping_socket(client, WEB1);
    let mut buffer = [0; 2048];
    wait_until("the first answer", || {
        let _ = socket.send(&echo_request(0));
        socket.recv(&mut buffer).is_ok()
    });
    let mut lasting: Vec<TcpStream> = (0..4).map(|_| dial(client)).collect();
    lasting.iter_mut().for_each(|stream| exchange(stream, 1000));
    std::thread::sleep(Duration::from_millis(200));
    let dropped_before = drops(&network);

    let (traffic_is_over, storm_is_over) = (AtomicBool::new(false), AtomicBool::new(false));
    let mut owners: BTreeMap<&str, Vec<&Part>> = BTreeMap::new();
    parts.iter().for_each(|part| owners.entry(&part.owner).or_default().push(part));
    assert_eq!(owners.len(), 4);
    let (sent, answered, streams) = std::thread::scope(|scope| {
        let receiving = scope.spawn(|| answers(&socket, &traffic_is_over));
        let sending = scope.spawn(|| {
            let mut number = 0;
            while !traffic_is_over.load(Ordering::Relaxed) {
                number += 1;
                socket.send(&echo_request(number)).unwrap();
                std::thread::sleep(Duration::from_millis(3));
            }
            number
        });
        let streaming = scope.spawn(|| {
            let mut streams = 0;
            while !traffic_is_over.load(Ordering::Relaxed) {
                exchange(&mut dial(client), 8 << 10);
                lasting.iter_mut().for_each(|stream| exchange(stream, 1000));
                streams += 1;
            }
            streams
        });
        let storms: Vec<_> = owners
            .iter()
            .map(|(owner, parts)| {
                let (random, network, is_over) = (random.split(), &network, &storm_is_over);
                (owner, scope.spawn(move || control(network, parts, random, is_over)))
            })
            .collect();

        let begin = Instant::now();
        let mut looks = 0;
        while begin.elapsed() < STORM {
            for part in &parts {
                part.in_force(&network.daemons[part.host]);
            }
            looks += 1;
            if looks == 1 {
                refuses_anothers_write(&network, &parts);
            }
            if looks == 2 {
                insert_the_fifth(&network, &paper);
            }
        }
        storm_is_over.store(true, Ordering::Relaxed);
        for (owner, storm) in storms {
            let (acknowledged, killed) = storm.join().unwrap();
            println!("{owner}: {acknowledged} writes acknowledged, {killed} processes killed");
            assert!(acknowledged >= 5 && killed >= 5, "{owner} hardly wrote");
        }
        std::thread::sleep(Duration::from_millis(200));
        traffic_is_over.store(true, Ordering::Relaxed);
        println!("{looks} looks at what is in force");
        (sending.join().unwrap(), receiving.join().unwrap(), streaming.join().unwrap())
    });

    let lost: Vec<u16> = (1..=sent).filter(|number| !answered.contains(number)).collect();
    println!("{sent} pings, {streams} streams and 4 lasting ones, lost: {lost:?}");
    let dropped: BTreeMap<String, u64> = drops(&network)
        .into_iter()
        .map(|(place, count)| (place.clone(), count - dropped_before.get(&place).copied().unwrap_or(0)))
        .filter(|(_, count)| *count > 0)
        .collect();
    assert!(lost.is_empty() && dropped.is_empty(), "lost {lost:?}, dropped {dropped:#?}");
    assert!(sent > 500 && streams > 20, "hardly any traffic: {sent} pings, {streams} streams");

    // The last word of each is in force, on every host.
    for part in &parts {
        let daemon = &network.daemons[part.host];
        part.write(daemon, u64::from(u32::MAX));
        assert_eq!(part.in_force(daemon), u64::from(u32::MAX));
    }
    for daemon in network.daemons.values() {
        let audit = daemon.json(&["audit"]);
        assert!(audit.as_array().unwrap().iter().all(|finding| finding["finding"] == "same"), "{audit:#}");
    }
    let expedited = network.daemons["h2"].json(&["stats", "--kind", "rule", "--layer", "quality"]);
    let packets =
        expedited.as_array().unwrap().iter().filter_map(|count| count["packets"].as_u64()).sum::<u64>();
    assert!(packets > 0, "the fifth policy sees nothing: {expedited:#}");
}

/// A write of one owner's layers by every other is refused with the owner's name.
fn refuses_anothers_write(network: &Network, parts: &[Part]) {
    for part in parts {
        for other in parts.iter().filter(|other| other.host == part.host && other.owner != part.owner) {
            let daemon = &network.daemons[part.host];
            let file = daemon.folder.write("others.yaml", &part.document.to_string());
            let output = apply_json(daemon, &file, &other.owner);
            let mistake = &output["error"]["mistakes"][0];
            assert_eq!(mistake["code"], "not-owner", "{output}");
            assert!(output.to_string().contains(&format!("`{}`", part.owner)), "names the owner: {output}");
        }
    }
}

fn apply_json(daemon: &Daemon, file: &Path, controller: &str) -> Value {
    let arguments = ["apply", "--as", controller, "-f", file.to_str().unwrap(), "--json"];
    let output = daemon.command(&arguments).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The example's fifth policy, between two others.
fn insert_the_fifth(network: &Network, paper: &Value) {
    let checks = paper["checks"].as_array().unwrap();
    let change = checks.iter().find_map(|check| check.get("meanwhile")).expect("a policy that comes later");
    let daemon = &network.daemons["h2"];
    let file = daemon.folder.write("quality.yaml", &change[0]["policy"]["document"].to_string());
    let applied = apply_json(daemon, &file, "quality");
    assert!(applied["created"].as_u64().unwrap() > 0, "{applied}");
}
