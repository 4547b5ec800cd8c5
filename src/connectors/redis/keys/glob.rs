//! Patterns of keys, as Redis reads them: `*`, `?`, `[abc]`, `[^a-c]`, and `\` before a character that stands for itself. Bytes, not
//! characters. The same as `stringmatchlen` of the server, so that it makes no difference who matches.

/// Whether a pattern matches the whole of a key.
pub(super) fn matches(mut pattern: &[u8], mut key: &[u8]) -> bool {
    // Where to go on when what follows the last star does not match: one byte of the key further.
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        let step = match pattern.first() {
            Some(b'*') => {
                while pattern.first() == Some(&b'*') {
                    pattern = &pattern[1..];
                }
                retry = Some((pattern, key));
                continue;
            }
            Some(_) if !key.is_empty() => one(pattern, key[0]),
            Some(_) => None,
            None if key.is_empty() => return true,
            None => None,
        };
        match (step, retry) {
            (Some(rest), _) => (pattern, key) = (rest, &key[1..]),
            (None, Some((after, from))) if !from.is_empty() => {
                retry = Some((after, &from[1..]));
                (pattern, key) = (after, &from[1..]);
            }
            _ => return false,
        }
    }
}

/// What follows the pattern's first element when that matches a byte.
fn one(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    match pattern {
        [b'?', rest @ ..] => Some(rest),
        [b'[', rest @ ..] => {
            let (hit, rest) = class(rest, byte);
            hit.then_some(rest)
        }
        [b'\\', escaped, rest @ ..] => (*escaped == byte).then_some(rest),
        [literal, rest @ ..] => (*literal == byte).then_some(rest),
        [] => None,
    }
}

/// Whether a byte is in the class that begins here, and what follows the class. One that is not closed ends with the pattern.
fn class(mut pattern: &[u8], byte: u8) -> (bool, &[u8]) {
    let negated = pattern.first() == Some(&b'^');
    if negated {
        pattern = &pattern[1..];
    }
    let mut hit = false;
    loop {
        match pattern {
            [] => return (hit != negated, pattern),
            [b']', rest @ ..] => return (hit != negated, rest),
            [b'\\', escaped, rest @ ..] => {
                hit |= *escaped == byte;
                pattern = rest;
            }
            [first, b'-', last, rest @ ..] => {
                hit |= (*first.min(last)..=*first.max(last)).contains(&byte);
                pattern = rest;
            }
            [single, rest @ ..] => {
                hit |= *single == byte;
                pattern = rest;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_as_the_server_does() {
        let check =
            |pattern: &str, key: &str, expected: bool| assert_eq!(matches(pattern.as_bytes(), key.as_bytes()), expected, "{pattern} {key}");
        for (pattern, key) in [("*", ""), ("*", "a"), ("user:*", "user:"), ("*:*:x", "a:b:c:x"), ("h?llo", "hello"), ("h[ae]llo", "hallo")]
        {
            check(pattern, key, true);
        }
        for (pattern, key) in
            [("h[^e]llo", "hallo"), ("h[a-b]llo", "hbllo"), ("h[b-a]llo", "hallo"), ("a\\*b", "a*b"), ("[\\]]", "]"), ("", "")]
        {
            check(pattern, key, true);
        }
        for (pattern, key) in
            [("", "a"), ("a", ""), ("?", ""), ("user:*", "users:1"), ("h[^e]llo", "hello"), ("a\\*b", "axb"), ("*a", "ab"), ("[abc", "d")]
        {
            check(pattern, key, false);
        }
        assert!(matches(b"\xff*\x00", b"\xffab\x00"));
        assert!(!matches(&b"*a".repeat(50), &b"a".repeat(49)), "many stars end soon");
    }
}
