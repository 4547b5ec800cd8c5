//! A source of each system with a column for each of its types, full of values that copies tend to lose.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Float32Array, Float64Array, Int64Array, StringArray, UInt32Array, UInt64Array,
};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, TimeUnit};
use arrow::record_batch::RecordBatch;
use haul::connectors::files::Root;
use haul::connectors::sql::postgres::Server;
use haul::connectors::sql::sqlite::Database;
use haul::connectors::{self, ReadRequest};
use haul::data::{Column, Schema, Type};
use haul::define::pipeline::{FileFormat, FilesSource};

use crate::conformance::{connection, csv, folder, sql_source};
use crate::support::{loads, postgres};

/// The table that [`sql_source`] reads.
const TABLE: &str = "\"Bestellungen für \"\"heute\"\"\"";

/// Types that a database has of its own.
pub const OWN_TYPES: &str = "create type mood as enum ('sad', 'ok', 'it''s')";

/// Columns and their rows.
#[derive(Clone)]
pub struct Rows {
    pub schema: Schema,
    pub batch: RecordBatch,
}

/// A system that rows come from.
pub struct Source {
    pub name: &'static str,
    /// What its types are called in the head of a table.
    pub head: &'static str,
    /// Its types, as a page shows them.
    pub labels: Vec<String>,
    /// Its rows for its own engine, native types included.
    pub own: Rows,
    /// Its rows for everybody else.
    pub others: Rows,
    /// The same without infinite dates and the time 24:00.
    pub finite: Rows,
}

impl Source {
    /// Of a system whose values every other one has a place for.
    fn same_for_all(name: &'static str, head: &'static str, labels: Vec<String>, rows: Rows) -> Self {
        Self { name, head, labels, own: rows.clone(), others: rows.clone(), finite: rows }
    }

    /// The rows as a target of that name gets them.
    pub fn rows_for(&self, target: &str) -> &Rows {
        match target {
            "Parquet" => &self.finite,
            target if target == self.name => &self.own,
            _ => &self.others,
        }
    }
}

/// All of them, in the order of the page.
pub async fn all() -> Vec<Source> {
    vec![logical(), postgresql().await, sqlite().await, parquet().await, csv_text().await, ndjson().await]
}

/// What no table gives, `uint64` for one, but transforms and later systems do.
fn logical() -> Source {
    let types = loads::all_types();
    let labels = types.iter().map(|ty| arrow_name(&ty.to_arrow())).collect();
    let rows = |finite: bool| {
        let arrays: Vec<ArrayRef> =
            types.iter().map(|ty| if finite { without_ends(&loads::awkward(ty)) } else { loads::awkward(ty) }).collect();
        side_by_side(types.iter().cloned().zip(arrays).collect())
    };
    Source { name: "a transform", head: "Arrow", labels, own: rows(false), others: rows(false), finite: rows(true) }
}

fn arrow_name(ty: &DataType) -> String {
    match ty {
        DataType::List(item) => format!("List of {}", arrow_name(item.data_type())),
        ty => format!("{ty}"),
    }
}

/// Columns of different lengths, the shorter ones filled up with NULLs.
fn side_by_side(columns: Vec<(Type, ArrayRef)>) -> Rows {
    let rows = columns.iter().map(|(_, array)| array.len()).max().unwrap_or_default();
    let filled = |array: &ArrayRef| {
        let places = UInt32Array::from_iter((0..rows).map(|row| (row < array.len()).then_some(row as u32)));
        take(array, &places, None).expect("places within the values")
    };
    let named = |(place, (ty, _)): (usize, &(Type, ArrayRef))| Column::new(format!("c{place}"), ty.clone());
    let schema = Schema { columns: columns.iter().enumerate().map(named).collect() };
    let batch = loads::batch_of(&schema, columns.iter().map(|(_, array)| filled(array)).collect());
    Rows { schema, batch }
}

/// The values that Parquet has a place for; of an array none that holds another.
fn without_ends(array: &ArrayRef) -> ArrayRef {
    use arrow::array::AsArray;
    use arrow::datatypes::{Date32Type, Time64MicrosecondType, TimestampMicrosecondType};
    let ends = |row: usize| match array.data_type() {
        DataType::Date32 => matches!(array.as_primitive::<Date32Type>().value(row), i32::MAX | i32::MIN),
        DataType::Timestamp(..) => matches!(array.as_primitive::<TimestampMicrosecondType>().value(row), i64::MAX | i64::MIN),
        DataType::Time64(_) => array.as_primitive::<Time64MicrosecondType>().value(row) == 86_400_000_000,
        DataType::List(_) => {
            let items = array.as_list::<i32>().value(row);
            without_ends(&items).len() < items.len()
        }
        _ => false,
    };
    let places = UInt32Array::from_iter_values((0..array.len()).filter(|row| array.is_null(*row) || !ends(*row)).map(|row| row as u32));
    take(array, &places, None).expect("places within the values")
}

/// Values as a system takes them in text.
type Values = &'static [&'static str];
/// A type with values that Parquet takes, then those that it does not.
type Entry = (&'static str, Values, Values);

/// PostgreSQL's types.
const POSTGRES: &[Entry] = &[
    ("boolean", &["true", "false"], &[]),
    ("smallint", &["-32768", "32767"], &[]),
    ("integer", &["-2147483648", "2147483647"], &[]),
    ("bigint", &["-9223372036854775808", "9007199254740993"], &[]),
    ("oid", &["0", "4294967295"], &[]),
    ("real", &["0.1", "-0", "3.4028235e38", "1e-45", "NaN", "Infinity", "-Infinity"], &[]),
    ("double precision", &["0.30000000000000004", "-0", "1.7976931348623157e308", "5e-324", "NaN", "Infinity", "-Infinity"], &[]),
    ("numeric(15,2)", &["1.10", "-9999999999999.99"], &[]),
    ("numeric(38,10)", &["1.10", "-9999999999999999999999999999.9999999999"], &[]),
    ("numeric(76,38)", &["0.00000000000000000000000000000000000001", "99999999999999999999999999999999999999"], &[]),
    ("numeric", &["1.10", "1e-400", "123456789012345678901234567890.123456789", "NaN", "Infinity", "-Infinity"], &[]),
    ("text", &["", " 007 ", "NULL", "\\N", "it's \"quoted\", \\ and,\r\n\tin lines", "żółć 日本語 🦀"], &[]),
    ("character varying(20)", &["", "twenty characters 20"], &[]),
    ("character(5)", &["ab", ""], &[]),
    ("name", &["a name"], &[]),
    ("bytea", &["\\x", "\\x00ff0a"], &[]),
    ("date", &["0044-03-15 BC", "0001-01-01", "2024-02-29", "9999-12-31", "5874897-12-31"], &["infinity", "-infinity"]),
    ("time without time zone", &["00:00", "23:59:59.999999"], &["24:00"]),
    (
        "timestamp without time zone",
        &["0044-03-15 12:00:00 BC", "1969-12-31 23:59:59.999999", "9999-12-31 23:59:59"],
        &["infinity", "-infinity"],
    ),
    ("timestamp(3) without time zone", &["2020-01-01 00:00:00.123"], &["infinity"]),
    ("timestamp with time zone", &["0001-01-01 00:00:00+14", "2013-01-01 05:00:00.000001-03:30"], &["infinity", "-infinity"]),
    ("interval", &["1 year 2 mons -3 days 04:05:06.5", "-1 mon", "100 hours"], &[]),
    ("uuid", &["00000000-0000-0000-0000-000000000000", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"], &[]),
    ("json", &["{\"b\": 1, \"a\": [1.10, null]}", "null", "12345678901234567890.5", "{\"a\":1, \"a\":2}"], &[]),
    ("jsonb", &["{\"b\": 1, \"a\": [1.10, null]}", "null", "\"text\""], &[]),
    ("mood", &["sad", "it's"], &[]),
    ("integer[]", &["{1,NULL,-2147483648}", "{}"], &[]),
    ("text[]", &["{\"\",NULL,\"NULL\",\"a\\\"b\"}"], &[]),
    ("double precision[]", &["{NaN,-0,Infinity,NULL}"], &[]),
    ("numeric(12,2)[]", &["{1.10,NULL}"], &[]),
    ("timestamp with time zone[]", &["{2020-01-01 00:00:00+00,NULL}"], &["{infinity}"]),
    ("bytea[]", &["{\"\\\\x00ff\",NULL}"], &[]),
    ("uuid[]", &["{6ba7b810-9dad-11d1-80b4-00c04fd430c8,NULL}"], &[]),
    ("jsonb[]", &["{\"null\",NULL,\"{\\\"a\\\": 1}\"}"], &[]),
    ("inet", &["10.0.0.1/8", "::1"], &[]),
    ("time with time zone", &["23:59:59.5+02"], &["24:00+00"]),
    ("int4range", &["[1,5)", "empty"], &[]),
    ("bit varying(9)", &["101", ""], &[]),
    ("money", &["-12.34"], &[]),
    ("xml", &["<a>b</a>"], &[]),
    ("tsvector", &["a:1 b:2"], &[]),
    ("point", &["(1.5,-2)"], &[]),
];

async fn postgresql() -> Source {
    let url = postgres().fresh_database();
    postgres().sql(&url, OWN_TYPES);
    let server = Server::new(&connection(&url)).expect("a server's URL");
    let declared: Vec<String> = POSTGRES.iter().enumerate().map(|(place, (name, ..))| format!("c{place} {name}")).collect();
    postgres().sql(&url, &format!("create table {TABLE} ({})", declared.join(", ")));
    let fill = |column: fn(&Entry) -> Values| {
        let most = POSTGRES.iter().map(|entry| column(entry).len()).max().unwrap_or_default();
        let rows = (0..most).map(|row| {
            let values = POSTGRES.iter().map(|entry| match column(entry).get(row) {
                Some(value) => format!("E'{}'", value.replace('\\', "\\\\").replace('\'', "''")),
                None => "NULL".to_owned(),
            });
            format!("({})", values.collect::<Vec<_>>().join(", "))
        });
        format!("insert into {TABLE} values {}", rows.collect::<Vec<_>>().join(", "))
    };
    let source = server.source(&sql_source());
    postgres().sql(&url, &fill(|entry| entry.1));
    let finite = text_rows(&source).await;
    postgres().sql(&url, &fill(|entry| entry.2));
    let own = rows(&source, ReadRequest::default()).await;
    let labels = POSTGRES.iter().map(|(name, ..)| if *name == "mood" { "an enum".to_owned() } else { format!("`{name}`") }).collect();
    Source { name: "PostgreSQL", head: "PostgreSQL", labels, own, others: text_rows(&source).await, finite }
}

async fn rows(source: &Arc<dyn connectors::Source>, request: ReadRequest) -> Rows {
    let (batch, rejects) = loads::read(source, request, 1).await.expect("rows");
    assert_eq!(rejects, []);
    let schema = Schema::from_arrow(&batch.schema()).expect("logical columns");
    Rows { schema, batch }
}

/// The rows with native values in their text form, as a plan asks for them when they go to another engine.
async fn text_rows(source: &Arc<dyn connectors::Source>) -> Rows {
    let described = source.describe().await.expect("a description").schema;
    let natives = described.columns.iter().filter(|column| matches!(column.ty, Type::Native { .. }));
    let as_text = natives.map(|column| column.name.clone()).collect();
    rows(source, ReadRequest { as_text, ..ReadRequest::default() }).await
}

/// SQLite's declared types with values, as SQL.
const SQLITE: &[(&str, Values)] = &[
    ("BOOLEAN", &["0", "1"]),
    ("INTEGER", &["-9223372036854775807 - 1", "9223372036854775807"]),
    ("INT2", &["-32768"]),
    ("UINT4", &["4294967295"]),
    ("REAL", &["0.1", "9e999", "-9e999", "'NaN'"]),
    ("DOUBLE_BLOB", &["-0.0", "5e-324", "'NaN'"]),
    ("DECIMAL(10,2)", &["1.1", "-99999999.99"]),
    ("DECIMAL_TEXT(38,10)", &["'1.10'", "'-9999999999999999999999999999.9999999999'"]),
    ("NUMERIC", &["1.5", "12", "'Infinity'"]),
    ("TEXT", &["''", "' 007 '", "'NULL'", "'it''s' || char(10) || '🦀'"]),
    ("VARCHAR(20)", &["'longer than twenty characters, which SQLite allows'"]),
    ("BLOB", &["x''", "x'00ff0a'"]),
    ("DATE", &["'2024-02-29'", "'-0043-03-15'", "'9999-12-31'"]),
    ("TIME", &["'05:00'", "'23:59:59.999999'"]),
    ("DATETIME", &["'2013-01-01 05:00:00'", "'2013-01-01T05:00:00.5'", "'2013-01-01'"]),
    ("TIMESTAMPTZ", &["'2013-01-01 05:00:00+02:00'", "'2013-01-01T05:00:00Z'"]),
    ("DURATION_TEXT", &["'P14M-3DT1.5S'"]),
    ("UUID", &["'6ba7b810-9dad-11d1-80b4-00c04fd430c8'", "x'00112233445566778899aabbccddeeff'"]),
    ("JSON", &["'{\"b\": 1}'", "'null'", "'\"text\"'"]),
    ("ARRAY_TEXT(int32)", &["'[1,null,-2147483648]'", "'[]'"]),
    ("STRING", &["'text'"]),
    ("", &["12", "-1"]),
];

async fn sqlite() -> Source {
    let place = folder();
    let database = Database::new(&connection("sqlite:target.db"), place.path()).expect("a file's URL");
    let other = rusqlite::Connection::open(place.path().join("target.db")).expect("the file opens");
    // In quotes, because a name with a word in its parentheses is none otherwise.
    let quoted = |name: &str| if name.is_empty() { String::new() } else { format!("\"{name}\"") };
    let declared: Vec<String> = SQLITE.iter().enumerate().map(|(place, (name, _))| format!("c{place} {}", quoted(name))).collect();
    other.execute_batch(&format!("create table {TABLE} ({})", declared.join(", "))).expect("a table");
    for (place, (_, values)) in SQLITE.iter().enumerate() {
        for value in *values {
            other.execute_batch(&format!("insert into {TABLE} (c{place}) values ({value})")).expect(value);
        }
    }
    let rows = rows(&database.source(&sql_source()), ReadRequest::default()).await;
    let labels = SQLITE.iter().map(|(name, _)| if name.is_empty() { "none".to_owned() } else { format!("`{name}`") }).collect();
    Source::same_for_all("SQLite", "declared", labels, rows)
}

/// Values of CSV by what they look like.
const CSV: &[(&str, Values)] = &[
    ("`true`, `false`", &["true", "false"]),
    ("whole numbers of 64 bits", &["-9223372036854775808", "9223372036854775807"]),
    ("longer whole numbers", &["9223372036854775808", "-1"]),
    ("plain decimals", &["1.10", "-99999.99"]),
    ("plain decimals, more than 15 digits", &["123456789012345.67"]),
    ("plain decimals, more than 38 digits", &["1234567890123456789012345678901234567890.5"]),
    ("with an exponent, or `NaN`", &["1.5e300", "NaN", "-inf", "0.1"]),
    ("codes such as `007`", &["007", "12e5", "+49"]),
    ("`YYYY-MM-DD`", &["2024-02-29", "0001-01-01"]),
    ("date and time", &["2024-01-01 10:00", "2024-01-01T10:00:00.123456"]),
    ("date and time with a zone", &["2024-01-01T10:00:00Z", "2024-01-01 10:00:00+02"]),
    ("anything else", &["text", "\"quoted, \"\"twice\"\"\"", "\"\"", "żółć 🦀"]),
];

async fn csv_text() -> Source {
    let heads: Vec<String> = (0..CSV.len()).map(|place| format!("c{place}")).collect();
    let most = CSV.iter().map(|(_, values)| values.len()).max().unwrap_or_default();
    let line = |row: usize| CSV.iter().map(|(_, values)| *values.get(row).unwrap_or(&"")).collect::<Vec<_>>().join(",");
    let lines: Vec<String> = std::iter::once(heads.join(",")).chain((0..most).map(line)).collect();
    let rows = file("t.csv", csv(), format!("{}\n", lines.join("\n")).as_bytes()).await;
    Source::same_for_all("CSV", "values", CSV.iter().map(|(label, _)| (*label).to_owned()).collect(), rows)
}

/// Values of NDJSON by what they look like.
const NDJSON: &[(&str, Values)] = &[
    ("`true`, `false`", &["true", "false"]),
    ("whole numbers of 64 bits", &["-9223372036854775808", "9223372036854775807"]),
    ("longer whole numbers", &["9223372036854775808", "-1"]),
    ("plain decimals", &["1.10", "-99999.99"]),
    ("numbers with an exponent", &["1.5e300", "0.1"]),
    ("strings", &["\"007\"", "\"\"", "\"\\ud83e\\udd80\\n\""]),
    ("strings that are dates", &["\"2024-02-29\""]),
    ("strings that are times with a zone", &["\"2024-01-01T10:00:00Z\""]),
    ("objects and arrays", &["{\"b\": 1, \"a\": [1.10, null]}", "[]"]),
    ("of several kinds", &["1", "\"text\"", "true"]),
];

async fn ndjson() -> Source {
    let most = NDJSON.iter().map(|(_, values)| values.len()).max().unwrap_or_default();
    let line = |row: usize| {
        let member = |(place, (_, values)): (usize, &(&str, Values))| Some(format!("\"c{place}\": {}", values.get(row)?));
        format!("{{{}}}\n", NDJSON.iter().enumerate().filter_map(member).collect::<Vec<_>>().join(", "))
    };
    let rows = file("t.ndjson", FileFormat::Ndjson, (0..most).map(line).collect::<String>().as_bytes()).await;
    Source::same_for_all("NDJSON", "values", NDJSON.iter().map(|(label, _)| (*label).to_owned()).collect(), rows)
}

/// Types that other programs write, and haul does not.
async fn parquet() -> Source {
    let columns = foreign();
    let fields: Vec<Field> =
        columns.iter().enumerate().map(|(place, (_, array))| Field::new(format!("c{place}"), array.data_type().clone(), true)).collect();
    let schema = Arc::new(arrow::datatypes::Schema::new(fields));
    let batch = RecordBatch::try_new(schema.clone(), columns.iter().map(|(_, array)| array.clone()).collect()).expect("a batch");
    let mut writer = parquet::arrow::ArrowWriter::try_new(Vec::new(), schema, None).expect("a writer");
    writer.write(&batch).expect("written");
    let rows = file("t.parquet", FileFormat::Parquet, &writer.into_inner().expect("a file")).await;
    Source::same_for_all("Parquet", "Parquet", columns.iter().map(|(label, _)| format!("`{label}`")).collect(), rows)
}

fn foreign() -> Vec<(&'static str, ArrayRef)> {
    let cast = |values: ArrayRef, ty: DataType| arrow::compute::cast(&values, &ty).expect("a cast");
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(0), Some(127), None]));
    let texts: ArrayRef = Arc::new(StringArray::from(vec![Some(""), Some("żółć 🦀"), None]));
    let days: ArrayRef = Arc::new(Date32Array::from(vec![Some(-719_162), Some(2_932_896), None]));
    let moments = |unit: TimeUnit, zone: Option<&str>| {
        let values: ArrayRef = Arc::new(Int64Array::from(vec![Some(-1_000_000_000_000), Some(1_357_016_400_000_000_000), None]));
        let per = match unit {
            TimeUnit::Millisecond => 1_000_000,
            TimeUnit::Microsecond => 1000,
            _ => 1,
        };
        let scaled = arrow::compute::kernels::numeric::div(&values, &Int64Array::new_scalar(per)).expect("whole numbers");
        cast(scaled, DataType::Timestamp(unit, zone.map(Into::into)))
    };
    let of_day = |ty: DataType, value: i64| {
        let width = if matches!(ty, DataType::Time32(_)) { DataType::Int32 } else { DataType::Int64 };
        cast(cast(Arc::new(Int64Array::from(vec![Some(0), Some(value), None])), width), ty)
    };
    let uuids = loads::awkward(&Type::Uuid).slice(1, 3);
    let list = loads::awkward(&Type::Array(Box::new(Type::Int(32))));
    vec![
        ("BOOLEAN", Arc::new(BooleanArray::from(vec![Some(true), Some(false), None]))),
        ("INT(8,true)", cast(numbers.clone(), DataType::Int8)),
        ("INT(64,true)", numbers.clone()),
        ("INT(64,false)", Arc::new(UInt64Array::from(vec![Some(0), Some(u64::MAX), None]))),
        ("FLOAT", Arc::new(Float32Array::from(vec![Some(f32::NAN), Some(-0.0), None]))),
        ("DOUBLE", Arc::new(Float64Array::from(vec![Some(f64::INFINITY), Some(5e-324), None]))),
        ("DECIMAL(38,10)", loads::awkward(&Type::Decimal(38, 10)).slice(3, 3)),
        ("DECIMAL(76,38)", loads::awkward(&Type::Decimal(76, 38)).slice(2, 3)),
        ("STRING", texts.clone()),
        ("STRING, as a dictionary", cast(texts.clone(), DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)))),
        ("BYTE_ARRAY", Arc::new(BinaryArray::from(vec![Some(&b""[..]), Some(b"\x00\xff\n"), None]))),
        ("FIXED_LEN_BYTE_ARRAY(16)", uuids),
        ("DATE", days),
        ("TIME(MILLIS)", of_day(DataType::Time32(TimeUnit::Millisecond), 86_399_999)),
        ("TIME(MICROS)", of_day(DataType::Time64(TimeUnit::Microsecond), 86_399_999_999)),
        ("TIME(NANOS)", of_day(DataType::Time64(TimeUnit::Nanosecond), 86_399_999_999_000)),
        ("TIMESTAMP(MILLIS,false)", moments(TimeUnit::Millisecond, None)),
        ("TIMESTAMP(MICROS,true)", moments(TimeUnit::Microsecond, Some("UTC"))),
        ("TIMESTAMP(NANOS,true)", moments(TimeUnit::Nanosecond, Some("UTC"))),
        ("LIST(INT(32,true))", list),
    ]
}

/// The rows of a file that holds these bytes.
async fn file(path: &str, format: FileFormat, content: &[u8]) -> Rows {
    let place = folder();
    std::fs::write(place.path().join(path), content).expect("a file");
    let root = Root::new(&connection("file:."), place.path()).expect("a folder's URL");
    let columns = BTreeMap::new();
    let source = FilesSource { connection: "c".to_owned(), path: path.to_owned(), format, compression: None, columns, sample: 1000 };
    rows(&root.source(&source), ReadRequest::default()).await
}
