//! A controller in Python answers mapping misses while packets wait: `examples/python/directory.py`, in the network of the
//! paper's example.

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, UdpSocket};
use std::process::{Child, Stdio};

use lamina_backend::namespace::may_make_namespaces;
use serde_json::{Value, json};

use crate::controllers::{Network, WEB1, drops, echo_request, paper, parts, ping_socket, serve_policy};
use crate::python::{python, root};
use crate::rig::*;

const WEB2: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 12);
const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 77);

/// A process that ends with its value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits for the answer to the ping `number`.
fn is_answered(socket: &UdpSocket, number: u16) -> bool {
    let mut buffer = [0; 2048];
    while let Ok(length) = socket.recv(&mut buffer) {
        if length >= 28 && buffer[20] == 0 && buffer[26..28] == number.to_be_bytes() {
            return true;
        }
    }
    false
}

#[test]
fn a_directory_in_python_answers_misses_and_the_packets_that_waited_go_on() {
    if !may_make_namespaces() || !has("ip") {
        println!(
            "skipped, because it needs CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_NET_RAW, and the program ip"
        );
        return;
    }
    let Some(mut python) = python() else { return };
    let (mut parts, platforms) = parts(&paper());
    let vnet = parts.iter_mut().find(|part| part.host == "h1" && part.owner == "vnet").unwrap();
    // The client's host knows everybody but web1.
    let table = &mut vnet.document["resources"]["mappings"]["blue"];
    table["entries"].as_array_mut().unwrap().retain(|entry| entry["address"] != WEB1.to_string());
    table["on-miss"] = json!("wait");
    table["answer-within"] = json!("20s");
    let network = Network::build();
    serve_policy(&network, &platforms, &parts.iter().collect::<Vec<_>>());
    let daemon = &network.daemons["h1"];
    let client = &network.guests["client"];

    let directory = json!({ WEB1.to_string(): { "mac": "02:00:00:00:00:11", "remote": "192.168.50.2" } });
    let directory = daemon.folder.write("directory.json", &directory.to_string());
    python.arg(root().join("examples/python/directory.py")).arg("--socket").arg(&daemon.socket);
    python.args(["--as", "vnet", "--table", "blue", "--directory"]).arg(directory);
    let mut running = Running(python.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(running.0.stdout.take().unwrap()).lines();
    let mut errors = running.0.stderr.take().unwrap();
    let mut said = || -> Value {
        let Some(Ok(line)) = lines.next() else {
            let mut text = String::new();
            errors.read_to_string(&mut text).unwrap();
            panic!("the directory has ended: {text}");
        };
        serde_json::from_str(&line).unwrap()
    };
    assert_eq!(said()["what"], "listening");

    // The underlay's neighbours get to know each other, by a machine whose mapping is known.
    let known = ping_socket(client, WEB2);
    let mut number = 0;
    wait_until("the first answer", || {
        number += 1;
        let _ = known.send(&echo_request(number));
        is_answered(&known, number)
    });
    let before = drops(&network);

    // The very first packet arrives, though nobody knew where to.
    let unknown = ping_socket(client, WEB1);
    unknown.set_read_timeout(Some(SOON)).unwrap();
    unknown.send(&echo_request(1)).unwrap();
    assert!(is_answered(&unknown, 1), "the packet that waited is not answered");
    let answer = said();
    assert_eq!((&answer["what"], &answer["address"]), (&"answered".into(), &"10.0.0.11".into()));
    assert_eq!(drops(&network), before, "nothing was dropped");
    for number in 2..50 {
        unknown.send(&echo_request(number)).unwrap();
        assert!(is_answered(&unknown, number), "{number}");
    }

    // And what is nobody's is said to be so: one question, though the guest asks again and again.
    ping_socket(client, NOBODY).send(&echo_request(1)).unwrap();
    let answer = said();
    assert_eq!((&answer["what"], &answer["address"]), (&"unknown".into(), &"10.0.0.77".into()));
}
