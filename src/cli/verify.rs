//! `haul verify NAME`: compares sources and targets again, down to the differing keys.

use super::ready::{self, Which};
use super::{CliError, Exit, Global, project, render, signals};
use crate::journal::Verdict;
use crate::run;
use crate::run::launch::Facts;

/// Runs the verb.
pub fn run(global: &Global, which: Which) -> Result<Exit, CliError> {
    let found = which.find(global)?;
    let given = which.given()?;
    let compare = async {
        let journal = project::journal(&found.project).await?;
        let mut facts = Facts::new(given.clone());
        // The params of the latest run decide what the target holds, unless others are given.
        if let Some(last) = journal.runs(Some(&found.name), 1).await?.into_iter().next() {
            let state = journal.show(&last.run).await?;
            facts = Facts::of(&state);
            facts.params.extend(given);
        }
        let plan = ready::plan(global, &found, &facts).await?;
        Ok(run::verify_again(plan, facts.run).await?)
    };
    let reports = signals::block_on(|stop| async move { stop.unless(compare).await })??;
    let differs = reports.iter().any(|(_, report)| matches!(report.verdict, Verdict::Different { .. }));
    if global.json {
        let outputs: Vec<_> = reports.iter().map(|(stage, report)| serde_json::json!({ "stage": stage, "output": report })).collect();
        render::json(&serde_json::json!({ "pipeline": found.name, "different": differs, "outputs": outputs }));
    } else {
        render::out(&render::verification::reports(&found.name, &reports, render::paint_out(global)));
    }
    Ok(if differs { Exit::Failed } else { Exit::Done })
}
