//! Writes JSON strings, and finds the members of one JSON object and the items of one array as they are written. `serde_json` says whether the
//! text is JSON; this only has to find where each value ends, so that numbers keep all of their digits and nested values their text.

use std::borrow::Cow;

use serde::de::IgnoredAny;

/// One JSON value, as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(&'a str),
    /// A number's text.
    Number(&'a str),
    /// A string with its quotes.
    String(&'a str),
    /// An object or array.
    Nested(&'a str),
}

impl<'a> Value<'a> {
    fn of(text: &'a str) -> Self {
        match text.as_bytes().first() {
            Some(b'n') => Self::Null,
            Some(b't' | b'f') => Self::Bool(text),
            Some(b'"') => Self::String(text),
            Some(b'{' | b'[') => Self::Nested(text),
            _ => Self::Number(text),
        }
    }

    /// The value's text as written.
    pub(crate) fn raw(self) -> &'a str {
        match self {
            Self::Null => "null",
            Self::Bool(text) | Self::Number(text) | Self::String(text) | Self::Nested(text) => text,
        }
    }
}

/// The members of an object. The error says why the text is none.
pub(crate) fn members<'a>(text: &'a str, member: impl FnMut(Cow<'a, str>, Value<'a>) -> Result<(), String>) -> Result<(), String> {
    serde_json::from_str::<IgnoredAny>(text).map_err(|error| format!("the line is not JSON: {}", without_line(&error)))?;
    members_of(text, member)
}

/// The members of an object in a text that must be JSON.
pub(crate) fn members_of<'a>(text: &'a str, mut member: impl FnMut(Cow<'a, str>, Value<'a>) -> Result<(), String>) -> Result<(), String> {
    let bytes = text.as_bytes();
    let mut at = space(bytes, 0);
    if bytes.get(at) != Some(&b'{') {
        return Err("the line is not a JSON object".to_owned());
    }
    at = space(bytes, at + 1);
    while bytes.get(at).is_some_and(|byte| *byte != b'}') {
        let end = value_end(bytes, at);
        let key = string(&text[at..end]).ok_or("the line has a key with a broken escape")?;
        // The colon, after which there is a value, since the text is JSON.
        at = space(bytes, space(bytes, end) + 1);
        let end = value_end(bytes, at);
        member(key, Value::of(&text[at..end]))?;
        at = next_item(bytes, end);
    }
    Ok(())
}

/// The value below a JSON pointer in a JSON text: `None` when nothing is there. The text must be JSON.
pub(crate) fn at_pointer<'a>(text: &'a str, pointer: &str) -> Option<Value<'a>> {
    let mut value = Value::of(text.trim());
    for token in pointer.split('/').skip(1) {
        let token = token.replace("~1", "/").replace("~0", "~");
        let inner = value.raw();
        let mut found = None;
        if inner.starts_with('{') {
            let _ = members_of(inner, |key, value| {
                if key == token {
                    found = Some(value);
                }
                Ok(())
            });
        } else if inner.starts_with('[')
            && let Ok(wanted) = token.parse::<usize>()
        {
            found = items(inner).nth(wanted);
        }
        value = found?;
    }
    Some(value)
}

/// The items of an array, as written. The text must be a JSON array.
pub(crate) fn items(text: &str) -> impl Iterator<Item = Value<'_>> {
    let bytes = text.as_bytes();
    let mut at = space(bytes, space(bytes, 0) + 1);
    std::iter::from_fn(move || {
        if bytes.get(at).is_none_or(|byte| *byte == b']') {
            return None;
        }
        let end = value_end(bytes, at);
        let value = Value::of(&text[at..end]);
        at = next_item(bytes, end);
        Some(value)
    })
}

/// Whether a text is JSON; the error says why not, and where.
pub(crate) fn check(text: &str) -> Result<(), String> {
    serde_json::from_str::<IgnoredAny>(text).map(drop).map_err(|error| error.to_string())
}

/// The items of a JSON array: `None` for null, a string's content, anything else as written. `None` when the text is no JSON array.
pub(crate) fn array_items(text: &str) -> Option<Vec<Option<Cow<'_, str>>>> {
    serde_json::from_str::<IgnoredAny>(text).ok()?;
    if !text.trim_start().starts_with('[') {
        return None;
    }
    let item = |value| {
        Some(match value {
            Value::Null => None,
            Value::String(text) => Some(string(text)?),
            other => Some(Cow::Borrowed(other.raw())),
        })
    };
    items(text).map(item).collect()
}

/// The content of a string with its quotes; `None` when an escape names no character.
pub(crate) fn string(text: &str) -> Option<Cow<'_, str>> {
    if text.contains('\\') {
        return serde_json::from_str(text).ok().map(Cow::Owned);
    }
    Some(Cow::Borrowed(text.strip_prefix('"')?.strip_suffix('"')?))
}

/// Appends a JSON string.
pub(crate) fn json_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut start = 0;
    for (at, byte) in bytes.iter().enumerate() {
        if *byte >= b' ' && *byte != b'"' && *byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[start..at]);
        start = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                out.extend_from_slice(b"\\u00");
                super::print::hex(&[*byte], out);
            }
        }
    }
    out.extend_from_slice(&bytes[start..]);
    out.push(b'"');
}

fn space(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// After a value: the next one behind its comma, or the closing bracket.
fn next_item(bytes: &[u8], end: usize) -> usize {
    let at = space(bytes, end);
    if bytes.get(at) == Some(&b',') { space(bytes, at + 1) } else { at }
}

/// Where the value that starts at `at` ends. The text must be JSON.
fn value_end(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0_usize;
    loop {
        match bytes.get(at) {
            None => return at,
            Some(b'"') => {
                at += 1;
                while bytes.get(at).is_some_and(|byte| *byte != b'"') {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            Some(b'{' | b'[') => {
                depth += 1;
                at += 1;
            }
            Some(b'}' | b']') => {
                depth -= 1;
                at += 1;
            }
            Some(b' ' | b'\t' | b'\n' | b'\r' | b',' | b':') => at += 1,
            Some(_) => {
                while !matches!(bytes.get(at), None | Some(b' ' | b'\t' | b'\n' | b'\r' | b',' | b':' | b']' | b'}')) {
                    at += 1;
                }
            }
        }
        if depth == 0 {
            return at;
        }
    }
}

/// A serde_json message without its own line number, which is always 1.
fn without_line(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.split_once(" at line ") {
        Some((what, _)) => format!("{what} at column {}", error.column()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&[(&str, &str)], ()>) {
        let mut found = Vec::new();
        let result = members(text, |key, value| {
            found.push((key.into_owned(), value.raw().to_owned()));
            Ok(())
        });
        match expected {
            Ok(expected) => {
                assert_eq!(result, Ok(()), "{text}");
                let expected: Vec<(String, String)> = expected.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
                assert_eq!(found, expected, "{text}");
            }
            Err(()) => assert!(result.is_err(), "{text}"),
        }
    }

    #[test]
    fn members_are_found_as_written() {
        check("{}", Ok(&[]));
        check(
            r#" { "a" : 1.50 , "b":"x\"}," , "c" : {"d":[1, "]"]} } "#,
            Ok(&[("a", "1.50"), ("b", r#""x\"},""#), ("c", r#"{"d":[1, "]"]}"#)]),
        );
        check(
            r#"{"\u00e9":null,"":true,"n":-12345678901234567890.123e-7}"#,
            Ok(&[("é", "null"), ("", "true"), ("n", "-12345678901234567890.123e-7")]),
        );
        for text in ["", "[1]", "1", "{", r#"{"a":1,}"#, r#"{"a" 1}"#, "{} {}", r#"{"\ud800":1}"#] {
            check(text, Err(()));
        }
        let items = array_items(r#"[1, null, "a\nb", [2], {"x":"]"}]"#).expect("an array");
        let items: Vec<Option<&str>> = items.iter().map(Option::as_deref).collect();
        assert_eq!(items, [Some("1"), None, Some("a\nb"), Some("[2]"), Some(r#"{"x":"]"}"#)]);
        assert_eq!(array_items("{}"), None);
    }
}
