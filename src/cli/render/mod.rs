//! The only place that prints. What is asked for goes to standard output; progress and errors go to standard error.

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};

use serde::Serialize;

use super::{CliError, Global};
use crate::diagnostic::Diagnostic;

pub mod diagnostics;
pub mod graph;
pub mod history;
pub mod lines;
pub mod log;
mod paint;
pub mod progress;
pub mod schedule;
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

/// Prints an error and the ways out to standard error, what is wrong with the definition first; with `--json` all of it as one document.
pub fn error(error: &CliError, global: &Global) {
    let paint = paint_err(global);
    if !global.json {
        if !error.diagnostics.is_empty() {
            say(&report(&error.diagnostics, paint));
        }
        return say(&error_text(error, paint));
    }
    let mut document = serde_json::json!({ "error": error.message, "help": error.help, "exit_code": error.exit.code() });
    if !error.diagnostics.is_empty() {
        document["diagnostics"] = diagnostics::list(&error.diagnostics);
    }
    say(&document.to_string());
}

/// Prints what is odd about a definition that can run nevertheless to standard error.
pub fn warnings(warnings: &[Diagnostic], global: &Global) {
    if warnings.is_empty() {
        return;
    }
    if global.json {
        say(&serde_json::json!({ "diagnostics": diagnostics::list(warnings) }).to_string());
    } else {
        say(&report(warnings, paint_err(global)));
    }
}

fn report(found: &[Diagnostic], paint: Paint) -> String {
    let files: BTreeSet<&str> = found.iter().filter_map(|problem| Some(problem.labels.first()?.source.path.as_str())).collect();
    diagnostics::human(found, files.len().max(1), paint).trim_end().to_owned()
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
    use super::super::Exit;
    use super::*;

    #[test]
    fn an_error_shows_every_way_out() {
        let error = CliError::new(Exit::Environment, "no project here").help("make one").help("name one");
        assert_eq!(error_text(&error, Paint::new(false)), "error: no project here\nhelp: make one\nhelp: name one");
        assert_eq!(error_text(&error, Paint::new(true)).lines().next(), Some("\u{1b}[1;31merror:\u{1b}[0m no project here"));
    }
}
