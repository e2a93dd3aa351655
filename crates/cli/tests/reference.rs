//! The page about traces stays true: every command on `docs/reference/trace.md` prints what the page shows.
//!
//! `UPDATE_GOLDEN=1` writes the page anew; look at the difference before committing it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn page(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference").join(name)
}

/// The last whole document of the policy page: its full example.
fn full_example() -> String {
    let page = fs::read_to_string(page("policy.md")).unwrap();
    let start = page.rfind("\n```yaml\n").unwrap() + "\n```yaml\n".len();
    let end = start + page[start..].find("\n```").unwrap() + 1;
    page[start..end].to_owned()
}

/// Words of a command line: separated by spaces, double quotes keep them together.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in line.split('"').enumerate() {
        if index % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

#[test]
fn every_command_prints_what_the_page_shows() {
    let folder = std::env::temp_dir().join(format!("lamina-reference-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("example.yaml"), full_example()).unwrap();
    let text = fs::read_to_string(page("trace.md")).unwrap();
    let mut wanted = String::new();
    let mut commands = 0;
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        wanted.push_str(&format!("{line}\n"));
        if line != "```console" {
            continue;
        }
        let command = lines.next().unwrap();
        let arguments =
            words(command.strip_prefix("$ lamina ").unwrap_or_else(|| panic!("no command: {command}")));
        let output = Command::new(env!("CARGO_BIN_EXE_lamina"))
            .args(&arguments)
            .current_dir(&folder)
            .output()
            .unwrap();
        let shown = format!(
            "{}{}",
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap()
        );
        wanted.push_str(&format!("{command}\n{}\n```\n", shown.trim_end()));
        lines.by_ref().take_while(|line| *line != "```").for_each(drop);
        commands += 1;
    }
    fs::remove_dir_all(&folder).unwrap();
    assert!(commands >= 7, "only {commands} commands found");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(page("trace.md"), wanted).unwrap();
    } else {
        assert_eq!(text, wanted, "the page shows something else than the commands print");
    }
}
