//! Respond to DHCP for IPv4: what the policy says, and who has which lease.

use super::LeaseSource;
use crate::drop_reason::DropReason;
use crate::packet::{Answered, DhcpLease, DhcpServer, Packet, Parsed, reply_dhcp};
use crate::resource::Resources;

/// A DHCP server of a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dhcp {
    /// What it says to all clients.
    pub server: DhcpServer,
    /// What it says to each; a lease without an IPv4 address is none.
    pub lease: LeaseSource,
}

impl Dhcp {
    pub(in crate::action) fn answer(
        &self,
        packet: &mut Packet,
        request: &Parsed,
        resources: &Resources,
    ) -> Result<Answered, DropReason> {
        reply_dhcp(packet, request, &self.server, |client| {
            let lease = self.lease.of(client, resources)?;
            Some(DhcpLease { address: lease.v4?, host_name: lease.host_name.as_deref() })
        })
    }
}
