//! One attempt at one unit of work: a split, or a whole segment of stages that stream to each other.
//!
//! Every attempt stands for itself. It writes only what its outputs do not have yet, and nothing of it is seen unless it commits.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::record_batch::RecordBatch;
use futures::{StreamExt, future, stream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use super::edge::{self, EdgeReceiver, EdgeSender};
use super::progress::Attempt;
use super::rejects::RejectSlip;
use super::stage::{LoadRun, StageRun, WHOLE};
use crate::connectors::{Mark, Split, Writer};
use crate::data::{BatchStream, Chunk, Digest, RawChunk, RawStream, Reject, RowHasher};
use crate::define::pipeline::Verify;
use crate::failure::{Failure, FailureKind};
use crate::plan::Origin;
use crate::transform::Compiled;

/// What an attempt brought.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    /// Rows that were written.
    pub rows: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Rows that were refused.
    pub rejects: u64,
}

/// What goes from the task that reads to the one that writes.
enum Piece {
    Rows { batch: RecordBatch, digest: Digest, rejects: Vec<Reject> },
    Raw(RawChunk),
}

/// Reads, transforms and writes one split.
pub async fn split(stage: &Arc<StageRun>, split: &Split) -> Result<Done, Failure> {
    let Some(reading) = stage.reading(0) else {
        return Err(Failure::permanent(format!("split {} has no source", split.id)));
    };
    let attempt = Attempt::new(&stage.counters);
    let (sender, receiver) = mpsc::channel(edge::QUEUE);
    let reader = {
        let (stage, split, attempt) = (Arc::clone(stage), split.clone(), Arc::clone(&attempt));
        AbortOnDropHandle::new(tokio::spawn(async move {
            let read = async {
                if stage.plan.raw {
                    forward_raw(&attempt, reading.read_raw(&split).await?, &sender).await
                } else {
                    forward(&stage, &attempt, reading.read(&split).await?, &sender).await
                }
            };
            read.await.map_err(|failure| failure.during(format!("reading {}", split.label)))
        }))
    };
    let mut output = Output::open(stage, &attempt, &split.id).await?;
    output.take(receiver).await?;
    finished(reader).await?;
    output.commit().await
}

/// Waits for a reading task. Its end without a failure is what makes the rows complete.
async fn finished(reader: AbortOnDropHandle<Result<(), Failure>>) -> Result<(), Failure> {
    match reader.await {
        Ok(result) => result,
        Err(error) => Err(internal(&error)),
    }
}

/// A panic is a bug of ours, and never retried.
pub fn internal(error: &tokio::task::JoinError) -> Failure {
    if error.is_panic() {
        Failure::permanent("a task broke down; this is a bug in haul").help("run again with RUST_BACKTRACE=1 and report what it prints")
    } else {
        Failure::cancelled()
    }
}

/// Hands a source's rows through the transform to the writing task.
async fn forward(stage: &StageRun, attempt: &Attempt, mut rows: BatchStream, sender: &mpsc::Sender<Piece>) -> Result<(), Failure> {
    let mut hasher = RowHasher::default();
    while let Some(chunk) = rows.next().await {
        let chunk = chunk?;
        attempt.read(chunk.batch.num_rows() as u64 + chunk.rejects.len() as u64, chunk.bytes);
        let chunk = stage.plan.transform.apply(chunk)?;
        if sender.send(piece(stage, &mut hasher, chunk)).await.is_err() {
            return Err(Failure::cancelled()); // The writing task failed, and says why.
        }
    }
    Ok(())
}

async fn forward_raw(attempt: &Attempt, mut rows: RawStream, sender: &mpsc::Sender<Piece>) -> Result<(), Failure> {
    while let Some(chunk) = rows.next().await {
        let chunk = chunk?;
        attempt.read(chunk.rows, chunk.bytes.len() as u64);
        if sender.send(Piece::Raw(chunk)).await.is_err() {
            return Err(Failure::cancelled());
        }
    }
    Ok(())
}

/// The digest is only worth its time when somebody will compare it.
fn piece(stage: &StageRun, hasher: &mut RowHasher, chunk: Chunk) -> Piece {
    let digest = if stage.plan.flow().verify == Verify::Digest {
        hasher.digest(&chunk.batch)
    } else {
        Digest { rows: chunk.batch.num_rows() as u64, sum: 0 }
    };
    Piece::Rows { batch: chunk.batch, digest, rejects: chunk.rejects }
}

/// The writers of one attempt, one for each output that lacks the split.
struct Output<'a> {
    stage: &'a StageRun,
    attempt: &'a Attempt,
    split: String,
    writers: Vec<(&'a LoadRun, &'a str, Box<dyn Writer>)>,
    slip: RejectSlip,
    digest: Digest,
}

impl<'a> Output<'a> {
    async fn open(stage: &'a StageRun, attempt: &'a Attempt, split: &str) -> Result<Self, Failure> {
        let mut writers = Vec::new();
        for (output, load) in stage.plan.outputs.iter().zip(&stage.loads) {
            if !load.has(split) {
                let writer = output.sink.writer(&load.load, split).await;
                let writer = writer.map_err(|failure| failure.during(format!("writing {}", output.label)))?;
                writers.push((load, output.label.as_str(), writer));
            }
        }
        Ok(Self { stage, attempt, split: split.to_owned(), writers, slip: stage.rejects.slip(split)?, digest: Digest::default() })
    }

    async fn take(&mut self, mut pieces: mpsc::Receiver<Piece>) -> Result<(), Failure> {
        while let Some(piece) = pieces.recv().await {
            self.write(piece).await?;
        }
        Ok(())
    }

    async fn write(&mut self, piece: Piece) -> Result<(), Failure> {
        let during = |label: &str, failure: Failure| failure.during(format!("writing {label}"));
        match piece {
            Piece::Rows { batch, digest, rejects } => {
                self.slip.take(&rejects).await?;
                self.attempt.refused(rejects.len() as u64);
                self.digest += digest;
                self.attempt.wrote(digest.rows);
                if batch.num_rows() > 0 {
                    let writes = self.writers.iter_mut().map(|(_, label, writer)| {
                        let batch = batch.clone();
                        async move { writer.write(batch).await.map_err(|failure| during(label, failure)) }
                    });
                    future::try_join_all(writes).await?;
                }
            }
            Piece::Raw(chunk) => {
                self.digest += chunk.digest;
                self.attempt.wrote(chunk.rows);
                let writes = self.writers.iter_mut().map(|(_, label, writer)| {
                    let chunk = chunk.clone();
                    async move { writer.write_raw(chunk).await.map_err(|failure| during(label, failure)) }
                });
                future::try_join_all(writes).await?;
            }
        }
        Ok(())
    }

    /// Bad rows are kept first: a crash in between leaves a part that the next attempt replaces. Outputs commit one after the other; after a
    /// crash in between, the next attempt writes only those that lack the split.
    async fn commit(self) -> Result<Done, Failure> {
        let rejects = self.slip.count();
        self.slip.commit().await?;
        let mark = Mark { split: self.split, rows: self.digest.rows, digest: self.digest, rejects };
        for (load, label, writer) in self.writers {
            let committed = writer.commit(mark.clone()).await.map_err(|failure| failure.during(format!("committing {label}")))?;
            self.stage.written_bytes.fetch_add(committed.bytes, Ordering::Relaxed);
            load.mark(mark.clone());
        }
        self.attempt.keep();
        Ok(Done { rows: mark.rows, bytes: self.attempt.bytes(), rejects })
    }
}

/// Runs stages that stream to each other, each as a task of its own. The first failure stops them all.
pub async fn segment(stages: &[(usize, Arc<StageRun>)], memory_bytes: u64, spill: &Path) -> Result<Vec<Done>, Failure> {
    let mut wiring = Wiring::new(stages, spill);
    let mut tasks: JoinSet<(usize, Result<Done, Failure>)> = JoinSet::new();
    for drive in wiring.drivers.drain(..) {
        tasks.spawn(async move { (usize::MAX, drive.await.map(|()| Done::default())) });
    }
    for (place, (_, stage)) in stages.iter().enumerate() {
        let stage = Arc::clone(stage);
        let inputs = std::mem::take(&mut wiring.inputs[place]);
        let listeners = std::mem::take(&mut wiring.listeners[place]);
        let spill = spill.to_owned();
        tasks.spawn(async move { (place, member(&stage, inputs, listeners, memory_bytes, &spill).await) });
    }
    let mut done = vec![Done::default(); stages.len()];
    let mut first: Option<Failure> = None;
    while let Some(joined) = tasks.join_next().await {
        match joined {
            Ok((place, Ok(brought))) => {
                if let Some(slot) = done.get_mut(place) {
                    *slot = brought;
                }
            }
            Ok((place, Err(failure))) => {
                let named = match stages.get(place) {
                    Some((_, stage)) if stages.len() > 1 => failure.during(format!("stage {}", stage.plan.stage.name)),
                    _ => failure,
                };
                // A break of an edge is only the echo of the failure behind it.
                if first.as_ref().is_none_or(|first| first.kind == FailureKind::Cancelled) {
                    first = Some(named);
                }
                tasks.abort_all();
            }
            Err(error) if error.is_panic() => {
                first = Some(internal(&error));
                tasks.abort_all();
            }
            Err(_) => {}
        }
    }
    match first {
        Some(failure) => Err(failure),
        None => Ok(done),
    }
}

type Driver = futures::future::BoxFuture<'static, Result<(), Failure>>;

/// The edges of a segment, by the place of the stage in it.
struct Wiring {
    inputs: Vec<Vec<Option<EdgeReceiver>>>,
    listeners: Vec<Vec<EdgeSender>>,
    drivers: Vec<Driver>,
}

impl Wiring {
    fn new(stages: &[(usize, Arc<StageRun>)], spill: &Path) -> Self {
        let mut wiring = Self {
            inputs: stages.iter().map(|(_, stage)| stage.plan.inputs.iter().map(|_| None).collect()).collect(),
            listeners: stages.iter().map(|_| Vec::new()).collect(),
            drivers: Vec::new(),
        };
        for (place, (_, stage)) in stages.iter().enumerate() {
            let joins = stage.plan.inputs.iter().filter(|input| matches!(input.origin, Origin::Stage(_))).count() > 1;
            for (slot, input) in stage.plan.inputs.iter().enumerate() {
                let Origin::Stage(producer) = input.origin else { continue };
                let Some(from) = stages.iter().position(|(number, _)| *number == producer) else { continue };
                let (sender, receiver) = if joins {
                    let (sender, receiver, drive) = edge::spilling(&input.schema, spill);
                    wiring.drivers.push(Box::pin(drive));
                    (sender, receiver)
                } else {
                    edge::bounded()
                };
                wiring.listeners[from].push(sender);
                wiring.inputs[place][slot] = Some(receiver);
            }
        }
        wiring
    }
}

/// One stage of a segment: its inputs through its transform to its outputs and its listeners.
async fn member(
    stage: &Arc<StageRun>,
    inputs: Vec<Option<EdgeReceiver>>,
    listeners: Vec<EdgeSender>,
    memory_bytes: u64,
    spill: &Path,
) -> Result<Done, Failure> {
    let attempt = Attempt::new(&stage.counters);
    let streams: Vec<BatchStream> = inputs
        .into_iter()
        .enumerate()
        .map(|(slot, edge)| match edge {
            Some(edge) => counted(edge.into_stream(), &attempt),
            None => counted(whole_source(stage, slot), &attempt),
        })
        .collect();
    let rows = transformed(&stage.plan.transform, streams, memory_bytes, stage, spill)?;
    let (sender, mut pieces) = mpsc::channel(edge::QUEUE);
    let reader = {
        let stage = Arc::clone(stage);
        AbortOnDropHandle::new(tokio::spawn(async move { pieces_of(&stage, rows, &sender).await }))
    };
    let mut output = Output::open(stage, &attempt, WHOLE).await?;
    while let Some(piece) = pieces.recv().await {
        if let Piece::Rows { batch, .. } = &piece {
            for listener in &listeners {
                listener.send(batch.clone()).await;
            }
        }
        output.write(piece).await?;
    }
    finished(reader).await?;
    for listener in listeners {
        listener.finish().await;
    }
    output.commit().await
}

async fn pieces_of(stage: &StageRun, mut rows: BatchStream, sender: &mpsc::Sender<Piece>) -> Result<(), Failure> {
    let mut hasher = RowHasher::default();
    while let Some(chunk) = rows.next().await {
        if sender.send(piece(stage, &mut hasher, chunk?)).await.is_err() {
            return Err(Failure::cancelled());
        }
    }
    Ok(())
}

fn transformed(
    transform: &Arc<Compiled>,
    mut streams: Vec<BatchStream>,
    memory_bytes: u64,
    stage: &StageRun,
    spill: &Path,
) -> Result<BatchStream, Failure> {
    if transform.rowwise() && streams.len() == 1 {
        let transform = Arc::clone(transform);
        return Ok(Box::pin(streams.remove(0).map(move |chunk| transform.apply(chunk?))));
    }
    transform.run(streams, memory_bytes, stage.plan.flow().batch, spill)
}

/// Counts what comes in on the way by.
fn counted(stream: BatchStream, attempt: &Arc<Attempt>) -> BatchStream {
    let attempt = Arc::clone(attempt);
    Box::pin(stream.inspect(move |chunk| {
        if let Ok(chunk) = chunk {
            attempt.read(chunk.batch.num_rows() as u64 + chunk.rejects.len() as u64, chunk.bytes);
        }
    }))
}

/// Everything a source holds, split after split, in order.
fn whole_source(stage: &Arc<StageRun>, slot: usize) -> BatchStream {
    let Some(reading) = stage.reading(slot) else {
        return Box::pin(stream::once(async { Err(Failure::permanent("an input has no source")) }));
    };
    crate::run::verify::all_rows(reading)
}
