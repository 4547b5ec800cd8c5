//! Work beside the task that asks for it: a task of its own, or a thread where it may block.
//!
//! The work is boxed, so that the runtime's part is compiled once for each kind of answer and not once for each place that starts some.

use std::pin::Pin;

use tokio::task::{JoinError, JoinHandle};
use tokio_util::task::AbortOnDropHandle;

use crate::failure::Failure;

/// Starts a task that ends with its handle.
pub fn start<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> AbortOnDropHandle<T> {
    let work: Pin<Box<dyn Future<Output = T> + Send>> = Box::pin(work);
    AbortOnDropHandle::new(tokio::spawn(work))
}

/// Starts work that blocks, on a thread for that. It goes on when its handle is dropped.
pub fn start_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let work: Box<dyn FnOnce() -> T + Send> = Box::new(work);
    tokio::task::spawn_blocking(work)
}

/// Runs work that blocks, on a thread for that.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    joined(start_blocking(work).await)
}

/// The answer of work that may fail by itself.
pub fn joined<T>(answer: Result<Result<T, Failure>, JoinError>) -> Result<T, Failure> {
    answer.unwrap_or_else(|error| Err(ended(error)))
}

/// Why work has no answer. A panic is a bug of ours, and never retried.
pub fn ended(error: JoinError) -> Failure {
    if error.is_panic() {
        let failure = Failure::permanent("a task broke down; this is a bug in haul").cause(error);
        failure.help("run again with RUST_BACKTRACE=1 and report what it prints")
    } else {
        Failure::cancelled()
    }
}
