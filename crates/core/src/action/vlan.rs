//! VLAN: a tag is put on, or taken off, or found not to belong here.
//!
//! What becomes of the tags depends on those that the packet has; they are part of every flow's key, so the change
//! that this asks for is the same for every packet of the flow.

use super::{ActionInput, Effect};
use crate::address::{VlanTag, VlanTags};
use crate::drop_reason::DropReason;
use crate::transposition::{HeaderOp, Modify, ModifyL2, Transposition};

/// What is done with the tags of the outermost Ethernet header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vlan {
    /// Another tag in front. A first tag of the same type whose id is 0 only tells a priority (802.1Q): it is replaced.
    Push(PushTag),
    /// The first tag goes.
    Pop,
    /// The packet is dropped: the port does not carry its VLAN.
    Refuse,
}

/// A tag to be put on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PushTag {
    /// 0x8100 (802.1Q) or 0x88a8 (802.1ad).
    pub tpid: u16,
    /// VLAN id, 0-4095.
    pub id: u16,
    /// 802.1p priority, 0-7. `None` takes priority and drop eligibility of the tag that was first; 0 without one.
    pub priority: Option<u8>,
}

impl Vlan {
    pub(super) fn process(&self, input: &ActionInput<'_>) -> Effect {
        let Some(l2) = input.headers.outermost().flow_id.l2 else {
            return Effect::drop(DropReason::CannotTranspose);
        };
        let (first, second) = (l2.tags.tag(0), l2.tags.tag(1));
        let tags = match (self, first, second) {
            (Vlan::Refuse, _, _) => return Effect::drop(DropReason::VlanNotCarried),
            (Vlan::Pop, Some(_), None) => VlanTags::NONE,
            (Vlan::Pop, Some(_), Some(second)) => VlanTags::one(second),
            (Vlan::Push(push), None, _) => VlanTags::one(push.tag(None)),
            (Vlan::Push(push), Some(first), second) if first.tpid == push.tpid && first.id() == 0 => {
                let tag = push.tag(Some(first));
                second.map_or(VlanTags::one(tag), |second| VlanTags::two(tag, second))
            }
            (Vlan::Push(push), Some(first), None) => VlanTags::two(push.tag(Some(first)), first),
            (Vlan::Pop, None, _) | (Vlan::Push(_), Some(_), Some(_)) => {
                return Effect::drop(DropReason::CannotTranspose);
            }
        };
        let l2 = ModifyL2 { tags: Some(tags), ..ModifyL2::default() };
        Effect::transpose(Transposition::new([HeaderOp::Modify(Modify::L2(l2))].into()))
    }
}

impl PushTag {
    fn tag(&self, below: Option<VlanTag>) -> VlanTag {
        let class = match self.priority {
            Some(priority) => (priority as u16) << 13,
            None => below.map_or(0, |tag| tag.tci & 0xf000),
        };
        VlanTag { tpid: self.tpid, tci: class | self.id & 0x0fff }
    }
}
