//! `haul schedule [NAME]`: what runs when by itself, and what will not.

use serde::Serialize;

use super::{CliError, Exit, Global, project, render, signals};
use crate::clock;
use crate::define::pipeline::{Entry, Schedule};
use crate::journal::{Decided, Journal, Pause, Tick};
use crate::schedule::{due, tick};
use crate::serve::{self, Definition, Definitions};

/// Arguments of `haul schedule`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this pipeline
    name: Option<String>,
    /// So many ticks of each schedule
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    next: u16,
    /// Ticks after this time, such as 2026-03-29T00:00:00Z [default: now]
    #[arg(long, value_name = "TIME")]
    from: Option<jiff::Timestamp>,
}

/// The latest ticks of one pipeline that are shown.
const LATEST: u32 = 10;

/// A pipeline that runs by itself.
#[derive(Debug, Serialize)]
pub struct Shown {
    /// Its name.
    pub pipeline: String,
    /// Whether it has streams and no schedule: `haul serve` keeps it going.
    pub kept_going: bool,
    /// What keeps it from running by itself, each with the way out.
    pub troubles: Vec<(String, String)>,
    /// Its schedules, in file order.
    pub schedules: Vec<ShownEntry>,
    /// What became of its latest ticks, latest first.
    pub ticks: Vec<Tick>,
    /// Who serves the project; `None` when nobody does, so that nothing runs by itself.
    pub served_by: Option<String>,
}

/// One of its schedules.
#[derive(Debug, Serialize)]
pub struct ShownEntry {
    /// What it says.
    pub when: String,
    /// Starts come so much later than ticks, in milliseconds.
    pub delay_ms: i64,
    /// The next ticks, in milliseconds since 1970.
    pub next_ms: Vec<i64>,
    /// The same, on the clock of its time zone.
    pub next: Vec<String>,
    /// Ticks that went by since nobody serves the project.
    pub overdue: Option<Overdue>,
}

/// Ticks that nobody has decided on.
#[derive(Debug, Serialize)]
pub struct Overdue {
    /// The first of them, in milliseconds since 1970.
    pub first_ms: i64,
    /// How many there are; very many are not counted to their end.
    pub count: u64,
    /// The most of them that the next daemon would start; it notes the others as missed.
    pub made_up: u64,
}

/// Shows what runs when.
pub(super) fn run(global: &Global, args: Args) -> Result<Exit, CliError> {
    let base = project::find(global)?;
    let definitions = Definitions::load(&base, None)?;
    let only = args.name.as_deref().map(|name| project::pipeline(&definitions.project, name)).transpose()?.map(|(name, _)| name);
    let from_ms = args.from.map_or_else(clock::now_ms, jiff::Timestamp::as_millisecond);
    let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
    let pipelines = definitions.pipelines.iter().filter(|(name, _)| wanted(name));
    let shown = pipelines.filter_map(|(name, definition)| show(&definitions, name, definition, from_ms, args.next.into())).collect();
    let latest = if only.is_some() { LATEST } else { 1 };
    let look = async {
        let journal = project::journal(&definitions.project).await?;
        add_what_was(shown, &definitions, &journal, latest).await
    };
    let shown: Vec<Shown> = signals::block_on(|stop| async move { stop.unless(look).await })??;
    if global.json {
        render::json(&shown);
    } else {
        render::out(&render::schedule::schedules(&shown, from_ms, render::paint_out(global)));
    }
    Ok(Exit::Done)
}

/// Adds what the journal knows: who serves the project, pauses, and what became of the latest ticks.
async fn add_what_was(mut shown: Vec<Shown>, definitions: &Definitions, journal: &Journal, latest: u32) -> Result<Vec<Shown>, CliError> {
    let pauses: Vec<Pause> = journal.pauses().await?;
    let served_by = serve::leader(journal).await?;
    let decided = journal.decided().await?;
    for shown in &mut shown {
        let paused = pauses.iter().find(|pause| pause.paused && pause.pipeline == shown.pipeline);
        shown.troubles.extend(paused.map(|pause| {
            let trouble = format!("paused since {}: {}", clock::rfc3339(pause.at_ms), pause.reason);
            (trouble, format!("`haul resume {}` lets it go on", pause.pipeline))
        }));
        shown.ticks = journal.ticks(&shown.pipeline, latest).await?;
        shown.served_by.clone_from(&served_by);
        let schedule = definitions.pipelines.get(&shown.pipeline).and_then(|definition| definition.schedule.as_ref());
        if let Some(schedule) = schedule.filter(|_| served_by.is_none()) {
            for (entry, shown_entry) in schedule.entries.iter().zip(&mut shown.schedules) {
                let of_entry = |decided: &&Decided| (&decided.pipeline, &decided.entry) == (&shown.pipeline, &entry.key);
                let until_ms = decided.iter().find(of_entry).map(|decided| decided.until_ms);
                shown_entry.overdue = until_ms.and_then(|until_ms| overdue(entry, until_ms, shown_entry.delay_ms, paused.is_some()));
            }
        }
    }
    Ok(shown)
}

/// The ticks of a schedule since the last one that was decided.
fn overdue(entry: &Entry, until_ms: i64, delay_ms: i64, paused: bool) -> Option<Overdue> {
    let found = due(&entry.when, entry.catch_up, until_ms, clock::now_ms() - delay_ms);
    let first_ms = found.missed.map(|missed| missed.first_ms).or_else(|| found.start.first().copied())?;
    let made_up = found.start.len() as u64;
    let count = made_up + found.missed.map_or(0, |missed| missed.count);
    Some(Overdue { first_ms, count, made_up: if paused { 0 } else { made_up } })
}

/// What there is to show of a pipeline; nothing of one that is right and does not run by itself.
fn show(definitions: &Definitions, name: &str, definition: &Definition, from_ms: i64, count: usize) -> Option<Shown> {
    let mut troubles = Vec::new();
    if crate::define::has_errors(&definitions.problems) {
        troubles.push(("haul.yaml has problems".to_owned(), "`haul validate` shows them".to_owned()));
    }
    if !definition.is_right() {
        let errors = definition.problems.iter().filter(|problem| problem.severity == crate::diagnostic::Severity::Error).count();
        let problems = render::words::counted(errors as u64, "problem");
        troubles.push((format!("its definition has {problems}"), format!("`haul validate {}` shows them", definition.source.path)));
    }
    if let Some(param) = definition.kept.as_ref().and_then(|kept| kept.lacks.as_ref()) {
        troubles.push((format!("its param `{param}` has no default"), "give it one, or a schedule with `params`".to_owned()));
    }
    let schedules: Vec<ShownEntry> = definition.schedule.iter().flat_map(|schedule| entries(name, schedule, from_ms, count)).collect();
    let kept_going = definition.kept.is_some();
    let by_itself = !schedules.is_empty() || kept_going || !definition.is_right();
    by_itself.then(|| Shown { pipeline: name.to_owned(), kept_going, troubles, schedules, ticks: Vec::new(), served_by: None })
}

fn entries(name: &str, schedule: &Schedule, from_ms: i64, count: usize) -> Vec<ShownEntry> {
    let entry = |entry: &Entry| {
        let ticks = std::iter::successors(tick::next(&entry.when, from_ms), |last| tick::next(&entry.when, *last));
        let next_ms: Vec<i64> = ticks.take(count).collect();
        let next = next_ms.iter().map(|ms| tick::shown(&entry.when, *ms)).collect();
        ShownEntry { when: entry.when.label(), delay_ms: tick::delay_ms(name, entry), next_ms, next, overdue: None }
    };
    schedule.entries.iter().map(entry).collect()
}
