//! Gives a pipeline its params and its environment: what is left is what a plan is made from.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::check::{self, check, check_project, has_errors, in_file_order};
use super::params::{typed, word};
use super::pipeline::{Param, Pipeline};
use super::reader::{Mode, Reader};
use crate::diagnostic::suggest::{known_names, list};
use crate::diagnostic::{Diagnostic, SourceText};
use crate::load::template::{Context, Run, Value};
use crate::load::{Document, Project};
use crate::secret::Secret;

/// What a pipeline is given from outside.
pub struct Given<'a> {
    /// `--param name=value`
    pub params: BTreeMap<String, String>,
    /// The environment. The project's `.env` file fills in what it does not have.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// The run; `None` when there is none yet, so that `{{ run.id }}` is a problem.
    pub run: Option<RunFacts>,
}

/// What templates see of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunFacts {
    /// Its name in the journal.
    pub id: String,
    /// When it started, RFC 3339.
    pub started_at: String,
    /// When it was to start, and where its data interval ends.
    pub scheduled_at: String,
    /// Where its data interval begins.
    pub interval_start: String,
}

/// A pipeline with everything filled in.
#[derive(Debug)]
pub struct Resolved {
    /// What is to be done.
    pub pipeline: Pipeline,
    /// The file, for diagnostics of later ranks.
    pub document: Document,
    /// The params' values in their text form, defaults included.
    pub params: BTreeMap<String, String>,
    /// Warnings of the check.
    pub warnings: Vec<Diagnostic>,
}

/// Checks a pipeline and renders its templates. Every problem at once: those of the file first, since others would follow from them, then
/// those of what was given.
pub fn resolve(name: &str, source: &Arc<SourceText>, project: &Project, given: &Given<'_>) -> Result<Resolved, Vec<Diagnostic>> {
    let checked = check(name, source, project);
    let mut diagnostics = checked.diagnostics;
    diagnostics.extend(check_project(project));
    let (Some(pipeline), Some(document)) = (checked.pipeline, checked.document) else { return Err(diagnostics) };
    if has_errors(&diagnostics) {
        return Err(diagnostics);
    }
    let (values, mut problems) = params(&document, &pipeline.params, &given.params);
    if !problems.is_empty() {
        in_file_order(&mut problems, source);
        return Err(problems);
    }
    let texts = values.iter().map(|(name, value)| (name.clone(), value.to_text())).collect();
    let context = context(name, project, given, &checked.env, values);
    let check::Read { pipeline: rendered, diagnostics: mut problems, .. } = check::read(name, &document, project, Mode::Render(&context));
    problems.retain(|problem| problem.severity == crate::diagnostic::Severity::Error);
    in_file_order(&mut problems, source);
    match rendered.filter(|_| problems.is_empty()) {
        Some(pipeline) => Ok(Resolved { pipeline, document, params: texts, warnings: diagnostics }),
        None => Err(problems),
    }
}

/// The project's journal, as a URL: what `state:` says, its templates rendered; `None` when it says nothing.
pub fn state_url(project: &Project, env: &dyn Fn(&str) -> Option<String>) -> Result<Option<Secret<String>>, Vec<Diagnostic>> {
    let problems = check_project(project);
    if has_errors(&problems) {
        return Err(problems);
    }
    let Some(document) = &project.document else { return Ok(None) };
    let Some(said) = document.get("/state").and_then(|state| state.as_str()) else { return Ok(None) };
    let mut names = Reader::of_project(document, &[], Mode::Check);
    let _ = names.text("/state", said);
    let given = Given { params: BTreeMap::new(), env, run: None };
    let env: Vec<String> = names.env.into_iter().collect();
    let context = context("", project, &given, &env, BTreeMap::new());
    let mut reader = Reader::of_project(document, &[], Mode::Render(&context));
    match reader.text("/state", said) {
        Some(url) => Ok(Some(Secret::new(url))),
        None => Err(reader.problems),
    }
}

pub(super) fn context(name: &str, project: &Project, given: &Given<'_>, env: &[String], params: BTreeMap<String, Value>) -> Context {
    // Only the variables that templates name are looked at.
    let lookup = |name: &String| (given.env)(name).or_else(|| project.variables.get(name).cloned()).map(|value| (name.clone(), value));
    let variables: BTreeMap<String, String> = env.iter().filter_map(lookup).collect();
    Context {
        params,
        env: Arc::new(move |name| variables.get(name).cloned()),
        base: project.base.clone(),
        run: given.run.as_ref().map(|run| Run {
            id: run.id.clone(),
            started_at: run.started_at.clone(),
            scheduled_at: run.scheduled_at.clone(),
            interval_start: run.interval_start.clone(),
        }),
        pipeline: name.to_owned(),
        event: None,
    }
}

/// The values of params: given, else their defaults.
fn params(document: &Document, declared: &[Param], given: &BTreeMap<String, String>) -> (BTreeMap<String, Value>, Vec<Diagnostic>) {
    let mut values = BTreeMap::new();
    let mut problems = Vec::new();
    for name in given.keys().filter(|name| declared.iter().all(|param| param.name != **name)) {
        let problem = Diagnostic::error("unknown-param", format!("`--param {name}=…` is given, and there is no param `{name}`"));
        let problem = document.at_key(problem, "/params", "");
        problems.push(problem.help(known_names(name, "params", declared.iter().map(|param| param.name.as_str()))));
    }
    for param in declared {
        match value(param, given.get(&param.name)) {
            Ok(value) => {
                values.insert(param.name.clone(), value);
            }
            Err((code, message, help)) => {
                problems.push(document.at_key(Diagnostic::error(code, message), &param.at, "").help(help));
            }
        }
    }
    (values, problems)
}

fn value(param: &Param, given: Option<&String>) -> Result<Value, (&'static str, String, String)> {
    let name = &param.name;
    let allowed = || list(param.allowed.iter().map(String::as_str));
    let Some(text) = given.or(param.default.as_ref()) else {
        let said = param.description.as_ref().map_or_else(String::new, |said| format!(" ({})", said.trim().trim_end_matches('.')));
        let choice = if param.allowed.is_empty() { String::new() } else { format!(", one of {}", allowed()) };
        let help = format!("give it with `--param {name}=…`: a {}{choice}, or write a `default`", word(param.ty));
        return Err(("missing-param", format!("the param `{name}` has no value{said}"), help));
    };
    let value = typed(text, param.ty).map_err(|reason| {
        let help = format!("give `--param {name}=…` a {}", word(param.ty));
        ("param-value", format!("the value of the param `{name}` does not fit its type: {reason}"), help)
    })?;
    if !param.allowed.is_empty() && !param.allowed.contains(text) {
        let message = format!("the param `{name}` cannot be `{text}`");
        return Err(("param-value", message, format!("the allowed values are {}", allowed())));
    }
    Ok(value)
}
