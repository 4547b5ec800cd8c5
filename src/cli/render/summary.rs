//! How a run ended: a table of its stages, and one line that says what came of it.

use crate::journal::{LookupReport, Outcome, OutputReport, RunState, StageState, Verdict};

use super::Paint;
use super::table::{Align, table};
use super::words;

/// The table and the verdict.
pub fn run(state: &RunState, paint: Paint) -> String {
    format!("{}{}\n\n{}", stages(state, paint), lookups(state), verdict(state, paint))
}

/// One line for each cache that a stage looked into.
fn lookups(state: &RunState) -> String {
    let lines = state.stages.iter().flat_map(|stage| stage.lookups.iter().map(|report| lookup(&stage.stage, report)));
    lines.map(|line| format!("\n{line}")).collect()
}

/// `flights looked into carriers: 16 keys, 15 hits (15 in memory), 1 miss`
fn lookup(stage: &str, report: &LookupReport) -> String {
    let mut line = format!("{stage} looked into {}: {}", report.cache, words::counted(report.keys, "key"));
    line.push_str(&format!(", {} ({} in memory)", words::counted(report.hits, "hit"), words::count(report.memory_hits)));
    for (count, what) in [
        (report.misses, "missed"),
        (report.negative_hits, "known to be nowhere"),
        (report.coalesced, "waited for another's load"),
        (report.stale_served, "served past their time"),
        (report.bypassed, "past the cache"),
    ] {
        if count > 0 {
            line.push_str(&format!(", {} {what}", words::count(count)));
        }
    }
    if report.loads > 0 {
        let loads = words::counted(report.loads, "load");
        line.push_str(&format!("; {loads} of {} on average", words::span(report.load_ms / report.loads)));
    }
    if report.oldest_ms > 0 {
        line.push_str(&format!("; the oldest row was {} old", words::span(report.oldest_ms)));
    }
    line
}

/// One line a stage.
pub fn stages(state: &RunState, paint: Paint) -> String {
    let headings = [
        ("stage", Align::Left),
        ("outcome", Align::Left),
        ("rows in", Align::Right),
        ("rows out", Align::Right),
        ("rejects", Align::Right),
        ("bytes", Align::Right),
        ("rate", Align::Right),
        ("time", Align::Right),
        ("verified", Align::Left),
    ];
    let rows: Vec<Vec<String>> = state.stages.iter().map(cells).collect();
    table(&headings, &rows, |row, column, cell| match (row, column) {
        (None, _) => paint.bold(cell),
        (Some(row), 1) => outcome(state.stages[row].outcome, cell, paint),
        (Some(row), 4) if state.stages[row].rejects > 0 => paint.yellow(cell),
        (Some(_), 8) if cell.starts_with("DIFFERENT") => paint.red(cell),
        _ => cell.to_owned(),
    })
}

fn cells(stage: &StageState) -> Vec<String> {
    let started = stage.started_ms.is_some();
    let number = |number: u64| if started { words::count(number) } else { String::new() };
    let rate = words::per_second(stage.rows_in, stage.elapsed_ms).filter(|_| stage.rows_in > 0);
    vec![
        stage.stage.clone(),
        if started || stage.outcome.is_some() { words::outcome(stage.outcome) } else { "not started" }.to_owned(),
        number(stage.rows_in),
        number(stage.rows_out),
        number(stage.rejects),
        if started { words::size(stage.bytes) } else { String::new() },
        rate.map_or_else(String::new, |rate| format!("{} rows/s", words::count(rate))),
        if started && stage.outcome.is_some() { words::span(stage.elapsed_ms) } else { String::new() },
        verified(&stage.outputs),
    ]
}

/// What was proved of a stage's outputs, those of one verdict together: `2 identical`, `1 identical, 1 counted`.
fn verified(outputs: &[OutputReport]) -> String {
    if let [one] = outputs {
        return if one.verdict == Verdict::NotChecked { String::new() } else { short(&one.verdict).to_owned() };
    }
    let kinds = ["DIFFERENT", "identical", "counted"];
    let sums = kinds.iter().map(|kind| (kind, outputs.iter().filter(|output| short(&output.verdict) == *kind).count()));
    sums.filter(|(_, sum)| *sum > 0).map(|(kind, sum)| format!("{sum} {kind}")).collect::<Vec<_>>().join(", ")
}

fn short(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::NotChecked => "not checked",
        Verdict::Counted { .. } => "counted",
        Verdict::Identical { .. } => "identical",
        Verdict::Different { .. } => "DIFFERENT",
    }
}

pub(super) fn outcome(outcome: Option<Outcome>, text: &str, paint: Paint) -> String {
    match outcome {
        Some(Outcome::Done) => paint.green(text),
        Some(Outcome::Failed) => paint.red(text),
        Some(Outcome::Interrupted) => paint.yellow(text),
        Some(Outcome::Skipped) | None => paint.dim(text),
    }
}

/// What came of the run, and how to go on.
pub fn verdict(state: &RunState, paint: Paint) -> String {
    match state.outcome {
        Some(Outcome::Done | Outcome::Skipped) => done(state, paint),
        Some(Outcome::Failed) => failed(state, paint),
        Some(Outcome::Interrupted) => {
            format!("{} {}\n{}", paint.yellow("interrupted:"), progress(state), go_on(state, paint))
        }
        None => format!("{} {}\n{}", paint.yellow("unfinished:"), progress(state), go_on(state, paint)),
    }
}

fn done(state: &RunState, paint: Paint) -> String {
    let outputs = || state.stages.iter().flat_map(|stage| &stage.outputs);
    let written: u64 = outputs().map(|output| output.rows).sum();
    let rejects: u64 = state.stages.iter().map(|stage| stage.rejects).sum();
    let mut parts = vec![
        words::counted(state.stages.len() as u64, "stage"),
        format!("{} in {}", words::counted(written, "row"), words::span(state.elapsed_ms)),
    ];
    if rejects > 0 {
        parts.push(paint.yellow(&format!("{} rejected", words::count(rejects))));
    }
    let of = outputs().count();
    let identical = outputs().filter(|output| matches!(output.verdict, Verdict::Identical { .. })).count();
    let counted = outputs().filter(|output| matches!(output.verdict, Verdict::Counted { .. })).count();
    parts.push(match (identical, counted) {
        (0, 0) => "nothing verified".to_owned(),
        (identical, 0) => format!("{identical} of {} verified identical", words::counted(of as u64, "output")),
        (0, counted) => format!("{counted} of {} verified by count", words::counted(of as u64, "output")),
        (identical, counted) => {
            format!("{identical} of {} verified identical, {counted} by count", words::counted(of as u64, "output"))
        }
    });
    format!("{} {} (run {})", paint.green("done:"), parts.join(", "), state.run)
}

fn failed(state: &RunState, paint: Paint) -> String {
    let mut lines = vec![format!("{} {}", paint.red("failed:"), progress(state))];
    if let Some(cause) = &state.refused {
        lines.push(format!("{} its plan could not be made: {}", paint.red("error:"), cause.message));
        lines.extend(cause.help.iter().map(|help| format!("{} {help}", paint.cyan("help:"))));
    }
    for stage in state.stages.iter().filter(|stage| stage.outcome == Some(Outcome::Failed)) {
        let Some(cause) = &stage.failure else { continue };
        lines.push(format!("{} stage `{}`: {}", paint.red("error:"), stage.stage, cause.message));
        lines.extend(differences(stage));
        lines.extend(cause.help.iter().map(|help| format!("{} {help}", paint.cyan("help:"))));
    }
    lines.push(go_on(state, paint));
    lines.join("\n")
}

/// The examples of outputs that differ, indented below their stage's error.
fn differences(stage: &StageState) -> Vec<String> {
    let mut lines = Vec::new();
    for output in &stage.outputs {
        if let Verdict::Different { examples, .. } = &output.verdict {
            lines.push(format!("  {}: {}", output.target, words::verdict(&output.verdict)));
            lines.extend(examples.iter().map(|example| format!("    {example}")));
        }
    }
    lines
}

/// `1 of 3 stages done, 1 skipped, in 2.1 s (run 0197…)`
fn progress(state: &RunState) -> String {
    let ended = |outcome| state.stages.iter().filter(|stage| stage.outcome == Some(outcome)).count();
    let mut text = format!("{} of {} done", ended(Outcome::Done), words::counted(state.stages.len() as u64, "stage"));
    for outcome in [Outcome::Failed, Outcome::Skipped, Outcome::Interrupted] {
        if ended(outcome) > 0 {
            text.push_str(&format!(", {} {}", ended(outcome), outcome.as_str()));
        }
    }
    format!("{text}, in {} (run {})", words::span(state.elapsed_ms), state.run)
}

fn go_on(state: &RunState, paint: Paint) -> String {
    format!("{} `haul run {}` goes on where it stopped; `haul show {}` tells what happened", paint.cyan("help:"), state.pipeline, state.run)
}
