//! What a key holds → rows.

use super::layout::{Layout, Place};
use crate::connectors::redis::reply::{bytes, items};
use crate::connectors::text::{RowsOut, Wanted, append, bad_value, find};
use crate::data::text::json::{Value, json_string};
use crate::data::{BatchLimit, Chunk, Schema};
use crate::failure::Failure;

/// Rows in the making.
pub(super) struct Rows {
    layout: Layout,
    /// The members of JSON objects that are columns.
    wanted: Vec<Wanted>,
    out: RowsOut,
    bytes: u64,
}

/// A key and what is known of it besides its value.
#[derive(Clone, Copy)]
pub(super) struct Head<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The texts of the columns in it.
    pub parts: &'a [&'a [u8]],
    /// When it expires, in milliseconds since 1970; `None` when it never does.
    pub expires_ms: Option<i64>,
}

/// What one row has besides its key.
#[derive(Clone, Copy, Default)]
pub(super) struct Item<'a> {
    /// The string, the item of a list, the member.
    pub value: &'a [u8],
    /// The place in a list.
    pub index: i64,
    /// The score.
    pub score: &'a [u8],
    /// The id of an entry.
    pub id: &'a [u8],
    /// The layout's fields, in order.
    pub fields: &'a [Option<&'a [u8]>],
    /// The layout's fields as members of a JSON object, in order.
    pub members: &'a [Option<Value<'a>>],
}

impl Rows {
    /// Empty. With `keeps_null`, JSON's `null` is a value of a JSON column, as haul writes it.
    pub(super) fn new(layout: Layout, limit: BatchLimit, keeps_null: bool) -> Self {
        let columns = layout.schema.columns.iter().zip(&layout.guessed).zip(&layout.places);
        let members: Vec<(crate::data::Column, bool)> = columns
            .filter(|(_, place)| matches!(place, Place::Field(_)))
            .map(|((column, guessed), _)| (column.clone(), *guessed))
            .collect();
        let (columns, guessed): (Vec<_>, Vec<_>) = members.into_iter().unzip();
        let wanted = Wanted::of(&Schema { columns }, &guessed, keeps_null);
        let out = RowsOut::new(&layout.schema, &layout.guessed, Vec::new(), limit);
        Self { layout, wanted, out, bytes: 0 }
    }

    /// Where each column stands.
    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Whether the chunk must be handed on.
    pub(super) fn is_full(&self) -> bool {
        self.out.is_full()
    }

    /// Counts bytes that were read.
    pub(super) fn count(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// The chunk, after which the next one begins; `None` when nothing is in it.
    pub(super) fn take(&mut self) -> Result<Option<Chunk>, Failure> {
        self.out.take(std::mem::take(&mut self.bytes))
    }

    /// Adds a row.
    pub(super) fn push(&mut self, head: Head<'_>, item: Item<'_>) {
        let mut fault = None;
        for ((column, place), builder) in self.layout.schema.columns.iter().zip(&self.layout.places).zip(&mut self.out.columns) {
            let mut text: &[u8] = b"";
            let appended = match place {
                Place::Key(at) => {
                    text = head.parts.get(*at).copied().unwrap_or_default();
                    builder.append_raw(text)
                }
                Place::Field(at) if !item.members.is_empty() => {
                    let value = item.members[*at];
                    text = value.map_or("", Value::raw).as_bytes();
                    append(&self.wanted[*at], value, builder)
                }
                Place::Field(at) => match item.fields.get(*at).copied().flatten() {
                    Some(value) => {
                        text = value;
                        builder.append_raw(value)
                    }
                    None => {
                        builder.append_null();
                        Ok(())
                    }
                },
                Place::Value => {
                    text = item.value;
                    builder.append_raw(text)
                }
                Place::Score => {
                    text = item.score;
                    builder.append_raw(text)
                }
                Place::Id => {
                    text = item.id;
                    builder.append_raw(text)
                }
                Place::Index => builder.append(&item.index.to_string()),
                Place::Expiry => match head.expires_ms {
                    Some(ms) => builder.append_instant(ms.saturating_mul(1000)),
                    None => {
                        builder.append_null();
                        Ok(())
                    }
                },
            };
            if let Err(reason) = appended {
                builder.append_null();
                fault.get_or_insert_with(|| bad_value(&column.name, &String::from_utf8_lossy(text), &reason));
            }
        }
        match fault {
            None => self.out.good(item.value.len() + item.fields.iter().flatten().map(|field| field.len()).sum::<usize>()),
            Some(reason) => self.out.bad(String::from_utf8_lossy(head.key), reason, &self.shown(item)),
        }
    }

    /// Adds the row of a stream's entry, and gives its id.
    pub(super) fn push_entry(&mut self, head: Head<'_>, entry: redis::Value) -> Result<Vec<u8>, Failure> {
        let mut entry = items(entry)?.into_iter();
        let id = bytes(entry.next().unwrap_or_default())?.unwrap_or_default();
        let parts = items(entry.next().unwrap_or_default())?.into_iter();
        let pairs: Vec<Vec<u8>> = parts.map(|part| Ok(bytes(part)?.unwrap_or_default())).collect::<Result<_, Failure>>()?;
        self.bytes += pairs.iter().map(|part| part.len() as u64).sum::<u64>();
        let find = |name: &String| pairs.chunks_exact(2).find(|pair| pair[0] == name.as_bytes()).map(|pair| pair[1].as_slice());
        let fields: Vec<Option<&[u8]>> = self.layout.fields.iter().map(find).collect();
        self.push(head, Item { id: &id, fields: &fields, ..Item::default() });
        Ok(id)
    }

    /// Adds the row of a JSON object.
    pub(super) fn push_object(&mut self, head: Head<'_>, value: &[u8]) {
        let reason = match std::str::from_utf8(value) {
            Err(_) => "the value is not UTF-8".to_owned(),
            Ok(text) => match find(text, None, &self.wanted) {
                Ok(members) => return self.push(head, Item { value, members: &members, ..Item::default() }),
                Err(reason) => reason,
            },
        };
        self.reject(head.key, reason, value);
    }

    /// Refuses a key.
    pub(super) fn reject(&mut self, key: &[u8], reason: String, value: &[u8]) {
        self.out.reject(String::from_utf8_lossy(key), reason, &String::from_utf8_lossy(value));
    }

    /// A row as people read it.
    fn shown(&self, item: Item<'_>) -> String {
        if item.fields.is_empty() {
            return String::from_utf8_lossy(item.value).into_owned();
        }
        let mut text = vec![b'{'];
        for (name, value) in self.layout.fields.iter().zip(item.fields) {
            let Some(value) = value else { continue };
            if text.len() > 1 {
                text.push(b',');
            }
            json_string(name, &mut text);
            text.push(b':');
            json_string(&String::from_utf8_lossy(value), &mut text);
        }
        text.push(b'}');
        String::from_utf8_lossy(&text).into_owned()
    }
}
