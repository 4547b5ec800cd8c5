//! Finds the project that a command is about.

use std::path::{Path, PathBuf};

use super::{CliError, Exit, Global};

/// The project's folder: the one that was named, or the nearest one above that holds `haul.yaml` or `pipelines/`.
pub(super) fn find(global: &Global) -> Result<PathBuf, CliError> {
    if let Some(named) = &global.project {
        if is_project(named) {
            return Ok(named.clone());
        }
        let message = format!("{} is no project: it holds neither haul.yaml nor pipelines/", named.display());
        return Err(CliError::new(Exit::Environment, message).help("`haul init DIR` makes one"));
    }
    let here = std::env::current_dir()
        .map_err(|error| CliError::new(Exit::Environment, format!("failed to read the working folder's name: {error}")))?;
    let found = here.ancestors().find(|folder| is_project(folder)).map(Path::to_owned);
    found.ok_or_else(|| {
        CliError::new(Exit::Environment, "no project here: neither this folder nor one above it holds haul.yaml or pipelines/")
            .help("`haul init` makes one; `--project DIR` names one elsewhere")
    })
}

fn is_project(folder: &Path) -> bool {
    folder.join("haul.yaml").is_file() || folder.join("pipelines").is_dir()
}

/// Where the project keeps its journal.
pub(super) fn journal_url(_project: &Path) -> Result<String, CliError> {
    Ok(crate::journal::DEFAULT_URL.to_owned())
}
