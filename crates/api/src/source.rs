//! Source text and places in it: what every diagnostic points at.
//!
//! A place is a pair of byte offsets. It is meaningful only together with the [`Source`] it was read from; a
//! [`crate::Document`] carries its source, so its places are never mixed up with those of another file.

use std::sync::Arc;

/// A text that was read, with the name a person knows it by (a path, or `<stdin>`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// The name.
    pub name: Arc<str>,
    /// The whole text.
    pub text: Arc<str>,
}

impl Source {
    /// A source of `text` called `name`.
    pub fn new(name: impl Into<Arc<str>>, text: impl Into<Arc<str>>) -> Self {
        Source { name: name.into(), text: text.into() }
    }

    /// Line and column of byte `offset`, both counted from 1; columns count characters.
    pub fn position(&self, offset: u32) -> (usize, usize) {
        let mut end = (offset as usize).min(self.text.len());
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        let before = &self.text[..end];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.bytes().filter(|byte| *byte == b'\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    /// The text at `span`; empty when the span does not lie within.
    pub fn slice(&self, span: Span) -> &str {
        self.text.get(span.start as usize..span.end as usize).unwrap_or("")
    }
}

/// A place: byte offsets, `end` exclusive.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Span {
    /// The first byte.
    pub start: u32,
    /// The byte after the last one.
    pub end: u32,
}

impl Span {
    /// The bytes `start..end`. Texts beyond 4 GiB are refused before spans are made.
    pub const fn new(start: u32, end: u32) -> Self {
        Span { start, end }
    }

    /// The place from the start of `self` to the end of `other`.
    pub fn to(self, other: Span) -> Span {
        Span { start: self.start.min(other.start), end: self.end.max(other.end) }
    }
}

/// A value and the place where it was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// The place.
    pub span: Span,
}

impl<T> At<T> {
    /// `value`, written at `span`.
    pub const fn new(value: T, span: Span) -> Self {
        At { value, span }
    }

    /// The value changed by `change`, at the same place.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> At<U> {
        At { value: change(self.value), span: self.span }
    }
}

impl<T> std::ops::Deref for At<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_and_characters() {
        let source = Source::new("t", "a\nbä: c\n");
        assert_eq!(source.position(0), (1, 1));
        assert_eq!(source.position(2), (2, 1));
        assert_eq!(source.position(5), (2, 3));
        assert_eq!(source.position(4), (2, 2), "inside a character counts as its start");
        assert_eq!(source.position(900), (3, 1));
        assert_eq!(source.slice(Span::new(7, 8)), "c");
        assert_eq!(source.slice(Span::new(7, 99)), "");
    }
}
