//! What a switch tells about itself (§5.6, §7, §14): flows, drops, captured packets, classifiers, limits in use.
//!
//! Plain values with names in them, for a server that turns them into messages. Whatever may be long is read in
//! bounded slices, since the worker that answers also forwards packets. Reading changes nothing that a packet
//! could notice, and nothing here decides about packets.

mod capture;
mod drops;
mod filter;
mod flows;
mod limits;

pub use capture::{
    CaptureError, CaptureId, CapturePlace, CapturePoint, CaptureRecord, CaptureSink, CaptureSpec,
    CaptureStatus, CaptureVerdict, MAX_CAPTURES, VerdictFilter,
};
pub(crate) use capture::{Captures, Tag};
pub(crate) use drops::{DropLog, DropPlace, Lost};
pub use drops::{DropRow, DropSummary, MAX_DROP_PLACES, RECENT_DROPS};
pub use filter::{FlowFilter, PacketFilter};
pub use flows::{
    ClearPage, ConversationInfo, FlowCursor, FlowEgress, FlowInfo, FlowPage, FlowStep, StepDecision,
};
pub(crate) use limits::Full;
pub use limits::{ClassifierInfo, LimitUse};
