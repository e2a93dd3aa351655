//! What a daemon says of interfaces: those of ports that it cannot use, and its uplinks.

use std::time::Duration;

use lamina_backend::namespace::may_make_namespaces;

use crate::controllers::namespace;
use crate::rig::*;

/// Longer than it takes to look at a device twice.
const TWO_LOOKS: Duration = Duration::from_millis(1_600);

#[test]
fn an_interface_that_cannot_be_used_is_named_once_and_used_when_it_can_be() {
    if !may_make_namespaces() || !has("ip") {
        println!(
            "skipped, because it needs CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_NET_RAW, and the program ip"
        );
        return;
    }
    let host = namespace();
    ip(&host, "link add underlay address 02:00:00:00:00:09 mtu 1400 type veth peer name far");
    ip(&host, "addr add 192.0.2.1/24 dev underlay");
    ip(&host, "link set underlay up");
    ip(&host, "link set far up");
    ip(&host, "link add vm1 type veth peer name guest");
    ip(&host, "link set vm1 up");
    // The host itself would answer on it: no device for a guest.
    ip(&host, "addr add 198.51.100.1/24 dev vm1");
    let mut daemon = Daemon::new("uplinks = [\"underlay\"]").within(&host);
    daemon.start();
    let ports = r#"{ "version": 1, "owner": "x", "ports": { "vm1": { "mac": "02:00:00:00:00:01" } } }"#;
    let file = daemon.folder.write("ports.yaml", ports);
    daemon.lamina(&["apply", "-f", file.to_str().unwrap()]);
    std::thread::sleep(TWO_LOOKS);
    let status = daemon.json(&["status"]);
    let port = &status["ports"][0];
    let device = port["device"].as_str().unwrap();
    assert!(port["state"] == "disconnected" && device.contains("its device could not be opened"), "{status}");
    assert_eq!(daemon.log().matches("its device could not be opened").count(), 1, "{}", daemon.log());
    let uplink = &status["uplinks"][0];
    assert_eq!(
        (&uplink["name"], &uplink["mac"], &uplink["mtu"], &uplink["addresses"][0]),
        (&"underlay".into(), &"02:00:00:00:00:09".into(), &1400.into(), &"192.0.2.1".into()),
        "{status}"
    );
    ip(&host, "addr del 198.51.100.1/24 dev vm1");
    wait_until("the port is attached", || daemon.json(&["status"])["ports"][0]["state"] == "running");
    // Another reason, or the same after a time without, is worth a line again.
    ip(&host, "link del vm1");
    wait_until("the port lost its device", || {
        daemon.json(&["status"])["ports"][0]["state"] == "disconnected"
    });
    let status = daemon.json(&["status"]);
    assert_eq!(status["ports"][0]["device"], "there is no interface `vm1`");
}
