//! Stock clients against answers from the data path: a guest in a namespace of its own, and a port whose policy
//! answers everything. No server runs anywhere.
//!
//! The DHCP case is that of the OVN manual: the port `dmz-vm1` gets 172.16.255.130/26 for an hour, from a router at
//! 172.16.255.129.

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use lamina_backend::af_packet::{AfPacket, AfPacketConfig};
use lamina_backend::namespace::{NetNs, may_make_namespaces};
use lamina_core::drop_reason::DropReason;
use lamina_core::switch::{PortId, SwitchConfig};
use lamina_daemon::convert::{self, PortIds};
use lamina_daemon::worker::{Handle, WorkerConfig, spawn};

const POLICY: &str = r#"
version: 1
resources:
  dns:
    lan:
      records:
        - { name: web.lan, address: [172.16.255.140, "fd00:ac10::140"] }
        - { name: www.lan, cname: web.lan }
        - { name: 172.16.255.140, ptr: web.lan }
ports:
  dmz-vm1:
    mac: "02:ac:10:ff:01:30"
    layers:
      - name: services
        priority: 10
        outbound:
          - group: answers
            rules:
              - { name: arp, when: { arp.op: request, ip.dst: 172.16.255.129 }, action: { respond: { arp: "02:ac:10:ff:01:29" } } }
              - { name: nd, when: { icmp.type: 135, nd.target: "fe80::ac:10ff:feff:129" }, action: { respond: { nd: "02:ac:10:ff:01:29" } } }
              - { name: ping, when: { icmp.type: [8, 128] }, action: { respond: echo } }
              - name: dhcp
                when: { ip.proto: udp, l4.dst: 67 }
                action:
                  respond:
                    dhcp:
                      mac: "02:ac:10:ff:01:29"
                      server: 172.16.255.129
                      address: 172.16.255.130/26
                      host-name: dmz-vm1
                      time: 3600s
                      router: 172.16.255.129
                      dns: 172.16.255.129
                      domain: lan
              - name: dhcpv6
                when: { ip.proto: udp, l4.dst: 547 }
                action: { respond: { dhcpv6: { mac: "02:ac:10:ff:01:29", address: "fd00:ac10:1::130", preferred: 1h, valid: 2h, dns: "fd00:ac10::53", search: lan } } }
              - name: router
                when: { icmp.type: 133 }
                action:
                  respond:
                    router-advertisement:
                      mac: "02:ac:10:ff:01:29"
                      lifetime: 9000s
                      mtu: 1400
                      managed: true
                      prefixes: "fd00:ac10::/64"
              - { name: dns, when: { ip.proto: udp, l4.dst: 53 }, action: { respond: { dns: lan } } }
"#;

/// A guest, and the worker that drives its port.
struct Bed {
    guest: NetNs,
    worker: Handle,
    folder: PathBuf,
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// `None`, and says so, where namespaces are not allowed or one of `programs` is not there.
fn bed(name: &str, programs: &[&str]) -> Option<Bed> {
    if !may_make_namespaces() {
        println!("skipped, because this process may not make network namespaces");
        return None;
    }
    for program in programs {
        if !is_there(program) {
            println!("skipped, because {program} is not installed");
            return None;
        }
    }
    let switch_side = NetNs::create().unwrap();
    let guest = NetNs::create().unwrap();
    let path = guest.path();
    switch_side
        .run(|| {
            ip("link add s1 type veth peer name g1 address 02:ac:10:ff:01:30");
            ip(&format!("link set g1 netns {}", path.display()));
            ip("link set s1 up");
        })
        .unwrap();
    let document = lamina_api::parse("answers", POLICY).unwrap_or_else(|r| panic!("{}", r.render(false)));
    let policy = convert::merge(&[document], &mut PortIds::default());
    let mut policy = policy.unwrap_or_else(|report| panic!("{}", report.render(false))).policy;
    let port = policy.ports.pop().unwrap();
    let worker = spawn("answers", WorkerConfig::new(SwitchConfig { seed: 3 }), Some(switch_side)).unwrap();
    let attached = worker.call(move |switch, ports| {
        switch.add_port(port.id, port.config).unwrap();
        switch.publish(port.id, port.policy).unwrap();
        // On the worker's thread, which lives in the switch's namespace.
        ports.attach(port.id, Box::new(AfPacket::open(&AfPacketConfig::guest("s1"))?)).unwrap();
        std::io::Result::Ok(port.id)
    });
    assert_eq!(attached.unwrap().unwrap(), PortId(1));
    guest
        .run(|| {
            ip("link set lo up");
            ip("link set g1 up");
            wait("the carrier", || run("ip", &["-o", "link", "show", "g1"]).contains("state UP"));
        })
        .unwrap();
    let folder = std::env::temp_dir().join(format!("lamina-answers-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    Some(Bed { guest, worker, folder })
}

impl Bed {
    fn drops(&self) -> Vec<(DropReason, u64)> {
        let drops = |counters: lamina_core::stats::PortCounters| counters.drops.iter().collect::<Vec<_>>();
        self.worker.call(move |switch, _| drops(switch.counters(PortId(1)).unwrap())).unwrap()
    }

    /// A script that clients start to configure the interface, and the file into which it writes its environment.
    fn script(&self, text: &str) -> (PathBuf, PathBuf) {
        let (script, environment) = (self.folder.join("script"), self.folder.join("environment"));
        let text = format!("#!/bin/sh\n{}\n", text.replace("FILE", &environment.display().to_string()));
        std::fs::write(&script, text).unwrap();
        assert!(Command::new("chmod").arg("755").arg(&script).status().unwrap().success());
        (script, environment)
    }
}

fn is_there(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').chain(["/sbin", "/usr/sbin"]).any(|folder| Path::new(folder).join(program).exists())
}

fn ip(arguments: &str) {
    let output = output("ip", &arguments.split(' ').collect::<Vec<_>>());
    assert!(output.status.success(), "ip {arguments}: {output:?}");
}

fn output(program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    let path = std::env::var("PATH").unwrap_or_default() + ":/sbin:/usr/sbin";
    command.args(arguments).env("PATH", path).output().unwrap_or_else(|error| panic!("{program}: {error}"))
}

/// What a program prints.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = output(program, arguments);
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(30), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn busybox_udhcpc_gets_its_lease_and_the_kernel_its_neighbour() {
    let Some(bed) = bed("dhcp", &["busybox"]) else { return };
    let (script, environment) = bed.script(
        "[ \"$1\" = bound ] || exit 0\nip addr add $ip/$mask dev $interface\nip route add default via $router\nenv >FILE",
    );
    bed.guest
        .run(|| {
            let script = script.display().to_string();
            // Foreground, no lease is an error, ends when it has one, asks for the name and the domain too.
            let arguments =
                ["udhcpc", "-f", "-n", "-q", "-i", "g1", "-s", &script, "-O", "hostname", "-O", "domain"];
            let said = output("busybox", &arguments);
            assert!(said.status.success(), "{said:?}");
            let environment = std::fs::read_to_string(&environment).unwrap();
            for line in [
                "ip=172.16.255.130",
                "mask=26",
                "subnet=255.255.255.192",
                "router=172.16.255.129",
                "dns=172.16.255.129",
                "domain=lan",
                "hostname=dmz-vm1",
                "lease=3600",
                "serverid=172.16.255.129",
            ] {
                assert!(environment.lines().any(|other| other == line), "{line} in {environment}");
            }
            let addresses = run("ip", &["-4", "-o", "addr", "show", "g1"]);
            assert!(addresses.contains("inet 172.16.255.130/26 "), "{addresses}");
            let routes = run("ip", &["-4", "route"]);
            assert!(routes.contains("default via 172.16.255.129 dev g1"), "{routes}");

            // ARP by the kernel, then an echo.
            let said = output("busybox", &["ping", "-c", "2", "-W", "5", "172.16.255.129"]);
            assert!(said.status.success(), "{said:?}");
            let neighbours = run("ip", &["neigh", "show", "172.16.255.129"]);
            assert!(neighbours.contains("lladdr 02:ac:10:ff:01:29"), "{neighbours}");
        })
        .unwrap();
    assert!(!bed.drops().iter().any(|(reason, _)| *reason == DropReason::BadDhcp), "{:?}", bed.drops());
}

#[test]
fn busybox_udhcpc_starts_again_after_a_refusal() {
    let Some(bed) = bed("nak", &["busybox"]) else { return };
    let (script, environment) = bed.script("echo $1 $ip >>FILE");
    bed.guest
        .run(|| {
            let script = script.display().to_string();
            // It wants another address than policy has; the offer names the right one.
            let arguments = ["udhcpc", "-f", "-n", "-q", "-i", "g1", "-s", &script, "-r", "172.16.255.131"];
            let said = output("busybox", &arguments);
            assert!(said.status.success(), "{said:?}");
            let events = std::fs::read_to_string(&environment).unwrap();
            assert!(events.ends_with("bound 172.16.255.130\n"), "{events}");
        })
        .unwrap();
}

#[test]
fn the_kernel_takes_its_prefix_and_default_route_from_an_advertisement() {
    let Some(bed) = bed("ra", &["busybox"]) else { return };
    bed.guest
        .run(|| {
            let addresses = || run("ip", &["-6", "-o", "addr", "show", "g1"]);
            wait("an address of its own", || {
                let shown = addresses();
                shown.contains("fd00:ac10::ac:10ff:feff:130/64") && !shown.contains("tentative")
            });
            wait("a default route", || {
                let routes = run("ip", &["-6", "route", "show", "default"]);
                routes.contains("default via fe80::ac:10ff:feff:129 dev g1 proto ra")
            });
            let mtu = std::fs::read_to_string("/proc/sys/net/ipv6/conf/g1/mtu").unwrap();
            assert_eq!(mtu.trim(), "1400");
            // Neighbour discovery by the kernel, then an echo from beyond the router.
            let said = output("busybox", &["ping6", "-c", "2", "-W", "5", "fd00:beef::1"]);
            assert!(said.status.success(), "{said:?}");
            let neighbours = run("ip", &["-6", "neigh", "show", "fe80::ac:10ff:feff:129", "dev", "g1"]);
            assert!(neighbours.contains("lladdr 02:ac:10:ff:01:29"), "{neighbours}");
        })
        .unwrap();
}

#[test]
fn isc_dhclient_gets_its_ipv6_address() {
    let Some(bed) = bed("dhcpv6", &["dhclient"]) else { return };
    let (script, environment) = bed.script(
        "[ \"$reason\" = BOUND6 ] || exit 0\nip -6 addr add $new_ip6_address/$new_ip6_prefixlen dev $interface\nenv >FILE",
    );
    bed.guest
        .run(|| {
            wait("a link-local address", || {
                let shown = run("ip", &["-6", "-o", "addr", "show", "g1", "scope", "link"]);
                shown.contains("fe80::") && !shown.contains("tentative")
            });
            let place = |name: &str| bed.folder.join(name).display().to_string();
            let (leases, pid, config) = (place("leases"), place("pid"), place("config"));
            std::fs::write(&config, "also request dhcp6.name-servers, dhcp6.domain-search;\n").unwrap();
            let script = script.display().to_string();
            let arguments =
                ["-6", "-1", "-d", "-cf", &config, "-lf", &leases, "-pf", &pid, "-sf", &script, "g1"];
            let mut client = Command::new("dhclient");
            client.args(arguments);
            let path = std::env::var("PATH").unwrap_or_default() + ":/sbin:/usr/sbin";
            // It stays in the foreground to renew; it is ended when it has what it wants.
            let mut client = client.env("PATH", path).spawn().unwrap();
            wait("the environment of the script", || {
                std::fs::read_to_string(&environment).is_ok_and(|text| text.contains("new_ip6_address="))
            });
            client.kill().unwrap();
            client.wait().unwrap();
            let environment = std::fs::read_to_string(&environment).unwrap();
            for line in [
                "new_ip6_address=fd00:ac10:1::130",
                "new_preferred_life=3600",
                "new_max_life=7200",
                "new_dhcp6_name_servers=fd00:ac10::53",
                "new_dhcp6_server_id=0:3:0:1:2:ac:10:ff:1:29",
            ] {
                assert!(environment.lines().any(|other| other == line), "{line} in {environment}");
            }
            let addresses = run("ip", &["-6", "-o", "addr", "show", "g1"]);
            assert!(addresses.contains("fd00:ac10:1::130/"), "{addresses}");
        })
        .unwrap();
}

#[test]
fn stock_resolvers_get_their_names() {
    let Some(bed) = bed("dns", &["busybox", "getent", "unshare"]) else { return };
    let resolver = bed.folder.join("resolv.conf");
    std::fs::write(&resolver, "nameserver 172.16.255.129\nsearch lan\noptions timeout:3 attempts:2\n")
        .unwrap();
    bed.guest
        .run(|| {
            ip("addr add 172.16.255.130/26 dev g1");
            let found = run("busybox", &["nslookup", "www.lan", "172.16.255.129"]);
            assert!(found.contains("172.16.255.140") && found.contains("web.lan"), "{found}");
            let found =
                run("busybox", &["nslookup", "-type=ptr", "140.255.16.172.in-addr.arpa", "172.16.255.129"]);
            assert!(found.contains("name = web.lan"), "{found}");
            let found = run("busybox", &["nslookup", "nobody.lan", "172.16.255.129"]);
            assert!(found.contains("NXDOMAIN"), "{found}");

            // The C library, with a resolver configuration of its own.
            let getent = |database: &str, name: &str| {
                let line = "mount --bind \"$0\" /etc/resolv.conf && exec getent \"$1\" \"$2\"";
                let file = resolver.display().to_string();
                run("unshare", &["-m", "sh", "-c", line, &file, database, name])
            };
            let found = getent("ahostsv4", "web");
            assert!(found.contains("172.16.255.140"), "by the search domain: {found}");
            let found = getent("ahostsv6", "www.lan");
            assert!(found.contains("fd00:ac10::140"), "{found}");
            let found = getent("hosts", "172.16.255.140");
            assert!(found.contains("web.lan"), "{found}");
        })
        .unwrap();
    // What is no query is named and does no harm.
    let socket = bed.guest.run(|| UdpSocket::bind("172.16.255.130:0")).unwrap().unwrap();
    for message in [&b"short"[..], &[0; 12], &[0xff; 600]] {
        socket.send_to(message, "172.16.255.129:53").unwrap();
    }
    wait("the drops", || {
        let count =
            |reason| bed.drops().iter().find(|(other, _)| *other == reason).map_or(0, |(_, count)| *count);
        count(DropReason::BadDns) == 2 && count(DropReason::CannotRespond) >= 1
    });
}
