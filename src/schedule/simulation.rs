//! The book on a simulated clock: days of many pipelines in seconds, with restarts and clocks that jump.

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::time::Duration;

use jiff::tz::TimeZone;
use proptest::prelude::*;

use super::book::{Book, Turn};
use super::tick;
use crate::define::pipeline::{CatchUp, Entry, Overlap, Schedule, When};
use crate::define::schedule::cron;
use crate::journal::{Decided, Pause, Tick, TickState};

const HOUR: i64 = 3_600_000;
/// 2026-03-29 in Berlin has a gap, and lies within the days of every test.
const BEGIN: i64 = 1_774_728_000_000;

/// What outlives a crash, and the clock.
struct World {
    schedules: BTreeMap<String, Schedule>,
    book: Book,
    ticks: BTreeMap<(String, String, i64), Tick>,
    decided: BTreeMap<(String, String), i64>,
    /// Runs that go, by when they end.
    going: BTreeMap<(i64, String), Tick>,
    now_ms: i64,
    /// The latest time that the clock has shown.
    latest_ms: i64,
}

impl World {
    fn new(schedules: BTreeMap<String, Schedule>, most: usize) -> Self {
        let book = Book::new(most);
        let (ticks, decided, going) = Default::default();
        let mut world = Self { schedules, book, ticks, decided, going, now_ms: BEGIN, latest_ms: BEGIN };
        world.open();
        world
    }

    fn open(&mut self) {
        let turn = self.book.replace(self.schedules.clone(), self.now_ms);
        self.write_down(turn);
    }

    /// The daemon is killed, and another one starts after a while: it knows what was written down, and nothing else.
    fn crash(&mut self, most: usize, away_ms: i64) {
        self.going.clear();
        self.set(self.now_ms + away_ms);
        self.book = Book::new(most);
        let decided = self.decided.iter().map(|((pipeline, entry), until_ms)| Decided {
            pipeline: pipeline.clone(),
            entry: entry.clone(),
            until_ms: *until_ms,
        });
        let mut open: Vec<Tick> = self.ticks.values().filter(|tick| tick.state == TickState::Open).cloned().collect();
        open.sort_by_key(|tick| tick.at_ms);
        self.book.restore(decided.collect(), open);
        self.open();
    }

    fn set(&mut self, now_ms: i64) {
        self.now_ms = now_ms;
        self.latest_ms = self.latest_ms.max(now_ms);
    }

    /// What the daemon does with a turn: writes it down, and takes back what was decided before.
    fn write_down(&mut self, turn: Turn) {
        for tick in turn.ticks {
            let key = (tick.pipeline.clone(), tick.entry.clone(), tick.at_ms);
            match self.ticks.entry(key) {
                btree_map::Entry::Occupied(known) => self.book.forget(&tick, known.get().state == TickState::Open),
                btree_map::Entry::Vacant(free) => {
                    free.insert(tick);
                }
            }
        }
        for tick in turn.settled {
            self.settle(tick);
        }
        for decided in turn.decided {
            self.decided.insert((decided.pipeline, decided.entry), decided.until_ms);
        }
        for run in turn.stop {
            let key = self.going.iter().find(|(_, tick)| tick.run == run).map(|(key, _)| key.clone()).expect("the run goes");
            let mut tick = self.going.remove(&key).expect("the run goes");
            tick.state = TickState::Cancelled;
            self.book.ended(&tick);
            self.settle(tick);
        }
    }

    fn settle(&mut self, tick: Tick) {
        let known = self.ticks.insert((tick.pipeline.clone(), tick.entry.clone(), tick.at_ms), tick).expect("a tick that was written down");
        assert_eq!(known.state, TickState::Open, "{known:?} is settled twice");
    }

    /// Goes on until a time; runs take as long as `takes` says.
    fn until(&mut self, end_ms: i64, takes: &dyn Fn(&Tick) -> i64) {
        loop {
            let turn = self.book.advance(self.now_ms);
            self.write_down(turn);
            for tick in self.book.start(self.now_ms) {
                let known = &self.ticks[&(tick.pipeline.clone(), tick.entry.clone(), tick.at_ms)];
                assert_eq!(known.state, TickState::Open, "{tick:?} starts and is over");
                let key = (self.now_ms + takes(&tick), tick.pipeline.clone());
                assert!(self.going.values().all(|going| going.pipeline != tick.pipeline), "{tick:?} overlaps");
                self.going.insert(key, tick);
            }
            let ends = self.going.first_key_value().map(|((at_ms, _), _)| *at_ms);
            let next = self.book.next_ms().into_iter().chain(ends).min().unwrap_or(end_ms).max(self.now_ms);
            if next >= end_ms {
                self.set(end_ms);
                return;
            }
            self.set(next);
            while let Some(over) = self.going.first_entry().filter(|over| over.key().0 <= next) {
                let mut tick = over.remove();
                self.book.ended(&tick);
                tick.state = TickState::Done;
                let turn = self.book.after(&tick.pipeline, next, tick.interval_start_ms);
                self.settle(tick);
                self.write_down(turn);
            }
        }
    }

    /// Every tick there was by now, counted by what became of it. Fails when one is not accounted for, or when a record is of no tick.
    fn account(&self, exactly: bool) -> BTreeMap<&'static str, u64> {
        let mut counts = BTreeMap::new();
        let mut recorded: BTreeMap<(&str, &str), Vec<&Tick>> = BTreeMap::new();
        for ((pipeline, entry, _), tick) in &self.ticks {
            recorded.entry((pipeline, entry)).or_default().push(tick);
        }
        for (name, schedule) in &self.schedules {
            for entry in schedule.entries.iter().filter(|entry| !matches!(entry.when, When::After(_))) {
                let limit_ms = self.latest_ms - tick::delay_ms(name, entry);
                let expected: BTreeSet<i64> = std::iter::successors(tick::next(&entry.when, BEGIN), |last| tick::next(&entry.when, *last))
                    .take_while(|tick| *tick < limit_ms)
                    .collect();
                let mut found: BTreeMap<i64, u32> = BTreeMap::new();
                for tick in recorded.get(&(name.as_str(), entry.key.as_str())).into_iter().flatten() {
                    let covers: Vec<i64> = match tick.count {
                        None => vec![tick.at_ms],
                        Some(count) => expected.range(..=tick.at_ms).rev().take(count as usize).copied().collect(),
                    };
                    *counts.entry(tick.state.as_str()).or_default() += covers.len() as u64;
                    covers.into_iter().for_each(|at_ms| *found.entry(at_ms).or_default() += 1);
                }
                for at_ms in &expected {
                    let times = found.get(at_ms).copied().unwrap_or(0);
                    assert!(times >= 1 && (times == 1 || !exactly), "{name} {} {at_ms} is accounted for {times} times", entry.key);
                }
                // A clock that is set back to before the beginning has ticks there too.
                let more: Vec<_> =
                    found.keys().filter(|at_ms| (BEGIN + 1..limit_ms).contains(at_ms) && !expected.contains(at_ms)).collect();
                assert!(more.is_empty(), "{name} {} has ticks that never were: {more:?}", entry.key);
            }
        }
        counts
    }
}

fn entry(key: &str, when: When, jitter_ms: u64, most: usize) -> Entry {
    let catch_up = CatchUp { most, window: Duration::from_secs(6 * 3600) };
    Entry { key: key.to_owned(), when, jitter: Duration::from_millis(jitter_ms), catch_up, params: BTreeMap::new(), at: String::new() }
}

fn pattern(text: &str, zone: &str) -> When {
    When::Cron(Box::new(cron(text, TimeZone::get(zone).expect("a zone")).expect("a pattern")))
}

fn schedule(entries: Vec<Entry>, overlap: Overlap) -> Schedule {
    Schedule { entries, overlap, pause_on_failure: None }
}

#[test]
fn a_day_of_five_hundred_pipelines_misses_nothing_and_doubles_nothing() {
    let zones = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe"];
    let schedules = (0..500).map(|number: usize| {
        let when = match number % 5 {
            0 => pattern("*/10 * * * *", zones[number % 7 % 5]),
            1 => pattern("30 2 * * *", zones[number % 7 % 5]),
            2 => When::Every(Duration::from_secs(60 + number as u64)),
            3 => pattern("15,45 8-18 * * *", zones[number % 7 % 5]),
            _ => When::After(format!("p{:03}", number - 1)),
        };
        (format!("p{number:03}"), schedule(vec![entry("e", when, 20_000, 0)], Overlap::Queue))
    });
    let mut world = World::new(schedules.collect(), 50);
    for hour in 1..=24 {
        world.until(BEGIN + hour * HOUR, &|tick| 500 + tick.at_ms / 1000 % 40 * 1000);
        if hour % 5 == 0 {
            world.crash(50, 10_000);
        }
    }
    let counts = world.account(true);
    let open = world.ticks.values().filter(|tick| tick.state == TickState::Open).count();
    assert!(counts.keys().all(|state| ["done", "open"].contains(state)), "{counts:?}");
    assert!(counts["done"] > 40_000 && open < 100, "{counts:?}, {open} open");
    let of = |name: &str, state: Option<TickState>| {
        world.ticks.values().filter(|tick| tick.pipeline == name && state.is_none_or(|state| state == tick.state)).count()
    };
    for number in (4..500).step_by(5) {
        let before = of(&format!("p{:03}", number - 1), Some(TickState::Done));
        assert!(before > 0);
        assert_eq!(of(&format!("p{number:03}"), None), before, "p{number:03} runs once after each run of the pipeline before it");
    }
}

#[test]
fn cancel_running_stops_the_old_run_for_the_new_one() {
    let schedules =
        BTreeMap::from([("p".to_owned(), schedule(vec![entry("e", When::Every(Duration::from_secs(60)), 0, 0)], Overlap::CancelRunning))]);
    let mut world = World::new(schedules, 5);
    world.until(BEGIN + HOUR, &|_| 90_000);
    let counts = world.account(true);
    assert_eq!((counts.get("done"), counts["cancelled"]), (None, 58), "{counts:?}");
}

#[test]
fn a_pause_leaves_out_the_ticks_that_wait() {
    let schedules =
        BTreeMap::from([("p".to_owned(), schedule(vec![entry("e", When::Every(Duration::from_secs(60)), 0, 0)], Overlap::Queue))]);
    let mut world = World::new(schedules, 5);
    world.until(BEGIN + 4 * 60_000 + 1, &|_| HOUR);
    let pause = |paused, at_ms| Pause { pipeline: "p".to_owned(), paused, at_ms, reason: "a test".to_owned() };
    let turn = world.book.pauses(&[pause(true, world.now_ms)]);
    assert!(turn.settled.iter().all(|tick| tick.state == TickState::Skipped && tick.reason == "paused: a test"), "{turn:?}");
    world.write_down(turn);
    assert_eq!(world.book.counts(), (1, 0, 1));
    // Another process had the pipeline: its tick waits again, but not beyond a pause.
    let going = world.going.pop_first().expect("a run").1;
    world.book.put_back(going, world.now_ms);
    let turn = world.book.pauses(&[pause(true, world.now_ms)]);
    world.write_down(turn);
    world.until(BEGIN + 10 * 60_000 + 1, &|_| HOUR);
    assert_eq!(world.account(true), BTreeMap::from([("skipped", 10)]));
    let turn = world.book.pauses(&[pause(false, world.now_ms)]);
    world.write_down(turn);
    world.until(BEGIN + 12 * 60_000 + 1, &|_| 1000);
    assert_eq!(world.account(true), BTreeMap::from([("done", 1), ("open", 1), ("skipped", 10)]));
}

/// What happens to a daemon.
#[derive(Clone, Debug)]
enum Event {
    Goes(i64),
    Crashes(i64),
    Jumps(i64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => (1_000..4 * HOUR).prop_map(Event::Goes),
        2 => (0..10 * HOUR).prop_map(Event::Crashes),
        1 => (-2 * HOUR..3 * HOUR).prop_map(Event::Jumps),
    ];
    prop::collection::vec(event, 1..10)
}

fn schedules() -> impl Strategy<Value = BTreeMap<String, Schedule>> {
    let when = prop_oneof![
        (30_u64..7200).prop_map(|seconds| When::Every(Duration::from_secs(seconds))),
        prop::sample::select(vec!["* * * * *", "30 2 * * *", "0,30 1-3 * * *", "*/7 */2 * * *", "10 0 0 * * *"])
            .prop_map(|text| pattern(text, "Europe/Berlin")),
    ];
    let overlap = prop::sample::select(vec![Overlap::Skip, Overlap::Queue, Overlap::CancelRunning]);
    let most = prop::sample::select(vec![0, 1, 5, 100]);
    let one = (when, overlap, most, 0_u64..5_000)
        .prop_map(|(when, overlap, most, jitter_ms)| schedule(vec![entry("e", when, jitter_ms, most)], overlap));
    prop::collection::vec(one, 1..6)
        .prop_map(|schedules| schedules.into_iter().enumerate().map(|(number, schedule)| (format!("p{number}"), schedule)).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_tick_is_accounted_for_whatever_happens(schedules in schedules(), events in events(), takes in 100_i64..200_000) {
        let mut world = World::new(schedules, 3);
        let mut set_back = false;
        for event in &events {
            match event {
                Event::Goes(ms) => world.until(world.now_ms + ms, &|tick| takes + tick.at_ms % 1000),
                Event::Crashes(away_ms) => world.crash(3, *away_ms),
                Event::Jumps(ms) => {
                    set_back |= *ms < 0;
                    world.set(world.now_ms + ms);
                }
            }
        }
        // A last look, after whatever came last, once the clock is where it had been.
        let end_ms = world.latest_ms.max(world.now_ms) + 1;
        world.until(end_ms, &|_| takes);
        world.until(end_ms + 60_000, &|_| takes);
        world.account(!set_back);
    }
}
