//! The offline check of one file.

use std::sync::Arc;

use super::conform::{self, Conformed};
use super::pipeline::{Expr, Pipeline, SourceSpec};
use super::reader::{Grammar, Mode, Reader};
use super::{connections, feeds, graph, notify, overlap, params, schedule, stages, streams};
use crate::diagnostic::{Diagnostic, Severity, SourceText};
use crate::load::{Document, Project, file, yaml};

/// What a check found.
#[derive(Debug)]
pub struct Checked {
    /// What the file means, templates as written; `None` when it has errors.
    pub pipeline: Option<Pipeline>,
    /// The file, when it can be parsed.
    pub document: Option<Document>,
    /// Every problem, in file order.
    pub diagnostics: Vec<Diagnostic>,
    /// The SQL of transforms that holds no templates: its syntax is checked by a higher rank, which knows the engine.
    pub plain_sql: Vec<(Grammar, Expr)>,
    /// The environment variables its templates name, and those of the project's connections it uses.
    pub(super) env: Vec<String>,
}

impl Checked {
    fn failed(diagnostics: Vec<Diagnostic>) -> Self {
        Self { pipeline: None, document: None, diagnostics, plain_sql: Vec::new(), env: Vec::new() }
    }
}

/// Checks a pipeline without environment, secrets or servers. Problems of the project file itself are [`check_project`]'s.
pub fn check(name: &str, source: &Arc<SourceText>, project: &Project) -> Checked {
    let document = match yaml::parse(source) {
        Ok(document) => document,
        Err(problems) => return Checked::failed(problems),
    };
    let Read { pipeline, mut diagnostics, plain_sql, env } = read(name, &document, project, Mode::Check);
    in_file_order(&mut diagnostics, source);
    let pipeline = pipeline.filter(|_| !has_errors(&diagnostics));
    Checked { pipeline, document: Some(document), diagnostics, plain_sql, env }
}

/// Checks a project file.
pub fn check_project(project: &Project) -> Vec<Diagnostic> {
    let Some(document) = &project.document else { return project.diagnostics.clone() };
    let Conformed { value, broken, mut diagnostics } = conform::project().conform(document);
    let said: file::Project = match serde_json::from_value(value) {
        Ok(said) => said,
        Err(error) => return vec![unreadable(document, &error)],
    };
    let mut reader = Reader::of_project(document, &broken, Mode::Check);
    connections::check_project(&mut reader, &said);
    stages::check_settings(&mut reader, said.defaults.as_ref(), said.limits.as_ref());
    feeds::check(&mut reader, said.feeds.as_ref());
    notify::check(&mut reader, said.notify.as_deref().unwrap_or_default());
    diagnostics.append(&mut reader.problems);
    in_file_order(&mut diagnostics, &document.source);
    diagnostics
}

/// What a document means.
#[derive(Default)]
pub(super) struct Read {
    /// Only complete when no diagnostic is an error.
    pub pipeline: Option<Pipeline>,
    pub diagnostics: Vec<Diagnostic>,
    pub plain_sql: Vec<(Grammar, Expr)>,
    pub env: Vec<String>,
}

/// Reads what a document means.
pub(super) fn read(name: &str, document: &Document, project: &Project, mode: Mode<'_>) -> Read {
    let Conformed { value, broken, diagnostics } = conform::pipeline().conform(document);
    let said: file::Pipeline = match serde_json::from_value(value) {
        Ok(said) => said,
        Err(error) => return Read { diagnostics: vec![unreadable(document, &error)], ..Read::default() },
    };
    let (shared, shared_broken) = shared(project);
    let mut reader = Reader::new(document, &broken, mode);
    reader.problems = diagnostics;
    reader.more_connections = shared_broken;
    reader.params = params::read(&mut reader, said.params.as_ref());
    let schedule = schedule::read(&mut reader, name, said.schedule.as_ref());
    let graph = graph::check(&mut reader, &said);
    reader.connections = connections::read(&mut reader, &said, &shared, project);
    let mut stages = stages::read(&mut reader, &said, &shared);
    for stage in &mut stages {
        for input in &mut stage.flow.from {
            match &mut input.source {
                SourceSpec::Changes(changes) => changes.slot = streams::slot(name, &stage.name),
                SourceSpec::RedisFollow(follow) => follow.name = streams::slot(name, &stage.name),
                _ => {}
            }
        }
    }
    overlap::check(&mut reader, said.schedule.as_ref(), &stages);
    let limits = stages::limits(&mut reader, said.limits.as_ref(), shared.limits.as_ref());
    connections::unused(&mut reader, &said);
    params::unused(&mut reader);
    let pipeline = Pipeline {
        name: name.to_owned(),
        description: said.description,
        params: std::mem::take(&mut reader.params),
        connections: std::mem::take(&mut reader.connections),
        stages,
        schedule,
        limits,
        base: project.base.clone(),
    };
    Read {
        pipeline: graph.then_some(pipeline),
        diagnostics: reader.problems,
        plain_sql: reader.plain_sql,
        env: reader.env.into_iter().collect(),
    }
}

/// What the project file says where it follows its schema, and whether something in it does not.
fn shared(project: &Project) -> (file::Project, bool) {
    let Some(document) = &project.document else { return (file::Project::default(), !project.diagnostics.is_empty()) };
    let conformed = conform::project().conform(document);
    let broken = !conformed.broken.is_empty();
    (serde_json::from_value(conformed.value).unwrap_or_default(), broken)
}

/// The schema and the types that it is made from disagree: a bug, said as one.
fn unreadable(document: &Document, error: &serde_json::Error) -> Diagnostic {
    let message = format!("the file follows its schema and still cannot be read: {error}");
    document.at_value(Diagnostic::error("wrong-value", message), "", "").help("this is a bug of haul; please report it with this file")
}

/// Whether any of the diagnostics keeps the pipeline from running.
pub fn has_errors(diagnostics: &[Diagnostic]) -> bool {
    diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
}

/// Sorts by place; what points into other files comes last.
pub fn in_file_order(diagnostics: &mut [Diagnostic], source: &Arc<SourceText>) {
    diagnostics.sort_by_key(|diagnostic| {
        let label = diagnostic.labels.first();
        label.map_or((true, 0), |label| (label.source != *source, label.span.start))
    });
}
