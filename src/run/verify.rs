//! Proof of arrival: what was sent against what is there, and, where they differ, which keys.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::BinaryArray;
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};

use super::stage::LoadRun;
use super::unit::applied;
use crate::connectors::{Compared, Load, Reading, Rows, SplitGoal};
use crate::data::{BatchStream, Digest, RowHasher, Schema};
use crate::define::pipeline::{RowMode, SinkSpec, SqlSink, Verify, WriteMode};
use crate::failure::Failure;
use crate::journal::Verdict;
use crate::plan::{InputPlan, Origin, OutputPlan, StagePlan};

/// Differences that are printed; the counts say how many rows there are in all.
const EXAMPLES: usize = 20;

/// Keys that one pass of the comparison holds in memory, at about 64 bytes each. Few in tests of this crate, which cross the bound.
const KEYS_PER_PASS: u64 = if cfg!(test) { 1 << 10 } else { 1 << 20 };

/// Everything a reading holds, split after split, in order.
pub fn all_rows(reading: Arc<dyn Reading>) -> BatchStream {
    let splits = {
        let reading = Arc::clone(&reading);
        async move { reading.splits(SplitGoal { most: 1, bytes: u64::MAX }).await }
    };
    Box::pin(
        stream::once(splits)
            .map_ok(move |splits| {
                let reading = Arc::clone(&reading);
                stream::iter(splits.splits).then(move |split| {
                    let reading = Arc::clone(&reading);
                    async move { reading.read(&split, None).await }
                })
            })
            .try_flatten()
            .try_flatten(),
    )
}

/// Whether writers compare rows as they write them, because the target holds others too.
fn upserts(output: &OutputPlan) -> bool {
    matches!(&output.output.sink, SinkSpec::Sql(SqlSink { mode: WriteMode::Upsert { .. }, .. }) | SinkSpec::Tables(_) | SinkSpec::Redis(_))
}

/// Whether all that can be proved is how many rows the target took: others may take them out again at once.
fn only_counts(output: &OutputPlan) -> bool {
    matches!(&output.output.sink, SinkSpec::Redis(sink) if sink.mode == RowMode::Append)
}

/// The digest of what a sink holds of a load: staged rows, or the whole target.
pub async fn read_back(plan: &StagePlan, output: &OutputPlan, load: &Load) -> Result<Digest, Failure> {
    let during = |failure: Failure| failure.during(format!("reading {} back", output.label));
    if load.verify != Verify::Digest {
        return Ok(Digest { rows: output.sink.count(load).await.map_err(during)?, sum: 0 });
    }
    if plan.raw {
        let mut found = Digest::default();
        let mut rows = output.sink.read_back_raw(load).await.map_err(during)?;
        while let Some(chunk) = rows.next().await {
            found += chunk.map_err(during)?.digest;
        }
        return Ok(found);
    }
    let rows = output.sink.read_back(&held(output, load), plan.flow().batch).await.map_err(during)?;
    digest(rows).await.map_err(during)
}

/// A load as its sink holds it: where rows of others are read back with its own, any column may hold NULLs.
pub fn held(output: &OutputPlan, load: &Load) -> Load {
    let schema = if output.sink.staged() { load.schema.clone() } else { load.schema.with_nulls() };
    Load { schema, ..load.clone() }
}

/// The digest of rows that are not refused.
pub async fn digest(mut rows: BatchStream) -> Result<Digest, Failure> {
    let mut total = Digest::default();
    let mut hasher = RowHasher::default();
    while let Some(chunk) = rows.next().await {
        total += hasher.digest(&chunk?.batch);
    }
    Ok(total)
}

/// The verdict of an output that an earlier process proved and published.
pub fn trusted(plan: &StagePlan, output: &OutputPlan, run: &LoadRun) -> Verdict {
    let total = run.total();
    match plan.flow().verify {
        _ if output.keeps_nothing() => Verdict::NotChecked,
        Verify::None => Verdict::NotChecked,
        Verify::Count => Verdict::Counted { rows: total.rows },
        Verify::Digest if only_counts(output) => Verdict::Counted { rows: total.rows },
        Verify::Digest => Verdict::Identical { rows: total.rows, digest: total.to_string() },
    }
}

/// Compares the sum of the commits with what the sink holds. An upsert was compared in the transaction of each split.
pub async fn output(plan: &StagePlan, output: &OutputPlan, run: &LoadRun) -> Result<Verdict, Failure> {
    if output.keeps_nothing() || plan.flow().verify == Verify::None || upserts(output) {
        return Ok(match plan.flow().verify {
            // Counting a table that also holds other rows would prove nothing.
            Verify::Count if upserts(output) && !only_counts(output) => Verdict::NotChecked,
            _ => trusted(plan, output, run),
        });
    }
    if let Some(compared) = output.sink.compare(&run.load, &SourceRows(plan)).await? {
        return Ok(verdict(compared, plan.flow().verify));
    }
    let expected = run.total();
    let found = read_back(plan, output, &run.load).await? - run.before();
    // Rows that pass undecoded have a digest in any case; only counting leaves the target's side without one.
    let same = if plan.flow().verify == Verify::Count { expected.rows == found.rows } else { expected == found };
    Ok(if same {
        trusted(plan, output, run)
    } else {
        Verdict::Different { expected_rows: expected.rows, found_rows: found.rows, examples: Vec::new() }
    })
}

/// What a sink's own comparison means.
pub fn verdict(compared: Compared, verify: Verify) -> Verdict {
    let Compared { digest, found_rows, differences } = compared;
    match verify {
        _ if !differences.is_empty() => Verdict::Different { expected_rows: digest.rows, found_rows, examples: differences },
        Verify::Count => Verdict::Counted { rows: digest.rows },
        _ => Verdict::Identical { rows: digest.rows, digest: digest.to_string() },
    }
}

/// The rows of a stage with one source and steps that look at a row at a time, as the source has them now.
pub struct SourceRows<'a>(pub &'a StagePlan);

impl SourceRows<'_> {
    async fn open(&self) -> Result<Arc<dyn Reading>, Failure> {
        match self.0.inputs.as_slice() {
            [InputPlan { origin: Origin::Source(from), .. }] if self.0.transform.rowwise() => from.source.open(from.request.clone()).await,
            _ => Err(Failure::permanent(format!("the rows of `{}` cannot be read again one by one", self.0.stage.name))
                .help("write `verify: none`, or leave out steps that look at more than one row at a time")),
        }
    }

    fn transformed(&self, rows: BatchStream) -> BatchStream {
        applied(Arc::clone(&self.0.transform), rows)
    }
}

#[async_trait]
impl Rows for SourceRows<'_> {
    async fn all(&self) -> Result<BatchStream, Failure> {
        Ok(self.transformed(all_rows(self.open().await?)))
    }

    async fn again(&self, keys: &BinaryArray) -> Result<BatchStream, Failure> {
        Ok(self.transformed(self.open().await?.again(keys).await?))
    }
}

/// Two sides to compare row by row. Each can be read any number of times.
pub struct Sides<'a> {
    /// The columns of both.
    pub schema: &'a Schema,
    /// The columns that name a row; when empty, a row is named by all of its values.
    pub key: &'a [String],
    /// Rows that are only on the right are no difference: the target holds other rows too.
    pub extra_allowed: bool,
}

/// One row of either side during a pass.
struct Row {
    hash: u128,
    /// How many times more often the left side has it.
    balance: i64,
}

impl Sides<'_> {
    /// Compares and names up to 20 keys that differ. Memory is bounded: keys are dealt into passes of about a million, by the number of rows that
    /// is given, and each pass reads both sides and holds only its share. When the left side has more than twice its share in the first, they are
    /// dealt into twice as many, and it is read again.
    pub async fn compare<L, R>(&self, rows: u64, left: L, right: R) -> Result<Verdict, Failure>
    where
        L: AsyncFn() -> Result<BatchStream, Failure>,
        R: AsyncFn() -> Result<BatchStream, Failure>,
    {
        let key: Vec<usize> = self.key.iter().filter_map(|name| self.schema.find(name).map(|(place, _)| place)).collect();
        let whole: Vec<usize> = (0..self.schema.columns.len()).collect();
        let key = if key.is_empty() { whole.clone() } else { key };
        let mut passes = rows.div_ceil(KEYS_PER_PASS).max(1);
        let (mut expected, mut found) = (Digest::default(), Digest::default());
        let mut examples = Vec::new();
        let mut pass = 0;
        'passes: while pass < passes {
            let dealt = (passes, pass);
            let mine = |hash: u128| (hash >> 64) as u64 % dealt.0 == dealt.1;
            let mut open: HashMap<u128, Row> = HashMap::new();
            let mut hasher = (RowHasher::default(), RowHasher::default());
            let mut rows = left().await?;
            while let Some(chunk) = rows.next().await {
                let batch = chunk?.batch;
                for (name, hash) in hasher.0.hashes(&batch, &key).zip(hasher.1.hashes(&batch, &whole)).filter(|(name, _)| mine(*name)) {
                    expected.add_row(hash);
                    let row = open.entry(name).or_insert(Row { hash: 0, balance: 0 });
                    row.hash = row.hash.wrapping_add(hash);
                    row.balance += 1;
                }
                // `rows` did not count the left side's: the keys are dealt again, into more passes.
                if pass == 0 && open.len() as u64 > 2 * KEYS_PER_PASS {
                    expected = Digest::default();
                    passes *= 2;
                    continue 'passes;
                }
            }
            drop(rows); // With it goes its view, for which the next one may wait.
            let mut rows = right().await?;
            while let Some(chunk) = rows.next().await {
                let batch = chunk?.batch;
                let names: Vec<(usize, (u128, u128))> = hasher
                    .0
                    .hashes(&batch, &key)
                    .zip(hasher.1.hashes(&batch, &whole))
                    .enumerate()
                    .filter(|(_, (name, _))| mine(*name))
                    .collect();
                for (at, (name, hash)) in names {
                    match open.get_mut(&name) {
                        Some(row) => {
                            row.hash = row.hash.wrapping_sub(hash);
                            row.balance -= 1;
                            found.add_row(hash);
                            if row.balance == 0 && row.hash == 0 {
                                open.remove(&name);
                            }
                        }
                        None if self.extra_allowed => {}
                        None => {
                            found.add_row(hash);
                            if examples.len() < EXAMPLES {
                                examples.push(format!("{}: only in the target", self.describe(&batch, at, &key)?));
                            }
                        }
                    }
                }
            }
            drop(rows);
            if !open.is_empty() && examples.len() < EXAMPLES {
                self.name_open(&open, &key, &left, &mut hasher.0, &mut examples).await?;
            }
            if !open.is_empty() && examples.is_empty() {
                examples.push("some rows differ".to_owned());
            }
            pass += 1;
        }
        Ok(if examples.is_empty() {
            Verdict::Identical { rows: expected.rows, digest: expected.to_string() }
        } else {
            Verdict::Different { expected_rows: expected.rows, found_rows: found.rows, examples }
        })
    }

    /// Reads the left side once more to name the keys that did not come out even.
    async fn name_open<L>(
        &self,
        open: &HashMap<u128, Row>,
        key: &[usize],
        left: &L,
        hasher: &mut RowHasher,
        examples: &mut Vec<String>,
    ) -> Result<(), Failure>
    where
        L: AsyncFn() -> Result<BatchStream, Failure>,
    {
        let mut named = std::collections::HashSet::new();
        let mut rows = left().await?;
        while let Some(chunk) = rows.next().await {
            let batch = chunk?.batch;
            let names: Vec<u128> = hasher.hashes(&batch, key).collect();
            for (at, name) in names.into_iter().enumerate() {
                let Some(row) = open.get(&name) else { continue };
                if examples.len() >= EXAMPLES {
                    return Ok(());
                }
                if named.insert(name) {
                    let what = match row.balance {
                        0 => "its values differ",
                        1.. => "missing in the target",
                        _ => "more often in the target",
                    };
                    examples.push(format!("{}: {what}", self.describe(&batch, at, key)?));
                }
            }
        }
        Ok(())
    }

    /// `id=42, region=emea`, cut to a readable length.
    fn describe(&self, batch: &RecordBatch, row: usize, key: &[usize]) -> Result<String, Failure> {
        let options = FormatOptions::default().with_null("NULL");
        let mut parts = Vec::new();
        for &column in key {
            let formatter = ArrayFormatter::try_new(batch.column(column), &options)
                .map_err(|error| Failure::permanent("failed to print a differing row").cause(error))?;
            let value: String = formatter.value(row).to_string().chars().take(80).collect();
            parts.push(format!("{}={value}", self.schema.columns[column].name));
        }
        Ok(parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use arrow::array::Int64Array;

    use super::*;
    use crate::data::{Chunk, Column, Type};

    #[tokio::test]
    async fn a_target_that_was_emptied_is_compared_in_passes_too() {
        const BATCHES: i64 = 9;
        const ROWS: i64 = 1 << 8;
        let schema = Schema { columns: vec![Column::new("id", Type::Int(64))] };
        let batch = |number: i64| {
            let ids = Int64Array::from_iter_values(number * ROWS..(number + 1) * ROWS);
            Ok(Chunk::of(RecordBatch::try_new(schema.to_arrow(), vec![Arc::new(ids)]).expect("a batch")))
        };
        let reads = Cell::new(0);
        let left = async || {
            reads.set(reads.get() + 1);
            Ok(stream::iter((0..BATCHES).map(batch).collect::<Vec<_>>()).boxed())
        };
        let right = async || Ok(stream::empty().boxed());
        let verdict = Sides { schema: &schema, key: &["id".to_owned()], extra_allowed: true }.compare(0, left, right).await;
        let Ok(Verdict::Different { expected_rows, found_rows: 0, examples }) = verdict else { panic!("{verdict:?}") };
        assert_eq!((expected_rows, examples.len()), ((BATCHES * ROWS) as u64, EXAMPLES));
        // One pass that was too large, two that were not, and the names of what is missing.
        assert_eq!(reads.get(), 4);
    }
}
