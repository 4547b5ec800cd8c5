//! `haul runs [NAME]`

use super::{CliError, Exit, Global, project, render, signals};

/// Arguments of `haul runs`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only runs of this pipeline
    name: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 20, value_name = "N")]
    limit: u32,
}

/// Lists past runs, latest first.
pub(super) fn run(global: &Global, args: Args) -> Result<Exit, CliError> {
    let project = project::open(global)?;
    let read = async {
        let journal = project::journal(&project).await?;
        Ok(journal.runs(args.name.as_deref(), args.limit).await?)
    };
    let runs = signals::block_on(|stop| async move { stop.unless(read).await })??;
    if global.json {
        render::json(&runs);
    } else {
        render::out(&render::history::runs(&runs, render::paint_out(global)));
    }
    Ok(Exit::Done)
}
