//! NDJSON lines → batches.

use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::connectors::files::encoding::utf8;
use crate::connectors::files::look::Sampled;
use crate::connectors::files::rows::{Rows, RowsOut};
use crate::connectors::files::{codec, rows};
use crate::data::text::json::{Value, members, string};
use crate::data::text::{Builder, Guess};
use crate::data::{Chunk, Column, Schema, Type};
use crate::failure::Failure;

/// The longest line.
const MOST_LINE_BYTES: u64 = 1 << 30;

/// The lines of one NDJSON file, as rows of some columns.
pub(in crate::connectors::files) struct NdjsonRows {
    path: String,
    input: BufReader<Box<dyn Read + Send>>,
    /// Every column a line may have.
    all: Vec<String>,
    wanted: Vec<Wanted>,
    line: u64,
    text: Vec<u8>,
    count: Arc<AtomicU64>,
    counted: u64,
}

/// A column that is read.
struct Wanted {
    name: String,
    ty: Type,
    guessed: bool,
    /// A JSON null is a value of a JSON column here, and NULL is a missing key: how haul writes them, and reads its own back.
    keeps_null: bool,
}

/// What is known of a line's members after the keys were looked at: the value of each wanted column.
type Members<'a> = Vec<Option<Value<'a>>>;

impl NdjsonRows {
    /// `content` is decompressed; `count` counts the file's bytes as they lie.
    pub(in crate::connectors::files) fn open(path: &str, content: Box<dyn Read + Send>, count: Arc<AtomicU64>) -> Result<Self, Failure> {
        Ok(Self::from_line(1, path, utf8(content, "utf-8", path)?, count))
    }

    /// The part of a file that begins with that line.
    pub(in crate::connectors::files) fn from_line(line: u64, path: &str, content: Box<dyn Read + Send>, count: Arc<AtomicU64>) -> Self {
        let input = BufReader::with_capacity(256 << 10, content);
        let (all, wanted) = (Vec::new(), Vec::new());
        Self { path: path.to_owned(), input, all, wanted, line: line - 1, text: Vec::new(), count, counted: 0 }
    }

    /// Says what is read of which columns. With `keeps_null`, NULL of a JSON column is a missing key, and `null` is a value.
    pub(in crate::connectors::files) fn want(&mut self, all: &Schema, wanted: &Schema, guessed: &[bool], keeps_null: bool) {
        self.all = all.columns.iter().map(|column| column.name.clone()).collect();
        let want = |(column, guessed): (&Column, &bool)| {
            let keeps_null = keeps_null && column.ty == Type::Json;
            Wanted { name: column.name.clone(), ty: column.ty.clone(), guessed: *guessed, keeps_null }
        };
        self.wanted = wanted.columns.iter().zip(guessed).map(want).collect();
    }

    /// Reads the next line that is not empty into `text`, without its end; `false` at the end of the file.
    fn next_line(&mut self) -> Result<bool, Failure> {
        loop {
            self.text.clear();
            let read = self.input.by_ref().take(MOST_LINE_BYTES + 1).read_until(b'\n', &mut self.text);
            if read.map_err(|error| codec::read_failed(&self.path, error))? == 0 {
                return Ok(false);
            }
            self.line += 1;
            if self.text.len() as u64 > MOST_LINE_BYTES {
                return Err(Failure::permanent(format!("{}:{}: the line is longer than {MOST_LINE_BYTES} bytes", self.path, self.line)));
            }
            while self.text.last().is_some_and(u8::is_ascii_whitespace) {
                self.text.pop();
            }
            if !self.text.is_empty() {
                return Ok(true);
            }
        }
    }

    /// Adds up to `most` lines to the sample.
    pub(in crate::connectors::files) fn sample(&mut self, sample: &mut NdjsonSample, most: usize) -> Result<Sampled, Failure> {
        let mut seen = Sampled::default();
        while (seen.rows as usize) < most && self.next_line()? {
            if let Ok(text) = std::str::from_utf8(&self.text) {
                // A broken line is left for the read to report.
                let _ = members(text, |key, value| {
                    sample.see(&key, value);
                    Ok(())
                });
            }
            seen.rows += 1;
            seen.bytes += self.text.len() as u64 + 1;
        }
        Ok(seen)
    }
}

/// The value of each wanted column in a line.
fn find<'a>(text: &'a str, all: &[String], wanted: &[Wanted]) -> Result<Members<'a>, String> {
    let mut found: Members<'a> = vec![None; wanted.len()];
    // Lines mostly have the same keys in the same order: the next one is looked for where the last one was found.
    let mut next = 0;
    members(text, |key, value| {
        let place = match wanted.get(next) {
            Some(column) if column.name == key => Some(next),
            _ => wanted.iter().position(|column| column.name == key),
        };
        match place {
            Some(place) if found[place].is_some() => return Err(format!("the key `{key}` stands twice in the line")),
            Some(place) => {
                found[place] = Some(value);
                next = place + 1;
            }
            None if all.iter().any(|name| *name == key) => {}
            None => {
                return Err(format!("unknown key `{key}`; declare it in `columns`, or raise `sample` so that it is found"));
            }
        }
        Ok(())
    })?;
    Ok(found)
}

/// Appends a member's value to its column.
fn append(column: &Wanted, value: Option<Value<'_>>, builder: &mut Builder) -> Result<(), String> {
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

impl Rows for NdjsonRows {
    fn fill(&mut self, out: &mut RowsOut) -> Result<Option<Chunk>, Failure> {
        while !out.is_full() && self.next_line()? {
            let Ok(text) = std::str::from_utf8(&self.text) else {
                out.reject(&self.path, self.line, "the line is not UTF-8".to_owned(), &String::from_utf8_lossy(&self.text));
                continue;
            };
            let found = match find(text, &self.all, &self.wanted) {
                Ok(found) => found,
                Err(reason) => {
                    out.reject(&self.path, self.line, reason, text);
                    continue;
                }
            };
            let mut fault = None;
            for ((column, value), builder) in self.wanted.iter().zip(found).zip(&mut out.columns) {
                if let Err(reason) = append(column, value, builder) {
                    builder.append_null();
                    fault.get_or_insert_with(|| rows::bad_value(&column.name, value.map_or("", Value::raw), &reason));
                }
            }
            match fault {
                None => out.good(text.len()),
                Some(reason) => out.bad(&self.path, self.line, reason, text),
            }
        }
        let total = self.count.load(Ordering::Relaxed);
        let bytes = total - std::mem::replace(&mut self.counted, total);
        out.take(bytes)
    }
}

/// The keys of a sample, in the order they were first seen, and what their values could be.
#[derive(Default)]
pub(in crate::connectors::files) struct NdjsonSample {
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

impl NdjsonSample {
    fn see(&mut self, name: &str, value: Value<'_>) {
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
    pub(in crate::connectors::files) fn decide(&self) -> Vec<Column> {
        let decide = |key: &Key| {
            let kinds = u8::from(key.bools) + u8::from(key.numbers) + u8::from(key.strings);
            let ty = if key.nested || kinds > 1 { Type::Json } else { key.guess.decide() };
            Column::new(&key.name, ty)
        };
        self.keys.iter().map(decide).collect()
    }
}
