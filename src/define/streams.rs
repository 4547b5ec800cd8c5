//! Streams: what a stage that never ends may read and write, and the settings that mean something else in it.

use std::time::Duration;

use super::pipeline::{Flow, Kind, Retry, SinkSpec, SourceSpec, SqlSink, WriteMode};
use super::reader::Reader;
use super::stages::positive;
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
pub fn check(reader: &mut Reader<'_>, at: &str, flow: &Flow) {
    let from = format!("{at}/from");
    if flow.from.len() > 1 {
        let message = "a stream follows one input, and this has several";
        reader.error("stream-source", &from, message, "write one stream for each of them");
    }
    for input in &flow.from {
        let help = match &input.source {
            SourceSpec::Poll(_) => continue,
            SourceSpec::Sql(_) => "add `cursor:`, the column that grows with every change of a row, such as `updated_at`",
            _ => "a stream reads `sql:` with a `cursor:`; write `kind: batch` to read this to its end",
        };
        if !reader.broken(&format!("{}/cursor", input.at)) {
            reader.error("stream-source", &input.at, "nothing here says what is new since the last time", help);
        }
    }
    for (place, output) in flow.to.iter().enumerate() {
        let last = place + 1 == flow.to.len();
        let problem = match &output.sink {
            SinkSpec::Sql(SqlSink { mode: WriteMode::Replace, .. }) => {
                Some(("mode", "a stream has no end at which a table could be replaced", "write `mode: upsert` with a `key`, or `append`"))
            }
            SinkSpec::Sql(SqlSink { mode: WriteMode::Append, .. }) if !last => Some((
                "mode",
                "after a crash the outputs before the last may get rows a second time, and `append` would keep both",
                "move this output to the end of the list, or write `mode: upsert`",
            )),
            SinkSpec::Files(_) => {
                Some(("files", "a stream cannot write files yet", "write to a table, and let a batch stage write the files"))
            }
            SinkSpec::Redis(_) => {
                Some(("redis", "a stream cannot write to Redis yet", "write to a table, and let a batch stage write the keys"))
            }
            SinkSpec::Sql(_) | SinkSpec::RedisKeys(_) | SinkSpec::Discard | SinkSpec::Cache(_) => None,
        };
        if let Some((key, message, help)) = problem {
            let pointer = format!("{}/{key}", output.at);
            let pointer = if reader.document.get(&pointer).is_some() { pointer } else { output.at.clone() };
            reader.error("stream-target", &pointer, message, help);
        }
    }
}

/// A bounded stage reads its input once, and has no use for a cursor.
pub fn only_in_streams(reader: &mut Reader<'_>, flow: &Flow) {
    for input in &flow.from {
        if matches!(input.source, SourceSpec::Poll(_)) {
            let message = "`cursor` says how a stream goes on, and a stage of kind `batch` reads its input once";
            reader.error_at_key("cursor-fields", &format!("{}/cursor", input.at), message, "write `kind: stream`, or remove `cursor`");
        }
    }
}
