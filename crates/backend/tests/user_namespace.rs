//! An unprivileged process gets its own network. Without a harness, because entering a user namespace needs a
//! process with one thread.

use lamina_backend::namespace::{NetNs, may_make_namespaces, unshare_user_and_net};

const NAME: &str = "a_process_gets_its_own_network";

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.iter().any(|a| a == "--list") {
        if !arguments.iter().any(|a| a == "--ignored") {
            println!("{NAME}: test");
        }
        return;
    }
    if let Err(error) = unshare_user_and_net() {
        println!("skipped, because {error}");
        return;
    }
    assert!(may_make_namespaces(), "root in its user namespace");
    let inner = NetNs::create().expect("a namespace inside the user namespace");
    let devices =
        inner.run(|| std::fs::read_to_string("/proc/thread-self/net/dev")).expect("enter").expect("read");
    assert_eq!(devices.lines().skip(2).count(), 1, "only loopback: {devices}");
    println!("test {NAME} ... ok");
}
