//! A page of the guide: its commands, and what each of them is to print.
//!
//! A block of `sh` is what a reader types. The block of `text` that follows it, if there is one, is what all of it prints.
//! ` ```sh fails ` marks commands of which one fails, as the page says. A page has no other blocks, so nothing on it is left
//! untried.

use crate::expect;

/// A block of commands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// The line of the page where it begins, counted from 1.
    pub line: usize,
    /// What is typed.
    pub commands: String,
    /// Whether one of them fails.
    pub fails: bool,
    /// What is printed, where the page shows it.
    pub expected: Option<String>,
}

/// The blocks of a page, in their order; what cannot be tried on it is an error.
pub fn steps(text: &str) -> Result<Vec<Step>, String> {
    let mut steps: Vec<Step> = Vec::new();
    let mut lines = text.lines().zip(1..);
    while let Some((opening, line)) = lines.next() {
        let Some(kind) = opening.strip_prefix("```") else { continue };
        let mut block = String::new();
        loop {
            match lines.next() {
                Some(("```", _)) => break,
                Some((inside, _)) => block.push_str(&format!("{inside}\n")),
                None => return Err(format!("line {line}: this block has no end")),
            }
        }
        match kind {
            "sh" | "sh fails" => {
                let fails = kind == "sh fails";
                steps.push(Step { line, commands: block, fails, expected: None });
            }
            "text" => {
                if !expect::says_something(&block) {
                    return Err(format!("line {line}: this fits everything"));
                }
                match steps.last_mut() {
                    Some(Step { expected: expected @ None, .. }) => *expected = Some(block),
                    _ => return Err(format!("line {line}: no commands stand before this text")),
                }
            }
            other => return Err(format!("line {line}: a block of `{other}`, which nothing tries")),
        }
    }
    Ok(steps)
}

#[test]
fn blocks_are_commands_and_what_they_print() {
    let text = "words\n```sh\none\n```\nso:\n```text\nfirst\n```\n\n```sh fails\ntwo\n```\n";
    let step = |line, commands: &str, fails, expected: Option<&str>| Step {
        line,
        commands: commands.into(),
        fails,
        expected: expected.map(str::to_owned),
    };
    assert_eq!(
        steps(text),
        Ok(vec![step(2, "one\n", false, Some("first\n")), step(10, "two\n", true, None)])
    );
    for (wrong, wanted) in [
        ("```sh\none\n", "line 1: this block has no end"),
        ("```text\none\n```\n", "line 1: no commands"),
        ("```sh\none\n```\n```text\none\n```\n```text\ntwo\n```\n", "line 7: no commands"),
        ("```yaml\none: 1\n```\n", "line 1: a block of `yaml`"),
        ("```sh\none\n```\n```text\n… 1 …\n```\n", "line 4: this fits everything"),
    ] {
        let error = steps(wrong).unwrap_err();
        assert!(error.starts_with(wanted), "{error}");
    }
}
