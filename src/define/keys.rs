//! Keys of Redis that are copied as they are: which, and how they meet what the target has.

use super::connections::{Family, engine_of};
use super::pipeline::{Conflict, CopyBy, KeyType, KeysSink, KeysSource};
use super::reader::Reader;
use crate::load::file;
use crate::load::shape;

/// Reads an input.
pub fn input(reader: &mut Reader<'_>, at: &str, said: &file::RedisInput) -> Option<KeysSource> {
    let connection = said.redis.clone()?;
    engine_of(reader, &format!("{at}/redis"), &connection, Family::Redis);
    let rows = [
        ("hash", said.hash.is_some()),
        ("json", said.json.is_some()),
        ("string", said.string.is_some()),
        ("list", said.list.is_some()),
        ("set", said.set.is_some()),
        ("sorted_set", said.sorted_set.is_some()),
        ("stream", said.stream.is_some()),
        ("channel", said.channel.is_some()),
        ("columns", said.columns.is_some()),
        ("sample", said.sample.is_some()),
        ("ttl", said.ttl.is_some()),
        ("other_types", said.other_types.is_some()),
    ];
    for (key, _) in rows.iter().filter(|(_, there)| *there) {
        let message = format!("`keys` copies keys as they are, and `{key}` is for keys that are read as rows");
        reader.error_at_key("redis-option", &format!("{at}/{key}"), message, format!("remove `{key}`, or `keys`"));
    }
    let keys_at = format!("{at}/keys");
    let mut patterns = Vec::new();
    for (index, pattern) in said.keys.iter().flatten().enumerate() {
        patterns.push(reader.text(&format!("{keys_at}/{index}"), pattern)?);
    }
    if !patterns.is_empty() && patterns.iter().all(|pattern| pattern.starts_with('!')) {
        let help = "add a pattern of keys to take, such as `\"*\"`; a key that begins with `!` is written `\\!`";
        reader.error("redis-keys", &keys_at, "every pattern takes keys away, and none names keys to take", help);
    }
    let lifetime = said.lifetime.as_ref();
    let length = |said: Option<&shape::Duration>| said.and_then(shape::Duration::read);
    let (least, most) = (length(lifetime.and_then(|it| it.min.as_ref())), length(lifetime.and_then(|it| it.max.as_ref())));
    let size = |said: Option<&shape::Size>| said.and_then(shape::Size::read);
    let (smallest, largest) =
        (size(said.size.as_ref().and_then(|it| it.min.as_ref())), size(said.size.as_ref().and_then(|it| it.max.as_ref())));
    let crossed = [("lifetime", least.zip(most).is_some_and(|(a, b)| a > b)), ("size", smallest.zip(largest).is_some_and(|(a, b)| a > b))];
    for (key, _) in crossed.iter().filter(|(_, crossed)| *crossed) {
        reader.error("out-of-range", &format!("{at}/{key}/min"), "the least is more than the most: no key fits", "swap `min` and `max`");
    }
    Some(KeysSource {
        connection,
        patterns,
        types: said.types.iter().flatten().map(|ty| key_type(*ty)).collect(),
        least_lifetime: least,
        most_lifetime: most,
        unlimited: lifetime.and_then(|it| it.unlimited).unwrap_or(true),
        least_bytes: smallest,
        most_bytes: largest,
    })
}

/// Refuses what is said of copied keys by an input that reads rows.
pub fn unused_by_rows(reader: &mut Reader<'_>, at: &str, said: &file::RedisInput) {
    let options = [("types", said.types.is_some()), ("lifetime", said.lifetime.is_some()), ("size", said.size.is_some())];
    for (key, _) in options.iter().filter(|(_, there)| *there) {
        let message = format!("`{key}` chooses among the keys of `keys`, and this input reads rows");
        reader.error_at_key("redis-option", &format!("{at}/{key}"), message, format!("remove `{key}`, or copy keys with `keys`"));
    }
}

/// Refuses what is said of copied keys by an output that takes rows.
pub fn unused_by_row_sinks(reader: &mut Reader<'_>, at: &str, said: &file::RedisOutput) {
    let options =
        [("key", said.key.is_some()), ("conflict", said.conflict.is_some()), ("copy", said.copy.is_some()), ("only", said.only.is_some())];
    for (key, _) in options.iter().filter(|(_, there)| *there) {
        let message = format!("`{key}` is for keys that are copied as they are, and this output takes rows");
        reader.error_at_key("redis-option", &format!("{at}/{key}"), message, format!("remove `{key}`"));
    }
}

/// Whether an output takes keys as they are: it names no shape of rows.
pub fn is_copy(said: &file::RedisOutput) -> bool {
    let shapes = [&said.hash, &said.json, &said.string, &said.list, &said.set, &said.sorted_set, &said.stream];
    shapes.iter().all(|shape| shape.is_none())
}

/// Reads an output.
pub fn output(reader: &mut Reader<'_>, at: &str, said: &file::RedisOutput) -> Option<KeysSink> {
    let connection = said.redis.clone()?;
    engine_of(reader, &format!("{at}/redis"), &connection, Family::Redis);
    for (key, _) in [("mode", said.mode.is_some()), ("ttl", said.ttl.is_some()), ("maxlen", said.maxlen.is_some())].iter().filter(|it| it.1)
    {
        let message = format!("`{key}` is for rows, and this output names no shape for them: it takes keys as they are");
        let help = format!("remove `{key}`, or add the key of a row, such as `hash: \"user:{{{{ id }}}}\"`");
        reader.error_at_key("redis-option", &format!("{at}/{key}"), message, help);
    }
    let rename = said.key.as_ref().and_then(|text| reader.rename(&format!("{at}/key"), text));
    let conflict = match said.conflict {
        Some(file::Conflict::Error) | None => Conflict::Error,
        Some(file::Conflict::Skip) => Conflict::Skip,
        Some(file::Conflict::Replace) => Conflict::Replace,
    };
    let copy = match said.copy {
        Some(file::CopyBy::Auto) | None => CopyBy::Auto,
        Some(file::CopyBy::Dump) => CopyBy::Dump,
        Some(file::CopyBy::Commands) => CopyBy::Commands,
    };
    Some(KeysSink { connection, rename, conflict, copy, only: said.only.unwrap_or(false) })
}

fn key_type(said: file::KeyType) -> KeyType {
    match said {
        file::KeyType::String => KeyType::String,
        file::KeyType::List => KeyType::List,
        file::KeyType::Set => KeyType::Set,
        file::KeyType::SortedSet => KeyType::SortedSet,
        file::KeyType::Hash => KeyType::Hash,
        file::KeyType::Stream => KeyType::Stream,
    }
}
