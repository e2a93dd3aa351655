//! Port-wide tables that rules refer to by name (§6): mapping tables, target sets, prefix sets, meters,
//! limits, lease tables, tables of domain names.
//!
//! A resource is updated without recompiling the rules that read it. Rules hold its id, an index into
//! [`Resources`]; names are for people. Resources are immutable values here: an update publishes a new
//! [`Resources`] that shares every table that did not change, and raises the port's generation. Mapping tables are
//! more: what policy says of them is only what they begin with, and rules read the worker's live ones ([`LiveMapping`]).

mod dns;
mod lease;
mod limit;
mod live;
mod mapping;
mod prefix_set;
mod target_set;

pub use dns::DnsTable;
pub use lease::{Lease, LeaseTable};
pub use limit::{LimitSpec, Rate, RateUnit};
pub(crate) use live::{Dependencies, Dependency, LiveMappings};
pub use live::{LiveMapping, Lookup, Mappings};
pub use mapping::{
    MAX_MAPPINGS, Mapping, MappingChange, MappingError, MappingKey, MappingTable, MappingUpdate, OnMiss,
};
pub use prefix_set::PrefixSet;
pub(crate) use target_set::mix;
pub use target_set::{Target, TargetSet};

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::flow::Field;
use crate::layer::Name;

macro_rules! ids {
    ($($(#[doc = $doc:literal])+ $name:ident;)+) => { $(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name(pub u32);
    )+ };
}

ids! {
    /// Index of a mapping table in [`Resources`].
    MappingId;
    /// Index of a target set in [`Resources`].
    TargetSetId;
    /// Index of a prefix set in [`Resources`].
    PrefixSetId;
    /// Index of a meter in [`Resources`].
    MeterId;
    /// Index of a lease table in [`Resources`].
    LeaseTableId;
    /// Index of a table of domain names in [`Resources`].
    DnsTableId;
    /// Index of a limit in [`Resources`].
    LimitId;
}

/// All resources of a port.
#[derive(Clone, Debug, Default)]
pub struct Resources {
    /// Mapping tables, by [`MappingId`], as declared.
    pub mappings: Vec<Arc<MappingTable>>,
    /// Target sets, by [`TargetSetId`].
    pub target_sets: Vec<Arc<TargetSet>>,
    /// Prefix sets, by [`PrefixSetId`].
    pub prefix_sets: Vec<Arc<PrefixSet>>,
    /// Meters, by [`MeterId`]. Their counters live in the port's state, by name.
    pub meters: Vec<MeterSpec>,
    /// Lease tables, by [`LeaseTableId`].
    pub lease_tables: Vec<Arc<LeaseTable>>,
    /// Tables of domain names, by [`DnsTableId`].
    pub dns_tables: Vec<Arc<DnsTable>>,
    /// Limits, by [`LimitId`]. Their tokens lie in the port's state, by name.
    pub limits: Vec<LimitSpec>,
}

impl Resources {
    /// The target set of `id`. Conversion and [`crate::layer::Program`] guarantee that ids exist.
    pub fn target_set(&self, id: TargetSetId) -> &TargetSet {
        &self.target_sets[id.0 as usize]
    }

    /// The prefix set of `id`.
    pub fn prefix_set(&self, id: PrefixSetId) -> &PrefixSet {
        &self.prefix_sets[id.0 as usize]
    }

    /// The lease table of `id`.
    pub fn lease_table(&self, id: LeaseTableId) -> &LeaseTable {
        &self.lease_tables[id.0 as usize]
    }

    /// The table of domain names of `id`.
    pub fn dns_table(&self, id: DnsTableId) -> &DnsTable {
        &self.dns_tables[id.0 as usize]
    }

    /// The meter of `id`.
    pub fn meter(&self, id: MeterId) -> &MeterSpec {
        &self.meters[id.0 as usize]
    }

    /// The limit of `id`.
    pub fn limit(&self, id: LimitId) -> &LimitSpec {
        &self.limits[id.0 as usize]
    }
}

/// A meter: packet and byte counters, one cell per distinct value of its key.
#[derive(Clone, Debug)]
pub struct MeterSpec {
    /// Unique on the port; counters belong to this name across updates.
    pub name: Name,
    /// What distinguishes cells; empty means one cell.
    pub key: Vec<Field>,
    /// The most cells; packets of further keys are counted in one `other` cell.
    pub limit: usize,
    /// Which packets count.
    pub counts: MeterCounts,
}

/// Which packets a meter counts (§3.7).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MeterCounts {
    /// Every packet that reached the meter, also one that a later layer blocks.
    #[default]
    Offered,
    /// Only packets that no layer blocked.
    Forwarded,
}
