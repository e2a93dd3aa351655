//! What became of packets that were sent for real before the traced one, in text and in JSON.

use lamina_daemon::explain::{decode, json_frame};
use serde_json::{Value, json};

use super::scene::Sent;

/// What became of a packet that was sent for real, in one line.
pub fn text(frame: &[u8], sent: &Sent) -> String {
    let what = decode::line(frame);
    match sent {
        Sent::Left(left) => {
            let ways: Vec<String> =
                left.iter().map(|(name, frame)| format!("{name} as {}", decode::line(frame))).collect();
            format!("{what}\n    -> {}", ways.join("\n    -> "))
        }
        Sent::Dropped(reasons) if reasons.is_empty() => format!("{what}\n    -> nowhere"),
        Sent::Dropped(reasons) => {
            let names: Vec<&str> = reasons.iter().map(|reason| reason.name()).collect();
            format!("{what}\n    -> dropped: {}", names.join(", "))
        }
    }
}

/// The same as JSON.
pub fn json(frame: &[u8], became: &Sent) -> Value {
    let (left, dropped) = match became {
        Sent::Left(left) => (left.as_slice(), &[][..]),
        Sent::Dropped(reasons) => (&[][..], reasons.as_slice()),
    };
    let left: Vec<Value> =
        left.iter().map(|(by, frame)| json!({ "by": &**by, "frame": json_frame(frame) })).collect();
    let dropped: Vec<&str> = dropped.iter().map(|reason| reason.name()).collect();
    json!({ "frame": json_frame(frame), "left": left, "dropped": dropped })
}
