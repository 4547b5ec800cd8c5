//! When a pipeline runs by itself.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::super::shape::{Duration, Entries, Scalar};

/// When a pipeline runs by itself under `haul serve`: at the times of a cron pattern, at equal distances, or after another pipeline.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// A cron pattern of 5 fields (minute, hour, day, month, weekday) or 6 (seconds first), with names, `L`, `W` and `#`, or `@hourly`,
    /// `@daily`, `@weekly`, `@monthly`, `@yearly`.
    #[schemars(extend("minLength" = 1, "examples" = ["0 2 * * *", "*/15 8-18 * * MON-FRI", "0 6 L * *", "@daily"]))]
    pub cron: Option<String>,
    /// The time from one tick to the next, counted from 1970-01-01 UTC whatever the clocks of a time zone do.
    pub every: Option<Duration>,
    /// Runs after each run of another pipeline that is done.
    pub after: Option<AfterPipeline>,
    /// The time zone of `cron`, by its IANA name.
    #[schemars(extend("minLength" = 1, "default" = "UTC", "examples" = ["Europe/Berlin", "America/New_York"]))]
    pub timezone: Option<String>,
    /// Starts later than the tick by a time below this, which is always the same for a pipeline, so that many do not start at once.
    #[schemars(extend("default" = "0s"))]
    pub jitter: Option<Duration>,
    /// Params of the runs that this schedule starts.
    pub params: Option<Entries<Scalar>>,
    /// What happens when a run is to start while one of the pipeline is still going, whatever started either. In a list of schedules one of
    /// them says it for all.
    #[schemars(extend("default" = "skip"))]
    pub overlap: Option<Overlap>,
    /// Which ticks are made up for that went by while nobody could start them.
    pub catch_up: Option<CatchUp>,
    /// Pauses the pipeline's schedules after so many failed runs in a row. In a list of schedules one of them says it for all.
    #[schemars(range(min = 1, max = 1000))]
    pub pause_on_failure: Option<u32>,
}

/// The pipeline to run after.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AfterPipeline {
    /// Its name.
    #[schemars(required, extend("minLength" = 1))]
    pub pipeline: Option<String>,
}

/// What happens when a run is to start while one of the pipeline is still going.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// The new run is left out.
    Skip,
    /// The new run waits for its turn.
    Queue,
    /// The going run is asked to commit what it has begun and stop; then the new one starts.
    CancelRunning,
    /// Both go. Only for pipelines whose runs share no target: files with `{{ run.id }}` in their path.
    Allow,
}

/// Which ticks are made up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CatchUpMode {
    /// None: what went by is recorded as missed.
    None,
    /// The latest one.
    Latest,
    /// All of them, oldest first.
    All,
}

/// Which ticks are made up for, how old they may be, and how many.
#[derive(Debug)]
pub struct CatchUp {
    /// Which.
    pub mode: CatchUpMode,
    /// Not older than this.
    pub window: Option<Duration>,
    /// At most so many.
    pub most: Option<u32>,
}

#[derive(Deserialize)]
struct CatchUpFields {
    mode: CatchUpMode,
    window: Option<Duration>,
    most: Option<u32>,
}

impl<'de> Deserialize<'de> for CatchUp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let fields = if value.is_string() { json!({ "mode": value }) } else { value };
        let CatchUpFields { mode, window, most } = serde_json::from_value(fields).map_err(serde::de::Error::custom)?;
        Ok(Self { mode, window, most })
    }
}

impl JsonSchema for CatchUp {
    fn schema_name() -> Cow<'static, str> {
        "CatchUp".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mode = generator.subschema_for::<CatchUpMode>();
        let mut window = generator.subschema_for::<Duration>();
        window.insert("description".to_owned(), json!("Ticks older than this are not made up for."));
        window.insert("default".to_owned(), json!("1d"));
        json_schema!({
            "description": "Which ticks are made up for that went by while nobody could start them: `none`, `latest`, `all`, or a mapping with a window and a bound.",
            "type": ["string", "object"],
            "default": "none",
            "if": { "type": "object" },
            "then": {
                "properties": {
                    "mode": mode,
                    "window": window,
                    "most": { "description": "The most ticks that `all` makes up for at once, the newest of them.", "type": "integer", "minimum": 1, "maximum": 10_000, "default": 100 },
                },
                "additionalProperties": false,
                "required": ["mode"],
            },
            "else": mode,
        })
    }
}
