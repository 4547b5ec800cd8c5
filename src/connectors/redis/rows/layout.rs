//! Where in a key and its value each column stands.

use crate::data::{Column, Schema, Type};
use crate::define::pipeline::{RedisRows, RowShape};
use crate::failure::Failure;

/// Where a column's value comes from when a key is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The column of this number in the key's template.
    Key(usize),
    /// The field of this number in [`Layout::fields`].
    Field(usize),
    /// What the key holds besides: a string, an item, a member.
    Value,
    /// The place of an item in its list, from 0.
    Index,
    /// The score of a member.
    Score,
    /// The id of an entry.
    Id,
    /// When the key expires.
    Expiry,
}

/// The columns of a read.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// The columns, in order.
    pub schema: Schema,
    /// Which columns' types were guessed.
    pub guessed: Vec<bool>,
    /// Where each column stands.
    pub places: Vec<Place>,
    /// The fields or members that are read.
    pub fields: Vec<String>,
}

impl Layout {
    /// Whether the key's expiry is read.
    pub fn expires(&self) -> bool {
        self.places.contains(&Place::Expiry)
    }

    /// Lays the columns of a schema out over the keys of a source.
    pub fn of(spec: &RedisRows, schema: &Schema, guessed: Vec<bool>) -> Result<Self, Failure> {
        let mut fields = Vec::new();
        let mut places = Vec::with_capacity(schema.columns.len());
        for column in &schema.columns {
            let place = if let Some(in_key) = spec.key.columns().position(|name| name == column.name) {
                Place::Key(in_key)
            } else if spec.ttl.as_ref() == Some(&column.name) {
                Place::Expiry
            } else if spec.shape.fixed().contains(&column.name.as_str()) {
                match column.name.as_str() {
                    "index" => Place::Index,
                    "score" => Place::Score,
                    "entry_id" => Place::Id,
                    _ => Place::Value,
                }
            } else if spec.shape.named() {
                fields.push(column.name.clone());
                Place::Field(fields.len() - 1)
            } else {
                let (shape, key, name) = (spec.shape.word(), &spec.key, &column.name);
                return Err(Failure::permanent(format!("a `{shape}` with the key `{key}` has no column `{name}`")));
            };
            places.push(place);
        }
        Ok(Self { schema: schema.clone(), guessed, places, fields })
    }
}

/// The columns that a source has before any sample: those of the key and the shape, and the declared ones in their order.
pub(super) fn declared(spec: &RedisRows) -> Vec<Column> {
    let is_declared = |name: &str| spec.columns.iter().any(|(declared, _)| declared == name);
    let missing = |name: &&str| !is_declared(name);
    let key = spec.key.columns().filter(missing).map(|name| Column::new(name, Type::Text));
    let fixed = spec.shape.fixed().iter().copied().filter(missing).map(|name| Column::new(name, usual(name)));
    let said = spec.columns.iter().map(|(name, ty)| Column::new(name, ty.clone()));
    let mut columns: Vec<Column> = key.chain(fixed).chain(said).collect();
    for column in &mut columns {
        // A key column is never absent, and neither is what a key holds.
        let in_shape = spec.key.columns().any(|name| name == column.name) || spec.shape.fixed().contains(&column.name.as_str());
        column.nullable = !in_shape;
    }
    if let Some(ttl) = spec.ttl.as_ref().filter(|ttl| !is_declared(ttl)) {
        columns.push(Column::new(ttl, Type::TimestampTz));
    }
    columns
}

fn usual(fixed: &str) -> Type {
    match fixed {
        "index" => Type::Int(64),
        "score" => Type::Float(64),
        _ => Type::Text,
    }
}

/// The columns that name a row, where some do.
pub(super) fn key(spec: &RedisRows) -> Vec<String> {
    let inside: &[&str] = match spec.shape {
        RowShape::Hash | RowShape::Json | RowShape::String => &[],
        RowShape::List => &["index"],
        RowShape::Set | RowShape::SortedSet => &["member"],
        RowShape::Stream => &["entry_id"],
    };
    spec.key.columns().chain(inside.iter().copied()).map(str::to_owned).collect()
}
