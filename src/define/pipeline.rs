//! What a checked pipeline means: every default filled in, every name resolved, every value of its own type.
//!
//! `At` values are JSON pointers into the document, so that later ranks (plan, preflight) can still point at the place in the file.
//! Text that held templates is rendered when the pipeline was resolved for a run, and is as written when it was only validated.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::secret::Secret;

mod cache;
mod feed;
mod http;
mod inputs;
mod keys;
mod outputs;
mod redis;
mod schedule;
mod steps;

pub use cache::*;
pub use feed::*;
pub use http::*;
pub use inputs::*;
pub use keys::*;
pub use outputs::*;
pub use redis::*;
pub use schedule::*;
pub use steps::*;

/// A JSON pointer into the pipeline's document, such as `/stages/orders/from/table`.
pub type At = String;

/// One pipeline.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// The file's name without its ending.
    pub name: String,
    /// For people.
    pub description: Option<String>,
    /// In file order.
    pub params: Vec<Param>,
    /// Those of the file and of the project, by name.
    pub connections: BTreeMap<String, Connection>,
    /// In file order.
    pub stages: Vec<Stage>,
    /// When it runs by itself.
    pub schedule: Option<Schedule>,
    /// What the run may use at the same time.
    pub limits: Limits,
    /// Paths in the pipeline are relative to this folder: the one that holds `haul.yaml` or `pipelines/`.
    pub base: PathBuf,
}

/// A value the pipeline asks for by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// As written below `params:`.
    pub name: String,
    /// What texts it takes.
    pub ty: ParamType,
    /// In its text form; a param without one is required.
    pub default: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// The texts allowed; empty allows all of the type.
    pub allowed: Vec<String>,
    /// Where it stands.
    pub at: At,
}

/// The types of params.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamType {
    /// Any text.
    Text,
    /// 64-bit signed integer.
    Int,
    /// Exact decimal number.
    Number,
    /// `true` or `false`.
    Bool,
    /// `YYYY-MM-DD`.
    Date,
    /// RFC 3339.
    Timestamp,
}

/// A named system.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Its name.
    pub name: String,
    /// Which engine its URL names; `None` when the URL is only known at run time.
    pub engine: Option<Engine>,
    /// The URL, once resolved. It may hold a password.
    pub url: Secret<String>,
    /// Most connections open at the same time.
    pub max_connections: u32,
    /// What only HTTP needs.
    pub http: HttpSettings,
    /// Where it stands.
    pub at: At,
}

/// The engines a URL may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Engine {
    /// `postgres://`, `postgresql://`
    Postgres,
    /// `sqlite:`
    Sqlite,
    /// `file:`
    File,
    /// `s3://`
    S3,
    /// `redis://`, `rediss://`
    Redis,
    /// `http://`, `https://`
    Http,
}

impl Engine {
    /// The name by which native types know the engine; `None` for one that has none of its own.
    pub fn native(self) -> Option<&'static str> {
        match self {
            Self::Postgres => Some("postgres"),
            Self::Sqlite => Some("sqlite"),
            Self::Redis => Some("redis"),
            Self::File | Self::S3 | Self::Http => None,
        }
    }
}

/// One stage.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Its name.
    pub name: String,
    /// Stages that must be done before it starts, with the place of each word.
    pub after: Vec<(String, At)>,
    /// How often and how long it is tried.
    pub retry: Retry,
    /// The longest one attempt of a unit may take.
    pub timeout: Option<Duration>,
    /// What it does.
    pub kind: Kind,
    /// The rows that go through it.
    pub flow: Flow,
    /// For people.
    pub description: Option<String>,
    /// Where it stands.
    pub at: At,
}

/// What a stage does with its rows.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Bounded: reads its inputs to their end.
    Batch,
    /// Unbounded: follows its input from a position that is committed with the rows.
    Stream {
        /// The longest that a row waits for its commit while no batch gets full.
        every: Duration,
    },
    /// Keeps rows by their key.
    Cache(Box<Cache>),
}

/// Where a stage's rows come from, what happens to them, and where they go: the same shape for every kind of stage.
#[derive(Clone, Debug)]
pub struct Flow {
    /// One input, or several when the first step is `sql`.
    pub from: Vec<Input>,
    /// In order.
    pub transform: Vec<Step>,
    /// Where rows go besides the stages that read this one; may be empty when a stage does.
    pub to: Vec<Output>,
    /// What proof the run gives.
    pub verify: Verify,
    /// Where bad rows go, and how many there may be; without it the first bad row fails the stage.
    pub rejects: Option<Rejects>,
    /// How the source is cut.
    pub splits: SplitPolicy,
    /// How large batches may grow.
    pub batch: crate::data::BatchLimit,
}

/// How a source is cut into splits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitPolicy {
    /// At most so many splits; 1 reads the source as a whole.
    pub most: usize,
    /// A split is not smaller than this.
    pub bytes: u64,
    /// Splits of this stage that are worked on at the same time.
    pub concurrency: usize,
}

/// Bad rows.
#[derive(Clone, Debug)]
pub struct Rejects {
    /// Connection name of the files.
    pub connection: String,
    /// Path of the NDJSON file below the connection's root.
    pub path: String,
    /// More than this many fail the stage.
    pub at_most: u64,
    /// Where it stands.
    pub at: At,
}

/// How often and how long something is tried.
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    /// Tries in all; 1 never retries.
    pub attempts: u32,
    /// Wait before the second try.
    pub initial: Duration,
    /// No wait is longer.
    pub max: Duration,
    /// Each wait is this many times the one before.
    pub factor: f64,
    /// Waits are spread evenly between zero and their length.
    pub jitter: bool,
    /// No further try starts after this long.
    pub total: Option<Duration>,
}

/// What a run may use at the same time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Stages.
    pub stages: usize,
    /// Splits over all stages.
    pub splits: usize,
    /// Bytes of batches in flight, over all stages.
    pub memory: u64,
    /// How long a stopping run may take to commit what it has begun.
    pub drain: Duration,
}

/// What proof of arrival a stage asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Verify {
    /// Nothing beyond the marks.
    None,
    /// The rows in the target are counted.
    Count,
    /// The rows in the target are read back and their digest is compared.
    #[default]
    Digest,
}
