//! Respond to DHCPv6: what the policy says, and who has which lease.

use super::LeaseSource;
use crate::drop_reason::DropReason;
use crate::packet::{Answered, Dhcpv6Server, Packet, Parsed, reply_dhcpv6};
use crate::resource::Resources;

/// A DHCPv6 server of a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dhcpv6 {
    /// What it says to all clients.
    pub server: Dhcpv6Server,
    /// What it says to each, by the MAC that a message comes from; a client without an IPv6 address gets configuration
    /// only.
    pub lease: LeaseSource,
}

impl Dhcpv6 {
    pub(in crate::action) fn answer(
        &self,
        packet: &mut Packet,
        request: &Parsed,
        resources: &Resources,
    ) -> Result<Answered, DropReason> {
        reply_dhcpv6(packet, request, &self.server, |client| self.lease.of(client, resources)?.v6)
    }
}
