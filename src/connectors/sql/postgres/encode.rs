//! Batches into tuples of COPY BINARY.

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, FixedSizeBinaryArray, GenericBinaryArray, PrimitiveArray, StringArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Decimal256Type, IntervalMonthDayNanoType, Time64MicrosecondType, TimestampMicrosecondType,
    UInt32Type,
};
use arrow::record_batch::RecordBatch;

use super::fit::Form;
use super::numeric;
use super::values::{EPOCH_DAYS, EPOCH_MICROS};
use super::widths::{Real, Whole, out_of_range};
use crate::data::text::Printer;
use crate::failure::Failure;

/// PostgreSQL refuses a field of 1 GiB and more.
const MOST_BYTES: usize = (1 << 30) - 1;

/// The arrays of the columns that are written, ready for [`Encoder`]. `columns` name the batch's columns with the form of each, in the
/// order of COPY's list.
pub(super) fn prepared(batch: &RecordBatch, columns: &[(usize, Form)]) -> Vec<ArrayRef> {
    columns.iter().map(|(place, form)| prepare(batch.column(*place), form)).collect()
}

/// Writes the rows of one batch as tuples.
pub(super) struct Encoder<'a> {
    batch: &'a RecordBatch,
    columns: &'a [(usize, Form)],
    cells: Vec<Cell<'a>>,
    next: usize,
}

impl<'a> Encoder<'a> {
    /// `arrays` are those of [`prepared`].
    pub(super) fn new(batch: &'a RecordBatch, arrays: &'a [ArrayRef], columns: &'a [(usize, Form)]) -> Result<Self, Failure> {
        let cells = arrays.iter().zip(columns).map(|(array, (_, form))| Cell::new(array, form)).collect::<Result<Vec<_>, _>>();
        let cells = cells.map_err(|why| Failure::permanent(format!("a batch cannot be written: {why}")))?;
        Ok(Self { batch, columns, cells, next: 0 })
    }

    /// Appends tuples until `out` holds `enough` bytes or the batch ends; false when it has ended.
    pub(super) fn fill(&mut self, out: &mut Vec<u8>, enough: usize) -> Result<bool, Failure> {
        let count = (self.columns.len() as u16).to_be_bytes();
        while self.next < self.batch.num_rows() {
            if out.len() >= enough {
                return Ok(true);
            }
            out.extend_from_slice(&count);
            for (cell, (place, _)) in self.cells.iter().zip(self.columns) {
                cell.write(self.next, out).map_err(|why| {
                    Failure::bad_rows(format!("column `{}`: {why}", self.batch.schema_ref().field(*place).name()))
                        .help("make the value fit in a transform (`set`, `cast`, `filter`), or widen the target's column")
                })?;
            }
            self.next += 1;
        }
        Ok(false)
    }
}

/// The array that a form is written from; only printing makes another one.
fn prepare(array: &ArrayRef, form: &Form) -> ArrayRef {
    match form {
        Form::Printed(ty) => std::sync::Arc::new(Printer::new(array, ty).spaced().texts()),
        _ => array.clone(),
    }
}

/// One column of one batch, ready to be written row by row.
struct Cell<'a> {
    nulls: Option<&'a NullBuffer>,
    values: Values<'a>,
}

enum Values<'a> {
    Bool(&'a BooleanArray),
    Int2(Whole<'a>),
    Int4(Whole<'a>),
    Int8(Whole<'a>),
    Oid(&'a PrimitiveArray<UInt32Type>),
    Float4(Real<'a>),
    Float8(Real<'a>),
    WholeNumeric(Whole<'a>),
    Decimal128(&'a PrimitiveArray<Decimal128Type>, i8, Option<u8>),
    Decimal256(&'a PrimitiveArray<Decimal256Type>, i8, Option<u8>),
    Plain(&'a StringArray, Option<u8>),
    Text(&'a StringArray),
    Binary(&'a GenericBinaryArray<i32>),
    Fixed(&'a FixedSizeBinaryArray),
    Jsonb(&'a StringArray),
    Date(&'a PrimitiveArray<Date32Type>),
    Midnight(&'a PrimitiveArray<Date32Type>),
    Time(&'a PrimitiveArray<Time64MicrosecondType>),
    Timestamp(&'a PrimitiveArray<TimestampMicrosecondType>),
    Interval(&'a PrimitiveArray<IntervalMonthDayNanoType>),
    List(&'a [i32], Box<Cell<'a>>, u32),
}

impl<'a> Cell<'a> {
    fn new(array: &'a ArrayRef, form: &Form) -> Result<Self, String> {
        let values = Self::values(array, form).ok_or_else(|| format!("Arrow's {} has no such form: {form:?}", array.data_type()))?;
        Ok(Self { nulls: array.nulls().filter(|nulls| nulls.null_count() > 0), values })
    }

    fn values(array: &'a ArrayRef, form: &Form) -> Option<Values<'a>> {
        Some(match form {
            Form::Bool => Values::Bool(array.as_boolean_opt()?),
            Form::Int(2) => Values::Int2(Whole::of(array)?),
            Form::Int(4) => Values::Int4(Whole::of(array)?),
            Form::Int(_) => Values::Int8(Whole::of(array)?),
            Form::Oid => Values::Oid(array.as_primitive_opt()?),
            Form::Float4 => Values::Float4(Real::of(array)?),
            Form::Float8 => Values::Float8(Real::of(array)?),
            Form::Numeric(limit) => match array.data_type() {
                DataType::Decimal128(_, scale) => Values::Decimal128(array.as_primitive_opt()?, *scale, *limit),
                DataType::Decimal256(_, scale) => Values::Decimal256(array.as_primitive_opt()?, *scale, *limit),
                DataType::Utf8 => Values::Plain(array.as_string_opt()?, *limit),
                _ => Values::WholeNumeric(Whole::of(array)?),
            },
            Form::Bytes | Form::Printed(_) => match array.data_type() {
                DataType::Utf8 => Values::Text(array.as_string_opt()?),
                DataType::FixedSizeBinary(_) => Values::Fixed(array.as_fixed_size_binary_opt()?),
                _ => Values::Binary(array.as_binary_opt()?),
            },
            Form::Jsonb => Values::Jsonb(array.as_string_opt()?),
            Form::Date => Values::Date(array.as_primitive_opt()?),
            Form::Midnight => Values::Midnight(array.as_primitive_opt()?),
            Form::Time => Values::Time(array.as_primitive_opt()?),
            Form::Timestamp => Values::Timestamp(array.as_primitive_opt()?),
            Form::Interval => Values::Interval(array.as_primitive_opt()?),
            Form::List(item, oid) => {
                let list = array.as_list_opt::<i32>()?;
                Values::List(list.value_offsets(), Box::new(Cell::new(list.values(), item).ok()?), *oid)
            }
        })
    }

    fn is_null(&self, row: usize) -> bool {
        self.nulls.is_some_and(|nulls| nulls.is_null(row))
    }

    /// Appends length and bytes of one value. The error says why the value does not fit.
    fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<(), String> {
        if self.is_null(row) {
            out.extend_from_slice(&(-1i32).to_be_bytes());
            return Ok(());
        }
        match &self.values {
            Values::Bool(array) => field(out, [u8::from(array.value(row))]),
            Values::Int2(array) => field(out, narrow::<i16>(array.small(row)?)?.to_be_bytes()),
            Values::Int4(array) => field(out, narrow::<i32>(array.small(row)?)?.to_be_bytes()),
            Values::Int8(array) => field(out, array.small(row)?.to_be_bytes()),
            Values::Oid(array) => field(out, array.value(row).to_be_bytes()),
            // A rounding that was agreed to when the plan was made.
            Values::Float4(array) => field(out, (array.get(row) as f32).to_be_bytes()),
            Values::Float8(array) => field(out, array.get(row).to_be_bytes()),
            Values::WholeNumeric(array) => numeric::write_i128(array.get(row), 0, out),
            Values::Decimal128(array, scale, limit) => decimal(array.value(row), *scale, *limit, out)?,
            Values::Decimal256(array, scale, limit) => {
                let value = array.value(row);
                match value.to_i128() {
                    Some(value) => decimal(value, *scale, *limit, out)?,
                    None => plain(&with_point(&value.to_string(), *scale), *limit, out)?,
                }
            }
            Values::Plain(array, limit) => plain(array.value(row), *limit, out)?,
            Values::Text(array) => bytes(out, array.value(row).as_bytes())?,
            Values::Binary(array) => bytes(out, array.value(row))?,
            Values::Fixed(array) => bytes(out, array.value(row))?,
            Values::Jsonb(array) => {
                let text = array.value(row).as_bytes();
                out.extend_from_slice(&length(text.len() + 1)?);
                out.push(1);
                out.extend_from_slice(text);
            }
            Values::Date(array) => field(out, date(array.value(row))?.to_be_bytes()),
            Values::Midnight(array) => field(out, midnight(array.value(row))?.to_be_bytes()),
            Values::Time(array) => field(out, time(array.value(row))?.to_be_bytes()),
            Values::Timestamp(array) => field(out, timestamp(array.value(row))?.to_be_bytes()),
            Values::Interval(array) => {
                let value = array.value(row);
                if value.nanoseconds % 1000 != 0 {
                    return Err(format!("an interval of {} ns is finer than microseconds", value.nanoseconds));
                }
                out.extend_from_slice(&16u32.to_be_bytes());
                out.extend_from_slice(&(value.nanoseconds / 1000).to_be_bytes());
                out.extend_from_slice(&value.days.to_be_bytes());
                out.extend_from_slice(&value.months.to_be_bytes());
            }
            Values::List(offsets, items, oid) => list(offsets[row] as usize..offsets[row + 1] as usize, items, *oid, out)?,
        }
        Ok(())
    }
}

/// Length and value in one piece, so that the room for them is asked for once.
fn field<const N: usize>(out: &mut Vec<u8>, value: [u8; N]) {
    const { assert!(N <= 8) };
    let mut piece = [0; 12];
    piece[..4].copy_from_slice(&(N as u32).to_be_bytes());
    piece[4..4 + N].copy_from_slice(&value);
    out.extend_from_slice(&piece[..4 + N]);
}

fn length(bytes: usize) -> Result<[u8; 4], String> {
    if bytes > MOST_BYTES {
        return Err(format!("a value of {bytes} bytes is larger than the 1 GiB that PostgreSQL takes"));
    }
    Ok((bytes as u32).to_be_bytes())
}

fn bytes(out: &mut Vec<u8>, value: &[u8]) -> Result<(), String> {
    out.extend_from_slice(&length(value.len())?);
    out.extend_from_slice(value);
    Ok(())
}

fn narrow<N: TryFrom<i64>>(value: i64) -> Result<N, String> {
    N::try_from(value).map_err(|_| out_of_range(value))
}

fn decimal(value: i128, scale: i8, limit: Option<u8>, out: &mut Vec<u8>) -> Result<(), String> {
    let Ok(places) = u8::try_from(scale) else {
        let whole = 10i128.checked_pow(u32::from(scale.unsigned_abs())).and_then(|power| value.checked_mul(power));
        numeric::write_i128(whole.ok_or_else(|| format!("{value}e{} is out of range", scale.unsigned_abs()))?, 0, out);
        return Ok(());
    };
    match limit {
        // The server would round in silence.
        Some(limit) if limit < places && value % 10i128.pow(u32::from(places - limit)) != 0 => {
            Err(format!("{} has more than {limit} decimals", with_point(&value.to_string(), scale)))
        }
        _ => {
            numeric::write_i128(value, places, out);
            Ok(())
        }
    }
}

fn plain(text: &str, limit: Option<u8>, out: &mut Vec<u8>) -> Result<(), String> {
    if let (Some(limit), Some((_, decimals))) = (limit, text.split_once('.'))
        && decimals.bytes().skip(usize::from(limit)).any(|digit| digit != b'0')
    {
        return Err(format!("{text} has more than {limit} decimals"));
    }
    numeric::write_plain(text, out)
}

/// The plain form of a whole number of last decimals.
fn with_point(digits: &str, scale: i8) -> String {
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |digits| ("-", digits));
    let Ok(scale) = usize::try_from(scale) else {
        return format!("{sign}{digits}{}", "0".repeat(usize::from(scale.unsigned_abs())));
    };
    if scale == 0 {
        return format!("{sign}{digits}");
    }
    let padded = format!("{digits:0>width$}", width = scale + 1);
    let (whole, decimals) = padded.split_at(padded.len() - scale);
    format!("{sign}{whole}.{decimals}")
}

fn date(days: i32) -> Result<i32, String> {
    match days {
        i32::MAX | i32::MIN => Ok(days),
        _ => days.checked_sub(EPOCH_DAYS).filter(|days| *days != i32::MIN).ok_or_else(|| format!("day {days} is before 4713 BC")),
    }
}

fn midnight(days: i32) -> Result<i64, String> {
    match days {
        i32::MAX => Ok(i64::MAX),
        i32::MIN => Ok(i64::MIN),
        _ => timestamp(i64::from(days).checked_mul(86_400_000_000).ok_or_else(|| format!("day {days} is out of a timestamp's range"))?),
    }
}

fn time(micros: i64) -> Result<i64, String> {
    if (0..=86_400_000_000).contains(&micros) { Ok(micros) } else { Err(format!("{micros} µs is no time of a day")) }
}

fn timestamp(micros: i64) -> Result<i64, String> {
    match micros {
        i64::MAX | i64::MIN => Ok(micros),
        _ => micros.checked_sub(EPOCH_MICROS).filter(|micros| *micros != i64::MIN).ok_or_else(|| format!("{micros} µs is before 4713 BC")),
    }
}

fn list(range: std::ops::Range<usize>, items: &Cell<'_>, oid: u32, out: &mut Vec<u8>) -> Result<(), String> {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    let has_null = range.clone().any(|item| items.is_null(item));
    // An empty array has no dimensions.
    out.extend_from_slice(&i32::from(!range.is_empty()).to_be_bytes());
    out.extend_from_slice(&i32::from(has_null).to_be_bytes());
    out.extend_from_slice(&oid.to_be_bytes());
    if !range.is_empty() {
        out.extend_from_slice(&(range.len() as u32).to_be_bytes());
        out.extend_from_slice(&1i32.to_be_bytes());
    }
    for item in range {
        items.write(item, out)?;
    }
    let written = length(out.len() - start - 4)?;
    out[start..start + 4].copy_from_slice(&written);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_set() {
        for (digits, scale, text) in [("-5", 2, "-0.05"), ("1250", 2, "12.50"), ("7", 0, "7"), ("7", -3, "7000"), ("0", 3, "0.000")] {
            assert_eq!(with_point(digits, scale), text);
        }
    }

    #[test]
    fn what_would_be_rounded_is_refused() {
        let mut out = Vec::new();
        assert!(decimal(1234, 3, Some(2), &mut out).is_err());
        assert!(plain("1.234", Some(2), &mut out).is_err());
        assert!(out.is_empty());
        assert!(decimal(1230, 3, Some(2), &mut out).is_ok());
        assert!(plain("1.230", Some(2), &mut out).is_ok());
    }
}
