//! `haul show RUN`

use super::{CliError, Exit, Global, project, render, signals};

/// Arguments of `haul show`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The run's id, a beginning of it that no other run has, or `latest`
    #[arg(default_value = "latest")]
    run: String,
}

/// Shows what happened in a run.
pub(super) fn run(global: &Global, args: Args) -> Result<Exit, CliError> {
    let project = project::open(global)?;
    let read = async {
        let journal = project::journal(&project).await?;
        Ok(journal.show(&args.run).await?)
    };
    let state = signals::block_on(|stop| async move { stop.unless(read).await })??;
    if global.json {
        render::json(&state);
    } else {
        render::out(&render::history::show(&state, global.verbose, render::paint_out(global)));
    }
    Ok(Exit::Done)
}
