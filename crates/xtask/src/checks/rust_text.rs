//! Rust source without its comments, strings and characters, so that words in them are not taken for code.
//!
//! Not a parser: it knows line and nested block comments, plain, raw and byte strings, and tells a character
//! from a lifetime. Line breaks stay, so that line numbers stay.

/// `source` with everything that is not code replaced by spaces.
pub fn code_of(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut code: Vec<u8> = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = end_of_text(bytes, at);
        if end > at {
            code.extend(bytes[at..end].iter().map(|byte| if *byte == b'\n' { b'\n' } else { b' ' }));
            at = end;
        } else {
            code.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8_lossy(&code).into_owned()
}

/// The end of the comment, string or character that starts at `at`; `at` itself when code starts there.
fn end_of_text(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    if rest.starts_with(b"//") {
        return at + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    }
    if rest.starts_with(b"/*") {
        return at + block_comment(rest);
    }
    let follows_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    if (rest[0] == b'r' || rest.starts_with(b"br")) && !follows_word {
        let prefix = if rest[0] == b'b' { 2 } else { 1 };
        let hashes = rest[prefix..].iter().take_while(|byte| **byte == b'#').count();
        if rest.get(prefix + hashes) == Some(&b'"') {
            let mut close = vec![b'"'];
            close.extend(std::iter::repeat_n(b'#', hashes));
            let body = prefix + hashes + 1;
            let length = rest[body..].windows(close.len()).position(|window| window == close);
            return length.map_or(bytes.len(), |length| at + body + length + close.len());
        }
    }
    match rest[0] {
        b'"' => at + quoted(rest, b'"'),
        // A character is 'x' or '\...'; anything else after a quote is a lifetime.
        b'\'' if rest.get(1) == Some(&b'\\') => at + quoted(rest, b'\''),
        b'\'' => {
            let width = std::str::from_utf8(&rest[1..rest.len().min(5)])
                .map_or_else(|error| error.valid_up_to(), str::len)
                .min(4);
            let first = std::str::from_utf8(&rest[1..1 + width]).ok().and_then(|text| text.chars().next());
            match first {
                Some(c) if rest.get(1 + c.len_utf8()) == Some(&b'\'') => at + c.len_utf8() + 2,
                _ => at,
            }
        }
        _ => at,
    }
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// Length of the text that starts with `quote` and ends with the next one that is not escaped.
fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::code_of;

    #[test]
    fn text_is_blanked_and_code_stays() {
        let hidden = [
            "// loop",
            "/* loop /* loop */ loop */",
            "\"loop \\\" loop\"",
            "r#\"loop \" loop\"#",
            "b\"loop\"",
        ];
        for text in hidden {
            assert!(!code_of(&format!("let a = {text}\n;")).contains("loop"), "{text}");
        }
        let source = "fn f<'a>(c: &'a str) { let q = '\"'; let e = '\\''; loop { g(c) } } // '\n\"x\ny\"";
        let code = code_of(source);
        assert!(code.contains("loop { g(c) } }"));
        assert!(code.contains("fn f<'a>(c: &'a str)"));
        assert_eq!(code.lines().count(), source.lines().count());
        assert_eq!(code.len(), source.len());
    }
}
