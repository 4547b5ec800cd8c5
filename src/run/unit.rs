//! One attempt at one unit of work: a split, or a whole segment of stages that stream to each other.
//!
//! Every attempt stands for itself. It writes only what its outputs do not have yet, and nothing of it is seen unless it commits. Where the
//! source gives positions and the sink takes checkpoints, an attempt commits as it goes, and the next one goes on from its last checkpoint.

use std::path::Path;
use std::sync::Arc;

use futures::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use super::edge::{self, EdgeReceiver, EdgeSender};
use super::output::{Output, Piece};
use super::progress::Attempt;
use super::stage::{StageRun, WHOLE};
use crate::connectors::Split;
use crate::data::{BatchStream, RawStream, RowHasher};
use crate::failure::{Failure, FailureKind};
use crate::plan::Origin;
use crate::tasks;
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

/// Reads, transforms and writes one split.
pub async fn split(stage: &Arc<StageRun>, split: &Split) -> Result<Done, Failure> {
    let Some(reading) = stage.reading(0) else {
        return Err(Failure::permanent(format!("split {} has no source", split.id)));
    };
    let attempt = Attempt::new(&stage.counters);
    let (sender, receiver) = mpsc::channel(edge::QUEUE);
    let mut output = Output::open(stage, &attempt, &split.id).await?;
    let from = output.goes_on_from();
    let reader = {
        let (stage, split, attempt) = (Arc::clone(stage), split.clone(), Arc::clone(&attempt));
        tasks::start(async move {
            let read = async {
                if stage.plan.raw {
                    forward_raw(&attempt, reading.read_raw(&split).await?, &sender).await
                } else {
                    forward(&stage, &attempt, reading.read(&split, from.as_ref()).await?, &sender).await
                }
            };
            read.await.map_err(|failure| failure.during(format!("reading {}", split.label)))
        })
    };
    output.take(receiver).await?;
    finished(reader).await?;
    output.commit().await
}

/// Waits for a reading task. Its end without a failure is what makes the rows complete.
pub(super) async fn finished(reader: AbortOnDropHandle<Result<(), Failure>>) -> Result<(), Failure> {
    tasks::joined(reader.await)
}

/// Hands a source's rows through the transform to the writing task.
pub(super) async fn forward(
    stage: &StageRun,
    attempt: &Attempt,
    mut rows: BatchStream,
    sender: &mpsc::Sender<Piece>,
) -> Result<(), Failure> {
    let mut hasher = RowHasher::default();
    while let Some(chunk) = rows.next().await {
        let chunk = chunk?;
        let came = chunk.batch.num_rows() as u64 + chunk.rejects.len() as u64;
        attempt.read(came, chunk.bytes);
        let chunk = stage.plan.transform.apply(chunk).await?;
        if sender.send(Piece::of(stage, &mut hasher, chunk, came)).await.is_err() {
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
                first = Some(tasks::ended(error));
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
        tasks::start(async move { pieces_of(&stage, rows, &sender).await })
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
        if sender.send(Piece::of(stage, &mut hasher, chunk?, 0)).await.is_err() {
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
        return Ok(applied(Arc::clone(transform), streams.remove(0)));
    }
    transform.run(streams, memory_bytes, stage.plan.flow().batch, spill)
}

/// Rows through steps that look at one row at a time.
pub fn applied(transform: Arc<Compiled>, rows: BatchStream) -> BatchStream {
    Box::pin(rows.then(move |chunk| {
        let transform = Arc::clone(&transform);
        async move { transform.apply(chunk?).await }
    }))
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
