use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, Date32Array, Decimal128Array, FixedSizeBinaryArray, Float32Array, Float64Array, Int64Array,
    IntervalMonthDayNanoArray, StringArray, Time64MicrosecondArray, TimestampMicrosecondArray,
};
use arrow::datatypes::IntervalMonthDayNano;
use proptest::prelude::*;

use super::{Builder, DAY_MICROS, Printer};
use crate::data::Type;

/// The text of a column's only value, which must be read back as the value it was.
fn text(ty: &Type, array: impl arrow::array::Array + 'static, spaced: bool) -> String {
    let array: ArrayRef = Arc::new(array);
    let printer = Printer::new(&array, ty);
    let printer = if spaced { printer.spaced() } else { printer };
    let mut text = Vec::new();
    printer.print(0, &mut text);
    let text = String::from_utf8(text).expect("UTF-8");
    for strict in [false, true] {
        let mut builder = Builder::new(ty, strict);
        assert_eq!(builder.append(&text), Ok(()), "{ty}: {text}");
        assert_eq!(&builder.finish(), &array, "{ty}: {text}");
    }
    text
}

#[test]
fn forms() {
    let check = |ty: Type, array: ArrayRef, expected: &str| assert_eq!(text(&ty, array, false), expected);
    check(Type::Date, Arc::new(Date32Array::from(vec![15_736])), "2013-01-31");
    check(Type::Date, Arc::new(Date32Array::from(vec![-735_160])), "-000043-03-15");
    check(Type::Date, Arc::new(Date32Array::from(vec![3_663_417])), "+012000-02-05");
    check(Type::Date, Arc::new(Date32Array::from(vec![i32::MAX - 1])), "+5881580-07-10");
    check(Type::Timestamp, Arc::new(TimestampMicrosecondArray::from(vec![1_357_016_400_000_000])), "2013-01-01T05:00:00");
    check(Type::TimestampTz, Arc::new(TimestampMicrosecondArray::from(vec![-1]).with_timezone("UTC")), "1969-12-31T23:59:59.999999Z");
    check(
        Type::Interval,
        Arc::new(IntervalMonthDayNanoArray::from(vec![IntervalMonthDayNano::new(14, -3, -1_500_000_000)])),
        "P14M-3DT-1.5S",
    );
    check(Type::Bytes, Arc::new(BinaryArray::from_vec(vec![b"\x00\xff"])), "\\x00ff");
    check(Type::Number, Arc::new(StringArray::from(vec!["-Infinity"])), "-Infinity");
    check(Type::Float(32), Arc::new(Float32Array::from(vec![0.1])), "0.1");
    let spaced = text(&Type::TimestampTz, TimestampMicrosecondArray::from(vec![0]).with_timezone("UTC"), true);
    assert_eq!(spaced, "1970-01-01 00:00:00Z");
}

#[test]
fn an_item_that_is_the_null_of_json_is_not_null() {
    let ty = Type::Array(Box::new(Type::Json));
    let mut builder = Builder::new(&ty, false);
    builder.append(r#"["null", null, {"a": "b"}, "\"text\""]"#).expect("an array");
    assert_eq!(text(&ty, builder.finish(), false), r#"["null",null,"{\"a\": \"b\"}","\"text\""]"#);
}

#[test]
fn a_guessed_number_is_no_code() {
    for ty in [Type::Int(64), Type::Float(64), Type::Decimal(18, 2), Type::Number] {
        for text in ["007", "+7", "-07"] {
            assert!(Builder::new(&ty, true).append(text).is_err(), "{text} {ty}");
            assert!(Builder::new(&ty, false).append(text).is_ok(), "{text} {ty}");
        }
    }
    assert!(Builder::new(&Type::Float(64), true).append("-0").is_ok(), "a float has a zero below zero");
}

proptest! {
    #[test]
    fn every_value_comes_back(
        days: i32, micros: i64, time in 0..=DAY_MICROS, months: i32, nanos: i64, bytes: [u8; 16], double: f64, single: f32,
        whole: i64, unscaled in -99_999_999_999_999_999_999_999_999_999_999_999_999_i128..=99_999_999_999_999_999_999_999_999_999_999_999_999,
    ) {
        text(&Type::Date, Date32Array::from(vec![days]), false);
        for spaced in [false, true] {
            text(&Type::Timestamp, TimestampMicrosecondArray::from(vec![micros]), spaced);
            text(&Type::TimestampTz, TimestampMicrosecondArray::from(vec![micros]).with_timezone("UTC"), spaced);
        }
        text(&Type::Time, Time64MicrosecondArray::from(vec![time]), false);
        text(&Type::Interval, IntervalMonthDayNanoArray::from(vec![IntervalMonthDayNano::new(months, days, nanos)]), false);
        text(&Type::Uuid, FixedSizeBinaryArray::try_from_iter([bytes].into_iter()).expect("16 bytes"), false);
        text(&Type::Bytes, BinaryArray::from_vec(vec![&bytes]), false);
        text(&Type::Float(64), Float64Array::from(vec![double]), false);
        text(&Type::Float(32), Float32Array::from(vec![single]), false);
        text(&Type::Int(64), Int64Array::from(vec![whole]), false);
        for scale in [0, 10, 38] {
            let array = Decimal128Array::from(vec![unscaled]).with_precision_and_scale(38, scale).expect("a decimal");
            text(&Type::Decimal(38, scale), array, false);
        }
    }
}
