//! VLANs as written: what a port is among them, and the action that puts a tag on or takes it off.

use super::VlanTag;
use crate::decode::Decoder;
use crate::diagnostic::Code;
use crate::source::At;
use crate::tree::{Node, Tree, shortened};

/// What a port is among VLANs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Vlan {
    /// In one VLAN, whose tag the guest never sees.
    Access(u16),
    /// In many VLANs, whose tags the guest sends and gets.
    Trunk {
        /// The VLANs: ranges, both ends included, sorted, none overlapping.
        carried: Vec<(u16, u16)>,
        /// The VLAN of frames without a tag.
        native: Option<u16>,
    },
    /// In one service VLAN, whose tag lies around what the guest sends, tags included (802.1ad).
    Tunnel(u16),
}

/// What a rule does with VLAN tags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VlanAction {
    /// Puts a tag in front. Without a priority it has that of the tag behind it.
    Push {
        /// The tag.
        tag: VlanTag,
        /// Its priority is the one written.
        has_priority: bool,
    },
    /// Takes the first tag off.
    Pop,
    /// Drops the packet: the port does not carry its VLAN.
    Refuse,
}

const LAST: u16 = 4094;

impl Decoder<'_> {
    /// `tree` as a port's VLANs.
    pub(super) fn port_vlan(&mut self, tree: &Tree<'_>) -> Option<At<Vlan>> {
        let fields = self.fields(tree, "a port's VLANs", &["access", "trunk", "native", "tunnel"])?;
        let modes = [fields.optional("access"), fields.optional("trunk"), fields.optional("tunnel")];
        if modes.iter().flatten().count() != 1 {
            let help =
                "write one of `{ access: 10 }`, `{ trunk: [10, 20-29], native: 10 }`, `{ tunnel: 100 }`";
            self.error(Code::Conflict, fields.head(), "a port is of one kind among VLANs", help);
            return None;
        }
        let [access, trunk, tunnel] = modes;
        if let (Some(native), None) = (fields.optional("native"), trunk) {
            let help = "remove `native`; only a trunk has a VLAN for frames without a tag";
            self.error(Code::Conflict, native.span, "this port has no native VLAN", help);
            return None;
        }
        let vlan = match (access, trunk, tunnel) {
            (Some(tree), _, _) => Vlan::Access(self.vlan_id(tree)?),
            (_, Some(tree), _) => self.trunk(tree, fields.optional("native"))?,
            (_, _, Some(tree)) => Vlan::Tunnel(self.vlan_id(tree)?),
            _ => return None,
        };
        Some(At::new(vlan, fields.head()))
    }

    fn vlan_id(&mut self, tree: &Tree<'_>) -> Option<u16> {
        self.unsigned::<u16>(tree, "a VLAN id", 1, LAST).map(|id| id.value)
    }

    fn trunk(&mut self, tree: &Tree<'_>, native: Option<&Tree<'_>>) -> Option<Vlan> {
        let items = self.one_or_list(tree);
        if items.is_empty() {
            self.error(Code::MissingField, tree.span, "the trunk carries no VLAN", "name one: `[10, 20-29]`");
            return None;
        }
        let mut carried: Vec<((u16, u16), crate::source::Span)> = Vec::new();
        for item in items {
            let Some(range) = self.vlan_range(item) else { continue };
            if let Some((_, first)) =
                carried.iter().find(|((low, high), _)| range.0 <= *high && *low <= range.1)
            {
                let message = "a VLAN is named twice";
                let diagnostic = crate::Diagnostic::error(Code::Duplicate, self.source, item.span, message);
                self.report.push(diagnostic.also(self.source, *first, "first named here").help("keep one"));
                continue;
            }
            carried.push((range, item.span));
        }
        let native = match native {
            None => None,
            Some(tree) => {
                let id = self.vlan_id(tree)?;
                if !carried.iter().any(|((low, high), _)| (*low..=*high).contains(&id)) {
                    let help = "add it to `trunk`";
                    let message = format!("the trunk does not carry its native VLAN {id}");
                    self.error(Code::Conflict, tree.span, message, help);
                    return None;
                }
                Some(id)
            }
        };
        let mut carried: Vec<(u16, u16)> = carried.into_iter().map(|(range, _)| range).collect();
        carried.sort_unstable();
        Some(Vlan::Trunk { carried, native })
    }

    /// `tree` as `10` or `20-29`.
    fn vlan_range(&mut self, tree: &Tree<'_>) -> Option<(u16, u16)> {
        let text = self.text(tree, "a VLAN id or a range of them")?;
        let id = |text: &str| text.parse::<u16>().ok().filter(|id| (1..=LAST).contains(id));
        let range = match text.split_once('-') {
            Some((low, high)) => id(low).zip(id(high)).filter(|(low, high)| low <= high),
            None => id(text).map(|id| (id, id)),
        };
        if range.is_none() {
            let message = format!("`{}` is not a VLAN id or a range of them", shortened(text));
            self.error(Code::BadValue, tree.span, message, "write 1 to 4094: `10`, `20-29`");
        }
        range
    }

    /// `tree` as what a rule does with tags.
    pub(super) fn vlan_action(&mut self, tree: &Tree<'_>) -> Option<VlanAction> {
        if matches!(tree.node, Node::Scalar { .. }) {
            let words = [("pop", VlanAction::Pop), ("refuse", VlanAction::Refuse)];
            let what = "what to do with a tag (or `{ push: 100 }`)";
            return self.word(tree, what, &words).map(|word| word.value);
        }
        let fields = self.fields(tree, "vlan", &["push"])?;
        let tree = self.required(&fields, "push", "100")?;
        let tags = self.vlan(tree)?;
        let [tag] = tags.as_slice() else {
            let help = "write an id, or `{ id: 100, priority: 5, type: 802.1ad }`";
            self.error(Code::BadValue, tree.span, "one tag is pushed at a time", help);
            return None;
        };
        let has_priority = match &tree.node {
            Node::Map(entries) => entries
                .iter()
                .any(|(key, _)| matches!(&key.node, Node::Scalar { text, .. } if text == "priority")),
            _ => false,
        };
        Some(VlanAction::Push { tag: *tag, has_priority })
    }
}
