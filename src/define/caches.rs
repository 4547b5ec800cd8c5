//! Cache stages, and the steps that look into them.

use super::pipeline::{Amount, Cache, Lookup, Missing};
use super::reader::Reader;
use super::steps::names;
use crate::load::document::child;
use crate::load::file;
use crate::load::shape::{self, Columns, Names, Size};

/// Memory of a cache that does not say.
const MEMORY_BYTES: u64 = 256 << 20;

/// Reads what makes a stage a cache. `None` when it cannot be understood, which has been reported.
pub fn read(reader: &mut Reader<'_>, at: &str, said: &file::CacheStage) -> Option<Cache> {
    let key = names(reader, &format!("{at}/key"), said.key.as_deref()?);
    let memory = said.levels.as_ref().and_then(|levels| levels.memory.as_ref());
    let memory_bytes = memory.and_then(|memory| memory.max.as_ref()).and_then(Size::read).unwrap_or(MEMORY_BYTES);
    Some(Cache { key, memory_bytes, min_rows: said.min_rows.as_ref().and_then(amount) })
}

fn amount(said: &shape::Amount) -> Option<Amount> {
    match said.0.as_str() {
        None => said.0.as_u64().map(Amount::Rows),
        Some(share) => Some(Amount::Share(f64::from(share.trim_end_matches('%').parse::<u8>().ok()?) / 100.0)),
    }
}

/// Reads a `lookup` step.
pub fn lookup(reader: &mut Reader<'_>, at: &str, said: &file::Lookup) -> Option<Lookup> {
    let on_at = format!("{at}/on");
    let on = match said.on.as_ref()? {
        Columns::One(column) => vec![(None, column.clone(), on_at)],
        Columns::Named(entries) => entries.0.iter().map(|(key, column)| (Some(key.clone()), column.clone(), child(&on_at, key))).collect(),
    };
    let add_at = format!("{at}/add");
    let add = match said.add.as_ref()? {
        Names::List(columns) => names(reader, &add_at, columns).into_iter().map(|(name, at)| (name.clone(), name, at)).collect(),
        Names::Renamed(entries) => entries.0.iter().map(|(new, column)| (column.clone(), new.clone(), child(&add_at, new))).collect(),
    };
    let missing = match said.missing {
        None | Some(file::Missing::Null) => Missing::Null,
        Some(file::Missing::Reject) => Missing::Reject,
        Some(file::Missing::Drop) => Missing::Drop,
        Some(file::Missing::Fail) => Missing::Fail,
    };
    Some(Lookup { cache: said.cache.clone()?, on, add, missing, at: at.to_owned() })
}
