//! Numbers as text: their grammar, their digits, and whether a float holds them exactly.

/// The parts of a number's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parts<'a> {
    /// Whether a minus stands before it.
    pub negative: bool,
    /// The digits before the point; may be empty when there are some after it.
    pub whole: &'a [u8],
    /// The digits after the point.
    pub fraction: &'a [u8],
    /// The power of ten after `e`.
    pub exponent: Option<i32>,
}

/// Takes a number apart: `[+-]digits[.digits][e[+-]digits]`, with a digit before or after the point.
pub(super) fn parts(text: &[u8]) -> Option<Parts<'_>> {
    let (negative, rest) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (whole, rest) = rest.split_at(digits(rest));
    let (fraction, rest) = match rest {
        [b'.', rest @ ..] => rest.split_at(digits(rest)),
        rest => (&[][..], rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let exponent = match rest {
        [] => None,
        [b'e' | b'E', exponent @ ..] => {
            let unsigned = exponent.strip_prefix(b"-").or(exponent.strip_prefix(b"+")).unwrap_or(exponent);
            if unsigned.is_empty() || digits(unsigned) != unsigned.len() {
                return None;
            }
            // More than nine digits of an exponent are beyond any type here; the clamp keeps that.
            let size: i32 = if unsigned.len() > 9 { i32::MAX / 2 } else { std::str::from_utf8(unsigned).ok()?.parse().ok()? };
            Some(if exponent[0] == b'-' { -size } else { size })
        }
        _ => return None,
    };
    Some(Parts { negative, whole, fraction, exponent })
}

/// The plain form of a number without exponent, as PostgreSQL's numeric prints it: no plus, no superfluous leading zero, no minus before
/// zero. `None` when it is no number, or has more digits than PostgreSQL keeps (131,072 before the point, 16,383 after it).
pub(super) fn plain(text: &str) -> Option<String> {
    let parts = parts(text.as_bytes())?;
    let exponent = parts.exponent.unwrap_or(0);
    if exponent.unsigned_abs() > 140_000 {
        return None;
    }
    let mut digits: Vec<u8> = [parts.whole, parts.fraction].concat();
    let mut point = parts.whole.len() as i64 + i64::from(exponent);
    if point < 0 {
        digits.splice(0..0, std::iter::repeat_n(b'0', point.unsigned_abs() as usize));
        point = 0;
    }
    let point = point as usize;
    if point > digits.len() {
        digits.resize(point, b'0');
    }
    let (whole, fraction) = digits.split_at(point);
    let zeros = whole.iter().take_while(|digit| **digit == b'0').count();
    let whole = &whole[zeros..];
    if whole.len() > 131_072 || fraction.len() > 16_383 {
        return None;
    }
    let zero = whole.is_empty() && fraction.iter().all(|digit| *digit == b'0');
    let mut plain = String::with_capacity(digits.len() + 3);
    if parts.negative && !zero {
        plain.push('-');
    }
    plain.push_str(if whole.is_empty() { "0" } else { std::str::from_utf8(whole).ok()? });
    if !fraction.is_empty() {
        plain.push('.');
        plain.push_str(std::str::from_utf8(fraction).ok()?);
    }
    Some(plain)
}

/// [`scaled`] for the common case: at most 18 digits, none of them beyond the scale. `None` is "look closer".
pub(super) fn short_scaled(text: &str, precision: u8, scale: i8) -> Option<i128> {
    let (negative, digits) = match text.as_bytes() {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || digits.len() > 18 || digits.len() > usize::from(precision) || scale < 0 {
        return None;
    }
    let mut value: i64 = 0;
    let mut after_point = None;
    for byte in digits {
        match byte {
            b'0'..=b'9' => value = value * 10 + i64::from(byte - b'0'),
            b'.' if after_point.is_none() => {
                after_point = Some(0);
                continue;
            }
            _ => return None,
        }
        after_point = after_point.map(|count| count + 1);
    }
    if !digits[0].is_ascii_digit() || after_point == Some(0) {
        return None;
    }
    let missing = u32::try_from(i32::from(scale) - after_point.unwrap_or(0)).ok()?;
    // With the zeros that the scale adds, the digits must still fit.
    if digits.len() + missing as usize > usize::from(precision) {
        return None;
    }
    let value = i128::from(value) * 10_i128.pow(missing);
    Some(if negative { -value } else { value })
}

/// The value times ten to the scale, when it has no digit beyond the scale and no more than `precision` digits.
pub(super) fn scaled(parts: &Parts<'_>, precision: u8, scale: i8) -> Result<i128, &'static str> {
    let scale = scale.max(0) as usize;
    let (fraction, beyond) = parts.fraction.split_at(parts.fraction.len().min(scale));
    if beyond.iter().any(|digit| *digit != b'0') {
        return Err("has more digits after the point");
    }
    let mut value: i128 = 0;
    let mut count = 0;
    let zeros = std::iter::repeat_n(&b'0', scale - fraction.len());
    for digit in parts.whole.iter().chain(fraction).chain(zeros) {
        if count > 0 || *digit != b'0' {
            count += 1;
            if count > precision {
                return Err("has more digits");
            }
            value = value * 10 + i128::from(digit - b'0');
        }
    }
    Ok(if parts.negative { -value } else { value })
}

/// Whether the 64-bit float nearest to a decimal number prints as the same number: nothing is lost by reading it as a float.
pub(crate) fn float_keeps(text: &str, value: f64) -> bool {
    // The common case without taking the text apart: 15 bytes hold no more than 15 digits.
    if text.len() <= 15 && value != 0.0 && !text.contains(['e', 'E']) {
        return true;
    }
    let Some(parts) = parts(text.as_bytes()) else { return true };
    let (digits, power) = significant(&parts);
    // Any 15 digits survive in the range of normal floats.
    if digits.len() <= 15 && (value == 0.0 || (1e-300..1e300).contains(&value.abs())) {
        return value != 0.0 || digits.is_empty();
    }
    self::parts(format!("{value:e}").as_bytes()).is_some_and(|printed| significant(&printed) == (digits, power))
}

/// The same of 32 bits.
pub(crate) fn float32_keeps(text: &str, value: f32) -> bool {
    let Some(parts) = parts(text.as_bytes()) else { return true };
    self::parts(format!("{value:e}").as_bytes()).is_some_and(|printed| significant(&printed) == significant(&parts))
}

/// A number that only overflows to infinity is not the number that was written.
pub(crate) fn finite_as_written(text: &str, finite: bool) -> bool {
    finite || !text.bytes().any(|byte| byte.is_ascii_digit())
}

/// The digits without zeros at either end, and the power of ten of the first one.
fn significant(parts: &Parts<'_>) -> (Vec<u8>, i64) {
    let mut digits: Vec<u8> = [parts.whole, parts.fraction].concat();
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    let power = parts.whole.len() as i64 - zeros as i64 + i64::from(parts.exponent.unwrap_or(0));
    digits.drain(..zeros);
    digits.truncate(digits.iter().rposition(|digit| *digit != b'0').map_or(0, |last| last + 1));
    let power = if digits.is_empty() { 0 } else { power };
    (digits, power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_forms() {
        for (text, expected) in [
            ("12.50", Some("12.50")),
            ("-0.0", Some("0.0")),
            ("+007", Some("7")),
            (".5", Some("0.5")),
            ("5.", Some("5")),
            ("1.25e3", Some("1250")),
            ("1.25e-3", Some("0.00125")),
            ("-12e-1", Some("-1.2")),
            ("1e200000", None),
            ("", None),
            (".", None),
            ("1e", None),
            ("0x1", None),
        ] {
            assert_eq!(plain(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn decimals_are_exact_or_refused() {
        let scaled = |text: &str, precision, scale| {
            let found = scaled(&parts(text.as_bytes()).expect("a number"), precision, scale);
            assert!(short_scaled(text, precision, scale).is_none_or(|short| Ok(short) == found), "{text}");
            found
        };
        assert_eq!(short_scaled("-12.5", 18, 3), Some(-12_500));
        for text in ["", "-", ".5", "5.", "1.2.3", "1e3", "+1", "1234567890123456789"] {
            assert_eq!(short_scaled(text, 38, 9), None, "{text}");
        }
        assert_eq!(scaled("12.5", 5, 2), Ok(1250));
        assert_eq!(scaled("-12.500", 5, 2), Ok(-1250));
        assert_eq!(scaled("000012.50", 4, 2), Ok(1250));
        assert!(scaled("12.505", 5, 2).is_err());
        assert!(scaled("123.45", 4, 2).is_err());
        assert_eq!(scaled(&"9".repeat(38), 38, 0), Ok(99_999_999_999_999_999_999_999_999_999_999_999_999));
    }

    #[test]
    fn short_floats_keep_less() {
        for text in ["0", "0.1", "-1.5e-7", "16777216", "3.4028235e38", "NaN"] {
            assert!(float32_keeps(text, text.parse().expect("a float")), "{text}");
        }
        for text in ["16777217", "0.123456789", "1e-60"] {
            assert!(!float32_keeps(text, text.parse().expect("a float")), "{text}");
        }
    }

    #[test]
    fn floats_keep_what_they_can() {
        for text in ["0", "0.1", "1e300", "0.30000000000000004", "123456789012345", "-1.5e-7", "5e-324", "1.7976931348623157e308"] {
            assert!(float_keeps(text, text.parse().expect("a float")), "{text}");
        }
        for text in ["0.1000000000000000055", "12345678901234567890", "9007199254740993", "1e-400"] {
            assert!(!float_keeps(text, text.parse().expect("a float")), "{text}");
        }
    }
}
