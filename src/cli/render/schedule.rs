//! What runs when by itself.

use super::{Paint, words};
use crate::cli::schedule::{Overdue, Shown};
use crate::clock;
use crate::journal::{Tick, TickState};

/// Each pipeline with its schedules and their next ticks.
pub fn schedules(shown: &[Shown], from_ms: i64, paint: Paint) -> String {
    if shown.is_empty() {
        return "no pipeline runs by itself: `schedule:` in a pipeline's file says when it does".to_owned();
    }
    let nobody = shown.iter().all(|pipeline| pipeline.served_by.is_none());
    let warning = || format!("{} nobody serves this project; `haul serve` does", paint.red("nothing runs by itself:"));
    let pipelines = shown.iter().map(|pipeline| one(pipeline, from_ms, paint));
    nobody.then(warning).into_iter().chain(pipelines).collect::<Vec<_>>().join("\n\n")
}

fn one(shown: &Shown, from_ms: i64, paint: Paint) -> String {
    let mut lines = vec![paint.bold(&shown.pipeline)];
    for (trouble, help) in &shown.troubles {
        lines.push(format!("  {} {trouble}; {help}", paint.red("will not run:")));
    }
    if shown.kept_going {
        lines.push(format!("  {}", paint.cyan("kept going by `haul serve`")));
    }
    for entry in &shown.schedules {
        let span = u64::try_from(entry.delay_ms).unwrap_or(0);
        let delay = if entry.delay_ms > 0 { format!(", starts {} later", words::span(span)) } else { String::new() };
        lines.push(format!("  {}{delay}", paint.cyan(&entry.when)));
        for (at_ms, at) in entry.next_ms.iter().zip(&entry.next) {
            let wait = words::span(u64::try_from(at_ms - from_ms).unwrap_or(0));
            lines.push(format!("    {at}  {}", paint.dim(&format!("in {wait}"))));
        }
        lines.extend(entry.overdue.as_ref().map(|overdue| format!("    {}", missed(overdue, paint))));
    }
    if !shown.ticks.is_empty() {
        lines.push(format!("  {}", paint.cyan("latest")));
    }
    lines.extend(shown.ticks.iter().map(|tick| latest(tick, paint)));
    lines.join("\n")
}

/// What went by while nobody serves.
fn missed(overdue: &Overdue, paint: Paint) -> String {
    let since = clock::rfc3339(overdue.first_ms);
    let rest = match overdue.made_up {
        0 => "`haul serve` will make up for none of them".to_owned(),
        made_up => format!("`haul serve` will make up for {} at most", words::count(made_up)),
    };
    format!("{} {} since {since}; {rest}", paint.yellow("went by:"), words::counted(overdue.count, "tick"))
}

/// What became of a tick.
fn latest(tick: &Tick, paint: Paint) -> String {
    let state = match tick.state {
        TickState::Done => paint.green(tick.state.as_str()),
        TickState::Failed => paint.red(tick.state.as_str()),
        TickState::Skipped | TickState::Missed | TickState::Cancelled => paint.yellow(tick.state.as_str()),
        TickState::Open => tick.state.as_str().to_owned(),
    };
    let several =
        tick.count.filter(|count| *count > 1).map_or_else(String::new, |count| format!(" and {} before it", words::count(count - 1)));
    let why = match tick.state {
        TickState::Skipped | TickState::Missed => tick.reason.clone(),
        _ => format!("run {}", tick.run),
    };
    format!("    {}{several}  {state}: {why}", clock::rfc3339(tick.at_ms))
}
