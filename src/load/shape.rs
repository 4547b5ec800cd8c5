//! The shapes that files are made of, each with its serde form and its JSON Schema: a schema that gives leaf errors in a stock validator
//! and lets an editor complete the fields of the chosen family.

use std::borrow::Cow;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{DeserializeOwned, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::file::{BatchStage, CacheStage, Kind, Mask, Stage, StreamStage};

mod cache;
mod expiry;
mod names;

pub use cache::*;
pub use names::*;

/// A mapping in file order.
#[derive(Debug)]
pub struct Entries<T>(pub Vec<(String, T)>);

impl<T> Entries<T> {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&T> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for InOrder<T> {
            type Value = Entries<T>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a mapping")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = access.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(InOrder(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for Entries<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("MappingOf{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "additionalProperties": generator.subschema_for::<T>() })
    }
}

/// One of a thing, or a list of them.
#[derive(Debug)]
pub enum OneOrMany<T> {
    /// Written without a list.
    One(T),
    /// Written as a list.
    Many(Vec<T>),
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Value::deserialize(deserializer)? {
            list @ Value::Array(_) => Self::Many(serde_json::from_value(list).map_err(D::Error::custom)?),
            one => Self::One(serde_json::from_value(one).map_err(D::Error::custom)?),
        })
    }
}

impl<T: JsonSchema> JsonSchema for OneOrMany<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("OneOrMany{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<T>();
        json_schema!({
            "type": ["object", "array"],
            "if": { "type": "array" },
            "then": { "minItems": 1, "items": one },
            "else": one,
        })
    }
}

/// A text, number or boolean; its meaning is decided by its text as written.
#[derive(Clone, Debug, Deserialize)]
pub struct Scalar(pub Value);

impl JsonSchema for Scalar {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Scalar".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "number", "boolean"] })
    }
}

/// A text, or a mapping or list of texts and other values.
#[derive(Clone, Debug, Deserialize)]
pub struct Message(pub Value);

impl JsonSchema for Message {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Message".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "object", "array"], "examples": [{ "text": "{{ pipeline.name }}: {{ event.message }}" }] })
    }
}

/// A count, or a template that gives one.
pub struct Count;

impl JsonSchema for Count {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Count".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["integer", "string"], "minimum": 0, "maximum": 1_000_000_000_000_000_u64, "pattern": "^([0-9]+|.*\\{\\{.*)$", "examples": [1000] })
    }
}

/// A length of time: a whole number and `ms`, `s`, `m`, `h` or `d`.
#[derive(Clone, Debug, Deserialize)]
pub struct Duration(pub String);

impl JsonSchema for Duration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": DURATION_PATTERN, "examples": ["500ms", "2m", "1h"] })
    }
}

/// What a duration looks like.
pub const DURATION_PATTERN: &str = "^[0-9]{1,9}(ms|s|m|h|d)$";

impl Duration {
    /// The length it names; `None` when it does not match its pattern.
    pub fn read(&self) -> Option<std::time::Duration> {
        let unit_at = self.0.find(|c: char| !c.is_ascii_digit())?;
        let (number, unit) = self.0.split_at(unit_at);
        let milliseconds = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        Some(std::time::Duration::from_millis(number.parse::<u64>().ok()?.checked_mul(milliseconds)?))
    }
}

/// A number of bytes: a whole number and `B`, `KiB`, `MiB` or `GiB`.
#[derive(Clone, Debug, Deserialize)]
pub struct Size(pub String);

impl JsonSchema for Size {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": SIZE_PATTERN, "examples": ["64MiB", "1GiB"] })
    }
}

/// What a size looks like.
pub const SIZE_PATTERN: &str = "^[0-9]{1,9}(B|KiB|MiB|GiB)$";

impl Size {
    /// The bytes it names; `None` when it does not match its pattern.
    pub fn read(&self) -> Option<u64> {
        let unit_at = self.0.find(|c: char| !c.is_ascii_digit())?;
        let (number, unit) = self.0.split_at(unit_at);
        let shift = match unit {
            "B" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            _ => return None,
        };
        number.parse::<u64>().ok()?.checked_mul(1 << shift)
    }
}

impl<'de> Deserialize<'de> for Stage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        match value.get("kind").map(Kind::deserialize).transpose().map_err(D::Error::custom)? {
            Some(Kind::Batch) => Ok(Self::Batch(Box::new(serde_json::from_value(value).map_err(D::Error::custom)?))),
            Some(Kind::Cache) => Ok(Self::Cache(Box::new(serde_json::from_value(value).map_err(D::Error::custom)?))),
            Some(Kind::Stream) => Ok(Self::Stream(Box::new(serde_json::from_value(value).map_err(D::Error::custom)?))),
            None => Ok(Self::Unclear),
        }
    }
}

impl JsonSchema for Stage {
    fn schema_name() -> Cow<'static, str> {
        "Stage".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut kind = generator.subschema_for::<Kind>();
        kind.insert(
            "description".to_owned(),
            json!(
                "What the stage does: `batch` reads its inputs to their end, `stream` follows its input, `cache` keeps rows for lookups."
            ),
        );
        let batch = generator.subschema_for::<BatchStage>();
        let cache = generator.subschema_for::<CacheStage>();
        let stream = generator.subschema_for::<StreamStage>();
        json_schema!({
            "description": "One stage of a pipeline.",
            "type": "object",
            "required": ["kind"],
            "properties": { "kind": kind },
            "allOf": [
                { "if": { "required": ["kind"], "properties": { "kind": { "const": "batch" } } }, "then": batch },
                { "if": { "required": ["kind"], "properties": { "kind": { "const": "cache" } } }, "then": cache },
                { "if": { "required": ["kind"], "properties": { "kind": { "const": "stream" } } }, "then": stream },
            ],
        })
    }
}

impl<'de> Deserialize<'de> for Mask {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
        Ok(match (text("hash"), text("redact")) {
            (Some(salt), None) => Self::Hash(salt),
            (None, Some(text)) => Self::Redact(text),
            _ if value.is_null() || value.as_str() == Some("null") => Self::Null,
            _ => Self::Unclear,
        })
    }
}

impl JsonSchema for Mask {
    fn schema_name() -> Cow<'static, str> {
        "Mask".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "How a value is hidden: `hash` with a salt, `redact` with a text, or `null`.",
            "type": ["object", "string", "null"],
            "if": { "type": "object" },
            "then": {
                "properties": {
                    "hash": { "description": "The salt of a SHA-256 that replaces the value.", "type": "string", "minLength": 1, "examples": ["{{ secret.file('salt') }}"] },
                    "redact": { "description": "The text that replaces the value.", "type": "string", "examples": ["***"] },
                },
                "additionalProperties": false,
                "minProperties": 1,
                "maxProperties": 1,
            },
            "else": { "enum": ["null", null] },
        })
    }
}

/// The schema of a family: the key that is there decides which of the branches holds.
pub fn family(description: &str, branches: &[(&str, &str, Schema)]) -> Schema {
    let properties: serde_json::Map<_, _> =
        branches.iter().map(|(key, said, _)| ((*key).to_owned(), json!({ "description": said }))).collect();
    let branch = |(key, _, schema): &(&str, &str, Schema)| json!({ "if": { "required": [key] }, "then": schema });
    json_schema!({
        "description": description,
        "type": "object",
        "properties": properties,
        "anyOf": branches.iter().map(|(key, _, _)| json!({ "required": [key] })).collect::<Vec<_>>(),
        "allOf": branches.iter().map(branch).collect::<Vec<_>>(),
    })
}

/// Declares an enum whose variant is chosen by the key that is there.
macro_rules! families {
    ($(#[doc = $doc:literal])* pub enum $name:ident { $($(#[doc = $said:literal])* $variant:ident($key:literal, $fields:ident),)* }) => {
        $(#[doc = $doc])*
        #[derive(Debug)]
        pub enum $name {
            $($(#[doc = $said])* $variant($fields),)*
            /// No family is named; the schema has reported it.
            Unclear,
        }

        impl $name {
            /// The keys that name a family.
            pub const KEYS: &[&str] = &[$($key),*];
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let value = serde_json::Value::deserialize(deserializer)?;
                $(if value.get($key).is_some() {
                    return serde_json::from_value(value).map(Self::$variant).map_err(serde::de::Error::custom);
                })*
                Ok(Self::Unclear)
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let branches = [$(($key, concat!($($said),*).trim(), generator.subschema_for::<$fields>()),)*];
                $crate::load::shape::family(concat!($($doc),*).trim(), &branches)
            }
        }
    };
}
pub(super) use families;
