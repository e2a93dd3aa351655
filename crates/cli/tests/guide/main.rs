//! The guide is true: every page's commands are run, one after the other, and print what the page shows.
//!
//! A page is read by `page`, run by `shell` in namespaces of its own with a daemon of its own, and what its commands print
//! is compared by `expect`. Nothing of the host's network or of `/run` is touched.
//!
//! | module | is |
//! | --- | --- |
//! | `page` | the commands of a page, and what each is to print |
//! | `shell` | a shell in namespaces of its own, beside a daemon |
//! | `expect` | whether a text is what a page shows |

mod expect;
mod page;
mod shell;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use page::Step;
use shell::Shell;

/// Pages whose commands other tests run.
const ELSEWHERE: &[&str] = &["install.md"]; // tests/package.rs

fn guide() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guide")
}

/// Runs a page's commands; what is not as the page says, as a text for people.
fn run(text: &str, shell: &mut Shell) -> Result<(), String> {
    let steps = page::steps(text)?;
    if !steps.iter().any(|step| step.expected.is_some()) {
        return Err("the page shows nothing that its commands print".into());
    }
    for step in steps {
        let outcome = shell.run(&step.commands).map_err(|error| format!("line {}: {error}", step.line))?;
        judge(&step, &outcome).map_err(|text| format!("line {}: {text}", step.line))?;
    }
    Ok(())
}

fn judge(step: &Step, outcome: &shell::Outcome) -> Result<(), String> {
    let shown = || format!("\n{}\n-- printed:\n{}", step.commands, outcome.printed);
    match (step.fails, outcome.failed.is_empty()) {
        (false, false) => return Err(format!("failed: {}{}", outcome.failed, shown())),
        (true, true) => return Err(format!("nothing failed, and the page says so{}", shown())),
        _ => {}
    }
    match &step.expected {
        Some(expected) if !expect::agree(expected, &outcome.printed) => {
            Err(format!("the page shows something else{}-- the page:\n{expected}", shown()))
        }
        _ => Ok(()),
    }
}

/// Runs the page `name` and fails where it is not true.
fn check(name: &str) {
    let text = fs::read_to_string(guide().join(name)).unwrap();
    let mut shell = match Shell::start() {
        Ok(shell) => shell,
        Err(reason) => {
            println!("skipped, because {reason}");
            return;
        }
    };
    let start = Instant::now();
    if let Err(text) = run(&text, &mut shell) {
        panic!("docs/guide/{name}, {text}\n-- the daemon's log:\n{}", shell.log());
    }
    println!("{name}: {:.1} s", start.elapsed().as_secs_f64());
}

macro_rules! pages {
    ($($test:ident $name:literal)*) => {
        const PAGES: &[&str] = &[$($name),*];
        $(
            #[test]
            fn $test() {
                check($name);
            }
        )*
    };
}

pages! {
    first_port "first-port.md"
    security_group "security-group.md"
    nat "nat.md"
    load_balancer "load-balancer.md"
    debugging_a_drop "debugging-a-drop.md"
    coming_from_open_vswitch "coming-from-open-vswitch.md"
}

#[test]
fn no_page_is_left_out() {
    let mut there: Vec<String> = fs::read_dir(guide())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    there.sort();
    let mut known: Vec<&str> = PAGES.iter().chain(ELSEWHERE).copied().collect();
    known.sort_unstable();
    assert_eq!(there, known, "a page of the guide that no test runs, or one that is gone");
}

/// The runner itself: what it calls wrong.
#[test]
fn what_a_page_says_wrongly_is_found() {
    const MADE: &str = "```sh\nip netns add lamina-guide-probe\ntouch /run/lamina-guide-probe\n```\n";
    let cases = [
        ("```sh\necho one two 3\n```\n```text\none … 3\n```\n", None),
        ("```sh\necho one two 3\n```\n```text\none two 4\n```\n", Some("the page shows something else")),
        ("```sh\nlamina status\n```\n```text\nlamina …\n```\n", Some("the page shows something else")),
        ("```sh\nlamina status\n```\n```text\nlamina …\n…\nevents-lost 0\n```\n", None),
        ("```sh\nfalse\necho one\n```\n```text\none\n```\n", Some("failed: `false` with 1")),
        ("```sh fails\necho one\n```\n```text\none\n```\n", Some("nothing failed")),
        ("```sh fails\nlamina explain nonsense\n```\n```text\nerror: `nonsense` is …\n```\n", None),
        ("```sh\necho one\n```\n", Some("the page shows nothing")),
        ("```sh\necho one\n```\n```text\n…\n```\n", Some("everything")),
        ("```sh\ncat <<'EOF'\n$HOME\nEOF\n```\n```text\n$HOME\n```\n", None),
        ("```sh\nsleep 100 &\n```\n```sh\nkill $!\necho ended\n```\n```text\nended\n```\n", None),
    ];
    let mut shell = match Shell::start() {
        Ok(shell) => shell,
        Err(reason) => {
            println!("skipped, because {reason}");
            return;
        }
    };
    for (text, wanted) in cases {
        let result = run(text, &mut shell);
        match wanted {
            None => assert_eq!(result, Ok(()), "{text}"),
            Some(wanted) => {
                let error = result.expect_err(text);
                assert!(error.contains(wanted), "{text}{error}");
            }
        }
    }
    // And that it touches nothing of the host.
    let made = format!("{MADE}```sh\nls /run/netns\n```\n```text\nlamina-guide-probe\n```\n");
    assert_eq!(run(&made, &mut shell), Ok(()));
    for path in ["/run/lamina-guide-probe", "/run/netns/lamina-guide-probe"] {
        assert!(!Path::new(path).exists(), "{path} is the host's");
    }
}

#[test]
fn a_page_that_hangs_is_ended() {
    let Ok(mut shell) = Shell::start() else {
        println!("skipped, because there is no shell: see the other tests");
        return;
    };
    shell.patience = std::time::Duration::from_millis(300);
    let error = run("```sh\necho one; sleep 100\n```\n```text\none\n```\n", &mut shell).unwrap_err();
    assert!(error.contains("not done after"), "{error}");
}
