//! Reading one COPY as a stream, on a connection of its own.

use bytes::Bytes;
use futures::stream::unfold;
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;

use super::decode::Decoder;
use super::error::failure;
use super::session::Session;
use super::tuples::Cutter;
use crate::data::{BatchStream, Chunk, Digest, RawChunk, RawStream, RowHasher};
use crate::failure::Failure;
use crate::tasks;

/// Chunks that may wait for the one who takes them, besides the one being made.
const AHEAD: usize = 1;
/// Raw chunks are at least this large, but for the last.
const RAW_CHUNK: usize = 256 << 10;

/// Reads `copy`, a COPY TO STDOUT statement, as batches. The session is in a transaction, which is ended at the end of the copy.
pub(super) fn batches(session: Session, copy: String, decoder: Decoder) -> BatchStream {
    Box::pin(produce(move |send| pump(session, copy, Batches(decoder), send)))
}

/// Reads `copy` as raw rows.
pub(super) fn raw(session: Session, copy: String) -> RawStream {
    Box::pin(produce(move |send| pump(session, copy, Raw::default(), send)))
}

/// Makes chunks of tuples.
trait Collector: Send {
    type Chunk: Send;
    fn tuple(&mut self, tuple: &[u8]) -> Result<(), Failure>;
    fn is_full(&self) -> bool;
    fn is_empty(&self) -> bool;
    fn finish(&mut self) -> Result<Self::Chunk, Failure>;
}

struct Batches(Decoder);

impl Collector for Batches {
    type Chunk = Chunk;
    fn tuple(&mut self, tuple: &[u8]) -> Result<(), Failure> {
        self.0.tuple(tuple)
    }
    fn is_full(&self) -> bool {
        self.0.is_full()
    }
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    fn finish(&mut self) -> Result<Self::Chunk, Failure> {
        self.0.finish()
    }
}

#[derive(Default)]
struct Raw {
    bytes: Vec<u8>,
    digest: Digest,
}

impl Collector for Raw {
    type Chunk = RawChunk;
    fn tuple(&mut self, tuple: &[u8]) -> Result<(), Failure> {
        if self.bytes.capacity() == 0 {
            self.bytes.reserve(RAW_CHUNK + tuple.len());
        }
        self.bytes.extend_from_slice(tuple);
        self.digest.add_wire_row(tuple);
        Ok(())
    }
    fn is_full(&self) -> bool {
        self.bytes.len() >= RAW_CHUNK
    }
    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
    fn finish(&mut self) -> Result<RawChunk, Failure> {
        let digest = std::mem::take(&mut self.digest);
        Ok(RawChunk { bytes: Bytes::from(std::mem::take(&mut self.bytes)), rows: digest.rows, digest })
    }
}

/// Digests what `copy` reads, within the session's own transaction.
pub(super) async fn digest(session: &mut Session, copy: &str, decoder: Decoder) -> Result<Digest, Failure> {
    let mut digesting = Digesting { decoder, hasher: RowHasher::default(), digest: Digest::default() };
    copy_out(session, copy, &mut digesting, None).await?;
    digesting.finish()
}

/// Digests the undecoded rows that `copy` reads, within the session's own transaction.
pub(super) async fn digest_raw(session: &mut Session, copy: &str) -> Result<Digest, Failure> {
    let mut digesting = RawDigesting(Digest::default());
    copy_out(session, copy, &mut digesting, None).await?;
    digesting.finish()
}

struct Digesting {
    decoder: Decoder,
    hasher: RowHasher,
    digest: Digest,
}

impl Collector for Digesting {
    type Chunk = Digest;
    fn tuple(&mut self, tuple: &[u8]) -> Result<(), Failure> {
        self.decoder.tuple(tuple)?;
        if self.decoder.is_full() {
            self.finish()?;
        }
        Ok(())
    }
    fn is_full(&self) -> bool {
        false
    }
    fn is_empty(&self) -> bool {
        true
    }
    fn finish(&mut self) -> Result<Digest, Failure> {
        let chunk = self.decoder.finish()?;
        if let Some(reject) = chunk.rejects.first() {
            return Err(Failure::permanent(format!("{}: {} no longer reads as what was written", reject.origin, reject.reason)));
        }
        self.digest += self.hasher.digest(&chunk.batch);
        Ok(self.digest)
    }
}

struct RawDigesting(Digest);

impl Collector for RawDigesting {
    type Chunk = Digest;
    fn tuple(&mut self, tuple: &[u8]) -> Result<(), Failure> {
        self.0.add_wire_row(tuple);
        Ok(())
    }
    fn is_full(&self) -> bool {
        false
    }
    fn is_empty(&self) -> bool {
        true
    }
    fn finish(&mut self) -> Result<Digest, Failure> {
        Ok(self.0)
    }
}

/// Runs the copy to its end and sends every full chunk. False when nobody takes them any more; the connection is then in the middle
/// of a COPY, as it is after a failure, and fit only to be closed.
async fn copy_out<C: Collector>(
    session: &mut Session,
    copy: &str,
    collector: &mut C,
    send: Option<&mpsc::Sender<Result<C::Chunk, Failure>>>,
) -> Result<bool, Failure> {
    let mut cutter = Cutter::default();
    let mut frames = session.raw().copy_out_raw(copy).await.map_err(failure)?;
    while let Some(frame) = frames.next().await {
        cutter.feed(&frame.map_err(failure)?, |tuple| collector.tuple(tuple))?;
        if let Some(send) = send.filter(|_| collector.is_full())
            && send.send(Ok(collector.finish()?)).await.is_err()
        {
            return Ok(false);
        }
    }
    drop(frames);
    if cutter.ended() { Ok(true) } else { Err(Failure::transient("the server's COPY stream was cut off")) }
}

/// Reads `copy` within the session's own transaction, and sends it as batches. False when nobody takes them any more.
pub(super) async fn send_batches(
    session: &mut Session,
    copy: &str,
    decoder: Decoder,
    send: &mpsc::Sender<Result<Chunk, Failure>>,
) -> Result<bool, Failure> {
    copy_all(session, copy, &mut Batches(decoder), send).await
}

async fn copy_all<C: Collector>(
    session: &mut Session,
    copy: &str,
    collector: &mut C,
    send: &mpsc::Sender<Result<C::Chunk, Failure>>,
) -> Result<bool, Failure> {
    if !copy_out(session, copy, collector, Some(send)).await? {
        return Ok(false);
    }
    Ok(collector.is_empty() || send.send(Ok(collector.finish()?)).await.is_ok())
}

/// Runs the copy. Whenever it stops early the session is dropped with it, which closes the connection: an abandoned COPY would have to
/// be read to its end otherwise.
async fn pump<C: Collector>(mut session: Session, copy: String, mut collector: C, send: mpsc::Sender<Result<C::Chunk, Failure>>) {
    let ended = match copy_all(&mut session, &copy, &mut collector, &send).await {
        Ok(true) => session.finish().await,
        Ok(false) => return,
        Err(failure) => Err(failure),
    };
    if let Err(failure) = ended {
        let _ = send.send(Err(failure)).await;
    }
}

/// Runs a producer as a task of its own, so that reading and what follows it overlap. Dropping the stream stops the task.
fn produce<T: Send + 'static, F>(start: impl FnOnce(mpsc::Sender<Result<T, Failure>>) -> F) -> impl Stream<Item = Result<T, Failure>> + Send
where
    F: Future<Output = ()> + Send + 'static,
{
    let (send, receive) = mpsc::channel(AHEAD);
    let task = tasks::start(start(send));
    unfold((receive, Some(task)), |(mut receive, task)| async move {
        if let Some(item) = receive.recv().await {
            return Some((item, (receive, task)));
        }
        // The end of the channel is the end of the rows only when the task has not died.
        match task?.await {
            Ok(()) => None,
            Err(died) => Some((Err(tasks::ended(died)), (receive, None))),
        }
    })
}
