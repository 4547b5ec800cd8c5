//! One value of SQLite, read as one of a logical type: it fits without a change, or not at all.

use rusqlite::types::ValueRef;

/// Negative zero in a column that SQLite would turn it into zero in. It is no number to SQLite, and so is left alone.
pub(super) const NEGATIVE_ZERO: &str = "-0.0f";

/// Floats keep at most this many decimal digits exactly.
const FLOAT_DIGITS: usize = 15;

/// The bytes that a value takes in a batch, more or less.
pub(super) fn size_of_value(value: ValueRef<'_>) -> usize {
    match value {
        ValueRef::Null => 1,
        ValueRef::Integer(_) | ValueRef::Real(_) => 8,
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.len() + 4,
    }
}

/// A value for people: its storage class and its beginning.
pub(super) fn shown(value: ValueRef<'_>) -> String {
    const MOST: usize = 64;
    match value {
        ValueRef::Null => "NULL".to_owned(),
        ValueRef::Integer(value) => format!("the integer {value}"),
        ValueRef::Real(value) => format!("the float {value:?}"),
        ValueRef::Text(bytes) => {
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(MOST * 4)]);
            let cut: String = text.chars().take(MOST).collect();
            let note = if std::str::from_utf8(bytes).is_err() { " (not valid UTF-8)" } else { "" };
            format!("the text '{}{}'{note}", cut.escape_debug(), if cut.len() < bytes.len() { "…" } else { "" })
        }
        ValueRef::Blob(bytes) => format!("a blob of {} bytes", bytes.len()),
    }
}

pub(super) fn utf8(value: ValueRef<'_>) -> Option<&str> {
    match value {
        ValueRef::Text(bytes) => std::str::from_utf8(bytes).ok(),
        _ => None,
    }
}

pub(super) fn integer(value: ValueRef<'_>, lenient: bool) -> Option<i64> {
    match value {
        ValueRef::Integer(value) => Some(value),
        // Beyond 2^53 a float does not tell which integer it was.
        ValueRef::Real(value) if value.fract() == 0.0 && value.abs() <= 9_007_199_254_740_992.0 => Some(value as i64),
        value if lenient => utf8(value)?.parse().ok(),
        _ => None,
    }
}

pub(super) fn narrow<T: TryFrom<i64>>(value: ValueRef<'_>, lenient: bool) -> Option<T> {
    T::try_from(integer(value, lenient)?).ok()
}

pub(super) fn unsigned(value: ValueRef<'_>) -> Option<u64> {
    match value {
        ValueRef::Integer(value) => u64::try_from(value).ok(),
        value => utf8(value)?.parse().ok(),
    }
}

pub(super) fn double(value: ValueRef<'_>, lenient: bool) -> Option<f64> {
    match value {
        ValueRef::Real(value) => Some(value),
        ValueRef::Integer(value) => Some(value as f64).filter(|float| *float as i128 == i128::from(value)),
        value => match utf8(value)? {
            "NaN" => Some(f64::NAN),
            NEGATIVE_ZERO => Some(-0.0),
            text if lenient => text.parse().ok(),
            _ => None,
        },
    }
}

pub(super) fn single(value: ValueRef<'_>, lenient: bool) -> Option<f32> {
    if let (true, Some(text)) = (lenient, utf8(value)) {
        return if text == NEGATIVE_ZERO { Some(-0.0) } else { text.parse().ok() };
    }
    let value = double(value, lenient)?;
    Some(value as f32).filter(|single| value.is_nan() || f64::from(*single) == value)
}

/// The plain decimal form of a float: the shortest that reads back as the same float.
pub(super) fn plain(value: f64) -> String {
    match value {
        f64::INFINITY => "Infinity".to_owned(),
        f64::NEG_INFINITY => "-Infinity".to_owned(),
        _ => value.to_string(),
    }
}

/// A number as the digits of its unscaled value, when it fits precision and scale without rounding. A float is taken by its shortest
/// decimal form, and only while that has as many digits as floats keep exactly: beyond, nobody knows which decimal was meant.
pub(super) fn digits(value: ValueRef<'_>, precision: u8, scale: i8) -> Option<String> {
    let owned;
    let text = match value {
        ValueRef::Integer(value) => {
            owned = value.to_string();
            &owned
        }
        ValueRef::Real(value) if value.is_finite() => {
            owned = value.to_string();
            let significant = owned.trim_start_matches(['-', '0', '.']).replace('.', "");
            if significant.trim_end_matches('0').len() > FLOAT_DIGITS {
                return None;
            }
            &owned
        }
        value => utf8(value)?,
    };
    if !text.ends_with(|last: char| last.is_ascii_digit()) || !is_number(text) {
        return None;
    }
    let (sign, text) = text.strip_prefix('-').map_or(("", text), |text| ("-", text));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let (whole, scale) = (whole.trim_start_matches('0'), scale.unsigned_abs() as usize);
    let (kept, beyond) = fraction.split_at(fraction.len().min(scale));
    if beyond.bytes().any(|byte| byte != b'0') || whole.len() + scale > precision as usize && !whole.is_empty() {
        return None;
    }
    Some(format!("{sign}{}{whole}{kept}{:0>width$}", "0", "", width = scale - kept.len()))
}

/// Whether a text is a plain decimal number, or one of the three words for those that are none.
pub(super) fn is_number(text: &str) -> bool {
    if matches!(text, "NaN" | "Infinity" | "-Infinity") {
        return true;
    }
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = unsigned.split_once('.').map_or((unsigned, None), |(whole, fraction)| (whole, Some(fraction)));
    let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    all_digits(whole) && fraction.is_none_or(all_digits)
}

pub(super) fn is_json(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}
