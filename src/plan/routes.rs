//! Which columns name a row, who writes what somebody else reads, and where rows may pass undecoded. Pure.

use super::{InputPlan, Origin, OutputPlan, SourcePlan};
use crate::data::{Column, Schema, WireFormat};
use crate::define::full_name;
use crate::define::pipeline::{Flow, Output, Pipeline, PollSource, RedisFollow, SinkSpec, SourceSpec, SqlRead, SqlSink, Step, WriteMode};
use crate::transform::Compiled;

/// Whether a sink writes to this table of a connection, however either spells it.
pub(super) fn writes_table(pipeline: &Pipeline, sink: &SqlSink, connection: &str, table: &[String]) -> bool {
    let engine = pipeline.connections.get(connection).and_then(|connection| connection.engine);
    sink.connection == connection && full_name(engine, &sink.table) == full_name(engine, table)
}

/// Whether a sink writes what a source reads.
pub(super) fn writes(pipeline: &Pipeline, sink: &SinkSpec, source: &SourceSpec) -> bool {
    match (sink, source) {
        (SinkSpec::Sql(sink), SourceSpec::Sql(source) | SourceSpec::Poll(PollSource { sql: source, .. })) => {
            matches!(&source.read, SqlRead::Table { name, .. } if writes_table(pipeline, sink, &source.connection, name))
        }
        (SinkSpec::Tables(sinks), _) => sinks.iter().any(|sink| writes(pipeline, &SinkSpec::Sql(sink.clone()), source)),
        (SinkSpec::Sql(sink), SourceSpec::Changes(source)) => {
            source.tables.iter().any(|table| writes_table(pipeline, sink, &source.connection, table))
        }
        (SinkSpec::Files(sink), SourceSpec::Files(source)) => {
            let inside = || source.path.strip_prefix(sink.path.as_str()).is_some_and(|rest| sink.path.ends_with('/') && !rest.is_empty());
            sink.connection == source.connection && (sink.path == source.path || inside())
        }
        (SinkSpec::Redis(sink), SourceSpec::Redis(source) | SourceSpec::RedisFollow(RedisFollow { rows: source, .. })) => {
            sink.connection == source.connection && sink.key == source.key
        }
        (SinkSpec::RedisKeys(sink), SourceSpec::RedisKeys(source)) => sink.connection == source.connection,
        _ => false,
    }
}

/// Whether a source knows its columns before it holds any rows, because they are all declared.
pub(super) fn describes_itself(source: &SourceSpec) -> bool {
    match source {
        SourceSpec::Redis(rows) | SourceSpec::RedisChannel(rows) => rows.sample == 0,
        SourceSpec::Http(answers) => answers.sample == 0,
        _ => false,
    }
}

/// What the position of a stream belongs to: it means the same rows as long as the same thing is followed in the same order, whatever happens
/// to the rows then. `None` for what cannot be followed.
pub(super) fn followed(source: &SourceSpec) -> Option<String> {
    match source {
        SourceSpec::Poll(poll) => {
            let read = match &poll.sql.read {
                SqlRead::Table { name, .. } => format!("{name:?}"),
                SqlRead::Query(query) => query.clone(),
            };
            Some(format!("{} {:?} {:?} {read}", poll.sql.connection, poll.cursor, poll.key))
        }
        SourceSpec::Changes(changes) => Some(format!("{changes:?}")),
        SourceSpec::RedisChannel(messages) => Some(format!("{} {}", messages.connection, messages.key)),
        SourceSpec::Http(feed) => Some(format!("{:?}", (&feed.connection, &feed.path, &feed.query, &feed.paginate))),
        _ => None,
    }
}

/// The engine of an output's connection, by the name that native types use.
pub(super) fn native_engine(pipeline: &Pipeline, output: &Output) -> Option<&'static str> {
    let connection = match &output.sink {
        SinkSpec::Sql(sink) => &sink.connection,
        SinkSpec::Tables(sinks) => &sinks.first()?.connection,
        SinkSpec::RedisKeys(sink) => &sink.connection,
        _ => return None,
    };
    pipeline.connections.get(connection)?.engine?.native()
}

/// The columns that name a row of what comes out: the key or primary key an output names, else the source's key where it survives.
pub(super) fn output_key(inputs: &[InputPlan], flow: &Flow, transform: &Compiled) -> Vec<String> {
    for output in &flow.to {
        let SinkSpec::Sql(sink) = &output.sink else { continue };
        if let WriteMode::Upsert { key } = &sink.mode
            && !key.is_empty()
        {
            return key.clone();
        }
        if let Some(key) = &sink.primary_key {
            return key.clone();
        }
    }
    if !transform.key().is_empty() {
        return transform.key().to_vec();
    }
    let [InputPlan { origin: Origin::Source(from), .. }] = inputs else { return Vec::new() };
    let untouched = |name: &str| {
        flow.transform.iter().all(|step| match step {
            Step::Set(columns) => columns.iter().all(|(column, _)| column != name),
            Step::Cast(columns) => columns.iter().all(|(column, ..)| column != name),
            Step::Mask(columns) => columns.iter().all(|(column, ..)| column != name),
            Step::Rename(columns) => columns.iter().all(|(_, new, _)| new != name),
            Step::Sql(_) => false,
            Step::Filter(_) | Step::Select(_) | Step::Drop(_) | Step::Dedupe { .. } | Step::Lookup(_) => true,
        })
    };
    surviving_key(&from.description.key, transform.schema(), untouched)
}

/// Rows pass undecoded when one source feeds outputs that all speak its wire format for these columns, with nothing to do in between.
pub(super) fn passes_raw(inputs: &[InputPlan], transform: &Compiled, outputs: &[OutputPlan]) -> bool {
    let [InputPlan { origin: Origin::Source(from), .. }] = inputs else { return false };
    let SourcePlan { description, request, .. } = &**from;
    if outputs.is_empty() || !transform.is_identity() || !request.as_text.is_empty() {
        return false;
    }
    let Some(WireFormat::PgCopyBinary(types)) = &description.wire else { return false };
    let wire = match &request.columns {
        None => Some(types.clone()),
        Some(names) => names.iter().map(|name| types.get(description.schema.find(name)?.0).cloned()).collect(),
    };
    let Some(wire) = wire.map(WireFormat::PgCopyBinary) else { return false };
    outputs.iter().all(|output| output.target.wire.as_ref() == Some(&wire))
}

/// The columns of a source's key that come out of a stage under their own names, or nothing when one of them does not.
fn surviving_key(key: &[String], schema: &Schema, untouched: impl Fn(&str) -> bool) -> Vec<String> {
    let survives = |name: &String| untouched(name) && schema.columns.iter().any(|column: &Column| column.name == *name);
    if key.iter().all(survives) { key.to_vec() } else { Vec::new() }
}
