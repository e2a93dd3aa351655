//! "Did you mean": the known word nearest to one that is not known.

/// The word of `known` that `word` was probably meant to be: at most a third of its letters differ (two for short
/// words); of equally near ones the first.
pub fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let length = word.chars().count();
    if length > 64 {
        return None;
    }
    let limit = (length / 3).max(2).min(length.saturating_sub(1).max(1));
    let mut best: Option<(usize, &str)> = None;
    for candidate in known {
        if candidate.chars().count().abs_diff(length) > limit {
            continue;
        }
        let distance = distance(word, candidate);
        if distance <= limit && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// A help text that lists `known`, or the nearest of them.
pub fn did_you_mean<'k>(word: &str, known: impl IntoIterator<Item = &'k str> + Clone, what: &str) -> String {
    if let Some(nearest) = nearest(word, known.clone()) {
        return format!("did you mean `{nearest}`?");
    }
    let all: Vec<&str> = known.into_iter().collect();
    const SHOWN: usize = 30;
    match all.len() {
        0 => format!("there is no {what}"),
        n if n <= SHOWN => format!("{what}: {}", all.join(", ")),
        n => format!("{what}: {} and {} more", all[..SHOWN].join(", "), n - SHOWN),
    }
}

/// Letters to insert, delete or replace, or neighbours to exchange, to make `b` of `a`; letter case counts half
/// as nothing: words are compared in lower case.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.to_lowercase().chars().collect();
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replace = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replace.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_found_and_far_ones_are_not() {
        let known = ["address", "mac", "remote", "vni"];
        assert_eq!(nearest("adress", known), Some("address"));
        assert_eq!(nearest("vin", known), Some("vni"));
        assert_eq!(nearest("REMOTE", known), Some("remote"));
        assert_eq!(nearest("weight", known), None);
        assert_eq!(nearest("", known), None);
        assert_eq!(nearest("x", known), None);
        assert_eq!(did_you_mean("zzzzzz", known, "known are"), "known are: address, mac, remote, vni");
    }
}
