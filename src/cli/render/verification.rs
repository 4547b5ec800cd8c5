//! What `haul verify` found.

use crate::journal::{OutputReport, Verdict};

use super::{Paint, words};

/// A line for each output, the differing keys below it, and a verdict.
pub fn reports(pipeline: &str, reports: &[(String, OutputReport)], paint: Paint) -> String {
    let mut text = String::new();
    let mut different = 0;
    for (stage, report) in reports {
        let verdict = words::verdict(&report.verdict);
        let count = words::counted(report.rows, "row");
        match &report.verdict {
            Verdict::Different { examples, .. } => {
                different += 1;
                text.push_str(&format!("{stage} → {}: {}\n", report.target, paint.red(&verdict)));
                for example in examples {
                    text.push_str(&format!("  {example}\n"));
                }
            }
            Verdict::NotChecked => text.push_str(&format!("{stage} → {}: {verdict}\n", report.target)),
            Verdict::Counted { .. } | Verdict::Identical { .. } => {
                text.push_str(&format!("{stage} → {}: {} ({count})\n", report.target, paint.green(&verdict)));
            }
        }
    }
    let outputs = words::counted(reports.len() as u64, "output");
    text.push_str(&match different {
        0 => format!("{pipeline}: {outputs} compared, no difference"),
        _ => format!("{pipeline}: {outputs} compared, {different} with differences"),
    });
    text
}
