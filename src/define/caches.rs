//! Cache stages, and the steps that look into them.

use std::time::Duration;

use super::connections::{Family, engine_of};
use super::graph::items;
use super::inputs::dialect;
use super::pipeline::{
    Amount, Cache, CacheHome, CacheLoad, CacheMode, Kind, Lookup, Missing, OnBackendError, Output, RESERVED, SinkSpec, Stage, WriteMode,
};
use super::reader::Reader;
use super::stages::positive;
use super::steps::names;
use crate::diagnostic::Diagnostic;
use crate::diagnostic::suggest::known_names;
use crate::load::document::child;
use crate::load::file::{self, CacheStageMode};
use crate::load::shape::{self, Columns, Names, Size};

/// Memory of a cache that does not say.
const MEMORY_BYTES: u64 = 256 << 20;

/// How long rows are served that can be loaded again, when the cache does not say.
const TTL: Duration = Duration::from_secs(600);

/// The longest a row of a server is served from memory, when the cache does not say.
const MEMORY_TTL: Duration = Duration::from_secs(10);

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
    let home = match &said.home {
        None => None,
        Some(said) => Some(home(reader, &format!("{at}/in"), said, &key)?),
    };
    let on_backend_error = outage(reader, at, said);
    let length = |said: Option<&shape::Duration>| said.and_then(shape::Duration::read);
    let ttl = said.ttl.as_ref();
    let memory_ttl = memory.map(|memory| length(memory.ttl.as_ref()).unwrap_or(MEMORY_TTL)).filter(|_| home.is_some());
    Some(Cache {
        key,
        home,
        on_backend_error,
        memory_ttl,
        ttl: length(ttl.and_then(|ttl| ttl.base.as_ref())).or_else(|| load.is_some().then_some(TTL)),
        load,
        filled: said.from.is_some(),
        jitter: ttl.and_then(|ttl| ttl.jitter.as_ref()).and_then(shape::Share::read).unwrap_or(0.0),
        negative_ttl: length(said.negative_ttl.as_ref()),
        stale_if_error: length(said.stale_if_error.as_ref()).unwrap_or_default(),
        version: said.version.as_ref().map(|version| (version.clone(), format!("{at}/version"))),
        memory_bytes: memory.and_then(|memory| memory.max.as_ref()).and_then(Size::read).unwrap_or(MEMORY_BYTES),
        refresh: refresh(reader, at, said),
        rate: said.rate,
        min_rows: said.min_rows.as_ref().and_then(amount),
    })
}

/// What fills a cache can only be read again when it is a system, and no stage of the run.
fn refresh(reader: &mut Reader<'_>, at: &str, said: &file::CacheStage) -> Option<Duration> {
    let every_at = format!("{at}/refresh/every");
    let every = said.refresh.as_ref()?.every.as_ref();
    positive(reader, &every_at, every);
    if items(said.from.as_ref(), "").iter().any(|(_, input)| matches!(input, file::Input::Stage(_))) {
        let message = "a stage gives its rows once in a run, and cannot be read again";
        reader.error_at_key("cache-refresh", &format!("{at}/refresh"), message, "read the table or files that the stage reads or writes");
    }
    every.and_then(shape::Duration::read)
}

/// What lookups do while the server cannot be reached must be possible.
fn outage(reader: &mut Reader<'_>, at: &str, said: &file::CacheStage) -> OnBackendError {
    let pointer = format!("{at}/on_backend_error");
    let memory = said.levels.as_ref().and_then(|levels| levels.memory.as_ref());
    let ttl_at = format!("{at}/levels/memory/ttl");
    if said.home.is_none() && !reader.broken(&format!("{at}/in")) {
        if said.on_backend_error.is_some() {
            let message = "the cache has no server that could fail";
            reader.error_at_key("cache-outage", &pointer, message, "add `in:`, or remove `on_backend_error`");
        }
        if memory.is_some_and(|memory| memory.ttl.is_some()) {
            let message = "rows in memory alone are served for the `ttl` of the cache";
            reader.error_at_key("cache-times", &ttl_at, message, "write `ttl: { base: … }` for the cache, or add `in:`");
        }
    }
    match said.on_backend_error {
        None | Some(file::OnBackendError::Fail) => OnBackendError::Fail,
        Some(file::OnBackendError::Bypass) => {
            if said.load.is_none() && !reader.broken(&format!("{at}/load")) {
                let message = "`bypass` loads what is missing, and the cache does not know how";
                reader.error("cache-outage", &pointer, message, "add `load:`, or write `fail`");
            }
            OnBackendError::Bypass
        }
        Some(file::OnBackendError::Stale) => {
            if memory.is_none() || said.stale_if_error.is_none() {
                let message = "`stale` serves rows in memory past their time, and the cache does not say which or for how long";
                reader.error("cache-outage", &pointer, message, "add `levels: { memory: {} }` and `stale_if_error:`");
            }
            OnBackendError::Stale
        }
    }
}

fn home(reader: &mut Reader<'_>, at: &str, said: &file::CacheHome, key: &[(String, String)]) -> Option<CacheHome> {
    let connection = said.redis.clone()?;
    engine_of(reader, &format!("{at}/redis"), &connection, Family::Redis);
    let name_at = format!("{at}/key");
    let name = reader.key(&name_at, said.key.as_ref()?)?;
    let unknown = name.columns().find(|column| !key.iter().any(|(name, _)| name == column));
    let lacking = key.iter().find(|(column, _)| !name.columns().any(|name| name == column));
    match (unknown, lacking) {
        (Some(column), _) => {
            let help = known_names(column, "columns of the key", key.iter().map(|(name, _)| name.as_str()));
            reader.error("cache-name", &name_at, format!("`{column}` is no column of the cache's key"), help);
        }
        (None, Some((column, _))) => {
            let message = format!("the name lacks `{column}` of the key: rows that differ in it would have one name");
            reader.error("cache-name", &name_at, message, format!("add `{{{{ {column} }}}}` to it, or take `{column}` out of `key`"));
        }
        (None, None) => {}
    }
    if name.prefix().starts_with(RESERVED) {
        let message = format!("keys that begin with `{RESERVED}` are haul's own records");
        reader.error("key-reserved", &name_at, message, "begin the key with another text");
    }
    Some(CacheHome { connection, name, at: at.to_owned() })
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
        let keys = [
            ("transform", said.transform.is_some()),
            ("min_rows", said.min_rows.is_some()),
            ("rate", said.rate.is_some()),
            ("refresh", said.refresh.is_some()),
        ];
        for (key, there) in keys {
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
        let for_outages = said.on_backend_error == Some(file::OnBackendError::Stale);
        for (key, there) in
            [("negative_ttl", said.negative_ttl.is_some()), ("stale_if_error", said.stale_if_error.is_some() && !for_outages)]
        {
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
