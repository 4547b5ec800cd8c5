//! Hands events to the journal in groups, and to the reader of the progress once the journal has them.

use std::sync::Arc;

use futures::future;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use super::EVENT_QUEUE;
use crate::clock;
use crate::failure::Failure;
use crate::journal::{Event, Journal, What};
use crate::tasks;

/// What is queued.
enum Entry {
    Event(Box<Event>),
    /// Say when all before it is in the journal.
    Told(oneshot::Sender<()>),
}

/// The way into the journal. Events are written in order; those that come while a write is under way go together in the next.
pub struct Recorder {
    run: String,
    queue: mpsc::Sender<Entry>,
    task: AbortOnDropHandle<Result<(), Failure>>,
}

/// A way to add notes from beside the dispatcher. The journal is written to its end only when all of them are gone.
pub struct Notes {
    run: String,
    queue: mpsc::Sender<Entry>,
}

impl Notes {
    /// Queues a note on a stage.
    pub async fn say(&self, stage: &str, text: String) {
        let what = What::Note { stage: Some(stage.to_owned()), text };
        let _ = self.queue.send(Entry::Event(Box::new(Event { at_ms: clock::now_ms(), run: self.run.clone(), what }))).await;
    }
}

impl Recorder {
    /// For a task that has something to say now and then.
    pub fn notes(&self) -> Notes {
        Notes { run: self.run.clone(), queue: self.queue.clone() }
    }

    /// Starts the task that writes.
    pub fn start(journal: Arc<Journal>, run: String, reader: mpsc::Sender<Event>) -> Self {
        let (queue, mut entries) = mpsc::channel::<Entry>(EVENT_QUEUE);
        let task = tasks::start(async move {
            let mut group = Vec::new();
            while entries.recv_many(&mut group, EVENT_QUEUE).await > 0 {
                // Recorded together, they share the wait for the disk; the journal keeps the order of the calls.
                let events = group.iter().filter_map(|entry| if let Entry::Event(event) = entry { Some(event) } else { None });
                future::try_join_all(events.map(|event| journal.record(event))).await?;
                for entry in group.drain(..) {
                    // A reader that went away does not stop the run; nor does one who no longer waits.
                    match entry {
                        Entry::Event(event) => drop(reader.send(*event).await),
                        Entry::Told(waits) => drop(waits.send(())),
                    }
                }
            }
            Ok(())
        });
        Self { run, queue, task }
    }

    /// Queues an event; waits when the journal is far behind. A journal that cannot be written ends the run at [`Recorder::finish`].
    pub async fn record(&self, what: What) {
        self.record_at(clock::now_ms(), what).await;
    }

    /// The same, with a time of its own.
    pub async fn record_at(&self, at_ms: i64, what: What) {
        let event = Box::new(Event { at_ms, run: self.run.clone(), what });
        let _ = self.queue.send(Entry::Event(event)).await;
    }

    /// Ends once everything recorded so far that must last is in the journal; as cancelled, when it cannot be written.
    pub fn told(&self) -> impl Future<Output = Result<(), Failure>> + Send + 'static {
        let (queue, (waits, told)) = (self.queue.clone(), oneshot::channel());
        async move {
            let _ = queue.send(Entry::Told(waits)).await;
            drop(queue);
            told.await.map_err(|_| Failure::cancelled())
        }
    }

    /// Whether the journal can no longer be written.
    pub fn broken(&self) -> bool {
        self.queue.is_closed()
    }

    /// Waits until everything is written.
    pub async fn finish(self) -> Result<(), Failure> {
        drop(self.queue);
        tasks::joined(self.task.await)
    }
}
