//! Every pipeline of a project, read and checked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use crate::define::pipeline::{Kind, Output, Pipeline, Schedule, SinkSpec};
use crate::define::{check_project, has_errors};
use crate::diagnostic::{Diagnostic, SourceText};
use crate::failure::Failure;
use crate::load::project::shown;
use crate::load::{Document, Project};
use crate::plan::check;
use crate::schedule::triggers;

/// Every pipeline of a project.
#[derive(Clone, Debug)]
pub struct Definitions {
    /// The project, with what its file says.
    pub project: Project,
    /// What is wrong with the project's file; nothing runs by itself until it is right.
    pub problems: Vec<Diagnostic>,
    /// By name.
    pub pipelines: BTreeMap<String, Definition>,
}

/// One pipeline.
#[derive(Clone, Debug)]
pub struct Definition {
    /// Its text.
    pub source: Arc<SourceText>,
    /// When it runs by itself; `None` when it does not say so, or is wrong.
    pub schedule: Option<Schedule>,
    /// Whether it never ends and has no schedule: then a daemon keeps it going.
    pub kept: Option<Kept>,
    /// Whether a stage of it writes a feed.
    pub feeds: bool,
    /// What is wrong with it, and warnings.
    pub problems: Vec<Diagnostic>,
    /// Those of its own text alone.
    own: Vec<Diagnostic>,
    document: Option<Document>,
}

/// A pipeline with streams and without a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// A param that nobody gives a value: it cannot be started without somebody.
    pub lacks: Option<String>,
}

impl Kept {
    /// What there is to say of a pipeline; `None` when it ends by itself, or has a schedule.
    pub fn of(pipeline: &Pipeline) -> Option<Self> {
        let streams = pipeline.stages.iter().any(|stage| matches!(stage.kind, Kind::Stream { .. }));
        let lacks = pipeline.params.iter().find(|param| param.default.is_none()).map(|param| param.name.clone());
        (streams && pipeline.schedule.is_none()).then_some(Self { lacks })
    }
}

impl Definition {
    /// Whether it can run.
    pub fn is_right(&self) -> bool {
        !has_errors(&self.problems)
    }
}

impl Definitions {
    /// Reads and checks a project's pipelines. Files whose text is that of `before` are not checked again. Fails when the project's file cannot
    /// be read; a pipeline that cannot be is wrong, like any other.
    pub fn load(base: &Path, before: Option<&Self>) -> Result<Self, Failure> {
        let project = Project::find(base)?;
        let problems = check_project(&project);
        let text = |project: &Project| project.document.as_ref().map(|document| document.source.text.clone());
        let before = before.filter(|before| text(&before.project) == text(&project));
        let mut pipelines = BTreeMap::new();
        for (name, path) in project.pipeline_names() {
            let definition = match std::fs::read_to_string(&path) {
                Ok(text) => {
                    let source = Arc::new(SourceText { path: shown(&path), text });
                    let same = before.and_then(|before| before.pipelines.get(&name)).filter(|before| before.source == source);
                    same.cloned().unwrap_or_else(|| Definition::check(&name, source, &project))
                }
                Err(error) => Definition::unreadable(shown(&path), &error),
            };
            pipelines.insert(name, definition);
        }
        let mut definitions = Self { project, problems, pipelines };
        definitions.check_triggers();
        Ok(definitions)
    }

    /// Adds what only all files together show.
    fn check_triggers(&mut self) {
        let known: BTreeSet<&str> = self.pipelines.keys().map(String::as_str).collect();
        let schedules = self.pipelines.iter().filter_map(|(name, definition)| Some((name.as_str(), definition.schedule.as_ref()?)));
        let found = triggers::check(schedules, &known);
        for definition in self.pipelines.values_mut() {
            definition.problems.clone_from(&definition.own);
        }
        for trouble in found {
            let Some(definition) = self.pipelines.get_mut(&trouble.pipeline) else { continue };
            definition.problems.extend(definition.document.as_ref().map(|document| trouble.diagnostic(document)));
        }
    }
}

impl Definition {
    fn check(name: &str, source: Arc<SourceText>, project: &Project) -> Self {
        let checked = check(name, &source, project);
        let kept = checked.pipeline.as_ref().and_then(Kept::of);
        let feed = |output: &Output| matches!(output.sink, SinkSpec::Feed(_));
        let feeds = checked.pipeline.iter().flat_map(|pipeline| &pipeline.stages).any(|stage| stage.flow.to.iter().any(feed));
        let schedule = checked.pipeline.and_then(|pipeline| pipeline.schedule);
        Self { source, schedule, kept, feeds, problems: Vec::new(), own: checked.diagnostics, document: checked.document }
    }

    fn unreadable(path: String, error: &std::io::Error) -> Self {
        let source = Arc::new(SourceText { path, text: String::new() });
        let problem = Diagnostic::error("file-encoding", format!("the file cannot be read: {error}")).label(&source, 0..0, "");
        Self { source, schedule: None, kept: None, feeds: false, problems: Vec::new(), own: vec![problem], document: None }
    }
}
