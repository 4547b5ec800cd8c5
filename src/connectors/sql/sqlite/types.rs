//! What SQLite's declared types mean, and which declared type each logical type becomes.
//!
//! SQLite decides by the name of a declared type how stored values are changed (its *affinity*): a column of `DECIMAL(15,2)` turns the
//! text `1.10` into the float 1.1. The names that haul creates therefore end in `_TEXT` or `_BLOB` where a value must stay as it was
//! written; they carry the logical type, so that the source reads it back. See <https://sqlite.org/datatype3.html#determination_of_column_affinity>.

use crate::data::{Grade, Type};

/// How SQLite changes values on their way into a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Affinity {
    Integer,
    Text,
    Blob,
    Real,
    Numeric,
}

impl Affinity {
    /// By SQLite's own rules, in its own order.
    pub(super) fn of(declared: &str) -> Self {
        let upper = declared.to_ascii_uppercase();
        let has = |part: &str| upper.contains(part);
        if has("INT") {
            Self::Integer
        } else if has("CHAR") || has("CLOB") || has("TEXT") {
            Self::Text
        } else if has("BLOB") || upper.is_empty() {
            Self::Blob
        } else if has("REAL") || has("FLOA") || has("DOUB") {
            Self::Real
        } else {
            Self::Numeric
        }
    }

    /// Whether texts that look like numbers are turned into numbers.
    pub(super) fn numeric(self) -> bool {
        matches!(self, Self::Integer | Self::Real | Self::Numeric)
    }
}

/// The logical type a declared type promises; `None` when it promises nothing, so that the values must be looked at.
pub(super) fn logical(declared: &str) -> Option<Type> {
    let upper = declared.trim().to_ascii_uppercase();
    let (name, arguments) = match upper.split_once('(') {
        Some((name, rest)) => (name.trim_end(), rest.trim_end().strip_suffix(')').unwrap_or(rest)),
        None => (upper.as_str(), ""),
    };
    Some(match name {
        "BOOLEAN" | "BOOL" => Type::Bool,
        "INT1" => Type::Int(8),
        "INT2" => Type::Int(16),
        "INT4" => Type::Int(32),
        "UINT1" => Type::UInt(8),
        "UINT2" => Type::UInt(16),
        "UINT4" => Type::UInt(32),
        "FLOAT_BLOB" => Type::Float(32),
        "DOUBLE_BLOB" => Type::Float(64),
        "DECIMAL" | "NUMERIC" | "DECIMAL_TEXT" => decimal(arguments),
        "DATE" | "DATE_TEXT" => Type::Date,
        "TIME" | "TIME_TEXT" => Type::Time,
        "DATETIME" | "TIMESTAMP" | "TIMESTAMP_TEXT" | "TIMESTAMP WITHOUT TIME ZONE" => Type::Timestamp,
        "TIMESTAMPTZ" | "TIMESTAMPTZ_TEXT" | "TIMESTAMP WITH TIME ZONE" => Type::TimestampTz,
        "DURATION_TEXT" => Type::Interval,
        "UUID" | "UUID_TEXT" | "GUID" | "UNIQUEIDENTIFIER" => Type::Uuid,
        "JSON" | "JSON_TEXT" => Type::Json,
        "ARRAY_TEXT" => return Some(arguments.to_ascii_lowercase().parse().map_or(Type::Text, |item| Type::Array(Box::new(item)))),
        "" => return None,
        name => match Affinity::of(name) {
            Affinity::Integer => Type::Int(64),
            Affinity::Text => Type::Text,
            Affinity::Blob => Type::Bytes,
            Affinity::Real => Type::Float(64),
            Affinity::Numeric => return None,
        },
    })
}

fn decimal(arguments: &str) -> Type {
    let mut numbers = arguments.split(',').map(|number| number.trim().parse::<u8>().ok());
    match (numbers.next().flatten(), numbers.next()) {
        (Some(precision @ 1..=76), None) => Type::Decimal(precision, 0),
        (Some(precision @ 1..=76), Some(Some(scale))) if scale <= precision => Type::Decimal(precision, scale as i8),
        _ => Type::Number,
    }
}

/// What a logical type becomes in a new column: the declared type, with grade and reason.
pub(super) struct Created {
    pub(super) declared: String,
    pub(super) grade: Grade,
    pub(super) reason: String,
}

/// The declared type of a new column. `rowid` says that the column alone is the primary key: an integer then becomes SQLite's own row
/// number, which needs no further index and must be spelled `INTEGER`.
pub(super) fn create(ty: &Type, rowid: bool) -> Created {
    let exact = |declared: &str| Created { declared: declared.to_owned(), grade: Grade::Exact, reason: String::new() };
    let widened =
        |declared: &str, reason: &str| Created { declared: declared.to_owned(), grade: Grade::Widened, reason: reason.to_owned() };
    match ty {
        Type::Int(64) if rowid => exact("INTEGER"),
        Type::Int(_) | Type::UInt(8 | 16 | 32) if rowid => widened("INTEGER", "an integer primary key has 64 bits"),
        Type::Bool => exact("BOOLEAN"),
        Type::Int(8) => exact("INT1"),
        Type::Int(16) => exact("INT2"),
        Type::Int(32) => exact("INT4"),
        Type::Int(_) => exact("BIGINT"),
        Type::UInt(8) => exact("UINT1"),
        Type::UInt(16) => exact("UINT2"),
        Type::UInt(32) => exact("UINT4"),
        Type::UInt(_) => widened("DECIMAL_TEXT(20,0)", "SQLite's integers end at 2^63 - 1; kept as decimal text"),
        Type::Float(32) => exact("FLOAT_BLOB"),
        Type::Float(_) => exact("DOUBLE_BLOB"),
        Type::Decimal(precision, scale) => exact(&format!("DECIMAL_TEXT({precision},{scale})")),
        Type::Number => exact("DECIMAL_TEXT"),
        Type::Text => exact("TEXT"),
        Type::Bytes => exact("BLOB"),
        Type::Date => exact("DATE_TEXT"),
        Type::Time => exact("TIME_TEXT"),
        Type::Timestamp => exact("TIMESTAMP_TEXT"),
        Type::TimestampTz => exact("TIMESTAMPTZ_TEXT"),
        Type::Interval => exact("DURATION_TEXT"),
        Type::Uuid => exact("UUID_TEXT"),
        Type::Json => exact("JSON_TEXT"),
        Type::Enum(_) => widened("TEXT", "SQLite has no enums; kept as text"),
        Type::Array(item) => match item.to_string().parse::<Type>() {
            Ok(_) => exact(&format!("ARRAY_TEXT({item})")),
            Err(_) => widened("ARRAY_TEXT(text)", "the items' type has no name in SQLite; kept as JSON text"),
        },
        Type::Native { engine, .. } => {
            Created { declared: "BLOB".to_owned(), grade: Grade::Lossy, reason: format!("only {engine} understands these bytes") }
        }
    }
}

/// How faithfully an existing column keeps a logical type; the error says why it cannot.
pub(super) fn fit(ty: &Type, declared: &str) -> Result<(Grade, String), String> {
    let affinity = Affinity::of(declared);
    let meant = logical(declared);
    let widened = |reason: &str| Ok((Grade::Widened, reason.to_owned()));
    let lossy = |reason: &str| Ok((Grade::Lossy, reason.to_owned()));
    let refused = || Err(format!("a column of type `{declared}` is not for values of type {ty}"));
    if let Type::Native { engine, .. } = ty {
        return if meant == Some(Type::Bytes) { Ok((Grade::Lossy, format!("only {engine} understands these bytes"))) } else { refused() };
    }
    if meant.as_ref() == Some(ty) {
        return match ty {
            Type::Decimal(precision, _) if affinity.numeric() && *precision > 15 => {
                lossy("a column of this type turns decimals into floats, which hold 15 digits")
            }
            Type::Number if affinity.numeric() => lossy("a column of this type turns decimals into floats, which hold 15 digits"),
            Type::Json if affinity.numeric() => lossy("a column of this type turns a JSON text that is a bare number into a float"),
            Type::Float(_) if affinity.numeric() => widened("NaN and -0.0 are kept as text"),
            _ => Ok((Grade::Exact, String::new())),
        };
    }
    match (ty, meant) {
        (Type::Bool | Type::Int(_) | Type::UInt(8 | 16 | 32), Some(Type::Int(64))) => widened("kept as a 64-bit integer"),
        (Type::Int(from), Some(Type::Int(to))) if *from < to => widened("kept as a larger integer"),
        (Type::UInt(from), Some(Type::UInt(to) | Type::Int(to))) if *from < to => widened("kept as a larger integer"),
        (Type::Int(8..=32) | Type::UInt(8..=32), Some(Type::Float(64))) => widened("kept as a float"),
        (Type::Int(_) | Type::UInt(_), Some(Type::Number)) if affinity == Affinity::Text => widened("kept as decimal text"),
        (Type::UInt(64), Some(Type::Decimal(20.., 0))) if affinity == Affinity::Text => widened("kept as decimal text"),
        (Type::Decimal(precision, scale), Some(Type::Decimal(to_precision, to_scale)))
            if *scale <= to_scale && i16::from(*precision) - i16::from(*scale) <= i16::from(to_precision) - i16::from(to_scale) =>
        {
            if affinity.numeric() && *precision > 15 {
                lossy("a column of this type turns decimals into floats, which hold 15 digits")
            } else {
                widened("kept as a larger decimal")
            }
        }
        (Type::Decimal(..), Some(Type::Number)) if affinity == Affinity::Text => widened("kept as a decimal of any size"),
        (Type::Decimal(..=15, _), Some(Type::Number)) => widened("kept as a decimal of any size"),
        (Type::Float(32), Some(Type::Float(64))) => {
            widened(if affinity.numeric() { "NaN and -0.0 are kept as text" } else { "kept as a double" })
        }
        (Type::Bytes | Type::Native { .. }, _) => refused(),
        (_, Some(Type::Text)) => widened("kept as text"),
        (_, None) if affinity == Affinity::Blob => widened("a column without a type takes every value"),
        _ => refused(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::samples::all_types;

    #[test]
    fn created_types_are_read_back_as_what_they_were() {
        for ty in all_types() {
            let created = create(&ty, false);
            // What SQLite cannot name it keeps whole, as another type.
            if matches!(ty, Type::UInt(64) | Type::Enum(_)) {
                assert_eq!(created.grade, Grade::Widened, "{ty}");
                continue;
            }
            assert_eq!(created.grade, Grade::Exact, "{ty}");
            assert_eq!(logical(&created.declared), Some(ty.clone()), "{}", created.declared);
            assert_eq!(fit(&ty, &created.declared), Ok((Grade::Exact, String::new())));
            // Texts must stay texts, and floats must keep the sign of zero.
            let kept = matches!(ty, Type::Bool | Type::Int(_) | Type::UInt(_) | Type::Array(_));
            assert!(kept || !Affinity::of(&created.declared).numeric(), "{}", created.declared);
        }
    }

    #[test]
    fn names_of_other_makers() {
        for (declared, expected) in [
            ("INTEGER", Some(Type::Int(64))),
            ("tinyint(1)", Some(Type::Int(64))),
            ("unsigned big int", Some(Type::Int(64))),
            ("varchar(20)", Some(Type::Text)),
            ("NVARCHAR (20)", Some(Type::Text)),
            ("double precision", Some(Type::Float(64))),
            ("decimal(10, 5)", Some(Type::Decimal(10, 5))),
            ("NUMERIC", Some(Type::Number)),
            ("numeric(7)", Some(Type::Decimal(7, 0))),
            ("datetime", Some(Type::Timestamp)),
            ("STRING", None),
            ("", None),
        ] {
            assert_eq!(logical(declared), expected, "{declared}");
        }
    }
}
