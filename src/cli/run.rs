//! `haul run NAME`: runs a pipeline, or goes on with a run that was cut.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::ready::{Facts, Found, Which};
use super::{CliError, Exit, Global, project, render, signals};
use crate::journal::{Journal, Outcome};
use crate::plan::{Plan, Sealed};
use crate::run::{self, Control, Options};

/// The arguments of `haul run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// Leave an unfinished run behind and begin a new one
    #[arg(long)]
    fresh: bool,
    /// End streams once they have handed on everything that their sources hold
    #[arg(long, value_name = "WHEN")]
    until: Option<Until>,
    /// Only this stage, and those that stream with it; may be repeated
    #[arg(long, value_name = "STAGE")]
    only: Vec<String>,
}

/// When streams end by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Until {
    /// When every stream has reached what its source held
    CaughtUp,
}

/// Runs the verb.
pub fn run(global: &Global, args: Args) -> Result<Exit, CliError> {
    let found = args.which.find(global)?;
    signals::block_on(|stop| async move { go(global, &args, found, stop).await })?
}

async fn go(global: &Global, args: &Args, found: Found, stop: signals::Stop) -> Result<Exit, CliError> {
    let journal = project::journal(&found.project).await?;
    // Held until the end: two processes must not work on one pipeline.
    let _lease = journal.lease(&found.name).await?;
    let (plan, facts, resumed) = stop.unless(plan(global, args, &found, &journal)).await?;
    let only = only(args, &plan)?;
    let run = facts.run.clone();
    let options = Options {
        run: facts.run,
        started_at_ms: facts.started_at_ms,
        resumed,
        fresh: args.fresh,
        only,
        until_caught_up: args.until == Some(Until::CaughtUp),
        params: facts.params,
    };
    let control = Control { drain: stop.drain.clone(), abort: stop.abort.clone() };
    let (progress, handle) = run::start(plan, Arc::new(journal.clone()), options, control);
    render::progress::drive(progress, render::progress::Mode::of(global)).await;
    let report = handle.await.map_err(|error| CliError::new(Exit::Failed, format!("the run broke down: {error}")))??;
    journal.flush().await?;
    let (state, paint) = (journal.show(&run).await?, render::paint_out(global));
    match global {
        // The events have said it.
        Global { json: true, .. } => {}
        Global { quiet: true, .. } => render::out(&render::summary::verdict(&state, paint)),
        _ => render::out(&render::summary::run(&state, paint)),
    }
    Ok(match report.outcome {
        Outcome::Done | Outcome::Skipped => Exit::Done,
        Outcome::Failed => Exit::Failed,
        Outcome::Interrupted => stop.exit().unwrap_or(Exit::Failed),
    })
}

/// The plan, and the run it belongs to: the unfinished one when its plan is still the same, else a new one.
async fn plan(global: &Global, args: &Args, found: &Found, journal: &Journal) -> Result<(Plan<Sealed>, Facts, bool), CliError> {
    let given = args.which.given()?;
    if !args.fresh
        && let Some(cut) = journal.unfinished(&found.name, None).await?
    {
        let mut params = cut.params.clone();
        params.extend(given.clone());
        let facts = Facts { run: cut.run.clone(), started_at_ms: cut.started_ms, params };
        // The definition may have changed since; what is wrong with it is reported for the new run.
        if let Ok(plan) = found.try_plan(&facts).await
            && plan.hash == cut.plan_hash
        {
            return Ok((plan, facts, true));
        }
    }
    let facts = Facts::new(given);
    Ok((found.plan(global, &facts).await?, facts, false))
}

fn only(args: &Args, plan: &Plan<Sealed>) -> Result<Option<BTreeSet<String>>, CliError> {
    if args.only.is_empty() {
        return Ok(None);
    }
    for name in &args.only {
        if !plan.stages.iter().any(|stage| stage.stage.name == *name) {
            let names: Vec<&str> = plan.stages.iter().map(|stage| stage.stage.name.as_str()).collect();
            return Err(
                CliError::new(Exit::Definition, format!("there is no stage `{name}`")).help(format!("the stages are {}", names.join(", ")))
            );
        }
    }
    Ok(Some(args.only.iter().cloned().collect()))
}
