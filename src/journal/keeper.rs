//! The thread that owns the store. Events that have gathered while it wrote are written together, in one commit.

use std::collections::{BTreeSet, HashMap};
use std::sync::Weak;

use tokio::sync::{mpsc, oneshot};

use crate::failure::Failure;

use super::event::{Event, What};
use super::store::{Lock, Store, overtaken};

/// Events in one commit.
const GROUP: usize = 256;

/// What the keeper is asked.
pub(super) enum Request {
    /// Append an event, and say when it is durable to whoever waits.
    Record { event: Event, reply: Option<Reply<()>> },
    /// Say when all before it is durable.
    Flush { reply: Reply<()> },
    /// Read something.
    Ask(Question),
    /// Take a pipeline's lock, for as long as somebody has the other side of `alive`.
    Lock { pipeline: String, alive: Weak<()>, reply: Reply<Lock> },
    /// Give back locks that nobody has any more.
    Sweep,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Request")
    }
}

type Question = Box<dyn FnOnce(&mut dyn Store) + Send>;

type Reply<T> = oneshot::Sender<Result<T, Failure>>;

/// Works until every handle is gone.
pub(super) fn keep(store: Box<dyn Store>, mut queue: mpsc::Receiver<Request>) {
    let mut keeper = Keeper {
        store,
        places: HashMap::new(),
        pending: Vec::new(),
        waiting: Vec::new(),
        unreported: None,
        overtaken: BTreeSet::new(),
        locks: Vec::new(),
    };
    while let Some(request) = queue.blocking_recv() {
        keeper.handle(request);
        while let Ok(request) = queue.try_recv() {
            keeper.handle(request);
        }
        keeper.write();
        keeper.sweep();
    }
}

struct Keeper {
    store: Box<dyn Store>,
    /// The next place in each run that is written to and has not finished.
    places: HashMap<String, i64>,
    pending: Vec<Event>,
    /// Each with the run whose event it waits for, or for everything.
    waiting: Vec<(Option<String>, Reply<()>)>,
    /// A failure that came while nobody waited.
    unreported: Option<Failure>,
    /// Runs that another process has gone on with, and nobody has been told.
    overtaken: BTreeSet<String>,
    locks: Vec<(String, Weak<()>)>,
}

impl Keeper {
    fn handle(&mut self, request: Request) {
        match request {
            Request::Record { event, reply } => {
                self.waiting.extend(reply.map(|reply| (Some(event.run.clone()), reply)));
                self.pending.push(event);
                if self.pending.len() >= GROUP {
                    self.write();
                }
            }
            Request::Flush { reply } => self.waiting.push((None, reply)),
            Request::Ask(question) => {
                self.write();
                question(&mut *self.store);
            }
            Request::Lock { pipeline, alive, reply } => {
                self.sweep();
                let answer = self.lock(&pipeline);
                if matches!(answer, Ok(Lock::Taken)) {
                    self.locks.push((pipeline, alive));
                }
                // When nobody waits any more, the other side of `alive` is gone too, and the next sweep gives the lock back.
                let _ = reply.send(answer);
            }
            Request::Sweep => {}
        }
    }

    fn lock(&mut self, pipeline: &str) -> Result<Lock, Failure> {
        if self.locks.iter().any(|(held, _)| held == pipeline) {
            return Ok(Lock::HeldBy("this process already".to_owned()));
        }
        self.store.lock(pipeline)
    }

    fn sweep(&mut self) {
        let store = &mut self.store;
        self.locks.retain(|(pipeline, alive)| {
            let held = alive.strong_count() > 0;
            if !held {
                store.unlock(pipeline);
            }
            held
        });
    }

    /// Writes what is pending in one commit, and answers those who wait. A run that another process has gone on with stays out of it, and fails
    /// nobody but its own.
    fn write(&mut self) {
        let mut events = std::mem::take(&mut self.pending);
        let written = loop {
            match self.append(&events) {
                Ok(None) => break Ok(()),
                Ok(Some(run)) => {
                    events.retain(|event| event.run != run);
                    self.overtaken.insert(run);
                }
                Err(failure) => break Err(failure),
            }
        };
        let result = match self.unreported.take() {
            Some(earlier) => Err(earlier),
            None => written,
        };
        if self.waiting.is_empty() {
            self.unreported = result.err();
            return;
        }
        let mut told = BTreeSet::new();
        for (waits_for, reply) in self.waiting.drain(..) {
            let lost = self.overtaken.iter().find(|run| waits_for.as_ref().is_none_or(|own| own == *run));
            let _ = reply.send(match (&result, lost) {
                (Err(failure), _) => Err(again(failure)),
                (Ok(()), Some(run)) => {
                    told.insert(run.clone());
                    Err(overtaken(run))
                }
                (Ok(()), None) => Ok(()),
            });
        }
        self.overtaken.retain(|run| !told.contains(run));
    }

    /// Gives a run that another process has gone on with; then nothing is written.
    fn append(&mut self, events: &[Event]) -> Result<Option<String>, Failure> {
        if events.is_empty() {
            return Ok(None);
        }
        // They count once they are durable.
        let mut places: HashMap<String, i64> = HashMap::new();
        let mut placed = Vec::with_capacity(events.len());
        for event in events {
            let known = places.get(&event.run).or_else(|| self.places.get(&event.run)).copied();
            let place = match known {
                Some(place) if !matches!(event.what, What::RunStarted { .. }) => place,
                // Another process may have worked on the run since this one did.
                _ => self.store.next_place(&event.run)?.max(known.unwrap_or(0)),
            };
            places.insert(event.run.clone(), place + 1);
            placed.push((place, event.clone()));
        }
        if let Some(run) = self.store.append(&placed)? {
            return Ok(Some(run));
        }
        self.places.extend(places);
        for (_, event) in placed.iter().filter(|(_, event)| matches!(event.what, What::RunFinished { .. })) {
            self.places.remove(&event.run);
        }
        Ok(None)
    }
}

/// The same failure for one more who waits; what lies beneath is in the message already.
fn again(failure: &Failure) -> Failure {
    Failure {
        kind: failure.kind,
        message: failure.to_string(),
        help: failure.help.clone(),
        cause: None,
        view_lost: failure.view_lost,
        retry_after: failure.retry_after,
    }
}
