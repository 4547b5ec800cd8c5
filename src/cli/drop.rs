//! `haul drop NAME`: removes what a pipeline's streams keep in the systems they follow, and their positions.

use super::ready::{self, Which};
use super::{CliError, Exit, Global, project, render, signals};
use crate::run;
use crate::run::launch::Facts;

/// Runs the verb.
pub fn run(global: &Global, which: Which) -> Result<Exit, CliError> {
    let found = which.find(global)?;
    let given = which.given()?;
    let work = async {
        let journal = project::journal(&found.project).await?;
        // A stream that runs would lose its source.
        let _lease = journal.lease(&found.name).await?;
        let plan = ready::plan(global, &found, &Facts::new(given)).await?;
        Ok(run::forget(plan).await?)
    };
    let removed = signals::block_on(|stop| async move { stop.unless(work).await })??;
    if global.json {
        let removed: Vec<_> = removed.iter().map(|(stage, what)| serde_json::json!({ "stage": stage, "removed": what })).collect();
        render::json(&serde_json::json!({ "pipeline": found.name, "removed": removed }));
    } else if removed.is_empty() {
        render::out(&format!("{} keeps nothing that could be removed", found.name));
    } else {
        let lines: Vec<String> = removed.iter().map(|(stage, what)| format!("{stage}: removed {what}")).collect();
        render::out(&lines.join("\n"));
    }
    Ok(Exit::Done)
}
