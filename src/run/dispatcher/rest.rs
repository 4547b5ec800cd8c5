//! Steps that wait for their next attempt. They hold no slot.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Dispatcher, Step};
use crate::clock;

impl Dispatcher {
    /// Steps that wait for their next attempt are given up when the run stops.
    pub(super) fn rest_no_more(&mut self) {
        for (_, number, _) in self.resting.drain(..) {
            self.segments[number].resting -= 1;
        }
    }

    /// Puts steps whose wait is over back in line.
    pub(super) fn wake(&mut self) {
        let now = clock::instant();
        let (due, rest) = std::mem::take(&mut self.resting).into_iter().partition::<Vec<_>, _>(|(until, ..)| *until <= now);
        self.resting = rest;
        for (_, number, step) in due {
            self.segments[number].resting -= 1;
            self.segments[number].ready.push_back(step);
        }
    }

    /// Opens a new view for what is left, as soon as nothing reads through the old one. What was committed in between is known from the marks.
    pub(super) fn begin_again(&mut self, number: usize) {
        let draining = self.draining();
        let segment = &mut self.segments[number];
        if segment.running > 0 || segment.failure.is_some() || draining {
            return;
        }
        if let Some(wait) = segment.begin_again.take() {
            segment.stages.clear();
            self.rest(number, Step::Begin, wait);
        }
    }

    /// Drops the steps of a segment that no task works on.
    pub(super) fn forget_waiting(&mut self, number: usize) {
        self.resting.retain(|(_, other, _)| *other != number);
        self.segments[number].resting = 0;
        self.segments[number].ready.clear();
    }

    /// Puts a step to rest until its next attempt.
    pub(super) fn rest(&mut self, number: usize, step: Step, wait: Duration) {
        self.resting.push((clock::instant() + wait, number, step));
        self.segments[number].resting += 1;
        for &stage in &self.context.plan.segments[number].stages {
            self.counters[stage].retries.fetch_add(1, Ordering::Relaxed);
        }
    }
}
