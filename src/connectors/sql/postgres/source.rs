//! Reading tables and queries.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Mutex;

use super::catalog::{self, Size, Table, TableColumn, ident};
use super::decode::Decoder;
use super::error::failure;
use super::session::{Pool, Session, Use};
use super::splits::{self, Range};
use super::types::PgType;
use super::{columns_of, read};
use crate::connectors::{Description, ReadRequest, Reading, Source, Split, SplitGoal, Splits, Views, requested};
use crate::data::{BatchStream, Column, Position, RawStream, Schema, Type, WireFormat};
use crate::define::pipeline::{SqlRead, SqlSource};
use crate::dialect::Dialect;
use crate::failure::Failure;

/// A table or query of one server.
pub(super) struct PgSource {
    pub(super) pool: Arc<Pool>,
    pub(super) spec: SqlSource,
}

/// What is read, as the catalog knows it.
pub(super) struct Relation {
    /// The table; `None` for a query.
    pub table: Option<Table>,
    /// What stands behind `from`.
    from: String,
    /// What messages call it.
    pub label: String,
    /// In the order of the description.
    columns: Vec<TableColumn>,
    /// The primary or unique key, when the columns hold all of it.
    pub key: Vec<String>,
    /// The pipeline's own condition.
    filter: Option<String>,
    /// The column to cut by, when the pipeline names one.
    pub split_by: Option<String>,
}

impl Relation {
    pub(super) async fn find(session: &mut Session, spec: &SqlSource) -> Result<Self, Failure> {
        match &spec.read {
            SqlRead::Table { name, columns, filter } => {
                let Some(table) = catalog::find_table(session, name).await? else { return Err(missing(session, name).await?) };
                let label = format!("{}.{}", table.schema, table.name);
                if !table.readable {
                    return Err(Failure::permanent(format!("this role may not read {label}"))
                        .help(format!("grant it: `grant usage on schema … to …; grant select on {} to …`", catalog::quoted(name)?)));
                }
                let chosen = choose(&table.columns, columns, &label)?;
                let key = catalog::key(session, table.oid).await?;
                let key = if key.iter().all(|key| chosen.iter().any(|column| column.name == *key)) { key } else { Vec::new() };
                let from = catalog::quoted(&[table.schema.clone(), table.name.clone()])?;
                let split_by = spec.split_by.clone();
                Ok(Self { from, label, columns: chosen, key, filter: filter.clone(), split_by, table: Some(table) })
            }
            SqlRead::Query(query) => {
                let query = query.trim_end_matches(|c: char| c == ';' || c.is_whitespace());
                let label = "the query".to_owned();
                let columns = catalog::query_columns(session, query).await.map_err(|failure| failure.during(&label))?;
                if columns.is_empty() {
                    return Err(Failure::permanent("the query has no columns"));
                }
                let from = format!("({query}\n) as \"query\"");
                Ok(Self { table: None, from, label, columns, key: Vec::new(), filter: None, split_by: spec.split_by.clone() })
            }
        }
    }

    pub(super) fn schema(&self) -> Schema {
        columns_of(&self.columns)
    }

    /// Whether it is a table with rows of its own, whose changes the server counts.
    fn is_stored(&self) -> bool {
        self.table.as_ref().is_some_and(|table| table.kind != 'v')
    }

    /// The wire's type of a column of the request.
    pub(super) fn wire_type(&self, column: &Column) -> Result<PgType, Failure> {
        let found = self.column(&column.name)?;
        let as_text = found.ty.as_text || (column.ty == Type::Text && found.ty.logical() != Type::Text);
        Ok(if as_text { PgType { as_text: true, ..PgType::text() } } else { found.ty.clone() })
    }

    /// A column by its name.
    pub(super) fn column(&self, name: &str) -> Result<&TableColumn, Failure> {
        let found = self.columns.iter().find(|column| column.name == name);
        found.ok_or_else(|| {
            let names: Vec<&str> = self.columns.iter().map(|column| column.name.as_str()).collect();
            Failure::permanent(format!("{} has no column `{name}`", self.label)).help(format!("its columns are {}", names.join(", ")))
        })
    }

    /// Everything behind `select …`, with the given conditions besides the pipeline's own.
    pub(super) fn tail(&self, conditions: &[&str]) -> String {
        let all: Vec<String> =
            self.filter.as_deref().into_iter().chain(conditions.iter().copied()).map(|one| format!("({one}\n)")).collect();
        if all.is_empty() { format!("from {}", self.from) } else { format!("from {} where {}", self.from, all.join(" and ")) }
    }
}

async fn missing(session: &mut Session, name: &[String]) -> Result<Failure, Failure> {
    let failure = Failure::permanent(format!("there is no table `{}`", name.join(".")));
    let similar = catalog::similar_tables(session, name).await?;
    Ok(if similar.is_empty() {
        failure.help("check the name, its schema and its case; names are taken as they are written")
    } else {
        failure.help(format!("did you mean `{}`?", similar.join("` or `")))
    })
}

fn choose(columns: &[TableColumn], wanted: &[String], label: &str) -> Result<Vec<TableColumn>, Failure> {
    if columns.is_empty() {
        return Err(Failure::permanent(format!("{label} has no columns")));
    }
    if wanted.is_empty() {
        return Ok(columns.to_vec());
    }
    let find = |name: &String| {
        columns.iter().find(|column| column.name == *name).cloned().ok_or_else(|| {
            let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
            Failure::permanent(format!("{label} has no column `{name}`")).help(format!("its columns are {}", names.join(", ")))
        })
    };
    wanted.iter().map(find).collect()
}

#[async_trait]
impl Source for PgSource {
    async fn describe(&self) -> Result<Description, Failure> {
        let mut session = self.pool.session(Use::Read).await?;
        let relation = Relation::find(&mut session, &self.spec).await?;
        let schema = relation.schema();
        let portable = relation.columns.iter().all(|column| column.ty.portable);
        let mut consistency = "one exported snapshot for all splits".to_owned();
        let (rows, bytes) = match &relation.table {
            Some(table) if relation.filter.is_none() && table.kind != 'v' => {
                if table.row_security {
                    consistency.push_str("; policies hide rows from this role");
                }
                let Size { rows, bytes, .. } = catalog::size(&mut session, table.oid).await?;
                (rows, Some(bytes))
            }
            _ => {
                let (rows, bytes) = catalog::expected(&mut session, &format!("select * {}", relation.tail(&[]))).await?;
                (Some(rows), Some(bytes))
            }
        };
        session.release();
        if let Some(weakness) = self.pool.weakness() {
            consistency.push_str(&format!("; {weakness}"));
        }
        let wire = portable.then(|| WireFormat::PgCopyBinary(relation.columns.iter().map(|column| column.ty.name.clone()).collect()));
        Ok(Description { schema, key: relation.key, rows, bytes, wire, consistency })
    }

    async fn open(&self, request: ReadRequest) -> Result<Arc<dyn Reading>, Failure> {
        let found = request.views.find(|view: &View| Arc::ptr_eq(&view.pool, &self.pool));
        let (relation, fingerprint, view) = match found {
            Some(view) => {
                let relation = Relation::find(&mut *view.session.lock().await, &self.spec).await?;
                // The table may have changed since the snapshot: this is the fingerprint of no state.
                let fingerprint = relation.is_stored().then(|| format!("in {}", view.snapshot));
                (relation, fingerprint, view)
            }
            None => {
                let (relation, fingerprint, view) = self.view(&request.views).await?;
                request.views.offer(&view);
                (relation, fingerprint, view)
            }
        };
        let schema = requested(&relation.schema(), &request)?;
        let types = schema.columns.iter().map(|column| relation.wire_type(column)).collect::<Result<Vec<_>, _>>()?;
        Ok(Arc::new(PgReading { relation, request, schema, types, fingerprint, view }))
    }

    fn dialect(&self) -> Option<Dialect> {
        Some(Dialect::Postgres)
    }
}

impl PgSource {
    /// A view of its own.
    async fn view(&self, others: &Views) -> Result<(Relation, Option<String>, Arc<View>), Failure> {
        // Whoever has no view keeps nobody from ending theirs, and waits for as long as that takes.
        let mut session = if others.is_empty() { self.pool.view().await? } else { self.pool.session(Use::View).await? };
        let relation = Relation::find(&mut session, &self.spec).await?;
        // Taken before the snapshot: a change that comes in between shows as a difference later, never as none.
        let fingerprint = match &relation.table {
            Some(table) if relation.is_stored() => Some(catalog::fingerprint(&mut session, table.oid).await?),
            _ => None,
        };
        session.run("begin isolation level repeatable read read only; set local idle_in_transaction_session_timeout = 0").await?;
        let snapshot: String = sqlx::query_scalar("select pg_export_snapshot()").fetch_one(session.raw()).await.map_err(failure)?;
        Ok((relation, fingerprint, Arc::new(View { pool: Arc::clone(&self.pool), snapshot, session: Mutex::new(session) })))
    }
}

/// One snapshot, held by a connection that does nothing else than look things up in it.
struct View {
    pool: Arc<Pool>,
    snapshot: String,
    session: Mutex<Session>,
}

/// A table or query in a snapshot.
struct PgReading {
    relation: Relation,
    request: ReadRequest,
    schema: Schema,
    types: Vec<PgType>,
    fingerprint: Option<String>,
    view: Arc<View>,
}

impl PgReading {
    fn copy(&self, range: &Range) -> Result<String, Failure> {
        let names = self.schema.columns.iter().map(|column| ident(&column.name)).collect::<Result<Vec<_>, _>>()?;
        let condition = range.condition(&self.relation)?;
        let stored = |column: &Column| self.relation.column(&column.name).is_ok_and(|column| !column.generated);
        let plain = self.types.iter().all(|ty| !ty.as_text) && self.relation.filter.is_none() && self.request.filter.is_none();
        // A whole table goes out without the executor between; children, columns it computes, and everything else that is not the table itself
        // need it.
        let alone = self.relation.table.as_ref().is_some_and(|table| table.kind == 'r' && !table.has_children && !table.row_security);
        if plain && alone && condition.is_none() && self.schema.columns.iter().all(stored) {
            return Ok(format!("copy {} ({}) to stdout (format binary)", self.relation.from, names.join(", ")));
        }
        let selected = names.iter().zip(&self.types).map(|(name, ty)| if ty.as_text { format!("{name}::text") } else { name.clone() });
        let conditions: Vec<&str> = self.request.filter.as_deref().into_iter().chain(condition.as_deref()).collect();
        let selected = selected.collect::<Vec<_>>().join(", ");
        Ok(format!("copy (select {selected} {}) to stdout (format binary)", self.relation.tail(&conditions)))
    }

    async fn session(&self) -> Result<Session, Failure> {
        let mut session = self.view.pool.session(Use::Read).await?;
        let begin = format!("begin isolation level repeatable read read only; set transaction snapshot '{}'", self.view.snapshot);
        session.run(begin).await.map_err(|failure| {
            // The snapshot lives as long as the connection that holds it; the stage then starts again with a new one.
            Failure::transient("the snapshot is gone: the connection that held it was lost").view_lost().cause(failure)
        })?;
        Ok(session)
    }
}

#[async_trait]
impl Reading for PgReading {
    fn schema(&self) -> &Schema {
        &self.schema
    }

    async fn splits(&self, goal: SplitGoal) -> Result<Splits, Failure> {
        let splits = splits::cut(&mut *self.view.session.lock().await, &self.relation, self.request.filter.as_deref(), goal).await?;
        let by_blocks = splits.iter().any(|split| matches!(Range::of(split), Ok(Range::Blocks { .. })));
        Ok(Splits { splits, fingerprint: self.fingerprint.clone().filter(|_| by_blocks) })
    }

    async fn fingerprint(&self) -> Result<Option<String>, Failure> {
        match &self.relation.table {
            Some(table) if self.fingerprint.is_some() => {
                Ok(Some(catalog::fingerprint(&mut *self.view.session.lock().await, table.oid).await?))
            }
            _ => Ok(None),
        }
    }

    async fn read(&self, split: &Split, _: Option<&Position>) -> Result<BatchStream, Failure> {
        let copy = self.copy(&Range::of(split)?)?;
        let origin = format!("{} split {}", self.relation.label, split.id);
        let decoder = Decoder::new(&self.schema, &self.types, &self.relation.key, self.request.limit, origin)?;
        Ok(read::batches(self.session().await?, copy, decoder))
    }

    async fn read_raw(&self, split: &Split) -> Result<RawStream, Failure> {
        let copy = self.copy(&Range::of(split)?)?;
        Ok(read::raw(self.session().await?, copy))
    }
}
