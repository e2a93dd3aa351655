//! How results are printed: tables for people, JSON for programs, times that both read.
//!
//! Writing goes through [`line()`], whose error ends a command quietly when the reader is gone.

use std::io::{self, Write};

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use serde_json::Value;

/// A table without borders. Columns whose heading begins with `>` are numbers: they stand to the right.
pub struct Rows {
    table: Table,
}

impl Rows {
    /// A table with these headings.
    pub fn new(headings: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(headings.iter().map(|heading| heading.trim_start_matches('>')));
        for (index, heading) in headings.iter().enumerate() {
            if let Some(column) = table.column_mut(index) {
                let is_first = index == 0;
                column.set_padding((u16::from(!is_first), 1));
                if heading.starts_with('>') {
                    column.set_cell_alignment(CellAlignment::Right);
                }
            }
        }
        Rows { table }
    }

    /// Adds a row.
    pub fn add<T: ToString>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.table.add_row(cells.into_iter().map(|cell| printable(&cell.to_string())));
    }

    /// The table's lines, without spaces at their ends.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for line in self.table.to_string().lines() {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// Prints the table; `nothing` where it has no rows.
    pub fn print(&self, nothing: &str) -> io::Result<()> {
        if self.table.row_count() == 0 { line(nothing) } else { text(&self.text()) }
    }
}

/// `text` without characters that would move a terminal's cursor: names come from other people's programs.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Prints a line and shows it at once.
pub fn line(line: &str) -> io::Result<()> {
    text(&format!("{line}\n"))
}

/// Prints `text` and shows it at once.
pub fn text(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Prints a value in one line.
pub fn json(value: &Value) -> io::Result<()> {
    line(&value.to_string())
}

/// Nanoseconds since 1970 as `2026-11-27T12:00:00.000000001Z`.
pub fn time(nanoseconds: u64) -> String {
    let seconds = nanoseconds / 1_000_000_000;
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:09}Z",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60,
        nanoseconds % 1_000_000_000
    )
}

/// The date so many days after 1970-01-01. Years are counted from March, so that the leap day is the last one.
fn date(days: u64) -> (u64, u64, u64) {
    // Days since 0000-03-01; 146,097 days are 400 years.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

/// Nanoseconds as a duration that people read: three digits and a unit.
pub fn duration(nanoseconds: u64) -> String {
    let value = nanoseconds as f64;
    let (value, unit) = match nanoseconds {
        0..1_000 => return format!("{nanoseconds}ns"),
        1_000..1_000_000 => (value / 1e3, "us"),
        1_000_000..1_000_000_000 => (value / 1e6, "ms"),
        1_000_000_000..60_000_000_000 => (value / 1e9, "s"),
        _ => {
            let seconds = nanoseconds / 1_000_000_000;
            let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
            return match (days, hours) {
                (0, 0) => format!("{minutes}m{}s", seconds % 60),
                (0, _) => format!("{hours}h{minutes}m"),
                _ => format!("{days}d{hours}h"),
            };
        }
    };
    format!("{value:.1}{unit}")
}

/// A count with a decimal prefix, three digits: `1.5M`.
pub fn short(count: f64) -> String {
    let units = ["", "k", "M", "G", "T", "P"];
    let mut value = count;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 || value >= 99.95 {
        format!("{value:.0}{}", units[unit])
    } else {
        format!("{value:.1}{}", units[unit])
    }
}

/// `one thing`, `2 things`.
pub fn count(number: u64, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// `-` for nothing.
pub fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(time(951_782_399_000_000_001), "2000-02-28T23:59:59.000000001Z");
        assert_eq!(time(951_782_400_000_000_000), "2000-02-29T00:00:00.000000000Z");
        assert_eq!(time(1_795_780_800_000_000_000), "2026-11-27T12:00:00.000000000Z");
        assert_eq!(time(u64::MAX), "2554-07-21T23:34:33.709551615Z");
    }

    #[test]
    fn durations_and_counts_are_short() {
        assert_eq!(duration(999), "999ns");
        assert_eq!(duration(1_500_000), "1.5ms");
        assert_eq!(duration(61_000_000_000), "1m1s");
        assert_eq!(duration(90_000_000_000_000), "1d1h");
        assert_eq!(short(0.0), "0");
        assert_eq!(short(999.0), "999");
        assert_eq!(short(999.9), "1.0k");
        assert_eq!(short(123_456.0), "123k");
        assert_eq!(short(1.5e6), "1.5M");
    }

    #[test]
    fn tables_keep_terminals_safe() {
        let mut rows = Rows::new(&["NAME", ">PACKETS"]);
        rows.add(["a\x1b[2J", "7"]);
        rows.add(["b", "1000"]);
        assert_eq!(rows.text(), "NAME   PACKETS\na\u{fffd}[2J        7\nb         1000\n");
    }
}
