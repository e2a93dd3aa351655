//! DHCPv6 (RFC 8415).

use super::Cursor;

/// An option: code and value.
pub type Option6 = (u16, Vec<u8>);

/// A message between client and server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dhcpv6 {
    /// Its type.
    pub kind: u8,
    /// Transaction id, 24 bits.
    pub transaction: u32,
    /// The options in their order.
    pub options: Vec<Option6>,
}

impl Dhcpv6 {
    /// The first option of this code.
    pub fn option(&self, code: u16) -> Option<&[u8]> {
        self.options.iter().find(|(other, _)| *other == code).map(|(_, value)| value.as_slice())
    }

    /// The same with one more option.
    pub fn with(mut self, code: u16, value: impl Into<Vec<u8>>) -> Self {
        self.options.push((code, value.into()));
        self
    }

    /// The bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.transaction.to_be_bytes().to_vec();
        bytes[0] = self.kind;
        for (code, value) in &self.options {
            bytes.extend(code.to_be_bytes());
            bytes.extend((value.len() as u16).to_be_bytes());
            bytes.extend(value);
        }
        bytes
    }

    /// Takes a message apart.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let (header, rest) = bytes.split_first_chunk::<4>().ok_or("no header")?;
        let transaction = u32::from_be_bytes([0, header[1], header[2], header[3]]);
        Ok(Dhcpv6 { kind: header[0], transaction, options: options(rest)? })
    }
}

/// The options in `bytes`.
pub fn options(bytes: &[u8]) -> Result<Vec<Option6>, String> {
    let mut cursor = Cursor::new(bytes);
    let mut options = Vec::new();
    while !cursor.rest().is_empty() {
        let (code, length) = (cursor.u16()?, cursor.u16()?);
        options.push((code, cursor.take(length as usize)?.to_vec()));
    }
    Ok(options)
}
