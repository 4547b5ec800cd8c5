//! Who is told when runs fail and recover.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::shape::{Entries, Message};

/// Somebody who is told over HTTP when runs fail and recover under `haul serve`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Notify {
    /// What is told.
    #[schemars(extend("minItems" = 1, "default" = ["failure", "recovery"]))]
    pub on: Option<Vec<Occasion>>,
    /// Where it is sent with POST: `https://…` or `http://…`. Secrets come from `{{ env.NAME }}` or `{{ secret.file('path') }}`.
    #[schemars(required, extend("minLength" = 1, "examples" = ["{{ env.ALERT_URL }}"]))]
    pub url: Option<String>,
    /// Headers of the request.
    pub headers: Option<Entries<String>>,
    /// What is sent: a mapping or list becomes JSON, a text is sent as it is. Its texts are templates that also know `event.kind`,
    /// `event.stage`, `event.message` and `event.help`. Without it, all of these are sent as JSON.
    pub body: Option<Message>,
}

/// What somebody may be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Occasion {
    /// A run failed.
    Failure,
    /// A run is done, and the pipeline's run before it had failed.
    Recovery,
}
