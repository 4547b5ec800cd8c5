//! How logical types stand in PostgreSQL: which type a new column gets, and how well a value fits an existing one.

use super::types::{Kind, PgType};
use crate::data::{Column, Grade, Type};

/// How values of one column are written, and how faithfully.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fit {
    pub grade: Grade,
    /// Why it is not exact; empty when it is.
    pub reason: String,
    pub form: Form,
}

/// What an encoder does with the values of a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Bool,
    /// Whole numbers as signed integers of so many bytes.
    Int(u8),
    /// Whole numbers as an object identifier.
    Oid,
    Float4,
    Float8,
    /// Whole numbers, decimals and plain numbers; not more digits than this behind the point.
    Numeric(Option<u8>),
    /// The bytes as they are: text, bytes, uuids, native values.
    Bytes,
    Jsonb,
    Date,
    /// A date as the timestamp of its midnight.
    Midnight,
    Time,
    Timestamp,
    Interval,
    /// Values of this type, printed as text first.
    Printed(Type),
    /// Items of this form; their type's identifier.
    List(Box<Form>, u32),
}

fn fit_as(grade: Grade, reason: impl Into<String>, form: Form) -> Fit {
    Fit { grade, reason: reason.into(), form }
}

fn exact(form: Form) -> Fit {
    fit_as(Grade::Exact, "", form)
}

/// The type that a new column gets when the source's own type does not exist here; `None` for another engine's native types.
pub(super) fn natural(ty: &Type) -> Option<PgType> {
    let (kind, name, oid) = match ty {
        Type::Bool => (Kind::Bool, "boolean", 16),
        Type::Int(8 | 16) | Type::UInt(8) => (Kind::Int2, "smallint", 21),
        Type::Int(32) | Type::UInt(16) => (Kind::Int4, "integer", 23),
        Type::Int(_) | Type::UInt(32) => (Kind::Int8, "bigint", 20),
        Type::UInt(_) => return Some(numeric(20, 0)),
        Type::Float(32) => (Kind::Float4, "real", 700),
        Type::Float(_) => (Kind::Float8, "double precision", 701),
        Type::Decimal(precision, scale) if *scale < 0 => return Some(numeric(precision.saturating_add(scale.unsigned_abs()), 0)),
        Type::Decimal(precision, scale) => return Some(numeric(*precision, *scale)),
        Type::Number => (Kind::Numeric(None), "numeric", 1700),
        Type::Text | Type::Enum(_) => return Some(PgType::text()),
        Type::Bytes => (Kind::Bytea, "bytea", 17),
        Type::Date => (Kind::Date, "date", 1082),
        Type::Time => (Kind::Time, "time without time zone", 1083),
        Type::Timestamp => (Kind::Timestamp, "timestamp without time zone", 1114),
        Type::TimestampTz => (Kind::TimestampTz, "timestamp with time zone", 1184),
        Type::Interval => (Kind::Interval, "interval", 1186),
        Type::Uuid => (Kind::Uuid, "uuid", 2950),
        Type::Json => (Kind::Json, "json", 114),
        Type::Array(item) => {
            let item = natural(item).filter(|item| !matches!(item.kind, Kind::Array(_)))?;
            let name = format!("{}[]", item.name);
            return Some(PgType { kind: Kind::Array(Box::new(item)), name, oid: 0, modifier: -1, as_text: false, portable: true });
        }
        Type::Native { .. } => return None,
    };
    Some(PgType { kind, name: name.to_owned(), oid, modifier: -1, as_text: false, portable: true })
}

fn numeric(precision: u8, scale: i8) -> PgType {
    let modifier = ((i32::from(precision) << 16) | (i32::from(scale) & 0x7ff)) + 4;
    let kind = Kind::Numeric((precision <= 76).then_some((precision, scale)));
    PgType { kind, name: format!("numeric({precision},{scale})"), oid: 1700, modifier, as_text: false, portable: true }
}

/// How the values of `from` fit `to`. The error says why they do not.
pub(super) fn fit(from: &Column, to: &PgType) -> Result<Fit, String> {
    let same_native = from.native.as_deref() == Some(&to.name) && from.ty == to.logical();
    fit_type(&from.ty, to, same_native, from.native.as_deref())
}

fn fit_type(from: &Type, to: &PgType, same_native: bool, native: Option<&str>) -> Result<Fit, String> {
    let unfit = || Err(format!("{from} does not fit {}", to.name));
    if to.as_text {
        return Err(format!("{from} cannot be written to a type that has no portable binary form"));
    }
    Ok(match (from, &to.kind) {
        (Type::Bool, Kind::Bool) => exact(Form::Bool),
        (Type::Int(_) | Type::UInt(_), Kind::Int2) => integer(from, 16, Form::Int(2)),
        (Type::Int(_) | Type::UInt(_), Kind::Int4) => integer(from, 32, Form::Int(4)),
        (Type::Int(_) | Type::UInt(_), Kind::Int8) => integer(from, 64, Form::Int(8)),
        (Type::UInt(32), Kind::Oid) => exact(Form::Oid),
        (Type::Int(bits) | Type::UInt(bits), Kind::Numeric(_)) => {
            let digits = match bits {
                8 => 3,
                16 => 5,
                32 => 10,
                _ => 20,
            };
            decimal(digits, 0, to, false)
        }
        (Type::Float(32), Kind::Float4) => exact(Form::Float4),
        (Type::Float(64), Kind::Float8) => exact(Form::Float8),
        (Type::Float(32), Kind::Float8) => fit_as(Grade::Widened, "kept with more digits than it has", Form::Float8),
        (Type::Float(_), Kind::Float4) => fit_as(Grade::Lossy, "rounded to 24 binary digits", Form::Float4),
        (Type::Decimal(precision, scale), Kind::Numeric(_)) => decimal(i32::from(*precision), i32::from(*scale), to, true),
        (Type::Number, Kind::Numeric(_)) if to.modifier < 0 => exact(Form::Numeric(None)),
        (Type::Number, Kind::Numeric(limit)) => {
            let form = Form::Numeric(limit.map(|(_, scale)| scale.unsigned_abs()));
            fit_as(Grade::Lossy, format!("numbers that do not fit {} are refused", to.name), form)
        }
        (Type::Text | Type::Enum(_) | Type::Json, Kind::Text) => text(from, to, same_native),
        (Type::Text, Kind::Enum(_)) => fit_as(Grade::Lossy, format!("texts that are no {} are refused", to.name), Form::Bytes),
        (Type::Enum(labels), Kind::Enum(known)) => {
            if labels == known {
                exact(Form::Bytes)
            } else if labels.iter().all(|label| known.contains(label)) {
                fit_as(Grade::Widened, format!("{} has more labels", to.name), Form::Bytes)
            } else {
                fit_as(Grade::Lossy, format!("labels that {} lacks are refused", to.name), Form::Bytes)
            }
        }
        (Type::Json, Kind::Json) => exact(Form::Bytes),
        (Type::Json, Kind::Jsonb) if native == Some("jsonb") => exact(Form::Jsonb),
        (Type::Json, Kind::Jsonb) => {
            fit_as(Grade::Lossy, "jsonb keeps the meaning but not the text: order and doubles of keys, spaces", Form::Jsonb)
        }
        (Type::Bytes, Kind::Bytea) | (Type::Uuid, Kind::Uuid) => exact(Form::Bytes),
        (Type::Date, Kind::Date) => exact(Form::Date),
        (Type::Date, Kind::Timestamp) => fit_as(Grade::Widened, "midnight is added", Form::Midnight),
        (Type::Time, Kind::Time) => fraction(to, same_native, Form::Time),
        (Type::Timestamp, Kind::Timestamp) | (Type::TimestampTz, Kind::TimestampTz) => fraction(to, same_native, Form::Timestamp),
        (Type::Interval, Kind::Interval) if to.modifier < 0 || same_native => exact(Form::Interval),
        (Type::Interval, Kind::Interval) => fit_as(Grade::Lossy, format!("cut to the fields of {}", to.name), Form::Interval),
        (Type::Array(from), Kind::Array(to)) => {
            let item = fit_type(from, to, same_native, native.and_then(|native| native.strip_suffix("[]")))?;
            Fit { form: Form::List(Box::new(item.form), to.oid), ..item }
        }
        (Type::Native { engine: "postgres", name }, Kind::Opaque) if *name == to.name => exact(Form::Bytes),
        (Type::Bool | Type::Int(_) | Type::UInt(_) | Type::Float(_) | Type::Decimal(..) | Type::Number | Type::Uuid, Kind::Text)
            if to.modifier < 0 =>
        {
            fit_as(Grade::Widened, "kept as text", Form::Printed(from.clone()))
        }
        _ => return unfit(),
    })
}

fn integer(from: &Type, bits: u8, form: Form) -> Fit {
    match from {
        Type::Int(have) if *have == bits => exact(form),
        Type::Int(have) if *have < bits => fit_as(Grade::Widened, "a wider integer", form),
        Type::UInt(have) if *have < bits => {
            fit_as(Grade::Widened, "PostgreSQL has no unsigned integers; the next wider type holds all values", form)
        }
        _ => fit_as(Grade::Lossy, format!("numbers beyond {bits} bits are refused"), form),
    }
}

fn decimal(precision: i32, scale: i32, to: &PgType, is_decimal: bool) -> Fit {
    let refused = || format!("numbers that do not fit {} are refused", to.name);
    match to.kind {
        Kind::Numeric(Some((p, s))) => {
            let (p, s) = (i32::from(p), i32::from(s));
            let form = Form::Numeric(Some(s as u8));
            match () {
                () if is_decimal && (p, s) == (precision, scale) => exact(form),
                () if s >= scale && p - s >= precision - scale => fit_as(Grade::Widened, "a wider number", form),
                () => fit_as(Grade::Lossy, refused(), form),
            }
        }
        _ if to.modifier < 0 => fit_as(Grade::Widened, "a number of any size", Form::Numeric(None)),
        _ => fit_as(Grade::Lossy, refused(), Form::Numeric(None)),
    }
}

fn text(from: &Type, to: &PgType, same_native: bool) -> Fit {
    if to.name == "text" || to.name.ends_with("citext") || to.name == "character varying" {
        return match from {
            Type::Text => exact(Form::Bytes),
            _ => fit_as(Grade::Widened, "kept as text", Form::Bytes),
        };
    }
    match () {
        () if same_native => exact(Form::Bytes),
        () if to.name.starts_with("character(") || to.name == "character" => {
            fit_as(Grade::Lossy, format!("padded with blanks to {}", to.name), Form::Bytes)
        }
        () if to.name == "name" => fit_as(Grade::Lossy, "cut after 63 bytes", Form::Bytes),
        () => fit_as(Grade::Lossy, format!("texts too long for {} are refused", to.name), Form::Bytes),
    }
}

fn fraction(to: &PgType, same_native: bool, form: Form) -> Fit {
    match to.modifier {
        modifier if !(0..6).contains(&modifier) || same_native => exact(form),
        digits => fit_as(Grade::Lossy, format!("rounded to {digits} digits of a second"), form),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::samples::all_types;

    #[test]
    fn what_is_created_for_a_type_holds_all_of_it() {
        for ty in all_types().into_iter().chain([Type::Decimal(5, -3)]) {
            let created = natural(&ty).expect("a type");
            let fit = fit(&Column::new("c", ty.clone()), &created).expect("a fit");
            assert!(fit.grade <= Grade::Widened, "{ty} as {}: {}", created.name, fit.reason);
            assert_eq!(fit.grade == Grade::Exact, fit.reason.is_empty(), "{ty}");
        }
    }

    #[test]
    fn grades() {
        let check = |from: Type, to: PgType, grade: Option<Grade>| {
            let fit = fit(&Column::new("c", from.clone()), &to);
            assert_eq!(fit.as_ref().ok().map(|fit| fit.grade), grade, "{from} into {}: {fit:?}", to.name);
        };
        let of = |ty: &Type| natural(ty).expect("a type");
        check(Type::Int(64), of(&Type::Int(32)), Some(Grade::Lossy));
        check(Type::Int(16), of(&Type::Int(64)), Some(Grade::Widened));
        check(Type::Decimal(15, 2), of(&Type::Decimal(15, 3)), Some(Grade::Lossy));
        check(Type::Decimal(15, 2), of(&Type::Decimal(16, 3)), Some(Grade::Widened));
        check(Type::Decimal(15, 2), of(&Type::Number), Some(Grade::Widened));
        check(Type::Number, of(&Type::Decimal(15, 2)), Some(Grade::Lossy));
        check(Type::UInt(64), of(&Type::Int(64)), Some(Grade::Lossy));
        check(Type::Json, PgType { kind: Kind::Jsonb, name: "jsonb".to_owned(), ..PgType::text() }, Some(Grade::Lossy));
        check(Type::Text, of(&Type::Uuid), None);
        check(Type::Timestamp, of(&Type::TimestampTz), None);
        check(Type::Uuid, of(&Type::Text), Some(Grade::Widened));
    }
}
