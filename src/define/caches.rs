//! Cache stages, and the steps that look into them.

use std::time::Duration;

use super::connections::{Family, engine_of};
use super::inputs::dialect;
use super::pipeline::{Amount, Cache, CacheLoad, CacheMode, Kind, Lookup, Missing, Output, SinkSpec, Stage, WriteMode};
use super::reader::Reader;
use super::steps::names;
use crate::diagnostic::Diagnostic;
use crate::load::document::child;
use crate::load::file::{self, CacheStageMode};
use crate::load::shape::{self, Columns, Names, Size};

/// Memory of a cache that does not say.
const MEMORY_BYTES: u64 = 256 << 20;

/// How long rows are served that can be loaded again, when the cache does not say.
const TTL: Duration = Duration::from_secs(600);

/// Keys in one query of a load that does not say.
const BATCH: usize = 500;

/// Reads what makes a stage a cache. `None` when it cannot be understood, which has been reported.
pub fn read(reader: &mut Reader<'_>, at: &str, said: &file::CacheStage) -> Option<Cache> {
    check_mode(reader, at, said);
    check_times(reader, at, said);
    let key = names(reader, &format!("{at}/key"), said.key.as_deref()?);
    let memory = said.levels.as_ref().and_then(|levels| levels.memory.as_ref());
    let load = match &said.load {
        None => None,
        Some(said) => Some(load(reader, &format!("{at}/load"), said)?),
    };
    let length = |said: Option<&shape::Duration>| said.and_then(shape::Duration::read);
    let ttl = said.ttl.as_ref();
    Some(Cache {
        key,
        ttl: length(ttl.and_then(|ttl| ttl.base.as_ref())).or_else(|| load.is_some().then_some(TTL)),
        load,
        filled: said.from.is_some(),
        jitter: ttl.and_then(|ttl| ttl.jitter.as_ref()).and_then(shape::Share::read).unwrap_or(0.0),
        negative_ttl: length(said.negative_ttl.as_ref()),
        stale_if_error: length(said.stale_if_error.as_ref()).unwrap_or_default(),
        version: said.version.as_ref().map(|version| (version.clone(), format!("{at}/version"))),
        memory_bytes: memory.and_then(|memory| memory.max.as_ref()).and_then(Size::read).unwrap_or(MEMORY_BYTES),
        min_rows: said.min_rows.as_ref().and_then(amount),
    })
}

/// Where rows come from must fit the mode.
fn check_mode(reader: &mut Reader<'_>, at: &str, said: &file::CacheStage) {
    let load_at = format!("{at}/load");
    let has = |key: &str, said: bool| said || reader.broken(&format!("{at}/{key}"));
    let (load, from) = (has("load", said.load.is_some()), has("from", said.from.is_some()));
    match said.mode {
        Some(CacheStageMode::Full) if said.load.is_some() => {
            let message = "a full cache loads nothing: what it does not have is nowhere";
            reader.error_at_key("cache-load", &load_at, message, "remove `load`, or write `mode: look_aside`");
        }
        Some(CacheStageMode::LookAside) if !load => {
            let message = "`look_aside` does not know how to load what is missing";
            reader.error("cache-load", &format!("{at}/mode"), message, "add `load: { sql: …, query: \"… in ({{ keys }})\" }`");
        }
        _ if !load && !from => {
            let message = "nothing fills the cache";
            reader.error_at_key("cache-load", at, message, "add `from:` to fill it at once, or `load:` to load what is looked for");
        }
        _ => {}
    }
    if said.from.is_none() && said.load.is_some() {
        for (key, there) in [("transform", said.transform.is_some()), ("min_rows", said.min_rows.is_some())] {
            if there {
                let message = format!("`{key}` is for the rows of `from`, and the cache has none");
                reader.error_at_key("cache-load", &format!("{at}/{key}"), message, format!("add `from:`, or remove `{key}`"));
            }
        }
    }
}

/// Times that need a load, and times that make no sense together.
fn check_times(reader: &mut Reader<'_>, at: &str, said: &file::CacheStage) {
    if said.load.is_none() && !reader.broken(&format!("{at}/load")) {
        for (key, there) in [("negative_ttl", said.negative_ttl.is_some()), ("stale_if_error", said.stale_if_error.is_some())] {
            if there {
                let message = format!("`{key}` is for caches that load what is missing, and this one has no `load`");
                reader.error_at_key("cache-times", &format!("{at}/{key}"), message, format!("add `load:`, or remove `{key}`"));
            }
        }
        return;
    }
    let base = said.ttl.as_ref().and_then(|ttl| ttl.base.as_ref()).and_then(shape::Duration::read).unwrap_or(TTL);
    let negative = said.negative_ttl.as_ref().and_then(shape::Duration::read);
    if negative.is_some_and(|negative| negative > base) {
        let message = "a key is known to have no row for longer than a row is served";
        reader.error(
            "cache-times",
            &format!("{at}/negative_ttl"),
            message,
            "write a time no longer than `ttl: { base: … }`, which is 10m by default",
        );
    }
}

fn load(reader: &mut Reader<'_>, at: &str, said: &file::Load) -> Option<CacheLoad> {
    let connection = said.sql.clone()?;
    let engine = engine_of(reader, &format!("{at}/sql"), &connection, Family::Sql);
    let query_at = format!("{at}/query");
    let query = said.query.as_ref()?;
    let dialect = dialect(engine);
    let Some(marked) = mark_keys(query) else {
        let message = "the query does not say where the keys go";
        reader.error("cache-load", &query_at, message, "write `… where id in ({{ keys }})`; for several columns `(a, b) in ({{ keys }})`");
        return None;
    };
    Some(CacheLoad {
        query: reader.sql(&query_at, &marked, dialect)?,
        connection,
        dialect,
        batch: said.batch.unwrap_or(BATCH),
        linger: said.linger.as_ref().and_then(shape::Duration::read).unwrap_or_default(),
        at: at.to_owned(),
    })
}

/// Makes of every `{{ keys }}` an expression that templates know, so that they check where it stands.
fn mark_keys(query: &str) -> Option<String> {
    let mut marked = String::with_capacity(query.len());
    let mut rest = query;
    while let Some(start) = rest.find("{{") {
        let Some(length) = rest[start..].find("}}") else { break };
        let tag = &rest[start..start + length + 2];
        marked.push_str(&rest[..start]);
        if tag[2..length].trim_matches(['-', ' ', '\n', '\t']) == "keys" {
            marked.push_str(&format!("{{{{{}}}}}", CacheLoad::KEYS))
        } else {
            marked.push_str(tag)
        }
        rest = &rest[start + length + 2..];
    }
    marked.push_str(rest);
    marked.contains(CacheLoad::KEYS).then_some(marked)
}

/// Checks the outputs that change caches: versions must fit, and the database must be first.
pub fn outputs(reader: &mut Reader<'_>, stages: &[Stage]) {
    for stage in stages {
        for output in &stage.flow.to {
            let SinkSpec::Cache(sink) = &output.sink else { continue };
            let Some(Kind::Cache(cache)) = stages.iter().find(|other| other.name == sink.cache).map(|cache| &cache.kind) else { continue };
            if sink.version.is_some() && cache.version.is_none() {
                let message = format!("the cache `{}` has no versions to compare with", sink.cache);
                let help = format!("add `version:` to `{}`, or remove it here", sink.cache);
                reader.error_at_key("cache-version", &format!("{}/version", output.at), message, help);
            }
            let late = |output: &&Output| matches!(&output.sink, SinkSpec::Sql(sink) if sink.mode == WriteMode::Replace);
            if sink.mode != CacheMode::Fill
                && let Some(late) = stage.flow.to.iter().find(late)
            {
                let message =
                    format!("the cache would change before `{}` does, which is replaced when all rows are there", late.sink.label());
                let problem = Diagnostic::error("cache-order", message);
                let problem = reader.document.at_value(problem, &format!("{}/cache", output.at), "");
                let problem = reader.document.at_value(problem, &format!("{}/mode", late.at), "replaced as a whole");
                reader.problems.push(
                    problem.help("write the table with `append` or `upsert`, or change the cache in a stage that comes `after` this one"),
                );
            }
        }
    }
}

fn amount(said: &shape::Amount) -> Option<Amount> {
    match said.0.as_str() {
        None => said.0.as_u64().map(Amount::Rows),
        Some(share) => shape::Share(share.to_owned()).read().map(Amount::Share),
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
