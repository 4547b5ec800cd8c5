//! A sink that counts rows and drops them. It keeps nothing, marks included: a load that is taken up again starts from its beginning.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;

use super::{Claim, Committed, Load, LoadKey, Mark, Sink, Target, TargetProblem, Writer};
use crate::data::{BatchLimit, BatchStream, Grade, Mapped, Schema};
use crate::failure::Failure;

/// As many splits may be dropped at the same time as anybody could ask for.
const WRITERS: usize = 1024;

/// A sink that drops what it is given.
pub fn sink() -> Arc<dyn Sink> {
    Arc::new(Discard { epoch: AtomicU64::new(0) })
}

struct Discard {
    epoch: AtomicU64,
}

#[async_trait]
impl Sink for Discard {
    async fn plan(&self, incoming: &Schema) -> Result<Result<Target, Vec<TargetProblem>>, Failure> {
        let dropped =
            |name: &String| Mapped { name: name.clone(), native: "nothing".to_owned(), grade: Grade::Exact, reason: String::new() };
        Ok(Ok(Target {
            columns: incoming.columns.iter().map(|column| dropped(&column.name)).collect(),
            ddl: Vec::new(),
            exists: true,
            wire: None,
            writers: WRITERS,
            whole: false,
            checkpoints: true,
            guarantee: "none: rows are counted and dropped".to_owned(),
            reads_as: incoming.clone(),
            tables: Vec::new(),
        }))
    }

    async fn claim(&self, _: &LoadKey) -> Result<Claim, Failure> {
        Ok(Claim { epoch: self.epoch.fetch_add(1, Ordering::Relaxed) + 1, ..Claim::default() })
    }

    async fn prepare(&self, _: &Load, _: &str) -> Result<(), Failure> {
        Ok(())
    }

    async fn writer(&self, _: &Load, _: &str, _: Option<&Mark>) -> Result<Box<dyn Writer>, Failure> {
        Ok(Box::new(Dropping { taken: Committed::default() }))
    }

    async fn publish(&self, _: &Load) -> Result<(), Failure> {
        Ok(())
    }

    async fn read_back(&self, _: &Load, _: BatchLimit) -> Result<BatchStream, Failure> {
        Err(Failure::permanent("a discarding output keeps nothing that could be read back").help("write `verify: none`"))
    }

    fn staged(&self) -> bool {
        false
    }

    async fn abandon(&self, _: &LoadKey) -> Result<(), Failure> {
        Ok(())
    }
}

struct Dropping {
    taken: Committed,
}

#[async_trait]
impl Writer for Dropping {
    async fn write(&mut self, batch: RecordBatch) -> Result<(), Failure> {
        self.taken.rows += batch.num_rows() as u64;
        self.taken.bytes += batch.get_array_memory_size() as u64;
        Ok(())
    }

    async fn checkpoint(&mut self, _: Mark) -> Result<Committed, Failure> {
        Ok(std::mem::take(&mut self.taken))
    }

    async fn commit(self: Box<Self>, _: Mark) -> Result<Committed, Failure> {
        Ok(self.taken)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array};

    use super::*;
    use crate::data::{Column, Digest, Type};
    use crate::define::pipeline::Verify;

    #[tokio::test]
    async fn rows_are_counted_and_forgotten() {
        let schema = Schema { columns: vec![Column::new("a", Type::Int(64))] };
        let key = LoadKey { pipeline: "p".into(), stage: "s".into(), output: 0, run: "r".into(), plan_hash: "h".into() };
        let sink = sink();
        let first = sink.claim(&key).await.expect("a claim");
        let load = Load { key: key.clone(), epoch: first.epoch, schema, verify: Verify::None };
        let mut writer = sink.writer(&load, "all", None).await.expect("a writer");
        for rows in [3, 0, 4] {
            let array: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
            writer.write(RecordBatch::try_from_iter([("a", array)]).expect("a batch")).await.expect("written");
        }
        let mark = Mark { split: "all".into(), rows: 7, digest: Digest::default(), rejects: 0, position: None };
        assert_eq!(writer.commit(mark).await.expect("committed").rows, 7);
        let second = sink.claim(&key).await.expect("a claim");
        assert!(second.epoch > first.epoch && second.found.is_none());
        assert!(sink.read_back(&load, BatchLimit::default()).await.is_err());
    }
}
