//! Names, one or several.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// A name, or a list of names.
#[derive(Clone, Debug)]
pub struct NameOrNames(pub Vec<String>);

impl<'de> Deserialize<'de> for NameOrNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(match Value::deserialize(deserializer)? {
            Value::String(one) => vec![one],
            many => serde_json::from_value(many).map_err(D::Error::custom)?,
        }))
    }
}

impl JsonSchema for NameOrNames {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "NameOrNames".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "array"],
            "if": { "type": "array" },
            "then": { "items": { "type": "string", "minLength": 1 }, "minItems": 1 },
            "else": { "minLength": 1 },
        })
    }
}
