//! What runs when by itself.

use super::{Paint, words};
use crate::cli::schedule::Shown;

/// Each pipeline with its schedules and their next ticks.
pub fn schedules(shown: &[Shown], from_ms: i64, paint: Paint) -> String {
    if shown.is_empty() {
        return "no pipeline runs by itself: `schedule:` in a pipeline's file says when it does".to_owned();
    }
    shown.iter().map(|pipeline| one(pipeline, from_ms, paint)).collect::<Vec<_>>().join("\n\n")
}

fn one(shown: &Shown, from_ms: i64, paint: Paint) -> String {
    let mut lines = vec![paint.bold(&shown.pipeline)];
    for (trouble, help) in &shown.troubles {
        lines.push(format!("  {} {trouble}; {help}", paint.red("will not run:")));
    }
    for entry in &shown.schedules {
        let span = u64::try_from(entry.delay_ms).unwrap_or(0);
        let delay = if entry.delay_ms > 0 { format!(", starts {} later", words::span(span)) } else { String::new() };
        lines.push(format!("  {}{delay}", paint.cyan(&entry.when)));
        for (at_ms, at) in entry.next_ms.iter().zip(&entry.next) {
            let wait = words::span(u64::try_from(at_ms - from_ms).unwrap_or(0));
            lines.push(format!("    {at}  {}", paint.dim(&format!("in {wait}"))));
        }
    }
    lines.join("\n")
}
