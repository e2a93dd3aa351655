//! A transposition in one line, for traces and messages. For people: nothing reads it back.

use core::fmt;

use super::{
    HeaderOp, Modify, ModifyL2, ModifyL3, ModifyL4, Push, PushDscp, PushEncap, PushIp, PushL2, Transposition,
    Ttl,
};
use crate::address::VlanTags;
use crate::flow::{Arp, EncapKind, Icmp, Level};

impl fmt::Display for Transposition {
    /// For example `push eth 00:..→00:.., ip 10.0.0.1→10.0.0.2 ttl 64, vxlan 5001; modify eth dst 02:..`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_identity() {
            return f.write_str("unchanged");
        }
        // Headers that stay as they are only matter where something behind them changes.
        let mut verb = "";
        for (index, op) in self.ops.iter().enumerate() {
            let this = match op {
                HeaderOp::Ignore(_) => "keep",
                HeaderOp::Modify(_) => "modify",
                HeaderOp::Push(_) => "push",
                HeaderOp::Pop(_) => "pop",
            };
            if this == verb {
                f.write_str(", ")?;
            } else {
                write!(f, "{}{this} ", if index == 0 { "" } else { "; " })?;
                verb = this;
            }
            match op {
                HeaderOp::Ignore(level) | HeaderOp::Pop(level) => f.write_str(level_name(*level))?,
                HeaderOp::Modify(Modify::L2(modify)) => modify.write(f)?,
                HeaderOp::Modify(Modify::L3(modify)) => modify.write(f)?,
                HeaderOp::Modify(Modify::L4(modify)) => modify.write(f)?,
                HeaderOp::Push(push) => push.write(f)?,
            }
        }
        Ok(())
    }
}

const fn level_name(level: Level) -> &'static str {
    match level {
        Level::L2 => "l2",
        Level::L3 => "l3",
        Level::L4 => "l4",
    }
}

fn named(f: &mut fmt::Formatter<'_>, name: &str, value: Option<impl fmt::Display>) -> fmt::Result {
    value.map_or(Ok(()), |value| write!(f, " {name} {value}"))
}

fn write_tags(f: &mut fmt::Formatter<'_>, tags: &VlanTags) -> fmt::Result {
    tags.iter().try_for_each(|tag| write!(f, " vlan {}", tag.id()))
}

impl ModifyL2 {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("eth")?;
        named(f, "src", self.src)?;
        named(f, "dst", self.dst)?;
        match self.tags {
            Some(tags) if tags.count() == 0 => f.write_str(" untagged")?,
            Some(tags) => write_tags(f, &tags)?,
            None => {}
        }
        self.ethertype.map_or(Ok(()), |ethertype| write!(f, " type {ethertype:#06x}"))
    }
}

impl ModifyL3 {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ip")?;
        named(f, "src", self.src)?;
        named(f, "dst", self.dst)?;
        named(f, "dscp", self.dscp)?;
        match self.ttl {
            Some(Ttl::Set(value)) => write!(f, " ttl {value}")?,
            Some(Ttl::Decrement(decrement)) => write!(f, " ttl -{decrement}")?,
            Some(Ttl::DecrementThenSet { decrement, value }) => write!(f, " ttl -{decrement} then {value}")?,
            None => {}
        }
        named(f, "arp operation", self.arp.operation)?;
        named(f, "arp sender", self.arp.sender_mac)?;
        named(f, "arp target", self.arp.target_mac)
    }
}

impl ModifyL4 {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("l4")?;
        named(f, "src", self.src_port)?;
        named(f, "dst", self.dst_port)?;
        named(f, "icmp type", self.icmp_type)?;
        named(f, "icmp code", self.icmp_code)?;
        named(f, "icmp id", self.icmp_id)?;
        named(f, "tenant", self.tenant)
    }
}

impl Push {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Push::L2(PushL2 { src, dst, tags, .. }) => {
                write!(f, "eth {src}→{dst}")?;
                write_tags(f, tags)
            }
            Push::Ip(PushIp { addresses, ttl, dscp, .. }) => {
                write!(f, "ip {}→{} ttl {ttl}", addresses.src(), addresses.dst())?;
                match dscp {
                    PushDscp::Fixed(0) => Ok(()),
                    PushDscp::Fixed(dscp) => write!(f, " dscp {dscp}"),
                    PushDscp::Copy => f.write_str(" dscp copied"),
                }
            }
            Push::Arp(Arp { operation, sender_ip, target_ip, .. }) => {
                write!(f, "arp {operation} {sender_ip}→{target_ip}")
            }
            Push::Udp(ports) => write!(f, "udp {}→{}", ports.src, ports.dst),
            Push::Icmp(Icmp { kind, code, .. }) => write!(f, "icmp {kind}/{code}"),
            Push::Encap(PushEncap { kind, tenant, .. }) => match kind {
                EncapKind::Gre | EncapKind::IpInIp => f.write_str(kind.name()),
                _ => write!(f, "{} {tenant}", kind.name()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::MacAddr;
    use crate::flow::IpPair;
    use alloc::string::ToString;
    use alloc::vec;

    #[test]
    fn reads_as_a_sentence() {
        let dst = MacAddr([2, 0, 0, 0, 0, 9]);
        let addresses = IpPair::V4 { src: [10, 0, 0, 1].into(), dst: [10, 0, 0, 2].into() };
        let transposition = Transposition::new(vec![
            HeaderOp::Push(Push::L2(PushL2 {
                src: MacAddr::ZERO,
                dst: MacAddr::ZERO,
                tags: VlanTags::NONE,
                ethertype: 0,
            })),
            HeaderOp::Push(Push::Ip(PushIp { addresses, ttl: 64, dscp: PushDscp::Fixed(0), protocol: 0 })),
            HeaderOp::Push(Push::Encap(PushEncap { kind: EncapKind::Vxlan, tenant: 5001, udp_port: 4789 })),
            HeaderOp::Modify(Modify::L2(ModifyL2 { dst: Some(dst), ..ModifyL2::default() })),
            HeaderOp::Modify(Modify::L3(ModifyL3 { ttl: Some(Ttl::Decrement(1)), ..ModifyL3::default() })),
        ]);
        assert_eq!(
            transposition.to_string(),
            "push eth 00:00:00:00:00:00→00:00:00:00:00:00, ip 10.0.0.1→10.0.0.2 ttl 64, vxlan 5001; \
             modify eth dst 02:00:00:00:00:09, ip ttl -1"
        );
        assert_eq!(Transposition::IDENTITY.to_string(), "unchanged");
    }
}
