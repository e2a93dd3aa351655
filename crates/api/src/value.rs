//! The small values of a document: names, MAC addresses, prefixes, durations, and how they are written.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;

/// A name that a controller gave. Cheap to clone.
pub type Name = Arc<str>;

/// A MAC address: six bytes in the order of the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A MAC address is six two-digit hexadecimal bytes joined by colons, for example `02:00:00:00:00:01`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadMac;

impl FromStr for Mac {
    type Err = BadMac;

    fn from_str(text: &str) -> Result<Self, BadMac> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or(BadMac)?;
            if !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(BadMac);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| BadMac)?;
        }
        if parts.next().is_some() { Err(BadMac) } else { Ok(Mac(bytes)) }
    }
}

/// Why a text is not the value it should be, and what to write instead.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Problem {
    pub(crate) message: String,
    pub(crate) help: String,
}

impl Problem {
    pub(crate) fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Problem { message: message.into(), help: help.into() }
    }
}

/// A prefix like `10.0.0.0/8`, or an address, which is the prefix of itself alone. Bits beyond the length must be
/// zero: `10.0.0.5/8` is more often a mistake than a way to write `10.0.0.0/8`.
pub(crate) fn parse_prefix(text: &str) -> Result<IpNet, Problem> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let Ok(prefix) = text.parse::<IpNet>() else {
        let message = format!("`{}` is not a prefix or an address", crate::tree::shortened(text));
        return Err(Problem::new(message, "write it like `10.0.0.0/8`, `10.0.0.1` or `\"fd00::/64\"`"));
    };
    if prefix.trunc() != prefix {
        let message = format!("`{text}` has bits set beyond its length");
        return Err(Problem::new(message, format!("write `{}` or `{}`", prefix.trunc(), prefix.addr())));
    }
    Ok(prefix)
}

/// A duration in nanoseconds: a whole number with one of the units ns, us, ms, s, m, h.
pub(crate) fn parse_duration(text: &str) -> Result<u64, Problem> {
    const HELP: &str = "write a whole number and a unit: `500ms`, `300s`, `5m`, `1h`";
    let problem = |message: String| Problem::new(message, HELP);
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let unit = match &text[digits..] {
        "ns" => 1,
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        "" => return Err(problem(format!("the duration `{}` lacks a unit", crate::tree::shortened(text)))),
        _ => return Err(problem(format!("`{}` is not a duration", crate::tree::shortened(text)))),
    };
    if digits == 0 {
        return Err(problem(format!("`{}` is not a duration", crate::tree::shortened(text))));
    }
    let nanoseconds = text[..digits].parse::<u64>().ok().and_then(|count| count.checked_mul(unit));
    match nanoseconds {
        Some(0) => Err(problem(format!("the duration `{text}` is zero"))),
        Some(nanoseconds) => Ok(nanoseconds),
        None => Err(problem(format!("the duration `{}` is too long", crate::tree::shortened(text)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_prefixes() {
        assert_eq!(parse_duration("300s"), Ok(300_000_000_000));
        assert_eq!(parse_duration("5m"), Ok(300_000_000_000));
        assert_eq!(parse_duration("500ms"), Ok(500_000_000));
        for bad in
            ["300", "s", "", "1.5s", "-1s", "5 s", "0s", "99999999999999999999h", "9999999999999h", "ä"]
        {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_prefix("10.0.0.1").unwrap().to_string(), "10.0.0.1/32");
        assert_eq!(parse_prefix("fd00::/8").unwrap().to_string(), "fd00::/8");
        assert!(parse_prefix("10.0.0.5/8").unwrap_err().help.contains("10.0.0.0/8"));
        for bad in ["10.0.0.0/33", "10.0.0", "", "x", "10.0.0.0/-1"] {
            assert!(parse_prefix(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn mac_text() {
        assert_eq!("02:00:5e:10:ff:0a".parse::<Mac>().unwrap().to_string(), "02:00:5e:10:ff:0a");
        for bad in [
            "",
            "02:00:5e:10:ff",
            "02:00:5e:10:ff:0a:0b",
            "2:0:5e:10:ff:0a",
            "+2:00:5e:10:ff:0a",
            "ää:00:00:00:00:00",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}
