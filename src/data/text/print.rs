//! One Arrow column → text.

use std::io::Write;

use arrow::array::{Array, ArrayRef, StringArray, StringBuilder};
use arrow::buffer::NullBuffer;
use arrow::datatypes::IntervalMonthDayNano;

use super::calendar;
use super::cells::Cells;
use super::json::json_string;
use crate::data::Type;

/// Prints the values of one column. NULLs are the caller's.
pub(crate) struct Printer<'a> {
    array: &'a dyn Array,
    /// Only of a column that has NULLs: most have none, and are not asked row by row.
    nulls: Option<&'a NullBuffer>,
    cells: Cells<'a>,
    /// What stands between the date and the time of a timestamp.
    between: u8,
}

impl<'a> Printer<'a> {
    /// The column must have the Arrow type of the logical type, as every batch of a load has.
    pub(crate) fn new(array: &'a ArrayRef, ty: &'a Type) -> Self {
        Self { array, nulls: array.nulls().filter(|nulls| nulls.null_count() > 0), cells: Cells::new(array, ty), between: b'T' }
    }

    /// With a space between the date and the time of a timestamp, as SQL writes them.
    pub(crate) fn spaced(self) -> Self {
        Self { between: b' ', ..self }
    }

    /// The column's values as they stand in memory.
    pub(crate) fn cells(&self) -> &Cells<'a> {
        &self.cells
    }

    /// Whether the row's value is NULL.
    pub(crate) fn is_null(&self, row: usize) -> bool {
        self.nulls.is_some_and(|nulls| nulls.is_null(row))
    }

    /// The value of a text column, as it is.
    pub(crate) fn text(&self, row: usize) -> Option<&'a str> {
        match self.cells {
            Cells::Text(cells) => Some(cells.value(row)),
            _ => None,
        }
    }

    /// The texts of all rows.
    pub(crate) fn texts(&self) -> StringArray {
        let mut texts = StringBuilder::with_capacity(self.array.len(), self.array.len() * 12);
        let mut text = Vec::new();
        for row in 0..self.array.len() {
            if self.is_null(row) {
                texts.append_null();
            } else {
                text.clear();
                self.print(row, &mut text);
                texts.append_value(String::from_utf8_lossy(&text));
            }
        }
        texts.finish()
    }

    /// Appends the row's value for a system that keeps bytes as they are, and everything else as text; see [`Builder::append_raw`].
    ///
    /// [`Builder::append_raw`]: super::Builder::append_raw
    pub(crate) fn print_raw(&self, row: usize, out: &mut Vec<u8>) {
        match &self.cells {
            Cells::Bytes(cells) => out.extend_from_slice(cells.value(row)),
            _ => self.print(row, out),
        }
    }

    /// Appends the text of the row's value.
    pub(crate) fn print(&self, row: usize, out: &mut Vec<u8>) {
        match &self.cells {
            Cells::Bool(cells) => out.extend_from_slice(if cells.value(row) { b"true" } else { b"false" }),
            Cells::Int8(cells) => signed(cells.value(row).into(), out),
            Cells::Int16(cells) => signed(cells.value(row).into(), out),
            Cells::Int32(cells) => signed(cells.value(row).into(), out),
            Cells::Int64(cells) => signed(cells.value(row), out),
            Cells::UInt8(cells) => unsigned(cells.value(row).into(), 0, out),
            Cells::UInt16(cells) => unsigned(cells.value(row).into(), 0, out),
            Cells::UInt32(cells) => unsigned(cells.value(row).into(), 0, out),
            Cells::UInt64(cells) => unsigned(cells.value(row), 0, out),
            Cells::Float32(cells) => float(cells.value(row), cells.value(row).into(), out),
            Cells::Float64(cells) => float(cells.value(row), cells.value(row), out),
            Cells::Decimal128(cells, scale) => {
                let value = cells.value(row);
                match u64::try_from(value.unsigned_abs()) {
                    Ok(small) => decimal(value < 0, small, *scale, out),
                    Err(_) => long_decimal(&value.to_string(), *scale, out),
                }
            }
            Cells::Decimal256(cells, scale) => long_decimal(&cells.value(row).to_string(), *scale, out),
            Cells::Text(cells) => out.extend_from_slice(cells.value(row).as_bytes()),
            Cells::Bytes(cells) => {
                out.extend_from_slice(b"\\x");
                hex(cells.value(row), out);
            }
            Cells::Date(cells) => match cells.value(row) {
                i32::MAX => out.extend_from_slice(b"infinity"),
                i32::MIN => out.extend_from_slice(b"-infinity"),
                days => date(days.into(), out),
            },
            Cells::Time(cells) => time(cells.value(row), out),
            Cells::Timestamp(cells) => timestamp(cells.value(row), self.between, b"", out),
            Cells::TimestampTz(cells) => timestamp(cells.value(row), self.between, b"Z", out),
            Cells::Interval(cells) => interval(cells.value(row), out),
            Cells::Uuid(cells) => {
                let bytes = cells.value(row);
                for (place, range) in [0..4, 4..6, 6..8, 8..10, 10..16].into_iter().enumerate() {
                    if place > 0 {
                        out.push(b'-');
                    }
                    hex(&bytes[range], out);
                }
            }
            Cells::Array(cells, item) => array(&cells.value(row), item, out),
        }
    }
}

/// Pairs of digits, to print two at a time.
const PAIRS: &[u8; 200] = b"0001020304050607080910111213141516171819202122232425262728293031323334353637383940414243444546474849\
5051525354555657585960616263646566676869707172737475767778798081828384858687888990919293949596979899";

/// The two digits of a number below 100.
fn pair(value: u64) -> [u8; 2] {
    let at = value as usize * 2;
    [PAIRS[at], PAIRS[at + 1]]
}

/// Appends a number with at least `width` digits, a point before the last `scale` of them. At most 20 are asked for.
fn digits(negative: bool, mut value: u64, width: usize, scale: usize, out: &mut Vec<u8>) {
    /// 20 digits, a point and a sign, rounded up to what is copied in a few registers.
    const MOST: usize = 24;
    // Filled from the middle backwards. What lies behind is copied with the digits and cut off again, because a copy of a fixed length is
    // no call.
    let mut text = [b'0'; 2 * MOST];
    let mut at = MOST;
    for _ in 0..scale / 2 {
        at -= 2;
        text[at..at + 2].copy_from_slice(&pair(value % 100));
        value /= 100;
    }
    if !scale.is_multiple_of(2) {
        at -= 1;
        text[at] = b'0' + (value % 10) as u8;
        value /= 10;
    }
    if scale > 0 {
        at -= 1;
        text[at] = b'.';
    }
    let point = at;
    while value >= 100 {
        at -= 2;
        text[at..at + 2].copy_from_slice(&pair(value % 100));
        value /= 100;
    }
    if value >= 10 {
        at -= 2;
        text[at..at + 2].copy_from_slice(&pair(value));
    } else {
        at -= 1;
        text[at] = b'0' + value as u8;
    }
    at = at.min(point - width.saturating_sub(scale).min(point));
    if negative {
        at -= 1;
        text[at] = b'-';
    }
    let end = out.len() + MOST - at;
    if let Some(piece) = text[at..].first_chunk::<MOST>() {
        out.extend_from_slice(piece);
    }
    out.truncate(end);
}

/// Appends a number with at least `width` digits.
fn unsigned(value: u64, width: usize, out: &mut Vec<u8>) {
    digits(false, value, width, 0, out);
}

fn signed(value: i64, out: &mut Vec<u8>) {
    digits(value < 0, value.unsigned_abs(), 1, 0, out);
}

/// Floats in their shortest form that reads back equal; `NaN`, `Infinity`, `-Infinity`. The value itself is only printed when it is finite.
fn float(value: impl std::fmt::Debug, wide: f64, out: &mut Vec<u8>) {
    if wide.is_finite() {
        // Writing to a vector cannot fail.
        let _ = write!(out, "{value:?}");
    } else if wide.is_nan() {
        out.extend_from_slice(b"NaN");
    } else {
        out.extend_from_slice(if wide < 0.0 { b"-Infinity" } else { b"Infinity" });
    }
}

fn decimal(negative: bool, value: u64, scale: i8, out: &mut Vec<u8>) {
    match usize::try_from(scale) {
        Ok(scale @ 0..20) => digits(negative, value, scale + 1, scale, out),
        _ => {
            if negative {
                out.push(b'-');
            }
            long_decimal(&value.to_string(), scale, out);
        }
    }
}

/// A decimal from the digits of its unscaled value.
fn long_decimal(unscaled: &str, scale: i8, out: &mut Vec<u8>) {
    let digits = match unscaled.strip_prefix('-') {
        Some(digits) => {
            out.push(b'-');
            digits
        }
        None => unscaled,
    };
    let Ok(scale) = usize::try_from(scale) else {
        // A negative scale, which only foreign Parquet files have: zeros follow.
        out.extend_from_slice(digits.as_bytes());
        if digits != "0" {
            out.extend(std::iter::repeat_n(b'0', usize::from(scale.unsigned_abs())));
        }
        return;
    };
    let whole = digits.len().saturating_sub(scale);
    out.extend_from_slice(if whole == 0 { b"0" } else { &digits.as_bytes()[..whole] });
    if scale > 0 {
        out.push(b'.');
        out.extend(std::iter::repeat_n(b'0', scale.saturating_sub(digits.len())));
        out.extend_from_slice(&digits.as_bytes()[whole..]);
    }
}

pub(super) fn hex(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.extend_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}

/// `YYYY-MM-DD`; years beyond 0 to 9999 have a sign and six digits, as ISO 8601 extends them.
fn date(days: i64, out: &mut Vec<u8>) {
    let (year, month, day) = calendar::date(days);
    let ([m0, m1], [d0, d1]) = (pair(month.into()), pair(day.into()));
    match u64::try_from(year) {
        Ok(year @ 0..=9999) => {
            let ([y0, y1], [y2, y3]) = (pair(year / 100), pair(year % 100));
            out.extend_from_slice(&[y0, y1, y2, y3, b'-', m0, m1, b'-', d0, d1]);
        }
        _ => {
            out.push(if year < 0 { b'-' } else { b'+' });
            unsigned(year.unsigned_abs(), 6, out);
            out.extend_from_slice(&[b'-', m0, m1, b'-', d0, d1]);
        }
    }
}

/// `HH:MM:SS`, then up to six digits when they are not all zero.
fn time(micros: i64, out: &mut Vec<u8>) {
    let (seconds, mut fraction) = ((micros / 1_000_000) as u64, (micros % 1_000_000) as u64);
    unsigned(seconds / 3600, 2, out);
    out.push(b':');
    unsigned(seconds / 60 % 60, 2, out);
    out.push(b':');
    unsigned(seconds % 60, 2, out);
    if fraction > 0 {
        let mut width = 6;
        while fraction.is_multiple_of(10) {
            fraction /= 10;
            width -= 1;
        }
        out.push(b'.');
        unsigned(fraction, width, out);
    }
}

fn timestamp(micros: i64, between: u8, zone: &[u8], out: &mut Vec<u8>) {
    match micros {
        i64::MAX => return out.extend_from_slice(b"infinity"),
        i64::MIN => return out.extend_from_slice(b"-infinity"),
        _ => {}
    }
    date(micros.div_euclid(calendar::DAY_MICROS), out);
    out.push(between);
    time(micros.rem_euclid(calendar::DAY_MICROS), out);
    out.extend_from_slice(zone);
}

/// `P14M3DT4.5S`: only months, days and seconds, each with its own sign, so that the three parts come back as they were.
fn interval(value: IntervalMonthDayNano, out: &mut Vec<u8>) {
    out.push(b'P');
    signed(value.months.into(), out);
    out.push(b'M');
    signed(value.days.into(), out);
    out.extend_from_slice(b"DT");
    decimal(value.nanoseconds < 0, value.nanoseconds.unsigned_abs(), 9, out);
    while out.last() == Some(&b'0') {
        out.pop();
    }
    if out.last() == Some(&b'.') {
        out.pop();
    }
    out.push(b'S');
}

/// A JSON array. Numbers and truth values stand as they are, everything else as a string of its text form: JSON as well, so that an item
/// that is JSON's `null` is not one that is NULL.
fn array(items: &ArrayRef, ty: &Type, out: &mut Vec<u8>) {
    let printer = Printer::new(items, ty);
    out.push(b'[');
    for row in 0..items.len() {
        if row > 0 {
            out.push(b',');
        }
        match printer.text(row).filter(|_| *ty == Type::Json && !printer.is_null(row)) {
            Some(text) => json_string(text, out),
            None => printer.print_json(row, ty, out),
        }
    }
    out.push(b']');
}

impl Printer<'_> {
    /// Appends the row's value as JSON, NULL included.
    pub(crate) fn print_json(&self, row: usize, ty: &Type, out: &mut Vec<u8>) {
        if self.is_null(row) {
            return out.extend_from_slice(b"null");
        }
        let start = out.len();
        match ty {
            Type::Bool | Type::Int(_) | Type::UInt(_) | Type::Decimal(..) | Type::Json | Type::Array(_) => self.print(row, out),
            Type::Float(_) | Type::Number => {
                self.print(row, out);
                // The words for NaN and the infinities are no JSON numbers.
                if out.last().is_some_and(u8::is_ascii_alphabetic) {
                    out.insert(start, b'"');
                    out.push(b'"');
                }
            }
            _ => match self.text(row) {
                Some(text) => json_string(text, out),
                None => {
                    out.push(b'"');
                    self.print(row, out);
                    // Only bytes hold a character that JSON escapes: the backslash of `\x`.
                    if out.get(start + 1) == Some(&b'\\') {
                        out.insert(start + 1, b'\\');
                    }
                    out.push(b'"');
                }
            },
        }
    }
}
