//! Actions: what a matched rule asks for (§3.5).
//!
//! An action reads a packet's meaning ([`ActionInput`]) and returns an [`Effect`]; it never touches bytes and
//! changes no state. Each action is one file with its data (what the policy says) and its `process`. To add one:
//! write the file, add a variant to [`Action`] and a line to each `match` below; the compiler names the rest.

mod allow;
mod block;
mod decap;
mod encap;
mod hairpin;
mod limit;
mod load_balance;
mod map_encap;
mod mark;
mod meter;
mod mirror;
mod nat;
mod punt;
mod reply;
mod respond;
mod transpose;
mod vlan;

pub use allow::Allow;
pub use block::Block;
pub use decap::Decap;
pub use encap::{Encap, Tunnel};
pub use hairpin::Hairpin;
pub use limit::{Limit, Limiter};
pub use load_balance::{Affinity, LoadBalance};
pub use map_encap::MapEncap;
pub use mark::Mark;
pub use meter::Meter;
pub use mirror::{Mirror, MirrorTarget};
pub use nat::{Nat, NatTo};
pub use punt::Punt;
pub use reply::Reply;
pub use respond::{Dhcp, Dhcpv6, LeaseSource, MacSource, Respond};
pub use transpose::Transpose;
pub use vlan::{PushTag, Vlan};

use alloc::vec::Vec;

use crate::drop_reason::DropReason;
use crate::flow::{Direction, HeaderStack};
use crate::resource::{Lookup, Mappings, MeterId, Resources};
use crate::switch::PortId;
use crate::transposition::Transposition;

/// What a rule does with the packets it matches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Pass unchanged.
    Allow(Allow),
    /// Drop.
    Block(Block),
    /// Rewrite addresses and ports.
    Nat(Nat),
    /// Choose a target by consistent hash and rewrite the destination to it.
    LoadBalance(LoadBalance),
    /// Put the packet into a tunnel.
    Encap(Encap),
    /// Take the packet out of its outermost tunnel.
    Decap(Decap),
    /// Put the packet into the tunnel that a mapping table names.
    MapEncap(MapEncap),
    /// A user-defined transposition.
    Transpose(Transpose),
    /// Count.
    Meter(Meter),
    /// Pass while there are tokens.
    Limit(Limit),
    /// Put a VLAN tag on, or take it off.
    Vlan(Vlan),
    /// Set DSCP or metadata.
    Mark(Mark),
    /// Answer the packet.
    Respond(Respond),
    /// End this walk and start the other direction's.
    Hairpin(Hairpin),
    /// Send a copy.
    Mirror(Mirror),
    /// Send to the controller that owns the layer.
    Punt(Punt),
}

/// What an action may read.
#[derive(Clone, Copy, Debug)]
pub struct ActionInput<'a> {
    /// The packet as it stands at this layer.
    pub headers: &'a HeaderStack,
    /// Which way it goes.
    pub direction: Direction,
    /// The port's tables.
    pub resources: &'a Resources,
    /// The live mapping tables.
    pub mappings: Mappings<'a>,
    /// The switch's seed: choices derive from it, the headers and the tables only (§5.2).
    pub seed: u64,
}

/// What an action asks for on one packet.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Effect {
    /// The header change.
    pub transposition: Transposition,
    /// The meter that counts the packet.
    pub meter: Option<MeterId>,
    /// The tokens that the packet needs.
    pub limit: Option<Limiter>,
    /// Metadata keys (by index) and their new values.
    pub metadata: Vec<(u8, u32)>,
    /// A copy of the packet as it stands.
    pub mirror: Option<Mirror>,
    /// The mapping that the action read, there or not.
    pub looked_up: Option<Lookup>,
    /// What becomes of the packet.
    pub outcome: Outcome,
}

/// Whether the packet goes on after this layer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Outcome {
    /// On to the next layer.
    #[default]
    Continue,
    /// Dropped here.
    Drop(DropReason),
    /// Answered here; the reply goes back through the layers already crossed.
    Reply(Reply),
    /// It turns round here: the full walk in the other direction starts, of the same port or of this one.
    Turn(Option<PortId>),
    /// It ends here: the controller that owns the layer gets it.
    Punt(Punt),
}

impl Effect {
    /// The packet goes on with this header change.
    pub fn transpose(transposition: Transposition) -> Self {
        Effect { transposition, ..Effect::default() }
    }

    /// The packet is dropped.
    pub fn drop(reason: DropReason) -> Self {
        Effect { outcome: Outcome::Drop(reason), ..Effect::default() }
    }
}

impl Action {
    /// What this action asks for on the packet of `input`. An impossible request is an [`Outcome::Drop`].
    pub fn process(&self, input: &ActionInput<'_>) -> Effect {
        match self {
            Action::Allow(action) => action.process(input),
            Action::Block(action) => action.process(input),
            Action::Nat(action) => action.process(input),
            Action::LoadBalance(action) => action.process(input),
            Action::Encap(action) => action.process(input),
            Action::Decap(action) => action.process(input),
            Action::MapEncap(action) => action.process(input),
            Action::Transpose(action) => action.process(input),
            Action::Meter(action) => action.process(input),
            Action::Limit(action) => action.process(input),
            Action::Vlan(action) => action.process(input),
            Action::Mark(action) => action.process(input),
            Action::Respond(action) => action.process(input),
            Action::Hairpin(action) => action.process(input),
            Action::Mirror(action) => action.process(input),
            Action::Punt(action) => action.process(input),
        }
    }

    /// The name used in policy files and output.
    pub const fn name(&self) -> &'static str {
        match self {
            Action::Allow(_) => "allow",
            Action::Block(_) => "block",
            Action::Nat(_) => "nat",
            Action::LoadBalance(_) => "load-balance",
            Action::Encap(_) => "encap",
            Action::Decap(_) => "decap",
            Action::MapEncap(_) => "map-encap",
            Action::Transpose(_) => "transpose",
            Action::Meter(_) => "meter",
            Action::Limit(_) => "limit",
            Action::Vlan(_) => "vlan",
            Action::Mark(_) => "mark",
            Action::Respond(_) => "respond",
            Action::Hairpin(_) => "hairpin",
            Action::Mirror(_) => "mirror",
            Action::Punt(_) => "punt",
        }
    }

    /// True when a binding that this type of action made earlier, for the packet of `input`, may live on under
    /// this action (§5.5): a load balancer admits every target that is still in its set, every other action
    /// admits what it would do now.
    pub fn admits(&self, input: &ActionInput<'_>, binding: &Transposition) -> bool {
        match self {
            Action::LoadBalance(action) => action.admits(input, binding),
            _ => {
                let effect = self.process(input);
                effect.outcome == Outcome::Continue && effect.transposition == *binding
            }
        }
    }
}
