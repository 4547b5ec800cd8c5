//! Work that blocks, as a stream of chunks.

use futures::stream;
use tokio::sync::mpsc;

use crate::data::{BatchStream, Chunk};
use crate::failure::Failure;
use crate::tasks;

/// Chunks that may wait for a slow consumer.
const QUEUE: usize = 2;

/// Hands chunks on; `false` when nobody wants more.
pub(super) type Give<'a> = &'a mut dyn FnMut(Chunk) -> bool;

/// Runs work on a blocking thread that gives chunks one by one. Dropping the stream ends it at its next chunk.
pub(super) fn chunks(work: impl FnOnce(Give<'_>) -> Result<(), Failure> + Send + 'static) -> BatchStream {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let task = tasks::start_blocking(move || {
        let mut give = |chunk| sender.blocking_send(chunk).is_ok();
        work(&mut give)
    });
    Box::pin(stream::unfold((receiver, Some(task)), |(mut receiver, task)| async move {
        if let Some(chunk) = receiver.recv().await {
            return Some((Ok(chunk), (receiver, task)));
        }
        // The worker is done; its answer is the end of the stream.
        match tasks::joined(task?.await) {
            Ok(()) => None,
            Err(failure) => Some((Err(failure), (receiver, None))),
        }
    }))
}
