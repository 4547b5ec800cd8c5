//! How segments end, and who goes on then.

use super::super::refresh::Refresh;
use super::super::stage::StageRun;
use super::segment::Phase;
use super::{Answer, Dispatcher, Step, tell};
use crate::failure::Failure;
use crate::journal::{Outcome, OutputReport, Verdict};

impl Dispatcher {
    /// Ends a segment that came through.
    pub(super) async fn done(&mut self, number: usize, reports: Vec<Vec<OutputReport>>) {
        let stages = std::mem::take(&mut self.segments[number].stages);
        let proved_once = stages.iter().zip(&reports).any(|((_, stage), reports)| is_proved_once(stage, reports));
        for ((place, stage), outputs) in stages.iter().zip(reports) {
            self.report(number, *place, tell::Ended::done(stage, outputs)).await;
            self.refreshes.extend(Refresh::start(&self.context, *place, self.recorder.notes()));
        }
        self.over(number, Outcome::Done);
        if !proved_once || self.segments[number].followers.is_empty() {
            return self.let_go_on(number);
        }
        self.segments[number].running += 1;
        let told = self.recorder.told();
        let handle = self.tasks.spawn(async move { told.await.map(|()| Answer::Told) });
        self.owners.insert(handle.id(), (number, Step::Finish));
    }

    /// Ends a segment that did not come through.
    pub(super) async fn end(&mut self, number: usize, outcome: Outcome, failure: Option<Failure>) {
        self.segments[number].ready.clear();
        let begun = std::mem::take(&mut self.segments[number].stages); // Gives connections back.
        self.tell_end(number, &begun, outcome, failure).await;
        self.over(number, outcome);
    }

    /// Those that wait for a segment that did not come through will never start.
    pub(super) fn over(&mut self, number: usize, outcome: Outcome) {
        self.segments[number].phase = Phase::Over(outcome);
        self.open.remove(&number);
        if outcome != Outcome::Done {
            for &follower in &self.segments[number].followers {
                self.doomed.entry(follower).or_insert(number);
            }
        }
    }

    /// Those that wait for a segment go on.
    pub(super) fn let_go_on(&mut self, number: usize) {
        for place in 0..self.segments[number].followers.len() {
            let follower = self.segments[number].followers[place];
            self.segments[follower].waits_for -= 1;
            if self.segments[follower].waits_for == 0 && self.segments[follower].phase == Phase::Waiting {
                self.open.insert(follower);
            }
        }
    }
}

/// Whether the proof of a stage cannot be made again once others have added rows to what it wrote: the journal must have its end before they do.
fn is_proved_once(stage: &StageRun, reports: &[OutputReport]) -> bool {
    let outputs = stage.plan.outputs.iter().zip(reports);
    outputs.into_iter().any(|(output, report)| !output.sink.staged() && !matches!(report.verdict, Verdict::NotChecked))
}
