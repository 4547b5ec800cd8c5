//! What every connector promises, asked of each in the same words. A connector takes part by a [`System`]: a fresh place to write to, and a
//! way to read what was written. What one engine alone promises is asked in its own module.

mod http;
mod loading;
mod redis;
mod values;

use std::any::Any;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use haul::connectors::files::Root;
use haul::connectors::sql::postgres::Server;
use haul::connectors::sql::sqlite::Database;
use haul::connectors::{Load, ReadRequest, Sink, Source};
use haul::data::{Schema, Type};
use haul::define::pipeline::{
    Compression, Connection, CsvDialect, FileFormat, FilesSink, FilesSource, SchemaMode, SqlRead, SqlSink, SqlSource, WriteMode,
};
use haul::failure::FailureKind;
use haul::secret::Secret;

use crate::support::{loads, postgres};

type MakeSink = Box<dyn Fn(&WriteMode) -> Arc<dyn Sink>>;
type MakeSource = Box<dyn Fn(&Schema) -> Arc<dyn Source>>;

/// A connector and a fresh place of its own.
pub struct System {
    pub sink: MakeSink,
    /// A source of what the sink has published. Formats without types are told the columns.
    pub source: MakeSource,
    /// The ways to write that the place knows, the one that stages first.
    pub modes: Vec<WriteMode>,
    /// Types of which the format has no form for every value: Parquet refuses infinite dates and the time 24:00, and in NDJSON the JSON
    /// text `null` reads as NULL.
    pub lacks: fn(&Type) -> bool,
    /// Whether the sink reads back what it has written. What another one has written is asked for by the source alone.
    pub reads_back: bool,
    /// What goes away with the system.
    _place: Box<dyn Any>,
}

impl System {
    fn sink(&self, mode: &WriteMode) -> Arc<dyn Sink> {
        (self.sink)(mode)
    }

    fn source(&self, schema: &Schema) -> Arc<dyn Source> {
        (self.source)(schema)
    }

    /// What the target holds of a load.
    async fn held(&self, sink: &Arc<dyn Sink>, load: &Load) -> RecordBatch {
        if self.reads_back {
            return loads::read_back(sink, load).await.expect("rows");
        }
        let refused = loads::read_back(sink, load).await.expect_err("no rows can be read back");
        assert_eq!(refused.kind, FailureKind::Permanent, "{refused}");
        loads::read(&self.source(&load.schema), ReadRequest::default(), 4).await.expect("rows").0
    }

    /// The ids of the splits of a load: one where a sink writes one file.
    async fn splits(&self, sink: &Arc<dyn Sink>, schema: &Schema) -> Vec<&'static str> {
        let target = sink.plan(schema).await.expect("a plan").expect("no problems");
        if target.whole { vec!["all"] } else { vec!["0000", "0001"] }
    }
}

pub fn connection(url: &str) -> Connection {
    Connection {
        name: "c".to_owned(),
        engine: None,
        url: Secret::new(url.to_owned()),
        max_connections: 4,
        http: Default::default(),
        at: String::new(),
    }
}

fn sql_sink(mode: &WriteMode) -> SqlSink {
    let schema = SchemaMode::Create;
    SqlSink {
        connection: "c".to_owned(),
        table: vec!["Bestellungen für \"heute\"".to_owned()],
        mode: mode.clone(),
        schema,
        primary_key: None,
    }
}

pub fn sql_source() -> SqlSource {
    let read = SqlRead::Table { name: sql_sink(&WriteMode::Append).table, columns: Vec::new(), filter: None };
    SqlSource { connection: "c".to_owned(), read, split_by: None }
}

fn sql_modes() -> Vec<WriteMode> {
    vec![WriteMode::Replace, WriteMode::Append, WriteMode::Upsert { key: vec!["id".to_owned()] }]
}

pub fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("haul-test-").tempdir().expect("a temporary folder")
}

pub fn sqlite() -> System {
    let folder = folder();
    let database = Database::new(&connection("sqlite:target.db"), folder.path()).expect("a file's URL");
    let reading = database.clone();
    System {
        sink: Box::new(move |mode| database.sink(&sql_sink(mode))),
        source: Box::new(move |_| reading.source(&sql_source())),
        modes: sql_modes(),
        lacks: |_| false,
        reads_back: true,
        _place: Box::new(folder),
    }
}

fn postgresql() -> System {
    postgresql_at(&postgres().fresh_database())
}

pub fn postgresql_at(url: &str) -> System {
    let server = Server::new(&connection(url)).expect("a server's URL");
    let reading = server.clone();
    System {
        sink: Box::new(move |mode| server.sink(&sql_sink(mode))),
        source: Box::new(move |_| reading.source(&sql_source())),
        modes: sql_modes(),
        lacks: |_| false,
        reads_back: true,
        _place: Box::new(()),
    }
}

fn files(path: &'static str, format: FileFormat, compression: Compression) -> System {
    let folder = folder();
    let root = Root::new(&connection("file:."), Path::new(folder.path())).expect("a folder's URL");
    let (reading, read_format) = (root.clone(), format.clone());
    let parts = path.strip_suffix('/').map_or_else(|| path.to_owned(), |folder| format!("{folder}/*{}", ending(&format, compression)));
    let lacks: fn(&Type) -> bool = match format {
        FileFormat::Parquet => is_of_time,
        FileFormat::Ndjson => |ty| *ty == Type::Json,
        FileFormat::Csv(_) => |_| false,
    };
    let sink = FilesSink { connection: "c".to_owned(), path: path.to_owned(), format, compression, mode: WriteMode::Replace, roll: None };
    System {
        sink: Box::new(move |mode| root.sink(&FilesSink { mode: mode.clone(), ..sink.clone() })),
        source: Box::new(move |schema| {
            let columns = declared(schema);
            let (format, path) = (read_format.clone(), parts.clone());
            reading.source(&FilesSource { connection: "c".to_owned(), path, format, compression: None, columns, sample: 1000 })
        }),
        modes: if path.ends_with('/') { vec![WriteMode::Replace, WriteMode::Append] } else { vec![WriteMode::Replace] },
        lacks,
        reads_back: true,
        _place: Box::new(folder),
    }
}

fn is_of_time(ty: &Type) -> bool {
    match ty {
        Type::Date | Type::Time | Type::Timestamp | Type::TimestampTz => true,
        Type::Array(item) => is_of_time(item),
        _ => false,
    }
}

fn ending(format: &FileFormat, compression: Compression) -> String {
    let format = match format {
        FileFormat::Csv(_) => ".csv",
        FileFormat::Ndjson => ".ndjson",
        FileFormat::Parquet => return ".parquet".to_owned(),
    };
    let compression = match compression {
        Compression::Gzip => ".gz",
        Compression::Zstd => ".zst",
        _ => "",
    };
    format!("{format}{compression}")
}

/// The columns as a pipeline would declare them for a format that keeps no types.
fn declared(schema: &Schema) -> BTreeMap<String, Type> {
    let can_be_declared = |ty: &Type| ty.to_string().parse::<Type>().is_ok_and(|parsed| parsed == *ty);
    schema.columns.iter().filter(|column| can_be_declared(&column.ty)).map(|column| (column.name.clone(), column.ty.clone())).collect()
}

pub fn csv_file() -> System {
    files("orders.csv", csv(), Compression::Plain)
}

fn csv_folder() -> System {
    files("orders/", csv(), Compression::Gzip)
}

pub fn ndjson_folder() -> System {
    files("orders/", FileFormat::Ndjson, Compression::Zstd)
}

pub fn parquet_file() -> System {
    files("orders.parquet", FileFormat::Parquet, Compression::Zstd)
}

fn parquet_folder() -> System {
    files("orders/", FileFormat::Parquet, Compression::Zstd)
}

/// A word for NULL, because an empty text is another value.
pub fn csv() -> FileFormat {
    FileFormat::Csv(CsvDialect {
        delimiter: b',',
        quote: Some(b'"'),
        escape: None,
        header: true,
        null: vec![String::new()],
        encoding: "utf-8".to_owned(),
    })
}

/// A worker that takes a load over and finds it.
async fn taken_over(sink: &Arc<dyn Sink>, load: &Load) -> Load {
    let claim = sink.claim(&load.key).await.expect("a claim");
    assert!(claim.epoch > load.epoch, "epochs grow");
    assert!(claim.found.is_some(), "the load is found");
    Load { epoch: claim.epoch, ..load.clone() }
}

/// Asks one promise of every connector, as one test each.
macro_rules! every_connector {
    ($($promise:ident),+ $(,)?) => {
        $(mod $promise {
            use super::super::every_connector;

            every_connector!(@each $promise: sqlite, postgresql, csv_file, csv_folder, ndjson_folder, parquet_file, parquet_folder);
        })+
    };
    (of $systems:tt: $($promise:ident),+ $(,)?) => {
        $(mod $promise {
            use super::super::every_connector;

            every_connector!(@listed $promise: $systems);
        })+
    };
    (@listed $promise:ident: [$($system:ident),+]) => {
        every_connector!(@each $promise: $($system),+);
    };
    (@each $promise:ident: $($system:ident),+) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $system() {
            super::$promise(super::super::$system).await;
        })+
    };
}
use every_connector;
