//! Work that blocks, as a stream of chunks.

use futures::stream;
use tokio::sync::mpsc;

use crate::data::{BatchStream, Chunk};
use crate::failure::Failure;

/// Chunks that may wait for a slow consumer.
const QUEUE: usize = 2;

/// Hands chunks on; `false` when nobody wants more.
pub(super) type Give<'a> = &'a mut dyn FnMut(Chunk) -> bool;

/// Runs work on a blocking thread that gives chunks one by one. Dropping the stream ends it at its next chunk.
pub(super) fn chunks(work: impl FnOnce(Give<'_>) -> Result<(), Failure> + Send + 'static) -> BatchStream {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let task = tokio::task::spawn_blocking(move || {
        let mut give = |chunk| sender.blocking_send(chunk).is_ok();
        work(&mut give)
    });
    Box::pin(stream::unfold((receiver, Some(task)), |(mut receiver, task)| async move {
        if let Some(chunk) = receiver.recv().await {
            return Some((Ok(chunk), (receiver, task)));
        }
        // The worker is done; its answer is the end of the stream.
        match joined(task?.await) {
            Ok(()) => None,
            Err(failure) => Some((Err(failure), (receiver, None))),
        }
    }))
}

/// Runs work that blocks.
pub(in crate::connectors) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    joined(tokio::task::spawn_blocking(work).await)
}

/// The answer of a blocking task; a panic in it is a bug that is reported as one.
pub(super) fn joined<T>(answer: Result<Result<T, Failure>, tokio::task::JoinError>) -> Result<T, Failure> {
    match answer {
        Ok(answer) => answer,
        Err(error) if error.is_cancelled() => Err(Failure::cancelled()),
        Err(error) => Err(Failure::permanent("a bug: work on a file panicked").cause(error)),
    }
}
