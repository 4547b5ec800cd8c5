//! `haul pause NAME` holds a pipeline's schedules back; `haul resume NAME` lets them go on.

use super::{CliError, Exit, Global, project, ready, render, signals};
use crate::clock;
use crate::define;
use crate::journal::Pause;
use crate::serve::Kept;

/// Arguments of `haul pause`.
#[derive(Debug, clap::Args)]
pub struct PauseArgs {
    /// The pipeline's name
    name: String,
    /// Why, for those who look
    #[arg(long, value_name = "TEXT", default_value = "on request")]
    reason: String,
}

/// Arguments of `haul resume`.
#[derive(Debug, clap::Args)]
pub struct ResumeArgs {
    /// The pipeline's name
    name: String,
}

/// Holds a pipeline's schedules back. What goes by meanwhile is not made up for; a run that goes goes on.
pub(super) fn pause(global: &Global, args: PauseArgs) -> Result<Exit, CliError> {
    change(global, &args.name, true, args.reason)
}

/// Lets a pipeline's schedules go on.
pub(super) fn resume(global: &Global, args: ResumeArgs) -> Result<Exit, CliError> {
    change(global, &args.name, false, String::new())
}

fn change(global: &Global, name: &str, paused: bool, reason: String) -> Result<Exit, CliError> {
    let found = ready::find(global, name)?;
    let pipeline = define::check(&found.name, &found.source, &found.project).pipeline;
    if pipeline.is_some_and(|pipeline| pipeline.schedule.is_none() && Kept::of(&pipeline).is_none()) {
        let message = format!("pipeline `{}` does not run by itself: there is nothing to hold back", found.name);
        return Err(CliError::new(Exit::Definition, message).help("`schedule:` in its file says when it runs"));
    }
    let pause = Pause { pipeline: found.name.clone(), paused, at_ms: clock::now_ms(), reason };
    let write = async {
        let journal = project::journal(&found.project).await?;
        Ok(journal.pause(&pause).await?)
    };
    signals::block_on(|stop| async move { stop.unless(write).await })??;
    if global.json {
        render::json(&pause);
    } else if !global.quiet {
        let word = if paused { "paused" } else { "resumed" };
        render::out(&format!("{word} {}", pause.pipeline));
    }
    Ok(Exit::Done)
}
