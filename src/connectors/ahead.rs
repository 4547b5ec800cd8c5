//! Reading ahead: a task that hands chunks on, as a stream.

use futures::stream;
use tokio::sync::mpsc;

use crate::data::{BatchStream, Chunk};
use crate::failure::Failure;
use crate::tasks;

/// Chunks that may wait for the one who takes them.
const AHEAD: usize = 2;

/// Where a reading task hands its chunks.
#[derive(Clone)]
pub(super) struct Ahead(mpsc::Sender<Chunk>);

impl Ahead {
    /// Hands a chunk on, once there is room for it. Fails when nobody wants it any more.
    pub(super) async fn give(&self, chunk: Chunk) -> Result<(), Failure> {
        self.0.send(chunk).await.map_err(|_| Failure::cancelled())
    }

    /// Waits for room for one chunk. Fails when nobody wants any more.
    pub(super) async fn room(&self) -> Result<mpsc::Permit<'_, Chunk>, Failure> {
        self.0.reserve().await.map_err(|_| Failure::cancelled())
    }

    /// The same on a thread that may block.
    pub(super) fn give_blocking(&self, chunk: Chunk) -> Result<(), Failure> {
        self.0.blocking_send(chunk).map_err(|_| Failure::cancelled())
    }
}

/// Runs a reading task. Its failure is the last item of the stream; dropping the stream ends it.
pub(super) fn ahead<F>(work: impl FnOnce(Ahead) -> F) -> BatchStream
where
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(AHEAD);
    let task = tasks::start(work(Ahead(sender)));
    Box::pin(stream::unfold((receiver, Some(task)), |(mut receiver, task)| async move {
        if let Some(chunk) = receiver.recv().await {
            return Some((Ok(chunk), (receiver, task)));
        }
        // The task is done; its answer is the end of the stream.
        let failure = tasks::joined(task?.await).err()?;
        Some((Err(failure), (receiver, None)))
    }))
}
