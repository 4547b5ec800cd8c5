//! Diagnostics for people, for programs, for GitHub and for code scanners.

use std::fmt::Write as _;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde_json::{Value, json};

use super::Paint;
use crate::define::codes;
use crate::diagnostic::{Diagnostic, Label, Severity, SourceText};

/// How diagnostics are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people, with the lines at fault
    #[default]
    Human,
    /// One JSON document
    Json,
    /// Workflow commands that GitHub shows beside the lines
    Github,
    /// SARIF 2.1.0, for code scanners
    Sarif,
}

/// The whole report on so many files.
pub fn report(format: Format, diagnostics: &[Diagnostic], files: usize, paint: Paint) -> String {
    match format {
        Format::Human => human(diagnostics, files, paint),
        Format::Json => json(diagnostics, files),
        Format::Github => github(diagnostics),
        Format::Sarif => sarif(diagnostics),
    }
}

/// The diagnostics with the lines they point at, and a summary.
pub fn human(diagnostics: &[Diagnostic], files: usize, paint: Paint) -> String {
    let renderer = if paint.is_on() { Renderer::styled() } else { Renderer::plain() };
    let mut out = String::new();
    for diagnostic in diagnostics {
        let _ = writeln!(out, "{}\n", renderer.render(&[group(diagnostic)]));
    }
    out.push_str(&summary(diagnostics, files));
    out.push('\n');
    out
}

/// `3 errors, 1 warning in 2 files`, or `2 files, no problems`.
pub fn summary(diagnostics: &[Diagnostic], files: usize) -> String {
    let count = |severity| diagnostics.iter().filter(|diagnostic| diagnostic.severity == severity).count();
    let plural = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    let mut parts = Vec::new();
    for (count, word) in [(count(Severity::Error), "error"), (count(Severity::Warning), "warning")] {
        if count > 0 {
            parts.push(plural(count, word));
        }
    }
    let files = plural(files, "file");
    if parts.is_empty() { format!("{files}, no problems") } else { format!("{} in {files}", parts.join(", ")) }
}

fn group(diagnostic: &Diagnostic) -> Group<'_> {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let mut group = Group::with_title(level.primary_title(diagnostic.message.as_str()).id(diagnostic.code));
    let mut sources: Vec<&Arc<SourceText>> = Vec::new();
    for label in &diagnostic.labels {
        if !sources.contains(&&label.source) {
            sources.push(&label.source);
        }
    }
    for source in sources {
        let mut snippet = Snippet::source(source.text.as_str()).path(source.path.as_str());
        for (index, label) in diagnostic.labels.iter().enumerate().filter(|(_, label)| label.source == *source) {
            let kind = if index == 0 { AnnotationKind::Primary } else { AnnotationKind::Context };
            let annotation = kind.span(label.span.clone());
            snippet = snippet.annotation(if label.text.is_empty() { annotation } else { annotation.label(label.text.as_str()) });
        }
        group = group.element(snippet);
    }
    for help in &diagnostic.help {
        group = group.element(Level::HELP.message(help.as_str()));
    }
    group
}

/// One JSON document.
pub fn json(diagnostics: &[Diagnostic], files: usize) -> String {
    let list = list(diagnostics);
    format!("{:#}\n", json!({ "version": 1, "files": files, "summary": summary(diagnostics, files), "diagnostics": list }))
}

/// Diagnostics in JSON; lines and columns count from 1, columns in characters.
pub fn list(diagnostics: &[Diagnostic]) -> Value {
    let place = |label: &Label| {
        let place = Place::of(label);
        json!({
            "path": label.source.path, "line": place.line, "column": place.column, "end_line": place.end_line,
            "end_column": place.end_column, "text": label.text,
        })
    };
    diagnostics
        .iter()
        .map(|diagnostic| {
            json!({
                "code": diagnostic.code, "severity": word(diagnostic.severity), "message": diagnostic.message,
                "labels": diagnostic.labels.iter().map(place).collect::<Vec<_>>(), "help": diagnostic.help,
            })
        })
        .collect()
}

/// One workflow command a line.
pub fn github(diagnostics: &[Diagnostic]) -> String {
    let mut out = String::new();
    for diagnostic in diagnostics {
        let _ = write!(out, "::{} ", word(diagnostic.severity));
        if let Some(label) = diagnostic.labels.first() {
            let place = Place::of(label);
            let file = escape_property(&label.source.path);
            let _ = write!(
                out,
                "file={file},line={},endLine={},col={},endColumn={},",
                place.line, place.end_line, place.column, place.end_column
            );
        }
        let mut text = diagnostic.message.clone();
        for help in &diagnostic.help {
            let _ = write!(text, "\nhelp: {help}");
        }
        let _ = writeln!(out, "title={}::{}", diagnostic.code, escape_data(&text));
    }
    out
}

fn escape_data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn escape_property(text: &str) -> String {
    escape_data(text).replace(':', "%3A").replace(',', "%2C")
}

/// A SARIF 2.1.0 log of one run.
pub fn sarif(diagnostics: &[Diagnostic]) -> String {
    let location = |label: &Label| {
        let place = Place::of(label);
        let mut location = json!({
            "physicalLocation": {
                "artifactLocation": { "uri": label.source.path.replace('\\', "/") },
                "region": {
                    "startLine": place.line, "startColumn": place.column, "endLine": place.end_line, "endColumn": place.end_column,
                },
            },
        });
        if !label.text.is_empty() {
            location["message"] = json!({ "text": label.text });
        }
        location
    };
    let result = |diagnostic: &Diagnostic| {
        let mut text = diagnostic.message.clone();
        for help in &diagnostic.help {
            let _ = write!(text, "\nhelp: {help}");
        }
        let mut result = json!({ "ruleId": diagnostic.code, "level": word(diagnostic.severity), "message": { "text": text } });
        let mut locations = diagnostic.labels.iter().map(location);
        result["locations"] = locations.by_ref().take(1).collect();
        let related: Vec<Value> = locations.collect();
        if !related.is_empty() {
            result["relatedLocations"] = related.into();
        }
        result
    };
    let rule = |code: &'static str| json!({ "id": code, "shortDescription": { "text": codes::meaning(code).unwrap_or(code) } });
    let mut used: Vec<_> = diagnostics.iter().map(|diagnostic| diagnostic.code).collect();
    used.sort_unstable();
    used.dedup();
    let log = json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "haul", "version": env!("CARGO_PKG_VERSION"), "rules": used.into_iter().map(rule).collect::<Vec<_>>(),
            } },
            "columnKind": "unicodeCodePoints",
            "results": diagnostics.iter().map(result).collect::<Vec<_>>(),
        }],
    });
    format!("{log:#}\n")
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    }
}

/// A label's place in lines and columns, both from 1, columns in characters.
struct Place {
    line: usize,
    column: usize,
    end_line: usize,
    end_column: usize,
}

impl Place {
    fn of(label: &Label) -> Self {
        let text = &label.source.text;
        let at = |byte: usize| {
            let before = &text[..byte.min(text.len())];
            let line_start = before.rfind('\n').map_or(0, |at| at + 1);
            (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
        };
        let ((line, column), (end_line, end_column)) = (at(label.span.start), at(label.span.end));
        Self { line, column, end_line, end_column }
    }
}
