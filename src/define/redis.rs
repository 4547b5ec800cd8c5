//! Rows in Redis: which keys, how they hold rows, and what fits together.

use super::connections::{Family, engine_of};
use super::inputs::column_type;
use super::keys;
use super::pipeline::{KeyTtl, OtherTypes, RESERVED, RedisRows, RedisRowsSink, RowMode, RowShape};
use super::reader::Reader;
use crate::data::Type;
use crate::diagnostic::Diagnostic;
use crate::load::document::child;
use crate::load::file::{self, RedisMode};
use crate::load::template::KeyTemplate;

/// Rows looked at to find columns when an input declares none.
const SAMPLE: usize = 1000;

/// What an input or output says of each shape, in the order of [`RowShape::ALL`].
type Shapes<'a> = [&'a Option<String>; RowShape::ALL.len()];

/// Reads an input.
pub fn input(reader: &mut Reader<'_>, at: &str, said: &file::RedisInput) -> Option<RedisRows> {
    let connection = said.redis.clone()?;
    engine_of(reader, &format!("{at}/redis"), &connection, Family::Redis);
    keys::unused_by_rows(reader, at, said);
    let (shape, key) = one_shape(reader, at, shapes(said), "the input does not say how keys hold rows")?;
    let ttl = said.ttl.as_ref().and_then(|ttl| ttl.column.clone());
    let mut columns = Vec::new();
    for (name, ty) in said.columns.iter().flat_map(|entries| &entries.0) {
        let at = child(&format!("{at}/columns"), name);
        fits(reader, &at, shape, &key, ttl.as_deref(), name);
        columns.extend(column_type(reader, &at, ty).map(|ty| (name.clone(), ty)));
    }
    if said.sample.is_some() && !shape.named() {
        let message = format!("`sample` finds columns, and those of a `{}` are known", shape.word());
        reader.error_at_key("redis-option", &format!("{at}/sample"), message, "remove `sample`");
    }
    if let Some(name) = &ttl {
        expiry(reader, &format!("{at}/ttl/column"), shape, &key, name);
        if let Some((_, ty)) = columns.iter().find(|(column, ty)| column == name && *ty != Type::TimestampTz) {
            let message = format!("the expiry of a key is a timestamptz, and `columns` declares {ty}");
            reader.error("redis-columns", &child(&format!("{at}/columns"), name), message, "declare it as `timestamptz`, or not at all");
        }
    }
    let sample = said.sample.unwrap_or(if said.columns.is_none() { SAMPLE } else { 0 });
    let other_types = match said.other_types {
        Some(file::OtherTypes::Skip) => OtherTypes::Skip,
        Some(file::OtherTypes::Reject) | None => OtherTypes::Reject,
    };
    Some(RedisRows { connection, shape, key, columns, sample: if shape.named() { sample } else { 0 }, ttl, other_types })
}

/// Reads an input that listens to messages.
pub fn channel(reader: &mut Reader<'_>, at: &str, said: &file::RedisInput) -> Option<RedisRows> {
    let connection = said.redis.clone()?;
    engine_of(reader, &format!("{at}/redis"), &connection, Family::Redis);
    keys::unused_by_rows(reader, at, said);
    if let Some((shape, _)) = RowShape::ALL.into_iter().zip(shapes(said)).find(|(_, key)| key.is_some()) {
        let message = format!("`channel` listens to messages, and `{}` reads keys; an input does one of them", shape.word());
        reader.error_at_key("redis-shape", &format!("{at}/{}", shape.word()), message, "keep one, and write a stream for each");
        return None;
    }
    for (key, _) in [("sample", said.sample.is_some()), ("ttl", said.ttl.is_some()), ("other_types", said.other_types.is_some())]
        .iter()
        .filter(|it| it.1)
    {
        let message = format!("`{key}` is about keys, and a message is in none");
        reader.error_at_key("redis-option", &format!("{at}/{key}"), message, format!("remove `{key}`"));
    }
    let channel_at = format!("{at}/channel");
    let key = reader.key(&channel_at, said.channel.as_ref()?)?;
    let named = |name: &str| key.columns().any(|column| column == name);
    let declared = || said.columns.iter().flat_map(|entries| &entries.0);
    // A member that is called `value` beside others is one of an object.
    let object = declared().any(|(name, _)| name != "value" && !named(name));
    let shape = if object { RowShape::Json } else { RowShape::String };
    if !object && named("value") {
        let message = "`value` is the column of the message, and cannot stand in the channel's name";
        reader.error("key-template", &channel_at, message, "rename the column of the channel");
        return None;
    }
    let columns =
        declared().filter_map(|(name, ty)| Some((name.clone(), column_type(reader, &child(&format!("{at}/columns"), name), ty)?)));
    let columns = columns.collect();
    Some(RedisRows { connection, shape, key, columns, sample: 0, ttl: None, other_types: OtherTypes::Reject })
}

/// Reads an output.
pub fn output(reader: &mut Reader<'_>, at: &str, said: &file::RedisOutput) -> Option<RedisRowsSink> {
    let connection = said.redis.clone()?;
    engine_of(reader, &format!("{at}/redis"), &connection, Family::Redis);
    keys::unused_by_row_sinks(reader, at, said);
    let (shape, key) = one_shape(
        reader,
        at,
        [&said.hash, &said.json, &said.string, &said.list, &said.set, &said.sorted_set, &said.stream],
        "the output does not say how keys hold rows",
    )?;
    let key_at = format!("{at}/{}", shape.word());
    if shape.one_row() && key.columns().next().is_none() {
        let message = "every row has the same key, and would overwrite the one before";
        reader.error("key-without-column", &key_at, message, "name the columns that tell rows apart: `user:{{ id }}`");
    }
    if key.prefix().starts_with(RESERVED) {
        let message = format!("keys that begin with `{RESERVED}` are haul's own records");
        reader.error("key-reserved", &key_at, message, "begin the key with another text");
    }
    let mode = mode(reader, at, shape, said.mode);
    if said.maxlen.is_some() && shape != RowShape::Stream {
        let message = format!("`maxlen` bounds a stream, and this is a `{}`", shape.word());
        reader.error_at_key("redis-option", &format!("{at}/maxlen"), message, "remove `maxlen`");
    }
    let ttl = match &said.ttl {
        Some(file::KeyTtl::After(length)) => {
            let length = length.read()?;
            if length.is_zero() {
                reader.error(
                    "out-of-range",
                    &format!("{at}/ttl"),
                    "a time of zero would end at once",
                    "write a longer time, or remove the key",
                );
            }
            KeyTtl::After(length)
        }
        Some(file::KeyTtl::Column(name)) => {
            expiry(reader, &format!("{at}/ttl/column"), shape, &key, name);
            KeyTtl::Column(name.clone())
        }
        Some(file::KeyTtl::Unclear) | None => KeyTtl::Unsaid,
    };
    Some(RedisRowsSink { connection, shape, key, mode, ttl, maxlen: said.maxlen, changes: false })
}

fn shapes(said: &file::RedisInput) -> Shapes<'_> {
    [&said.hash, &said.json, &said.string, &said.list, &said.set, &said.sorted_set, &said.stream]
}

/// The one shape that is said, with its key.
fn one_shape(reader: &mut Reader<'_>, at: &str, shapes: Shapes<'_>, none: &str) -> Option<(RowShape, KeyTemplate)> {
    let mut said = RowShape::ALL.into_iter().zip(shapes).filter_map(|(shape, key)| Some((shape, key.as_ref()?)));
    let Some((shape, text)) = said.next() else {
        if !RowShape::ALL.iter().map(|shape| shape.word()).chain(["channel"]).any(|key| reader.broken(&format!("{at}/{key}"))) {
            let words: Vec<String> = RowShape::ALL.iter().map(|shape| format!("`{}`", shape.word())).collect();
            reader.error(
                "redis-shape",
                at,
                none,
                format!("add one of {} with the key of a row, such as `hash: \"user:{{{{ id }}}}\"`", words.join(", ")),
            );
        }
        return None;
    };
    if let Some((second, _)) = said.next() {
        let message = format!("`{}` and `{}` both say how keys hold rows; one of them can", shape.word(), second.word());
        let problem = reader.document.at_key(Diagnostic::error("redis-shape", message), &format!("{at}/{}", second.word()), "the second");
        let problem = reader.document.at_key(problem, &format!("{at}/{}", shape.word()), "the first");
        reader.problems.push(problem.help("keep one, or write a list with one item for each"));
        return None;
    }
    let key_at = format!("{at}/{}", shape.word());
    let key = reader.key(&key_at, text)?;
    if let Some(taken) = key.columns().find(|name| shape.fixed().contains(name)) {
        let message = format!("`{taken}` is the column of what a `{}` holds, and cannot stand in its key", shape.word());
        reader.error("key-template", &key_at, message, "rename the column of the key");
        return None;
    }
    Some((shape, key))
}

/// Checks a declared column against what its shape has.
fn fits(reader: &mut Reader<'_>, at: &str, shape: RowShape, key: &KeyTemplate, ttl: Option<&str>, name: &str) {
    let known: Vec<&str> = key.columns().chain(shape.fixed().iter().copied()).chain(ttl).collect();
    if !shape.named() && !known.contains(&name) {
        let message = format!("a `{}` with this key has no column `{name}`", shape.word());
        reader.error_at_key("redis-columns", at, message, format!("its columns are {}", known.join(", ")));
    }
}

/// Checks the column of the expiry: it is none of the key's or of the shape's.
fn expiry(reader: &mut Reader<'_>, at: &str, shape: RowShape, key: &KeyTemplate, name: &str) {
    if key.columns().chain(shape.fixed().iter().copied()).any(|column| column == name) {
        let message = format!("`{name}` is a column of the key or of its value, and cannot be its expiry as well");
        reader.error("redis-columns", at, message, "name another column");
    }
}

fn mode(reader: &mut Reader<'_>, at: &str, shape: RowShape, said: Option<RedisMode>) -> RowMode {
    let possible: &[RowMode] = match shape {
        RowShape::Hash => &[RowMode::Replace, RowMode::Merge],
        RowShape::Json | RowShape::String => &[RowMode::Replace],
        RowShape::Set | RowShape::SortedSet => &[RowMode::Merge],
        RowShape::List | RowShape::Stream => &[RowMode::Append],
    };
    let said = said.map(|said| match said {
        RedisMode::Replace => RowMode::Replace,
        RedisMode::Merge => RowMode::Merge,
        RedisMode::Append => RowMode::Append,
    });
    if let Some(said) = said.filter(|said| !possible.contains(said)) {
        let message = format!("`mode: {}` cannot be done to a `{}`", said.word(), shape.word());
        let words: Vec<String> = possible.iter().map(|mode| format!("`mode: {}`", mode.word())).collect();
        reader.error("redis-mode", &format!("{at}/mode"), message, format!("a `{}` takes {}", shape.word(), words.join(" or ")));
    }
    said.unwrap_or(possible[0])
}
