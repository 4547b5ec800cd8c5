//! Logical columns and types, and how they stand in Arrow.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, IntervalUnit, SchemaRef, TimeUnit};

/// The field metadata key under which a logical type that Arrow cannot express is kept.
pub(crate) const TYPE_KEY: &str = "haul.type";
/// The key under which the source's own name of the type is kept.
pub(crate) const NATIVE_KEY: &str = "haul.native";

/// The logical types between engines. See `docs/types.md` for how each engine maps to them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// True or false. Arrow `Boolean`.
    Bool,
    /// Signed integer of 8, 16, 32 or 64 bits. Arrow `Int8` … `Int64`.
    Int(u8),
    /// Unsigned integer of 8, 16, 32 or 64 bits. Arrow `UInt8` … `UInt64`.
    UInt(u8),
    /// IEEE 754 float of 32 or 64 bits, NaN and infinities included. Arrow `Float32`, `Float64`.
    Float(u8),
    /// Exact decimal: precision 1 to 76 and scale. Arrow `Decimal128` up to precision 38, `Decimal256` beyond.
    Decimal(u8, i8),
    /// Exact decimal without stated precision, NaN and ±Infinity included. Arrow `Utf8`, in the plain form of
    /// PostgreSQL's numeric output: `-12.50`, `NaN`, `Infinity`, `-Infinity`; no exponent.
    Number,
    /// Unicode text. Arrow `Utf8`.
    Text,
    /// Bytes. Arrow `Binary`.
    Bytes,
    /// Calendar date, days since 1970-01-01. Arrow `Date32`. `i32::MAX` and `i32::MIN` mean +infinity and -infinity.
    Date,
    /// Time of day in microseconds, 24:00:00 included. Arrow `Time64(Microsecond)`.
    Time,
    /// Date and time without a zone, microseconds since 1970-01-01. Arrow `Timestamp(Microsecond, None)`.
    /// `i64::MAX` and `i64::MIN` mean +infinity and -infinity.
    Timestamp,
    /// An instant, microseconds since 1970-01-01 UTC. Arrow `Timestamp(Microsecond, "UTC")`. Infinities as above.
    TimestampTz,
    /// Months, days and nanoseconds. Arrow `Interval(MonthDayNano)`.
    Interval,
    /// 16 bytes. Arrow `FixedSizeBinary(16)`.
    Uuid,
    /// JSON text, kept as written. Arrow `Utf8`.
    Json,
    /// One of a closed set of texts. Arrow `Utf8`.
    Enum(Arc<[String]>),
    /// One-dimensional array. Arrow `List` of a nullable field named `item`.
    Array(Box<Type>),
    /// A type that only its own engine understands, carried in that engine's binary form. Arrow `Binary`.
    Native {
        /// The engine's name, such as `postgres`.
        engine: &'static str,
        /// The engine's name of the type, such as `inet`.
        name: String,
    },
}

/// One column of a stream of batches.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Column {
    /// Its name, as the source spells it.
    pub name: String,
    /// What its values mean.
    pub ty: Type,
    /// False only when the source promises that no value is NULL.
    pub nullable: bool,
    /// The source's own name of the type, such as `character varying(20)`: shown in plans, and reused in DDL when the
    /// target is the same engine.
    pub native: Option<String>,
}

impl Column {
    /// A nullable column without a native type.
    pub fn new(name: impl Into<String>, ty: Type) -> Self {
        Self { name: name.into(), ty, nullable: true, native: None }
    }
}

/// The columns that cross an edge, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Schema {
    /// In the order of the batches' columns.
    pub columns: Vec<Column>,
}

impl Schema {
    /// The column of that exact name and its place.
    pub fn find(&self, name: &str) -> Option<(usize, &Column)> {
        self.columns.iter().enumerate().find(|(_, column)| column.name == name)
    }

    /// The same columns, each of which may hold NULLs: rows of others beside those that were sent.
    pub fn with_nulls(&self) -> Self {
        Self { columns: self.columns.iter().map(|column| Column { nullable: true, ..column.clone() }).collect() }
    }

    /// Makes text of those columns of an engine's own type that are to be read in their text form; gives their names. `wanted` is asked for each,
    /// with the engine.
    pub fn take_as_text(&mut self, wanted: impl Fn(&Column, &str) -> bool) -> Vec<String> {
        let mut names = Vec::new();
        for column in &mut self.columns {
            if let Type::Native { engine, .. } = column.ty
                && wanted(column, engine)
            {
                names.push(column.name.clone());
                column.ty = Type::Text;
            }
        }
        names
    }

    /// The Arrow schema of the batches that carry these columns.
    pub fn to_arrow(&self) -> SchemaRef {
        Arc::new(arrow::datatypes::Schema::new(self.columns.iter().map(Column::to_arrow).collect::<Vec<_>>()))
    }

    /// The logical columns of an Arrow schema: metadata that [`Schema::to_arrow`] wrote wins, otherwise the nearest logical
    /// type. The error is a sentence that names the column and the Arrow type nothing here can hold.
    pub fn from_arrow(schema: &arrow::datatypes::Schema) -> Result<Self, String> {
        let columns = schema.fields().iter().map(|field| Column::from_arrow(field)).collect::<Result<_, _>>()?;
        Ok(Self { columns })
    }
}

impl Column {
    fn to_arrow(&self) -> Field {
        let mut field = Field::new(&self.name, self.ty.to_arrow(), self.nullable);
        let mut metadata = std::collections::HashMap::new();
        if let Some(word) = self.ty.word() {
            metadata.insert(TYPE_KEY.to_owned(), word);
        }
        if let Some(native) = &self.native {
            metadata.insert(NATIVE_KEY.to_owned(), native.clone());
        }
        field.set_metadata(metadata);
        field
    }

    fn from_arrow(field: &Field) -> Result<Self, String> {
        let ty = match field.metadata().get(TYPE_KEY).and_then(|word| Type::from_word(word)) {
            Some(ty) if ty.to_arrow() == *field.data_type() => ty,
            _ => Type::from_arrow(field.data_type())
                .ok_or_else(|| format!("column `{}` has the Arrow type {}, which haul cannot carry", field.name(), field.data_type()))?,
        };
        Ok(Self { name: field.name().clone(), ty, nullable: field.is_nullable(), native: field.metadata().get(NATIVE_KEY).cloned() })
    }
}

impl Type {
    /// The Arrow type that carries it.
    pub fn to_arrow(&self) -> DataType {
        match self {
            Self::Bool => DataType::Boolean,
            Self::Int(8) => DataType::Int8,
            Self::Int(16) => DataType::Int16,
            Self::Int(32) => DataType::Int32,
            Self::Int(_) => DataType::Int64,
            Self::UInt(8) => DataType::UInt8,
            Self::UInt(16) => DataType::UInt16,
            Self::UInt(32) => DataType::UInt32,
            Self::UInt(_) => DataType::UInt64,
            Self::Float(32) => DataType::Float32,
            Self::Float(_) => DataType::Float64,
            Self::Decimal(precision, scale) if *precision <= 38 => DataType::Decimal128(*precision, *scale),
            Self::Decimal(precision, scale) => DataType::Decimal256(*precision, *scale),
            Self::Number | Self::Text | Self::Json | Self::Enum(_) => DataType::Utf8,
            Self::Bytes | Self::Native { .. } => DataType::Binary,
            Self::Date => DataType::Date32,
            Self::Time => DataType::Time64(TimeUnit::Microsecond),
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::TimestampTz => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Interval => DataType::Interval(IntervalUnit::MonthDayNano),
            Self::Uuid => DataType::FixedSizeBinary(16),
            Self::Array(item) => DataType::List(Arc::new(Column::new("item", (**item).clone()).to_arrow())),
        }
    }

    /// The nearest logical type of an Arrow type that carries no metadata of ours. Types that only differ in their layout
    /// (large or view forms, dictionaries, other time units) map to the type that `data::normalize` casts them to.
    pub fn from_arrow(ty: &DataType) -> Option<Self> {
        Some(match ty {
            DataType::Boolean => Self::Bool,
            DataType::Int8 => Self::Int(8),
            DataType::Int16 => Self::Int(16),
            DataType::Int32 => Self::Int(32),
            DataType::Int64 => Self::Int(64),
            DataType::UInt8 => Self::UInt(8),
            DataType::UInt16 => Self::UInt(16),
            DataType::UInt32 => Self::UInt(32),
            DataType::UInt64 => Self::UInt(64),
            DataType::Float16 | DataType::Float32 => Self::Float(32),
            DataType::Float64 => Self::Float(64),
            DataType::Decimal32(p, s) | DataType::Decimal64(p, s) | DataType::Decimal128(p, s) | DataType::Decimal256(p, s) => {
                Self::Decimal(*p, *s)
            }
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Self::Text,
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => Self::Bytes,
            DataType::Date32 | DataType::Date64 => Self::Date,
            DataType::Time32(_) | DataType::Time64(_) => Self::Time,
            DataType::Timestamp(_, None) => Self::Timestamp,
            DataType::Timestamp(_, Some(_)) => Self::TimestampTz,
            DataType::Interval(_) => Self::Interval,
            DataType::Dictionary(_, value) => Self::from_arrow(value)?,
            DataType::List(item) | DataType::LargeList(item) | DataType::ListView(item) => {
                Self::Array(Box::new(Column::from_arrow(item).ok()?.ty))
            }
            _ => return None,
        })
    }

    /// The word kept in Arrow metadata for types that share an Arrow type with another one.
    fn word(&self) -> Option<String> {
        Some(match self {
            Self::Number => "number".to_owned(),
            Self::Json => "json".to_owned(),
            Self::Uuid => "uuid".to_owned(),
            Self::Enum(values) => format!("enum:{}", serde_json::to_string(&values[..]).unwrap_or_default()),
            Self::Native { engine, name } => format!("native:{engine}:{name}"),
            _ => return None,
        })
    }

    fn from_word(word: &str) -> Option<Self> {
        Some(match word {
            "number" => Self::Number,
            "json" => Self::Json,
            "uuid" => Self::Uuid,
            _ => {
                if let Some(values) = word.strip_prefix("enum:") {
                    Self::Enum(serde_json::from_str::<Vec<String>>(values).ok()?.into())
                } else {
                    let (engine, name) = word.strip_prefix("native:")?.split_once(':')?;
                    let engine = ["postgres", "mysql", "sqlite", "redis"].into_iter().find(|known| *known == engine)?;
                    Self::Native { engine, name: name.to_owned() }
                }
            }
        })
    }
}

/// The name used in plans, errors and in `columns:`: `int64`, `decimal(15,2)`, `text`, `array(int32)`, `postgres inet`.
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool => f.write_str("bool"),
            Self::Int(bits) => write!(f, "int{bits}"),
            Self::UInt(bits) => write!(f, "uint{bits}"),
            Self::Float(bits) => write!(f, "float{bits}"),
            Self::Decimal(precision, scale) => write!(f, "decimal({precision},{scale})"),
            Self::Number => f.write_str("decimal"),
            Self::Text => f.write_str("text"),
            Self::Bytes => f.write_str("bytes"),
            Self::Date => f.write_str("date"),
            Self::Time => f.write_str("time"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::TimestampTz => f.write_str("timestamptz"),
            Self::Interval => f.write_str("interval"),
            Self::Uuid => f.write_str("uuid"),
            Self::Json => f.write_str("json"),
            Self::Enum(values) => write!(f, "enum({})", values.join(",")),
            Self::Array(item) => write!(f, "array({item})"),
            Self::Native { engine, name } => write!(f, "{engine} {name}"),
        }
    }
}

/// Reads the names that [`Type`]'s display form writes, for `columns:` and `cast:`; enum and native types cannot be asked for.
impl std::str::FromStr for Type {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = || format!("unknown type `{text}`; the types are {}", TYPE_NAMES.join(", "));
        let text = text.trim();
        Ok(match text {
            "bool" => Self::Bool,
            "int8" => Self::Int(8),
            "int16" => Self::Int(16),
            "int32" => Self::Int(32),
            "int64" => Self::Int(64),
            "uint8" => Self::UInt(8),
            "uint16" => Self::UInt(16),
            "uint32" => Self::UInt(32),
            "uint64" => Self::UInt(64),
            "float32" => Self::Float(32),
            "float64" => Self::Float(64),
            "decimal" => Self::Number,
            "text" => Self::Text,
            "bytes" => Self::Bytes,
            "date" => Self::Date,
            "time" => Self::Time,
            "timestamp" => Self::Timestamp,
            "timestamptz" => Self::TimestampTz,
            "interval" => Self::Interval,
            "uuid" => Self::Uuid,
            "json" => Self::Json,
            _ => {
                let inside = |prefix: &str| text.strip_prefix(prefix)?.strip_prefix('(')?.strip_suffix(')');
                if let Some(item) = inside("array") {
                    Self::Array(Box::new(item.parse()?))
                } else {
                    let (precision, scale) = inside("decimal").and_then(|args| args.split_once(',')).ok_or_else(unknown)?;
                    let precision: u8 = precision.trim().parse().map_err(|_| unknown())?;
                    let scale: i8 = scale.trim().parse().map_err(|_| unknown())?;
                    if !(1..=76).contains(&precision) || scale < 0 || scale as u8 > precision {
                        return Err(format!("`{text}` is out of range: precision is 1 to 76, scale 0 to the precision"));
                    }
                    Self::Decimal(precision, scale)
                }
            }
        })
    }
}

/// The type names a pipeline may write.
pub const TYPE_NAMES: &[&str] = &[
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float32",
    "float64",
    "decimal(p,s)",
    "decimal",
    "text",
    "bytes",
    "date",
    "time",
    "timestamp",
    "timestamptz",
    "interval",
    "uuid",
    "json",
    "array(…)",
];

/// What tests of types share.
#[cfg(test)]
pub(crate) mod samples {
    use super::Type;

    include!("../../tests/it/support/all_types.rs");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_survives_arrow_and_its_name() {
        let odd = [Type::Enum(vec!["a:b".to_owned(), String::new()].into()), Type::Native { engine: "postgres", name: "inet".to_owned() }];
        for ty in samples::all_types().into_iter().chain(odd) {
            let schema = Schema { columns: vec![Column::new("c", ty.clone())] };
            assert_eq!(Schema::from_arrow(&schema.to_arrow()), Ok(schema));
            if !matches!(ty, Type::Enum(_) | Type::Native { .. }) {
                assert_eq!(ty.to_string().parse::<Type>(), Ok(ty));
            }
        }
    }
}
