//! A policy document of any bytes: read, converted, published. Whatever is wrong with it comes back as a report that
//! can be printed; what is accepted runs.
//!
//! It lives here, not in the testkit, because the testkit knows the core only. The fuzz target and an ordinary test
//! of the daemon both include this file.

use lamina_core::packet::Packet;
use lamina_core::switch::{Output, Switch, SwitchConfig};
use lamina_core::time::Instant;
use lamina_daemon::convert;

/// Takes `bytes` as far as they go.
pub fn policy_document(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let document = match lamina_api::parse("fuzz", text) {
        Ok(document) => document,
        Err(report) => {
            assert!(report.has_errors(), "a document is refused for a reason");
            return print(&report);
        }
    };
    let host = match convert::convert(&document) {
        Ok(converted) => {
            print(&converted.warnings);
            converted.policy
        }
        Err(report) => {
            assert!(report.has_errors(), "a document is refused for a reason");
            return print(&report);
        }
    };
    let mut switch = Switch::new(SwitchConfig { seed: 1 });
    let frame = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5, 0, 0];
    for port in host.ports {
        // Limits that a document may ask for can be more memory than a fuzzer has.
        if port.config.limits.unified_flows > 1 << 17 || port.config.limits.drop_cache > 1 << 17 {
            continue;
        }
        switch.add_port(port.id, port.config).expect("conversion refuses ports that collide");
        switch.publish(port.id, port.policy).expect("what conversion accepts compiles");
        let mut batch = vec![Packet::from_frame(&frame)];
        switch.receive(Instant(1), port.id, &mut batch, &mut Output::default());
    }
}

/// Both forms of a report can be made; the text says something.
fn print(report: &lamina_api::Report) {
    assert!(report.is_empty() || !report.render(false).is_empty());
    let _ = report.to_json();
}
