//! One client's way through a feed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::feed::{Feed, PIECE_BYTES, Shared};
use super::form::Note;
use super::place::{Asked, Begun, Place};
use crate::clock::{self, Stopwatch};
use crate::connectors::feed::{Block, Edges};
use crate::define::pipeline::SlowClient;
use crate::failure::Failure;

/// What comes next for a client.
pub(super) enum Step {
    /// Events. Amid newest rows, the number up to which they are the newest.
    Events(Arc<Shared>, Option<u64>),
    /// Something about the feed.
    Note(Note),
    /// The last word.
    End(Note),
}

/// A client.
pub(super) struct Follower {
    pub feed: Arc<Feed>,
    edges: watch::Receiver<Arc<Edges>>,
    stop: CancellationToken,
    place: Place,
    /// A slow client that is handed the last events of keys, up to this number.
    latest: Option<u64>,
    ready: VecDeque<Step>,
    /// Whether it has caught up once: before that it is behind because it came late, not because it is slow.
    live: bool,
    waiting: bool,
    caught_up: Stopwatch,
    /// The number of the last event it was handed, for those who count.
    reached: Arc<AtomicU64>,
}

impl Follower {
    /// Begins where it is asked for, or where that is possible.
    pub(super) async fn begin(feed: Arc<Feed>, asked: Asked, stop: CancellationToken) -> Result<(Self, Begun, Arc<Edges>), Failure> {
        let edges = Arc::new(feed.read(|log| log.edges()).await?);
        feed.learn(&edges);
        let begun = Begun::of(asked, &edges);
        let reached = Arc::new(AtomicU64::new(0));
        let mut follower = Self {
            edges: feed.edges(),
            stop,
            place: begun.place,
            latest: None,
            ready: VecDeque::new(),
            live: false,
            waiting: false,
            caught_up: Stopwatch::start(),
            reached,
            feed,
        };
        follower.go(begun.place);
        follower.feed.join(&follower.reached);
        Ok((follower, begun, edges))
    }

    /// Where it is with everything that was handed out.
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// Whether more is there already.
    pub(super) fn has_more(&self) -> bool {
        match self.place {
            Place::Newest { .. } => true,
            Place::Behind(id) => !self.ready.is_empty() || id < self.edges.borrow().head,
        }
    }

    /// What comes next, as soon as there is something. May be dropped at any time, and called again.
    pub(super) async fn next(&mut self) -> Result<Step, Failure> {
        loop {
            if let Some(step) = self.ready.pop_front() {
                return Ok(step);
            }
            if self.stop.is_cancelled() {
                return Ok(Step::End(Note::end("closing", self.place)));
            }
            if std::mem::take(&mut self.waiting) {
                self.caught_up = Stopwatch::start();
            }
            match (self.place, self.latest) {
                (Place::Newest { up_to, id }, _) => self.newest(up_to, id).await?,
                (Place::Behind(id), Some(up_to)) => self.latest(id, up_to).await?,
                (Place::Behind(id), None) => {
                    let edges = Arc::clone(&self.edges.borrow_and_update());
                    if id >= edges.head {
                        (self.live, self.waiting) = (true, true);
                        tokio::select! {
                            // The sender lives as long as the feed, which this client holds.
                            _ = self.edges.changed() => {}
                            () = self.stop.cancelled() => {}
                        }
                    } else if self.live && self.caught_up.elapsed() > edges.settings.slow_after() {
                        if let Some(end) = self.slow(id, &edges) {
                            return Ok(end);
                        }
                    } else {
                        self.events(id).await?;
                    }
                }
            }
        }
    }

    /// What the feed does with clients that do not keep up.
    fn slow(&mut self, id: u64, edges: &Edges) -> Option<Step> {
        self.feed.counts.slow(edges.settings.slow);
        self.caught_up = Stopwatch::start();
        match edges.settings.slow {
            SlowClient::Disconnect => return Some(Step::End(Note::end("slow", self.place))),
            SlowClient::Skip => {
                self.feed.counts.lost(edges.head - id);
                self.go(Place::Behind(edges.head));
                self.ready.push_back(Step::Note(Note::skipped(edges.head, edges.head - id)));
            }
            SlowClient::LatestPerKey => {
                self.latest = Some(edges.head);
                self.ready.push_back(Step::Note(Note::latest(edges.head)));
            }
        }
        None
    }

    /// The events behind a number: from memory, or from the log for who is behind.
    async fn events(&mut self, id: u64) -> Result<(), Failure> {
        let found = match self.feed.newest(id) {
            Some(found) if !found.is_empty() => found,
            _ => {
                let (edges, blocks) = self.feed.read(move |log| log.behind(id, PIECE_BYTES)).await?;
                if blocks.is_empty() && edges.oldest > id + 1 {
                    self.gap(Place::Behind(edges.oldest - 1), edges.oldest - 1 - id);
                } else if blocks.is_empty() {
                    return Err(Failure::permanent(format!("the feed `{}` is another one by now", self.feed.name)));
                }
                blocks.into_iter().map(Shared::new).collect()
            }
        };
        if let Some(first) = found.first().map(|shared| shared.block().first).filter(|first| *first > id + 1) {
            self.gap(Place::Behind(first - 1), first - 1 - id);
        }
        if let Some(last) = found.last().map(|shared| shared.block().last) {
            self.go(Place::Behind(last));
        }
        self.ready.extend(found.into_iter().map(|shared| Step::Events(shared, None)));
        Ok(())
    }

    /// The newest rows behind a number, and after them what is new. When events behind them are gone, they are begun again.
    async fn newest(&mut self, up_to: u64, id: u64) -> Result<(), Failure> {
        let (edges, blocks) = self.feed.read(move |log| log.newest(id, up_to, false, PIECE_BYTES)).await?;
        if edges.oldest > up_to + 1 {
            self.gap(Place::Newest { up_to: edges.head, id: 0 }, edges.oldest - 1 - up_to);
            return Ok(());
        }
        match blocks.last().map(|block| block.last) {
            Some(last) => {
                self.go(Place::Newest { up_to, id: last });
                self.ready.extend(blocks.into_iter().map(|block| Step::Events(Shared::new(block), Some(up_to))));
            }
            None => {
                self.go(Place::Behind(up_to));
                self.ready.push_back(Step::Note(Note::snapshot_end(up_to)));
            }
        }
        Ok(())
    }

    /// The last events of keys behind a number, for a slow client.
    async fn latest(&mut self, id: u64, up_to: u64) -> Result<(), Failure> {
        let (edges, blocks) = self.feed.read(move |log| log.newest(id, up_to, true, PIECE_BYTES)).await?;
        // Rows that are gone are known for as long as their events are.
        if edges.oldest > id + 1 {
            self.gap(Place::Behind(edges.oldest - 1), edges.oldest - 1 - id);
        }
        let last = blocks.last().map(|block: &Block| block.last);
        self.go(Place::Behind(last.unwrap_or(up_to)));
        self.ready.extend(blocks.into_iter().map(|block| Step::Events(Shared::new(block), None)));
        if last.is_none() {
            self.latest = None;
            self.caught_up = Stopwatch::start();
        }
        Ok(())
    }

    fn gap(&mut self, place: Place, lost: u64) {
        self.feed.counts.lost(lost);
        self.go(place);
        self.ready.push_back(Step::Note(Note::gap(place, lost)));
    }

    fn go(&mut self, place: Place) {
        self.place = place;
        let (Place::Behind(id) | Place::Newest { id, .. }) = place;
        self.reached.store(id, Ordering::Relaxed);
    }
}

/// When a wait for events ends, on the clock that tasks sleep by.
pub(super) fn until(wait: std::time::Duration) -> tokio::time::Instant {
    clock::instant() + wait
}
