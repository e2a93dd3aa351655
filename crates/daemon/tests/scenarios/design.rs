//! The design page as sentences by section, so that scenarios can quote it and nothing of it is forgotten.

/// `text` without line breaks and doubled spaces.
pub fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The paragraph of `page` that section `number` (such as `3.4`) is: it starts with the number, or is headed by it
/// (sections without subsections), and ends where the next number or heading starts.
pub fn section(page: &str, number: &str) -> Option<String> {
    let lines: Vec<&str> = page.lines().collect();
    let starts = |line: &str| line.strip_prefix(number).is_some_and(|rest| rest.starts_with(' '));
    let headed = |line: &str| line.strip_prefix(&format!("## {number}.")).is_some();
    let start = lines.iter().position(|line| starts(line) || headed(line))?;
    let is_heading = |line: &str| line.starts_with("## ") || numbered(line);
    let length =
        lines[start + 1..].iter().position(|line| is_heading(line)).unwrap_or(lines.len() - start - 1);
    Some(flat(&lines[start..=start + length].join("\n")))
}

/// True for a line that opens a subsection: `3.4 ...`.
fn numbered(line: &str) -> bool {
    let Some((number, _)) = line.split_once(' ') else { return false };
    let parts: Vec<&str> = number.split('.').collect();
    parts.len() == 2 && parts.iter().all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
}

/// Splits a quotation (`§3.4 A rule may be ...`) into section and sentence, and finds it on the page.
pub fn check_quotation(page: &str, quotation: &str) -> Result<(), String> {
    let (number, sentence) = quotation
        .strip_prefix('§')
        .and_then(|rest| rest.split_once(' '))
        .ok_or_else(|| format!("a quotation starts with its section: {quotation}"))?;
    let section = section(page, number).ok_or_else(|| format!("there is no section {number}"))?;
    if section.contains(&flat(sentence)) {
        Ok(())
    } else {
        Err(format!("section {number} does not say: {sentence}"))
    }
}

/// The sentences of a section: what lies between full stops before a capital letter or a mark. The section's
/// number and its bold name (`**Port.**`) are left out.
fn sentences(section: &str) -> Vec<String> {
    let (_, mut rest) = section.split_once(' ').unwrap_or(("", section));
    if let Some((_, text)) = rest.strip_prefix("**").and_then(|named| named.split_once(".** ")) {
        rest = text;
    }
    let mut found = Vec::new();
    let opens =
        |text: &str| text.starts_with(|c: char| c.is_uppercase() || matches!(c, '*' | '"' | '`' | '§'));
    while let Some((at, _)) = rest.match_indices(". ").find(|(at, _)| opens(&rest[at + 2..])) {
        found.push(rest[..=at].to_string());
        rest = &rest[at + 2..];
    }
    found.push(rest.to_string());
    found
}

/// Every sentence of sections 3 and 4 stands in the table of `readme`, as proven or as not there yet.
pub fn all_listed(page: &str, readme: &str) -> Result<(), Vec<String>> {
    let readme = flat(readme);
    let numbers = (1..=8).map(|n| format!("3.{n}")).chain((1..=6).map(|n| format!("4.{n}")));
    let mut missing = Vec::new();
    for number in numbers {
        let Some(section) = section(page, &number) else {
            missing.push(format!("there is no section {number}"));
            continue;
        };
        for sentence in sentences(&section) {
            if !readme.contains(&sentence) {
                missing.push(format!("§{number} is neither proven nor listed: {sentence}"));
            }
        }
    }
    if missing.is_empty() { Ok(()) } else { Err(missing) }
}
