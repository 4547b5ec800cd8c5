//! The values that templates see, and what becomes of one in text and in each SQL dialect.

use std::fmt;
use std::sync::Arc;

use minijinja::value::{Object, ObjectRepr, ValueKind};

use crate::dialect::Dialect;

/// A typed value for a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Any text.
    Text(String),
    /// A whole number.
    Int(i64),
    /// An exact decimal in its plain text form, such as `-12.50`; made by [`Value::number`].
    Number(String),
    /// True or false.
    Bool(bool),
    /// A calendar date.
    Date(jiff::civil::Date),
    /// An instant.
    Timestamp(jiff::Timestamp),
    /// A text that must not show: what is rendered with it is reported as secret.
    Secret(String),
}

impl Value {
    /// Reads a 64-bit whole number. The error is a sentence.
    pub fn int(text: &str) -> Result<Self, String> {
        text.parse().map(Self::Int).map_err(|_| format!("`{text}` is not a whole number of 64 bits"))
    }

    /// Reads an exact decimal number without an exponent. The error is a sentence.
    pub fn number(text: &str) -> Result<Self, String> {
        let digits = text.strip_prefix('-').unwrap_or(text);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if all_digits(whole) && all_digits(fraction) {
            Ok(Self::Number(text.to_owned()))
        } else {
            Err(format!("`{text}` is not a decimal number such as `12.50`"))
        }
    }

    /// Reads `true` or `false`. The error is a sentence.
    pub fn bool(text: &str) -> Result<Self, String> {
        text.parse().map(Self::Bool).map_err(|_| format!("`{text}` is neither `true` nor `false`"))
    }

    /// Reads `YYYY-MM-DD`. The error is a sentence.
    pub fn date(text: &str) -> Result<Self, String> {
        let plain = text.len() == 10 && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
        let date = text.parse().ok().filter(|_| plain);
        date.map(Self::Date).ok_or_else(|| format!("`{text}` is not a date such as `2026-01-31`"))
    }

    /// Reads an RFC 3339 instant. The error is a sentence.
    pub fn timestamp(text: &str) -> Result<Self, String> {
        text.parse().map(Self::Timestamp).map_err(|_| format!("`{text}` is not an RFC 3339 timestamp such as `2026-01-31T04:05:06Z`"))
    }

    /// The form that stands in text, and that `--param` takes.
    pub fn to_text(&self) -> String {
        match self {
            Self::Text(text) | Self::Number(text) | Self::Secret(text) => text.clone(),
            Self::Int(value) => value.to_string(),
            Self::Bool(value) => value.to_string(),
            Self::Date(value) => value.to_string(),
            Self::Timestamp(value) => value.to_string(),
        }
    }

    pub(super) fn to_jinja(&self) -> minijinja::Value {
        match self {
            Self::Text(text) | Self::Secret(text) => minijinja::Value::from(text.as_str()),
            Self::Int(value) => minijinja::Value::from(*value),
            Self::Bool(value) => minijinja::Value::from(*value),
            Self::Number(_) | Self::Date(_) | Self::Timestamp(_) => minijinja::Value::from_object(Typed(self.clone())),
        }
    }

    fn literal(&self, dialect: Dialect) -> Result<String, String> {
        match self {
            Self::Text(text) | Self::Secret(text) => dialect.text(text),
            Self::Int(value) => Ok(value.to_string()),
            Self::Number(text) => Ok(text.clone()),
            Self::Bool(value) => Ok(dialect.bool(*value).to_owned()),
            Self::Date(value) => Ok(dialect.date(&value.to_string())),
            Self::Timestamp(value) => Ok(dialect.timestamp(&value.strftime("%Y-%m-%dT%H:%M:%S%.fZ").to_string())),
        }
    }
}

/// A value that Jinja has no type for; prints as its text.
#[derive(Debug)]
struct Typed(Value);

impl Object for Typed {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_text())
    }
}

/// A name to be quoted as an identifier; made by `| ident`.
#[derive(Debug)]
pub(super) struct Identifier(pub String);

impl Object for Identifier {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The SQL of a value: one literal, one identifier, or the literals of a list with commas between.
pub(super) fn to_sql(value: &minijinja::Value, dialect: Dialect) -> Result<String, String> {
    if let Some(typed) = value.downcast_object_ref::<Typed>() {
        return typed.0.literal(dialect);
    }
    if let Some(name) = value.downcast_object_ref::<Identifier>() {
        return dialect.ident(&name.0);
    }
    match value.kind() {
        ValueKind::None => Ok("NULL".to_owned()),
        ValueKind::Bool => Ok(dialect.bool(value.is_true()).to_owned()),
        ValueKind::Number => number(&value.to_string()),
        ValueKind::String => dialect.text(value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => {
            let items = value.try_iter().map_err(|_| "a list could not be read".to_owned())?;
            let items = items
                .map(|item| match item.kind() {
                    ValueKind::Seq | ValueKind::Iterable | ValueKind::Undefined => Err("a list in SQL holds single values only".to_owned()),
                    _ => to_sql(&item, dialect),
                })
                .collect::<Result<Vec<_>, _>>()?;
            if items.is_empty() { Err("an empty list has no form in SQL".to_owned()) } else { Ok(items.join(", ")) }
        }
        kind => Err(format!("a {kind} has no form in SQL")),
    }
}

/// Jinja's own numbers: whole ones of any size, and finite floats.
fn number(text: &str) -> Result<String, String> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain =
        digits.starts_with(|c: char| c.is_ascii_digit()) && digits.bytes().all(|byte| byte.is_ascii_digit() || b".e+-".contains(&byte));
    if plain { Ok(text.to_owned()) } else { Err(format!("the number `{text}` has no form in SQL")) }
}

/// The plain text of a value, for fields that are no SQL.
pub(super) fn to_text(value: &minijinja::Value) -> Result<String, String> {
    match value.kind() {
        // Jinja would say `True`.
        ValueKind::Bool => Ok(value.is_true().to_string()),
        ValueKind::Number | ValueKind::String | ValueKind::Plain => Ok(value.to_string()),
        ValueKind::None => Err("`none` has no form in text".to_owned()),
        kind => Err(format!("a {kind} has no form in text; `| join(', ')` makes a text of a list")),
    }
}
