//! Batches → one file of any format, and back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::codec::{self, Compressor, Hashed, Seal, write_failed};
use super::csv::{CsvRows, CsvWriter};
use super::ndjson::{NdjsonRows, NdjsonWriter};
use super::parquet::{ParquetFile, ParquetWriter};
use super::sink::Target;
use super::state::{Part, Work};
use super::store::Store;
use super::stream::Give;
use crate::connectors::text::{Rows, RowsOut};
use crate::connectors::{Committed, Load, Mark, Writer};
use crate::data::{BatchLimit, Schema};
use crate::define::pipeline::{Compression, FileFormat, FilesSink};
use crate::failure::{Failure, FailureKind};
use crate::tasks;

/// Batches that may wait for a slow disk.
const QUEUE: usize = 2;

/// Writes one file of a format.
pub(super) enum Encoder {
    Csv(CsvWriter<Compressor>),
    Ndjson(NdjsonWriter<Compressor>),
    Parquet(Box<ParquetWriter<Hashed>>),
}

impl Encoder {
    /// Begins a file; `header` only matters to CSV.
    pub(super) fn new(spec: &FilesSink, schema: &Schema, path: &str, file: Hashed, header: bool) -> Result<Self, Failure> {
        let compressor = |file| Compressor::new(file, spec.compression).map_err(|error| write_failed(path, error));
        Ok(match &spec.format {
            FileFormat::Csv(dialect) => Self::Csv(CsvWriter::new(path, compressor(file)?, schema, dialect, header)?),
            FileFormat::Ndjson => Self::Ndjson(NdjsonWriter::new(path, compressor(file)?, schema)),
            FileFormat::Parquet => Self::Parquet(Box::new(ParquetWriter::new(path, file, schema, spec.compression)?)),
        })
    }

    /// Writes a batch.
    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<(), Failure> {
        match self {
            Self::Csv(writer) => writer.write(batch),
            Self::Ndjson(writer) => writer.write(batch),
            Self::Parquet(writer) => writer.write(batch),
        }
    }

    /// Bytes that are taken and not handed on yet, where they may be many.
    fn waiting(&self) -> usize {
        match self {
            Self::Csv(_) | Self::Ndjson(_) => 0,
            Self::Parquet(writer) => writer.waiting(),
        }
    }

    /// Writes what ends the file, and makes it durable.
    pub(super) fn finish(self, path: &str) -> Result<Seal, Failure> {
        let end = |compressor: Compressor| compressor.end().map_err(|error| write_failed(path, error));
        let file = match self {
            Self::Csv(writer) => end(writer.end()?)?,
            Self::Ndjson(writer) => end(writer.end()?)?,
            Self::Parquet(writer) => writer.end()?,
        };
        file.finish()
    }
}

/// Reads a file that haul wrote back as the columns it was written from; `false` when nobody wants more.
pub(super) fn read_back(
    target: &Target,
    schema: &Schema,
    path: &str,
    header: bool,
    limit: BatchLimit,
    give: Give<'_>,
) -> Result<bool, Failure> {
    let FileFormat::Csv(dialect) = &target.spec.format else {
        if target.spec.format == FileFormat::Parquet {
            return ParquetFile::open(&*target.store, path)?.read(None, schema, limit, give);
        }
        let (content, count) = open(target, path)?;
        let mut rows = NdjsonRows::open(path, content, count)?;
        let guessed = vec![false; schema.columns.len()];
        rows.want(Some(schema), schema, &guessed, true);
        return give_rows(rows, RowsOut::new(schema, &guessed, Vec::new(), limit), give);
    };
    let (content, count) = open(target, path)?;
    let rows = if dialect.header && header {
        CsvRows::open(path, content, count, dialect)?
    } else {
        CsvRows::without_header(path, content, count, dialect, schema)?
    };
    let places = rows.places(schema)?;
    let guessed = vec![false; schema.columns.len()];
    give_rows(rows, RowsOut::new(schema, &guessed, places, limit), give)
}

fn open(target: &Target, path: &str) -> Result<codec::Content, Failure> {
    codec::decompress(target.store.open(path)?, target.spec.compression).map_err(|error| codec::read_failed(path, error))
}

fn give_rows(mut rows: impl Rows, mut out: RowsOut, give: Give<'_>) -> Result<bool, Failure> {
    while let Some(chunk) = rows.fill(&mut out)? {
        if let Some(reject) = chunk.rejects.first() {
            return Err(Failure::permanent(format!("{} does not read back as it was written: {}", reject.origin, reject.reason)));
        }
        if !give(chunk) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Writes one split into a part of its own, on a blocking thread.
pub(super) struct PartWriter {
    target: Target,
    work: Work,
    load: Load,
    split: String,
    file: String,
    header: bool,
    batches: Option<mpsc::Sender<Option<RecordBatch>>>,
    task: JoinHandle<Result<Option<Seal>, Failure>>,
    rows: u64,
    size: Arc<Size>,
}

/// How large a part has become.
#[derive(Default)]
struct Size {
    /// Bytes in the file.
    written: Arc<AtomicU64>,
    /// Bytes on the way to it.
    waiting: AtomicU64,
}

impl PartWriter {
    /// Begins the part. It has a name that no other attempt uses.
    pub(super) fn new(target: Target, work: Work, load: &Load, split: &str) -> Self {
        let file = format!("{}.{:016x}.part", name(split), fastrand::u64(..));
        // Only the first part of a single file has the header; in a folder every part stands for itself.
        let header = target.is_folder() || split == "all" || split.bytes().all(|byte| byte == b'0');
        let (sender, receiver) = mpsc::channel(QUEUE);
        let (own, path, schema) = (target.clone(), work.file(&file), load.schema.clone());
        let size = Arc::<Size>::default();
        let counted = Arc::clone(&size);
        let task = tasks::start_blocking(move || encode(&own, &path, &schema, header, receiver, &counted));
        Self { target, work, load: load.clone(), split: split.to_owned(), file, header, batches: Some(sender), task, rows: 0, size }
    }

    /// Its name in the work folder.
    pub(super) fn file(&self) -> &str {
        &self.file
    }

    /// About how many bytes it has by now.
    pub(super) fn bytes(&self) -> u64 {
        self.size.written.load(Ordering::Relaxed) + self.size.waiting.load(Ordering::Relaxed)
    }

    /// Ends the part; its seal.
    pub(super) async fn finish(&mut self) -> Result<Seal, Failure> {
        if let Some(sender) = self.batches.take() {
            // A channel that only closes is a writer that was dropped. One that is closed already has failed, which the task tells.
            let _ = sender.send(None).await;
        }
        let ended = tasks::joined((&mut self.task).await)?;
        ended.ok_or_else(Failure::cancelled)
    }
}

/// Writes batches until the word that ends the part. Nothing is left of a part that was not ended.
fn encode(
    target: &Target,
    path: &str,
    schema: &Schema,
    header: bool,
    mut batches: mpsc::Receiver<Option<RecordBatch>>,
    size: &Size,
) -> Result<Option<Seal>, Failure> {
    let file = Hashed::counted(target.store.create(path)?, Arc::clone(&size.written));
    let mut encoder = Encoder::new(&target.spec, schema, path, file, header)?;
    while let Some(word) = batches.blocking_recv() {
        match word {
            Some(batch) => {
                encoder.write(&batch)?;
                size.waiting.store(encoder.waiting() as u64, Ordering::Relaxed);
            }
            None => return encoder.finish(path).map(Some),
        }
    }
    Ok(None)
}

#[async_trait]
impl Writer for PartWriter {
    async fn write(&mut self, batch: RecordBatch) -> Result<(), Failure> {
        self.rows += batch.num_rows() as u64;
        let Some(sender) = &self.batches else { return Err(Failure::permanent("the part has already failed")) };
        if sender.send(Some(batch)).await.is_ok() {
            return Ok(());
        }
        self.batches = None;
        match tasks::joined((&mut self.task).await) {
            Ok(_) => Err(Failure::permanent("a bug: a part ended before its rows did")),
            Err(failure) => Err(failure),
        }
    }

    async fn commit(mut self: Box<Self>, mark: Mark) -> Result<Committed, Failure> {
        let seal = self.finish().await?;
        let Self { target, work, load, split, file, header, rows, .. } = *self;
        let part = Part { split, rows: mark.rows, digest: mark.digest.to_string(), rejects: mark.rejects, file, header, seal };
        tasks::blocking(move || record(&*target.store, &work, &load, part).map(|bytes| Committed { rows, bytes })).await
    }
}

/// Names the part in the record; its bytes, or 0 when the split was committed before. A part that is not named is removed.
fn record(store: &dyn Store, work: &Work, load: &Load, part: Part) -> Result<u64, Failure> {
    let named = work.change(store, load, |record| {
        let current = record.load.as_mut().filter(|current| current.plan_hash == load.key.plan_hash);
        let current = current.ok_or_else(|| Failure::new(FailureKind::Fenced, "the load was started again by another run"))?;
        if current.parts.iter().any(|other| other.split == part.split) {
            return Ok(false);
        }
        current.parts.push(part.clone());
        Ok(true)
    });
    match named {
        Ok(true) => Ok(part.seal.bytes),
        Ok(false) => {
            // The answer to an earlier try may have been lost: then the part that is named is this one.
            let record = work.read(store)?;
            if !record.load.iter().flat_map(|load| &load.parts).any(|other| other.file == part.file) {
                store.remove(&work.file(&part.file))?;
            }
            Ok(0)
        }
        Err(failure) => {
            let record = work.read(store)?;
            if record.load.iter().flat_map(|load| &load.parts).any(|other| other.file == part.file) {
                return Ok(part.seal.bytes);
            }
            store.remove(&work.file(&part.file))?;
            Err(failure)
        }
    }
}

/// A split's id as a part of a file name.
pub(super) fn name(id: &str) -> String {
    id.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' }).collect()
}

/// The ending of a target's parts.
pub(super) fn ending(spec: &FilesSink) -> String {
    let format = super::source::ending(&spec.format);
    match (&spec.format, spec.compression) {
        (FileFormat::Parquet, _) | (_, Compression::Plain | Compression::Snappy) => format.to_owned(),
        (_, Compression::Gzip) => format!("{format}.gz"),
        (_, Compression::Zstd) => format!("{format}.zst"),
    }
}
