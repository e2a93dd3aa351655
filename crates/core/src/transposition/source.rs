//! Where a pushed IP header gets its ECN and its copied DSCP from (RFC 6040, RFC 2983).
//!
//! Theory. Number the IP and ARP headers of the packet as it arrived 0, 1, 2, outermost first. Whatever a
//! chain of pushes and pops did, the ECN of an IP header of the result is what the headers `first..=last` of the
//! input come to when each is merged into the next one, as decapsulation does (RFC 6040 §4.2); its DSCP, where it
//! is copied, is that of header `last`. A kept header `k` has the range from behind the kept one before it to
//! `k`. A pushed header copies the header that it was put in front of, and so has that header's range; one that
//! replaces a popped header (translation between IPv4 and IPv6) has the popped header's. That range cannot be
//! told from the place in the list alone once pushes and pops of several steps are mixed, so it is kept beside
//! the list, and composition maps it from one step's headers to the other's.
//!
//! It must never depend on a packet's values: a range is the same for all packets of a flow.

use alloc::vec::Vec;

use super::{HeaderOp, Modify, Push, PushDscp, TransposeError, Transposition};
use crate::flow::Level;

/// A range of the input's L3 headers, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Source {
    pub(super) first: u8,
    pub(super) last: u8,
}

/// What a packet's L3 header hands to others: DSCP and ECN; `None` for ARP.
pub(super) type Class = Option<(u8, u8)>;

impl Source {
    /// DSCP and ECN of a pushed header with this source, given those of the input's L3 headers. Without an IP
    /// header to copy both are 0.
    #[inline(always)]
    pub(super) fn read(self, classes: &[Class]) -> Result<(u8, u8), TransposeError> {
        match classes.get(self.last as usize).copied().flatten() {
            Some(class) if self.first < self.last => self.merge(class, classes),
            Some(class) => Ok(class),
            None => Ok((0, 0)),
        }
    }

    #[inline(never)]
    fn merge(self, (dscp, mut ecn): (u8, u8), classes: &[Class]) -> Result<(u8, u8), TransposeError> {
        let outer = classes.get(self.first as usize..self.last as usize).unwrap_or(&[]);
        if let Some(outer_ecn) = merge_all(outer)? {
            ecn = merge_ecn(outer_ecn, ecn).ok_or(TransposeError::EcnViolation)?;
        }
        Ok((dscp, ecn))
    }
}

fn merge_all(classes: &[Class]) -> Result<Option<u8>, TransposeError> {
    let mut merged = None;
    for (_, ecn) in classes.iter().flatten() {
        merged = Some(match merged {
            None => *ecn,
            Some(outer) => merge_ecn(outer, *ecn).ok_or(TransposeError::EcnViolation)?,
        });
    }
    Ok(merged)
}

/// The ECN of an inner header when its outer header is removed: RFC 6040 figure 4. `None`: the packet has to be
/// dropped, since it met congestion and its transport could not be told.
pub(super) const fn merge_ecn(outer: u8, inner: u8) -> Option<u8> {
    const NOT_ECT: u8 = 0;
    const ECT_1: u8 = 1;
    const ECT_0: u8 = 2;
    const CE: u8 = 3;
    match (inner, outer) {
        (NOT_ECT, CE) => None,
        (NOT_ECT, _) => Some(NOT_ECT),
        (ECT_0, ECT_1) => Some(ECT_1),
        (_, CE) => Some(CE),
        (inner, _) => Some(inner),
    }
}

/// The sources of the IP headers that `ops` pushes, in order, as their places tell.
pub(super) fn by_place(ops: &[HeaderOp]) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut l3_count = 0u8;
    let mut after_kept = 0u8;
    let mut previous = None;
    for (index, op) in ops.iter().enumerate() {
        match op {
            HeaderOp::Push(Push::Ip(_)) => {
                let next =
                    ops[index..].iter().find(|op| !matches!(op, HeaderOp::Push(_))).map(HeaderOp::level);
                let translates = previous == Some(Level::L3) && matches!(next, None | Some(Level::L4));
                let last = if translates { l3_count - 1 } else { l3_count };
                sources.push(Source { first: after_kept.min(last), last });
            }
            HeaderOp::Push(_) => {}
            consuming => {
                previous = Some(consuming.level());
                if previous == Some(Level::L3) {
                    l3_count = l3_count.saturating_add(1);
                    if !matches!(consuming, HeaderOp::Pop(_)) {
                        after_kept = l3_count;
                    }
                }
            }
        }
    }
    sources
}

/// For one transposition: the source of each L3 header of its output, and the DSCP that it has there.
pub(super) struct L3Map {
    outputs: Vec<(Source, PushDscp)>,
    /// The next input L3 header behind the list.
    consumed: u8,
    /// The first input L3 header behind the last kept one.
    after_kept: u8,
}

impl L3Map {
    pub(super) fn new(transposition: &Transposition) -> Self {
        let mut map = L3Map { outputs: Vec::new(), consumed: 0, after_kept: 0 };
        let mut sources = transposition.sources.iter();
        for op in &transposition.ops {
            match op {
                HeaderOp::Push(Push::Ip(ip)) => {
                    map.outputs.push((sources.next().copied().unwrap_or_default(), ip.dscp));
                }
                HeaderOp::Push(Push::Arp(_)) => {
                    // Nothing can be copied from it: a range that no packet has.
                    map.outputs.push((Source { first: u8::MAX, last: u8::MAX }, PushDscp::Fixed(0)));
                }
                HeaderOp::Pop(Level::L3) => map.consumed = map.consumed.saturating_add(1),
                HeaderOp::Ignore(Level::L3) => map.keep(PushDscp::Copy),
                HeaderOp::Modify(Modify::L3(modify)) => {
                    map.keep(modify.dscp.map_or(PushDscp::Copy, PushDscp::Fixed));
                }
                _ => {}
            }
        }
        map
    }

    fn keep(&mut self, dscp: PushDscp) {
        self.outputs.push((Source { first: self.after_kept, last: self.consumed }, dscp));
        self.consumed = self.consumed.saturating_add(1);
        self.after_kept = self.consumed;
    }

    /// Source and DSCP of output header `index`; headers behind the list are the input's own.
    pub(super) fn output(&self, index: u8) -> (Source, PushDscp) {
        match index.checked_sub(self.outputs.len().min(u8::MAX as usize) as u8) {
            None => self.outputs[index as usize],
            Some(0) => (Source { first: self.after_kept, last: self.consumed }, PushDscp::Copy),
            Some(beyond) => {
                let last = self.consumed.saturating_add(beyond);
                (Source { first: last, last }, PushDscp::Copy)
            }
        }
    }

    /// What a range of output headers is as a range of input headers, and the DSCP of its last one.
    pub(super) fn map(&self, source: Source) -> (Source, PushDscp) {
        let (last, dscp) = self.output(source.last);
        let (first, _) = self.output(source.first);
        (Source { first: first.first.min(last.last), last: last.last }, dscp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ecn_merges_as_rfc_6040_figure_4_says() {
        // Rows: inner Not-ECT, ECT(0), ECT(1), CE. Columns: outer Not-ECT, ECT(0), ECT(1), CE.
        let columns = [0, 2, 1, 3];
        let table = [
            (0, [Some(0), Some(0), Some(0), None]),
            (2, [Some(2), Some(2), Some(1), Some(3)]),
            (1, [Some(1), Some(1), Some(1), Some(3)]),
            (3, [Some(3), Some(3), Some(3), Some(3)]),
        ];
        for (inner, row) in table {
            for (outer, expected) in columns.into_iter().zip(row) {
                assert_eq!(merge_ecn(outer, inner), expected, "outer {outer}, inner {inner}");
            }
        }
    }
}
