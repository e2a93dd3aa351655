//! Map-encap: the innermost destination address is looked up in a mapping table, and the packet is put into the
//! tunnel that the table names (VL2's directory, VFP §5.5).

use super::encap::Tunnel;
use super::{ActionInput, Effect};
use crate::drop_reason::DropReason;
use crate::flow::L3;
use crate::resource::{Lookup, MappingId, MappingKey};

/// Put the packet into the tunnel that a mapping table names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MapEncap {
    /// The tunnel.
    pub tunnel: Tunnel,
    /// The table.
    pub mapping: MappingId,
    /// The tenant whose entries are looked up, for a table that spans several; 0 for a table of one tenant.
    pub key_tenant: u32,
    /// Tenant id for the tunnel where the entry names none.
    pub tenant: u32,
    /// Whether the inner destination MAC becomes the entry's.
    pub rewrite_mac: bool,
}

impl MapEncap {
    pub(super) fn process(&self, input: &ActionInput<'_>) -> Effect {
        let Some(L3::Ip(ip)) = input.headers.innermost().flow_id.l3 else {
            return Effect::drop(DropReason::CannotTranspose);
        };
        let key = MappingKey { tenant: self.key_tenant, address: ip.addresses.dst() };
        let lookup = Lookup { mapping: self.mapping, key };
        Effect { looked_up: Some(lookup), ..self.through(input, &lookup) }
    }

    fn through(&self, input: &ActionInput<'_>, lookup: &Lookup) -> Effect {
        let Some(mapping) = input.mappings.find(lookup) else {
            return Effect::drop(DropReason::MappingMiss);
        };
        let Some(remote) = mapping.remote else {
            return Effect::drop(DropReason::MappingMiss);
        };
        let tenant = mapping.tenant.unwrap_or(self.tenant);
        let inner_dst_mac = (self.rewrite_mac && self.tunnel.kind.carries_ethernet()).then_some(mapping.mac);
        self.tunnel.process(input, remote, tenant, inner_dst_mac)
    }
}
