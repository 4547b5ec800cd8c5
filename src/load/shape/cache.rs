//! The shapes that only caches and lookups have.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::Entries;
use crate::load::file::Missing;

/// A number of rows, or a share of rows: `1000` or `90%`.
#[derive(Clone, Debug, Deserialize)]
pub struct Amount(pub Value);

/// What a share looks like.
pub const SHARE_PATTERN: &str = "^[0-9]{1,2}%$|^100%$";

impl JsonSchema for Amount {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Amount".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["integer", "string"], "minimum": 0, "maximum": 1_000_000_000_000_000_u64, "pattern": SHARE_PATTERN })
    }
}

/// A share: `10%`.
#[derive(Clone, Debug, Deserialize)]
pub struct Share(pub String);

impl Share {
    /// The share it names, from 0 to 1; `None` when it does not match its pattern.
    pub fn read(&self) -> Option<f64> {
        Some(f64::from(self.0.strip_suffix('%')?.parse::<u8>().ok()?) / 100.0)
    }
}

impl JsonSchema for Share {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Share".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": SHARE_PATTERN })
    }
}

/// One column, or columns by the names they have elsewhere.
#[derive(Debug)]
pub enum Columns {
    /// Written as one name.
    One(String),
    /// Written as a mapping.
    Named(Entries<String>),
}

/// Columns in a list, or by new names.
#[derive(Debug)]
pub enum Names {
    /// Written as a list.
    List(Vec<String>),
    /// Written as a mapping.
    Renamed(Entries<String>),
}

impl<'de> Deserialize<'de> for Columns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Value::deserialize(deserializer)? {
            Value::String(one) => Self::One(one),
            many => Self::Named(serde_json::from_value(many).map_err(D::Error::custom)?),
        })
    }
}

impl JsonSchema for Columns {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Columns".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "object"],
            "if": { "type": "object" },
            "then": { "additionalProperties": { "type": "string", "minLength": 1 }, "minProperties": 1 },
            "else": { "minLength": 1 },
        })
    }
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Value::deserialize(deserializer)? {
            list @ Value::Array(_) => Self::List(serde_json::from_value(list).map_err(D::Error::custom)?),
            many => Self::Renamed(serde_json::from_value(many).map_err(D::Error::custom)?),
        })
    }
}

impl JsonSchema for Names {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Names".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["array", "object"],
            "if": { "type": "object" },
            "then": { "additionalProperties": { "type": "string", "minLength": 1 }, "minProperties": 1 },
            "else": { "items": { "type": "string", "minLength": 1 }, "minItems": 1 },
        })
    }
}

impl<'de> Deserialize<'de> for Missing {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Value::deserialize(deserializer)?.as_str() {
            Some("reject") => Self::Reject,
            Some("drop") => Self::Drop,
            Some("fail") => Self::Fail,
            // YAML's own null, or the text; the schema has reported everything else.
            _ => Self::Null,
        })
    }
}

impl JsonSchema for Missing {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Missing".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let said = [
            ("null", "The added columns are NULL."),
            ("reject", "It is a bad row."),
            ("drop", "It is left out."),
            ("fail", "The stage fails."),
        ];
        json_schema!({
            "enum": said.iter().map(|(word, _)| json!(word)).chain([Value::Null]).collect::<Vec<_>>(),
            "enumDescriptions": said.iter().map(|(_, said)| *said).chain([said[0].1]).collect::<Vec<_>>(),
        })
    }
}
