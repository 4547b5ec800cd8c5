//! An order-free 128-bit digest of rows: the wrapping sum of one 128-bit hash a row.
//!
//! A row's hash runs over its columns in order, each value in one canonical form of its logical type, so that two engines which hold equal
//! values give equal digests whatever their own formats are. The sum makes order, batches and splits irrelevant, and digests of parts add
//! up to the digest of the whole. It guards against loss, doubling and corruption, not against an adversary.

use std::fmt;
use std::ops::{Add, AddAssign, Sub};
use std::str::FromStr;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Decimal128Type, Decimal256Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, IntervalMonthDayNanoType, Time64MicrosecondType, TimestampMicrosecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::record_batch::RecordBatch;
use xxhash_rust::xxh3::xxh3_128;

/// The digest of some rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Digest {
    /// How many rows.
    pub rows: u64,
    /// The wrapping sum of their hashes.
    pub sum: u128,
}

impl Digest {
    /// Adds one row by its hash.
    pub fn add_row(&mut self, hash: u128) {
        self.rows += 1;
        self.sum = self.sum.wrapping_add(hash);
    }

    /// The digest of one undecoded row in a wire format.
    pub fn add_wire_row(&mut self, row: &[u8]) {
        self.add_row(xxh3_128(row));
    }
}

impl Add for Digest {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { rows: self.rows + other.rows, sum: self.sum.wrapping_add(other.sum) }
    }
}

impl AddAssign for Digest {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

/// What was added since `other` was taken. Rows that went missing in between saturate at zero, and the sums then differ.
impl Sub for Digest {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self { rows: self.rows.saturating_sub(other.rows), sum: self.sum.wrapping_sub(other.sum) }
    }
}

impl std::iter::Sum for Digest {
    fn sum<I: Iterator<Item = Self>>(digests: I) -> Self {
        digests.fold(Self::default(), Self::add)
    }
}

/// `rows:sum`, the sum in 32 hexadecimal digits; [`FromStr`] reads it back.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:032x}", self.rows, self.sum)
    }
}

impl FromStr for Digest {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (rows, sum) = text.split_once(':')?;
            Some(Self { rows: rows.parse().ok()?, sum: u128::from_str_radix(sum, 16).ok()? })
        };
        parse().ok_or_else(|| format!("`{text}` is not a digest"))
    }
}

/// Hashes rows of batches. One instance serves any number of batches and keeps its buffer between them.
#[derive(Debug, Default)]
pub struct RowHasher {
    lanes: Vec<Lanes>,
}

#[derive(Clone, Copy, Debug)]
struct Lanes(u64, u64);

const START: Lanes = Lanes(0x9E37_79B9_7F4A_7C15, 0xC2B2_AE3D_27D4_EB4F);
const VALUE: (u64, u64) = (0xA076_1D64_78BD_642F, 0xE703_7ED1_A0B4_28DB);
const NULL: (u64, u64) = (0x8EBC_6AF0_9C88_C6E3, 0x5899_65CC_7537_4CC3);

fn fold(a: u64, b: u64) -> u64 {
    let wide = u128::from(a) * u128::from(b);
    (wide as u64) ^ ((wide >> 64) as u64)
}

impl Lanes {
    fn value(&mut self, a: u64, b: u64) {
        self.0 = fold(self.0 ^ a, VALUE.0).wrapping_add(1);
        self.1 = fold(self.1.rotate_left(23) ^ b, VALUE.1).wrapping_add(1);
    }

    fn number(&mut self, value: u64) {
        self.value(value, value);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        let hash = xxh3_128(bytes);
        self.value(hash as u64, (hash >> 64) as u64);
    }

    fn null(&mut self) {
        self.0 = fold(self.0 ^ NULL.0, NULL.1).wrapping_add(2);
        self.1 = fold(self.1.rotate_left(23) ^ NULL.1, NULL.0).wrapping_add(2);
    }

    fn finish(self) -> u128 {
        let low = fold(self.0 ^ self.1.rotate_left(32), VALUE.1);
        let high = fold(self.1 ^ VALUE.0, self.0 | 1);
        (u128::from(high) << 64) | u128::from(low)
    }
}

impl RowHasher {
    /// The digest of a batch over all of its columns.
    pub fn digest(&mut self, batch: &RecordBatch) -> Digest {
        let columns: Vec<usize> = (0..batch.num_columns()).collect();
        let mut digest = Digest::default();
        for hash in self.hashes(batch, &columns) {
            digest.add_row(hash);
        }
        digest
    }

    /// The hash of every row over some of its columns.
    pub fn hashes(&mut self, batch: &RecordBatch, columns: &[usize]) -> impl Iterator<Item = u128> {
        self.lanes.clear();
        self.lanes.resize(batch.num_rows(), START);
        for &column in columns {
            hash_column(batch.column(column), &mut self.lanes);
        }
        self.lanes.iter().map(|lanes| lanes.finish())
    }
}

fn hash_column(array: &ArrayRef, lanes: &mut [Lanes]) {
    match array.data_type() {
        DataType::Boolean => {
            let array = array.as_boolean();
            each(array, lanes, |row, lanes| lanes.number(u64::from(array.value(row))));
        }
        DataType::Int8 => integers::<Int8Type>(array, lanes, |value| i64::from(value) as u64),
        DataType::Int16 => integers::<Int16Type>(array, lanes, |value| i64::from(value) as u64),
        DataType::Int32 => integers::<Int32Type>(array, lanes, |value| i64::from(value) as u64),
        DataType::Int64 => integers::<Int64Type>(array, lanes, |value| value as u64),
        DataType::UInt8 => integers::<UInt8Type>(array, lanes, u64::from),
        DataType::UInt16 => integers::<UInt16Type>(array, lanes, u64::from),
        DataType::UInt32 => integers::<UInt32Type>(array, lanes, u64::from),
        DataType::UInt64 => integers::<UInt64Type>(array, lanes, |value| value),
        DataType::Float32 => {
            integers::<Float32Type>(array, lanes, |value| if value.is_nan() { 1 } else { u64::from(value.to_bits()) << 32 })
        }
        DataType::Float64 => integers::<Float64Type>(array, lanes, |value| if value.is_nan() { 1 } else { value.to_bits() }),
        DataType::Date32 => integers::<Date32Type>(array, lanes, |value| i64::from(value) as u64),
        DataType::Time64(_) => integers::<Time64MicrosecondType>(array, lanes, |value| value as u64),
        DataType::Timestamp(_, _) => integers::<TimestampMicrosecondType>(array, lanes, |value| value as u64),
        DataType::Decimal128(_, _) => {
            let array = array.as_primitive::<Decimal128Type>();
            each(array, lanes, |row, lanes| {
                let value = array.value(row);
                lanes.value(value as u64, (value >> 64) as u64 ^ (value as u64).rotate_left(17));
            });
        }
        DataType::Decimal256(_, _) => {
            let array = array.as_primitive::<Decimal256Type>();
            each(array, lanes, |row, lanes| lanes.bytes(&array.value(row).to_le_bytes()));
        }
        DataType::Interval(_) => {
            let array = array.as_primitive::<IntervalMonthDayNanoType>();
            each(array, lanes, |row, lanes| {
                let value = array.value(row);
                lanes.value((value.months as u32 as u64) << 32 | value.days as u32 as u64, value.nanoseconds as u64);
            });
        }
        DataType::Utf8 => {
            let array = array.as_string::<i32>();
            each(array, lanes, |row, lanes| lanes.bytes(array.value(row).as_bytes()));
        }
        DataType::Binary => {
            let array = array.as_binary::<i32>();
            each(array, lanes, |row, lanes| lanes.bytes(array.value(row)));
        }
        DataType::FixedSizeBinary(_) => {
            let array = array.as_fixed_size_binary();
            each(array, lanes, |row, lanes| lanes.bytes(array.value(row)));
        }
        DataType::List(_) => {
            let array = array.as_list::<i32>();
            let mut items = vec![START; array.values().len()];
            hash_column(array.values(), &mut items);
            let offsets = array.value_offsets();
            each(array, lanes, |row, lanes| {
                let range = offsets[row] as usize..offsets[row + 1] as usize;
                lanes.number(range.len() as u64);
                for item in &items[range] {
                    lanes.value(item.0, item.1);
                }
            });
        }
        // `Schema::to_arrow` makes no other type, and every source normalizes to it.
        other => unreachable!("a batch holds the Arrow type {other}, which no logical type maps to"),
    }
}

fn integers<T: ArrowPrimitiveType>(array: &ArrayRef, lanes: &mut [Lanes], word: impl Fn(T::Native) -> u64) {
    let array = array.as_primitive::<T>();
    let values = array.values();
    each(array, lanes, |row, lanes| lanes.number(word(values[row])));
}

fn each(array: &dyn Array, lanes: &mut [Lanes], value: impl Fn(usize, &mut Lanes)) {
    match array.nulls().filter(|nulls| nulls.null_count() > 0) {
        None => lanes.iter_mut().enumerate().for_each(|(row, lanes)| value(row, lanes)),
        Some(nulls) => {
            for (row, lanes) in lanes.iter_mut().enumerate() {
                if nulls.is_null(row) { lanes.null() } else { value(row, lanes) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, Int64Array, StringArray};

    use super::*;

    fn digest(ids: Vec<Option<i64>>, names: Vec<Option<&str>>) -> Digest {
        let ids: ArrayRef = Arc::new(Int64Array::from(ids));
        let names: ArrayRef = Arc::new(StringArray::from(names));
        RowHasher::default().digest(&RecordBatch::try_from_iter_with_nullable([("id", ids, true), ("name", names, true)]).expect("a batch"))
    }

    #[test]
    fn order_and_batches_do_not_matter_and_values_do() {
        let whole = digest(vec![Some(1), Some(2), None], vec![Some("a"), None, Some("")]);
        assert_eq!(whole, digest(vec![None, Some(2), Some(1)], vec![Some(""), None, Some("a")]));
        assert_eq!(whole, digest(vec![Some(1)], vec![Some("a")]) + digest(vec![Some(2), None], vec![None, Some("")]));
        assert_eq!(whole - digest(vec![Some(1)], vec![Some("a")]), digest(vec![Some(2), None], vec![None, Some("")]));
        // Swapped between rows, NULL against empty, one digit, a doubled row.
        assert_ne!(whole, digest(vec![Some(2), Some(1), None], vec![Some("a"), None, Some("")]));
        assert_ne!(whole, digest(vec![Some(1), Some(2), None], vec![Some("a"), None, None]));
        assert_ne!(whole, digest(vec![Some(1), Some(3), None], vec![Some("a"), None, Some("")]));
        assert_ne!(whole, digest(vec![Some(1), Some(2), None, None], vec![Some("a"), None, Some(""), Some("")]));
        assert_eq!(whole.to_string().parse(), Ok(whole));
    }

    #[test]
    fn a_million_small_integers_have_a_million_hashes() {
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1_000_000));
        let batch = RecordBatch::try_from_iter([("id", ids)]).expect("a batch");
        let mut hasher = RowHasher::default();
        let hashes: std::collections::HashSet<u128> = hasher.hashes(&batch, &[0]).collect();
        assert_eq!(hashes.len(), 1_000_000);
        let low: std::collections::HashSet<u64> = hashes.iter().map(|hash| *hash as u64).collect();
        assert_eq!(low.len(), 1_000_000);
    }

    #[test]
    fn all_nans_are_one_and_zeros_are_two() {
        let one = |value: f64| {
            let array: ArrayRef = Arc::new(Float64Array::from(vec![value]));
            RowHasher::default().digest(&RecordBatch::try_from_iter([("x", array)]).expect("a batch"))
        };
        assert_eq!(one(f64::NAN), one(-f64::NAN));
        assert_ne!(one(0.0), one(-0.0));
    }
}
