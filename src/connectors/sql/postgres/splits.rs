//! Cutting a table or query into parts that are read apart.

use serde::{Deserialize, Serialize};

use super::catalog::{self, ident};
use super::error::failure;
use super::session::Session;
use super::source::Relation;
use crate::connectors::{Split, SplitGoal};
use crate::data::Type;
use crate::dialect::Dialect;
use crate::failure::Failure;

/// What a split covers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Range {
    /// Everything.
    All,
    /// Heap blocks, the first included, the last not; the last split has no end, so that it takes whatever lies behind. In a partitioned
    /// table the same blocks of every partition.
    Blocks { from: u64, to: Option<u64> },
    /// Values of a column, the first included, the last not, in the database's own order and in their text form. NULLs go with the first.
    Keys { column: String, from: Option<String>, to: Option<String> },
}

impl Range {
    /// Reads back what [`cut`] wrote.
    pub(super) fn of(split: &Split) -> Result<Self, Failure> {
        serde_json::from_value(split.range.clone())
            .map_err(|error| Failure::permanent(format!("the range of split {} is none of PostgreSQL's", split.id)).cause(error))
    }

    /// The SQL condition; `None` when everything is covered.
    pub(super) fn condition(&self, relation: &Relation) -> Result<Option<String>, Failure> {
        Ok(match self {
            Self::All => None,
            Self::Blocks { from, to: None } => Some(format!("ctid >= '({from},0)'::tid")),
            Self::Blocks { from, to: Some(to) } => Some(format!("ctid >= '({from},0)'::tid and ctid < '({to},0)'::tid")),
            Self::Keys { column, from, to } => {
                let order = Order::of(relation, column)?;
                let bound = |sign: &str, value: &String| -> Result<String, Failure> {
                    let literal = Dialect::Postgres.text(value).map_err(Failure::permanent)?;
                    Ok(format!("{} {sign} {literal}::{}", order.expression, order.cast))
                };
                let from_sql = from.as_ref().map(|value| bound(">=", value)).transpose()?;
                let to_sql = to.as_ref().map(|value| bound("<", value)).transpose()?;
                match (from_sql, to_sql) {
                    (None, None) => None,
                    (None, Some(to)) => Some(format!("{to} or {} is null", ident(column)?)),
                    (Some(from), None) => Some(from),
                    (Some(from), Some(to)) => Some(format!("{from} and {to}")),
                }
            }
        })
    }

    fn label(&self) -> String {
        let shown = |bound: &Option<String>| bound.clone().unwrap_or_default();
        match self {
            Self::All => "everything".to_owned(),
            Self::Blocks { from, to: Some(to) } => format!("blocks {from}..{to}"),
            Self::Blocks { from, to: None } => format!("blocks {from}.."),
            Self::Keys { column, from, to } => format!("{column} {}..{}", shown(from), shown(to)),
        }
    }
}

/// How values of a column are compared, always by the database.
pub(super) struct Order {
    pub(super) expression: String,
    pub(super) cast: String,
    whole_numbers: bool,
}

impl Order {
    pub(super) fn of(relation: &Relation, column: &str) -> Result<Self, Failure> {
        let found = relation.column(column)?;
        let quoted = ident(column)?;
        Ok(match found.ty.logical() {
            // Texts are compared byte by byte: the order of a locale may call different texts equal, or change with the system's library.
            Type::Text if !found.ty.as_text => {
                Self { expression: format!("{quoted}::text collate \"C\""), cast: "text".to_owned(), whole_numbers: false }
            }
            Type::Int(_) | Type::UInt(_) => Self { expression: quoted, cast: found.ty.name.clone(), whole_numbers: found.ty.name != "oid" },
            Type::Uuid | Type::Date | Type::Timestamp | Type::TimestampTz | Type::Decimal(..) | Type::Number | Type::Enum(_) => {
                Self { expression: quoted, cast: found.ty.name.clone(), whole_numbers: false }
            }
            other => {
                return Err(Failure::permanent(format!("{} has no order by `{column}`, which is {other}", relation.label))
                    .help("name a column of integers, decimals, texts, uuids, dates or timestamps"));
            }
        })
    }
}

/// Cuts within the view's transaction, so that estimates and bounds belong to the snapshot.
pub(super) async fn cut(view: &mut Session, relation: &Relation, filter: Option<&str>, goal: SplitGoal) -> Result<Vec<Split>, Failure> {
    let whole = |rows| vec![split("all".to_owned(), &Range::All, rows)];
    // The column is checked even when there is nothing to cut.
    let order = relation.split_by.as_deref().map(|column| Order::of(relation, column)).transpose()?;
    let size = match &relation.table {
        Some(table) if table.kind != 'v' => Some(catalog::size(view, table.oid).await?),
        _ => None,
    };
    let rows = size.as_ref().and_then(|size| size.rows);
    if goal.most <= 1 {
        return Ok(whole(rows));
    }
    let ranges = match (&relation.split_by, order) {
        (Some(column), Some(order)) => {
            let select = format!("select * {}", relation.tail(&Vec::from_iter(filter)));
            let bytes = match &size {
                Some(size) => size.bytes,
                None => catalog::expected(view, &select).await?.1,
            };
            let parts = parts(bytes, goal);
            key_ranges(view, relation, filter, column, &order, parts).await?
        }
        _ => match &size {
            // Before version 14 a range of blocks would be found by reading all of them.
            Some(size) if size.heap && view.raw().server_version_num().unwrap_or(0) >= 140_000 => {
                block_ranges(size.blocks, parts(size.heap_bytes, goal))
            }
            _ => Vec::new(),
        },
    };
    if ranges.len() < 2 {
        return Ok(whole(rows));
    }
    let share = rows.map(|rows| rows / ranges.len() as u64);
    Ok(ranges.iter().enumerate().map(|(number, range)| split(format!("{number:04}"), range, share)).collect())
}

fn split(id: String, range: &Range, rows: Option<u64>) -> Split {
    // A range is plain data: it always has a JSON form.
    Split { id, label: range.label(), range: serde_json::to_value(range).unwrap_or_default(), rows }
}

fn parts(bytes: u64, goal: SplitGoal) -> u64 {
    bytes.div_ceil(goal.bytes.max(1)).clamp(1, goal.most as u64)
}

fn block_ranges(blocks: u64, parts: u64) -> Vec<Range> {
    let parts = parts.min(blocks).max(1);
    let start = |part: u64| blocks * part / parts;
    (0..parts).map(|part| Range::Blocks { from: start(part), to: (part + 1 < parts).then(|| start(part + 1)) }).collect()
}

async fn key_ranges(
    view: &mut Session,
    relation: &Relation,
    filter: Option<&str>,
    column: &str,
    order: &Order,
    parts: u64,
) -> Result<Vec<Range>, Failure> {
    if parts < 2 {
        return Ok(Vec::new());
    }
    let tail = relation.tail(&Vec::from_iter(filter));
    let expression = &order.expression;
    let bounds: Vec<Option<String>> = if order.whole_numbers {
        // Even steps between the ends: an index gives them at once, and gaps only make splits uneven.
        let sql = format!(
            "select floor(low + (high - low) * part / $1)::{}::text from (select min({expression})::numeric, max({expression})::numeric + 1 {tail}) ends(low, high),
             generate_series(1, $1 - 1) part order by part",
            order.cast
        );
        sqlx::query_scalar(&sql).bind(parts as i64).persistent(false).fetch_all(view.raw()).await.map_err(failure)?
    } else {
        let shares: Vec<f64> = (1..parts).map(|part| part as f64 / parts as f64).collect();
        let sql = format!("select unnest(percentile_disc($1::float8[]) within group (order by {expression}))::text {tail}");
        sqlx::query_scalar(&sql).bind(shares).persistent(false).fetch_all(view.raw()).await.map_err(failure)?
    };
    let mut bounds: Vec<String> = bounds.into_iter().flatten().collect();
    bounds.dedup();
    let froms = std::iter::once(None).chain(bounds.iter().cloned().map(Some));
    let tos = bounds.iter().cloned().map(Some).chain(std::iter::once(None));
    Ok(froms.zip(tos).map(|(from, to)| Range::Keys { column: column.to_owned(), from, to }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_ranges_leave_no_gap() {
        for (blocks, parts) in [(0, 4), (1, 4), (10, 3), (4096, 64), (7, 7)] {
            let mut next = 0;
            let ranges = block_ranges(blocks, parts);
            for (place, range) in ranges.iter().enumerate() {
                let Range::Blocks { from, to } = range else { panic!("{range:?}") };
                assert_eq!(*from, next);
                assert_eq!(to.is_none(), place + 1 == ranges.len());
                next = to.unwrap_or(next);
            }
        }
    }
}
