//! Plans the caches of stages, and what lookups see of them.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::build::Builder;
use crate::cache::{self, Cache, Origin};
use crate::connectors::redis::Server;
use crate::data::{Schema, Type};
use crate::define::pipeline::{self as define, CacheHome, CacheMode, OnBackendError, SinkSpec, Step};
use crate::diagnostic::Diagnostic;
use crate::failure::{Failure, FailureKind};
use crate::transform;

/// How long a server is waited for that lookups can do without.
const PATIENCE: Duration = Duration::from_secs(5);

impl Builder<'_> {
    /// The cache of a cache stage, whose rows have the columns of `filled` when anything fills it. Planned again, it stays the same one:
    /// lookups hold it.
    pub(super) async fn cache(&mut self, number: usize, spec: &define::Cache, filled: &Schema) -> Option<Arc<Cache>> {
        let stage = &self.pipeline.stages[number];
        let origin = spec.load.as_ref().map(|load| Origin::new(load, self.connections));
        let schema = match (&spec.load, &origin) {
            (Some(load), Some(origin)) => self.loaded_columns(number, spec, load, origin, filled).await?,
            _ => filled.clone(),
        };
        let key: Vec<Option<usize>> = spec.key.iter().map(|(name, at)| self.cache_column(number, &schema, name, at)).collect();
        let version = match &spec.version {
            Some((name, at)) => Some((self.cache_column(number, &schema, name, at)?, at)),
            None => None,
        };
        let key: Vec<usize> = key.into_iter().collect::<Option<_>>()?;
        let mut fine = true;
        if let Some((place, at)) = version
            && !cache::orders(&schema.columns[place].ty)
        {
            let message = format!("`{}` is {}, which no version is", schema.columns[place].name, schema.columns[place].ty);
            let problem = Diagnostic::error("cache-version", message).help("a version is a whole number, a date or a timestamp");
            self.problems.definition(at, problem);
            fine = false;
        }
        for (place, (name, at)) in key.iter().zip(&spec.key) {
            let ty = &schema.columns[*place].ty;
            if origin.is_some() && !Origin::takes(ty) {
                let message = format!("`{name}` is {ty}, and a query for missing keys cannot hold such values");
                let help = "a key that is loaded is made of whole numbers, decimals, texts, uuids, dates or truth values";
                self.problems.definition(at, Diagnostic::error("cache-load", message).help(help));
                fine = false;
            }
        }
        if !fine {
            return None;
        }
        if let Some(known) = self.planned[number].as_ref().and_then(|planned| planned.cache.clone()) {
            if known.takes(&schema) {
                return Some(known);
            }
            let message = format!("what `{}` reads has other columns now than when the run was planned", stage.name);
            self.problems.definition(&stage.at, Diagnostic::error("source-unreadable", message).help("run it again"));
            return None;
        }
        let server = match &spec.home {
            None => None,
            Some(home) => Some(self.home(number, spec, home, &schema).await?),
        };
        match Cache::new(&stage.name, spec, &schema, (key, version.map(|(place, _)| place)), (origin, server)) {
            Ok(cache) => Some(cache),
            Err(failure) => {
                self.problems.failure(&stage.at, "target-type", &failure);
                None
            }
        }
    }

    /// The server that keeps the rows of a cache, when it can. One that lookups can do without need not be there.
    async fn home(&mut self, number: usize, spec: &define::Cache, home: &CacheHome, schema: &Schema) -> Option<Arc<Server>> {
        let at = format!("{}/redis", home.at);
        if let Some(column) = schema.columns.iter().find(|column| column.name.starts_with(cache::OWN)) {
            let message = format!("the column `{}` is called as what haul keeps beside a row: `{}…`", column.name, cache::OWN);
            let problem = Diagnostic::error("cache-columns", message).help("give it another name with a `rename` step, or in the query");
            self.problems.definition(&self.pipeline.stages[number].at, problem);
            return None;
        }
        let server = match self.connections.redis(&home.connection) {
            Ok(server) => server,
            Err(failure) => {
                self.problems.failure(&at, "target-unusable", &failure);
                return None;
            }
        };
        let checked = if spec.on_backend_error == OnBackendError::Fail {
            check(&server, spec).await
        } else {
            let late = || Failure::transient(format!("`{}` did not answer within {PATIENCE:?}", home.connection));
            timeout(PATIENCE, check(&server, spec)).await.unwrap_or_else(|_| Err(late()))
        };
        match checked {
            Ok(None) => Some(server),
            Ok(Some(problem)) => {
                self.problems.definition(&at, problem);
                None
            }
            Err(failure) if failure.kind == FailureKind::Transient && spec.on_backend_error != OnBackendError::Fail => Some(server),
            Err(failure) => {
                self.problems.failure(&at, "target-unusable", &failure);
                None
            }
        }
    }

    /// The number of a column that a cache names.
    fn cache_column(&mut self, number: usize, schema: &Schema, name: &str, at: &str) -> Option<usize> {
        let found = schema.find(name).map(|(place, _)| place);
        if found.is_none() {
            let names: Vec<&str> = schema.columns.iter().map(|column| column.name.as_str()).collect();
            let message = format!("the rows of `{}` have no column `{name}`", self.pipeline.stages[number].name);
            self.problems
                .definition(at, Diagnostic::error("unknown-column", message).help(format!("the columns are {}", names.join(", "))));
        }
        found
    }

    /// The columns of a cache that loads what is missing: those that fill it, of which the load must have all, else those of the load.
    async fn loaded_columns(
        &mut self,
        number: usize,
        spec: &define::Cache,
        load: &define::CacheLoad,
        origin: &Origin,
        filled: &Schema,
    ) -> Option<Schema> {
        let query_at = format!("{}/query", load.at);
        let loaded = match origin.describe(spec.key.len()).await {
            Ok(loaded) => loaded,
            Err(failure) => {
                self.problems.failure(&query_at, "source-unreadable", &failure);
                return None;
            }
        };
        if !spec.filled {
            return Some(loaded);
        }
        let mut fine = true;
        for column in &filled.columns {
            let found = loaded.find(&column.name).map(|(_, found)| &found.ty);
            // A type that is only known from rows is not known before there are any.
            if found.is_some_and(|ty| *ty == column.ty || *ty == Type::Text || transform::comparable(ty, &column.ty)) {
                continue;
            }
            let name = &self.pipeline.stages[number].name;
            let message = match found {
                Some(ty) => format!("`load` gives {ty} for `{}`, and what fills `{name}` gives {}", column.name, column.ty),
                None => format!("`load` gives no column `{}`, and what fills `{name}` does", column.name),
            };
            self.problems.definition(&query_at, Diagnostic::error("cache-columns", message).help("let both give the same columns"));
            fine = false;
        }
        fine.then(|| filled.clone())
    }

    /// What the lookups of a transform look into; `None` when one of them could not be planned, which has been reported.
    pub(super) fn tables(&self, steps: &[Step]) -> Option<transform::Tables> {
        let table = |lookup: &define::Lookup| {
            let cache = self.planned[*self.numbers.get(lookup.cache.as_str())?].as_ref()?.cache.as_ref()?;
            Some((lookup.cache.clone(), cache.table()))
        };
        let lookups = steps.iter().filter_map(|step| if let Step::Lookup(lookup) = step { Some(lookup) } else { None });
        lookups.map(table).collect()
    }

    /// The cache that an output writes to: a stage's own, or one that was planned before.
    pub(super) fn cache_of(&self, sink: &define::CacheSink, own: Option<&Arc<Cache>>) -> Option<Arc<Cache>> {
        match sink.mode {
            CacheMode::Fill => own.cloned(),
            CacheMode::Update | CacheMode::Invalidate => self.planned[*self.numbers.get(sink.cache.as_str())?].as_ref()?.cache.clone(),
        }
    }

    /// Whether a stage changes the cache of another one, which it then waits for. That one may read the table that the stage writes: the
    /// changes bring the cache up to what the table becomes.
    pub(super) fn changes_cache_of(&self, stage: usize, cache: usize) -> bool {
        let name = &self.pipeline.stages[cache].name;
        self.pipeline.stages[stage].flow.to.iter().any(|output| matches!(&output.sink, SinkSpec::Cache(sink) if sink.cache == *name))
    }
}

/// What keeps a server from holding the rows of a cache.
async fn check(server: &Server, spec: &define::Cache) -> Result<Option<Diagnostic>, Failure> {
    if server.facts().await?.replica {
        let problem = Diagnostic::error("target-read-only", "the server is a replica, which takes no writes");
        return Ok(Some(problem.help("name the primary in the connection's URL")));
    }
    let policy = server.eviction().await?.filter(|policy| policy.starts_with("allkeys"));
    let Some(policy) = policy.filter(|_| spec.load.is_none()) else { return Ok(None) };
    let message = format!("a full server drops rows by its policy {policy}, and this cache would take them for rows that do not exist");
    let help = "`load:` what is missing, or set the server's `maxmemory-policy` to `noeviction` or `volatile-lru`";
    Ok(Some(Diagnostic::error("cache-eviction", message).help(help)))
}
