//! From a pipeline's name on the command line to a sealed plan: what `run`, `plan` and `verify` share.

use std::collections::BTreeMap;

use super::render;
use super::{CliError, Exit, Global, project};
use crate::plan::{Plan, Sealed};
use crate::run::launch::{Facts, Found};

/// How a pipeline is named and what it is given, on the command line.
#[derive(Debug, clap::Args)]
pub struct Which {
    /// The pipeline's name, or the path of its file
    pub name: String,
    /// A param's value; may be repeated
    #[arg(long = "param", value_name = "NAME=VALUE")]
    pub params: Vec<String>,
}

impl Which {
    /// The params that were given, by name.
    pub fn given(&self) -> Result<BTreeMap<String, String>, CliError> {
        given(&self.params)
    }

    /// Finds the pipeline and reads its text.
    pub fn find(&self, global: &Global) -> Result<Found, CliError> {
        find(global, &self.name)
    }
}

/// Finds a pipeline and reads its text.
pub fn find(global: &Global, name: &str) -> Result<Found, CliError> {
    let project = project::open(global)?;
    let (name, path) = project::pipeline(&project, name)?;
    let source = project::text(&path)?;
    Ok(Found { project, name, source })
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

/// Resolves the definition and asks the real systems. Warnings are printed.
pub async fn plan(global: &Global, found: &Found, facts: &Facts) -> Result<Plan<Sealed>, CliError> {
    let plan = found.plan(facts).await.map_err(|refused| {
        let exit = if refused.environment { Exit::Environment } else { Exit::Definition };
        let message = format!("pipeline `{}` cannot run as it is; nothing was started", found.name);
        CliError { diagnostics: refused.diagnostics, ..CliError::new(exit, message) }
    })?;
    render::warnings(&plan.warnings, global);
    Ok(plan)
}
