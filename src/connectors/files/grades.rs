//! What becomes of each type in each format, and what a source would make of it.

use crate::data::{Column, Grade, Mapped, Schema, Type};
use crate::define::pipeline::FileFormat;

/// Why a type cannot stand in a format; `None` when it can.
pub(super) fn refused(ty: &Type, format: &FileFormat) -> Option<&'static str> {
    match (ty, format) {
        (Type::Native { .. }, _) => Some("only its own engine can read it"),
        (Type::Array(item), _) if matches!(**item, Type::Native { .. }) => Some("only its own engine can read its items"),
        _ => None,
    }
}

/// Whether values of a type have a JSON form.
pub(in crate::connectors) fn can_be_json(ty: &Type) -> bool {
    refused(ty, &FileFormat::Ndjson).is_none()
}

/// What columns become in JSON.
pub(in crate::connectors) fn json_columns(incoming: &Schema) -> Vec<Mapped> {
    map(incoming, &FileFormat::Ndjson)
}

/// The columns of a file.
pub(super) fn map(incoming: &Schema, format: &FileFormat) -> Vec<Mapped> {
    let one = |column: &Column| {
        let (native, reason) = match format {
            FileFormat::Csv(_) => csv(&column.ty),
            FileFormat::Ndjson => ndjson(&column.ty),
            FileFormat::Parquet => parquet(&column.ty),
        };
        let grade = if reason.is_empty() { Grade::Exact } else { Grade::Widened };
        Mapped { name: column.name.clone(), native, grade, reason: reason.to_owned() }
    };
    incoming.columns.iter().map(one).collect()
}

fn csv(ty: &Type) -> (String, &'static str) {
    let reason = match ty {
        Type::Text => "",
        Type::Bytes => "CSV is text: `\\x` and hexadecimal digits",
        Type::Array(item) if **item == Type::Json => "CSV is text: a JSON array of strings that hold JSON",
        Type::Array(_) => "CSV is text: a JSON array",
        Type::Interval => "CSV is text: an ISO 8601 duration",
        _ => "CSV is text; every value is kept in full",
    };
    ("text".to_owned(), reason)
}

fn ndjson(ty: &Type) -> (String, &'static str) {
    let (native, reason) = match ty {
        Type::Bool => ("boolean", ""),
        Type::Int(8 | 16 | 32) | Type::UInt(8 | 16 | 32) => ("number", ""),
        Type::Int(_) | Type::UInt(_) | Type::Decimal(..) => ("number", "all digits are written; a reader that uses doubles keeps about 15"),
        Type::Number => ("number", "all digits are written, and `NaN` and the infinities as strings"),
        Type::Float(_) => ("number", "`NaN` and the infinities are written as strings"),
        Type::Text => ("string", ""),
        Type::Json => ("value", ""),
        Type::Array(item) if **item == Type::Json => ("array", "the items are strings that hold JSON, so that `null` is not NULL"),
        Type::Array(_) => ("array", ""),
        Type::Bytes => ("string", "JSON has no bytes: `\\x` and hexadecimal digits"),
        Type::Interval => ("string", "JSON has no intervals: an ISO 8601 duration"),
        _ => ("string", "JSON has no such type: its text form"),
    };
    (native.to_owned(), reason)
}

fn parquet(ty: &Type) -> (String, &'static str) {
    let (native, reason) = match ty {
        Type::Bool => ("BOOLEAN", ""),
        Type::Int(bits) => return (format!("INT({bits},true)"), ""),
        Type::UInt(bits) => return (format!("INT({bits},false)"), ""),
        Type::Float(32) => ("FLOAT", ""),
        Type::Float(_) => ("DOUBLE", ""),
        Type::Decimal(precision, scale) => return (format!("DECIMAL({precision},{scale})"), ""),
        Type::Number => ("STRING", "Parquet has no decimal without a precision: its text form"),
        Type::Text => ("STRING", ""),
        Type::Bytes | Type::Native { .. } => ("BYTE_ARRAY", ""),
        Type::Date => ("DATE", ""),
        Type::Time => ("TIME(MICROS)", ""),
        Type::Timestamp => ("TIMESTAMP(MICROS,false)", ""),
        Type::TimestampTz => ("TIMESTAMP(MICROS,true)", ""),
        Type::Interval => ("STRING", "Parquet's own interval is coarser: an ISO 8601 duration"),
        Type::Uuid => ("UUID", ""),
        Type::Json => ("JSON", ""),
        Type::Enum(_) => ("STRING", "the set of texts is only kept for readers of haul"),
        Type::Array(item) => {
            let (item, reason) = parquet(item);
            return (format!("LIST({item})"), reason);
        }
    };
    (native.to_owned(), reason)
}

/// The columns as a source on the file would most likely describe them. Text formats carry no types: what a source guesses depends on the
/// values.
pub(super) fn reads_as(incoming: &Schema, format: &FileFormat) -> Schema {
    let one = |column: &Column| {
        let ty = match format {
            FileFormat::Parquet => column.ty.clone(),
            FileFormat::Csv(_) => guessed(&column.ty, false),
            FileFormat::Ndjson => guessed(&column.ty, true),
        };
        Column { name: column.name.clone(), ty, nullable: column.nullable || *format != FileFormat::Parquet, native: None }
    };
    Schema { columns: incoming.columns.iter().map(one).collect() }
}

fn guessed(ty: &Type, json: bool) -> Type {
    match ty {
        Type::Bool | Type::Date | Type::Timestamp | Type::TimestampTz => ty.clone(),
        Type::Int(_) | Type::UInt(8 | 16 | 32) => Type::Int(64),
        Type::UInt(_) => Type::Decimal(38, 0),
        Type::Float(_) => Type::Float(64),
        Type::Decimal(_, 0) => Type::Int(64),
        Type::Decimal(precision, scale) if *precision <= 15 && *scale <= 9 => Type::Decimal(18, *scale),
        Type::Decimal(precision, scale) if *precision <= 38 && *scale <= 9 => Type::Decimal(38, *scale),
        Type::Decimal(..) | Type::Number => Type::Number,
        Type::Json | Type::Array(_) if json => Type::Json,
        _ => Type::Text,
    }
}
