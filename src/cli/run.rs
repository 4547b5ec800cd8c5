//! `haul run NAME` runs a pipeline, or goes on with a run that was cut; `haul retry RUN` goes on with the run it names.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::ready::{self, Which};
use super::{CliError, Exit, Global, project, render, signals};
use crate::define::pipeline::Overlap;
use crate::define::{self, Project};
use crate::feeds::Feeds;
use crate::journal::{Journal, Lease, Outcome, RunState};
use crate::plan::{Plan, Sealed};
use crate::run::launch::{self, Facts, Found};
use crate::run::{self, Control, Options};
use crate::schedule;

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

/// The arguments of `haul retry`.
#[derive(Debug, clap::Args)]
pub struct RetryArgs {
    /// The run's id, a beginning of it that no other run has, or `latest`
    #[arg(default_value = "latest")]
    run: String,
}

/// Runs a pipeline.
pub fn run(global: &Global, args: Args) -> Result<Exit, CliError> {
    let found = args.which.find(global)?;
    signals::block_on(|stop| async move { begin(global, &args, found, stop).await })?
}

/// Goes on with a run.
pub fn retry(global: &Global, args: RetryArgs) -> Result<Exit, CliError> {
    let project = project::open(global)?;
    signals::block_on(|stop| async move {
        let journal = stop.unless(project::journal(&project)).await?;
        go_on(global, &args.run, &journal, stop).await
    })?
}

async fn begin(global: &Global, args: &Args, found: Found, stop: signals::Stop) -> Result<Exit, CliError> {
    let journal = project::journal(&found.project).await?;
    let facts = Facts::new(args.which.given()?);
    let mut going = Going::take(global, &journal, &found, &facts.run, stop.clone()).await?;
    let (plan, facts, resumed) = stop.unless(plan(global, args, &found, &journal, &mut going, facts)).await?;
    let options = Options {
        fresh: args.fresh,
        only: only(args, &plan)?,
        until_caught_up: args.until == Some(Until::CaughtUp),
        ..facts.options(resumed)
    };
    going.carry_out(global, &journal, plan, options).await
}

async fn go_on(global: &Global, run: &str, journal: &Journal, stop: signals::Stop) -> Result<Exit, CliError> {
    let named = journal.show(run).await?;
    let found = ready::find(global, &named.pipeline)?;
    let going = Going::take(global, journal, &found, &named.run, stop).await?;
    // Only now nobody else works on it.
    let state = journal.show(&named.run).await?;
    let refused = |message: String, help: String| Err(CliError::new(Exit::Failed, message).help(help));
    let again = format!("`haul run {}` begins a new one", state.pipeline);
    if !state.can_go_on() {
        return refused(format!("run {} is done: there is nothing to retry", state.run), again);
    }
    // Runs that may overlap know nothing of each other.
    if going.overlap != Overlap::Allow
        && let Some(later) = journal.worked_since(&state).await?
    {
        return refused(format!("a later run of `{}` came after run {}: {later}", state.pipeline, state.run), again);
    }
    let taken = going.stop.unless(async { Ok(found.take_up(&state, &Default::default()).await) }).await?;
    let Some((plan, facts)) = taken else {
        // What is wrong with the plan is told; when it can be made, it is another one.
        ready::plan(global, &found, &Facts::of(&state)).await?;
        return refused(format!("the plan of run {} is no longer that of pipeline `{}`", state.run, state.pipeline), again);
    };
    going.carry_out(global, journal, plan, facts.options(true)).await
}

/// The right to work on a pipeline, and what stops the work.
struct Going {
    /// Held until the end: two processes must not work on one pipeline, or on one run where runs may overlap.
    leases: Vec<Lease>,
    overlap: Overlap,
    stop: signals::Stop,
    project: Project,
}

impl Going {
    async fn take(global: &Global, journal: &Journal, found: &Found, run: &str, stop: signals::Stop) -> Result<Self, CliError> {
        let overlap = found.overlap();
        let waits = |holder: &str| {
            if !global.quiet {
                render::say(&format!("waiting: pipeline `{}` is being run by {holder}", found.name));
            }
        };
        let turn = async { Ok(launch::turn(journal, &found.name, overlap, run, waits).await?) };
        Ok(Self { leases: vec![stop.unless(turn).await?], overlap, stop, project: found.project.clone() })
    }

    /// Whether it may go on with an earlier run: where runs may overlap, another process may be at it.
    async fn may_take_up(&mut self, journal: &Journal, cut: &RunState) -> Result<bool, CliError> {
        if self.overlap != Overlap::Allow {
            return Ok(true);
        }
        let lease = journal.try_lease(&launch::alone(&cut.pipeline, self.overlap, &cut.run)).await?;
        Ok(lease.map(|lease| self.leases.push(lease)).is_ok())
    }

    /// Serves the project's feeds while the run goes.
    async fn feeds(&self, global: &Global) -> Result<Feeds, CliError> {
        let feeds = project::feeds(&self.project).await?;
        if !global.quiet {
            render::say(&match feeds.address() {
                Some(address) => format!("feeds are served on http://{address}/feeds/"),
                None => "feeds are served by another process of this project".to_owned(),
            });
        }
        Ok(feeds)
    }

    async fn carry_out(self, global: &Global, journal: &Journal, plan: Plan<Sealed>, options: Options) -> Result<Exit, CliError> {
        let run = options.run.clone();
        let control = Control { drain: self.stop.drain.child_token(), abort: self.stop.abort.clone() };
        let feeds = if plan.has_feeds() { Some(self.feeds(global).await?) } else { None };
        let _heed = (self.overlap == Overlap::CancelRunning).then(|| launch::heed(journal, &run, &control.drain));
        let (progress, handle) = run::start(plan, Arc::new(journal.clone()), options, control);
        render::progress::drive(progress, render::progress::Mode::of(global)).await;
        let report = handle.await.map_err(|error| CliError::new(Exit::Failed, format!("the run broke down: {error}")))??;
        if let Some(feeds) = feeds {
            feeds.close().await;
        }
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
            Outcome::Interrupted => self.stop.exit().unwrap_or(Exit::Failed),
        })
    }
}

/// The plan, and the run it belongs to: the unfinished one when its plan is still the same, else a new one.
async fn plan(
    global: &Global,
    args: &Args,
    found: &Found,
    journal: &Journal,
    going: &mut Going,
    mut facts: Facts,
) -> Result<(Plan<Sealed>, Facts, bool), CliError> {
    if !args.fresh
        && let Some(cut) = journal.unfinished(&found.name, None).await?
        // One that was stopped for a newer run stays behind.
        && journal.asked_to_stop(&cut.run).await?.is_none()
        && going.may_take_up(journal, &cut).await?
        && let Some((plan, facts)) = found.take_up(&cut, &facts.params).await
    {
        return Ok((plan, facts, true));
    }
    let pipeline = define::check(&found.name, &found.source, &found.project).pipeline;
    let schedule = pipeline.and_then(|pipeline| pipeline.schedule);
    facts.interval_start_ms = schedule.and_then(|schedule| schedule::interval_start(&schedule, facts.started_at_ms));
    Ok((ready::plan(global, found, &facts).await?, facts, false))
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
