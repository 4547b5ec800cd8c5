//! The book of all schedules: what has been decided, what waits and what goes. Pure: whoever holds it writes its decisions down and starts runs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::due::GRACE_MS;
use super::{due, tick};
use crate::define::pipeline::{Entry, Overlap, Schedule, When};
use crate::journal::{Decided, Pause, Tick, TickState};

/// The most ticks of a pipeline that wait for their turn.
const MOST_WAITING: usize = 100;

/// What was decided at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// New ticks, each with what becomes of it. Open ones wait for [`Book::start`]; one that turns out to have been decided before is taken back
    /// with [`Book::forget`].
    pub ticks: Vec<Tick>,
    /// Ticks that waited and no longer do.
    pub settled: Vec<Tick>,
    /// Up to where schedules are decided.
    pub decided: Vec<Decided>,
    /// Runs that are to be stopped for newer ones.
    pub stop: Vec<String>,
}

impl Turn {
    /// Puts what was decided later behind this.
    pub fn add(&mut self, later: Turn) {
        self.ticks.extend(later.ticks);
        self.settled.extend(later.settled);
        self.decided.extend(later.decided);
        self.stop.extend(later.stop);
    }
}

/// All schedules and the state of their pipelines.
#[derive(Debug)]
pub struct Book {
    /// The most runs that go at the same time.
    most: usize,
    pages: BTreeMap<String, Page>,
    /// Up to where each schedule is decided, by pipeline and key.
    decided: BTreeMap<(String, String), i64>,
    /// When to look at a pipeline next.
    wakes: BTreeSet<(i64, String)>,
    /// Pipelines whose first waiting tick may start, by when that may be and the tick's time.
    ready: BTreeSet<(i64, i64, String)>,
    going: usize,
    last_ms: i64,
    /// The latest time before the clock was set back.
    peak_ms: i64,
}

/// One pipeline.
#[derive(Debug, Default)]
struct Page {
    schedule: Schedule,
    paused: Option<String>,
    /// The ticks whose runs go: one, unless they may overlap.
    going: Vec<Tick>,
    waiting: VecDeque<Tick>,
    /// The first waiting tick is not started before.
    not_before_ms: i64,
    wake: Option<i64>,
    ready: Option<(i64, i64)>,
}

impl Book {
    /// An empty book, for at most so many runs at the same time.
    pub fn new(most: usize) -> Self {
        let (decided, wakes, ready) = Default::default();
        Self { most, pages: BTreeMap::new(), decided, wakes, ready, going: 0, last_ms: i64::MIN, peak_ms: i64::MIN }
    }

    /// Takes over what an earlier holder of the book had written down. Ticks that were open wait again.
    pub fn restore(&mut self, decided: Vec<Decided>, open: Vec<Tick>) {
        self.decided.extend(decided.into_iter().map(|decided| ((decided.pipeline, decided.entry), decided.until_ms)));
        for tick in open {
            let name = tick.pipeline.clone();
            self.pages.entry(name.clone()).or_default().waiting.push_back(tick);
            self.index(&name);
        }
    }

    /// Puts the schedules of a project in. One that is new begins now: nothing before is made up for. Answers with what is to be written down.
    pub fn replace(&mut self, schedules: BTreeMap<String, Schedule>, now_ms: i64) -> Turn {
        let mut turn = Turn::default();
        self.last_ms = self.last_ms.max(now_ms);
        for page in self.pages.values_mut() {
            page.schedule.entries.clear();
        }
        for (name, schedule) in schedules {
            for entry in &schedule.entries {
                self.decided.entry((name.clone(), entry.key.clone())).or_insert_with(|| {
                    turn.decided.push(Decided { pipeline: name.clone(), entry: entry.key.clone(), until_ms: now_ms });
                    now_ms
                });
            }
            self.pages.entry(name).or_default().schedule = schedule;
        }
        self.pages.retain(|_, page| !page.schedule.entries.is_empty() || !page.going.is_empty() || !page.waiting.is_empty());
        self.index_all();
        turn
    }

    /// Says which pipelines are paused. Their ticks that wait are left out.
    #[must_use]
    pub fn pauses(&mut self, pauses: &[Pause]) -> Turn {
        let (mut turn, mut waited) = (Turn::default(), Vec::new());
        let paused: BTreeMap<&str, &Pause> =
            pauses.iter().filter(|pause| pause.paused).map(|pause| (pause.pipeline.as_str(), pause)).collect();
        for (name, page) in &mut self.pages {
            page.paused = paused.get(name.as_str()).map(|pause| pause.reason.clone());
            if page.waiting.is_empty() {
                continue;
            }
            waited.push(name.clone());
            if let Some(reason) = &page.paused {
                let left_out = |tick: Tick| Tick { state: TickState::Skipped, reason: format!("paused: {reason}"), ..tick };
                turn.settled.extend(page.waiting.drain(..).map(left_out));
            }
        }
        waited.iter().for_each(|name| self.index_ready(name));
        turn
    }

    /// Decides what is due.
    pub fn advance(&mut self, now_ms: i64) -> Turn {
        // A clock that is corrected by a little comes again to what is decided already, and nothing is lost by waiting for it.
        if now_ms < self.last_ms.saturating_sub(GRACE_MS) {
            self.set_back(now_ms);
        }
        self.last_ms = now_ms;
        let mut turn = Turn::default();
        while let Some((_, name)) = self.wakes.first().filter(|(wake, _)| *wake <= now_ms).cloned() {
            let Some(page) = self.pages.get_mut(&name) else {
                self.wakes.pop_first();
                continue;
            };
            let entries = page.schedule.entries.clone();
            for entry in &entries {
                look(page, &name, entry, &mut self.decided, (now_ms, self.peak_ms), &mut turn);
            }
            self.index(&name);
        }
        turn
    }

    /// Decides what runs after a run of `pipeline` that ended well at a time. `interval_start_ms` is where its own data interval began.
    pub fn after(&mut self, pipeline: &str, ended_ms: i64, interval_start_ms: i64) -> Turn {
        let mut turn = Turn::default();
        let mut followers = Vec::new();
        for (name, page) in &mut self.pages {
            let waits = |entry: &&Entry| matches!(&entry.when, When::After(before) if before == pipeline);
            let Some(entry) = page.schedule.entries.iter().find(waits).cloned() else { continue };
            let decided = self.decided.entry((name.clone(), entry.key.clone())).or_insert(ended_ms);
            if ended_ms > *decided {
                *decided = ended_ms;
                admit(page, Tick::new(name, &entry.key, ended_ms, interval_start_ms), false, &mut turn);
                turn.decided.push(Decided { pipeline: name.clone(), entry: entry.key.clone(), until_ms: ended_ms });
                followers.push(name.clone());
            }
        }
        followers.iter().for_each(|name| self.index_ready(name));
        turn
    }

    /// The oldest end of a run that some pipeline may still have to run after; `None` when none runs after another.
    pub fn after_since(&self) -> Option<i64> {
        let of = |(name, page): (&String, &Page)| {
            let entries = page.schedule.entries.iter().filter(|entry| matches!(entry.when, When::After(_)));
            entries.filter_map(|entry| self.decided.get(&(name.clone(), entry.key.clone())).copied()).min()
        };
        self.pages.iter().filter_map(of).min()
    }

    /// Takes a tick back that was decided before. One that is written down as open and is nowhere else here is what it was decided to be: nobody
    /// heard that it was written down.
    pub fn forget(&mut self, tick: &Tick, open: bool) {
        let same = |other: &Tick| (&other.entry, other.at_ms) == (&tick.entry, tick.at_ms);
        if let Some(page) = self.pages.get_mut(&tick.pipeline)
            && let Some(last) = page.waiting.iter().rposition(same)
            && (!open || page.going.iter().any(same) || page.waiting.iter().take(last).any(same))
        {
            page.waiting.remove(last);
        }
        self.index_ready(&tick.pipeline);
    }

    /// The ticks whose runs start now, longest due first, as many as may go.
    pub fn start(&mut self, now_ms: i64) -> Vec<Tick> {
        let mut started = Vec::new();
        while self.going < self.most {
            let Some((_, _, name)) = self.ready.first().filter(|(not_before, ..)| *not_before <= now_ms).cloned() else { break };
            if let Some(page) = self.pages.get_mut(&name)
                && let Some(tick) = page.waiting.pop_front()
            {
                page.going.push(tick.clone());
                page.not_before_ms = 0;
                self.going += 1;
                started.push(tick);
            }
            self.index_ready(&name);
        }
        started
    }

    /// The run of a tick is over.
    pub fn ended(&mut self, tick: &Tick) {
        if let Some(page) = self.pages.get_mut(&tick.pipeline)
            // Its run may have another id by now.
            && let Some(place) = page.going.iter().position(|going| (&going.entry, going.at_ms) == (&tick.entry, tick.at_ms))
        {
            page.going.remove(place);
            self.going -= 1;
        }
        self.index_ready(&tick.pipeline);
    }

    /// The run of a tick could not start yet: it waits again, before the pipeline's others.
    pub fn put_back(&mut self, tick: Tick, not_before_ms: i64) {
        self.ended(&tick);
        let name = tick.pipeline.clone();
        let page = self.pages.entry(name.clone()).or_default();
        page.waiting.push_front(tick);
        page.not_before_ms = not_before_ms;
        self.index_ready(&name);
    }

    /// The overlap of a pipeline and one of its schedules; `None` when that is gone.
    pub fn entry(&self, tick: &Tick) -> Option<(Overlap, &Entry)> {
        let schedule = &self.pages.get(&tick.pipeline)?.schedule;
        Some((schedule.overlap, schedule.entries.iter().find(|entry| entry.key == tick.entry)?))
    }

    /// The failed runs in a row after which a pipeline pauses.
    pub fn pause_on_failure(&self, pipeline: &str) -> Option<u32> {
        self.pages.get(pipeline)?.schedule.pause_on_failure
    }

    /// When something is to be done next.
    pub fn next_ms(&self) -> Option<i64> {
        let wake = self.wakes.first().map(|(wake, _)| *wake);
        let ready = self.ready.first().filter(|_| self.going < self.most).map(|(not_before, ..)| *not_before);
        wake.into_iter().chain(ready).min()
    }

    /// Runs that go, ticks that wait, and pipelines that are paused.
    pub fn counts(&self) -> (usize, usize, usize) {
        let waiting = self.pages.values().map(|page| page.waiting.len()).sum();
        (self.going, waiting, self.pages.values().filter(|page| page.paused.is_some()).count())
    }

    /// The clock was set back. Ticks that come again are decided already, and whoever writes them down finds that out; those that were never
    /// started because the clock had been ahead get their turn.
    fn set_back(&mut self, now_ms: i64) {
        self.peak_ms = self.peak_ms.max(self.last_ms);
        for (name, page) in &self.pages {
            for entry in page.schedule.entries.iter().filter(|entry| !matches!(entry.when, When::After(_))) {
                let limit = now_ms - tick::delay_ms(name, entry);
                self.decided.entry((name.clone(), entry.key.clone())).and_modify(|decided| *decided = limit.min(*decided));
            }
        }
        self.index_all();
    }

    fn index_all(&mut self) {
        self.wakes.clear();
        self.ready.clear();
        for page in self.pages.values_mut() {
            (page.wake, page.ready) = (None, None);
        }
        for name in self.pages.keys().cloned().collect::<Vec<_>>() {
            self.index(&name);
        }
    }

    /// Brings what is known of a pipeline's next moments up to date.
    fn index(&mut self, name: &str) {
        self.index_ready(name);
        let Some(page) = self.pages.get_mut(name) else { return };
        if let Some(wake) = page.wake.take() {
            self.wakes.remove(&(wake, name.to_owned()));
        }
        let next = |entry: &Entry| {
            let decided = self.decided.get(&(name.to_owned(), entry.key.clone()))?;
            Some(tick::next(&entry.when, *decided)? + tick::delay_ms(name, entry))
        };
        page.wake = page.schedule.entries.iter().filter_map(next).min();
        self.wakes.extend(page.wake.map(|wake| (wake, name.to_owned())));
    }

    /// The same of its waiting ticks alone, which is all that starts and ends of runs change.
    fn index_ready(&mut self, name: &str) {
        let Some(page) = self.pages.get_mut(name) else { return };
        if let Some((not_before, at_ms)) = page.ready.take() {
            self.ready.remove(&(not_before, at_ms, name.to_owned()));
        }
        let may_start = page.paused.is_none() && (page.going.is_empty() || page.schedule.overlap == Overlap::Allow);
        let first = page.waiting.front().filter(|_| may_start);
        page.ready = first.map(|tick| (page.not_before_ms, tick.at_ms));
        self.ready.extend(page.ready.map(|(not_before, at_ms)| (not_before, at_ms, name.to_owned())));
    }
}

/// Decides what is due of one schedule. What is not later than the peak may have been decided before: it disturbs nothing until that is known.
fn look(
    page: &mut Page,
    name: &str,
    entry: &Entry,
    decided: &mut BTreeMap<(String, String), i64>,
    (now_ms, peak_ms): (i64, i64),
    turn: &mut Turn,
) {
    let Some(until_ms) = decided.get_mut(&(name.to_owned(), entry.key.clone())) else { return };
    let limit_ms = now_ms - tick::delay_ms(name, entry);
    let found = due(&entry.when, entry.catch_up, *until_ms, limit_ms);
    let new = |at_ms| Tick::new(name, &entry.key, at_ms, tick::previous(&entry.when, at_ms).unwrap_or(at_ms));
    if let Some(missed) = found.missed {
        *until_ms = missed.last_ms;
        let reason = "nobody was there to start it".to_owned();
        turn.ticks.push(Tick { state: TickState::Missed, reason, count: Some(missed.count), ..new(missed.last_ms) });
    }
    let several = entry.catch_up.most > 1 && found.start.len() > 1;
    for at_ms in found.start {
        *until_ms = (*until_ms).max(at_ms);
        admit(page, new(at_ms), several || at_ms <= peak_ms, turn);
    }
    turn.decided.push(Decided { pipeline: name.to_owned(), entry: entry.key.clone(), until_ms: *until_ms });
}

/// Decides what becomes of a tick that is due. One of several that are made up for waits its turn whatever the overlap.
fn admit(page: &mut Page, tick: Tick, several: bool, turn: &mut Turn) {
    let busy = !page.going.is_empty() || !page.waiting.is_empty();
    let skipped = match page.schedule.overlap {
        _ if page.paused.is_some() => Some(format!("paused: {}", page.paused.as_deref().unwrap_or_default())),
        _ if page.waiting.len() >= MOST_WAITING => Some(format!("{MOST_WAITING} ticks were waiting already")),
        Overlap::Skip if busy && !several => Some("the run before it was not over".to_owned()),
        Overlap::CancelRunning if !several => {
            let superseded = |mut tick: Tick| {
                (tick.state, tick.reason) = (TickState::Skipped, "a newer tick took its place".to_owned());
                tick
            };
            turn.settled.extend(page.waiting.drain(..).map(superseded));
            turn.stop.extend(page.going.iter().map(|going| going.run.clone()));
            None
        }
        Overlap::Skip | Overlap::Queue | Overlap::CancelRunning | Overlap::Allow => None,
    };
    match skipped {
        Some(reason) => turn.ticks.push(Tick { state: TickState::Skipped, reason, ..tick }),
        None => {
            page.waiting.push_back(tick.clone());
            turn.ticks.push(tick);
        }
    }
}
