//! Where a template's tags stand, and the words in them: enough to refuse what the language leaves out before anything is rendered, and to
//! point at it. Whether a tag is well formed is minijinja's to say.

use std::ops::Range;

/// A piece of a template. Ranges are bytes of the template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Literal text.
    Text(Range<usize>),
    /// `{{ … }}`, delimiters included.
    Expression(Range<usize>),
    /// `{% … %}`, delimiters included.
    Statement(Range<usize>),
}

/// Cuts a template into its pieces, in order; comments are left out. An unterminated tag ends the list.
pub(super) fn pieces(text: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while let Some(start) = next_tag(text, at) {
        if start > at {
            pieces.push(Piece::Text(at..start));
        }
        let Some(end) = tag_end(text, start) else { return pieces };
        match text.as_bytes()[start + 1] {
            b'{' => pieces.push(Piece::Expression(start..end)),
            b'%' => {
                pieces.push(Piece::Statement(start..end));
                if words(text, start..end).next().is_some_and(|word| word.text == "raw") {
                    let Some(raw_end) = end_of_raw(text, end) else { return pieces };
                    pieces.push(Piece::Text(end..raw_end));
                    at = raw_end;
                    continue;
                }
            }
            _ => {}
        }
        at = end;
    }
    if at < text.len() {
        pieces.push(Piece::Text(at..text.len()));
    }
    pieces
}

fn next_tag(text: &str, from: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    (from..bytes.len().saturating_sub(1)).find(|&at| bytes[at] == b'{' && matches!(bytes[at + 1], b'{' | b'%' | b'#'))
}

fn tag_end(text: &str, start: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let close: &[u8] = match bytes[start + 1] {
        b'{' => b"}}",
        b'%' => b"%}",
        _ => return text[start..].find("#}").map(|found| start + found + 2),
    };
    let mut at = start + 2;
    let mut braces = 0_usize;
    while at < bytes.len() {
        match bytes[at] {
            b'\'' | b'"' => at = string_end(bytes, at)?,
            // A `}` of a mapping literal, as in `{{ {'a': {}} }}`, closes the literal first.
            b'}' if braces > 0 => {
                braces -= 1;
                at += 1;
            }
            _ if bytes[at..].starts_with(close) => return Some(at + 2),
            b'{' => {
                braces += 1;
                at += 1;
            }
            _ => at += 1,
        }
    }
    None
}

fn string_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            byte if byte == bytes[start] => return Some(at + 1),
            _ => at += 1,
        }
    }
    None
}

fn end_of_raw(text: &str, from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        let start = at + text[at..].find("{%")?;
        let end = start + text[start..].find("%}")? + 2;
        if words(text, start..end).next().is_some_and(|word| word.text == "endraw") {
            return Some(start);
        }
        at = start + 2;
    }
}

/// A word in a tag, and the last character before it that is no blank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word<'a> {
    /// The word.
    pub text: &'a str,
    /// Where it stands in the template.
    pub span: Range<usize>,
    /// What stands before it: `|` before a filter, `.` before an attribute. `\0` at the start of the tag.
    pub before: char,
}

/// The words of the tag at `tag`, those in string literals left out.
pub(super) fn words(text: &str, tag: Range<usize>) -> impl Iterator<Item = Word<'_>> {
    let bytes = text.as_bytes();
    let end = tag.end;
    let mut at = tag.start + 2;
    let mut before = '\0';
    std::iter::from_fn(move || {
        while at < end {
            let c = text[at..].chars().next()?;
            if c == '\'' || c == '"' {
                at = string_end(bytes, at).unwrap_or(end);
                before = c;
            } else if c.is_alphabetic() || c == '_' {
                let rest = &text[at..end];
                let length = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
                let word = Word { text: &rest[..length], span: at..at + length, before };
                at += length;
                before = 'a';
                return Some(word);
            } else {
                // The `-` and `+` of whitespace control stand where a tag begins.
                if !(c.is_whitespace() || (before == '\0' && matches!(c, '-' | '+'))) {
                    before = c;
                }
                at += c.len_utf8();
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        let show = |piece: &Piece| match piece {
            Piece::Text(range) => format!("text {}", &text[range.clone()]),
            Piece::Expression(range) => format!("expression {}", &text[range.clone()]),
            Piece::Statement(range) => format!("statement {}", &text[range.clone()]),
        };
        pieces(text).iter().map(show).collect()
    }

    #[test]
    fn tags_are_found_where_minijinja_finds_them() {
        assert_eq!(shown("a {{ '}}' }} b"), ["text a ", "expression {{ '}}' }}", "text  b"]);
        assert_eq!(shown("{# {{ x }} #}{% if a %}b"), ["statement {% if a %}", "text b"]);
        assert_eq!(shown("{% raw %}{{ x }}{% endraw %}"), ["statement {% raw %}", "text {{ x }}", "statement {% endraw %}"]);
        assert_eq!(shown("{{ {'a': {}} }}é"), ["expression {{ {'a': {}} }}", "text é"]);
        assert_eq!(shown("a {{ b"), ["text a "]);
        assert_eq!(shown("{"), ["text {"]);
    }

    #[test]
    fn words_know_what_stands_before_them() {
        let text = "{{- params.x | default('no | upper') }}";
        let found: Vec<(&str, char)> = words(text, 0..text.len()).map(|word| (word.text, word.before)).collect();
        assert_eq!(found, [("params", '\0'), ("x", '.'), ("default", '|')]);
    }
}
