//! Conformance of the parser: every packet of some 240 public captures is read as tshark reads it, or the
//! difference has a name, a count and an explanation in README.md.
//!
//! The counts are exact, so a new difference fails, and so does one that goes away without the table being told.
//! The large set lies outside the repository and is optional; a small one is in `small/`.

mod compare;
mod expected;
mod reader;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::BuildHasher;
use std::io::Read;
use std::path::{Path, PathBuf};

use expected::Expected;
use lamina_core::packet::checksum;
use lamina_testkit::fuzz::parse_any;

type Classes = BTreeMap<String, usize>;

/// Adds the classes of one capture's packets to `classes`.
fn compare_capture(name: &str, file: &[u8], tsv: &str, classes: &mut Classes) {
    let frames = reader::frames(file);
    let expected = Expected::new(tsv);
    assert_eq!(frames.len(), expected.rows().len(), "{name}: packets");
    for (number, (frame, row)) in frames.iter().zip(expected.rows()).enumerate() {
        assert_eq!(frame.len() as u64, row.number("frame.cap_len"), "{name} packet {}", number + 1);
        let class = compare::class_of(frame, row);
        if std::env::var_os("LAMINA_CAPTURES_LIST").is_some() && class != "equal" {
            println!("{name} {}: {class}", number + 1);
        }
        *classes.entry(class).or_default() += 1;
        for class in compare::checksum_classes(frame, row) {
            *classes.entry(class).or_default() += 1;
        }
    }
}

/// The files of a `.tar.zst`, by path.
fn unpack(archive: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let packed = fs::File::open(archive).expect("the archive opens");
    let decoder = ruzstd::decoding::StreamingDecoder::new(packed).expect("a zstd frame");
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(decoder).entries().expect("a tar archive") {
        let mut entry = entry.expect("a tar entry");
        if entry.header().entry_type().is_file() {
            let path = entry.path().expect("a path").into_owned();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("a whole file");
            files.insert(path, bytes);
        }
    }
    files
}

#[test]
fn the_large_set_is_read_as_tshark_reads_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/pcap");
    let captures = folder.join("pcaps.tar.zst");
    if !captures.exists() {
        println!("skipped, because the captures are not at ../shared/data/pcap");
        return;
    }
    let captures = unpack(&captures);
    let readings = unpack(&folder.join("expected-tshark.tar.zst"));
    let mut classes = Classes::new();
    for (path, file) in &captures {
        let name = path.strip_prefix("pcap").unwrap_or(path);
        let reading = readings.iter().find(|(path, _)| {
            path.strip_prefix("expected").unwrap_or(path).as_os_str().to_string_lossy()
                == format!("{}.tsv", name.display())
        });
        let (_, tsv) = reading.unwrap_or_else(|| panic!("{}: no reading", name.display()));
        let tsv = String::from_utf8_lossy(tsv);
        compare_capture(&name.display().to_string(), file, &tsv, &mut classes);
    }
    check_table("Large set", &classes);
}

/// Compares `classes` with the table under `heading` in README.md.
fn check_table(heading: &str, classes: &Classes) {
    let section = include_str!("README.md").split("\n## ").find(|section| section.starts_with(heading));
    let mut table = Classes::new();
    for line in section.expect("the section exists").lines() {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let (Some(class), Some(count)) = (cells.next(), cells.next()) else { continue };
        if let (Some(class), Ok(count)) = (class.strip_prefix('`'), count.replace(' ', "").parse()) {
            table.insert(class.trim_end_matches('`').to_owned(), count);
        }
    }
    let names = table.keys().chain(classes.keys()).collect::<BTreeSet<_>>();
    let count = |classes: &Classes, name: &str| classes.get(name).copied().unwrap_or(0);
    let differences: Vec<String> = names
        .into_iter()
        .filter(|name| count(&table, name) != count(classes, name))
        .map(|name| format!("`{name}`: {} in README.md, {} now", count(&table, name), count(classes, name)))
        .collect();
    assert!(differences.is_empty(), "{heading}:\n{}", differences.join("\n"));
}

/// The small captures: name, file, readings.
fn small() -> Vec<(String, Vec<u8>, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures/small");
    let mut captures = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder exists") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "pcap" || extension == "pcapng") {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let tsv = fs::read_to_string(path.with_file_name(format!("{name}.tsv"))).expect("readings");
            captures.push((name, fs::read(&path).expect("a capture"), tsv));
        }
    }
    captures.sort();
    captures
}

#[test]
fn the_small_set_is_read_as_tshark_reads_it() {
    let mut classes = Classes::new();
    for (name, file, tsv) in small() {
        compare_capture(&name, &file, &tsv, &mut classes);
    }
    check_table("Small set", &classes);
}

#[test]
fn every_prefix_of_every_small_packet_is_answered() {
    for (_, file, _) in small() {
        for frame in reader::frames(&file) {
            for length in 0..=frame.len() {
                parse_any(&frame[..length]);
            }
        }
    }
}

#[test]
fn mutations_of_the_small_packets_are_answered() {
    let fresh = std::hash::RandomState::new().hash_one(0);
    let seeds = match std::env::var("LAMINA_SEED") {
        Ok(seed) => vec![seed.parse().expect("LAMINA_SEED is a number")],
        Err(_) => vec![1, fresh],
    };
    let frames: Vec<Vec<u8>> = small().iter().flat_map(|(_, file, _)| reader::frames(file)).collect();
    for seed in seeds {
        println!("LAMINA_SEED={seed}");
        let mut random = SplitMix64(seed);
        for _ in 0..20_000 {
            let mut frame = frames[random.below(frames.len())].clone();
            for _ in 0..=random.below(4) {
                random.mutate(&mut frame);
            }
            parse_any(&frame);
            // A flipped bit mostly breaks the header's checksum; behind it lies more to be tried.
            repair_checksums(&mut frame);
            parse_any(&frame);
        }
    }
}

/// Makes the checksum of each thing that looks like an IPv4 header right.
fn repair_checksums(frame: &mut [u8]) {
    for at in 12..frame.len().saturating_sub(22) {
        if frame[at..at + 2] == [8, 0] && frame[at + 2] == 0x45 {
            let header = &mut frame[at + 2..at + 22];
            header[10..12].fill(0);
            let checksum = checksum::finish(checksum::sum(header));
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
    }
}

/// A small random number generator (Steele, Lea, Flood 2014).
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    /// Changes a byte of the headers, flips a bit, cuts, or doubles a part.
    fn mutate(&mut self, frame: &mut Vec<u8>) {
        let headers = frame.len().min(160);
        if headers == 0 {
            return;
        }
        let at = self.below(headers);
        match self.below(8) {
            0 => frame.truncate(at),
            1 => {
                let part = frame[at..headers].to_vec();
                frame.splice(at..at, part);
            }
            2 | 3 => frame[at] = [0, 0xff, 0x7f, 0x80, 0x40, 1][self.below(6)],
            4 | 5 => frame[at] ^= 1 << self.below(8),
            _ => frame[at] = self.next() as u8,
        }
    }
}
