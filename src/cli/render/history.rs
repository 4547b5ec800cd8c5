//! Past runs: the list, and one of them in full.

use crate::clock;
use crate::journal::{RunState, RunSummary, StageState};

use super::table::{Align, table};
use super::{Paint, summary, words};

/// The most failed attempts and notes of a run that are shown unless all are asked for.
const SHOWN: usize = 10;

/// One line a run.
pub fn runs(runs: &[RunSummary], paint: Paint) -> String {
    if runs.is_empty() {
        return "no runs yet".to_owned();
    }
    let headings = [
        ("run", Align::Left),
        ("pipeline", Align::Left),
        ("by", Align::Left),
        ("outcome", Align::Left),
        ("started", Align::Left),
        ("time", Align::Right),
        ("stages", Align::Right),
        ("rows out", Align::Right),
        ("failure", Align::Left),
    ];
    let rows: Vec<Vec<String>> = runs
        .iter()
        .map(|run| {
            vec![
                run.run.clone(),
                run.pipeline.clone(),
                run.trigger.clone(),
                words::outcome(run.outcome).to_owned(),
                clock::rfc3339(run.started_ms),
                words::span(run.elapsed_ms),
                format!("{}/{}", run.stages_done, run.stages),
                words::count(run.rows),
                run.failure.as_ref().map_or_else(String::new, |(stage, cause)| format!("{stage}: {}", first_line(&cause.message))),
            ]
        })
        .collect();
    table(&headings, &rows, |row, column, cell| match (row, column) {
        (None, _) => paint.bold(cell),
        (Some(row), 3) => summary::outcome(runs[row].outcome, cell, paint),
        _ => cell.to_owned(),
    })
}

/// A run in full; with `all`, every split, failed attempt and note of it.
pub fn show(state: &RunState, all: bool, paint: Paint) -> String {
    let mut parts = vec![head(state, paint), summary::stages(state, paint)];
    parts.extend(state.stages.iter().filter_map(|stage| outputs(stage, paint)));
    if all {
        parts.extend(state.stages.iter().filter_map(|stage| splits(stage, paint)));
    }
    parts.extend(attempts(state, all, paint));
    parts.extend(notes(state, all, paint));
    parts.push(summary::verdict(state, paint));
    parts.join("\n\n")
}

fn head(state: &RunState, paint: Paint) -> String {
    let mut lines = vec![
        format!("{} {}", paint.bold("run"), state.run),
        format!("  pipeline  {}", state.pipeline),
        format!("  started   {} ({})", clock::rfc3339(state.started_ms), state.trigger),
        format!("  plan      {}, haul {}", state.plan_hash, state.version),
    ];
    if let Some(scheduled_ms) = state.scheduled_ms {
        lines.push(format!("  scheduled {}", clock::rfc3339(scheduled_ms)));
    }
    if state.resumes > 0 {
        lines.push(format!("  resumed   {}", words::counted(state.resumes.into(), "time")));
    }
    if !state.params.is_empty() {
        let params: Vec<String> = state.params.iter().map(|(name, value)| format!("{name}={value}")).collect();
        lines.push(format!("  params    {}", params.join(" ")));
    }
    lines.join("\n")
}

fn outputs(stage: &StageState, paint: Paint) -> Option<String> {
    let lines = stage
        .outputs
        .iter()
        .map(|output| format!("  {}: {}, {}", output.target, words::counted(output.rows, "row"), words::verdict(&output.verdict)));
    let lines: Vec<String> = [format!("{} {}", paint.bold("outputs of"), stage.stage)].into_iter().chain(lines).collect();
    (lines.len() > 1).then(|| lines.join("\n"))
}

fn splits(stage: &StageState, paint: Paint) -> Option<String> {
    let mut lines = vec![format!(
        "{} {} ({} of {} committed)",
        paint.bold("splits of"),
        stage.stage,
        words::count(stage.splits_done.len() as u64),
        words::count(stage.splits)
    )];
    lines.extend(stage.splits_done.iter().map(|split| {
        let again = if split.attempt > 1 { format!(", attempt {}", split.attempt) } else { String::new() };
        let rejects = if split.rejects > 0 { format!(", {} rejected", words::count(split.rejects)) } else { String::new() };
        let (rows, bytes, time) = (words::counted(split.rows, "row"), words::size(split.bytes), words::span(split.elapsed_ms));
        format!("  {}  {}: {rows}, {bytes} in {time}{rejects}{again}", split.split, split.label)
    }));
    (lines.len() > 1).then(|| lines.join("\n"))
}

fn attempts(state: &RunState, all: bool, paint: Paint) -> Option<String> {
    let mut lines = Vec::new();
    for stage in &state.stages {
        for failed in &stage.attempts_failed {
            let wait = failed.retry_in_ms.map_or_else(|| "no further try".to_owned(), |ms| format!("next try after {}", words::span(ms)));
            let time = clock::rfc3339(failed.at_ms);
            let (split, kind, message) = (&failed.split, &failed.failure.kind, &failed.failure.message);
            lines.push(format!("  {time}  {} {split}, attempt {}: {message} ({kind}; {wait})", stage.stage, failed.attempt));
        }
    }
    listed("failed attempts", lines, all, paint)
}

fn notes(state: &RunState, all: bool, paint: Paint) -> Option<String> {
    let line = |note: &crate::journal::RunNote| {
        let stage = note.stage.as_ref().map_or_else(String::new, |stage| format!("{stage}: "));
        format!("  {}  {stage}{}", clock::rfc3339(note.at_ms), note.text)
    };
    listed("notes", state.notes.iter().map(line).collect(), all, paint)
}

/// The last lines of a list below its heading, with a word on those left out.
fn listed(heading: &str, lines: Vec<String>, all: bool, paint: Paint) -> Option<String> {
    if lines.is_empty() {
        return None;
    }
    let hidden = if all { 0 } else { lines.len().saturating_sub(SHOWN) };
    let mut shown = vec![paint.bold(heading)];
    if hidden > 0 {
        shown.push(paint.dim(&format!("  ({} before these; -v shows all)", words::count(hidden as u64))));
    }
    shown.extend(lines.into_iter().skip(hidden));
    Some(shown.join("\n"))
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
