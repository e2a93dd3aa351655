//! Decap: the outermost tunnel is removed.
//!
//! A tunnel that carries Ethernet (VXLAN, NVGRE, Geneve) goes with its own Ethernet header; one that carries IP
//! (GRE, IP-in-IP) leaves the Ethernet header in place for what was inside.

use alloc::vec::Vec;

use super::{ActionInput, Effect};
use crate::drop_reason::DropReason;
use crate::flow::{EncapKind, L4, Level};
use crate::transposition::{HeaderOp, Transposition};

/// Take the packet out of its outermost tunnel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Decap {
    /// Only tunnels of this kind; a packet without one is dropped with `cannot-transpose`. `None` takes any.
    pub kind: Option<EncapKind>,
}

impl Decap {
    pub(super) fn process(&self, input: &ActionInput<'_>) -> Effect {
        let groups = input.headers.groups();
        let (Some(L4::Encap(encap)), Some(inner)) = (groups[0].flow_id.l4, groups.get(1)) else {
            return Effect::drop(DropReason::CannotTranspose);
        };
        if self.kind.is_some_and(|kind| kind != encap.kind) {
            return Effect::drop(DropReason::CannotTranspose);
        }
        let mut ops = Vec::with_capacity(3);
        if groups[0].flow_id.l2.is_some() {
            ops.push(if inner.flow_id.l2.is_some() {
                HeaderOp::Pop(Level::L2)
            } else {
                HeaderOp::Ignore(Level::L2)
            });
        }
        ops.push(HeaderOp::Pop(Level::L3));
        ops.push(HeaderOp::Pop(Level::L4));
        Effect::transpose(Transposition::new(ops))
    }
}
