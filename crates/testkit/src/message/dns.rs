//! DNS (RFC 1035, RFC 6891).

use std::net::{Ipv4Addr, Ipv6Addr};

use super::Cursor;

/// A message. The record that says what EDNS can (OPT) is kept apart.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Dns {
    /// Its id.
    pub id: u16,
    /// All flags, opcode and response code included.
    pub flags: u16,
    /// Its questions.
    pub questions: Vec<Question>,
    /// Its answers.
    pub answers: Vec<RecordText>,
    /// How large an answer may be, and extended response code, version and flags.
    pub edns: Option<(u16, u32)>,
}

/// A question: name, type, class. The name keeps the case it was asked in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Question {
    /// The name, with dots.
    pub name: String,
    /// Its type.
    pub kind: u16,
    /// Its class.
    pub class: u16,
}

/// A record, its data as text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordText {
    /// Whose it is.
    pub name: String,
    /// For how long it may be remembered.
    pub ttl: u32,
    /// Its type: `a`, `aaaa`, `cname`, `ptr`, `txt`.
    pub kind: &'static str,
    /// What it says.
    pub data: String,
}

/// Types by name.
const KINDS: [(u16, &str); 5] = [(1, "a"), (5, "cname"), (12, "ptr"), (16, "txt"), (28, "aaaa")];

/// `name` as labels.
pub fn name_bytes(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    bytes
}

impl Dns {
    /// A query for one name.
    pub fn query(id: u16, name: &str, kind: u16) -> Self {
        let question = Question { name: name.into(), kind, class: 1 };
        Dns { id, flags: 0x0100, questions: vec![question], ..Dns::default() }
    }

    /// The bytes of a message without answers.
    pub fn encode(&self) -> Vec<u8> {
        let counts = [self.id, self.flags, self.questions.len() as u16, 0, 0, u16::from(self.edns.is_some())];
        let mut bytes: Vec<u8> = counts.iter().flat_map(|word| word.to_be_bytes()).collect();
        for question in &self.questions {
            bytes.extend(name_bytes(&question.name));
            bytes.extend(question.kind.to_be_bytes());
            bytes.extend(question.class.to_be_bytes());
        }
        if let Some((size, rest)) = self.edns {
            bytes.extend([0, 0, 41]);
            bytes.extend(size.to_be_bytes());
            bytes.extend(rest.to_be_bytes());
            bytes.extend([0, 0]);
        }
        bytes
    }

    /// Takes a message apart.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut cursor = Cursor::new(bytes);
        let (id, flags) = (cursor.u16()?, cursor.u16()?);
        let [questions, answers, authorities, additionals] =
            [cursor.u16()?, cursor.u16()?, cursor.u16()?, cursor.u16()?];
        let mut dns = Dns { id, flags, ..Dns::default() };
        for _ in 0..questions {
            let (name, kind, class) = (read_name(&mut cursor)?, cursor.u16()?, cursor.u16()?);
            dns.questions.push(Question { name, kind, class });
        }
        for _ in 0..answers as u32 + authorities as u32 + additionals as u32 {
            let name = read_name(&mut cursor)?;
            let (kind, class, ttl) = (cursor.u16()?, cursor.u16()?, cursor.u32()?);
            let length = cursor.u16()? as usize;
            let end = cursor.at + length;
            if kind == 41 {
                if dns.edns.replace((class, ttl)).is_some() {
                    return Err("two OPT records".into());
                }
                cursor.take(length)?;
                continue;
            }
            let (_, kind) =
                KINDS.into_iter().find(|(number, _)| *number == kind).ok_or("a record of another type")?;
            let data = match kind {
                "a" => Ipv4Addr::from(cursor.array::<4>()?).to_string(),
                "aaaa" => Ipv6Addr::from(cursor.array::<16>()?).to_string(),
                "txt" => {
                    let mut text = Vec::new();
                    while cursor.at < end {
                        let length = cursor.u8()? as usize;
                        text.extend(cursor.take(length)?);
                    }
                    String::from_utf8_lossy(&text).into_owned()
                }
                _ => read_name(&mut cursor)?,
            };
            if cursor.at != end || class != 1 {
                return Err(format!("a record of class {class} whose data is not {length} bytes long"));
            }
            dns.answers.push(RecordText { name, ttl, kind, data });
        }
        if cursor.rest().is_empty() { Ok(dns) } else { Err("something follows".into()) }
    }

    /// The response code, extended by EDNS.
    pub fn response_code(&self) -> u32 {
        (self.flags & 15) as u32 | self.edns.map_or(0, |(_, rest)| rest >> 24 << 4)
    }
}

/// Reads a name; a pointer must point to before itself.
fn read_name(cursor: &mut Cursor<'_>) -> Result<String, String> {
    let mut labels = Vec::new();
    let mut inner = Cursor { all: cursor.all, at: cursor.at };
    let mut has_jumped = false;
    loop {
        let here = inner.at;
        let length = inner.u8()?;
        if length >= 0xc0 {
            let to = (length as usize & 0x3f) << 8 | inner.u8()? as usize;
            if to >= here {
                return Err("a pointer that points ahead".into());
            }
            if !has_jumped {
                cursor.at = inner.at;
            }
            has_jumped = true;
            inner.at = to;
            continue;
        }
        if length > 63 {
            return Err(format!("a label of {length} bytes"));
        }
        if length == 0 {
            if !has_jumped {
                cursor.at = inner.at;
            }
            return Ok(labels.join("."));
        }
        labels.push(String::from_utf8_lossy(inner.take(length as usize)?).into_owned());
    }
}
