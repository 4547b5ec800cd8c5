//! Values one by one: strict casts between logical types, their text form, and what is said of one that does not fit.

use std::fmt::{Display, Write as _};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, FixedSizeBinaryArray, PrimitiveArray, StringArray};
use arrow::compute::{CastOptions, cast_with_options, kernels::cmp::not_distinct};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Decimal128Type, Decimal256Type, DecimalType, Float32Type, Float64Type, Time64MicrosecondType,
    TimestampMicrosecondType, i256,
};
use arrow::record_batch::RecordBatch;
use sha2::{Digest as _, Sha256};

use crate::data::change::ROW;
use crate::data::text::parse::{self as read, Zone};
use crate::data::text::{DAY_MICROS, finite_as_written, float_keeps, float32_keeps};
use crate::data::{Reject, Schema, Type};
use crate::secret::Secret;

/// Most characters of a value that a reason repeats.
const SHOWN: usize = 100;

/// A value that does not fit, or an expression that fails on it.
#[derive(Clone, Debug)]
pub(super) struct Misfit {
    /// The column, or what else failed.
    pub what: String,
    /// Why.
    pub reason: String,
}

impl Misfit {
    pub(super) fn new(what: impl Into<String>, reason: impl Display) -> Self {
        Self { what: what.into(), reason: reason.to_string() }
    }
}

/// The reject of a batch of one row.
pub(super) fn reject(row: &RecordBatch, misfit: Misfit) -> Reject {
    let columns = Schema::from_arrow(&row.schema()).map(|schema| schema.columns).unwrap_or_default();
    let mut values = serde_json::Map::new();
    let mut origin = String::from("row");
    for (place, (column, array)) in columns.iter().zip(row.columns()).filter(|(column, _)| column.name != ROW).enumerate() {
        let shown = text(array, &column.ty).ok().filter(|texts| texts.is_valid(0)).map(|texts| texts.value(0).to_owned());
        let value = match (shown, &column.ty) {
            (None, _) => serde_json::Value::Null,
            (Some(text), Type::Bool) => serde_json::Value::Bool(text == "true"),
            (Some(text), Type::Int(_) | Type::UInt(_)) => {
                text.parse::<i128>().ok().and_then(serde_json::Number::from_i128).map_or(serde_json::Value::String(text), Into::into)
            }
            (Some(text), _) => serde_json::Value::String(text),
        };
        if place == 0 {
            origin = format!("{}={}", column.name, short(value.as_str().map_or_else(|| value.to_string(), str::to_owned).as_str()));
        }
        values.insert(column.name.clone(), value);
    }
    Reject { origin, reason: format!("`{}`: {}", misfit.what, misfit.reason), row: serde_json::Value::Object(values).to_string() }
}

fn short(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// Whether `cast` has a way between two types. The error is a sentence that says why not.
pub(super) fn castable(from: &Type, to: &Type) -> Result<(), String> {
    use Type::{Bool, Bytes, Date, Decimal, Enum, Float, Int, Json, Number, Text, Time, Timestamp, TimestampTz, UInt, Uuid};
    let numeric = |ty: &Type| matches!(ty, Int(_) | UInt(_) | Float(_) | Decimal(..) | Number);
    let textual = |ty: &Type| matches!(ty, Text | Json | Enum(_));
    let fits = from == to
        || (*to == Text && !matches!(from, Type::Array(_)))
        || (textual(from) && (numeric(to) || matches!(to, Bool | Date | Time | Timestamp | TimestampTz | Uuid | Json | Bytes)))
        || (numeric(from) && numeric(to))
        || matches!((from, to), (Bool, Int(_) | UInt(_)) | (Int(_) | UInt(_), Bool))
        || matches!((from, to), (Date, Timestamp | TimestampTz) | (Timestamp | TimestampTz, Date | Time | Timestamp | TimestampTz));
    if fits { Ok(()) } else { Err(format!("there is no cast from {from} to {to}")) }
}

/// Casts every value, or says which one does not fit: a value that would be cut, rounded or wrapped does not. A timestamp gives its date or
/// time of day; between naive timestamps and instants the zone is UTC.
pub(super) fn cast(array: &ArrayRef, from: &Type, to: &Type) -> Result<ArrayRef, String> {
    let misfit = |row: usize| format!("{} is no {to}", quoted(array, from, row));
    match (from, to) {
        _ if from == to => Ok(array.clone()),
        (_, Type::Text) => Ok(Arc::new(text(array, from)?)),
        (Type::Int(_) | Type::UInt(_) | Type::Float(_) | Type::Decimal(..), Type::Number) => Ok(Arc::new(text(array, from)?)),
        (Type::Text | Type::Json | Type::Enum(_) | Type::Number, _) => parse(array.as_string(), to).map_err(misfit),
        (Type::Date, Type::Timestamp | Type::TimestampTz) => {
            let days = array.as_primitive::<Date32Type>();
            let values =
                each(days.len(), |row| days.is_valid(row).then(|| midnight(days.value(row)).ok_or(row)).transpose()).map_err(misfit)?;
            Ok(Arc::new(PrimitiveArray::<TimestampMicrosecondType>::from(values).with_data_type(to.to_arrow())))
        }
        (Type::Timestamp | Type::TimestampTz, Type::Date) => {
            let instants = array.as_primitive::<TimestampMicrosecondType>();
            let day = |instant: i64| match instant {
                i64::MAX => Some(i32::MAX),
                i64::MIN => Some(i32::MIN),
                instant => i32::try_from(instant.div_euclid(DAY_MICROS)).ok(),
            };
            let values = each(instants.len(), |row| instants.is_valid(row).then(|| day(instants.value(row)).ok_or(row)).transpose());
            Ok(Arc::new(PrimitiveArray::<Date32Type>::from(values.map_err(misfit)?)))
        }
        (Type::Timestamp | Type::TimestampTz, Type::Time) => {
            let instants = array.as_primitive::<TimestampMicrosecondType>();
            let time = |row: usize| match instants.value(row) {
                i64::MAX | i64::MIN => Err(row),
                instant => Ok(instant.rem_euclid(DAY_MICROS)),
            };
            let values = each(instants.len(), |row| instants.is_valid(row).then(|| time(row)).transpose()).map_err(misfit)?;
            Ok(Arc::new(PrimitiveArray::<Time64MicrosecondType>::from(values)))
        }
        (Type::Timestamp | Type::TimestampTz, Type::Timestamp | Type::TimestampTz) => {
            let instants = array.as_primitive::<TimestampMicrosecondType>().clone();
            Ok(Arc::new(instants.with_data_type(to.to_arrow())))
        }
        _ => there_and_back(array, &to.to_arrow()).map_err(misfit),
    }
}

/// Values of a column from a function of the row. The error is the row that has none.
fn each<T>(rows: usize, value: impl Fn(usize) -> Result<Option<T>, usize>) -> Result<Vec<Option<T>>, usize> {
    (0..rows).map(value).collect()
}

fn quoted(array: &ArrayRef, ty: &Type, row: usize) -> String {
    text(&array.slice(row, 1), ty).map_or_else(|_| "a value".to_owned(), |texts| format!("`{}`", short(texts.value(0))))
}

/// Arrow's own cast, believed only where casting back gives the same value. The error is the first row that does not fit.
fn there_and_back(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, usize> {
    let lenient = CastOptions { safe: true, ..CastOptions::default() };
    let there = cast_with_options(array, to, &lenient).map_err(|_| 0_usize)?;
    let back = cast_with_options(&there, array.data_type(), &lenient).map_err(|_| 0_usize)?;
    let same = not_distinct(&back, array).map_err(|_| 0_usize)?;
    let first = (0..array.len()).find(|row| !same.value(*row));
    first.map_or(Ok(there), Err)
}

/// Reads a type out of texts. The error is the first row that does not fit.
fn parse(texts: &StringArray, to: &Type) -> Result<ArrayRef, usize> {
    let rows = texts.len();
    let text = |row: usize| texts.is_valid(row).then(|| texts.value(row));
    match to {
        Type::Decimal(precision, scale) if *precision <= 38 => {
            let read = |row| text(row).map(|text| decimal(text, *precision, *scale).and_then(i256::to_i128).ok_or(row)).transpose();
            Ok(Arc::new(PrimitiveArray::<Decimal128Type>::from(each(rows, read)?).with_data_type(to.to_arrow())))
        }
        Type::Decimal(precision, scale) => {
            let read = |row| text(row).map(|text| decimal(text, *precision, *scale).ok_or(row)).transpose();
            Ok(Arc::new(PrimitiveArray::<Decimal256Type>::from(each(rows, read)?).with_data_type(to.to_arrow())))
        }
        Type::Number => {
            let read = |row| text(row).map(|text| is_number(text).then_some(text).ok_or(row)).transpose();
            Ok(Arc::new(StringArray::from(each(rows, read)?)))
        }
        Type::Json => {
            let is_json = |text: &str| serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
            let read = |row| text(row).map(|text| is_json(text).then_some(text).ok_or(row)).transpose();
            Ok(Arc::new(StringArray::from(each(rows, read)?)))
        }
        Type::Uuid => {
            let read = |row| text(row).map(|text| uuid::Uuid::parse_str(text).map(uuid::Uuid::into_bytes).map_err(|_| row)).transpose();
            let values = each(rows, read)?;
            Ok(Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(values.into_iter(), 16).map_err(|_| 0_usize)?))
        }
        Type::Bytes => {
            let read = |row| text(row).map(|text| unhex(text).ok_or(row)).transpose();
            Ok(Arc::new(each(rows, read)?.into_iter().collect::<BinaryArray>()))
        }
        Type::Date => {
            let day = |row| text(row).map(|text| read::date(text.as_bytes()).ok_or(row)).transpose();
            Ok(Arc::new(PrimitiveArray::<Date32Type>::from(each(rows, day)?)))
        }
        Type::Time => {
            let time = |row| text(row).map(|text| read::time(text.as_bytes()).ok_or(row)).transpose();
            Ok(Arc::new(PrimitiveArray::<Time64MicrosecondType>::from(each(rows, time)?)))
        }
        Type::Timestamp | Type::TimestampTz => {
            let instant = |row| text(row).map(|text| instant(text, to).ok_or(row)).transpose();
            Ok(Arc::new(PrimitiveArray::<TimestampMicrosecondType>::from(each(rows, instant)?).with_data_type(to.to_arrow())))
        }
        Type::Float(32) => {
            let read = strict(texts, &DataType::Float32)?;
            let floats = read.as_primitive::<Float32Type>();
            exact(texts, |row, text| finite_as_written(text, floats.value(row).is_finite()) && float32_keeps(text, floats.value(row)))?;
            Ok(read)
        }
        Type::Float(_) => {
            let read = strict(texts, &DataType::Float64)?;
            let floats = read.as_primitive::<Float64Type>();
            exact(texts, |row, text| finite_as_written(text, floats.value(row).is_finite()) && float_keeps(text, floats.value(row)))?;
            Ok(read)
        }
        _ => strict(texts, &to.to_arrow()),
    }
}

/// Refuses the first text of which something is lost.
fn exact(texts: &StringArray, keeps: impl Fn(usize, &str) -> bool) -> Result<(), usize> {
    texts.iter().enumerate().find_map(|(row, text)| text.is_some_and(|text| !keeps(row, text)).then_some(row)).map_or(Ok(()), Err)
}

/// Arrow's own reading of texts; where it gives NULL for a text, that row does not fit.
fn strict(texts: &StringArray, to: &DataType) -> Result<ArrayRef, usize> {
    let lenient = CastOptions { safe: true, ..CastOptions::default() };
    let read = cast_with_options(texts, to, &lenient).map_err(|_| 0_usize)?;
    let lost = (read.null_count() != texts.null_count()).then(|| (0..texts.len()).find(|row| read.is_null(*row) && texts.is_valid(*row)));
    lost.flatten().map_or(Ok(read), Err)
}

/// The instant that a text names. A day alone is its midnight, and no zone means UTC; a timestamp without a zone cannot hold one.
fn instant(text: &str, to: &Type) -> Option<i64> {
    match read::timestamp(text.as_bytes()) {
        Some((_, Zone::Given)) if *to == Type::Timestamp => None,
        Some((instant, _)) => Some(instant),
        None => read::date(text.as_bytes()).and_then(midnight),
    }
}

/// The instant that a day begins with.
pub(super) fn midnight(days: i32) -> Option<i64> {
    match days {
        i32::MAX => Some(i64::MAX),
        i32::MIN => Some(i64::MIN),
        days => i64::from(days).checked_mul(DAY_MICROS),
    }
}

/// Reads a decimal exactly: digits beyond the scale must be zeros.
fn decimal(text: &str, precision: u8, scale: i8) -> Option<i256> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let scale = usize::try_from(scale).ok()?;
    let (kept, cut) = fraction.split_at(scale.min(fraction.len()));
    if cut.bytes().any(|byte| byte != b'0') {
        return None;
    }
    let whole = whole.trim_start_matches('0');
    if whole.len() + scale > usize::from(precision) {
        return None;
    }
    let padding = std::iter::repeat_n(b'0', scale - kept.len());
    let digits = whole.bytes().chain(kept.bytes()).chain(padding).map(|byte| byte - b'0');
    let value = if precision <= 38 {
        i256::from_i128(digits.fold(0_i128, |value, digit| value * 10 + i128::from(digit)))
    } else {
        let ten = i256::from_i128(10);
        digits.fold(i256::ZERO, |value, digit| value.wrapping_mul(ten).wrapping_add(i256::from_i128(i128::from(digit))))
    };
    Some(if negative { value.wrapping_neg() } else { value })
}

/// Whether a text is in the plain form of [`Type::Number`].
fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    matches!(text, "NaN" | "Infinity" | "-Infinity") || (all_digits(whole) && all_digits(fraction))
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("\\x")?.as_bytes();
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let pairs = digits.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    pairs.map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

fn hex(prefix: &str, bytes: &[u8]) -> String {
    let mut text = String::with_capacity(prefix.len() + bytes.len() * 2);
    text.push_str(prefix);
    for byte in bytes {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The text form of every value: plain decimals without exponent, ISO dates and times, `infinity`, hyphenated uuids, `\x…` bytes.
pub(super) fn text(array: &ArrayRef, ty: &Type) -> Result<StringArray, String> {
    let strings =
        |value: &dyn Fn(usize) -> String| -> StringArray { (0..array.len()).map(|row| array.is_valid(row).then(|| value(row))).collect() };
    let plain = || {
        let strict = CastOptions { safe: false, ..CastOptions::default() };
        let texts = cast_with_options(array, &DataType::Utf8, &strict).map_err(|error| error.to_string())?;
        Ok::<_, String>(texts.as_string::<i32>().clone())
    };
    Ok(match ty {
        Type::Text | Type::Json | Type::Enum(_) | Type::Number => array.as_string::<i32>().clone(),
        Type::Float(32) => strings(&|row| float(array.as_primitive::<Float32Type>().value(row))),
        Type::Float(_) => strings(&|row| float(array.as_primitive::<Float64Type>().value(row))),
        Type::Uuid => strings(&|row| {
            uuid::Uuid::from_slice(array.as_fixed_size_binary().value(row)).map_or_else(|_| String::new(), |uuid| uuid.to_string())
        }),
        Type::Bytes | Type::Native { .. } => strings(&|row| hex("\\x", array.as_binary::<i32>().value(row))),
        Type::Time => strings(&|row| time(array.as_primitive::<Time64MicrosecondType>().value(row))),
        Type::Date => infinite(array.as_primitive::<Date32Type>(), (i32::MIN, i32::MAX))?,
        Type::Timestamp | Type::TimestampTz => infinite(array.as_primitive::<TimestampMicrosecondType>(), (i64::MIN, i64::MAX))?,
        _ => plain()?,
    })
}

fn float(value: impl Display + PartialEq) -> String {
    match value.to_string().as_str() {
        "inf" => "Infinity".to_owned(),
        "-inf" => "-Infinity".to_owned(),
        text => text.to_owned(),
    }
}

fn time(micros: i64) -> String {
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let whole = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    if fraction == 0 { whole } else { format!("{whole}.{}", format!("{fraction:06}").trim_end_matches('0')) }
}

fn infinite<T: ArrowPrimitiveType>(array: &PrimitiveArray<T>, (least, most): (T::Native, T::Native)) -> Result<StringArray, String> {
    let text = |array: &PrimitiveArray<T>| {
        let strict = CastOptions { safe: false, ..CastOptions::default() };
        let texts = cast_with_options(array, &DataType::Utf8, &strict).map_err(|error| error.to_string())?;
        Ok::<_, String>(texts.as_string::<i32>().clone())
    };
    let is_infinite = |value: T::Native| value == least || value == most;
    if !array.iter().flatten().any(is_infinite) {
        return text(array);
    }
    let finite: PrimitiveArray<T> = array.iter().map(|value| value.filter(|value| !is_infinite(*value))).collect();
    let finite = text(&finite.with_data_type(array.data_type().clone()))?;
    let shown = |row: usize| match array.value(row) {
        value if value == most => "infinity".to_owned(),
        value if value == least => "-infinity".to_owned(),
        _ => finite.value(row).to_owned(),
    };
    Ok((0..array.len()).map(|row| array.is_valid(row).then(|| shown(row))).collect())
}

/// SHA-256 over salt and text form, in lowercase hexadecimal digits. NULL stays NULL.
pub(super) fn hash(array: &ArrayRef, ty: &Type, salt: &Secret<String>) -> Result<ArrayRef, String> {
    let salted = Sha256::new_with_prefix(salt.reveal());
    let texts = text(array, ty)?;
    let hashed = texts.iter().map(|text| text.map(|text| hex("", &salted.clone().chain_update(text).finalize())));
    Ok(Arc::new(hashed.collect::<StringArray>()))
}

/// Arrow computes decimals in 128 or 256 bits, which hold more than 38 or 76 digits: a result beyond is no value of its type.
pub(super) fn in_range(array: &ArrayRef) -> Result<(), String> {
    match array.data_type() {
        DataType::Decimal128(38, _) => array.as_primitive::<Decimal128Type>().validate_decimal_precision(Decimal128Type::MAX_PRECISION),
        DataType::Decimal256(76, _) => array.as_primitive::<Decimal256Type>().validate_decimal_precision(Decimal256Type::MAX_PRECISION),
        _ => return Ok(()),
    }
    .map_err(|_| "the result has more digits than a decimal can hold".to_owned())
}
