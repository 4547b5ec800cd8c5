//! The connection of a writer: at rest, or in a COPY that a task of its own feeds.

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::error::failure;
use super::session::Session;
use super::tuples::TRAILER;
use crate::failure::Failure;

/// Frames that may wait for the connection, besides the one being sent.
pub(super) const AHEAD: usize = 2;

/// A COPY borrows its connection for as long as it lasts.
pub(super) enum Copy {
    Resting(Session),
    Copying { frames: mpsc::Sender<Bytes>, task: AbortOnDropHandle<Result<(Session, u64), Failure>> },
    Broken,
}

/// What happened to a connection that is no longer there.
pub(super) fn lost() -> Failure {
    Failure::transient("the connection was lost while rows were written")
}

/// Feeds a COPY until its trailer; gives the connection back with the rows that the server took.
pub(super) async fn copy_in(mut session: Session, copy: String, mut frames: mpsc::Receiver<Bytes>) -> Result<(Session, u64), Failure> {
    let mut sink = session.raw().copy_in_raw(&copy).await.map_err(failure)?;
    let mut trailing = [0; 2];
    while let Some(frame) = frames.recv().await {
        sink.send(&frame[..]).await.map_err(failure)?;
        if let Some(last) = frame.last_chunk() {
            trailing = *last;
        }
    }
    // A writer that was dropped sends no trailer, and must leave no rows.
    if trailing != TRAILER {
        return Err(Failure::cancelled());
    }
    let rows = sink.finish().await.map_err(failure)?;
    Ok((session, rows))
}
