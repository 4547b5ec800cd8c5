//! Outputs: where a stage writes, and where its bad rows go.

use std::time::Duration;

use super::connections::{Family, engine_of};
use super::inputs::{Ending, csv_characters, csv_only, format, path};
use super::pipeline::{
    CacheMode, CacheSink, Compression, CsvDialect, Engine, FileFormat, FilesSink, Output, Rejects, Roll, RowMode, SchemaMode, SinkSpec,
    SqlSink, WriteMode,
};
use super::reader::Reader;
use super::stages::{at_least, positive};
use super::steps::names;
use super::tables::{self, Comes, full_name, table_name};
use super::{feeds, http, keys, redis};
use crate::diagnostic::Diagnostic;
use crate::load::file::{self, FilesMode, Format, OutputCompression, SqlMode};
use crate::load::shape;
use crate::load::template::is_template;

/// Rows of a part of a stream's files when it does not say.
const PART_ROWS: u64 = 1_000_000;
/// Its bytes.
const PART_BYTES: u64 = 128 << 20;
/// The longest that its first row waits.
const PART_EVERY: Duration = Duration::from_secs(300);
/// The least bytes of a part.
const LEAST_PART: u64 = 1 << 10;

/// Reads one output. `None` when it cannot be understood, which has been reported.
pub fn read(reader: &mut Reader<'_>, at: &str, said: &file::Output, comes: &Comes) -> Option<Output> {
    let (sink, allow_lossy) = match said {
        file::Output::Sql(said) => (sql(reader, at, said, comes)?, &said.allow_lossy),
        file::Output::Files(said) => (SinkSpec::Files(files(reader, at, said)?), &said.allow_lossy),
        file::Output::Redis(said) if matches!(comes, Comes::Keys) && keys::is_copy(said) => {
            (SinkSpec::RedisKeys(Box::new(keys::output(reader, at, said)?)), &said.allow_lossy)
        }
        file::Output::Redis(said) => (SinkSpec::Redis(redis::output(reader, at, said)?), &said.allow_lossy),
        file::Output::Http(said) => (SinkSpec::Http(Box::new(http::output(reader, at, said)?)), &said.allow_lossy),
        file::Output::Feed(said) => (SinkSpec::Feed(feeds::output(reader, at, said)?), &said.allow_lossy),
        file::Output::Discard(said) => {
            said.discard.as_ref()?;
            (SinkSpec::Discard, &said.allow_lossy)
        }
        file::Output::Cache(said) => (SinkSpec::Cache(cache(said)?), &None),
        file::Output::Unclear => return None,
    };
    let allow_lossy = names(reader, &format!("{at}/allow_lossy"), allow_lossy.as_deref().unwrap_or_default());
    Some(Output { sink, allow_lossy, at: at.to_owned() })
}

fn cache(said: &file::CacheOutput) -> Option<CacheSink> {
    let mode = match said.mode {
        None | Some(file::CacheOutputMode::Update) => CacheMode::Update,
        Some(file::CacheOutputMode::Invalidate) => CacheMode::Invalidate,
    };
    Some(CacheSink { cache: said.cache.clone()?, mode, version: said.version.clone() })
}

fn sql(reader: &mut Reader<'_>, at: &str, said: &file::SqlOutput, comes: &Comes) -> Option<SinkSpec> {
    let connection = said.sql.clone()?;
    let engine = engine_of(reader, &format!("{at}/sql"), &connection, Family::Sql);
    let table = said.table.as_deref();
    let called = match (comes, table) {
        (Comes::Changes(tables), table) => tables::targets(reader, at, table, tables, engine)?,
        (_, Some(table)) => vec![table_name(reader, &format!("{at}/table"), table)?],
        (_, None) => {
            if !reader.broken(&format!("{at}/table")) {
                reader.error("missing-key", at, "`table` is missing", "add `table:` — the table: `orders` or `public.orders`");
            }
            return None;
        }
    };
    let changes = matches!(comes, Comes::Changes(_));
    if called.len() > 1 {
        tables::one_table_only(reader, at, said);
    }
    let mut columns = |key: &str, said: &Option<Vec<String>>| -> Vec<String> {
        let names = names(reader, &format!("{at}/{key}"), said.as_deref().unwrap_or_default());
        names.into_iter().map(|(name, _)| name).collect()
    };
    let (key, primary_key) = (columns("key", &said.key), columns("primary_key", &said.primary_key));
    let key_at = format!("{at}/key");
    let mode = match said.mode {
        Some(SqlMode::Upsert) => {
            if said.key.is_none() && !changes && !reader.broken(&key_at) {
                let message = "`upsert` does not know which row a row replaces";
                reader.error("missing-key", &format!("{at}/mode"), message, "add `key: [column]`");
            }
            WriteMode::Upsert { key }
        }
        other => {
            if said.key.is_some() && !reader.broken(&format!("{at}/mode")) {
                let word = if other == Some(SqlMode::Replace) { "replace" } else { "append" };
                let message = format!("`key` is for `mode: upsert`, and the mode is `{word}`");
                reader.error_at_key(
                    "key-without-upsert",
                    &key_at,
                    message,
                    "add `mode: upsert`, or write `primary_key` for the table's key",
                );
            }
            if other == Some(SqlMode::Replace) { WriteMode::Replace } else { WriteMode::Append }
        }
    };
    let schema = match said.schema {
        None | Some(file::SchemaMode::Create) => SchemaMode::Create,
        Some(file::SchemaMode::Evolve) => SchemaMode::Evolve,
        Some(file::SchemaMode::Require) => SchemaMode::Require,
    };
    if schema == SchemaMode::Require && said.primary_key.is_some() {
        let message = "`primary_key` is for a table that is created, and `schema: require` creates none";
        reader.error_at_key("primary-key-unused", &format!("{at}/primary_key"), message, "remove `primary_key`, or `schema: require`");
    }
    let sink = SqlSink { connection, table: Vec::new(), mode, schema, primary_key: said.primary_key.is_some().then_some(primary_key) };
    let mut sinks = tables::under(&sink, called);
    Some(if sinks.len() == 1 { SinkSpec::Sql(sinks.remove(0)) } else { SinkSpec::Tables(sinks) })
}

fn files(reader: &mut Reader<'_>, at: &str, said: &file::FilesOutput) -> Option<FilesSink> {
    let connection = said.files.clone()?;
    engine_of(reader, &format!("{at}/files"), &connection, Family::Files);
    let path_at = format!("{at}/path");
    let path = path(reader, &path_at, said.path.as_ref()?)?;
    if path.contains(['*', '?']) && !is_template(&path) {
        reader.error("path-glob", &path_at, "an output has one path, and this is a glob", "name one file, or a folder that ends in `/`");
    }
    let format = format(reader, at, said.format, &path);
    let compression = compression(reader, at, said.compression, format, &path);
    let mode = match said.mode {
        Some(FilesMode::Append) => {
            if !path.ends_with('/') && !is_template(&path) {
                let message = "a file cannot be appended to; a folder takes new parts";
                reader.error("append-file", &format!("{at}/mode"), message, "end the path in `/`, or write `mode: replace`");
            }
            WriteMode::Append
        }
        Some(FilesMode::Replace) | None => WriteMode::Replace,
    };
    let roll = said.roll.as_ref().map(|said| roll(reader, at, said));
    let mode = if roll.is_some() { WriteMode::Append } else { mode };
    if roll.is_some() && !path.ends_with('/') && !is_template(&path) && !reader.broken(&path_at) {
        let message = "a stream writes part after part, and this is one file";
        reader.error("files-roll", &path_at, message, "name a folder: end the path in `/`, and say the `format`");
    }
    if roll.is_some() && said.mode == Some(FilesMode::Replace) {
        let message = "parts of a stream are added to a folder, and `replace` would remove those before";
        reader.error("files-roll", &format!("{at}/mode"), message, "remove `mode`, or `roll`");
    }
    let csv = csv_only(reader, at, said.csv.is_some(), format).then_some(said.csv.as_ref()).flatten();
    let format = match format {
        Some(Format::Csv) => FileFormat::Csv(csv_dialect(reader, at, csv, Ending::of(&path).tabs)),
        Some(Format::Parquet) => FileFormat::Parquet,
        Some(Format::Ndjson) | None => FileFormat::Ndjson,
    };
    Some(FilesSink { connection, path, format, compression, mode, roll })
}

fn roll(reader: &mut Reader<'_>, at: &str, said: &file::Roll) -> Roll {
    positive(reader, &format!("{at}/roll/every"), said.every.as_ref());
    at_least(reader, &format!("{at}/roll/bytes"), said.bytes.as_ref(), LEAST_PART, "1KiB");
    Roll {
        rows: said.rows.unwrap_or(PART_ROWS),
        bytes: said.bytes.as_ref().and_then(shape::Size::read).unwrap_or(PART_BYTES),
        every: said.every.as_ref().and_then(shape::Duration::read).unwrap_or(PART_EVERY),
    }
}

fn compression(reader: &mut Reader<'_>, at: &str, said: Option<OutputCompression>, format: Option<Format>, path: &str) -> Compression {
    let pointer = format!("{at}/compression");
    let parquet = format == Some(Format::Parquet);
    match said {
        Some(OutputCompression::None) => Compression::Plain,
        Some(OutputCompression::Gzip) => Compression::Gzip,
        Some(OutputCompression::Zstd) => Compression::Zstd,
        Some(OutputCompression::Snappy) => {
            if !parquet && format.is_some() {
                reader.error("compression-format", &pointer, "`snappy` compresses the inside of Parquet only", "write `gzip` or `zstd`");
            }
            Compression::Snappy
        }
        None if parquet => {
            if Ending::of(path).compression.is_some() {
                let message = "a Parquet file is compressed inside, not as a whole";
                reader.error("compression-format", &format!("{at}/path"), message, "end the path in `.parquet`");
            }
            Compression::Zstd
        }
        None => Ending::of(path).compression.unwrap_or(Compression::Plain),
    }
}

fn csv_dialect(reader: &mut Reader<'_>, at: &str, said: Option<&file::CsvOutput>, tabs: bool) -> CsvDialect {
    let none = file::CsvOutput::default();
    let said = said.unwrap_or(&none);
    let character = |text: &Option<String>| text.as_ref().and_then(|text| text.bytes().next());
    let dialect = CsvDialect {
        delimiter: character(&said.delimiter).unwrap_or(if tabs { b'\t' } else { b',' }),
        quote: Some(character(&said.quote).unwrap_or(b'"')),
        escape: None,
        header: said.header.unwrap_or(true),
        null: vec![said.null.clone().unwrap_or_default()],
        encoding: "utf-8".to_owned(),
    };
    csv_characters(reader, at, &dialect);
    dialect
}

/// Reads `rejects:`.
pub fn rejects(reader: &mut Reader<'_>, at: &str, said: &file::Rejects) -> Option<Rejects> {
    let to = said.to.as_ref()?;
    let connection = to.files.clone()?;
    engine_of(reader, &format!("{at}/to/files"), &connection, Family::Files);
    let path_at = format!("{at}/to/path");
    let path = path(reader, &path_at, to.path.as_ref()?)?;
    if Ending::of(&path).format != Some(Format::Ndjson) && !path.ends_with("}}") {
        reader.error("unknown-format", &path_at, "bad rows are written as NDJSON", "end the path in `.ndjson`");
    }
    Some(Rejects { connection, path, at_most: said.at_most?, at: at.to_owned() })
}

/// One target of the pipeline: the connection, the table or path, and whether it is replaced as a whole.
struct Target {
    connection: String,
    /// As it is written.
    name: String,
    /// The same for every spelling of it.
    full: Vec<String>,
    replaces: bool,
    stage: usize,
    at: String,
}

/// Refuses two outputs that would overwrite each other.
pub fn same_targets(reader: &mut Reader<'_>, stages: &[super::pipeline::Stage]) {
    let mut targets: Vec<Target> = Vec::new();
    for (index, stage) in stages.iter().enumerate() {
        let flow = &stage.flow;
        let engine = |connection: &str| reader.connections.get(connection).and_then(|connection| connection.engine);
        let outputs = flow.to.iter().filter_map(|output| target(output, index, engine));
        let rejects = flow.rejects.iter().map(|rejects| Target {
            connection: rejects.connection.clone(),
            name: rejects.path.clone(),
            full: vec![rejects.path.clone()],
            replaces: true,
            stage: index,
            at: format!("{}/to/path", rejects.at),
        });
        targets.extend(outputs.chain(rejects));
    }
    let same =
        |a: &Target, b: &Target| a.connection == b.connection && a.full == b.full && (a.replaces || b.replaces || a.stage == b.stage);
    for (index, second) in targets.iter().enumerate() {
        if let Some(first) = targets[..index].iter().find(|first| same(first, second)) {
            let message = format!("`{}` of `{}` is written twice", second.name, second.connection);
            let problem = reader.document.at_value(Diagnostic::error("same-target", message), &second.at, "and again here");
            let problem = reader.document.at_value(problem, &first.at, "written here");
            reader
                .problems
                .push(problem.help("one would overwrite the other: write to two places, or use `append` or `upsert` in two stages"));
        }
    }
}

fn target(output: &Output, stage: usize, engine: impl Fn(&str) -> Option<Engine>) -> Option<Target> {
    if let SinkSpec::Feed(sink) = &output.sink {
        let (connection, at) = ("feeds".to_owned(), format!("{}/feed", output.at));
        // Two stages would number their events apart.
        return Some(Target { connection, name: sink.feed.clone(), full: vec![sink.feed.clone()], replaces: true, stage, at });
    }
    let (connection, name, replaces, key) = match &output.sink {
        // Several are upserted into, which others may be too.
        SinkSpec::Tables(_) => return None,
        SinkSpec::Sql(sink) => (&sink.connection, sink.table.join("."), sink.mode == WriteMode::Replace, "table"),
        SinkSpec::Files(sink) => (&sink.connection, sink.path.clone(), sink.mode == WriteMode::Replace, "path"),
        SinkSpec::Redis(sink) => (&sink.connection, sink.key.to_string(), sink.mode == RowMode::Replace, sink.shape.word()),
        // Keys of two copies may well share a server; what one would overwrite, `conflict` decides.
        SinkSpec::RedisKeys(_) | SinkSpec::Http(_) | SinkSpec::Feed(_) | SinkSpec::Discard | SinkSpec::Cache(_) => return None,
    };
    let full = match &output.sink {
        SinkSpec::Sql(sink) => full_name(engine(connection), &sink.table),
        _ => vec![name.clone()],
    };
    Some(Target { connection: connection.clone(), name, full, replaces, stage, at: format!("{}/{key}", output.at) })
}
