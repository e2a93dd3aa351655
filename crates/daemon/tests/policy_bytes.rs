//! The fuzz target `policy_document` without a fuzzer: every file in `fuzz/regressions/policy_document/`, and the
//! documents of this repository, mutilated.

#[path = "../../../fuzz/bodies/policy_document.rs"]
mod body;

use std::path::{Path, PathBuf};

/// Mutilations per document.
const MUTATIONS: u64 = 200;

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(folder);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn regressions_are_read_or_refused() {
    let files = files("fuzz/regressions/policy_document");
    assert!(!files.is_empty());
    files.iter().for_each(|file| body::policy_document(&std::fs::read(file).unwrap()));
}

#[test]
fn mutilated_documents_are_read_or_refused() {
    let seeds: Vec<String> = files("tests/scenarios")
        .into_iter()
        .filter(|file| file.extension().is_some_and(|extension| extension == "yaml"))
        .filter_map(|file| policy_of(&std::fs::read_to_string(file).unwrap()))
        .collect();
    assert!(seeds.len() > 40, "the scenarios have policies");
    for (index, seed) in seeds.iter().enumerate() {
        for number in 0..MUTATIONS {
            let text = mutilate(seed, number ^ (index as u64) << 32);
            let result = std::panic::catch_unwind(|| body::policy_document(text.as_bytes()));
            assert!(result.is_ok(), "this document:\n{text}");
        }
    }
}

/// The document under `policy:`, as text of its own.
fn policy_of(scenario: &str) -> Option<String> {
    let (_, rest) = scenario.split_once("\npolicy:\n")?;
    let lines: Vec<&str> =
        rest.lines().take_while(|line| line.starts_with("  ") || line.is_empty()).collect();
    Some(lines.iter().map(|line| line.strip_prefix("  ").unwrap_or(line)).collect::<Vec<_>>().join("\n"))
}

/// `text` with a few words exchanged, lines dropped or doubled, characters changed.
fn mutilate(text: &str, number: u64) -> String {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5bd1_e995;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    const WORDS: [&str; 16] = [
        "0",
        "-1",
        "4294967296",
        "\"\"",
        "[]",
        "{}",
        "null",
        "fd00::/8",
        "10.0.0.0/33",
        "65536",
        "*a",
        "&a x",
        "vxlan",
        "$friends",
        "300s",
        "\u{1f980}",
    ];
    let mut lines: Vec<String> = text.lines().map(String::from).collect();
    for _ in 0..1 + next() % 3 {
        let at = next() % lines.len().max(1);
        let Some(line) = lines.get(at).cloned() else { break };
        match next() % 5 {
            0 => drop(lines.remove(at)),
            1 => lines.insert(at, line),
            2 => {
                let words: Vec<&str> = line.split(' ').collect();
                let victim = next() % words.len();
                let exchanged: Vec<&str> = words
                    .iter()
                    .enumerate()
                    .map(|(i, word)| if i == victim { WORDS[next() % 16] } else { word })
                    .collect();
                lines[at] = exchanged.join(" ");
            }
            3 => {
                let place =
                    line.char_indices().nth(next() % line.chars().count().max(1)).map_or(0, |(i, _)| i);
                lines[at] =
                    format!("{}{}", &line[..place], &line[place..].chars().skip(1).collect::<String>());
            }
            _ => {
                let other = lines[next() % lines.len()].clone();
                lines[at] = format!("{line}{other}");
            }
        }
    }
    lines.join("\n")
}
