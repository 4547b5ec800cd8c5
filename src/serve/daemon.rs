//! The leading daemon: one loop that owns the book of schedules, the definitions, and the runs that go.

mod ends;
mod feeds;
mod files;
mod streams;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};

use self::feeds::Served;
use self::files::{Look, look};
use self::streams::Streams;
use super::definitions::Definitions;
use super::notify::Notifier;
use super::status::Status;
use super::worker::{self, Came, Work};
use super::{Level, PERIOD, Settings, Voice, logs};
use crate::clock::{self, Stopwatch};
use crate::define::pipeline::{Overlap, Schedule};
use crate::failure::{Failure, FailureKind};
use crate::journal::{Journal, Outcome, Pause, Tick, TickState};
use crate::run::Control;
use crate::run::launch::Found;
use crate::schedule::book::{Book, Turn};

/// How often files are looked at.
const WATCH: Duration = Duration::from_secs(1);
/// How often old runs are forgotten.
const PRUNE: Duration = Duration::from_secs(3600);
/// When a tick whose pipeline is held elsewhere is tried again, in milliseconds.
const HELD_MS: i64 = 500;

/// A pipeline that can run.
struct Good {
    found: Found,
    schedule: Schedule,
    /// Whether it is kept going.
    kept: bool,
}

type Answer = (Tick, Result<Came, Failure>);

struct Daemon {
    settings: Settings,
    journal: Journal,
    control: Control,
    voice: Voice,
    status: Arc<Status>,
    book: Book,
    /// What the book has decided and the journal has not taken yet.
    unwritten: Turn,
    definitions: Definitions,
    /// The last version of each pipeline that could run.
    good: BTreeMap<String, Good>,
    /// What the files looked like when they were read last, and when they were looked at last.
    read: Look,
    seen: Look,
    tasks: JoinSet<Answer>,
    going: HashMap<Id, (Tick, Control)>,
    streams: Streams,
    feeds: Option<Served>,
    /// Why feeds are not served.
    feeds_failed: Option<String>,
    /// Runs whose end has been seen, with its time.
    ended: HashMap<String, i64>,
    ended_since_ms: i64,
    /// Of runs that ended later, people have not been told yet when the daemon started.
    told_until_ms: i64,
    notifier: Notifier,
    watched: Stopwatch,
    pruned: Option<Stopwatch>,
}

/// Leads until `control` says so and everything has come to rest.
pub(super) async fn lead(settings: Settings, journal: Journal, control: Control, voice: Voice, status: Arc<Status>) -> Result<(), Failure> {
    let read = look(&settings);
    let definitions = Definitions::load(&settings.base, None)?;
    let mut book = Book::new(settings.runs);
    book.restore(journal.decided().await?, journal.open_ticks().await?);
    let mut daemon = Daemon {
        book,
        unwritten: Turn::default(),
        definitions,
        good: BTreeMap::new(),
        seen: read.clone(),
        read,
        tasks: JoinSet::new(),
        going: HashMap::new(),
        streams: Streams::default(),
        feeds: None,
        feeds_failed: None,
        ended: HashMap::new(),
        ended_since_ms: clock::now_ms(),
        told_until_ms: clock::now_ms(),
        notifier: Notifier::start(&voice, &journal),
        watched: Stopwatch::start(),
        pruned: None,
        settings,
        journal,
        control,
        voice,
        status,
    };
    daemon.take_definitions(&HashSet::new()).await?;
    daemon.take_up_notices().await?;
    daemon.look_back().await?;
    daemon.status.leads();
    let result = daemon.work().await;
    // Nothing must go on behind the back of a daemon that is over.
    daemon.tasks.shutdown().await;
    daemon.close_feeds().await;
    result
}

impl Daemon {
    async fn work(&mut self) -> Result<(), Failure> {
        let (drain, abort) = (self.control.drain.clone(), self.control.abort.clone());
        let mut draining = false;
        loop {
            if draining && self.tasks.is_empty() {
                tokio::select! {
                    () = self.streams.rest() => self.voice.say(Level::Info, "everything has come to rest"),
                    () = abort.cancelled() => {}
                }
                return Ok(());
            }
            if !draining {
                self.tolerate(Self::turn).await?;
            }
            let until_next = self.book.next_ms().map_or(i64::MAX, |next| next - clock::now_ms()).max(0);
            let wait = PERIOD.min(Duration::from_millis(until_next.unsigned_abs()));
            tokio::select! {
                Some(joined) = self.tasks.join_next_with_id(), if !self.tasks.is_empty() => self.take(joined).await?,
                () = tokio::time::sleep(wait), if !draining => {}
                () = drain.cancelled(), if !draining => {
                    draining = true;
                    self.status.drains();
                    let going = self.tasks.len() + self.streams.len();
                    self.voice.say(Level::Info, format!("stopping: no new runs; {going} going to commit what they have begun"));
                    self.going.values().for_each(|(_, control)| control.drain.cancel());
                }
                () = abort.cancelled() => return Ok(()),
            }
        }
    }

    /// Does something that a journal may be in the way of for a while.
    async fn tolerate(&mut self, work: impl AsyncFn(&mut Self) -> Result<(), Failure>) -> Result<(), Failure> {
        match work(self).await {
            Err(failure) if failure.kind == FailureKind::Transient => {
                self.voice.say(Level::Warn, format!("{failure}; trying again"));
                tokio::time::sleep(PERIOD).await;
                Ok(())
            }
            result => result,
        }
    }

    /// Looks around, decides what is due, and starts what may start.
    async fn turn(&mut self) -> Result<(), Failure> {
        self.write_down(Turn::default()).await?;
        if self.watched.elapsed() >= WATCH {
            self.watched = Stopwatch::start();
            self.watch().await?;
            let pauses = self.take_pauses().await?;
            if self.feeds_failed.is_some() {
                self.keep_feeds().await;
            }
            self.keep_streams(&pauses);
            self.look_for_ends().await?;
            self.tell_of_recoveries().await?;
        }
        if self.pruned.is_none_or(|pruned| pruned.elapsed() >= PRUNE) {
            self.pruned = Some(Stopwatch::start());
            self.prune().await?;
        }
        let turn = self.book.advance(clock::now_ms());
        self.write_down(turn).await?;
        let started = self.book.start(clock::now_ms());
        let settled = started.into_iter().filter_map(|tick| self.launch(tick)).collect();
        self.write_down(Turn { settled, ..Turn::default() }).await?;
        self.status.counts(self.book.counts());
        Ok(())
    }

    /// Takes in which pipelines are paused.
    async fn take_pauses(&mut self) -> Result<Vec<Pause>, Failure> {
        let pauses = self.journal.pauses().await?;
        let turn = self.book.pauses(&pauses);
        self.write_down(turn).await?;
        Ok(pauses)
    }

    /// Writes decisions down, and takes back those that were made before. What a failure keeps from being written is written before anything else
    /// is decided: the book will not decide it again.
    async fn write_down(&mut self, turn: Turn) -> Result<(), Failure> {
        self.unwritten.add(turn);
        self.write_ticks().await?;
        while let Some(tick) = self.unwritten.settled.first().cloned() {
            self.settle(&tick).await?;
            self.unwritten.settled.remove(0);
        }
        while let Some(run) = self.unwritten.stop.first().cloned() {
            for (_, control) in self.going.values().filter(|(tick, _)| tick.run == run) {
                control.drain.cancel();
            }
            self.journal.ask_to_stop(&run).await?;
            self.unwritten.stop.remove(0);
        }
        Ok(())
    }

    async fn write_ticks(&mut self) -> Result<(), Failure> {
        let Turn { ticks, decided, .. } = &self.unwritten;
        if ticks.is_empty() && decided.is_empty() {
            return Ok(());
        }
        let new = self.journal.decide(ticks, decided).await?;
        let open = if new.contains(&false) { self.journal.open_ticks().await? } else { Vec::new() };
        let ticks = std::mem::take(&mut self.unwritten.ticks);
        self.unwritten.decided.clear();
        for (tick, new) in ticks.iter().zip(new) {
            if !new {
                self.book.forget(
                    tick,
                    open.iter().any(|open| (&open.pipeline, &open.entry, open.at_ms) == (&tick.pipeline, &tick.entry, tick.at_ms)),
                );
                continue;
            }
            self.status.ticks(tick.state, tick.count.unwrap_or(1));
            if tick.state != TickState::Open {
                let several =
                    tick.count.filter(|count| *count > 1).map_or_else(String::new, |count| format!(" and {} before it", count - 1));
                let message = format!("{} {}{several}: {}", tick.state.as_str(), clock::rfc3339(tick.at_ms), tick.reason);
                self.voice.of(Level::Warn, &tick.pipeline, None, message);
            }
        }
        Ok(())
    }

    async fn settle(&self, tick: &Tick) -> Result<(), Failure> {
        self.journal.settle(tick).await?;
        if !tick.reason.is_empty() {
            self.voice.of(
                Level::Warn,
                &tick.pipeline,
                None,
                format!("{} {}: {}", tick.state.as_str(), clock::rfc3339(tick.at_ms), tick.reason),
            );
        }
        self.status.ticks(tick.state, 1);
        Ok(())
    }

    /// Sets the run of a tick going. Gives the tick back when it is over instead.
    fn launch(&mut self, mut tick: Tick) -> Option<Tick> {
        let known = self.good.get(&tick.pipeline).zip(self.book.entry(&tick));
        let Some((Good { found, .. }, (overlap, entry))) = known else {
            self.book.ended(&tick);
            (tick.state, tick.reason) = (TickState::Skipped, "its schedule is gone".to_owned());
            return Some(tick);
        };
        let control = Control { drain: self.control.drain.child_token(), abort: self.control.abort.child_token() };
        let lag = clock::now_ms() - tick.at_ms - crate::schedule::tick::delay_ms(&tick.pipeline, entry);
        self.status.lag(u64::try_from(lag).unwrap_or(0));
        let work = self.worker(found.clone(), overlap, entry.params.clone(), control.clone());
        let mut own = tick.clone();
        let handle = self.tasks.spawn(async move {
            let came = worker::carry_out(&work, &mut own).await;
            (own, came)
        });
        self.going.insert(handle.id(), (tick, control));
        None
    }

    fn worker(&self, found: Found, overlap: Overlap, params: BTreeMap<String, String>, control: Control) -> Work {
        let (journal, voice, status) = (self.journal.clone(), self.voice.clone(), Arc::clone(&self.status));
        Work { found, overlap, params, journal, control, voice, status, logs: self.logs() }
    }

    fn logs(&self) -> PathBuf {
        self.settings.base.join(".haul").join("logs")
    }

    /// A task is over.
    async fn take(&mut self, joined: Result<(Id, Answer), JoinError>) -> Result<(), Failure> {
        let (id, answer) = match joined {
            Ok((id, answer)) => (id, Some(answer)),
            Err(error) => (error.id(), None),
        };
        let Some((tick, control)) = self.going.remove(&id) else { return Ok(()) };
        let (mut tick, came) = match answer {
            Some(answer) => answer,
            None => (tick, Err(Failure::permanent("the run broke down: this is a bug of haul"))),
        };
        match came {
            Ok(Came::Held(holder)) => return self.held(tick, &holder).await,
            Ok(Came::Over(outcome)) => {
                tick.state = match outcome {
                    Outcome::Done | Outcome::Skipped => TickState::Done,
                    Outcome::Failed => TickState::Failed,
                    // A run that the whole daemon's stop has cut goes on with the next one.
                    Outcome::Interrupted if self.control.drain.is_cancelled() => TickState::Open,
                    Outcome::Interrupted => TickState::Cancelled,
                };
                let level = if tick.state == TickState::Failed { Level::Error } else { Level::Info };
                self.voice.of(level, &tick.pipeline, Some(&tick.run), format!("run {} is {}", tick.run, outcome.as_str()));
            }
            Err(failure) => {
                self.voice.of(Level::Error, &tick.pipeline, Some(&tick.run), format!("run {} broke off: {failure}", tick.run));
                (tick.state, tick.reason) = (TickState::Failed, failure.to_string());
            }
        }
        drop(control);
        self.book.ended(&tick);
        if tick.state != TickState::Open {
            self.status.ticks(tick.state, 1);
            self.journal.settle(&tick).await?;
        }
        self.look_for_ends().await
    }

    /// Another process works on the tick's pipeline.
    async fn held(&mut self, mut tick: Tick, holder: &str) -> Result<(), Failure> {
        let overlap = self.book.entry(&tick).map(|(overlap, _)| overlap).unwrap_or_default();
        if overlap == Overlap::Skip {
            self.book.ended(&tick);
            (tick.state, tick.reason) = (TickState::Skipped, format!("the pipeline is being run by {holder}"));
            return self.settle(&tick).await;
        }
        if overlap == Overlap::CancelRunning
            && let Some(going) = self.journal.runs(Some(&tick.pipeline), 1).await?.pop().filter(|run| run.outcome.is_none())
        {
            self.journal.ask_to_stop(&going.run).await?;
        }
        self.book.put_back(tick, clock::now_ms() + HELD_MS);
        Ok(())
    }

    async fn prune(&mut self) -> Result<(), Failure> {
        let keep_ms = i64::try_from(self.settings.keep_for.as_millis()).unwrap_or(i64::MAX);
        let gone = self.journal.prune(clock::now_ms().saturating_sub(keep_ms), self.settings.keep_runs).await?;
        logs::prune(&self.logs(), &gone);
        if !gone.is_empty() {
            self.voice.say(Level::Info, format!("{} old runs are forgotten", gone.len()));
        }
        Ok(())
    }
}
