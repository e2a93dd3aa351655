//! Messages above UDP and ICMPv6 that responders answer, put together and taken apart plainly: DHCP, DHCPv6, DNS,
//! router advertisements.
//!
//! Like [`crate::wire`] this must never share code with the core, and speed is no aim. Decoding is strict: what does
//! not follow the RFC to the byte is an error that says why.

mod dhcp;
mod dhcpv6;
mod dns;
mod router;

pub use dhcp::Dhcp;
pub use dhcpv6::{Dhcpv6, Option6, options};
pub use dns::{Dns, Question, RecordText, name_bytes};
pub use router::Router;

/// Takes bytes from the front of a message.
struct Cursor<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn new(all: &'a [u8]) -> Self {
        Cursor { all, at: 0 }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let end = self.at + length;
        let bytes = self.all.get(self.at..end).ok_or(format!("cut off at byte {}", self.at))?;
        self.at = end;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        Ok(self.take(N)?.try_into().expect("as many bytes as asked for"))
    }

    fn u8(&mut self) -> Result<u8, String> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, String> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_be_bytes)
    }

    fn rest(&self) -> &'a [u8] {
        &self.all[self.at.min(self.all.len())..]
    }
}
