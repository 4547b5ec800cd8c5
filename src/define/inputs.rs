//! Inputs: what a stage reads, and the paths and formats that inputs and outputs share.

use std::collections::BTreeMap;

use super::connections::{Family, engine_of};
use super::pipeline::{
    Compression, CsvDialect, Engine, FileFormat, FilesSource, GenerateSource, Input, PollSource, SourceSpec, SqlRead, SqlSource,
};
use super::reader::{Grammar, Reader};
use super::tables::table_name;
use super::{http, keys, redis, steps};
use crate::data::Type;
use crate::dialect::Dialect;
use crate::load::document::child;
use crate::load::file::{self, Format, InputCompression};
use crate::load::shape::Duration;
use crate::load::template::is_template;

/// Rows looked at to infer types when an input does not say.
const SAMPLE: usize = 10_000;
/// The wait between two questions of a stream that does not say.
const POLL_EVERY: std::time::Duration = std::time::Duration::from_secs(5);
/// The name of an input that has no better one.
const INPUT: &str = "input";

/// Reads one input. `None` when it cannot be understood, which has been reported.
pub fn read(reader: &mut Reader<'_>, at: &str, said: &file::Input) -> Option<Input> {
    let (name, source) = match said {
        file::Input::Sql(said) => {
            if let Some(changes) = &said.changes {
                let source = super::streams::changes(reader, at, said, changes)?;
                let own = match source.tables.as_slice() {
                    [table] => table.last().cloned(),
                    _ => None,
                };
                let name = said.name.clone().or(own).unwrap_or_else(|| INPUT.to_owned());
                return Some(Input { name, source: SourceSpec::Changes(source), at: at.to_owned() });
            }
            let source = sql(reader, at, said)?;
            let table = match &source.read {
                SqlRead::Table { name, .. } => name.last().cloned(),
                SqlRead::Query(_) => None,
            };
            let source = match poll(reader, at, said) {
                None => SourceSpec::Sql(source),
                Some(poll) => SourceSpec::Poll(PollSource { sql: source, ..poll? }),
            };
            (said.name.clone().or(table), source)
        }
        file::Input::Files(said) => {
            let source = files(reader, at, said)?;
            let single = !source.path.contains(['*', '?', '[']);
            (said.name.clone().or_else(|| stem(&source.path).filter(|_| single)), SourceSpec::Files(source))
        }
        file::Input::Redis(said) if said.keys.is_some() => (said.name.clone(), SourceSpec::RedisKeys(keys::input(reader, at, said)?)),
        file::Input::Redis(said) if said.channel.is_some() => {
            (said.name.clone(), SourceSpec::RedisChannel(redis::channel(reader, at, said)?))
        }
        file::Input::Redis(said) => (said.name.clone(), SourceSpec::Redis(redis::input(reader, at, said)?)),
        file::Input::Http(said) => {
            let source = http::input(reader, at, said)?;
            (said.name.clone().or_else(|| stem(&source.path)), SourceSpec::Http(source))
        }
        file::Input::Generate(said) => (said.name.clone(), SourceSpec::Generate(generate(reader, at, said)?)),
        file::Input::Stage(said) => {
            let stage = said.stage.clone()?;
            (said.name.clone().or_else(|| Some(stage.clone())), SourceSpec::Stage(stage))
        }
        file::Input::Unclear => return None,
    };
    Some(Input { name: name.unwrap_or_else(|| INPUT.to_owned()), source, at: at.to_owned() })
}

/// The name of a single file up to its first point, where that is a plain word: `airlines` of `in/airlines.csv.gz`.
fn stem(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let stem = file.split('.').next()?;
    let plain = !stem.is_empty() && stem.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
    plain.then(|| stem.to_owned())
}

fn sql(reader: &mut Reader<'_>, at: &str, said: &file::SqlInput) -> Option<SqlSource> {
    let connection = said.sql.clone()?;
    let engine = engine_of(reader, &format!("{at}/sql"), &connection, Family::Sql);
    let dialect = dialect(engine);
    let filter = said.filter.as_ref().map(|filter| reader.sql(&format!("{at}/where"), filter, dialect));
    let columns_at = format!("{at}/columns");
    let columns = steps::names(reader, &columns_at, said.columns.as_deref().unwrap_or_default());
    let read = match (&said.table, &said.query) {
        (Some(table), None) => SqlRead::Table {
            name: table_name(reader, &format!("{at}/table"), table)?,
            columns: columns.into_iter().map(|(name, _)| name).collect(),
            // Absent, fine, or wrong: only the last ends the reading of its input.
            filter: match filter {
                None => None,
                Some(rendered) => Some(rendered?),
            },
        },
        (None, Some(query)) => {
            for (key, there) in [("columns", said.columns.is_some()), ("where", said.filter.is_some())] {
                if there {
                    let message = format!("`{key}` is for tables, and this input has a query");
                    reader.error_at_key("query-fields", &format!("{at}/{key}"), message, "say it in the query");
                }
            }
            SqlRead::Query(reader.sql(&format!("{at}/query"), query, dialect)?)
        }
        (Some(_), Some(_)) => {
            let message = "an input reads a table or a query, not both";
            reader.error_at_key("table-or-query", &format!("{at}/query"), message, "remove `table` or `query`");
            return None;
        }
        (None, None) => {
            if !reader.broken(&format!("{at}/table")) && !reader.broken(&format!("{at}/query")) {
                reader.error_at_key("table-or-query", &format!("{at}/sql"), "the input says nothing to read", "add `table:` or `query:`");
            }
            return None;
        }
    };
    Some(SqlSource { connection, read, split_by: said.split_by.clone() })
}

/// What a stream asks an input for, when the input says so. Its `sql` is left to the caller.
fn poll(reader: &mut Reader<'_>, at: &str, said: &file::SqlInput) -> Option<Option<PollSource>> {
    let Some(cursor) = &said.cursor else {
        for (key, there) in [("key", said.key.is_some()), ("every", said.every.is_some()), ("lag", said.lag.is_some())] {
            if there && !reader.broken(&format!("{at}/cursor")) {
                let message = format!("`{key}` belongs to `cursor`, which the input does not have");
                reader.error_at_key(
                    "cursor-fields",
                    &format!("{at}/{key}"),
                    message,
                    "add `cursor:`, the column that grows with every change",
                );
            }
        }
        return None;
    };
    let key = steps::names(reader, &format!("{at}/key"), said.key.as_deref().unwrap_or_default());
    let length = |said: &Option<Duration>, default| said.as_ref().map_or(Some(default), Duration::read);
    let (every, lag) = (length(&said.every, POLL_EVERY), length(&said.lag, std::time::Duration::ZERO));
    if every.is_some_and(|every| every.is_zero()) {
        let message = "without a wait between questions the database would be asked without end";
        reader.error("out-of-range", &format!("{at}/every"), message, "write a longer time, such as `1s`");
    }
    let empty = SqlSource { connection: String::new(), read: SqlRead::Query(String::new()), split_by: None };
    let key = key.into_iter().map(|(name, _)| name).collect();
    Some(every.zip(lag).map(|(every, lag)| PollSource { sql: empty, cursor: cursor.clone(), key, every, lag }))
}

/// The dialect of an engine. An engine that is not known yet is checked as PostgreSQL, the strictest about names.
pub fn dialect(engine: Option<Engine>) -> Dialect {
    if engine == Some(Engine::Sqlite) { Dialect::Sqlite } else { Dialect::Postgres }
}

fn files(reader: &mut Reader<'_>, at: &str, said: &file::FilesInput) -> Option<FilesSource> {
    let connection = said.files.clone()?;
    engine_of(reader, &format!("{at}/files"), &connection, Family::Files);
    let path_at = format!("{at}/path");
    let path = path(reader, &path_at, said.path.as_ref()?)?;
    if let Err(error) = glob::Pattern::new(&path) {
        reader.error(
            "path-glob",
            &path_at,
            format!("the path is not a glob: {}", error.msg),
            "`*` matches names, `**` folders, `[ab]` letters",
        );
    }
    let ending = Ending::of(&path);
    let format = format(reader, at, said.format, &path);
    let compression = match said.compression {
        Some(InputCompression::None) => Some(Compression::Plain),
        Some(InputCompression::Gzip) => Some(Compression::Gzip),
        Some(InputCompression::Zstd) => Some(Compression::Zstd),
        None => None,
    };
    if format == Some(Format::Parquet) && compression.is_some_and(|compression| compression != Compression::Plain) {
        let message = "a Parquet file is compressed inside, not as a whole";
        reader.error("compression-format", &format!("{at}/compression"), message, "remove `compression`");
    }
    let csv = csv_only(reader, at, said.csv.is_some(), format).then_some(said.csv.as_ref()).flatten();
    let format = match format {
        Some(Format::Csv) => FileFormat::Csv(csv_dialect(reader, at, csv, ending.tabs)),
        Some(Format::Parquet) => FileFormat::Parquet,
        // Without a format, which has been reported or is hidden in a template, the pipeline cannot be run as it stands.
        Some(Format::Ndjson) | None => FileFormat::Ndjson,
    };
    let mut columns = BTreeMap::new();
    for (name, ty) in said.columns.iter().flat_map(|entries| &entries.0) {
        let at = child(&format!("{at}/columns"), name);
        columns.extend(column_type(reader, &at, ty).map(|ty| (name.clone(), ty)));
    }
    Some(FilesSource { connection, path, format, compression, columns, sample: said.sample.unwrap_or(SAMPLE) })
}

fn generate(reader: &mut Reader<'_>, at: &str, said: &file::GenerateInput) -> Option<GenerateSource> {
    let pointer = format!("{at}/generate");
    let rows = match said.generate.as_ref()?.0.as_str() {
        None => said.generate.as_ref()?.0.as_u64()?,
        Some(text) => {
            let rendered = reader.text(&pointer, text)?;
            match rendered.trim().parse() {
                Ok(rows) => rows,
                Err(_) if is_template(&rendered) => 0,
                Err(_) => {
                    let message = format!("`generate` must be a whole number, and is `{rendered}`");
                    reader.error("invalid-count", &pointer, message, "give the param a whole number");
                    return None;
                }
            }
        }
    };
    let mut columns = Vec::new();
    for (name, expression) in &said.columns.as_ref()?.0 {
        let at = child(&format!("{at}/columns"), name);
        let expression = reader.datafusion(&at, expression, Grammar::Expression)?;
        columns.push((name.clone(), expression));
    }
    Some(GenerateSource { rows, columns })
}

/// A column type by its name.
pub fn column_type(reader: &mut Reader<'_>, at: &str, text: &str) -> Option<Type> {
    match text.parse() {
        Ok(ty) => Some(ty),
        Err(message) => {
            let help = match steps::usual_type(text) {
                Some(ours) => format!("haul calls it `{ours}`"),
                None => format!("the types are {}", crate::data::TYPE_NAMES.join(", ")),
            };
            let message = message.split(';').next().unwrap_or_default().to_owned();
            reader.error("unknown-type", at, message, help);
            None
        }
    }
}

/// A path below a connection's root.
pub fn path(reader: &mut Reader<'_>, at: &str, said: &str) -> Option<String> {
    let text = reader.text(at, said)?;
    let help = "paths are relative to the connection's folder or bucket; point the connection somewhere else to reach other files";
    let problem = if text.contains("://") || text.starts_with("file:") {
        Some("the path is a URL")
    } else if text.starts_with('/') || text.starts_with('\\') || text.get(1..3).is_some_and(|drive| drive == ":\\") {
        Some("the path is absolute")
    } else if text.split(['/', '\\']).any(|part| part == "..") {
        Some("the path leaves its folder with `..`")
    } else if text.contains('\0') {
        Some("the path holds a NUL character")
    } else {
        None
    };
    match problem {
        Some(message) => {
            reader.error("path-outside", at, message, help);
            None
        }
        None => Some(text),
    }
}

/// What a file's name says of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Of `.csv`, `.ndjson`, `.parquet` and their like.
    pub format: Option<Format>,
    /// Of `.gz` and `.zst`.
    pub compression: Option<Compression>,
    /// `.tsv`: values are separated by tabs.
    pub tabs: bool,
}

impl Ending {
    /// Reads a path.
    pub fn of(path: &str) -> Self {
        let name = path.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
        let (name, compression) = match name.rsplit_once('.') {
            Some((rest, "gz")) => (rest, Some(Compression::Gzip)),
            Some((rest, "zst" | "zstd")) => (rest, Some(Compression::Zstd)),
            _ => (name.as_str(), None),
        };
        let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
        let format = match ending {
            "csv" | "tsv" => Some(Format::Csv),
            "ndjson" | "jsonl" => Some(Format::Ndjson),
            "parquet" | "pq" => Some(Format::Parquet),
            _ => None,
        };
        Self { format, compression, tabs: ending == "tsv" }
    }
}

/// The format said, else the one of the path's ending. Without either that is an error, unless a template may still bring the ending.
pub fn format(reader: &mut Reader<'_>, at: &str, said: Option<Format>, path: &str) -> Option<Format> {
    let ending = Ending::of(path).format;
    let name = |format| match format {
        Format::Csv => "csv",
        Format::Ndjson => "ndjson",
        Format::Parquet => "parquet",
    };
    match (said, ending) {
        (Some(said), Some(ending)) if said != ending => {
            let message = format!("the path ends like {}, and `format` says `{}`", name(ending), name(said));
            reader.warn_at_key("format-ending", &format!("{at}/format"), message, "remove `format`, or rename the file");
        }
        (None, None) if !path.ends_with("}}") && !path.ends_with("%}") && !reader.broken(&format!("{at}/format")) => {
            let (message, help) = if path.ends_with('/') {
                ("a folder of parts does not tell its format", "add `format: csv`, `ndjson` or `parquet`")
            } else {
                (
                    "the path's ending names no format",
                    "add `format: csv`, `ndjson` or `parquet`, or end the path in `.csv`, `.ndjson` or `.parquet`",
                )
            };
            reader.error("unknown-format", &format!("{at}/path"), message, help);
        }
        _ => {}
    }
    said.or(ending)
}

/// Refuses a `csv:` block beside another format. True when the block may be read.
pub fn csv_only(reader: &mut Reader<'_>, at: &str, there: bool, format: Option<Format>) -> bool {
    let wrong = there && format.is_some_and(|format| format != Format::Csv);
    if wrong {
        reader.error_at_key("csv-block", &format!("{at}/csv"), "`csv` says how CSV is written, and the format is another", "remove `csv`");
    }
    !wrong
}

/// How CSV is written that is read.
pub fn csv_dialect(reader: &mut Reader<'_>, at: &str, said: Option<&file::CsvInput>, tabs: bool) -> CsvDialect {
    let none = file::CsvInput::default();
    let said = said.unwrap_or(&none);
    let character = |text: &Option<String>| text.as_ref().and_then(|text| text.bytes().next());
    let encoding = said.encoding.clone().unwrap_or_else(|| "utf-8".to_owned());
    if encoding_rs::Encoding::for_label(encoding.as_bytes()).is_none() {
        let help = "write a label of the WHATWG encoding standard, such as `utf-8`, `windows-1252` or `shift_jis`";
        reader.error("unknown-encoding", &format!("{at}/csv/encoding"), format!("unknown encoding `{encoding}`"), help);
    }
    let dialect = CsvDialect {
        delimiter: character(&said.delimiter).unwrap_or(if tabs { b'\t' } else { b',' }),
        quote: if said.quote.is_some() { character(&said.quote) } else { Some(b'"') },
        escape: character(&said.escape),
        header: said.header.unwrap_or(true),
        null: said.null.clone().unwrap_or_else(|| vec![String::new()]),
        encoding,
    };
    csv_characters(reader, at, &dialect);
    dialect
}

/// Refuses a dialect in which one character means two things.
pub fn csv_characters(reader: &mut Reader<'_>, at: &str, dialect: &CsvDialect) {
    let line_end = |byte: u8| byte == b'\n' || byte == b'\r';
    let clash = if dialect.quote == Some(dialect.delimiter) {
        Some("the delimiter and the quote are the same character")
    } else if dialect.escape == Some(dialect.delimiter) {
        Some("the delimiter and the escape are the same character")
    } else if line_end(dialect.delimiter) || dialect.quote.is_some_and(line_end) || dialect.escape.is_some_and(line_end) {
        Some("a line end cannot be a delimiter, quote or escape")
    } else {
        None
    };
    if let Some(message) = clash {
        reader.error_at_key("csv-characters", &format!("{at}/csv"), message, "give each its own character");
    }
}
