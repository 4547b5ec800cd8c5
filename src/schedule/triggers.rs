//! What pipelines that run after each other say of each other: problems that no file shows by itself.

use std::collections::{BTreeMap, BTreeSet};

use crate::define::pipeline::{Schedule, When};
use crate::diagnostic::Diagnostic;
use crate::diagnostic::suggest::near;
use crate::load::Document;

/// A problem of a trigger, for whoever has the pipeline's document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The pipeline that has it.
    pub pipeline: String,
    /// Where in its document.
    pub at: String,
    /// A stable diagnostic code.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// The way out.
    pub help: String,
}

impl Trouble {
    /// The problem, at its place in the pipeline's document.
    pub fn diagnostic(&self, document: &Document) -> Diagnostic {
        document.at_value(Diagnostic::error(self.code, &self.message), &self.at, "").help(&self.help)
    }
}

/// Finds triggers that name no pipeline, and circles of pipelines that would run after each other without end.
pub fn check<'a>(schedules: impl IntoIterator<Item = (&'a str, &'a Schedule)>, known: &BTreeSet<&str>) -> Vec<Trouble> {
    let mut edges: BTreeMap<&str, Vec<(&str, String)>> = BTreeMap::new();
    for (name, schedule) in schedules {
        for entry in &schedule.entries {
            if let When::After(before) = &entry.when {
                edges.entry(name).or_default().push((before, format!("{}/after/pipeline", entry.at)));
            }
        }
    }
    let mut found = Vec::new();
    for (name, edges_of) in &edges {
        for (before, at) in edges_of {
            let trouble = |code, message, help| Trouble { pipeline: (*name).to_owned(), at: at.clone(), code, message, help };
            if !known.contains(before) {
                let help = near(before, known.iter().copied());
                let help = help.unwrap_or_else(|| "a pipeline is named by its file below pipelines/, without `.yaml`".to_owned());
                found.push(trouble("unknown-pipeline", format!("there is no pipeline `{before}`"), help));
            } else if let Some(path) = path(&edges, before, name) {
                let message = format!("these pipelines run after each other without end: {} → {}", path.join(" → "), name);
                found.push(trouble("schedule-circle", message, "give one of them a `cron` or `every` instead".to_owned()));
            }
        }
    }
    found
}

/// The pipelines on the way from one to another along "runs after", both included.
fn path<'a>(edges: &BTreeMap<&'a str, Vec<(&'a str, String)>>, from: &'a str, to: &str) -> Option<Vec<&'a str>> {
    let mut ways = vec![vec![from]];
    let mut seen = BTreeSet::from([from]);
    while let Some(way) = ways.pop() {
        let last = *way.last()?;
        if last == to {
            return Some(way.into_iter().rev().collect());
        }
        for (before, _) in edges.get(last).into_iter().flatten() {
            if seen.insert(before) {
                ways.push(way.iter().copied().chain([*before]).collect());
            }
        }
    }
    None
}
