//! Encap: the packet is put into a tunnel to a remote address, or to one of a set chosen by the inner flow's
//! hash (ECMP).
//!
//! The rule names the remote only. Outer MACs, and the source address where the rule names none, stay zero here
//! and are filled in by the underlay resolver when the packet leaves by an uplink (§10).

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{ActionInput, Effect, load_balance};
use crate::address::{MacAddr, VlanTags};
use crate::drop_reason::DropReason;
use crate::flow::{EncapKind, HeaderStack, IpPair, Level};
use crate::transposition::{
    HeaderOp, Modify, ModifyL2, OUTER_TTL, Push, PushDscp, PushEncap, PushIp, PushL2, Transposition,
};

/// Put the packet into a tunnel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Encap {
    /// The tunnel.
    pub tunnel: Tunnel,
    /// Tenant id (VNI, VSID, key).
    pub tenant: u32,
    /// Where to; at least one, all of one family.
    pub remotes: Vec<IpAddr>,
    /// New destination MAC of the inner Ethernet header.
    pub inner_dst_mac: Option<MacAddr>,
}

/// The properties of a tunnel that do not depend on the packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tunnel {
    /// Which tunnel.
    pub kind: EncapKind,
    /// Outer source; `None` leaves it to the underlay resolver.
    pub local: Option<IpAddr>,
    /// UDP destination port of a tunnel over UDP.
    pub udp_port: u16,
    /// Outer DSCP.
    pub dscp: PushDscp,
}

impl Encap {
    pub(super) fn process(&self, input: &ActionInput<'_>) -> Effect {
        let hash = load_balance::flow_hash(input.headers, input.seed);
        let Some(remote) = self.remotes.get((hash % self.remotes.len().max(1) as u64) as usize) else {
            return Effect::drop(DropReason::NoTarget);
        };
        self.tunnel.process(input, *remote, self.tenant, self.inner_dst_mac)
    }
}

impl Tunnel {
    /// The effect of putting the packet into this tunnel towards `remote`.
    pub(super) fn process(
        &self,
        input: &ActionInput<'_>,
        remote: IpAddr,
        tenant: u32,
        inner_dst_mac: Option<MacAddr>,
    ) -> Effect {
        match self.enter(input.headers, remote, tenant, inner_dst_mac) {
            Ok(transposition) => Effect::transpose(transposition),
            Err(reason) => Effect::drop(reason),
        }
    }

    /// The change that puts a packet with `headers` into this tunnel towards `remote`.
    pub(crate) fn enter(
        &self,
        headers: &HeaderStack,
        remote: IpAddr,
        tenant: u32,
        inner_dst_mac: Option<MacAddr>,
    ) -> Result<Transposition, DropReason> {
        let local = self.local.unwrap_or(match remote {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        });
        let Some(addresses) = IpPair::new(local, remote) else {
            return Err(DropReason::CannotTranspose);
        };
        let push_ip =
            HeaderOp::Push(Push::Ip(PushIp { addresses, ttl: OUTER_TTL, dscp: self.dscp, protocol: 0 }));
        let push_encap =
            HeaderOp::Push(Push::Encap(PushEncap { kind: self.kind, tenant, udp_port: self.udp_port }));
        let mut ops = Vec::with_capacity(4);
        if self.kind.carries_ethernet() {
            ops.push(HeaderOp::Push(Push::L2(PushL2 {
                src: MacAddr::ZERO,
                dst: MacAddr::ZERO,
                tags: VlanTags::NONE,
                ethertype: 0,
            })));
            ops.extend([push_ip, push_encap]);
            if let Some(dst) = inner_dst_mac {
                ops.push(HeaderOp::Modify(Modify::L2(ModifyL2 { dst: Some(dst), ..ModifyL2::default() })));
            }
        } else {
            let zero = Some(MacAddr::ZERO);
            ops.push(HeaderOp::Modify(Modify::L2(ModifyL2 { src: zero, dst: zero, ..ModifyL2::default() })));
            ops.extend([push_ip, push_encap]);
        }
        let transposition = Transposition::new(ops);
        let mut probe = *headers;
        transposition.apply(&mut probe)?;
        Ok(transposition)
    }

    /// Bytes by which a frame grows when it enters.
    pub(crate) const fn overhead(&self, is_v4: bool) -> u32 {
        let ethernet = if self.kind.carries_ethernet() { 14 } else { 0 };
        let ip = if is_v4 { 20 } else { 40 };
        let own = match self.kind {
            EncapKind::Vxlan | EncapKind::Geneve => 16,
            EncapKind::Nvgre | EncapKind::GreKeyed => 8,
            EncapKind::Gre => 4,
            EncapKind::IpInIp => 0,
        };
        ethernet + ip + own
    }

    /// The level at which the tunnel's payload starts.
    pub const fn payload_level(&self) -> Level {
        if self.kind.carries_ethernet() { Level::L2 } else { Level::L3 }
    }
}
