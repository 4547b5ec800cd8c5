//! What follows from the end of a run, whichever process ran it.

use std::sync::Arc;

use super::Daemon;
use crate::clock;
use crate::define::Notice;
use crate::failure::Failure;
use crate::journal::{Decided, Outcome, Pause, RunState};
use crate::load::file::Occasion;
use crate::run::launch::Facts;
use crate::serve::Level;

/// Ends of runs are looked for so long before the last one that was seen: another machine's clock may be behind.
const SLACK_MS: i64 = 60_000;

/// The name under which the journal keeps up to when people have been told of runs. No pipeline's name begins so.
const TOLD: &str = "/notify";

impl Daemon {
    /// Takes up where the daemon before has stopped: runs after others, and people who are told.
    pub(super) async fn look_back(&mut self) -> Result<(), Failure> {
        let told = self.journal.decided().await?.into_iter().find(|decided| decided.pipeline == TOLD);
        self.told_until_ms = told.map_or_else(clock::now_ms, |told| told.until_ms);
        self.ended_since_ms = self.book.after_since().unwrap_or(self.told_until_ms).min(self.told_until_ms);
        self.look_for_ends().await
    }

    /// Takes in what has ended, whichever process ran it: pipelines that run after it, and pauses after failures.
    pub(super) async fn look_for_ends(&mut self) -> Result<(), Failure> {
        let since_ms = self.ended_since_ms - SLACK_MS;
        for (run, at_ms) in self.journal.ended_since(since_ms).await? {
            if self.ended.get(&run) == Some(&at_ms) {
                continue;
            }
            if let Some(ended) = self.journal.brief(&run).await? {
                self.take_end(&ended).await?;
            }
            // Not before all has come of it: after a failure on the way it is taken in again, which changes nothing that is done.
            self.ended.insert(run, at_ms);
        }
        let since_ms = self.ended_since_ms - SLACK_MS;
        self.ended.retain(|_, at_ms| *at_ms > since_ms);
        Ok(())
    }

    async fn take_end(&mut self, run: &RunState) -> Result<(), Failure> {
        self.ended_since_ms = self.ended_since_ms.max(run.last_ms.min(clock::now_ms()));
        match run.outcome {
            Some(Outcome::Done) => {
                let interval_start_ms = run.interval_start_ms.unwrap_or(run.started_ms);
                let turn = self.book.after(&run.pipeline, run.last_ms, interval_start_ms);
                self.write_down(turn).await?;
            }
            Some(Outcome::Failed) => self.pause_on_failure(run).await?,
            _ => {}
        }
        if run.last_ms > self.told_until_ms { self.tell(run).await } else { Ok(()) }
    }

    /// The most runs of a pipeline that go at the same time: those of ticks, and one by hand.
    fn at_once(&self) -> u32 {
        u32::try_from(self.settings.runs).unwrap_or(u32::MAX).saturating_add(1)
    }

    async fn pause_on_failure(&mut self, run: &RunState) -> Result<(), Failure> {
        let Some(most) = self.book.pause_on_failure(&run.pipeline) else { return Ok(()) };
        let pauses = self.journal.pauses().await?;
        let before = pauses.iter().find(|pause| pause.pipeline == run.pipeline);
        let since_ms = before.map_or(i64::MIN, |pause| pause.at_ms);
        // Newer runs that still go, as many as may overlap, say nothing yet.
        let latest = self.journal.runs(Some(&run.pipeline), most.saturating_add(self.at_once())).await?;
        let ended = latest.iter().filter(|run| run.outcome.is_some()).take(most as usize);
        let failed = ended.filter(|run| run.outcome == Some(Outcome::Failed) && run.started_ms > since_ms).count();
        if failed < most as usize || before.is_some_and(|pause| pause.paused) {
            return Ok(());
        }
        let reason = format!("{failed} runs in a row have failed");
        self.voice.of(Level::Error, &run.pipeline, None, format!("paused: {reason}; `haul resume {}` lets it go on", run.pipeline));
        let pause = Pause { pipeline: run.pipeline.clone(), paused: true, at_ms: clock::now_ms(), reason };
        self.journal.pause(&pause).await?;
        self.take_pauses().await.map(drop)
    }

    /// Tells people of a failure, or of a recovery from one.
    async fn tell(&mut self, run: &RunState) -> Result<(), Failure> {
        let failure = run.failure().map(|(stage, cause)| (stage.to_owned(), cause.clone()));
        let (occasion, stage, message, help) = match (run.outcome, failure) {
            (Some(Outcome::Failed), Some((stage, cause))) => (Occasion::Failure, stage, cause.message, cause.help.unwrap_or_default()),
            (Some(Outcome::Done), _) => {
                let latest = self.journal.runs(Some(&run.pipeline), self.at_once().saturating_add(1)).await?;
                let before = latest.iter().skip_while(|latest| latest.run != run.run).nth(1);
                if !run.failed_before && before.is_none_or(|before| before.outcome != Some(Outcome::Failed)) {
                    return Ok(());
                }
                (Occasion::Recovery, String::new(), "done again after a failure".to_owned(), String::new())
            }
            _ => return Ok(()),
        };
        if occasion == Occasion::Failure && self.streams.failed_again(&run.pipeline) {
            return Ok(());
        }
        self.notify(occasion, run, stage, message, help).await
    }

    /// Leaves a notice for those who want to be told, and writes down up to where that is done.
    pub(super) async fn notify(
        &mut self,
        occasion: Occasion,
        run: &RunState,
        stage: String,
        message: String,
        help: String,
    ) -> Result<(), Failure> {
        let told = Decided { pipeline: TOLD.to_owned(), entry: String::new(), until_ms: run.last_ms.max(self.ended_since_ms) };
        if self.definitions.project.document.as_ref().is_none_or(|document| document.get("/notify").is_none()) {
            self.journal.decide(&[], &[told]).await?;
            return Ok(());
        }
        let (pipeline, run, at_ms) = (run.pipeline.clone(), Facts::of(run).seen(), run.last_ms);
        let notice = Notice { occasion, at_ms, pipeline, run, stage, message, help };
        self.notifier.tell(&Arc::new(self.definitions.project.clone()), notice, &told).await
    }

    /// Takes up notices that the daemon before has not brought to everybody.
    pub(super) async fn take_up_notices(&mut self) -> Result<(), Failure> {
        self.notifier.take_up(&Arc::new(self.definitions.project.clone())).await
    }
}
