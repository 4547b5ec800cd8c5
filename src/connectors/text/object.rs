//! The members of JSON objects as the columns of rows: what is looked for, what it becomes, and what a sample of it could be.

use std::fmt::Display;

use super::rows::{RowsOut, bad_value};
use crate::data::text::json::{Value, members, string};
use crate::data::text::{Builder, Guess};
use crate::data::{Column, Schema, Type};

/// A column that is read.
pub(in crate::connectors) struct Wanted {
    /// Its name.
    pub name: String,
    ty: Type,
    guessed: bool,
    /// A JSON null is a value of a JSON column here, and NULL is a missing key: how haul writes them, and reads its own back.
    keeps_null: bool,
}

/// Columns of a sample with those that are declared, which need no guess: the types of these, and behind them those that the sample did not hold.
/// Says of each whether it is guessed.
pub(in crate::connectors) fn with_declared<'a>(
    sampled: Vec<Column>,
    declared: impl IntoIterator<Item = (&'a String, &'a Type)>,
) -> (Schema, Vec<bool>) {
    let mut columns = sampled;
    let mut guessed = vec![true; columns.len()];
    for (name, ty) in declared {
        match columns.iter().position(|column| column.name == *name) {
            Some(place) => {
                columns[place].ty = ty.clone();
                guessed[place] = false;
            }
            None => {
                columns.push(Column::new(name, ty.clone()));
                guessed.push(false);
            }
        }
    }
    (Schema { columns }, guessed)
}

/// What is known of an object's members after the keys were looked at: the value of each wanted column.
pub(in crate::connectors) type Members<'a> = Vec<Option<Value<'a>>>;

impl Wanted {
    /// What is read of which columns. With `keeps_null`, NULL of a JSON column is a missing key, and `null` is a value.
    pub(in crate::connectors) fn of(schema: &Schema, guessed: &[bool], keeps_null: bool) -> Vec<Self> {
        let want = |(column, guessed): (&Column, &bool)| {
            let keeps_null = keeps_null && column.ty == Type::Json;
            Self { name: column.name.clone(), ty: column.ty.clone(), guessed: *guessed, keeps_null }
        };
        schema.columns.iter().zip(guessed).map(want).collect()
    }
}

/// The value of each wanted column in an object. A key that is none of `all` is an error, unless others are passed over.
pub(in crate::connectors) fn find<'a>(text: &'a str, all: Option<&[String]>, wanted: &[Wanted]) -> Result<Members<'a>, String> {
    let mut found: Members<'a> = vec![None; wanted.len()];
    // Objects mostly have the same keys in the same order: the next one is looked for where the last one was found.
    let mut next = 0;
    members(text, |key, value| {
        let place = match wanted.get(next) {
            Some(column) if column.name == key => Some(next),
            _ => wanted.iter().position(|column| column.name == key),
        };
        match place {
            Some(place) if found[place].is_some() => return Err(format!("the key `{key}` stands twice in the object")),
            Some(place) => {
                found[place] = Some(value);
                next = place + 1;
            }
            None if all.is_none_or(|all| all.iter().any(|name| *name == key)) => {}
            None => {
                return Err(format!("unknown key `{key}`; declare it in `columns`, or raise `sample` so that it is found"));
            }
        }
        Ok(())
    })?;
    Ok(found)
}

/// Takes an object's text as a row: a good one, or one that is refused, with the reason.
pub(in crate::connectors) fn take(text: &str, origin: impl Display, all: Option<&[String]>, wanted: &[Wanted], out: &mut RowsOut) {
    let found = match find(text, all, wanted) {
        Ok(found) => found,
        Err(reason) => return out.reject(origin, reason, text),
    };
    let mut fault = None;
    for ((column, value), builder) in wanted.iter().zip(found).zip(&mut out.columns) {
        if let Err(reason) = append(column, value, builder) {
            builder.append_null();
            fault.get_or_insert_with(|| bad_value(&column.name, value.map_or("", Value::raw), &reason));
        }
    }
    match fault {
        None => out.good(text.len()),
        Some(reason) => out.bad(origin, reason, text),
    }
}

/// Appends a member's value to its column.
pub(in crate::connectors) fn append(column: &Wanted, value: Option<Value<'_>>, builder: &mut Builder) -> Result<(), String> {
    let strict_about = |what: &str| Err(format!("is a {what}, and the column is {}", column.ty));
    match (value, &column.ty) {
        (None, _) => builder.append_null(),
        (Some(Value::Null), _) if !column.keeps_null => builder.append_null(),
        (Some(value), Type::Json) => return builder.append(value.raw()),
        (Some(Value::Null), _) => builder.append_null(),
        (Some(Value::String(text)), ty) => {
            let text = string(text).ok_or("has a broken escape")?;
            let word = text.parse::<f64>().is_ok_and(|value| !value.is_finite());
            match ty {
                Type::Bool | Type::Int(_) | Type::UInt(_) | Type::Decimal(..) | Type::Array(_) if column.guessed => {
                    return strict_about("string");
                }
                Type::Float(_) | Type::Number if column.guessed && !word => return strict_about("string"),
                _ => return builder.append(&text),
            }
        }
        (Some(Value::Bool(_)), ty) if column.guessed && *ty != Type::Bool => return strict_about("truth value"),
        (Some(Value::Number(_)), Type::Bool) => return strict_about("number"),
        (Some(Value::Number(_)), Type::Text) if column.guessed => return strict_about("number"),
        (Some(Value::Nested(_)), Type::Array(_)) => return builder.append(value.map_or("", Value::raw)),
        (Some(Value::Nested(_)), ty) if column.guessed || *ty != Type::Text => return strict_about("nested value"),
        (Some(value), _) => return builder.append(value.raw()),
    }
    Ok(())
}

/// The keys of a sample, in the order they were first seen, and what their values could be.
#[derive(Default)]
pub(in crate::connectors) struct ObjectSample {
    keys: Vec<Key>,
}

#[derive(Default)]
struct Key {
    name: String,
    guess: Guess,
    bools: bool,
    numbers: bool,
    strings: bool,
    nested: bool,
}

impl ObjectSample {
    pub(in crate::connectors) fn see(&mut self, name: &str, value: Value<'_>) {
        let place = self.keys.iter().position(|key| key.name == name).unwrap_or_else(|| {
            self.keys.push(Key { name: name.to_owned(), ..Key::default() });
            self.keys.len() - 1
        });
        let key = &mut self.keys[place];
        match value {
            Value::Null => {}
            Value::Bool(text) => {
                key.bools = true;
                key.guess.see(text);
            }
            Value::Number(text) => {
                key.numbers = true;
                key.guess.see_json_number(text);
            }
            Value::String(text) => {
                key.strings = true;
                key.guess.see_string(&string(text).unwrap_or_default());
            }
            Value::Nested(_) => key.nested = true,
        }
    }

    /// The columns. A key whose values are nested, or of different kinds, is JSON, which keeps them as they are.
    pub(in crate::connectors) fn decide(&self) -> Vec<Column> {
        let decide = |key: &Key| {
            let kinds = u8::from(key.bools) + u8::from(key.numbers) + u8::from(key.strings);
            let ty = if key.nested || kinds > 1 { Type::Json } else { key.guess.decide() };
            Column::new(&key.name, ty)
        };
        self.keys.iter().map(decide).collect()
    }
}
