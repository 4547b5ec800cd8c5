//! The only place that makes the async runtime, and that listens to the signals which stop a run.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{CliError, Exit};

/// How long blocking work may still take when everything else is over: a SQLite statement, a file's fsync.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// What a run listens to. The first signal asks it to commit what it has begun and stop; the second one asks it to stop at once; the third
/// ends the process.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Cancelled by the first signal.
    pub drain: CancellationToken,
    /// Cancelled by the second signal.
    pub abort: CancellationToken,
    first: Arc<AtomicU8>,
}

impl Stop {
    /// How the process ends because of a signal; `None` when none came.
    pub fn exit(&self) -> Option<Exit> {
        [Exit::Interrupted, Exit::Terminated].into_iter().find(|exit| exit.code() == self.first.load(Ordering::Relaxed))
    }

    /// Does work that a signal may simply end, since it changes nothing that would have to be finished.
    pub async fn unless<T>(&self, work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
        tokio::select! {
            result = work => result,
            () = self.drain.cancelled() => Err(CliError::new(self.exit().unwrap_or(Exit::Interrupted), "stopped before anything was done")),
        }
    }

    fn signalled(&self, exit: Exit) {
        let first = self.first.compare_exchange(0, exit.code(), Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if first {
            self.drain.cancel();
        } else if self.abort.is_cancelled() {
            std::process::exit(exit.code().into());
        } else {
            self.abort.cancel();
        }
    }
}

/// Makes the runtime, runs `work` on it to its end, and listens to signals meanwhile.
pub fn block_on<F: Future>(work: impl FnOnce(Stop) -> F) -> Result<F::Output, CliError> {
    let failed = |error| CliError::new(Exit::Environment, format!("failed to start the async runtime: {error}"));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(failed)?;
    let stop = Stop::default();
    let output = runtime.block_on(async {
        tokio::spawn(listen(stop.clone())?);
        Ok(work(stop).await)
    });
    runtime.shutdown_timeout(SHUTDOWN);
    output.map_err(failed)
}

#[cfg(unix)]
fn listen(stop: Stop) -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => stop.signalled(Exit::Interrupted),
                _ = terminate.recv() => stop.signalled(Exit::Terminated),
            }
        }
    })
}

#[cfg(not(unix))]
fn listen(stop: Stop) -> std::io::Result<impl Future<Output = ()>> {
    Ok(async move {
        while tokio::signal::ctrl_c().await.is_ok() {
            stop.signalled(Exit::Interrupted);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_signal_ends_work_that_changes_nothing() {
        let stop = Stop::default();
        assert_eq!(stop.unless(async { Ok(7) }).await.map_err(|error| error.message), Ok(7));
        stop.signalled(Exit::Terminated);
        let stopped = stop.unless(std::future::pending::<Result<(), CliError>>()).await.map_err(|error| error.exit);
        assert_eq!(stopped, Err(Exit::Terminated));
    }

    #[test]
    fn the_first_signal_drains_the_second_aborts_and_the_first_names_the_exit() {
        let stop = Stop::default();
        assert_eq!(stop.exit(), None);
        stop.signalled(Exit::Terminated);
        assert_eq!((stop.drain.is_cancelled(), stop.abort.is_cancelled()), (true, false));
        stop.signalled(Exit::Interrupted);
        assert_eq!((stop.abort.is_cancelled(), stop.exit()), (true, Some(Exit::Terminated)));
    }
}
