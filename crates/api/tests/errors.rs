//! Golden tests: for every kind of bad document, the message exactly as a person sees it.
//!
//! `errors/NAME.yaml` is the document, `errors/NAME.txt` the rendered report. `UPDATE_GOLDEN=1` writes the
//! reports anew; look at the difference before committing it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use lamina_api::{Code, Severity, parse};

#[test]
fn every_bad_document_has_its_message() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/errors");
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    names.sort();
    assert!(names.len() >= 15, "only {} documents found", names.len());
    let mut wrong = Vec::new();
    for path in names {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let report = parse(&name, &fs::read_to_string(&path).unwrap()).expect_err(&name);
        assert!(report.has_errors(), "{name}");
        for diagnostic in report.diagnostics() {
            assert!(
                diagnostic.help.is_some()
                    || diagnostic.code == Code::WrongType
                    || diagnostic.code == Code::Syntax,
                "{name}: \"{}\" does not say what to do",
                diagnostic.message
            );
        }
        let rendered = report.render(false);
        let golden = path.with_extension("txt");
        if update {
            fs::write(&golden, &rendered).unwrap();
        } else if fs::read_to_string(&golden).unwrap_or_default() != rendered {
            wrong.push(format!("--- {name}\n{rendered}"));
        }
    }
    assert!(wrong.is_empty(), "these differ from their golden file:\n{}", wrong.join("\n"));
}

/// A document of `rules` rules, the last of which is `last`.
fn large(rules: usize, last: &str) -> String {
    let mut text = String::from(
        "version: 1\nports:\n  vm1:\n    mac: \"02:00:00:00:00:01\"\n    layers:\n      - name: acl\n        priority: 10\n        inbound:\n          - group: all\n            rules:\n",
    );
    for n in 0..rules - 1 {
        text += &format!(
            "              - {{ name: r{n}, priority: {n}, when: {{ ip.src: 10.{}.{}.0/24, l4.dst: [80, 443, \"8000-8999\"], ip.proto: tcp }}, action: allow, stateful: true }}\n",
            n / 256 % 256,
            n % 256
        );
    }
    text + &format!("              - {last}\n")
}

/// Processor time that this thread has used. A machine may be busy with other things; what is measured is the work.
fn processor_time() -> Duration {
    let schedstat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = schedstat.split_whitespace().next().and_then(|field| field.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}

#[test]
fn an_error_in_the_last_of_50000_rules_is_found_at_its_place() {
    let text = large(50_000, "{ name: last, when: { l4.dst: 70000 }, action: allow }");
    let start = processor_time();
    let report = parse("large.yaml", &text).unwrap_err();
    let rendered = report.render(false);
    let elapsed = processor_time().saturating_sub(start);
    eprintln!("50,000 rules, {} bytes: reported in {elapsed:?} of processor time", text.len());
    assert_eq!(report.diagnostics().len(), 1);
    let diagnostic = &report.diagnostics()[0];
    assert_eq!((diagnostic.severity, diagnostic.code), (Severity::Error, Code::OutOfRange));
    assert_eq!(diagnostic.place(), "large.yaml:50010:47");
    assert_eq!(diagnostic.source.slice(diagnostic.labels[0].span), "70000");
    assert!(rendered.contains("it must be from 0 to 65535"), "{rendered}");
    assert!(elapsed < Duration::from_secs(10), "{elapsed:?}");
}

#[test]
fn no_text_makes_the_parser_panic() {
    let whole = large(3, "{ name: last, action: { nat: { source: { address: 1.2.3.4 } } } }");
    assert!(parse("whole", &whole).is_ok());
    for end in 0..whole.len() {
        let _ = parse("cut", &whole[..end]);
        let mut changed = whole.clone().into_bytes();
        changed[end] = b"{}[]:,-\"'&*!|>%@`#\n\t\0 0"[end % 23];
        if let Ok(text) = String::from_utf8(changed) {
            let _ = parse("changed", &text).map_err(|report| report.render(false));
        }
    }
}
