//! Router advertisements (RFC 4861 §4.2), as words.

use std::net::Ipv6Addr;

use super::Cursor;
use lamina_core::address::MacAddr;

/// An advertisement, its options as text in their order: `mtu 1400`, `prefix fd00::/64 L A 86400 3600`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Router {
    /// Hop limit for hosts.
    pub hop_limit: u8,
    /// M, O and preference.
    pub flags: u8,
    /// Lifetime as a default router.
    pub lifetime: u16,
    /// The options.
    pub options: Vec<String>,
}

impl Router {
    /// Takes an advertisement apart, from behind its checksum on.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut cursor = Cursor::new(bytes);
        let (hop_limit, flags, lifetime) = (cursor.u8()?, cursor.u8()?, cursor.u16()?);
        cursor.take(8)?;
        let mut options = Vec::new();
        while !cursor.rest().is_empty() {
            let (kind, words) = (cursor.u8()?, cursor.u8()?);
            let body = cursor.take((words as usize * 8).checked_sub(2).ok_or("an empty option")?)?;
            options.push(describe(kind, &mut Cursor::new(body))?);
        }
        Ok(Router { hop_limit, flags, lifetime, options })
    }
}

fn describe(kind: u8, body: &mut Cursor<'_>) -> Result<String, String> {
    let text = match kind {
        1 => format!("mac {}", MacAddr(body.array()?)),
        3 => {
            let (length, flags, valid, preferred) = (body.u8()?, body.u8()?, body.u32()?, body.u32()?);
            body.u32()?;
            let mut text = format!("prefix {}/{length}", Ipv6Addr::from(body.array::<16>()?));
            text.push_str(if flags & 0x80 != 0 { " L" } else { "" });
            text.push_str(if flags & 0x40 != 0 { " A" } else { "" });
            format!("{text} {valid} {preferred}")
        }
        5 => {
            body.u16()?;
            format!("mtu {}", body.u32()?)
        }
        24 => {
            let (length, flags, lifetime) = (body.u8()?, body.u8()?, body.u32()?);
            let mut octets = [0; 16];
            let prefix = body.take(body.rest().len())?;
            octets[..prefix.len()].copy_from_slice(prefix);
            format!("route {}/{length} {} {lifetime}", Ipv6Addr::from(octets), flags >> 3)
        }
        25 => {
            body.u16()?;
            let mut text = format!("dns {}", body.u32()?);
            while !body.rest().is_empty() {
                text.push_str(&format!(" {}", Ipv6Addr::from(body.array::<16>()?)));
            }
            text
        }
        31 => {
            body.u16()?;
            let mut text = format!("search {}", body.u32()?);
            let mut labels = Vec::new();
            while !body.rest().is_empty() {
                match body.u8()? {
                    0 if labels.is_empty() => {}
                    0 => text.push_str(&format!(" {}", std::mem::take(&mut labels).join("."))),
                    length => labels.push(String::from_utf8_lossy(body.take(length as usize)?).into_owned()),
                }
            }
            text
        }
        other => return Err(format!("option {other}")),
    };
    if body.rest().is_empty() { Ok(text) } else { Err(format!("option {kind} is longer than it should be")) }
}
