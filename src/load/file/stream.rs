//! What streams say.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Input, Kind, Output, Rejects, Retry, Step};
use crate::load::shape::{Duration, OneOrMany, Size};

/// An unbounded stage: follows its input, transforms the rows, and writes them with the position they bring it to.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamStage {
    /// What the stage does: `stream`.
    #[schemars(required)]
    pub kind: Option<Kind>,
    /// What the stage is for.
    pub description: Option<String>,
    /// Stages that must be done before this one starts.
    pub after: Option<Vec<String>>,
    /// What is followed.
    #[schemars(required)]
    pub from: Option<OneOrMany<Input>>,
    /// What happens to the rows, step by step.
    pub transform: Option<Vec<Step>>,
    /// Where rows go.
    #[schemars(required)]
    pub to: Option<OneOrMany<Output>>,
    /// Where bad rows go. Without it the first bad row fails the stage.
    pub rejects: Option<Rejects>,
    /// How many rows are committed together.
    pub batch: Option<StreamBatch>,
    /// How often and how long failed work is tried again. By default without end; every commit begins the count anew.
    pub retry: Option<Retry>,
}

/// How many rows a stream commits together. Whichever comes first ends the batch.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamBatch {
    /// At most about so many rows.
    #[schemars(range(min = 1, max = 1000000), extend("default" = 16384))]
    pub rows: Option<usize>,
    /// At most about so many bytes.
    #[schemars(extend("default" = "4MiB"))]
    pub bytes: Option<Size>,
    /// The longest that a row waits for its commit.
    #[schemars(extend("default" = "100ms"))]
    pub every: Option<Duration>,
}
