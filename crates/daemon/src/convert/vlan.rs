//! A port among VLANs: a layer nearest the network that puts tags on what the guest sends and takes them off what it
//! gets, and drops what the port does not carry.
//!
//! Between ports, and on the uplink, a frame bears the tag of its VLAN; that is what keeps VLANs apart. A frame that
//! an inner layer put into a tunnel bears none: it belongs to the underlay. Such a frame has no destination MAC yet
//! on its way out, and on its way in it comes to another MAC than the port's. A guest can write such a frame too, which
//! passes here; forwarding then drops it, for only a layer's tunnel is given a MAC.

use lamina_api::document::Vlan as Written;
use lamina_core::action::{Action, PushTag, Vlan};
use lamina_core::address::{MacAddr, VlanTag};
use lamina_core::flow::{HeaderField as F, Value};
use lamina_core::layer::{Condition, Layer, ValueRange};

use super::generated::{self, Rules, any, is, mac, outer};
use super::layers::SharedRules;

/// The layer's name, and its owner's.
pub(super) const NAME: &str = "vlan";

/// The VLAN layer of the port with MAC `port`.
pub(super) fn layer(written: &Written, port: MacAddr, shared: &mut SharedRules) -> Layer {
    let outbound = outbound(written).group("sent", 0, vec![], shared);
    let inbound = inbound(written, port).group("received", 0, vec![], shared);
    generated::layer(NAME, generated::NEAREST_NETWORK, vec![inbound], vec![outbound])
}

fn outbound(written: &Written) -> Rules {
    let tunnelled = vec![mac(F::EthDst, MacAddr::ZERO), any(F::EncapKind)];
    let rules = Rules::default().allow("tunnelled", tunnelled);
    match written {
        Written::Access(id) => rules
            .then("priority-tagged", tagged(vec![(0, 0)]), push(VlanTag::DOT1Q, *id))
            .then("tagged", vec![any(F::VlanId)], refuse())
            .then("untagged", vec![], push(VlanTag::DOT1Q, *id)),
        Written::Trunk { carried, native } => {
            let untagged = || native.map_or(refuse(), |id| push(VlanTag::DOT1Q, id));
            rules
                .then("priority-tagged", tagged(vec![(0, 0)]), untagged())
                .allow("carried", tagged(carried.clone()))
                .then("other-vlan", vec![any(F::VlanId)], refuse())
                .then("untagged", vec![], untagged())
        }
        Written::Tunnel(id) => rules.then("all", vec![], push(VlanTag::DOT1AD, *id)),
    }
}

fn inbound(written: &Written, port: MacAddr) -> Rules {
    // Taking the first of two tags off would deliver the frame in the VLAN of the second, which its sender chose.
    let hopping = |id: u16| {
        let mut conditions = tagged(vec![(id, id)]);
        conditions.push(any(F::InnerVlanId));
        conditions
    };
    let rules = Rules::default();
    let rules = match written {
        Written::Access(id) => rules.then("double-tagged", hopping(*id), refuse()).then(
            "carried",
            tagged(vec![(*id, *id)]),
            Action::Vlan(Vlan::Pop),
        ),
        Written::Trunk { carried, native } => match native {
            Some(id) => rules.then("double-tagged", hopping(*id), refuse()).then(
                "native",
                tagged(vec![(*id, *id)]),
                Action::Vlan(Vlan::Pop),
            ),
            None => rules,
        }
        .allow("carried", tagged(carried.clone())),
        Written::Tunnel(id) => {
            let service = vec![is(F::VlanType, VlanTag::DOT1AD.into()), is(F::VlanId, (*id).into())];
            rules.then("carried", service, Action::Vlan(Vlan::Pop))
        }
    };
    rules
        .then("other-vlan", vec![any(F::VlanId)], refuse())
        .then("untagged-to-port", vec![mac(F::EthDst, port)], refuse())
        .then("untagged-to-group", vec![is(F::EthMulticast, 1)], refuse())
        .allow("tunnelled", vec![any(F::EncapKind)])
        .then("untagged", vec![], refuse())
}

/// The first tag is a customer tag of one of these VLANs.
fn tagged(ids: Vec<(u16, u16)>) -> Vec<Condition> {
    let range = |(low, high): (u16, u16)| ValueRange {
        low: Value::number(low.into()),
        high: Value::number(high.into()),
    };
    let ids = outer(F::VlanId, ids.into_iter().map(range).collect());
    vec![is(F::VlanType, VlanTag::DOT1Q.into()), ids]
}

fn push(tpid: u16, id: u16) -> Action {
    Action::Vlan(Vlan::Push(PushTag { tpid, id, priority: None }))
}

fn refuse() -> Action {
    Action::Vlan(Vlan::Refuse)
}
