//! From a pipeline's text to a run that may go: what every way to start one shares.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::Options;
use crate::clock;
use crate::define::pipeline::Overlap;
use crate::define::{self, Given, Project, RunFacts};
use crate::diagnostic::{Diagnostic, SourceText};
use crate::failure::Failure;
use crate::journal::{Journal, Lease, RunState, SEPARATOR};
use crate::plan::{Open, Plan, Refused, Sealed};
use crate::tasks;

/// How often a run that waits for its turn asks again, and one that may be stopped for a newer one asks whether it is.
const PERIOD: Duration = Duration::from_millis(500);

/// How long a plan waits before it asks systems again that could not be asked.
const ASK_AGAIN: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(300), Duration::from_millis(900)];

/// A plan that took this long to fail is not tried again: what is silent for so long is not about to answer.
const ASK_AGAIN_WITHIN: Duration = Duration::from_secs(3);

/// A pipeline's text, found but not read yet.
#[derive(Clone, Debug)]
pub struct Found {
    /// The project it belongs to.
    pub project: Project,
    /// Its name.
    pub name: String,
    /// Its text.
    pub source: Arc<SourceText>,
}

/// What a run is called and given.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The run's id.
    pub run: String,
    /// When it began, in milliseconds since 1970.
    pub started_at_ms: i64,
    /// Params, in their text form.
    pub params: BTreeMap<String, String>,
    /// What started it: `manual`, `schedule`, `after`, or `serve` for a pipeline that is kept going.
    pub trigger: String,
    /// The moment it was to run at, in milliseconds since 1970; `None` when nobody had said one.
    pub scheduled_ms: Option<i64>,
    /// Where the data interval begins that ends with that moment, or with its start.
    pub interval_start_ms: Option<i64>,
    /// Stages that earlier processes brought to their end.
    pub done: BTreeSet<String>,
}

impl Facts {
    /// A run that somebody begins now.
    pub fn new(params: BTreeMap<String, String>) -> Self {
        Self { run: clock::new_id(), started_at_ms: clock::now_ms(), ..Self::example(params) }
    }

    /// A run that will never be: the same each time, so that what is shown of it does not change by itself.
    pub fn example(params: BTreeMap<String, String>) -> Self {
        let (run, trigger) = ("RUN".to_owned(), "manual".to_owned());
        Self { run, started_at_ms: 0, params, trigger, scheduled_ms: None, interval_start_ms: None, done: BTreeSet::new() }
    }

    /// Those of a run that there was.
    pub fn of(state: &RunState) -> Self {
        let done = state.stages.iter().filter(|stage| stage.done);
        Self {
            done: done.map(|stage| stage.stage.clone()).collect(),
            run: state.run.clone(),
            started_at_ms: state.started_ms,
            params: state.params.clone(),
            trigger: state.trigger.clone(),
            scheduled_ms: state.scheduled_ms,
            interval_start_ms: state.interval_start_ms,
        }
    }

    /// What a run is asked to do that is called and given so.
    pub fn options(&self, resumed: bool) -> Options {
        Options {
            run: self.run.clone(),
            started_at_ms: self.started_at_ms,
            params: self.params.clone(),
            trigger: self.trigger.clone(),
            scheduled_ms: self.scheduled_ms,
            interval_start_ms: self.interval_start_ms,
            done: self.done.clone(),
            resumed,
            ..Options::default()
        }
    }

    /// What templates see of the run.
    pub fn seen(&self) -> RunFacts {
        let end_ms = self.scheduled_ms.unwrap_or(self.started_at_ms);
        RunFacts {
            id: self.run.clone(),
            started_at: clock::rfc3339(self.started_at_ms),
            scheduled_at: clock::rfc3339(end_ms),
            interval_start: clock::rfc3339(self.interval_start_ms.unwrap_or(end_ms)),
        }
    }
}

impl Found {
    /// Whether a run of either would come to the same.
    pub fn same(&self, other: &Self) -> bool {
        let text = |found: &Self| found.project.document.as_ref().map(|document| document.source.text.clone());
        self.source == other.source && text(self) == text(other) && self.project.variables == other.project.variables
    }

    /// Resolves the definition and asks the real systems: again for a moment when all that is in the way may pass by itself, such as a
    /// server that restarts.
    pub async fn plan(&self, facts: &Facts) -> Result<Plan<Sealed>, Refused> {
        let began = clock::Stopwatch::start();
        let mut waits = ASK_AGAIN.iter();
        loop {
            let open = self.open(facts).map_err(|diagnostics| Refused { diagnostics, environment: false })?;
            match (open.seal().await, waits.next()) {
                (Err(refused), Some(wait)) if refused.environment && began.elapsed() < ASK_AGAIN_WITHIN => tokio::time::sleep(*wait).await,
                (planned, _) => return planned,
            }
        }
    }

    fn open(&self, facts: &Facts) -> Result<Plan<Open>, Vec<Diagnostic>> {
        let given = Given { params: facts.params.clone(), env: &|name| std::env::var(name).ok(), run: Some(facts.seen()) };
        let resolved = define::resolve(&self.name, &self.source, &self.project, &given)?;
        Plan::open(resolved.pipeline, Arc::new(resolved.document), resolved.warnings)
    }

    /// The plan to go on with a run that was cut, when its plan is still the same. The definition may have changed since; what is wrong with it
    /// is told of the new run.
    pub async fn take_up(&self, cut: &RunState, given: &BTreeMap<String, String>) -> Option<(Plan<Sealed>, Facts)> {
        let mut facts = Facts::of(cut);
        facts.params.extend(given.clone());
        let plan = self.plan(&facts).await.ok()?;
        (plan.hash == cut.plan_hash).then_some((plan, facts))
    }

    /// What happens when a run of it is to start while one is going.
    pub fn overlap(&self) -> Overlap {
        let pipeline = define::check(&self.name, &self.source, &self.project).pipeline;
        pipeline.and_then(|pipeline| pipeline.schedule).map(|schedule| schedule.overlap).unwrap_or_default()
    }
}

/// The name of what only one process may work on: the pipeline, or a run of it where runs may overlap.
pub fn alone(pipeline: &str, overlap: Overlap, run: &str) -> String {
    if overlap == Overlap::Allow { format!("{pipeline}{SEPARATOR}{run}") } else { pipeline.to_owned() }
}

/// Takes the right to work on a run of a pipeline, in the way that its `overlap` says: at once or not at all, after whoever has it, or after
/// having asked the run that goes to stop. `waits` is told who has it, once.
pub async fn turn(journal: &Journal, pipeline: &str, overlap: Overlap, run: &str, waits: impl FnOnce(&str)) -> Result<Lease, Failure> {
    if overlap == Overlap::Skip {
        return journal.lease(pipeline).await;
    }
    let mut waits = Some(waits);
    let name = alone(pipeline, overlap, run);
    loop {
        let holder = match journal.try_lease(&name).await? {
            Ok(lease) => return Ok(lease),
            Err(holder) => holder,
        };
        if overlap == Overlap::CancelRunning
            && let Some(going) = journal.runs(Some(pipeline), 1).await?.pop().filter(|run| run.outcome.is_none())
        {
            journal.ask_to_stop(&going.run).await?;
        }
        if let Some(waits) = waits.take() {
            waits(&holder);
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// Stops a run, by draining it, once somebody asks for it in the journal from now on.
pub fn heed(journal: &Journal, run: &str, drain: &CancellationToken) -> AbortOnDropHandle<()> {
    let (journal, run, drain) = (journal.clone(), run.to_owned(), drain.clone());
    let since_ms = clock::now_ms();
    tasks::start(async move {
        loop {
            match journal.asked_to_stop(&run).await {
                Ok(asked_ms) if asked_ms.is_none_or(|asked_ms| asked_ms < since_ms) => tokio::time::sleep(PERIOD).await,
                Ok(_) => return drain.cancel(),
                // A journal that cannot be read ends the run by itself.
                Err(_) => return,
            }
        }
    })
}
