//! What files say: the serde mirror of pipelines and project files, and the source of their JSON Schemas.
//!
//! Everything is optional here, because a file with problems is still read as far as it goes; what is required is said to the schema.
//! Doc comments become the descriptions an editor shows.

use schemars::JsonSchema;
use serde::Deserialize;

use super::shape::{Duration, Entries, OneOrMany, Scalar, Size};

mod cache;
mod feeds;
mod http;
mod inputs;
mod notify;
mod outputs;
mod redis;
mod schedule;
mod steps;
mod stream;

pub use cache::*;
pub use feeds::*;
pub use http::*;
pub use inputs::*;
pub use notify::*;
pub use outputs::*;
pub use redis::*;
pub use schedule::*;
pub use steps::*;
pub use stream::*;

/// A haul pipeline: moves data between databases, Redis, HTTP and files. The file's name is the pipeline's name.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    /// What the pipeline is for.
    pub description: Option<String>,
    /// Values given at run time with `--param name=value`, used in templates as `{{ params.name }}`.
    #[schemars(extend("propertyNames" = {"pattern": "^[A-Za-z_][A-Za-z0-9_]{0,62}$"}))]
    pub params: Option<Entries<Param>>,
    /// The systems the stages name, merged over those of haul.yaml.
    #[schemars(extend("propertyNames" = {"pattern": "^[A-Za-z_][A-Za-z0-9_-]{0,62}$"}))]
    pub connections: Option<Entries<Connection>>,
    /// When the pipeline runs by itself: one schedule, or a list of them.
    pub schedule: Option<OneOrMany<Schedule>>,
    /// What a run may use at the same time.
    pub limits: Option<Limits>,
    /// Settings for every stage that does not have its own.
    pub defaults: Option<Defaults>,
    /// The stages by name. They run as soon as the stages they read or name in `after:` are done.
    #[schemars(required, extend("propertyNames" = {"pattern": "^[A-Za-z_][A-Za-z0-9_-]{0,62}$"}, "minProperties" = 1))]
    pub stages: Option<Entries<Stage>>,
}

/// A haul project: what all files in the folder `pipelines/` beside this file share.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Project {
    /// Systems that every pipeline may name.
    #[schemars(extend("propertyNames" = {"pattern": "^[A-Za-z_][A-Za-z0-9_-]{0,62}$"}))]
    pub connections: Option<Entries<Connection>>,
    /// Settings for every stage of every pipeline that does not have its own.
    pub defaults: Option<Defaults>,
    /// What a run may use at the same time.
    pub limits: Option<Limits>,
    /// How feeds are served, which stages write with `to: { feed: … }`.
    pub feeds: Option<Feeds>,
    /// Who is told when runs fail and recover under `haul serve`.
    pub notify: Option<Vec<Notify>>,
    /// Where runs are recorded: `sqlite:` and a path beside this file, or `postgres://…`.
    #[schemars(extend("default" = "sqlite:.haul/state.db", "examples" = ["sqlite:.haul/state.db", "{{ env.HAUL_STATE_URL }}"]))]
    pub state: Option<String>,
}

/// A value that is given at run time.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Param {
    /// What values it takes.
    #[serde(rename = "type")]
    #[schemars(required)]
    pub ty: Option<ParamType>,
    /// Used when the run gives no value. A param without a default is required.
    pub default: Option<Scalar>,
    /// What it is for.
    pub description: Option<String>,
    /// The only values it takes.
    #[schemars(extend("minItems" = 1))]
    pub allowed: Option<Vec<Scalar>>,
}

/// The type of a param.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ParamType {
    /// Any text.
    Text,
    /// A whole number of 64 bits.
    Int,
    /// A decimal number, kept exactly.
    Number,
    /// `true` or `false`.
    Bool,
    /// `2020-01-31`.
    Date,
    /// `2020-01-31T04:05:06Z`.
    Timestamp,
}

/// A system to read from or write to.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Connection {
    /// Where it is: `postgres://user@host/database`, `sqlite:path`, `file:folder`, `s3://bucket/prefix`, `redis://host`, `https://host/path`.
    /// Secrets come from `{{ env.NAME }}` or `{{ secret.file('path') }}`.
    #[schemars(required, extend("minLength" = 1, "examples" = ["{{ env.SHOP_URL }}", "sqlite:warehouse.db", "file:data", "s3://bucket/prefix", "https://api.example.com/v1"]))]
    pub url: Option<String>,
    /// The most connections open to it at the same time.
    #[schemars(range(min = 1, max = 1000), extend("default" = 8))]
    pub max_connections: Option<u32>,
    /// Of HTTP: how requests prove who asks.
    pub auth: Option<Auth>,
    /// Of HTTP: headers of every request. They are kept from other hosts, like `auth`.
    #[schemars(extend("examples" = [{"X-Api-Key": "{{ env.API_KEY }}"}]))]
    pub headers: Option<Entries<String>>,
    /// Of HTTP: whether addresses of private networks, of this machine and of its own link may be asked. A URL that names `localhost` or a loopback
    /// address may always reach this machine.
    #[schemars(extend("default" = false))]
    pub allow_private: Option<bool>,
    /// Of HTTP: whether NDJSON and CSV are read out of answers that say neither their length nor their end, and look the same when they were cut.
    #[schemars(extend("default" = false))]
    pub allow_unmeasured: Option<bool>,
    /// Of HTTP: the longest that a connection may take to come about.
    #[schemars(extend("default" = "10s"))]
    pub connect_timeout: Option<Duration>,
    /// Of HTTP: the longest that an answer may send nothing.
    #[schemars(extend("default" = "30s"))]
    pub idle_timeout: Option<Duration>,
}

/// What a run may use at the same time.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Stages that run at the same time.
    #[schemars(range(min = 1, max = 1000), extend("default" = 4))]
    pub stages: Option<usize>,
    /// Splits that are worked on at the same time, over all stages.
    #[schemars(range(min = 1, max = 1000), extend("default" = 8))]
    pub splits: Option<usize>,
    /// Bytes of rows on their way, over all stages.
    #[schemars(extend("default" = "256MiB"))]
    pub memory: Option<Size>,
    /// How long a run that is asked to stop may take to commit what it has begun.
    #[schemars(extend("default" = "30s"))]
    pub drain: Option<Duration>,
}

/// Settings for every stage that does not have its own.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Defaults {
    /// How often and how long failed work is tried again.
    pub retry: Option<Retry>,
    /// The longest one attempt may take.
    pub timeout: Option<Duration>,
    /// What proof of arrival a run gives.
    pub verify: Option<Verify>,
    /// How sources are cut into parts.
    pub splits: Option<Splits>,
    /// How many rows travel together.
    pub batch: Option<BatchSize>,
}

/// How often and how long failed work is tried again. Only failures that may pass by themselves are.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// Tries in all; 1 never tries again.
    #[schemars(range(min = 1, max = 1000), extend("default" = 5))]
    pub attempts: Option<u32>,
    /// The waits between tries.
    pub backoff: Option<Backoff>,
    /// No further try starts after this long.
    #[schemars(extend("default" = "1h"))]
    pub total: Option<Duration>,
}

/// The waits between tries.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Backoff {
    /// The wait before the second try.
    #[schemars(extend("default" = "1s"))]
    pub initial: Option<Duration>,
    /// No wait is longer.
    #[schemars(extend("default" = "1m"))]
    pub max: Option<Duration>,
    /// Each wait is this many times the one before.
    #[schemars(range(min = 1, max = 100), extend("default" = 2))]
    pub factor: Option<f64>,
    /// Spreads each wait evenly between zero and its length, so that many tries do not come at once.
    #[schemars(extend("default" = true))]
    pub jitter: Option<bool>,
}

/// What proof of arrival a run gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verify {
    /// The rows in the target are read back and compared by digest.
    Digest,
    /// The rows in the target are counted.
    Count,
    /// Nothing beyond what each commit records.
    None,
}

/// How a source is cut into parts that are read at the same time and resumed one by one.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Splits {
    /// At most so many; 1 reads the source as a whole.
    #[schemars(range(min = 1, max = 10000), extend("default" = 64))]
    pub most: Option<usize>,
    /// A split is not smaller than this.
    #[schemars(extend("default" = "64MiB"))]
    pub bytes: Option<Size>,
    /// Splits of the stage that are worked on at the same time.
    #[schemars(range(min = 1, max = 1000), extend("default" = 4))]
    pub concurrency: Option<usize>,
}

/// How many rows travel together.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchSize {
    /// At most so many rows.
    #[schemars(range(min = 1, max = 1000000), extend("default" = 16384))]
    pub rows: Option<usize>,
    /// At most so many bytes, a single larger row apart.
    #[schemars(extend("default" = "4MiB"))]
    pub bytes: Option<Size>,
}

/// The kind of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Bounded: reads its inputs to their end, in parts that can be resumed and verified.
    Batch,
    /// Unbounded: follows its input, and goes on until the run is stopped.
    Stream,
    /// Keyed rows that other stages look up.
    Cache,
}

/// A bounded stage: reads its inputs to their end, transforms the rows, and writes them.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchStage {
    /// What the stage does: `batch`.
    #[schemars(required)]
    pub kind: Option<Kind>,
    /// What the stage is for.
    pub description: Option<String>,
    /// Stages that must be done before this one starts. A stage that is read in `from:` need not be named.
    pub after: Option<Vec<String>>,
    /// Where rows come from: one input, or a list of inputs that a first `sql` step joins.
    #[schemars(required)]
    pub from: Option<OneOrMany<Input>>,
    /// What happens to the rows, step by step.
    pub transform: Option<Vec<Step>>,
    /// Where rows go: one output or a list of them. It may be left out when another stage reads this one.
    pub to: Option<OneOrMany<Output>>,
    /// What proof of arrival the run gives.
    pub verify: Option<Verify>,
    /// Where bad rows go. Without it the first bad row fails the stage.
    pub rejects: Option<Rejects>,
    /// How the source is cut into parts.
    pub splits: Option<Splits>,
    /// How many rows travel together.
    pub batch: Option<BatchSize>,
    /// How often and how long failed work is tried again.
    pub retry: Option<Retry>,
    /// The longest one attempt may take.
    #[schemars(extend("examples" = ["30m"]))]
    pub timeout: Option<Duration>,
}

/// One stage of a pipeline.
#[derive(Debug)]
pub enum Stage {
    /// The stage is bounded.
    Batch(Box<BatchStage>),
    /// The stage holds keyed rows.
    Cache(Box<CacheStage>),
    /// The stage is unbounded.
    Stream(Box<StreamStage>),
    /// The stage does not say its kind.
    Unclear,
}

/// What every kind of stage says of its rows.
#[derive(Clone, Copy, Default)]
pub struct Rows<'a> {
    /// Stages that must be done before.
    pub after: &'a [String],
    /// Where rows come from.
    pub from: Option<&'a OneOrMany<Input>>,
    /// What happens to them.
    pub transform: Option<&'a [Step]>,
    /// Where they go.
    pub to: Option<&'a OneOrMany<Output>>,
    /// Where bad rows go.
    pub rejects: Option<&'a Rejects>,
}

impl Stage {
    /// What the stage says of its rows; nothing when its kind is not known.
    pub fn rows(&self) -> Rows<'_> {
        match self {
            Self::Batch(stage) => Rows {
                after: stage.after.as_deref().unwrap_or_default(),
                from: stage.from.as_ref(),
                transform: stage.transform.as_deref(),
                to: stage.to.as_ref(),
                rejects: stage.rejects.as_ref(),
            },
            Self::Cache(stage) => Rows {
                after: stage.after.as_deref().unwrap_or_default(),
                from: stage.from.as_ref(),
                transform: stage.transform.as_deref(),
                to: None,
                rejects: stage.rejects.as_ref(),
            },
            Self::Stream(stage) => Rows {
                after: stage.after.as_deref().unwrap_or_default(),
                from: stage.from.as_ref(),
                transform: stage.transform.as_deref(),
                to: stage.to.as_ref(),
                rejects: stage.rejects.as_ref(),
            },
            Self::Unclear => Rows::default(),
        }
    }
}
