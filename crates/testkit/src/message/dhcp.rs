//! DHCP for IPv4 (RFC 2131, RFC 2132).

use std::net::Ipv4Addr;

use lamina_core::address::MacAddr;

use super::Cursor;

/// A message. Options are kept in their order, padding and the end mark apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dhcp {
    /// 1 from a client, 2 from a server.
    pub op: u8,
    /// Hops.
    pub hops: u8,
    /// Transaction id.
    pub xid: u32,
    /// Seconds since the client began.
    pub secs: u16,
    /// The broadcast flag is the highest bit.
    pub flags: u16,
    /// The client's address, `yiaddr`, `siaddr` and the relay's.
    pub ciaddr: Ipv4Addr,
    /// The address that the client gets.
    pub yiaddr: Ipv4Addr,
    /// The next server.
    pub siaddr: Ipv4Addr,
    /// The relay.
    pub giaddr: Ipv4Addr,
    /// The client.
    pub chaddr: MacAddr,
    /// Server name and file.
    pub names: Vec<u8>,
    /// Code and value.
    pub options: Vec<(u8, Vec<u8>)>,
}

impl Dhcp {
    /// A client's message of this type (option 53).
    pub fn request(kind: u8, chaddr: MacAddr) -> Self {
        Dhcp {
            op: 1,
            hops: 0,
            xid: 0x1234_5678,
            secs: 0,
            flags: 0,
            ciaddr: Ipv4Addr::UNSPECIFIED,
            yiaddr: Ipv4Addr::UNSPECIFIED,
            siaddr: Ipv4Addr::UNSPECIFIED,
            giaddr: Ipv4Addr::UNSPECIFIED,
            chaddr,
            names: vec![0; 192],
            options: vec![(53, vec![kind])],
        }
    }

    /// The same with one more option.
    pub fn with(mut self, code: u8, value: impl Into<Vec<u8>>) -> Self {
        self.options.push((code, value.into()));
        self
    }

    /// The value of all options of this code, joined (RFC 3396).
    pub fn option(&self, code: u8) -> Option<Vec<u8>> {
        let parts: Vec<&Vec<u8>> =
            self.options.iter().filter(|(other, _)| *other == code).map(|(_, value)| value).collect();
        if parts.is_empty() { None } else { Some(parts.into_iter().flatten().copied().collect()) }
    }

    /// The addresses in an option.
    pub fn addresses(&self, code: u8) -> Vec<Ipv4Addr> {
        let value = self.option(code).unwrap_or_default();
        value.chunks(4).filter_map(|chunk| Some(Ipv4Addr::from(<[u8; 4]>::try_from(chunk).ok()?))).collect()
    }

    /// The message type.
    pub fn kind(&self) -> Option<u8> {
        self.option(53)?.first().copied()
    }

    /// The bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![self.op, 1, 6, self.hops];
        bytes.extend(self.xid.to_be_bytes());
        bytes.extend(self.secs.to_be_bytes());
        bytes.extend(self.flags.to_be_bytes());
        for address in [self.ciaddr, self.yiaddr, self.siaddr, self.giaddr] {
            bytes.extend(address.octets());
        }
        bytes.extend(self.chaddr.0);
        bytes.extend([0; 10]);
        bytes.extend(&self.names);
        bytes.extend([0x63, 0x82, 0x53, 0x63]);
        for (code, value) in &self.options {
            bytes.extend([*code, value.len() as u8]);
            bytes.extend(value);
        }
        bytes.push(255);
        bytes
    }

    /// Takes a message apart.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut cursor = Cursor::new(bytes);
        let [op, htype, hlen, hops] = cursor.array()?;
        if (htype, hlen) != (1, 6) {
            return Err(format!("hardware type {htype} of {hlen} bytes"));
        }
        let (xid, secs, flags) = (cursor.u32()?, cursor.u16()?, cursor.u16()?);
        let mut address = || cursor.array::<4>().map(Ipv4Addr::from);
        let (ciaddr, yiaddr, siaddr, giaddr) = (address()?, address()?, address()?, address()?);
        let chaddr = MacAddr(cursor.array()?);
        if cursor.array::<10>()? != [0; 10] {
            return Err("padding of chaddr".into());
        }
        let names = cursor.take(192)?.to_vec();
        if cursor.array()? != [0x63, 0x82, 0x53, 0x63] {
            return Err("no cookie".into());
        }
        let mut options = Vec::new();
        loop {
            match cursor.u8()? {
                0 => {}
                255 => break,
                code => {
                    let length = cursor.u8()? as usize;
                    options.push((code, cursor.take(length)?.to_vec()));
                }
            }
        }
        if cursor.rest().iter().any(|byte| *byte != 0) {
            return Err("something follows the end mark".into());
        }
        Ok(Dhcp { op, hops, xid, secs, flags, ciaddr, yiaddr, siaddr, giaddr, chaddr, names, options })
    }
}
