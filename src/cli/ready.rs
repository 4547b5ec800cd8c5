//! From a pipeline's name to a sealed plan: what `run`, `plan` and `verify` share.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::render;
use super::{CliError, Exit, Global, project};
use crate::clock;
use crate::define::{self, Given, Project, RunFacts};
use crate::diagnostic::{Diagnostic, SourceText};
use crate::plan::{Plan, Sealed};

/// How a pipeline is named and what it is given, on the command line.
#[derive(Debug, clap::Args)]
pub struct Which {
    /// The pipeline's name, or the path of its file
    pub name: String,
    /// A param's value; may be repeated
    #[arg(long = "param", value_name = "NAME=VALUE")]
    pub params: Vec<String>,
}

/// A pipeline's text, found but not read yet.
pub struct Found {
    /// The project it belongs to.
    pub project: Project,
    /// Its name.
    pub name: String,
    /// Its text.
    pub source: Arc<SourceText>,
}

/// What a run is called and given.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The run's id.
    pub run: String,
    /// When it began, in milliseconds since 1970.
    pub started_at_ms: i64,
    /// Params, in their text form.
    pub params: BTreeMap<String, String>,
}

impl Facts {
    /// A run that begins now.
    pub fn new(params: BTreeMap<String, String>) -> Self {
        Self { run: clock::new_id(), started_at_ms: clock::now_ms(), params }
    }

    /// A run that will never be: the same each time, so that what is shown of it does not change by itself.
    pub fn example(params: BTreeMap<String, String>) -> Self {
        Self { run: "RUN".to_owned(), started_at_ms: 0, params }
    }
}

impl Which {
    /// The params that were given, by name.
    pub fn given(&self) -> Result<BTreeMap<String, String>, CliError> {
        given(&self.params)
    }

    /// Finds the pipeline and reads its text.
    pub fn find(&self, global: &Global) -> Result<Found, CliError> {
        let project = project::open(global)?;
        let (name, path) = project::pipeline(&project, &self.name)?;
        let source = project::text(&path)?;
        Ok(Found { project, name, source })
    }
}

/// Params of the form NAME=VALUE, by name.
pub fn given(pairs: &[String]) -> Result<BTreeMap<String, String>, CliError> {
    let mut given = BTreeMap::new();
    for pair in pairs {
        let Some((name, value)) = pair.split_once('=') else {
            return Err(CliError::new(Exit::Definition, format!("`--param {pair}` is no NAME=VALUE pair")));
        };
        if given.insert(name.to_owned(), value.to_owned()).is_some() {
            return Err(CliError::new(Exit::Definition, format!("the param `{name}` is given twice")));
        }
    }
    Ok(given)
}

impl Found {
    /// Resolves the definition and asks the real systems. Warnings are printed.
    pub async fn plan(&self, global: &Global, facts: &Facts) -> Result<Plan<Sealed>, CliError> {
        let plan = self.try_plan(facts).await.map_err(|(diagnostics, exit)| {
            let message = format!("pipeline `{}` cannot run as it is; nothing was started", self.name);
            CliError { diagnostics, ..CliError::new(exit, message) }
        })?;
        render::warnings(&plan.warnings, global);
        Ok(plan)
    }

    /// The same, without a word.
    pub async fn try_plan(&self, facts: &Facts) -> Result<Plan<Sealed>, (Vec<Diagnostic>, Exit)> {
        let given = Given {
            params: facts.params.clone(),
            env: &environment,
            run: Some(RunFacts { id: facts.run.clone(), started_at: clock::rfc3339(facts.started_at_ms) }),
        };
        let definition = |diagnostics| (diagnostics, Exit::Definition);
        let resolved = define::resolve(&self.name, &self.source, &self.project, &given).map_err(definition)?;
        let open = Plan::open(resolved.pipeline, Arc::new(resolved.document), resolved.warnings).map_err(definition)?;
        open.seal().await.map_err(|refused| {
            let exit = if refused.environment { Exit::Environment } else { Exit::Definition };
            (refused.diagnostics, exit)
        })
    }
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
