//! Rows → the commands that write them, and what the server must hold afterwards.

mod held;

use std::collections::HashMap;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::TimestampMicrosecondType;
use arrow::record_batch::RecordBatch;

use crate::clock;
use crate::connectors::redis::Command;
use crate::data::text::Printer;
use crate::data::text::json::json_string;
use crate::data::{Schema, Type};
use crate::define::pipeline::{KeyTtl, RESERVED, RedisRowsSink, RowMode, RowShape};
use crate::failure::Failure;
use crate::load::template::Part;

/// Values that one command adds to a collection.
const AT_ONCE: usize = 500;

/// Encodes the batches of one load.
pub(super) struct Encoder {
    spec: RedisRowsSink,
    schema: Schema,
    /// The column of each part of the key that is one.
    key: Vec<usize>,
    /// The columns that are stored: under their names, or the one that a string holds.
    fields: Vec<usize>,
    /// The column that a collection holds, and that of its scores.
    value: Option<usize>,
    score: Option<usize>,
    ttl: Option<usize>,
    /// The names of fields as members of a JSON object, quoted, with their colons.
    members: Vec<Vec<u8>>,
}

/// What a key holds of each stored column: text, or JSON in an object; `None` is a value that is not there.
pub(super) type Values = Vec<Option<Vec<u8>>>;

/// What a key must hold when its commands are done.
pub(super) enum Expected {
    /// Exactly these fields among those that were written; `None` is one that is not there.
    Fields(Vec<(String, Option<Vec<u8>>)>),
    /// This text.
    Text(Vec<u8>),
    /// These members, with their scores where they have some.
    Members(HashMap<Vec<u8>, Option<f64>>),
}

/// A key of a batch.
pub(super) struct Written {
    /// What writes it, in order.
    pub commands: Vec<Command>,
    /// What it must hold afterwards, and when it expires; `None` when nothing is to be compared.
    pub expected: Option<Expected>,
    /// When it expires, in milliseconds since 1970, where the load says so.
    pub expires_ms: Option<i64>,
    /// How many items the commands add to the end.
    pub appended: usize,
}

impl Encoder {
    /// For the batches of a load. The plan made sure that every column has its place.
    pub(super) fn new(spec: &RedisRowsSink, schema: &Schema) -> Result<Self, Failure> {
        let find = |name: &str| {
            let found = schema.find(name).map(|(place, _)| place);
            found.ok_or_else(|| Failure::permanent(format!("the rows have no column `{name}`, which `{}` needs", spec.key)))
        };
        let ttl = match &spec.ttl {
            KeyTtl::Column(name) => Some(find(name)?),
            KeyTtl::After(_) | KeyTtl::Unsaid => None,
        };
        let holds = |name: &str| if spec.shape.fixed().contains(&name) && !spec.shape.named() { find(name).map(Some) } else { Ok(None) };
        let (value, member, score) = (holds("value")?, holds("member")?, holds("score")?);
        let stored = |place: &usize| if spec.shape.named() { Some(*place) != ttl } else { Some(*place) == value };
        let fields: Vec<usize> = (0..schema.columns.len()).filter(stored).collect();
        let member_name = |place: &usize| {
            let mut name = Vec::new();
            json_string(&schema.columns[*place].name, &mut name);
            name.push(b':');
            name
        };
        Ok(Self {
            key: spec.key.columns().map(find).collect::<Result<_, _>>()?,
            members: fields.iter().map(member_name).collect(),
            fields,
            value: value.or(member),
            score,
            ttl,
            spec: spec.clone(),
            schema: schema.clone(),
        })
    }

    /// The keys of a batch in the order of their first rows. With `prove`, also what they must hold afterwards.
    pub(super) fn encode(&self, batch: &RecordBatch, prove: bool) -> Result<Vec<(Vec<u8>, Written)>, Failure> {
        let columns = self.printers(batch);
        let mut places: HashMap<Vec<u8>, usize> = HashMap::with_capacity(batch.num_rows());
        let mut keys: Vec<(Vec<u8>, Vec<usize>)> = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            let key = self.key_of(&columns, row)?;
            match places.get(&key) {
                Some(place) => keys[*place].1.push(row),
                None => {
                    places.insert(key.clone(), keys.len());
                    keys.push((key, vec![row]));
                }
            }
        }
        let now = clock::now_ms();
        let mut written = Vec::with_capacity(keys.len());
        for (key, rows) in keys {
            let last = rows.last().copied().unwrap_or_default();
            let expires_ms = self.expires(batch, last, now);
            let mut one = Written { commands: Vec::new(), expected: None, expires_ms, appended: 0 };
            match self.spec.shape {
                // Of a key's rows the last one stands.
                RowShape::Hash | RowShape::Json | RowShape::String => {
                    self.put(&key, self.stored(&columns, last, &key, &|_| false)?, prove, &mut one);
                }
                RowShape::List | RowShape::Set | RowShape::SortedSet => self.collection(&key, &columns, &rows, prove, &mut one)?,
                RowShape::Stream => self.stream(&key, &columns, &rows, &mut one),
            }
            self.expire(&key, &mut one);
            written.push((key, one));
        }
        Ok(written)
    }

    /// The columns of a batch; those behind the load's own are none of its rows'.
    pub(super) fn printers<'a>(&'a self, batch: &'a RecordBatch) -> Vec<Printer<'a>> {
        batch.columns().iter().zip(&self.schema.columns).map(|(array, column)| Printer::new(array, &column.ty)).collect()
    }

    /// What a row has for each stored column: text, or JSON in an object; `None` is a value that is not there. Columns whose value is `kept` are
    /// not looked at.
    pub(super) fn stored(&self, columns: &[Printer<'_>], row: usize, key: &[u8], kept: &dyn Fn(usize) -> bool) -> Result<Values, Failure> {
        let value = |place: &usize| {
            let place = *place;
            if kept(place) {
                return Ok(None);
            }
            match self.spec.shape {
                RowShape::Json => self.member(&columns[place], place, row),
                RowShape::Hash => Ok((!columns[place].is_null(row)).then(|| printed(&columns[place], row))),
                _ => self.held(columns, row, key).map(Some),
            }
        };
        self.fields.iter().map(value).collect()
    }

    /// The key of a row. A key that would be read back as other values is refused: two rows could meet in it.
    pub(super) fn key_of(&self, columns: &[Printer<'_>], row: usize) -> Result<Vec<u8>, Failure> {
        let mut key = Vec::with_capacity(32);
        let mut ends = Vec::with_capacity(self.key.len());
        let mut places = self.key.iter();
        for part in self.spec.key.parts() {
            match part {
                Part::Text(text) => key.extend_from_slice(text.as_bytes()),
                Part::Column(name) => {
                    let Some(column) = places.next().map(|place| &columns[*place]) else { continue };
                    if column.is_null(row) {
                        return Err(Failure::bad_rows(format!(
                            "the column `{name}` is NULL in a row, and stands in its key `{}`",
                            self.spec.key
                        ))
                        .help(format!("leave such rows out with `filter: \"{name} is not null\"`")));
                    }
                    let start = key.len();
                    column.print_raw(row, &mut key);
                    ends.push(start..key.len());
                }
            }
        }
        let ambiguous = ends.len() > 1
            && self.spec.key.read(&key).is_none_or(|read| read.iter().zip(&ends).any(|(found, meant)| *found != &key[meant.clone()]));
        if ambiguous || key.starts_with(RESERVED.as_bytes()) {
            let shown = String::from_utf8_lossy(&key).into_owned();
            let why = if ambiguous { "would be read back as other values" } else { "is one of haul's own records" };
            return Err(Failure::bad_rows(format!("the key `{shown}` of a row {why}: the template is `{}`", self.spec.key))
                .help("put a text between the columns that their values do not hold"));
        }
        Ok(key)
    }

    pub(super) fn expires(&self, batch: &RecordBatch, row: usize, now: i64) -> Option<i64> {
        match &self.spec.ttl {
            KeyTtl::Unsaid => None,
            KeyTtl::After(length) => Some(now.saturating_add(i64::try_from(length.as_millis()).unwrap_or(i64::MAX))),
            KeyTtl::Column(_) => instant(batch.column(self.ttl?), row),
        }
    }

    fn put(&self, key: &[u8], values: Values, prove: bool, written: &mut Written) {
        match self.spec.shape {
            RowShape::Hash => self.hash(key, values, prove, written),
            RowShape::Json => self.text(key, self.object(&values), prove, written),
            _ => self.text(key, values.into_iter().flatten().next().unwrap_or_default(), prove, written),
        }
    }

    fn hash(&self, key: &[u8], values: Values, prove: bool, written: &mut Written) {
        let merges = self.spec.mode == RowMode::Merge;
        if !merges {
            written.commands.push(Command::new("DEL").key(key));
        }
        let mut set = Command::new("HSET").key(key);
        let mut gone: Option<Command> = None;
        let names = self.fields.iter().map(|place| self.schema.columns[*place].name.as_str());
        for (name, value) in names.clone().zip(&values) {
            match value {
                Some(value) => set = set.arg(name).arg(value.as_slice()),
                None if merges => gone = Some(gone.unwrap_or_else(|| Command::new("HDEL").key(key)).arg(name)),
                None => {}
            }
        }
        written.commands.push(set);
        written.commands.extend(gone);
        written.expected = prove.then(|| Expected::Fields(names.map(str::to_owned).zip(values).collect()));
    }

    fn text(&self, key: &[u8], text: Vec<u8>, prove: bool, written: &mut Written) {
        written.commands.push(Command::new("SET").key(key).arg(text.as_slice()));
        written.expected = prove.then_some(Expected::Text(text));
    }

    /// A JSON object of members that are there.
    fn object(&self, values: &[Option<Vec<u8>>]) -> Vec<u8> {
        let mut text = vec![b'{'];
        for (name, value) in self.members.iter().zip(values) {
            let Some(value) = value else { continue };
            if text.len() > 1 {
                text.push(b',');
            }
            text.extend_from_slice(name);
            text.extend_from_slice(value);
        }
        text.push(b'}');
        text
    }

    /// A member of an object. NULL is `null`, except in JSON columns, where it is a missing member and `null` is a value.
    fn member(&self, printer: &Printer<'_>, place: usize, row: usize) -> Result<Option<Vec<u8>>, Failure> {
        let column = &self.schema.columns[place];
        if column.ty == Type::Json {
            if printer.is_null(row) {
                return Ok(None);
            }
            let json = printer.text(row).unwrap_or_default();
            if json.trim() != json || serde_json::from_str::<serde::de::IgnoredAny>(json).is_err() {
                return Err(Failure::bad_rows(format!(
                    "column `{}` holds text that is not JSON, or JSON with blanks around it",
                    column.name
                ))
                .help(format!("write it as text: `cast: {{ {}: text }}`", column.name)));
            }
        }
        let mut text = Vec::new();
        printer.print_json(row, &column.ty, &mut text);
        Ok(Some(text))
    }

    /// What a row puts into its key.
    fn held(&self, columns: &[Printer<'_>], row: usize, key: &[u8]) -> Result<Vec<u8>, Failure> {
        let Some(place) = self.value else { return Ok(Vec::new()) };
        if columns[place].is_null(row) {
            let (name, key) = (&self.schema.columns[place].name, String::from_utf8_lossy(key).into_owned());
            return Err(Failure::bad_rows(format!(
                "the column `{name}` of the key `{key}` is NULL, and a `{}` cannot hold it",
                self.spec.shape.word()
            ))
            .help(format!("leave such rows out with `filter: \"{name} is not null\"`, or write a `hash`")));
        }
        Ok(printed(&columns[place], row))
    }

    fn collection(&self, key: &[u8], columns: &[Printer<'_>], rows: &[usize], prove: bool, written: &mut Written) -> Result<(), Failure> {
        let name = match self.spec.shape {
            RowShape::List => "RPUSH",
            RowShape::Set => "SADD",
            _ => "ZADD",
        };
        // Of a member's scores the last one stands.
        let mut members = HashMap::new();
        for rows in rows.chunks(AT_ONCE) {
            let mut command = Command::new(name).key(key);
            for row in rows {
                let value = self.held(columns, *row, key)?;
                let score = self.score.map(|place| score(&columns[place], *row, key)).transpose()?;
                if let Some((text, _)) = &score {
                    command = command.arg(text.as_slice());
                }
                command = command.arg(value.as_slice());
                if prove && self.spec.shape != RowShape::List {
                    members.insert(value, score.map(|(_, number)| number));
                }
            }
            written.commands.push(command);
        }
        if self.spec.shape == RowShape::List {
            written.appended = rows.len();
        } else if prove {
            written.expected = Some(Expected::Members(members));
        }
        Ok(())
    }

    fn stream(&self, key: &[u8], columns: &[Printer<'_>], rows: &[usize], written: &mut Written) {
        for row in rows {
            let mut command = Command::new("XADD").key(key);
            if let Some(maxlen) = self.spec.maxlen {
                command = command.arg("MAXLEN").arg("~").arg(maxlen);
            }
            command = command.arg("*");
            let mut empty = true;
            for place in self.fields.iter().filter(|place| !columns[**place].is_null(*row)) {
                command = command.arg(self.schema.columns[*place].name.as_str()).arg(printed(&columns[*place], *row));
                empty = false;
            }
            if empty {
                // An entry has at least one field; one without a name is a row of NULLs, and no column can be called so.
                command = command.arg("").arg("");
            }
            written.commands.push(command);
        }
        written.appended = rows.len();
    }

    fn expire(&self, key: &[u8], written: &mut Written) {
        match written.expires_ms {
            // The server takes no time before 1970; any time that has passed removes the key.
            Some(ms) => written.commands.push(Command::new("PEXPIREAT").key(key).arg(ms.max(1))),
            None if self.ttl.is_some() && self.spec.mode != RowMode::Replace => written.commands.push(Command::new("PERSIST").key(key)),
            None => {}
        }
    }
}

/// A column's time in milliseconds, rounded up; `None` for NULL and for infinity.
fn instant(column: &ArrayRef, row: usize) -> Option<i64> {
    let column = column.as_primitive_opt::<TimestampMicrosecondType>()?;
    (column.is_valid(row) && column.value(row) != i64::MAX)
        .then(|| column.value(row).div_euclid(1000) + i64::from(column.value(row).rem_euclid(1000) > 0))
}

fn printed(column: &Printer<'_>, row: usize) -> Vec<u8> {
    let mut text = Vec::new();
    column.print_raw(row, &mut text);
    text
}

/// A score as the server reads it, and its number.
fn score(column: &Printer<'_>, row: usize, key: &[u8]) -> Result<(Vec<u8>, f64), Failure> {
    let text = if column.is_null(row) { Vec::new() } else { printed(column, row) };
    let number = std::str::from_utf8(&text).ok().and_then(|text| text.parse::<f64>().ok()).filter(|number| !number.is_nan());
    match number {
        Some(f64::INFINITY) => Ok((b"+inf".to_vec(), f64::INFINITY)),
        Some(f64::NEG_INFINITY) => Ok((b"-inf".to_vec(), f64::NEG_INFINITY)),
        Some(number) => Ok((text, number)),
        None => {
            let (key, what) = (String::from_utf8_lossy(key), if text.is_empty() { "NULL" } else { "NaN" });
            Err(Failure::bad_rows(format!("a `score` of the key `{key}` is {what}, which no sorted set can hold"))
                .help("leave such rows out with a `filter`"))
        }
    }
}
