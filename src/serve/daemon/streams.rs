//! Pipelines with streams and no schedule: kept going, each by a task of its own, outside of the places that runs of ticks share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

use super::Daemon;
use crate::define::pipeline::Overlap;
use crate::failure::Failure;
use crate::journal::Pause;
use crate::load::file::Occasion;
use crate::run::Control;
use crate::run::launch::Found;
use crate::serve::worker::{self, Came, Work};
use crate::serve::{Level, PERIOD};
use crate::tasks;

/// A pipeline that has gone on for so long has got over its failures.
const STEADY: Duration = Duration::from_secs(60);
/// The waits before a pipeline that failed is started again, in seconds: the last one from then on.
const WAITS: [u64; 9] = [1, 2, 4, 8, 15, 30, 60, 120, 300];

/// The pipelines that are kept going.
#[derive(Default)]
pub(super) struct Streams {
    kept: BTreeMap<String, Kept>,
    /// Tasks of pipelines that are not to go on, while they commit what they have begun.
    ending: Vec<AbortOnDropHandle<()>>,
}

struct Kept {
    found: Found,
    control: Control,
    health: Arc<Health>,
    task: AbortOnDropHandle<()>,
}

/// Whether a pipeline fails again and again, for those who tell people: they hear of it once.
#[derive(Default)]
struct Health(AtomicU8);

impl Health {
    const FINE: u8 = 0;
    const FAILING: u8 = 1;
    const RECOVERED: u8 = 2;

    fn set(&self, state: u8) {
        self.0.store(state, Ordering::Relaxed);
    }

    fn is(&self, state: u8) -> bool {
        self.0.load(Ordering::Relaxed) == state
    }
}

impl Streams {
    /// Those that go, or are about to.
    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    /// Waits until all have come to rest.
    pub(super) async fn rest(&mut self) {
        let kept = std::mem::take(&mut self.kept).into_values().map(|kept| kept.task);
        for task in kept.chain(self.ending.drain(..)) {
            let _ = task.await;
        }
    }

    /// Takes in that a run of a pipeline failed. Whether it had failed before, and had not got over it.
    pub(super) fn failed_again(&self, pipeline: &str) -> bool {
        let Some(kept) = self.kept.get(pipeline) else { return false };
        let again = kept.health.is(Health::FAILING);
        kept.health.set(Health::FAILING);
        again
    }

    fn stop(&mut self, name: &str) -> Option<Kept> {
        let kept = self.kept.remove(name)?;
        kept.control.drain.cancel();
        Some(kept)
    }
}

impl Daemon {
    /// Starts those that are to go, and stops those that are paused, gone, or have another definition by now.
    pub(super) fn keep_streams(&mut self, pauses: &[Pause]) {
        let paused: BTreeSet<&str> = pauses.iter().filter(|pause| pause.paused).map(|pause| pause.pipeline.as_str()).collect();
        let kept = self.good.iter().filter(|(name, good)| good.kept && !paused.contains(name.as_str()));
        let wanted: BTreeMap<String, Found> = kept.map(|(name, good)| (name.clone(), good.found.clone())).collect();
        let over: Vec<String> = self.streams.kept.keys().filter(|name| !wanted.contains_key(*name)).cloned().collect();
        for name in over {
            self.voice.of(Level::Info, &name, None, "stopping: it is not to go on");
            let kept = self.streams.stop(&name);
            self.streams.ending.extend(kept.map(|kept| kept.task));
        }
        self.streams.ending.retain(|task| !task.is_finished());
        for (name, found) in wanted {
            if self.streams.kept.get(&name).is_none_or(|kept| !kept.found.same(&found)) {
                let before = self.streams.stop(&name);
                self.keep_going(name, found, before);
            }
        }
    }

    /// Starts one, once the one with the earlier definition has come to rest.
    fn keep_going(&mut self, name: String, found: Found, before: Option<Kept>) {
        let control = Control { drain: self.control.drain.child_token(), abort: self.control.abort.child_token() };
        let work = self.worker(found.clone(), Overlap::Skip, BTreeMap::new(), control.clone());
        let health = before.as_ref().map_or_else(Arc::default, |before| Arc::clone(&before.health));
        let own = Arc::clone(&health);
        let task = tasks::start(async move {
            if let Some(before) = before {
                let _ = before.task.await;
            }
            keep_going(&work, &own).await;
        });
        self.streams.kept.insert(name, Kept { found, control, health, task });
    }

    /// Tells people of pipelines that go on again after they had failed.
    pub(super) async fn tell_of_recoveries(&mut self) -> Result<(), Failure> {
        let recovered = self.streams.kept.iter().filter(|(_, kept)| kept.health.is(Health::RECOVERED));
        for name in recovered.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            if let Some(run) = self.journal.runs(Some(&name), 1).await?.pop() {
                let run = self.journal.show(&run.run).await?;
                self.notify(Occasion::Recovery, &run, String::new(), "goes on again after a failure".to_owned(), String::new()).await?;
            }
            if let Some(kept) = self.streams.kept.get(&name) {
                kept.health.set(Health::FINE);
            }
        }
        Ok(())
    }
}

/// Keeps a pipeline going until it is asked to stop. After a failure it starts again, later each time.
async fn keep_going(work: &Work, health: &Health) {
    let name = &work.found.name;
    let (mut failures, mut told) = (0, false);
    while !work.control.drain.is_cancelled() {
        let (came, steady) = attempt(work, health).await;
        if steady {
            failures = 0;
        }
        let wait = match came {
            _ if work.control.drain.is_cancelled() => return,
            Ok(Came::Held(holder)) => {
                if !told {
                    work.voice.of(Level::Info, name, None, format!("waiting: it is being run by {holder}"));
                }
                told = true;
                PERIOD
            }
            Ok(Came::Over(outcome)) => again(work, &mut failures, &format!("its run is {}", outcome.as_str())),
            Err(failure) => again(work, &mut failures, &failure.to_string()),
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = work.control.drain.cancelled() => {}
        }
    }
}

/// How long to wait before the next start.
fn again(work: &Work, failures: &mut usize, why: &str) -> Duration {
    let wait = WAITS[(*failures).min(WAITS.len() - 1)];
    *failures += 1;
    work.status.restarts(&work.found.name);
    work.voice.of(Level::Error, &work.found.name, None, format!("{why}; it starts again after {wait} s"));
    Duration::from_secs(wait)
}

/// One start, until it comes to something; whether it went on for long.
async fn attempt(work: &Work, health: &Health) -> (Result<Came, Failure>, bool) {
    let came = worker::carry_on(work);
    tokio::pin!(came);
    loop {
        tokio::select! {
            came = &mut came => return (came, false),
            () = tokio::time::sleep(STEADY) => {}
        }
        // Until its plan can be made, it has not begun.
        if work.status.follows(&work.found.name) {
            break;
        }
    }
    if health.is(Health::FAILING) {
        health.set(Health::RECOVERED);
    }
    (came.await, true)
}
