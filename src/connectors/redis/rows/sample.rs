//! The columns of a source that are not declared: from a sample of its keys.

use std::collections::BTreeMap;

use super::layout;
use super::reading::page;
use crate::connectors::redis::reply::{bytes, items};
use crate::connectors::redis::{Command, Server, slot};
use crate::connectors::text::ObjectSample;
use crate::data::text::Guess;
use crate::data::text::json::members;
use crate::data::{Column, Schema, Type};
use crate::define::pipeline::{RedisRows, RowShape};
use crate::failure::Failure;

/// Keys of the sample that are read in one pipeline.
const READ_AT_ONCE: usize = 100;

/// What the values of a sample could be.
#[derive(Default)]
struct Seen {
    /// One for each column of the key.
    key: Vec<Guess>,
    fields: BTreeMap<String, Field>,
    objects: ObjectSample,
    rows: usize,
}

#[derive(Default)]
struct Field {
    guess: Guess,
    /// A value was not UTF-8.
    bytes: bool,
}

impl Seen {
    fn field(&mut self, name: &[u8], value: &[u8]) {
        let Ok(name) = std::str::from_utf8(name) else { return };
        let field = self.fields.entry(name.to_owned()).or_default();
        match std::str::from_utf8(value) {
            Ok(text) => field.guess.see(text),
            Err(_) => field.bytes = true,
        }
    }

    fn key(&mut self, parts: &[&[u8]]) {
        self.key.resize_with(parts.len(), Guess::default);
        for (guess, part) in self.key.iter_mut().zip(parts) {
            guess.see(&String::from_utf8_lossy(part));
        }
    }
}

/// The columns of a source, and which of their types were guessed.
pub(super) async fn columns(server: &Server, spec: &RedisRows) -> Result<(Schema, Vec<bool>), Failure> {
    let mut columns = layout::declared(spec);
    let mut guessed = vec![false; columns.len()];
    if spec.sample == 0 {
        return Ok((Schema { columns }, guessed));
    }
    let seen = look(server, spec).await?;
    for (name, guess) in spec.key.columns().zip(&seen.key) {
        if let Some(place) = columns.iter().position(|column| column.name == name)
            && !spec.columns.iter().any(|(declared, _)| declared == name)
        {
            columns[place].ty = guess.decide();
            guessed[place] = true;
        }
    }
    let mut found = seen.objects.decide();
    found.extend(seen.fields.iter().map(|(name, field)| Column::new(name, if field.bytes { Type::Bytes } else { field.guess.decide() })));
    // By name: the order in which a server gives fields and keys is not stable.
    found.sort_by(|one, other| one.name.cmp(&other.name));
    let before_ttl =
        columns.len() - usize::from(spec.ttl.is_some() && !spec.columns.iter().any(|(name, _)| Some(name) == spec.ttl.as_ref()));
    let new: Vec<Column> = found.into_iter().filter(|column| !columns.iter().any(|known| known.name == column.name)).collect();
    guessed.splice(before_ttl..before_ttl, new.iter().map(|_| true));
    columns.splice(before_ttl..before_ttl, new);
    if seen.rows == 0 && spec.columns.is_empty() {
        return Err(Failure::permanent(format!("no `{}` has a key like `{}`, so its columns are not known", spec.shape.word(), spec.key))
            .help("declare them with `columns: { name: type }`, or check the key and the database's number in the URL"));
    }
    Ok((Schema { columns }, guessed))
}

async fn look(server: &Server, spec: &RedisRows) -> Result<Seen, Failure> {
    let mut seen = Seen::default();
    let topology = server.topology().await?;
    if let Some(key) = spec.key.constant() {
        if topology.master(slot(key.as_bytes())).is_some() {
            read(server, spec, &[key.as_bytes().to_vec()], &mut seen).await?;
        }
        return Ok(seen);
    }
    for (place, master) in topology.masters.iter().enumerate() {
        // Each master gives its share, and what earlier ones lacked.
        let wanted = spec.sample * (place + 1) / topology.masters.len();
        let mut cursor = b"0".to_vec();
        loop {
            let page = page(server, spec, &master.address, &cursor).await?;
            for keys in page.keys.chunks(READ_AT_ONCE) {
                if seen.rows < wanted {
                    read(server, spec, &keys[..keys.len().min(wanted - seen.rows)], &mut seen).await?;
                }
            }
            cursor = page.cursor;
            if cursor == b"0" || seen.rows >= wanted {
                break;
            }
        }
    }
    Ok(seen)
}

/// Reads some keys into the sample. Keys of other types are left for the read to report.
async fn read(server: &Server, spec: &RedisRows, keys: &[Vec<u8>], seen: &mut Seen) -> Result<(), Failure> {
    let command = |key: &Vec<u8>| match spec.shape {
        RowShape::Hash => Command::new("HGETALL").key(key),
        RowShape::Stream => Command::new("XRANGE").key(key).arg("-").arg("+").arg("COUNT").arg(spec.sample.min(READ_AT_ONCE)),
        _ => Command::new("GET").key(key),
    };
    let commands: Vec<Command> = keys.iter().map(command).collect();
    for (key, reply) in keys.iter().zip(server.call(&commands).await?) {
        if matches!(&reply, redis::Value::ServerError(error) if error.code() == "WRONGTYPE") {
            continue;
        }
        let before = seen.rows;
        match spec.shape {
            RowShape::Hash => {
                let pairs = texts(reply)?;
                pairs.chunks_exact(2).for_each(|pair| seen.field(&pair[0], &pair[1]));
                seen.rows += usize::from(!pairs.is_empty());
            }
            RowShape::Stream => {
                for entry in items(reply)? {
                    let pairs = texts(items(entry)?.into_iter().nth(1).unwrap_or_default())?;
                    pairs.chunks_exact(2).for_each(|pair| seen.field(&pair[0], &pair[1]));
                    seen.rows += 1;
                }
            }
            _ => {
                if let Some(value) = bytes(reply)? {
                    // A value that is no object is left for the read to report.
                    let _ = members(&String::from_utf8_lossy(&value), |name, value| {
                        seen.objects.see(&name, value);
                        Ok(())
                    });
                    seen.rows += 1;
                }
            }
        }
        if seen.rows > before
            && let Some(parts) = spec.key.read(key)
        {
            seen.key(&parts);
        }
    }
    Ok(())
}

fn texts(reply: redis::Value) -> Result<Vec<Vec<u8>>, Failure> {
    items(reply)?.into_iter().map(|item| Ok(bytes(item)?.unwrap_or_default())).collect()
}
