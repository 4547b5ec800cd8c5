//! Streams: what a stage that never ends may read and write, and the settings that mean something else in it.

use std::time::Duration;

use super::connections::{Family, engine_of};
use super::pipeline::{
    ChangesSource, Engine, FilesSink, Flow, HttpFollow, HttpSource, Kind, RedisFollow, RedisRowsSink, Retry, RowMode, RowShape, SinkSpec,
    SourceSpec, SqlSink, Step, WriteMode,
};
use super::reader::Reader;
use super::stages::positive;
use super::tables::{self, table_name};
use crate::load::file::{self, Defaults, StreamStage};
use crate::load::shape;

/// The longest that a row waits for its commit when a stream does not say.
const COMMIT_EVERY: Duration = Duration::from_millis(100);

/// What a stream says of the settings that it may also leave to the defaults.
pub fn settings(reader: &mut Reader<'_>, at: &str, said: &StreamStage) -> Defaults {
    let every = said.batch.as_ref().and_then(|batch| batch.every.as_ref());
    positive(reader, &format!("{at}/batch/every"), every);
    let batch = said.batch.as_ref().map(|batch| file::BatchSize { rows: batch.rows, bytes: batch.bytes.clone() });
    super::stages::own_settings(said.retry.as_ref(), None, None, None, batch.as_ref())
}

/// What kind of stage it is.
pub fn kind(said: &StreamStage) -> Kind {
    let every = said.batch.as_ref().and_then(|batch| batch.every.as_ref()).and_then(shape::Duration::read);
    Kind::Stream { every: every.unwrap_or(COMMIT_EVERY) }
}

/// A stream tries without end where nobody says otherwise: it is there to outlast what it follows.
pub fn retry(said: &StreamStage, all: Retry) -> Retry {
    let own = said.retry.as_ref();
    let attempts = if own.is_some_and(|own| own.attempts.is_some()) { all.attempts } else { u32::MAX };
    let total = if own.is_some_and(|own| own.total.is_some()) { all.total } else { None };
    Retry { attempts, total, ..all }
}

/// Checks the rows of a stream.
pub fn check(reader: &mut Reader<'_>, at: &str, flow: &mut Flow) {
    let from = format!("{at}/from");
    if flow.from.len() > 1 {
        let message = "a stream follows one input, and this has several";
        reader.error("stream-source", &from, message, "write one stream for each of them");
    }
    for input in &mut flow.from {
        if let SourceSpec::Redis(rows) = &input.source
            && matches!(rows.shape, RowShape::Stream | RowShape::List)
        {
            if rows.key.constant().is_none() {
                let message = "a stream follows one key, and this names many";
                let help = "write the key without columns, and one stream for each key";
                reader.error("stream-source", &format!("{}/{}", input.at, rows.shape.word()), message, help);
            }
            if let Some(column) = &rows.ttl {
                let message = format!("`{column}` would tell when the key expires, and what is followed is taken before");
                reader.error_at_key("redis-option", &format!("{}/ttl", input.at), message, "remove `ttl`");
            }
            input.source = SourceSpec::RedisFollow(RedisFollow { rows: rows.clone(), name: String::new() });
        }
        let help = match &input.source {
            SourceSpec::Poll(_) | SourceSpec::Changes(_) | SourceSpec::RedisFollow(_) | SourceSpec::RedisChannel(_) => continue,
            SourceSpec::Http(HttpSource { follow: Some(_), .. }) => continue,
            SourceSpec::Http(_) => "add `every: 5s` with `paginate: { by: cursor, … }`, or `follow: ndjson`, `sse` or `websocket`",
            SourceSpec::Sql(_) => {
                "add `cursor:`, the column that grows with every change of a row, or write `changes:` instead of `table:`"
            }
            _ => {
                "a stream reads `sql:` with a `cursor:` or `changes:`, `redis:` with a `stream:`, a `list:` or a `channel:`, or `http:` with `every:` or `follow:`; write `kind: batch` to read this to its end"
            }
        };
        if !reader.broken(&format!("{}/cursor", input.at)) {
            reader.error("stream-source", &input.at, "nothing here says what is new since the last time", help);
        }
    }
    let changes = flow.from.iter().any(|input| matches!(input.source, SourceSpec::Changes(_)));
    if flow.from.iter().any(|input| matches!(&input.source, SourceSpec::Changes(changes) if changes.tables.len() > 1)) {
        return tables::several(reader, at, flow);
    }
    for (place, step) in flow.transform.iter().enumerate().filter(|_| changes) {
        let word = match step {
            Step::Sql(_) => "sql",
            Step::Dedupe { .. } => "dedupe",
            _ => continue,
        };
        let message = format!("`{word}` would have to see all rows, and the changes of a table name one row each");
        let help = "do it in a view of the target, or in a batch stage that reads the table which the stream writes";
        reader.error("stream-transform", &format!("{at}/transform/{place}"), message, help);
    }
    let count = flow.to.len();
    // Caches come after everything else, wherever they stand.
    let last_rows = flow.to.iter().rposition(|output| matches!(output.sink, SinkSpec::Sql(_) | SinkSpec::Redis(_)));
    for (place, output) in flow.to.iter_mut().enumerate() {
        let last = place + 1 == count;
        match &mut output.sink {
            SinkSpec::Redis(rows) => rows.changes = changes,
            SinkSpec::Http(requests) => requests.changes = changes,
            _ => {}
        }
        let problem = match &output.sink {
            SinkSpec::Sql(_) | SinkSpec::Redis(_) if changes && last_rows.is_some_and(|rows| place < rows) => Some((
                "",
                "after a crash the outputs before the last may get changes again, and values that an update did not send may be gone by then",
                "write one stream for each output",
            )),
            SinkSpec::Sql(SqlSink { mode: WriteMode::Upsert { .. }, .. }) => None,
            SinkSpec::Http(sink) if changes => super::http::changes(sink),
            SinkSpec::Sql(_) | SinkSpec::Discard if changes => {
                Some(("mode", "changes are applied by their key", "write `mode: upsert` with the table's key"))
            }
            SinkSpec::Sql(SqlSink { mode: WriteMode::Replace, .. }) => {
                Some(("mode", "a stream has no end at which a table could be replaced", "write `mode: upsert` with a `key`, or `append`"))
            }
            SinkSpec::Sql(SqlSink { mode: WriteMode::Append, .. }) if !last => Some((
                "mode",
                "after a crash the outputs before the last may get rows a second time, and `append` would keep both",
                "move this output to the end of the list, or write `mode: upsert`",
            )),
            SinkSpec::Files(_) if changes => Some((
                "files",
                "changes are applied by their key, and files have none",
                "follow the table by a cursor: `table: …, cursor: …`",
            )),
            SinkSpec::Files(FilesSink { roll: None, .. }) => {
                Some(("files", "a stream has no end at which a file would be whole", "say when a part is whole: `roll: { every: 1m }`"))
            }
            SinkSpec::Files(_) if count > 1 => Some((
                "roll",
                "files are committed when a part is whole, and the other outputs would wait for that",
                "write the files in a stream of their own",
            )),
            SinkSpec::Files(_) => None,
            SinkSpec::Redis(rows) if changes && !(rows.shape.one_row() && rows.mode == RowMode::Replace) => {
                let help = "write a `hash` with `mode: replace`, a `json` or a `string`";
                Some((rows.shape.word(), "changes are applied to keys that hold one row each, and nothing else", help))
            }
            SinkSpec::Redis(RedisRowsSink { mode: RowMode::Append, .. }) if !last => Some((
                "redis",
                "after a crash the outputs before the last may get rows a second time, and these would be appended twice",
                "move this output to the end of the list",
            )),
            SinkSpec::Redis(_) => None,
            SinkSpec::Feed(sink) if changes && sink.key.is_empty() => {
                Some(("feed", "changes name their rows by a key, and this feed has none", "add `key:` with the columns of the table's key"))
            }
            SinkSpec::Feed(_) if !last => Some((
                "feed",
                "after a crash the outputs before the last may get rows a second time, and a feed would number both",
                "move this output to the end of the list",
            )),
            SinkSpec::Feed(_) => None,
            SinkSpec::Sql(_)
            | SinkSpec::Tables(_)
            | SinkSpec::RedisKeys(_)
            | SinkSpec::Http(_)
            | SinkSpec::Discard
            | SinkSpec::Cache(_) => None,
        };
        if let Some((key, message, help)) = problem {
            let pointer = format!("{}/{key}", output.at);
            let pointer = if !key.is_empty() && reader.document.get(&pointer).is_some() { pointer } else { output.at.clone() };
            reader.error("stream-target", &pointer, message, help);
        }
    }
}

/// A stage that ends reads its input once, and has no use for a cursor or a log of changes.
pub fn only_in_streams(reader: &mut Reader<'_>, flow: &Flow) {
    for input in &flow.from {
        let (key, help) = match &input.source {
            SourceSpec::Http(HttpSource { follow: Some(HttpFollow::Poll(_)), .. }) => ("every", "write `kind: stream`, or remove `every`"),
            SourceSpec::Http(HttpSource { follow: Some(_), .. }) => ("follow", "write `kind: stream`, or remove `follow`"),
            SourceSpec::Poll(_) => ("cursor", "write `kind: stream`, or remove `cursor`"),
            SourceSpec::RedisChannel(_) => ("channel", "write `kind: stream`: messages have no end"),
            SourceSpec::Changes(_) => ("changes", "write `kind: stream`, or `table` instead of `changes`"),
            _ => continue,
        };
        let message = format!("`{key}` says how a stream goes on, and this stage reads its input once");
        reader.error_at_key("cursor-fields", &format!("{}/{key}", input.at), message, help);
    }
    for output in &flow.to {
        if matches!(output.sink, SinkSpec::Files(FilesSink { roll: Some(_), .. })) {
            let message = "`roll` says when a part of a stream is whole, and this stage has an end";
            let help = "write `kind: stream`, or remove `roll`: a folder gets one part a split";
            reader.error_at_key("files-roll", &format!("{}/roll", output.at), message, help);
        }
    }
}

/// Reads an input that follows the changes of a table. The slot gets its name when the pipeline's is known.
pub fn changes(reader: &mut Reader<'_>, at: &str, said: &file::SqlInput, names: &shape::NameOrNames) -> Option<ChangesSource> {
    let connection = said.sql.clone()?;
    let engine = engine_of(reader, &format!("{at}/sql"), &connection, Family::Sql);
    if engine == Some(Engine::Sqlite) {
        let help = "follow the table by a cursor: `table: …, cursor: …`";
        reader.error("stream-source", &format!("{at}/changes"), "SQLite keeps no log of changes", help);
    }
    let others = [
        ("table", said.table.is_some()),
        ("query", said.query.is_some()),
        ("columns", said.columns.is_some()),
        ("where", said.filter.is_some()),
        ("split_by", said.split_by.is_some()),
        ("cursor", said.cursor.is_some()),
        ("key", said.key.is_some()),
        ("every", said.every.is_some()),
        ("lag", said.lag.is_some()),
    ];
    for (key, _) in others.into_iter().filter(|(_, there)| *there) {
        let message = format!("`{key}` means nothing beside `changes`, which names a table and follows all of it");
        reader.error_at_key("cursor-fields", &format!("{at}/{key}"), message, format!("remove `{key}`, or `changes`"));
    }
    let at = format!("{at}/changes");
    let listed = reader.document.get(&at).is_some_and(|said| said.is_array());
    let mut tables = Vec::with_capacity(names.0.len());
    for (place, name) in names.0.iter().enumerate() {
        let at = if listed { format!("{at}/{place}") } else { at.clone() };
        let table = table_name(reader, &at, name)?;
        if tables.contains(&table) {
            reader.error("stream-source", &at, format!("`{name}` is followed twice"), "name each table once");
            continue;
        }
        tables.push(table);
    }
    Some(ChangesSource { connection, tables, slot: String::new() })
}

/// What a stream calls its own in a database: readable as far as there is room, and never that of another stream.
pub fn slot(pipeline: &str, stage: &str) -> String {
    let plain = |text: &str| -> String {
        text.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '_' }).take(20).collect()
    };
    let hash = xxhash_rust::xxh3::xxh3_64(format!("{pipeline}\0{stage}").as_bytes());
    format!("haul_{}_{}_{:08x}", plain(pipeline), plain(stage), hash as u32)
}
