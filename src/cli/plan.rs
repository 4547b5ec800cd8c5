//! `haul plan NAME`: what a run would do.

use super::ready::{self, Which};
use super::{CliError, Exit, Global, render, signals};
use crate::plan::{explain, explain_json};
use crate::run::launch::Facts;

/// Runs the verb.
pub fn run(global: &Global, which: Which) -> Result<Exit, CliError> {
    let found = which.find(global)?;
    let facts = Facts::example(which.given()?);
    let plan = signals::block_on(|stop| async move { stop.unless(ready::plan(global, &found, &facts)).await })??;
    if global.json {
        render::json(&explain_json(&plan));
    } else {
        render::out(explain(&plan).trim_end());
    }
    Ok(Exit::Done)
}
