//! A sealed plan as text: stable, so that a change of a pipeline or of a system shows in a diff.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{InputPlan, Origin, OutputPlan, Plan, Sealed, SourcePlan, StagePlan};
use crate::connectors::{SourceTable, Target};
use crate::data::{Grade, Schema};
use crate::define::pipeline::{CacheMode, FeedKeep, FeedSink, FilesSink, Kind, SinkSpec, SqlSink, Verify, WriteMode, length_text};

/// The plan for people.
pub fn explain(plan: &Plan<Sealed>) -> String {
    let mut text = String::new();
    // Writing to a `String` cannot fail.
    let _ = write_plan(&mut text, plan);
    text
}

fn write_plan(text: &mut String, plan: &Plan<Sealed>) -> std::fmt::Result {
    let count = plan.stages.len();
    writeln!(text, "pipeline {}: {count} {}", plan.pipeline.name, if count == 1 { "stage" } else { "stages" })?;
    for (place, segment) in plan.segments.iter().enumerate() {
        for &number in &segment.stages {
            writeln!(text)?;
            write_stage(text, plan, place, number)?;
        }
    }
    Ok(())
}

fn write_stage(text: &mut String, plan: &Plan<Sealed>, segment: usize, number: usize) -> std::fmt::Result {
    let stage = &plan.stages[number];
    writeln!(text, "{} ({})", stage.stage.name, stage.stage.kind.word())?;
    let after: Vec<&str> = stage.stage.after.iter().map(|(name, _)| name.as_str()).collect();
    if !after.is_empty() {
        writeln!(text, "  after   {}", after.join(", "))?;
    }
    let together: Vec<&str> = plan.segments[segment]
        .stages
        .iter()
        .filter(|&&other| other != number)
        .map(|&other| plan.stages[other].stage.name.as_str())
        .collect();
    if !together.is_empty() {
        writeln!(text, "  with    {}: they stream to each other and run as one", together.join(", "))?;
    }
    for input in &stage.inputs {
        write_input(text, input, &stage.tables)?;
    }
    for line in &stage.transform.pushed().text {
        writeln!(text, "  pushed  {line}")?;
    }
    for line in stage.transform.describe() {
        writeln!(text, "  do      {line}")?;
    }
    writeln!(text, "  work    {}", work(stage))?;
    if let Some(rejects) = &stage.flow().rejects {
        writeln!(text, "  rejects up to {} to {}/{}", rejects.at_most, rejects.connection, rejects.path)?;
    }
    for output in &stage.outputs {
        writeln!(text, "  to      {}: {}, verify {}", output.label, mode(output), verify(stage, output))?;
        writeln!(text, "          {}", output.target.guarantee)?;
        write_target(text, &stage.schema, &output.target)?;
        for ((table, target), name) in stage.tables.iter().zip(&output.target.tables).zip(names(output)) {
            writeln!(text, "          {} → {name}", table.label)?;
            write_target(text, &table.schema, target)?;
        }
    }
    if let Kind::Cache(cache) = &stage.stage.kind {
        for line in cache.describe() {
            writeln!(text, "  keeps   {line}")?;
        }
    } else if stage.outputs.is_empty() {
        writeln!(text, "  to      the stages that read it")?;
    }
    Ok(())
}

fn work(stage: &StagePlan) -> String {
    if let Kind::Stream { every } = stage.stage.kind {
        if stage.flow().to.iter().any(|output| matches!(output.sink, SinkSpec::Files(FilesSink { roll: Some(_), .. }))) {
            return "goes on until it is stopped; commits when a part is whole".to_owned();
        }
        let batch = stage.flow().batch;
        let (rows, bytes) = (thousands(batch.rows as u64), size(batch.bytes as u64));
        return format!("goes on until it is stopped; commits after {rows} rows, {bytes} or {every:?}");
    }
    let policy = &stage.flow().splits;
    let mut line = if stage.by_split() {
        format!("up to {} splits of {} or more, {} at a time", policy.most, size(policy.bytes), policy.concurrency)
    } else {
        "all rows as one unit".to_owned()
    };
    if stage.raw {
        line.push_str("; rows pass through undecoded");
    }
    line
}

fn write_input(text: &mut String, input: &InputPlan, tables: &[SourceTable]) -> std::fmt::Result {
    if let (Origin::Source(from), [_, ..]) = (&input.origin, tables) {
        writeln!(text, "  from    {}; {}", input.label, from.description.consistency)?;
        for table in tables {
            writeln!(text, "          {}: {} columns, key {}", table.label, table.schema.columns.len(), table.key.join(", "))?;
        }
        return Ok(());
    }
    write!(text, "  from    {}", input.label)?;
    if input.name != input.label {
        write!(text, " as {}", input.name)?;
    }
    let Origin::Source(from) = &input.origin else { return writeln!(text) };
    let SourcePlan { description, request, .. } = &**from;
    write!(text, ": {} columns", input.schema.columns.len())?;
    if let Some(rows) = description.rows {
        write!(text, ", about {} rows", thousands(rows))?;
    }
    if let Some(bytes) = description.bytes {
        write!(text, ", {}", size(bytes))?;
    }
    if !description.key.is_empty() {
        write!(text, ", key {}", description.key.join(", "))?;
    }
    writeln!(text, "; {}", description.consistency)?;
    if !request.as_text.is_empty() {
        writeln!(text, "          read in their text form: {}", request.as_text.join(", "))?;
    }
    Ok(())
}

fn write_target(text: &mut String, schema: &Schema, target: &Target) -> std::fmt::Result {
    let incoming = &schema.columns;
    let width = |lengths: &mut dyn Iterator<Item = usize>| lengths.max().unwrap_or(0);
    let names = width(&mut incoming.iter().map(|column| column.name.chars().count()));
    let types = width(&mut incoming.iter().map(|column| column.ty.to_string().chars().count()));
    let natives = width(&mut target.columns.iter().map(|mapped| mapped.native.chars().count()));
    for (column, mapped) in incoming.iter().zip(&target.columns) {
        let ty = column.ty.to_string();
        let mut line = format!("          {:names$}  {ty:types$} → {:natives$}  {}", column.name, mapped.native, mapped.grade);
        if mapped.grade != Grade::Exact {
            let _ = write!(line, ": {}", mapped.reason);
        }
        writeln!(text, "{}", line.trim_end())?;
    }
    for statement in &target.ddl {
        for (at, line) in statement.lines().enumerate() {
            writeln!(text, "  {}     {line}", if at == 0 { "ddl" } else { "   " })?;
        }
    }
    Ok(())
}

/// What the tables are called that a stream of several goes to.
fn names(output: &OutputPlan) -> Vec<String> {
    match &output.output.sink {
        SinkSpec::Tables(sinks) => sinks.iter().map(|sink| sink.table.join(".")).collect(),
        _ => Vec::new(),
    }
}

fn mode(output: &OutputPlan) -> String {
    match &output.output.sink {
        SinkSpec::Tables(_) => "upsert by each table's key".to_owned(),
        SinkSpec::Sql(SqlSink { mode: WriteMode::Upsert { key }, .. }) => format!("upsert by {}", key.join(", ")),
        SinkSpec::Sql(SqlSink { mode: WriteMode::Append, .. }) => "append".to_owned(),
        SinkSpec::Sql(SqlSink { mode: WriteMode::Replace, .. }) => "replace".to_owned(),
        SinkSpec::Files(FilesSink { roll: Some(roll), .. }) => {
            format!("parts of {} rows, {} or {}", thousands(roll.rows), size(roll.bytes), length_text(roll.every))
        }
        SinkSpec::Files(sink) => if sink.mode == WriteMode::Append { "append" } else { "replace" }.to_owned(),
        SinkSpec::RedisKeys(sink) => format!("copy, {}", sink.conflict.word()),
        SinkSpec::Redis(sink) => sink.mode.word().to_owned(),
        SinkSpec::Http(sink) => sink.words(),
        SinkSpec::Feed(sink) => feed(sink),
        SinkSpec::Discard => "discard".to_owned(),
        SinkSpec::Cache(sink) => match sink.mode {
            CacheMode::Fill => "fill",
            CacheMode::Update => "update",
            CacheMode::Invalidate => "invalidate",
        }
        .to_owned(),
    }
}

fn feed(sink: &FeedSink) -> String {
    let how = if sink.key.is_empty() { "append".to_owned() } else { format!("put by {}", sink.key.join(", ")) };
    let FeedKeep { rows, bytes, age } = sink.keep;
    let days = age.as_secs() / 86_400;
    let age = if days > 0 { format!("{days}d") } else { format!("{age:?}") };
    let (rows, bytes, slow) = (thousands(rows), size(bytes), sink.slow.word());
    format!("{how}, keeps {rows} events, {bytes}, {age}; slow clients: {slow} after {:?}", sink.slow_after)
}

fn verify(stage: &StagePlan, output: &OutputPlan) -> &'static str {
    match stage.flow().verify {
        _ if output.keeps_nothing() => "none",
        Verify::None => "none",
        Verify::Count => "count",
        Verify::Digest => "digest",
    }
}

pub(super) fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    for (unit, name) in UNITS {
        if bytes >= unit {
            let tenths = bytes.saturating_mul(10) / unit;
            return if tenths.is_multiple_of(10) {
                format!("{} {name}", tenths / 10)
            } else {
                format!("{}.{} {name}", tenths / 10, tenths % 10)
            };
        }
    }
    format!("{bytes} B")
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The plan for programs.
pub fn explain_json(plan: &Plan<Sealed>) -> Value {
    json!({
        "version": 1,
        "pipeline": plan.pipeline.name,
        "hash": plan.hash,
        "stages": plan.segments.iter().flat_map(|segment| &segment.stages).map(|&number| stage_json(plan, number)).collect::<Vec<_>>(),
    })
}

fn stage_json(plan: &Plan<Sealed>, number: usize) -> Value {
    let stage = &plan.stages[number];
    json!({
        "name": stage.stage.name,
        "kind": stage.stage.kind.word(),
        "after": stage.stage.after.iter().map(|(name, _)| name).collect::<Vec<_>>(),
        "by_split": stage.by_split(),
        "raw": stage.raw,
        "key": stage.key,
        "tables": stage.tables.iter().map(|table| json!({ "label": table.label, "columns": table.schema.columns.len(), "key": table.key })).collect::<Vec<_>>(),
        "inputs": stage.inputs.iter().map(input_json).collect::<Vec<_>>(),
        "pushed": stage.transform.pushed().text,
        "steps": stage.transform.describe(),
        "outputs": stage.outputs.iter().map(|output| output_json(stage, output)).collect::<Vec<_>>(),
    })
}

fn input_json(input: &InputPlan) -> Value {
    let (rows, bytes) = match &input.origin {
        Origin::Source(from) => (from.description.rows, from.description.bytes),
        Origin::Stage(_) => (None, None),
    };
    json!({ "name": input.name, "label": input.label, "columns": input.schema.columns.len(), "rows": rows, "bytes": bytes })
}

fn output_json(stage: &StagePlan, output: &OutputPlan) -> Value {
    let tables = stage.tables.iter().zip(&output.target.tables).zip(names(output));
    let tables = tables.map(|((table, target), name)| {
        json!({ "from": table.label, "table": name, "columns": columns_json(&table.schema, target), "ddl": target.ddl })
    });
    json!({
        "target": output.label,
        "mode": mode(output),
        "verify": verify(stage, output),
        "guarantee": output.target.guarantee,
        "columns": columns_json(&stage.schema, &output.target),
        "ddl": output.target.ddl,
        "tables": tables.collect::<Vec<_>>(),
    })
}

fn columns_json(schema: &Schema, target: &Target) -> Vec<Value> {
    schema
        .columns
        .iter()
        .zip(&target.columns)
        .map(|(column, mapped)| {
            json!({
                "name": mapped.name,
                "from": column.ty.to_string(),
                "to": mapped.native,
                "grade": mapped.grade.to_string(),
                "reason": mapped.reason,
            })
        })
        .collect()
}
