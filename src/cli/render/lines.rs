//! Events of a run as lines of plain text.

use std::collections::HashMap;

use crate::journal::{Cause, Event, Outcome, What};

use super::Paint;
use super::{summary, words};

/// Between two lines about splits of one stage, in milliseconds.
const SPLIT_LINES_MS: i64 = 2000;

/// Which committed splits get a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Splits {
    /// None: a bar shows them.
    Unsaid,
    /// At most one of each stage in two seconds.
    Sparse,
    /// All.
    All,
}

/// Tells a run, event by event.
#[derive(Debug)]
pub struct Teller {
    splits: Splits,
    paint: Paint,
    stages: HashMap<String, Told>,
}

/// What has been told of a stage.
#[derive(Debug, Default)]
struct Told {
    splits: u64,
    splits_done: u64,
    last_ms: i64,
}

impl Teller {
    /// Has told nothing yet.
    pub fn new(splits: Splits, paint: Paint) -> Self {
        Self { splits, paint, stages: HashMap::new() }
    }

    /// The line for an event, if it is worth one.
    pub fn tell(&mut self, event: &Event) -> Option<String> {
        match &event.what {
            What::RunStarted { pipeline, resumed, stages, .. } => {
                let verb = if *resumed { "goes on with" } else { "starts" };
                let stages = words::counted(stages.len() as u64, "stage");
                Some(format!("{} {verb} run {}, {stages}", self.paint.bold(pipeline), event.run))
            }
            What::StageStarted { stage, splits, splits_done, rows } => {
                self.stages.insert(stage.clone(), Told { splits: *splits, splits_done: *splits_done, last_ms: event.at_ms });
                Some(self.started(stage, *splits, *splits_done, *rows))
            }
            What::SplitFinished { stage, label, rows, elapsed_ms, .. } => {
                let told = self.stages.entry(stage.clone()).or_default();
                told.splits_done += 1;
                let wanted = match self.splits {
                    Splits::Unsaid => false,
                    // The last one is said by the stage's own end.
                    Splits::Sparse => told.splits_done < told.splits && event.at_ms - told.last_ms >= SPLIT_LINES_MS,
                    Splits::All => true,
                };
                if !wanted {
                    return None;
                }
                told.last_ms = event.at_ms;
                let (done, of) = (words::count(told.splits_done), words::count(told.splits));
                let (rows, time) = (words::counted(*rows, "row"), words::span(*elapsed_ms));
                Some(format!("{}: split {done} of {of} ({label}): {rows} in {time}", self.paint.bold(stage)))
            }
            What::AttemptFailed { stage, split, attempt, failure, retry_in_ms } => {
                Some(self.attempt(stage, split, *attempt, failure, *retry_in_ms))
            }
            What::Note { stage, text } => {
                let stage = stage.as_ref().map_or_else(String::new, |stage| format!("{}: ", self.paint.bold(stage)));
                Some(format!("{stage}{text}"))
            }
            What::StageFinished { .. } => Some(self.finished(&event.what)),
            // The verdict says it.
            What::RunFinished { .. } => None,
        }
    }

    fn started(&self, stage: &str, splits: u64, splits_done: u64, rows: Option<u64>) -> String {
        let mut parts = Vec::new();
        if splits > 1 {
            parts.push(words::counted(splits, "split"));
        }
        if splits_done > 0 {
            parts.push(format!("{} committed earlier", words::count(splits_done)));
        }
        parts.extend(rows.map(|rows| format!("about {}", words::counted(rows, "row"))));
        let of = if parts.is_empty() { String::new() } else { format!(": {}", parts.join(", ")) };
        format!("{} started{of}", self.paint.bold(stage))
    }

    fn attempt(&self, stage: &str, split: &str, attempt: u32, failure: &Cause, retry_in_ms: Option<u64>) -> String {
        let split = if split == "all" { String::new() } else { format!(", split {split}") };
        let head = format!("{}{split}: {} {attempt} failed: {}", self.paint.bold(stage), self.paint.yellow("attempt"), failure.message);
        match retry_in_ms {
            Some(wait_ms) => format!("{head}; trying again in {}", words::span(wait_ms)),
            None => head,
        }
    }

    fn finished(&self, what: &What) -> String {
        let What::StageFinished { stage, outcome, rows_in, rows_out, rejects, elapsed_ms, outputs, failure, .. } = what else {
            return String::new();
        };
        let mut line = format!("{} {}", self.paint.bold(stage), summary::outcome(Some(*outcome), outcome.as_str(), self.paint));
        match outcome {
            Outcome::Done | Outcome::Interrupted => {
                let rows = if rows_in == rows_out {
                    words::counted(*rows_out, "row")
                } else {
                    format!("{} in, {} out", words::counted(*rows_in, "row"), words::count(*rows_out))
                };
                line.push_str(&format!(": {rows} in {}", words::span(*elapsed_ms)));
                if *rejects > 0 {
                    line.push_str(&format!(", {} rejected", words::count(*rejects)));
                }
                let outputs = outputs.iter().map(|output| format!("{} {}", output.target, words::verdict(&output.verdict)));
                line.extend(outputs.map(|output| format!("; {output}")));
            }
            Outcome::Failed | Outcome::Skipped => {
                line.extend(failure.iter().map(|cause| format!(": {}", cause.message)));
            }
        }
        line
    }
}
