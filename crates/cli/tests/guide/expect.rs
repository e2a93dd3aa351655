//! Whether a printed text is what a page shows.
//!
//! In a line of a page `…` stands for one or more characters, as a line of its own for any lines, also none. Several spaces
//! are as good as one, since columns are as wide as their contents. Nothing else is forgiven.

/// Stands for what differs from run to run.
const ANYTHING: char = '…';

/// A piece of a pattern.
enum Piece<P> {
    /// Exactly this.
    This(P),
    /// Any one.
    One,
    /// Any number.
    Any,
}

/// True when `text` is made as `pattern` says.
fn fits<P, T>(pattern: &[Piece<P>], text: &[T], same: impl Fn(&P, &T) -> bool) -> bool {
    let (mut at, mut read) = (0, 0);
    // Behind the last `Any`, and how much of the text it has taken.
    let mut back = None;
    loop {
        match (pattern.get(at), text.get(read)) {
            (None, None) => return true,
            (Some(Piece::Any), _) => {
                at += 1;
                back = Some((at, read));
                continue;
            }
            (Some(Piece::One), Some(_)) => {
                (at, read) = (at + 1, read + 1);
                continue;
            }
            (Some(Piece::This(wanted)), Some(found)) if same(wanted, found) => {
                (at, read) = (at + 1, read + 1);
                continue;
            }
            _ => {}
        }
        // The last `Any` takes one more, if there is one.
        match back {
            Some((behind, taken)) if taken < text.len() => {
                back = Some((behind, taken + 1));
                (at, read) = (behind, taken + 1);
            }
            _ => return false,
        }
    }
}

fn line_fits(expected: &str, printed: &str) -> bool {
    let mut pattern = Vec::new();
    for character in expected.chars() {
        match character {
            ANYTHING => pattern.extend([Piece::One, Piece::Any]),
            other => pattern.push(Piece::This(other)),
        }
    }
    fits(&pattern, &printed.chars().collect::<Vec<_>>(), |wanted, found| wanted == found)
}

/// Lines without what only aligns them.
fn lines(text: &str) -> Vec<String> {
    text.trim_end().lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// True when `printed` is what `expected` shows.
pub fn agree(expected: &str, printed: &str) -> bool {
    let pattern: Vec<Piece<String>> = lines(expected)
        .into_iter()
        .map(|line| if line.chars().eq([ANYTHING]) { Piece::Any } else { Piece::This(line) })
        .collect();
    fits(&pattern, &lines(printed), |expected, printed| line_fits(expected, printed))
}

/// True when `expected` does not fit nearly everything: one of its lines has a word of three letters.
pub fn says_something(expected: &str) -> bool {
    let mut words = expected.split(|character: char| !character.is_alphabetic());
    words.any(|word| word.chars().count() >= 3)
}

#[test]
fn only_what_is_marked_may_differ() {
    for (expected, printed, wanted) in [
        ("one\n", "one\n", true),
        ("one\n", "one\n\n", true),
        ("one", "two", false),
        ("one", "one\ntwo", false),
        ("one\ntwo", "one", false),
        ("one", "", false),
        ("a   b c", "a b     c   ", true),
        ("a b", "ab", false),
        ("time=… ms", "time=0.1 ms", true),
        ("time=… ms", "time= ms", false),
        ("time=… ms", "time=0.1 ms and more", false),
        ("…b", "aab", true),
        ("…b", "aac", false),
        ("a…b…c", "a1b2b3c", true),
        ("a…b…c", "a1b2b3", false),
        ("one\n…\nfour", "one\ntwo\nthree\nfour", true),
        ("one\n…\nfour", "one\nfour", true),
        ("one\n…\nfour", "one\ntwo\nthree", false),
        ("one\n…", "one", true),
        ("…\nfour …", "three\nfour 4\nfive\nfour 5", true),
        ("…\nfour …", "three\nfour 4\nfive", false),
    ] {
        assert_eq!(agree(expected, printed), wanted, "{expected:?} {printed:?}");
    }
    for (expected, wanted) in [("…\n", false), ("… 1 ms …\n", false), ("", false), ("…\nnothing\n", true)]
    {
        assert_eq!(says_something(expected), wanted, "{expected:?}");
    }
}

/// Against a slow twin: a pattern is tried in every way.
#[test]
fn patterns_fit_what_trying_everything_fits() {
    fn slow(pattern: &[Piece<char>], text: &[char]) -> bool {
        match pattern {
            [] => text.is_empty(),
            [Piece::This(wanted), rest @ ..] => text.first() == Some(wanted) && slow(rest, &text[1..]),
            [Piece::One, rest @ ..] => !text.is_empty() && slow(rest, &text[1..]),
            [Piece::Any, rest @ ..] => (0..=text.len()).any(|taken| slow(rest, &text[taken..])),
        }
    }
    let digits = |mut number: usize, base: usize, length: usize| {
        let digit = move |_| {
            let digit = number % base;
            number /= base;
            digit
        };
        (0..length).map(digit).collect::<Vec<_>>()
    };
    let mut fitting = 0;
    for (length, code) in (0..=4).flat_map(|length| (0..4_usize.pow(length)).map(move |code| (length, code)))
    {
        let pattern: Vec<Piece<char>> = digits(code, 4, length as usize)
            .into_iter()
            .map(|digit| match digit {
                0 => Piece::This('a'),
                1 => Piece::This('b'),
                2 => Piece::One,
                _ => Piece::Any,
            })
            .collect();
        for (length, code) in
            (0..=5).flat_map(|length| (0..2_usize.pow(length)).map(move |code| (length, code)))
        {
            let text: Vec<char> =
                digits(code, 2, length as usize).into_iter().map(|digit| ['a', 'b'][digit]).collect();
            let fast = fits(&pattern, &text, |wanted, found| wanted == found);
            assert_eq!(fast, slow(&pattern, &text), "{code} {text:?}");
            fitting += usize::from(fast);
        }
    }
    assert!(fitting > 1000, "{fitting}");
}
