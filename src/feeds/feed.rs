//! One feed: its newest events, which all clients share, and the readers of its log for clients that are behind.
//!
//! One thread reads what is new, for all clients. It sleeps while there are none.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, Weak};
use std::thread::{self, Thread};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, watch};

use super::form::Form;
use super::metrics::Counts;
use crate::connectors::feed::{Block, Edges, Log};
use crate::failure::Failure;
use crate::tasks;

/// Bytes of the newest events that are kept in memory.
const RING_BYTES: usize = 2 << 20;
/// Bytes that are read from the log at once.
pub(super) const PIECE_BYTES: usize = 256 << 10;
/// Readers of the log at the same time.
const READERS: usize = 4;
/// How often the log is asked for what is new while there are clients.
const LOOK: Duration = Duration::from_millis(5);
/// The same while there are none, or while the log cannot be read.
const REST: Duration = Duration::from_secs(1);

/// Events in the forms that clients have asked for: each is made once.
pub(super) struct Shared {
    block: Block,
    lines: OnceLock<Bytes>,
    events: OnceLock<Bytes>,
}

impl Shared {
    pub(super) fn new(block: Block) -> Arc<Self> {
        Arc::new(Self { block, lines: OnceLock::new(), events: OnceLock::new() })
    }

    pub(super) fn block(&self) -> &Block {
        &self.block
    }

    /// The events in a form.
    pub(super) fn form(&self, form: Form) -> Bytes {
        let made = match form {
            Form::Lines => &self.lines,
            Form::Events => &self.events,
        };
        made.get_or_init(|| form.block(&self.block, None)).clone()
    }
}

/// The newest events, without a gap between them.
#[derive(Default)]
struct Ring {
    /// The last event before the first block.
    behind: u64,
    blocks: VecDeque<Arc<Shared>>,
    bytes: usize,
}

impl Ring {
    fn head(&self) -> u64 {
        self.blocks.back().map_or(self.behind, |block| block.block.last)
    }

    fn push(&mut self, block: Block) {
        self.bytes += block.lines.len();
        self.blocks.push_back(Shared::new(block));
        while self.bytes > RING_BYTES && self.blocks.len() > 1 {
            if let Some(old) = self.blocks.pop_front() {
                self.bytes -= old.block.lines.len();
                self.behind = old.block.last;
            }
        }
    }

    /// What follows on an event; `None` when some of it is not here any more.
    fn behind(&self, id: u64) -> Option<Vec<Arc<Shared>>> {
        if id < self.behind {
            return None;
        }
        let start = self.blocks.partition_point(|shared| shared.block.last <= id);
        let mut found: Vec<Arc<Shared>> = Vec::new();
        let mut bytes = 0;
        for shared in self.blocks.range(start..) {
            bytes += shared.block.lines.len();
            found.push(if shared.block.first > id { Arc::clone(shared) } else { Shared::new(shared.block.behind(id)) });
            if bytes >= PIECE_BYTES {
                break;
            }
        }
        Some(found)
    }
}

/// One feed.
pub(super) struct Feed {
    pub name: String,
    base: PathBuf,
    ring: RwLock<Ring>,
    edges: watch::Sender<Arc<Edges>>,
    pub counts: Counts,
    tail: OnceLock<Thread>,
    idle: AtomicBool,
    logs: Mutex<Vec<Log>>,
    turns: Semaphore,
}

impl Feed {
    /// Opens a feed of the project in `base`, and begins to follow it; `None` when it was never written. Blocks.
    pub(super) fn open(base: &Path, name: &str) -> Result<Option<Arc<Self>>, Failure> {
        let Some(mut log) = Log::open(base, name)? else { return Ok(None) };
        let edges = Arc::new(log.edges()?);
        let feed = Arc::new(Self {
            name: name.to_owned(),
            base: base.to_owned(),
            ring: RwLock::default(),
            edges: watch::Sender::new(edges),
            counts: Counts::default(),
            tail: OnceLock::new(),
            idle: AtomicBool::new(true),
            logs: Mutex::default(),
            turns: Semaphore::new(READERS),
        });
        let weak = Arc::downgrade(&feed);
        let thread = thread::Builder::new().name(format!("feed {name}")).spawn(move || follow(&weak, log));
        let thread = thread.map_err(|error| Failure::transient("no thread could be started to follow a feed").cause(error))?;
        let _ = feed.tail.set(thread.thread().clone());
        Ok(Some(feed))
    }

    /// The edges as far as they are known here, now and when they change.
    pub(super) fn edges(&self) -> watch::Receiver<Arc<Edges>> {
        self.edges.subscribe()
    }

    /// Takes in edges that somebody has just read: they may be ahead of what was read here.
    pub(super) fn learn(&self, edges: &Arc<Edges>) {
        self.edges.send_if_modified(|old| {
            let newer = edges.head > old.head;
            if newer {
                *old = Arc::clone(edges);
            }
            newer
        });
    }

    /// A client has come, at this place.
    pub(super) fn join(&self, place: &Arc<AtomicU64>) {
        self.counts.join(place);
        if let Some(tail) = self.tail.get().filter(|_| self.idle.load(Ordering::Relaxed)) {
            tail.unpark();
        }
    }

    /// What follows on an event, when it is in memory.
    pub(super) fn newest(&self, id: u64) -> Option<Vec<Arc<Shared>>> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner).behind(id)
    }

    /// Reads the log on a thread for that, when it is this reader's turn.
    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&mut Log) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let Ok(_turn) = self.turns.acquire().await else { return Err(Failure::cancelled()) };
        let feed = Arc::clone(self);
        let work = move || {
            let kept = feed.logs.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut log = match kept {
                Some(log) => log,
                None => {
                    Log::open(&feed.base, &feed.name)?.ok_or_else(|| Failure::permanent(format!("the feed `{}` is gone", feed.name)))?
                }
            };
            let found = read(&mut log)?;
            feed.logs.lock().unwrap_or_else(PoisonError::into_inner).push(log);
            Ok(found)
        };
        tasks::blocking(work).await
    }

    /// Takes in what is new.
    fn advance(&self, log: &mut Log) -> Result<(), Failure> {
        let known = self.ring.read().unwrap_or_else(PoisonError::into_inner).head();
        let mut edges = log.edges()?;
        if edges.head > known {
            // After a rest there may be more than fits.
            let begin = if self.idle.load(Ordering::Relaxed) || known == 0 { log.tail(RING_BYTES)?.1 } else { known };
            let mut at = known;
            if begin > known {
                let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
                *ring = Ring { behind: begin, ..Ring::default() };
                at = begin;
            }
            while at < edges.head {
                let (now, blocks) = log.behind(at, PIECE_BYTES)?;
                edges = now;
                let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
                let Some(first) = blocks.first() else { break };
                if first.first > at + 1 {
                    *ring = Ring { behind: first.first - 1, ..Ring::default() };
                }
                blocks.into_iter().for_each(|block| ring.push(block));
                at = ring.head();
            }
        }
        self.idle.store(false, Ordering::Relaxed);
        self.edges.send_if_modified(|old| {
            let new = **old != edges;
            if new {
                *old = Arc::new(edges);
            }
            new
        });
        Ok(())
    }
}

/// Follows a feed for as long as anybody knows it.
fn follow(feed: &Weak<Feed>, mut log: Log) {
    while let Some(feed) = feed.upgrade() {
        let wait = if feed.counts.clients() == 0 {
            feed.idle.store(true, Ordering::Relaxed);
            REST
        } else if feed.advance(&mut log).is_ok() {
            LOOK
        } else {
            REST
        };
        drop(feed);
        thread::park_timeout(wait);
    }
}
