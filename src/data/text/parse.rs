//! Text → dates, times, intervals and bytes. `None` is "no such value"; nothing is rounded.

use arrow::datatypes::IntervalMonthDayNano;

use super::calendar::{DAY_MICROS, days};

/// Two digits.
fn two(text: &[u8]) -> Option<u32> {
    match text {
        [a @ b'0'..=b'9', b @ b'0'..=b'9'] => Some(u32::from(a - b'0') * 10 + u32::from(b - b'0')),
        _ => None,
    }
}

/// `infinity` and `-infinity`, in any case.
fn infinite(text: &[u8]) -> Option<bool> {
    if text.eq_ignore_ascii_case(b"infinity") {
        Some(true)
    } else if text.eq_ignore_ascii_case(b"-infinity") {
        Some(false)
    } else {
        None
    }
}

/// Splits `[+-]YYYY-MM-DD` off the front: days since 1970, and what follows. The year has four digits, or up to seven after a
/// sign, which is as far as a date reaches.
fn leading_date(text: &[u8]) -> Option<(i64, &[u8])> {
    let (sign, unsigned) = match text {
        [b'-', rest @ ..] => (-1, rest),
        [b'+', rest @ ..] => (1, rest),
        rest => (0, rest),
    };
    let length = unsigned.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if length != 4 && (sign == 0 || !(4..=7).contains(&length)) {
        return None;
    }
    let year = unsigned[..length].iter().fold(0, |year, digit| year * 10 + i64::from(digit - b'0'));
    let rest = &unsigned[length..];
    if rest.len() < 6 || rest[0] != b'-' || rest[3] != b'-' {
        return None;
    }
    let day = days(if sign < 0 { -year } else { year }, two(&rest[1..3])?, two(&rest[4..6])?)?;
    Some((day, &rest[6..]))
}

/// `YYYY-MM-DD`, `±YYYYYY-MM-DD`, `infinity`. Days since 1970-01-01; the ends of the range are the infinities.
pub(crate) fn date(text: &[u8]) -> Option<i32> {
    match leading_date(text) {
        // The two ends of the range mean the infinities.
        Some((days, [])) => i32::try_from(days).ok().filter(|days| *days != i32::MAX && *days != i32::MIN),
        Some(_) => None,
        None => infinite(text).map(|later| if later { i32::MAX } else { i32::MIN }),
    }
}

/// Splits `HH:MM[:SS[.fraction]]` off the front: microseconds, and what follows. Digits beyond the microsecond must be zeros.
fn leading_time(text: &[u8]) -> Option<(i64, &[u8])> {
    if text.len() < 5 || text[2] != b':' {
        return None;
    }
    let (hour, minute) = (two(&text[..2])?, two(&text[3..5])?);
    let mut rest = &text[5..];
    let (mut second, mut micros) = (0, 0);
    if let [b':', a, b, after @ ..] = rest {
        second = two(&[*a, *b])?;
        rest = after;
        if let [b'.', after @ ..] = rest {
            let length = after.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let (fraction, after) = after.split_at(length);
            if fraction.is_empty() || fraction.iter().skip(6).any(|digit| *digit != b'0') {
                return None;
            }
            for place in 0..6 {
                micros = micros * 10 + fraction.get(place).map_or(0, |digit| i64::from(digit - b'0'));
            }
            rest = after;
        }
    }
    let seconds = i64::from(hour * 3600 + minute * 60 + second);
    let micros = seconds * 1_000_000 + micros;
    (minute < 60 && second < 60 && micros <= DAY_MICROS).then_some((micros, rest))
}

/// `HH:MM[:SS[.ffffff]]`, `24:00:00` included. Microseconds.
pub(crate) fn time(text: &[u8]) -> Option<i64> {
    leading_time(text).filter(|(_, rest)| rest.is_empty()).map(|(micros, _)| micros)
}

/// Whether a timestamp's text named a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zone {
    /// It did, and the value is in UTC.
    Given,
    /// It did not.
    Missing,
    /// It is infinite, where a zone means nothing.
    Any,
}

/// Date and time with `T` or a space between them, then an optional zone: `Z`, `UTC`, `±HH[[:]MM[:SS]]`. Microseconds since 1970.
pub(crate) fn timestamp(text: &[u8]) -> Option<(i64, Zone)> {
    let Some((days, rest)) = leading_date(text) else {
        return infinite(text).map(|later| (if later { i64::MAX } else { i64::MIN }, Zone::Any));
    };
    let [b'T' | b't' | b' ', rest @ ..] = rest else { return None };
    let (micros, rest) = leading_time(rest)?;
    if micros == DAY_MICROS {
        return None;
    }
    let rest = rest.strip_prefix(b" ").unwrap_or(rest);
    let (offset, zone) = match rest {
        [] => (0, Zone::Missing),
        b"Z" | b"z" | b"UTC" => (0, Zone::Given),
        [sign @ (b'+' | b'-'), rest @ ..] => {
            let (hours, minutes, seconds) = match rest {
                [_, _] => (two(rest)?, 0, 0),
                [_, _, b':', m, n] | [_, _, m, n] => (two(&rest[..2])?, two(&[*m, *n])?, 0),
                [_, _, b':', m, n, b':', s, t] => (two(&rest[..2])?, two(&[*m, *n])?, two(&[*s, *t])?),
                _ => return None,
            };
            if hours > 18 || minutes > 59 || seconds > 59 {
                return None;
            }
            let offset = i64::from(hours * 3600 + minutes * 60 + seconds) * 1_000_000;
            (if *sign == b'+' { offset } else { -offset }, Zone::Given)
        }
        _ => return None,
    };
    let value = days.checked_mul(DAY_MICROS)?.checked_add(micros)?.checked_sub(offset)?;
    (value != i64::MAX && value != i64::MIN).then_some((value, zone))
}

/// ISO 8601 durations, each number with its own sign: `P1Y2M3DT4H5M6.789S`. Years and weeks become months and days; hours, minutes and
/// seconds become nanoseconds.
pub(crate) fn interval(text: &str) -> Option<IntervalMonthDayNano> {
    let mut rest = text.strip_prefix('P')?;
    let (mut months, mut days, mut nanos) = (0_i64, 0_i64, 0_i64);
    let mut in_time = false;
    if rest.is_empty() || rest.ends_with('T') {
        return None;
    }
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('T') {
            if in_time {
                return None;
            }
            in_time = true;
            rest = after;
        }
        let unit_at = rest.find(|c: char| c.is_ascii_alphabetic())?;
        let (number, unit) = (&rest[..unit_at], rest.as_bytes()[unit_at]);
        rest = &rest[unit_at + 1..];
        if unit == b'S' && in_time {
            nanos = nanos.checked_add(seconds_to_nanos(number)?)?;
            continue;
        }
        let count: i64 = number.parse().ok()?;
        match (unit, in_time) {
            (b'Y', false) => months = months.checked_add(count.checked_mul(12)?)?,
            (b'M', false) => months = months.checked_add(count)?,
            (b'W', false) => days = days.checked_add(count.checked_mul(7)?)?,
            (b'D', false) => days = days.checked_add(count)?,
            (b'H', true) => nanos = nanos.checked_add(count.checked_mul(3_600_000_000_000)?)?,
            (b'M', true) => nanos = nanos.checked_add(count.checked_mul(60_000_000_000)?)?,
            _ => return None,
        }
    }
    Some(IntervalMonthDayNano::new(i32::try_from(months).ok()?, i32::try_from(days).ok()?, nanos))
}

/// Seconds with up to nine digits after the point.
fn seconds_to_nanos(text: &str) -> Option<i64> {
    let parts = super::number::parts(text.as_bytes()).filter(|parts| parts.exponent.is_none())?;
    i64::try_from(super::number::scaled(&parts, 38, 9).ok()?).ok()
}

/// `\x` and hexadecimal digits.
pub(crate) fn bytes(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("\\x")?.as_bytes();
    let (pairs, rest) = digits.as_chunks::<2>();
    let nibble = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
    if rest.is_empty() { pairs.iter().map(|[high, low]| Some(nibble(*high)? << 4 | nibble(*low)?)).collect() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some((0, Zone::Given))),
            ("1970-01-01 00:00", Some((0, Zone::Missing))),
            ("2013-01-01T05:00:00Z", Some((1_357_016_400_000_000, Zone::Given))),
            ("1970-01-01 02:00:00.000001+02", Some((1, Zone::Given))),
            ("1970-01-01 02:30:00+02:30", Some((0, Zone::Given))),
            ("1970-01-01 00:00:00.1234560 UTC", Some((123_456, Zone::Given))),
            ("-infinity", Some((i64::MIN, Zone::Any))),
            ("-0044-03-15T12:00:00", Some((-63_549_316_800_000_000, Zone::Missing))),
            ("1970-01-01 00:00:00.1234567", None),
            ("1970-01-01 24:00:00", None),
            ("1970-02-30 00:00:00", None),
            ("1970-01-01 23:60:00", None),
            ("1970-01-01", None),
            ("12345-01-01 00:00:00", None),
        ] {
            assert_eq!(timestamp(text.as_bytes()), expected, "{text}");
        }
        assert_eq!(date(b"2024-02-29"), Some(19_782));
        assert_eq!(date(b"2023-02-29"), None);
        assert_eq!(date(b"Infinity"), Some(i32::MAX));
        assert_eq!(time(b"24:00:00"), Some(DAY_MICROS));
        assert_eq!(time(b"24:00:00.000001"), None);
        assert_eq!(time(b"5:00"), None);
    }

    #[test]
    fn intervals_and_bytes() {
        assert_eq!(interval("P1Y2M3DT4H5M6.789S"), Some(IntervalMonthDayNano::new(14, 3, 14_706_789_000_000)));
        assert_eq!(interval("P-1DT-0.000000001S"), Some(IntervalMonthDayNano::new(0, -1, -1)));
        for text in ["", "P", "PT", "1D", "P1H", "PT1D", "P1", "P1DT"] {
            assert_eq!(interval(text), None, "{text}");
        }
        assert_eq!(bytes("\\x00fF"), Some(vec![0, 255]));
        for text in ["00ff", "\\x0", "\\xzz"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }
}
