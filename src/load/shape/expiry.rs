//! How long keys live: a text or a mapping.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::{DURATION_PATTERN, Duration};
use crate::load::file::{KeyTtl, TtlColumn};

impl<'de> Deserialize<'de> for KeyTtl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Ok(match (value.as_str(), value.get("column").and_then(Value::as_str)) {
            (Some(text), _) => Self::After(Duration(text.to_owned())),
            (None, Some(column)) => Self::Column(column.to_owned()),
            (None, None) => Self::Unclear,
        })
    }
}

impl JsonSchema for KeyTtl {
    fn schema_name() -> Cow<'static, str> {
        "KeyTtl".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "How long keys live: a length of time, or `{ column: expires_at }` for a column that tells until when.",
            "type": ["string", "object"],
            "if": { "type": "object" },
            "then": generator.subschema_for::<TtlColumn>(),
            "else": { "pattern": DURATION_PATTERN },
            "examples": ["10m", { "column": "expires_at" }],
        })
    }
}
