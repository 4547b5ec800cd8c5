//! Finds the project that a command is about, its pipelines, and its journal.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::define;
use crate::diagnostic::SourceText;
use crate::feeds::{self, Feeds};
use crate::journal::{DEFAULT_URL, Journal};
use crate::load::Project;
use crate::load::project::{FILE, PIPELINES, is_project, nearest, pipeline_name, shown};

use super::{CliError, Exit, Global};

/// The project's folder: the one that was named, or the nearest one above that holds `haul.yaml` or `pipelines/`.
pub(super) fn find(global: &Global) -> Result<PathBuf, CliError> {
    if let Some(named) = &global.project {
        if is_project(named) {
            return absolute(named);
        }
        let message = format!("{} is no project: it holds neither {FILE} nor {PIPELINES}/", named.display());
        return Err(CliError::new(Exit::Environment, message).help("`haul init DIR` makes one"));
    }
    let here = absolute(Path::new("."))?;
    nearest(&here).map(Path::to_owned).ok_or_else(|| {
        CliError::new(Exit::Environment, format!("no project here: neither this folder nor one above it holds {FILE} or {PIPELINES}/"))
            .help("`haul init` makes one; `--project DIR` names one elsewhere")
    })
}

fn absolute(folder: &Path) -> Result<PathBuf, CliError> {
    folder
        .canonicalize()
        .map_err(|error| CliError::new(Exit::Environment, format!("failed to read the folder {}: {error}", folder.display())))
}

/// The project, with what its file says.
pub(super) fn open(global: &Global) -> Result<Project, CliError> {
    Ok(Project::find(&find(global)?)?)
}

/// A pipeline's name and file, from its name or the path of its file. One that is not there is the command line's fault.
pub(super) fn pipeline(project: &Project, named: &str) -> Result<(String, PathBuf), CliError> {
    let path = project.pipeline_path(named).map_err(|failure| CliError { exit: Exit::Definition, ..failure.into() })?;
    Ok((pipeline_name(&path), path))
}

/// The text of a pipeline's file.
pub(super) fn text(path: &Path) -> Result<Arc<SourceText>, CliError> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| CliError::new(Exit::Environment, format!("failed to read {}: {error}", shown(path))))?;
    Ok(Arc::new(SourceText { path: shown(path), text }))
}

/// Where the project keeps its journal. May hold a password.
pub(super) fn journal_url(project: &Project) -> Result<String, CliError> {
    match define::state_url(project, &|name| std::env::var(name).ok()) {
        Ok(url) => Ok(url.map_or_else(|| DEFAULT_URL.to_owned(), |url| url.reveal().clone())),
        Err(problems) => {
            let first = problems.first().map_or("it has problems", |problem| &problem.message);
            Err(CliError::new(Exit::Definition, format!("{FILE} does not say where the journal is: {first}"))
                .help("`haul validate` shows the place"))
        }
    }
}

/// Serves the project's feeds.
pub(super) async fn feeds(project: &Project) -> Result<Feeds, CliError> {
    let server = define::feed_server(project, &|name| std::env::var(name).ok()).map_err(|problems| {
        let first = problems.first().map_or("it has problems", |problem| &problem.message);
        CliError::new(Exit::Definition, format!("{FILE} does not say how feeds are served: {first}"))
            .help("`haul validate` shows the place")
    })?;
    Ok(feeds::start(&project.base, server).await?)
}

/// Opens the project's journal.
pub(super) async fn journal(project: &Project) -> Result<Journal, CliError> {
    Ok(Journal::open(&journal_url(project)?, &project.base).await?)
}
