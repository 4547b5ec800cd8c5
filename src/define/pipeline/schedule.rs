//! When a pipeline runs by itself.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::tz::TimeZone;

use super::At;

/// When a pipeline runs by itself, and what happens when runs meet.
#[derive(Clone, Debug, Default)]
pub struct Schedule {
    /// What makes it run; empty when only its overlap is decided.
    pub entries: Vec<Entry>,
    /// What happens when a run is to start while one is going.
    pub overlap: Overlap,
    /// Failed runs in a row after which the schedules pause.
    pub pause_on_failure: Option<u32>,
}

/// One thing that makes a pipeline run.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What tells it from the pipeline's others and from what it was before an edit: `cron 0 2 * * * Europe/Berlin`, `every 900s`,
    /// `after orders`, with its params. The journal keeps what was decided under it.
    pub key: String,
    /// When.
    pub when: When,
    /// Starts are spread below this.
    pub jitter: Duration,
    /// Which ticks are made up for.
    pub catch_up: CatchUp,
    /// Params of its runs, in their text form.
    pub params: BTreeMap<String, String>,
    /// Where it stands.
    pub at: At,
}

/// When something runs.
#[derive(Clone, Debug)]
pub enum When {
    /// At the times of a pattern.
    Cron(Box<Cron>),
    /// At equal distances, counted from 1970-01-01 UTC.
    Every(Duration),
    /// After each run of another pipeline that is done.
    After(String),
}

/// A cron pattern in a time zone.
#[derive(Clone, Debug)]
pub struct Cron {
    /// As written.
    pub text: String,
    /// The parsed pattern.
    pub pattern: croner::Cron,
    /// Whose clock it goes by.
    pub zone: TimeZone,
}

/// What happens when a run is to start while one of the pipeline is going.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overlap {
    /// The new one is left out.
    #[default]
    Skip,
    /// The new one waits.
    Queue,
    /// The going one is stopped.
    CancelRunning,
    /// Both go.
    Allow,
}

/// Which ticks are made up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CatchUp {
    /// At most so many; 0 makes up for none.
    pub most: usize,
    /// Not older than this.
    pub window: Duration,
}

impl When {
    /// As people read it: `0 2 * * * (Europe/Berlin)`, `every 15m`, `after orders`.
    pub fn label(&self) -> String {
        match self {
            Self::Cron(cron) => format!("{} ({})", cron.text, cron.zone.iana_name().unwrap_or("UTC")),
            Self::Every(length) => format!("every {}", length_text(*length)),
            Self::After(pipeline) => format!("after {pipeline}"),
        }
    }
}

/// A length of time in the largest unit that gives a whole number: `15m`.
pub fn length_text(length: Duration) -> String {
    let ms = length.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    let unit = units.iter().find(|(unit, _)| ms > 0 && ms.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{ms}ms"), |(unit, word)| format!("{}{word}", ms / unit))
}
