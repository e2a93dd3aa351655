//! The lines by which two texts differ.
//!
//! Theory. What both texts begin and end with is set aside; of the rest, the longest common subsequence of lines stays and
//! all else is removed or added. Its table has as many cells as one rest has lines times the other's, so beyond a bound
//! everything in between counts as replaced: right, if not the shortest.

/// The largest table.
const MOST_CELLS: usize = 4_000_000;
/// Lines that are shown around a difference.
const CONTEXT: usize = 3;

/// `-` and `+` before lines of `old` and `new` that are not in the other, a space before some lines around them, `...`
/// where lines are left out. Empty for equal texts.
pub fn lines(old: &str, new: &str) -> Vec<String> {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let marked = mark(&old, &new);
    let is_near = |index: usize| {
        let (from, to) = (index.saturating_sub(CONTEXT), (index + CONTEXT + 1).min(marked.len()));
        marked[from..to].iter().any(|(mark, _)| *mark != ' ')
    };
    let mut shown = Vec::new();
    let mut is_gap = false;
    for (index, (mark, line)) in marked.iter().enumerate() {
        if is_near(index) {
            if std::mem::take(&mut is_gap) && !shown.is_empty() {
                shown.push("...".into());
            }
            shown.push(format!("{mark}{line}"));
        } else {
            is_gap = true;
        }
    }
    shown
}

/// Every line of both texts, in order, with its mark.
fn mark<'t>(old: &[&'t str], new: &[&'t str]) -> Vec<(char, &'t str)> {
    let before = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let (old_rest, new_rest) = (&old[before..], &new[before..]);
    let after = old_rest.iter().rev().zip(new_rest.iter().rev()).take_while(|(a, b)| a == b).count();
    let (old_rest, new_rest) = (&old_rest[..old_rest.len() - after], &new_rest[..new_rest.len() - after]);
    let mut marked: Vec<(char, &str)> = old[..before].iter().map(|line| (' ', *line)).collect();
    if old_rest.len().saturating_mul(new_rest.len()) > MOST_CELLS {
        marked.extend(old_rest.iter().map(|line| ('-', *line)));
        marked.extend(new_rest.iter().map(|line| ('+', *line)));
    } else {
        common(old_rest, new_rest, &mut marked);
    }
    marked.extend(old[old.len() - after..].iter().map(|line| (' ', *line)));
    marked
}

fn common<'t>(old: &[&'t str], new: &[&'t str], marked: &mut Vec<(char, &'t str)>) {
    let width = new.len() + 1;
    // Cell (i, j): how many lines the rests from i and j on have in common.
    let mut table = vec![0u32; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            table[i * width + j] = if old[i] == new[j] {
                table[(i + 1) * width + j + 1] + 1
            } else {
                table[(i + 1) * width + j].max(table[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            marked.push((' ', old[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || (i < old.len() && table[(i + 1) * width + j] >= table[i * width + j + 1])
        {
            marked.push(('-', old[i]));
            i += 1;
        } else {
            marked.push(('+', new[j]));
            j += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_short_and_have_context() {
        assert!(lines("a\nb\n", "a\nb\n").is_empty());
        assert_eq!(lines("a\nb\nc\n", "a\nx\nc\n"), [" a", "-b", "+x", " c"]);
        assert_eq!(lines("", "a\n"), ["+a"]);
        let old = "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n12\n";
        let new = "one\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\ntwelve\n";
        let wanted = ["-1", "+one", " 2", " 3", " 4", "...", " 9", " 10", " 11", "-12", "+twelve"];
        assert_eq!(lines(old, new), wanted);
    }

    #[test]
    fn both_texts_can_be_read_from_the_marks() {
        let mut state = 7u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 16
        };
        for _ in 0..500 {
            let mut text = |length: u32| -> Vec<&'static str> {
                (0..next() % length).map(|_| ["a", "b", "c", "d"][next() as usize % 4]).collect()
            };
            let (old, new) = (text(12), text(12));
            let marked = mark(&old, &new);
            let side = |other: char| -> Vec<&str> {
                marked.iter().filter(|(mark, _)| *mark != other).map(|(_, line)| *line).collect()
            };
            assert_eq!((side('+'), side('-')), (old, new));
        }
        let (many, other): (Vec<&str>, Vec<&str>) = (vec!["x"; 3000], vec!["y"; 3000]);
        assert_eq!(mark(&many, &other).len(), 6000, "beyond the bound, everything is replaced");
    }
}
