//! The events of a run: what the journal stores, what `--json` prints, and what progress is drawn from.

use serde::{Deserialize, Serialize};

/// Something that happened in a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Milliseconds since 1970-01-01 UTC.
    pub at_ms: i64,
    /// The run's id.
    pub run: String,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// What happened. The form is versioned by the journal's schema version: fields are added, never changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum What {
    /// The first event of a run; again, with `resumed`, when an unfinished run is taken up.
    RunStarted {
        /// The pipeline's name.
        pipeline: String,
        /// A hash over the sealed plan.
        plan_hash: String,
        /// Params in their text form; a secret one as `***`.
        params: std::collections::BTreeMap<String, String>,
        /// What started it: `manual`, `schedule`, `after` or `retry`.
        trigger: String,
        /// The moment it was to run at, in milliseconds since 1970; `None` when nobody had said one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scheduled_ms: Option<i64>,
        /// Where the data interval that ends with that moment begins.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        interval_start_ms: Option<i64>,
        /// Whether it goes on with a run that was cut.
        resumed: bool,
        /// The version of haul.
        version: String,
        /// The stages, in plan order.
        stages: Vec<String>,
    },
    /// A stage begins.
    StageStarted {
        /// Its name.
        stage: String,
        /// How many splits it has in all.
        splits: u64,
        /// Of these, how many an earlier attempt of this run had committed.
        splits_done: u64,
        /// Estimated rows, when known.
        rows: Option<u64>,
    },
    /// A split is committed in every output.
    SplitFinished {
        /// The stage.
        stage: String,
        /// The split's id.
        split: String,
        /// What it covers.
        label: String,
        /// Rows that were written.
        rows: u64,
        /// Bytes that were read.
        bytes: u64,
        /// Rows that were refused.
        rejects: u64,
        /// From 1.
        attempt: u32,
        /// From its start to its commit.
        elapsed_ms: u64,
    },
    /// An attempt failed.
    AttemptFailed {
        /// The stage.
        stage: String,
        /// The split's id; `all` when the stage is one unit.
        split: String,
        /// From 1.
        attempt: u32,
        /// Why.
        failure: Cause,
        /// How long the next attempt waits; `None` when there is none.
        retry_in_ms: Option<u64>,
    },
    /// Something worth knowing that is no failure.
    Note {
        /// The stage, when it concerns one.
        stage: Option<String>,
        /// One sentence.
        text: String,
    },
    /// A stage is over.
    StageFinished {
        /// Its name.
        stage: String,
        /// How it ended.
        outcome: Outcome,
        /// Rows that came in.
        rows_in: u64,
        /// Rows that went out.
        rows_out: u64,
        /// Bytes that were read.
        bytes: u64,
        /// Rows that were refused.
        rejects: u64,
        /// From its start to its end, in this process.
        elapsed_ms: u64,
        /// What was written where.
        outputs: Vec<OutputReport>,
        /// What its lookups came to, one for each cache.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        lookups: Vec<LookupReport>,
        /// Why it failed or was skipped.
        failure: Option<Cause>,
    },
    /// The last event of a run, unless the process was killed.
    RunFinished {
        /// How it ended.
        outcome: Outcome,
        /// From start to end, in this process.
        elapsed_ms: u64,
        /// Why it came to no stage: its plan could not be made.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        refused: Option<Cause>,
    },
}

impl What {
    /// The word of the `event` field in its JSON form.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::RunStarted { .. } => "run_started",
            Self::StageStarted { .. } => "stage_started",
            Self::SplitFinished { .. } => SPLIT_FINISHED,
            Self::AttemptFailed { .. } => "attempt_failed",
            Self::Note { .. } => "note",
            Self::StageFinished { .. } => "stage_finished",
            Self::RunFinished { .. } => "run_finished",
        }
    }

    /// Whether going on with a cut run, or its history, would be wrong without it. The others may be lost with the process.
    pub fn must_last(&self) -> bool {
        match self {
            Self::RunStarted { .. } | Self::SplitFinished { .. } | Self::StageFinished { .. } | Self::RunFinished { .. } => true,
            Self::StageStarted { .. } | Self::AttemptFailed { .. } | Self::Note { .. } => false,
        }
    }
}

/// The kind of the one event that a run may have very many of; summaries leave it out.
pub(super) const SPLIT_FINISHED: &str = "split_finished";

/// How a stage or a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Everything arrived.
    Done,
    /// It failed for good.
    Failed,
    /// A stage it needs failed, or it was left out on request.
    Skipped,
    /// It was stopped; a rerun goes on from here.
    Interrupted,
}

/// A failure as the journal keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// `transient`, `permanent`, `bad_rows`, `cancelled`, `fenced`.
    pub kind: String,
    /// What happened.
    pub message: String,
    /// The way out.
    pub help: Option<String>,
}

/// What one output of a stage received.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputReport {
    /// Where rows went, for people: `warehouse.orders`, `out/orders.parquet`.
    pub target: String,
    /// Rows written.
    pub rows: u64,
    /// What was proved.
    pub verdict: Verdict,
}

/// What the lookups of a stage in one cache came to. A key counts once a batch, however many rows of the batch have it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookupReport {
    /// The cache stage.
    pub cache: String,
    /// Keys that were looked up.
    pub keys: u64,
    /// Of these, keys whose row was in the cache.
    pub hits: u64,
    /// Of the hits, those in the memory of the process.
    pub memory_hits: u64,
    /// Keys that the cache did not have.
    pub misses: u64,
    /// Keys that the cache knew to have no row.
    pub negative_hits: u64,
    /// Misses that waited for a load that was under way for somebody else.
    pub coalesced: u64,
    /// Keys that were served from a row past its time, because the origin or the cache's server failed.
    pub stale_served: u64,
    /// Keys that went to the origin because the cache's server failed.
    pub bypassed: u64,
    /// Queries for missing keys.
    pub loads: u64,
    /// Time spent in them, in milliseconds.
    pub load_ms: u64,
    /// The greatest age of a row that was served, in milliseconds.
    pub oldest_ms: u64,
}

impl LookupReport {
    /// What came of keys, each with how many: a key may have come to several, such as a miss that was coalesced.
    pub fn results(&self) -> [(&'static str, u64); 6] {
        [
            ("hit", self.hits),
            ("miss", self.misses),
            ("negative_hit", self.negative_hits),
            ("coalesced", self.coalesced),
            ("stale_served", self.stale_served),
            ("bypassed", self.bypassed),
        ]
    }
}

/// What was proved of an output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// `verify: none`, or an output that keeps nothing.
    NotChecked,
    /// Counts agree.
    Counted {
        /// Rows on both sides.
        rows: u64,
    },
    /// Digests agree.
    Identical {
        /// Rows on both sides.
        rows: u64,
        /// The digest of both sides.
        digest: String,
    },
    /// They do not.
    Different {
        /// Rows that were sent.
        expected_rows: u64,
        /// Rows that were found.
        found_rows: u64,
        /// Up to 20 differences, each a key or row and what is wrong with it.
        examples: Vec<String>,
    },
}

impl Outcome {
    /// The word of its JSON form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Interrupted => "interrupted",
        }
    }
}

impl From<&crate::failure::Failure> for Cause {
    fn from(failure: &crate::failure::Failure) -> Self {
        Self { kind: failure.kind.as_str().to_owned(), message: failure.to_string(), help: failure.help.clone() }
    }
}
