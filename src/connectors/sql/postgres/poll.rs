//! Following a table or query by its cursor.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use sqlx::Row;

use super::catalog::ident;
use super::decode::Decoder;
use super::error::failure;
use super::read;
use super::session::{Pool, Use};
use super::source::{PgSource, Relation};
use super::splits::Order;
use super::types::PgType;
use crate::connectors::sql::cursor::{Following, Page, Pages, Place};
use crate::connectors::{Description, ReadRequest, Reading, Source, requested};
use crate::data::{Position, Schema, Type};
use crate::define::pipeline::PollSource;
use crate::dialect::Dialect;
use crate::failure::Failure;

/// A table or query that is followed.
pub(super) struct PgPoll {
    pub(super) source: PgSource,
    pub(super) spec: PollSource,
}

#[async_trait]
impl Source for PgPoll {
    async fn describe(&self) -> Result<Description, Failure> {
        let mut session = self.source.pool.session(Use::Read).await?;
        let relation = Relation::find(&mut session, &self.source.spec).await?;
        Ranking::of(&relation, &self.spec)?;
        session.release();
        let lag = if self.spec.lag.is_zero() { String::new() } else { format!(", {:?} late", self.spec.lag) };
        let consistency = format!("followed by {} every {:?}{lag}; deleted rows are not seen", self.spec.cursor, self.spec.every);
        Ok(Description { schema: relation.schema(), key: relation.key, rows: None, bytes: None, wire: None, consistency })
    }

    async fn open(&self, request: ReadRequest) -> Result<Arc<dyn Reading>, Failure> {
        let mut session = self.source.pool.session(Use::Read).await?;
        let relation = Relation::find(&mut session, &self.source.spec).await?;
        session.release();
        let schema = requested(&relation.schema(), &request)?;
        let types = schema.columns.iter().map(|column| relation.wire_type(column)).collect::<Result<Vec<_>, _>>()?;
        let ranking = Ranking::of(&relation, &self.spec)?;
        let label = relation.label.clone();
        let pages = PgPages { pool: Arc::clone(&self.source.pool), relation, request, schema: schema.clone(), types, ranking };
        Ok(Arc::new(Following { schema, label, every: self.spec.every, pages: Arc::new(pages) }))
    }

    fn dialect(&self) -> Option<Dialect> {
        Some(Dialect::Postgres)
    }
}

/// The order of rows: the cursor, then the key.
struct Ranking {
    columns: Vec<Order>,
    /// The condition that keeps back rows which are too young.
    settled: Option<String>,
    /// How old the cursor of a row is, in milliseconds, in SQL over the row's `c0`; `null` when it is no time.
    age: &'static str,
}

impl Ranking {
    fn of(relation: &Relation, spec: &PollSource) -> Result<Self, Failure> {
        let key = if spec.key.is_empty() { &relation.key } else { &spec.key };
        if key.is_empty() {
            return Err(Failure::permanent(format!("{} has no key that could tell rows with the same cursor apart", relation.label))
                .help("name columns that are unique together: `key: [id]`"));
        }
        let names = std::iter::once(&spec.cursor).chain(key.iter().filter(|name| **name != spec.cursor));
        let columns = names.map(|name| Order::of(relation, name)).collect::<Result<Vec<_>, _>>()?;
        let cursor = ident(&spec.cursor)?;
        let (now, age) = match relation.column(&spec.cursor)?.ty.logical() {
            Type::TimestampTz => (Some("now()"), "(extract(epoch from now() - c0) * 1000)::bigint"),
            Type::Timestamp => (Some("localtimestamp"), "(extract(epoch from localtimestamp - c0) * 1000)::bigint"),
            _ => (None, "null::bigint"),
        };
        let settled = match (spec.lag.is_zero(), now) {
            (true, _) => None,
            (false, Some(now)) => Some(format!("{cursor} <= {now} - interval '{} milliseconds'", spec.lag.as_millis())),
            (false, None) => {
                return Err(Failure::permanent(format!("`lag` is a time, and the cursor `{}` of {} is none", spec.cursor, relation.label))
                    .help("remove `lag`, or follow a timestamp"));
            }
        };
        Ok(Self { columns, settled, age })
    }

    fn expressions(&self) -> String {
        self.columns.iter().map(|order| order.expression.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// Rows before (`<=`) or behind (`>`) a place.
    fn condition(&self, sign: &str, place: &[Value]) -> Result<String, Failure> {
        let literals = self.columns.iter().zip(place).map(|(order, value)| {
            let text = value.as_str().ok_or_else(|| Failure::permanent("the position of the stream is none of PostgreSQL's"))?;
            let literal = Dialect::Postgres.text(text).map_err(Failure::permanent)?;
            Ok(format!("{literal}::{}", order.cast))
        });
        let literals = literals.collect::<Result<Vec<_>, Failure>>()?.join(", ");
        Ok(format!("({}) {sign} ({literals})", self.expressions()))
    }
}

struct PgPages {
    pool: Arc<Pool>,
    relation: Relation,
    request: ReadRequest,
    schema: Schema,
    types: Vec<PgType>,
    ranking: Ranking,
}

impl PgPages {
    /// The last row of the page behind `conditions`: how many rows the page has, how old its cursor is, and its place.
    fn end_of_page(&self, conditions: &[&str]) -> String {
        let count = self.ranking.columns.len();
        let named: Vec<String> =
            self.ranking.columns.iter().enumerate().map(|(place, order)| format!("{} as c{place}", order.expression)).collect();
        let list = |form: &str| (0..count).map(|place| form.replace('#', &place.to_string())).collect::<Vec<_>>().join(", ");
        format!(
            "select rows, {}, {} from (select *, count(*) over () as rows from
             (select {} {} order by {} limit {}) page) counted order by {} limit 1",
            self.ranking.age,
            list("c#::text"),
            named.join(", "),
            self.relation.tail(conditions),
            self.ranking.expressions(),
            self.request.limit.rows.max(1),
            // An unqualified name would mean the text form that is selected, and its order.
            list("counted.c# desc"),
        )
    }

    fn copy(&self, conditions: &[&str]) -> Result<String, Failure> {
        let names = self.schema.columns.iter().map(|column| ident(&column.name)).collect::<Result<Vec<_>, _>>()?;
        let selected = names.iter().zip(&self.types).map(|(name, ty)| if ty.as_text { format!("{name}::text") } else { name.clone() });
        let selected = selected.collect::<Vec<_>>().join(", ");
        let conditions: Vec<&str> = self.request.filter.as_deref().into_iter().chain(conditions.iter().copied()).collect();
        let (tail, order) = (self.relation.tail(&conditions), self.ranking.expressions());
        Ok(format!("copy (select {selected} {tail} order by {order}) to stdout (format binary)"))
    }
}

#[async_trait]
impl Pages for PgPages {
    async fn after(&self, from: Option<&Position>) -> Result<Page, Failure> {
        let count = self.ranking.columns.len();
        let behind = match from {
            Some(position) => self.ranking.condition(">", &Place::read(position, count)?)?,
            None => self.ranking.columns.first().map(|cursor| format!("{} is not null", cursor.expression)).unwrap_or_default(),
        };
        let mut conditions = vec![behind.as_str()];
        conditions.extend(self.ranking.settled.as_deref());
        let mut session = self.pool.session(Use::Read).await?;
        session.run("begin isolation level repeatable read read only").await?;
        let sql = self.end_of_page(&conditions);
        let query = sqlx::query(&sql).persistent(false);
        let Some(row) = query.fetch_optional(session.raw()).await.map_err(failure)? else {
            session.finish().await?;
            return Ok(Page { found: None, more: false, behind_ms: None });
        };
        let rows: i64 = row.try_get(0).map_err(failure)?;
        let age: Option<i64> = row.try_get(1).map_err(failure)?;
        let place = (0..count).map(|place| Ok(Value::String(row.try_get::<String, _>(place + 2).map_err(failure)?)));
        let place = place.collect::<Result<Vec<_>, Failure>>()?;
        let until = self.ranking.condition("<=", &place)?;
        conditions.push(&until);
        let decoder = Decoder::new(&self.schema, &self.types, &self.relation.key, self.request.limit, self.relation.label.clone())?;
        let batches = read::batches(session, self.copy(&conditions)?, decoder);
        let more = rows as usize >= self.request.limit.rows.max(1);
        Ok(Page { found: Some((Place::new(place), batches)), more, behind_ms: age.map(|age| age.max(0).unsigned_abs()) })
    }
}
