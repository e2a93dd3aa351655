//! tshark's readings: one row a packet, one column a field; a field that occurs at several layers is comma-joined,
//! outermost first.

use std::collections::HashMap;

/// The readings of one capture.
pub struct Expected<'a> {
    columns: HashMap<&'a str, usize>,
    rows: Vec<Vec<&'a str>>,
}

/// The reading of one packet.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    expected: &'a Expected<'a>,
    index: usize,
}

impl<'a> Expected<'a> {
    pub fn new(tsv: &'a str) -> Self {
        let mut lines = tsv.lines().map(|line| line.split('\t').collect::<Vec<_>>());
        let header = lines.next().unwrap_or_default();
        let columns = header.into_iter().enumerate().map(|(index, name)| (name, index)).collect();
        Expected { columns, rows: lines.collect() }
    }

    pub fn rows(&'a self) -> impl ExactSizeIterator<Item = Row<'a>> {
        (0..self.rows.len()).map(move |index| Row { expected: self, index })
    }
}

impl<'a> Row<'a> {
    /// The text of a field, empty where tshark found none.
    pub fn text(&self, field: &str) -> &'a str {
        let column = self.expected.columns.get(field).unwrap_or_else(|| panic!("no column {field}"));
        self.expected.rows[self.index].get(*column).copied().unwrap_or("")
    }

    /// The values of a field, outermost first.
    pub fn values(&self, field: &str) -> Vec<&'a str> {
        let text = self.text(field);
        if text.is_empty() { Vec::new() } else { text.split(',').collect() }
    }

    /// A number, decimal or hexadecimal; 0 where there is none.
    pub fn number(&self, field: &str) -> u64 {
        self.values(field).first().map_or(0, |text| number(text))
    }

    /// True where tshark found some part malformed.
    pub fn is_malformed(&self) -> bool {
        !self.text("_ws.malformed").is_empty()
    }

    /// True where the capture holds less than the link carried.
    pub fn is_cut(&self) -> bool {
        self.number("frame.cap_len") < self.number("frame.len")
    }

    /// The layers that matter here, outermost first.
    pub fn protocols(&self) -> Vec<&'a str> {
        self.text("frame.protocols").split(':').filter(|name| *name != "ethertype").collect()
    }
}

/// A number as tshark writes it.
pub fn number(text: &str) -> u64 {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).unwrap_or(u64::MAX),
        None => text.parse().unwrap_or(u64::MAX),
    }
}
