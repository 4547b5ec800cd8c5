//! The log of a daemon, a line at a time.

use serde_json::json;

use super::{Paint, diagnostics};
use crate::cli::serve::Log;
use crate::clock;
use crate::serve::{Level, Line};

/// Prints a line to standard error.
pub fn line(line: &Line, log: Log, paint: Paint) {
    super::say(&match log {
        Log::Json => in_json(line),
        Log::Text => in_text(line, paint),
    });
}

fn in_text(line: &Line, paint: Paint) -> String {
    let level = match line.level {
        Level::Info => String::new(),
        Level::Warn => format!("{} ", paint.yellow("warning:")),
        Level::Error => format!("{} ", paint.red("error:")),
    };
    let pipeline = line.pipeline.as_ref().map_or_else(String::new, |name| format!("{}: ", paint.bold(name)));
    let mut text = format!("{} {level}{pipeline}{}", paint.dim(&clock::rfc3339(line.at_ms)), line.message);
    if !line.problems.is_empty() {
        text.push('\n');
        text.push_str(diagnostics::human(&line.problems, 1, paint).trim_end());
    }
    text
}

fn in_json(line: &Line) -> String {
    let mut said = json!({ "at_ms": line.at_ms, "level": line.level, "message": line.message });
    for (key, value) in [("pipeline", &line.pipeline), ("run", &line.run)] {
        if let Some(value) = value {
            said[key] = json!(value);
        }
    }
    if !line.problems.is_empty() {
        said["problems"] = serde_json::from_str(&diagnostics::json(&line.problems, 1)).unwrap_or_default();
    }
    said.to_string()
}
