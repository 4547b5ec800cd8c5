//! A source that makes rows up from expressions over the row number: the same rows every time.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use futures::StreamExt;

use super::{Description, ReadRequest, Reading, Source, Split, SplitGoal, Splits, requested};
use crate::data::{BatchLimit, BatchStream, Chunk, Column, Position, Schema, Type};
use crate::define::pipeline::{GenerateSource, Step};
use crate::failure::Failure;
use crate::transform::{Compiled, Problem, compile_rows};

/// The column that expressions read: the row's number, from 0.
const NUMBER: &str = "i";

/// A source of made-up rows. Every problem of its expressions is reported at once.
pub fn source(spec: &GenerateSource) -> Result<Arc<dyn Source>, Vec<Problem>> {
    let number = Schema { columns: vec![Column { nullable: false, ..Column::new(NUMBER, Type::Int(64)) }] };
    // Without columns of its own, a source shows the row numbers.
    let mut steps = vec![Step::Set(spec.columns.clone())];
    if !spec.columns.is_empty() {
        steps.push(Step::Select(spec.columns.iter().map(|(name, expr)| (name.clone(), expr.at.clone())).collect()));
    }
    let program = Arc::new(compile_rows(&number, NUMBER, &steps)?);
    Ok(Arc::new(Generate { rows: spec.rows, number, program }))
}

struct Generate {
    rows: u64,
    number: Schema,
    program: Arc<Compiled>,
}

#[async_trait]
impl Source for Generate {
    async fn describe(&self) -> Result<Description, Failure> {
        Ok(Description {
            schema: self.program.schema().clone(),
            key: Vec::new(),
            rows: Some(self.rows),
            bytes: None,
            wire: None,
            consistency: "made up the same way each time".to_owned(),
        })
    }

    async fn open(&self, request: ReadRequest) -> Result<Arc<dyn Reading>, Failure> {
        let schema = requested(self.program.schema(), &request)?;
        let places = schema.columns.iter().filter_map(|column| self.program.schema().find(&column.name)).map(|(place, _)| place).collect();
        let program = self.program.clone();
        Ok(Arc::new(Rows { rows: self.rows, number: self.number.clone(), program, schema, places, limit: request.limit }))
    }
}

struct Rows {
    rows: u64,
    number: Schema,
    program: Arc<Compiled>,
    schema: Schema,
    places: Vec<usize>,
    limit: BatchLimit,
}

#[async_trait]
impl Reading for Rows {
    fn schema(&self) -> &Schema {
        &self.schema
    }

    async fn splits(&self, goal: SplitGoal) -> Result<Splits, Failure> {
        // A row is taken for as many bytes as its columns would have as 64-bit numbers.
        let bytes = self.rows.saturating_mul(8 * self.schema.columns.len() as u64);
        let count = (bytes / goal.bytes.max(1)).clamp(1, goal.most.max(1) as u64).min(self.rows.max(1));
        let bound = |index: u64| (u128::from(self.rows) * u128::from(index) / u128::from(count)) as u64;
        let splits = (0..count).map(|index| {
            let (from, to) = (bound(index), bound(index + 1));
            let id = if count == 1 { "all".to_owned() } else { format!("{index:04}") };
            Split { id, range: serde_json::json!({ "from": from, "to": to }), label: format!("rows {from}..{to}"), rows: Some(to - from) }
        });
        Ok(Splits { splits: splits.collect(), fingerprint: None })
    }

    async fn fingerprint(&self) -> Result<Option<String>, Failure> {
        Ok(None)
    }

    async fn read(&self, split: &Split, from: Option<&Position>) -> Result<BatchStream, Failure> {
        let bound = |name: &str| {
            let found = split.range.get(name).and_then(serde_json::Value::as_i64);
            found.ok_or_else(|| Failure::permanent(format!("the split `{}` has no row number `{name}`", split.id)))
        };
        let (begin, to) = (bound("from")?, bound("to")?);
        let from = from.map_or(Ok(begin), row_number)?;
        let rows = i64::try_from(self.limit.rows.max(1)).unwrap_or(i64::MAX);
        let (arrow, program, places) = (self.number.to_arrow(), self.program.clone(), self.places.clone());
        let starts = std::iter::successors(Some(from), move |start| start.checked_add(rows)).take_while(move |start| *start < to);
        let chunks = futures::stream::iter(starts).then(move |start| {
            let (arrow, program, places) = (arrow.clone(), program.clone(), places.clone());
            async move {
                let end = to.min(start.saturating_add(rows));
                let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(start..end));
                let failed = |error| Failure::permanent("failed to make a batch up").cause(error);
                let made = program.apply(Chunk::of(RecordBatch::try_new(arrow.clone(), vec![numbers]).map_err(failed)?)).await?;
                let batch = made.batch.project(&places).map_err(failed)?;
                Ok(Chunk { rejects: made.rejects, position: Some(Position(format!("row {end}"))), ..Chunk::of(batch) })
            }
        });
        Ok(chunks.boxed())
    }
}

/// Reads a position: the number of the row that comes next.
fn row_number(position: &Position) -> Result<i64, Failure> {
    let number = position.0.strip_prefix("row ").and_then(|number| number.parse().ok());
    number.ok_or_else(|| Failure::permanent(format!("`{}` is no position in made-up rows", position.0)))
}

#[cfg(test)]
mod tests {
    use arrow::util::pretty::pretty_format_batches;
    use futures::TryStreamExt;

    use super::*;
    use crate::define::pipeline::Expr;

    fn spec(rows: u64, columns: &[(&str, &str)]) -> GenerateSource {
        let column = |(name, sql): &(&str, &str)| {
            ((*name).to_owned(), Expr { sql: (*sql).to_owned(), written: None, at: format!("/columns/{name}") })
        };
        GenerateSource { rows, columns: columns.iter().map(column).collect() }
    }

    async fn read(source: &Arc<dyn Source>, request: ReadRequest, most: usize) -> Vec<(String, Vec<RecordBatch>)> {
        let reading = source.open(request).await.expect("open");
        let splits = reading.splits(SplitGoal { most, bytes: 1 }).await.expect("splits").splits;
        let mut read = Vec::new();
        for split in splits {
            let chunks: Vec<Chunk> = reading.read(&split, None).await.expect("a stream").try_collect().await.expect("rows");
            read.push((split.label, chunks.into_iter().map(|chunk| chunk.batch).collect()));
        }
        read
    }

    #[tokio::test]
    async fn rows_are_the_same_however_they_are_cut() {
        let source = source(&spec(5, &[("id", "i"), ("i", "i * 2"), ("name", "'user-' || i")])).expect("a source");
        let whole = read(&source, ReadRequest::default(), 1).await;
        let shown = pretty_format_batches(&whole[0].1).expect("a table").to_string();
        let expected = "\
+----+---+--------+
| id | i | name   |
+----+---+--------+
| 0  | 0 | user-0 |
| 1  | 2 | user-1 |
| 2  | 4 | user-2 |
| 3  | 6 | user-3 |
| 4  | 8 | user-4 |
+----+---+--------+";
        assert_eq!(shown, expected);
        let cut = read(&source, ReadRequest { limit: BatchLimit { rows: 1, bytes: 1 }, ..ReadRequest::default() }, 3).await;
        assert_eq!(cut.iter().map(|(label, _)| label.as_str()).collect::<Vec<_>>(), ["rows 0..1", "rows 1..3", "rows 3..5"]);
        let batches: Vec<RecordBatch> = cut.into_iter().flat_map(|(_, batches)| batches).collect();
        assert_eq!(batches.len(), 5);
        assert_eq!(pretty_format_batches(&batches).expect("a table").to_string(), expected);
    }

    #[tokio::test]
    async fn a_read_goes_on_from_every_position_it_gave() {
        let source = source(&spec(10, &[])).expect("a source");
        let request = ReadRequest { limit: BatchLimit { rows: 2, bytes: 1 }, ..ReadRequest::default() };
        let reading = source.open(request).await.expect("open");
        for split in reading.splits(SplitGoal { most: 2, bytes: 1 }).await.expect("splits").splits {
            let all: Vec<Chunk> = reading.read(&split, None).await.expect("a stream").try_collect().await.expect("rows");
            for (place, chunk) in all.iter().enumerate() {
                let rest = reading.read(&split, chunk.position.as_ref()).await.expect("a stream");
                let rest: Vec<Chunk> = rest.try_collect().await.expect("rows");
                let batches = |chunks: &[Chunk]| chunks.iter().map(|chunk| chunk.batch.clone()).collect::<Vec<_>>();
                assert_eq!(batches(&rest), batches(&all[place + 1..]));
            }
        }
    }

    #[tokio::test]
    async fn columns_can_be_projected_and_rows_can_be_none() {
        let source = source(&spec(0, &[("a", "i"), ("b", "i + 1")])).expect("a source");
        let request = ReadRequest { columns: Some(vec!["b".to_owned()]), ..ReadRequest::default() };
        assert_eq!(source.open(request.clone()).await.expect("open").schema().columns[0].name, "b");
        assert_eq!(read(&source, request, 4).await, [("rows 0..0".to_owned(), Vec::new())]);
    }

    #[test]
    fn every_wrong_expression_is_reported() {
        let problems = source(&spec(1, &[("a", "j + 1"), ("b", "nope(i)")])).err().expect("problems");
        let said: Vec<String> = problems.iter().map(|problem| format!("{} {}", problem.at, problem.message)).collect();
        assert_eq!(said, ["/columns/a unknown column `j`", "/columns/b unknown function `nope`"]);
    }
}
