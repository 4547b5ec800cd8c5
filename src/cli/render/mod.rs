//! The only place that prints. What is asked for goes to standard output; progress and errors go to standard error.

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};

use serde::Serialize;

use super::{CliError, Exit, Global};
use crate::diagnostic::{Diagnostic, Severity};

pub mod diagnostics;
pub mod graph;
pub mod history;
pub mod lines;
mod paint;
pub mod progress;
pub mod summary;
mod table;
pub mod verification;
pub mod words;

pub use paint::Paint;

/// Prints lines to standard output. A reader that has gone away (`| head`) has seen what it wanted.
pub fn out(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Prints lines to standard error.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Prints one JSON document to standard output, indented.
pub fn json(value: &impl Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => out(&text),
        Err(error) => say(&format!("error: failed to write JSON: {error}")),
    }
}

/// Prints an error and the ways out to standard error; with `--json` as one JSON line, there too.
pub fn error(error: &CliError, global: &Global) {
    if global.json {
        let line = serde_json::json!({ "error": error.message, "help": error.help, "exit_code": error.exit.code() });
        say(&line.to_string());
    } else {
        say(&error_text(error, paint_err(global)));
    }
}

/// Prints what is wrong with a definition to standard error, and gives the error that sums it up.
pub fn refused(global: &Global, problems: &[Diagnostic], exit: Exit) -> CliError {
    let format = if global.json { diagnostics::Format::Json } else { diagnostics::Format::Human };
    let files: BTreeSet<&str> = problems.iter().filter_map(|problem| Some(problem.labels.first()?.source.path.as_str())).collect();
    say(diagnostics::report(format, problems, files.len().max(1), paint_err(global)).trim_end());
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    let verb = if errors == 1 { "stands" } else { "stand" };
    CliError::new(exit, format!("{} {verb} in the way; nothing was done", words::counted(errors as u64, "problem")))
}

fn error_text(error: &CliError, paint: Paint) -> String {
    let mut text = format!("{} {}", paint.red("error:"), error.message);
    for help in &error.help {
        text.push_str(&format!("\n{} {help}", paint.cyan("help:")));
    }
    text
}

/// How to colour what goes to standard output.
pub fn paint_out(global: &Global) -> Paint {
    Paint::new(std::io::stdout().is_terminal() && colours_wanted(global))
}

/// How to colour what goes to standard error.
pub fn paint_err(global: &Global) -> Paint {
    Paint::new(std::io::stderr().is_terminal() && colours_wanted(global))
}

fn colours_wanted(global: &Global) -> bool {
    let says_no = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !(global.no_color || global.json || says_no || std::env::var_os("TERM").is_some_and(|term| term == "dumb"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_shows_every_way_out() {
        let error = CliError::new(Exit::Environment, "no project here").help("make one").help("name one");
        assert_eq!(error_text(&error, Paint::new(false)), "error: no project here\nhelp: make one\nhelp: name one");
        assert_eq!(error_text(&error, Paint::new(true)).lines().next(), Some("\u{1b}[1;31merror:\u{1b}[0m no project here"));
    }
}
