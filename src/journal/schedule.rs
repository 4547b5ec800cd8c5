//! What the journal knows of schedules: ticks and what became of them, pauses, and runs that were asked to stop.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::fold::{RunState, fold};
use super::handle::Journal;
use super::record::{Change, Record, parse, text};
use crate::clock;
use crate::failure::Failure;

const TICK: &str = "tick";
/// Ticks that are neither skipped, missed nor over.
const OPEN: &str = "open";
const DECIDED: &str = "decided";
const PAUSE: &str = "pause";
const STOP: &str = "stop";
/// Messages that have not reached everybody yet.
const MESSAGE: &str = "message";

/// Between the parts of a key; no name holds it.
pub const SEPARATOR: char = '\u{1f}';

/// A moment at which a schedule makes its pipeline run, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tick {
    /// The pipeline's name.
    pub pipeline: String,
    /// Which of its schedules: its key.
    pub entry: String,
    /// The moment, in milliseconds since 1970.
    pub at_ms: i64,
    /// Where the data interval that ends with the tick begins: the tick before.
    pub interval_start_ms: i64,
    /// The id of its run; one that was cut and could not be gone on with has a later one.
    pub run: String,
    /// What became of it.
    pub state: TickState,
    /// Why, when that is not plain.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// For ticks that were missed together: how many, ending with this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

/// What became of a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TickState {
    /// Its run waits or goes.
    Open,
    /// Its run is done.
    Done,
    /// Its run failed.
    Failed,
    /// Its run was stopped for a newer one.
    Cancelled,
    /// It was left out on purpose: another run was going, or the pipeline was paused.
    Skipped,
    /// It went by while nobody could start it.
    Missed,
}

impl TickState {
    /// The word of its JSON form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Skipped => "skipped",
            Self::Missed => "missed",
        }
    }
}

/// Up to where the ticks of a schedule have been decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    /// The pipeline's name.
    pub pipeline: String,
    /// Which of its schedules.
    pub entry: String,
    /// In milliseconds since 1970.
    pub until_ms: i64,
}

/// Whether a pipeline's schedules are held back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// The pipeline's name.
    pub pipeline: String,
    /// Whether they are; a pipeline that was resumed keeps the record of when.
    pub paused: bool,
    /// Since when, in milliseconds since 1970.
    pub at_ms: i64,
    /// Why.
    pub reason: String,
}

impl Tick {
    /// A tick whose run has an id made from what it is: whoever meets the tick gives its run the same one. It sorts by its time, like other ids.
    pub fn new(pipeline: &str, entry: &str, at_ms: i64, interval_start_ms: i64) -> Self {
        let hash = xxh3_128(key(pipeline, entry, at_ms).as_bytes()).to_be_bytes();
        let (mut random, ms) = ([0; 10], u64::try_from(at_ms).unwrap_or(0));
        random.copy_from_slice(&hash[..10]);
        let run = uuid::Builder::from_unix_timestamp_millis(ms, &random).into_uuid().to_string();
        let (pipeline, entry) = (pipeline.to_owned(), entry.to_owned());
        Self { pipeline, entry, at_ms, interval_start_ms, run, state: TickState::Open, reason: String::new(), count: None }
    }

    fn key(&self) -> String {
        key(&self.pipeline, &self.entry, self.at_ms)
    }

    fn record(&self, kind: &'static str) -> Result<Record, Failure> {
        Ok(Record { kind, key: self.key(), at_ms: self.at_ms, value: text(self)? })
    }
}

impl Decided {
    fn record(&self) -> Result<Record, Failure> {
        let key = format!("{}{SEPARATOR}{}", self.pipeline, self.entry);
        Ok(Record { kind: DECIDED, key, at_ms: self.until_ms, value: text(self)? })
    }
}

fn key(pipeline: &str, entry: &str, at_ms: i64) -> String {
    format!("{pipeline}{SEPARATOR}{entry}{SEPARATOR}{at_ms}")
}

impl Journal {
    /// Records ticks, and up to where schedules are decided with them, all or none. Answers for each tick whether it is new: one that somebody
    /// has decided before stays as it is.
    pub async fn decide(&self, ticks: &[Tick], decided: &[Decided]) -> Result<Vec<bool>, Failure> {
        let mut changes = Vec::with_capacity(2 * ticks.len() + decided.len());
        for tick in ticks {
            changes.push(Change::Add(tick.record(TICK)?));
        }
        for tick in ticks.iter().filter(|tick| tick.state == TickState::Open) {
            changes.push(Change::Add(tick.record(OPEN)?));
        }
        for decided in decided {
            changes.push(Change::Put(decided.record()?));
        }
        let mut done = self.ask(move |store| store.change(&changes)).await?;
        let opened = done.split_off(ticks.len());
        // A tick that was over before is not opened again.
        let open = ticks.iter().zip(&done).filter(|(tick, _)| tick.state == TickState::Open);
        let wrong = open.zip(opened).filter(|((_, new), opened)| *opened && !**new);
        let close: Vec<Change> = wrong.map(|((tick, _), _)| Change::Remove(OPEN, tick.key())).collect();
        if !close.is_empty() {
            self.ask(move |store| store.change(&close)).await?;
        }
        Ok(done)
    }

    /// Records what became of a tick.
    pub async fn settle(&self, tick: &Tick) -> Result<(), Failure> {
        let open = match tick.state {
            TickState::Open => Change::Put(tick.record(OPEN)?),
            _ => Change::Remove(OPEN, tick.key()),
        };
        let changes = [Change::Put(tick.record(TICK)?), open];
        self.ask(move |store| store.change(&changes)).await?;
        Ok(())
    }

    /// Ticks whose runs wait or go, or were cut, oldest first.
    pub async fn open_ticks(&self) -> Result<Vec<Tick>, Failure> {
        let mut found = self.records(OPEN, "", u32::MAX).await?;
        found.reverse();
        found.into_iter().map(parse).collect()
    }

    /// A pipeline's ticks, latest first.
    pub async fn ticks(&self, pipeline: &str, limit: u32) -> Result<Vec<Tick>, Failure> {
        self.records(TICK, &format!("{pipeline}{SEPARATOR}"), limit).await?.into_iter().map(parse).collect()
    }

    /// Up to where the ticks of all schedules have been decided.
    pub async fn decided(&self) -> Result<Vec<Decided>, Failure> {
        self.records(DECIDED, "", u32::MAX).await?.into_iter().map(parse).collect()
    }

    /// Pipelines that are paused, or were.
    pub async fn pauses(&self) -> Result<Vec<Pause>, Failure> {
        self.records(PAUSE, "", u32::MAX).await?.into_iter().map(parse).collect()
    }

    /// Pauses a pipeline's schedules, or lets them go on.
    pub async fn pause(&self, pause: &Pause) -> Result<(), Failure> {
        let record = Record { kind: PAUSE, key: pause.pipeline.clone(), at_ms: pause.at_ms, value: text(pause)? };
        self.ask(move |store| store.change(&[Change::Put(record)])).await?;
        Ok(())
    }

    /// Asks whoever works on a run to stop it.
    pub async fn ask_to_stop(&self, run: &str) -> Result<(), Failure> {
        let at_ms = clock::now_ms();
        let record = Record { kind: STOP, key: run.to_owned(), at_ms, value: text(&at_ms)? };
        self.ask(move |store| store.change(&[Change::Put(record)])).await?;
        Ok(())
    }

    /// When a run was last asked to stop, in milliseconds since 1970.
    pub async fn asked_to_stop(&self, run: &str) -> Result<Option<i64>, Failure> {
        self.records(STOP, run, 1).await?.pop().map(parse).transpose()
    }

    /// Keeps a message until [`Journal::delivered`], and records with it up to where there are messages. One that is there already stays.
    pub async fn post(&self, key: &str, at_ms: i64, message: &impl Serialize, until: &Decided) -> Result<(), Failure> {
        let message = Record { kind: MESSAGE, key: key.to_owned(), at_ms, value: text(message)? };
        let changes = [Change::Add(message), Change::Put(until.record()?)];
        self.ask(move |store| store.change(&changes)).await?;
        Ok(())
    }

    /// Messages that have not been delivered, oldest first, each with its key.
    pub async fn posted<T: DeserializeOwned>(&self) -> Result<Vec<(String, T)>, Failure> {
        let mut found = self.records(MESSAGE, "", u32::MAX).await?;
        found.reverse();
        found.into_iter().map(|record| Ok((record.0.clone(), parse(record)?))).collect()
    }

    /// A message has reached everybody, or will not.
    pub async fn delivered(&self, key: &str) -> Result<(), Failure> {
        let change = Change::Remove(MESSAGE, key.to_owned());
        self.ask(move |store| store.change(&[change])).await?;
        Ok(())
    }

    /// Runs that ended after a time, each with its last end in milliseconds since 1970, oldest end first.
    pub async fn ended_since(&self, after_ms: i64) -> Result<Vec<(String, i64)>, Failure> {
        self.ask(move |store| store.ended_since(after_ms)).await
    }

    /// The state of the run of exactly this id, without its splits.
    pub async fn brief(&self, run: &str) -> Result<Option<RunState>, Failure> {
        let run = run.to_owned();
        self.ask(move |store| Ok(fold(&store.events(&run, true)?))).await
    }

    /// Forgets runs that began before a time, and those of a pipeline beyond its latest so many; never the latest one. What is known of ticks
    /// goes with the same time. Answers with the ids of the runs.
    pub async fn prune(&self, before_ms: i64, runs: u32) -> Result<Vec<String>, Failure> {
        self.ask(move |store| store.prune(before_ms, runs)).await
    }

    async fn records(&self, kind: &'static str, prefix: &str, limit: u32) -> Result<Vec<(String, String)>, Failure> {
        let prefix = prefix.to_owned();
        self.ask(move |store| store.records(kind, &prefix, limit)).await
    }
}

/// The kinds of records that are forgotten with time.
pub(super) const PRUNED: [&str; 2] = [TICK, STOP];
