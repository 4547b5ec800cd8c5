//! The handle on the journal: asks the keeper's thread, waits without blocking a thread.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::clock::Stopwatch;
use crate::failure::Failure;

use super::event::Event;
use super::fold::{RunState, RunSummary, fold};
use super::keeper::{self, Request};
use super::postgres::PostgresStore;
use super::sqlite::SqliteStore;
use super::store::{Lock, Store};

/// Requests that may wait for the keeper; a run that is faster waits for the disk.
const QUEUE: usize = 1024;

/// How long a lease waits for its holder to go.
const LEASE_PATIENCE: Duration = Duration::from_millis(500);

/// The history of runs. Clones share one store.
#[derive(Clone, Debug)]
pub struct Journal {
    requests: mpsc::Sender<Request>,
}

/// The right to work on a pipeline, held by one process at a time. Dropping it gives it back, and so does the death of the process.
#[derive(Debug)]
pub struct Lease {
    alive: Option<Arc<()>>,
    requests: mpsc::Sender<Request>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.alive = None;
        // Only a nudge: when the queue is full, the keeper gives the lock back after the next request that it handles anyway.
        let _ = self.requests.try_send(Request::Sweep);
    }
}

impl Journal {
    /// Opens the journal that `url` names: `sqlite:` and a path, which is relative to `base` unless it begins with `/`, or
    /// `postgres://…`. What is missing is created. Needs a tokio runtime that outlives the handle.
    ///
    /// A permanent failure when the place is unknown, refused, damaged, or was written by a newer haul.
    pub async fn open(url: &str, base: &Path) -> Result<Self, Failure> {
        let place = Place::parse(url, base)?;
        let (opened, answer) = oneshot::channel();
        let (requests, queue) = mpsc::channel(QUEUE);
        let runtime = tokio::runtime::Handle::current();
        let work = move || match place.open(runtime) {
            Ok(store) => {
                if opened.send(Ok(())).is_ok() {
                    keeper::keep(store, queue);
                }
            }
            Err(failure) => drop(opened.send(Err(failure))),
        };
        let started = std::thread::Builder::new().name("journal".to_owned()).spawn(work);
        started.map_err(|error| Failure::permanent("failed to start the journal's thread").cause(error))?;
        answer.await.map_err(|_| gone())??;
        Ok(Self { requests })
    }

    /// Records an event. When it returns, an event that must last (see [`super::What::must_last`]) is durable; others are on their way, and
    /// a failure to write them comes with the next event that must last. Events are kept in the order of the calls.
    pub async fn record(&self, event: &Event) -> Result<(), Failure> {
        if event.what.must_last() {
            let (reply, answer) = oneshot::channel();
            self.send(Request::Record { event: event.clone(), reply: Some(reply) }).await?;
            answer.await.map_err(|_| gone())?
        } else {
            self.send(Request::Record { event: event.clone(), reply: None }).await
        }
    }

    /// The latest runs first, of one pipeline or of all.
    pub async fn runs(&self, pipeline: Option<&str>, limit: u32) -> Result<Vec<RunSummary>, Failure> {
        let pipeline = pipeline.map(str::to_owned);
        self.ask(move |store| {
            let mut summaries = Vec::new();
            for run in store.runs(pipeline.as_deref(), limit)? {
                summaries.extend(fold(&store.events(&run, true)?).map(|state| state.summary()));
            }
            Ok(summaries)
        })
        .await
    }

    /// The state of one run: by its id, by a prefix that only one id has, or `latest`.
    pub async fn show(&self, run: &str) -> Result<RunState, Failure> {
        let run = run.to_owned();
        self.ask(move |store| {
            let found = if run == "latest" { store.runs(None, 1)? } else { store.runs_like(&run, 2)? };
            let id = match &found[..] {
                [] if run == "latest" => return Err(Failure::permanent("there are no runs yet").help("`haul run NAME` makes one")),
                [] => return Err(Failure::permanent(format!("no run begins with `{run}`")).help("`haul runs` lists them")),
                // An id that is also the beginning of another one is still itself.
                [first, ..] if found.len() == 1 || *first == run => first,
                [_, second, ..] if *second == run => second,
                _ => {
                    return Err(
                        Failure::permanent(format!("several runs begin with `{run}`")).help("give more of the id; `haul runs` lists them")
                    );
                }
            };
            state(store, id)
        })
        .await
    }

    /// The pipeline's latest run, when it can be gone on with: it was killed, stopped, or failed, and ran the plan of that hash (any plan
    /// when no hash is given). A run that a later one came after is history.
    pub async fn unfinished(&self, pipeline: &str, plan_hash: Option<&str>) -> Result<Option<RunState>, Failure> {
        let (pipeline, plan_hash) = (pipeline.to_owned(), plan_hash.map(str::to_owned));
        self.ask(move |store| {
            let Some(run) = store.runs(Some(&pipeline), 1)?.pop() else { return Ok(None) };
            let state = state(store, &run)?;
            let same_plan = plan_hash.is_none_or(|hash| hash == state.plan_hash);
            Ok((state.can_go_on() && same_plan).then_some(state))
        })
        .await
    }

    /// The latest run of the same pipeline that came after one, and may have written something: one that failed before any of its stages began
    /// has not.
    pub async fn worked_since(&self, run: &RunState) -> Result<Option<String>, Failure> {
        let run = run.clone();
        self.ask(move |store| {
            for later in store.runs(Some(&run.pipeline), u32::MAX >> 1)? {
                if later == run.run {
                    break;
                }
                if state(store, &later)?.may_have_written() {
                    return Ok(Some(later));
                }
            }
            Ok(None)
        })
        .await
    }

    /// Takes the right to work on a pipeline. A permanent failure names the process that has it. A holder that is just going gets a moment:
    /// a server notices the end of a session a little later than the session does.
    pub async fn lease(&self, pipeline: &str) -> Result<Lease, Failure> {
        let patience = Stopwatch::start();
        loop {
            match self.try_lease(pipeline).await? {
                Ok(lease) => return Ok(lease),
                Err(_) if patience.elapsed() < LEASE_PATIENCE => tokio::time::sleep(LEASE_PATIENCE / 10).await,
                Err(holder) => {
                    return Err(Failure::permanent(format!("pipeline `{pipeline}` is being run by {holder}"))
                        .help("wait until it ends, or stop it: only one process may work on a pipeline at a time"));
                }
            }
        }
    }

    /// The same without waiting: the lease, or who has it.
    pub async fn try_lease(&self, pipeline: &str) -> Result<Result<Lease, String>, Failure> {
        let alive = Arc::new(());
        let (reply, answer) = oneshot::channel();
        self.send(Request::Lock { pipeline: pipeline.to_owned(), alive: Arc::downgrade(&alive), reply }).await?;
        Ok(match answer.await.map_err(|_| gone())?? {
            Lock::Taken => Ok(Lease { alive: Some(alive), requests: self.requests.clone() }),
            Lock::HeldBy(holder) => Err(holder),
        })
    }

    /// The state of the run of exactly this id, if there is one.
    pub async fn find(&self, run: &str) -> Result<Option<RunState>, Failure> {
        let run = run.to_owned();
        self.ask(move |store| Ok(fold(&store.events(&run, false)?))).await
    }

    /// Waits until everything recorded so far is durable, and reports a failure that no other call has reported.
    pub async fn flush(&self) -> Result<(), Failure> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Flush { reply }).await?;
        answer.await.map_err(|_| gone())?
    }

    pub(super) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut dyn Store) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let (reply, answer) = oneshot::channel();
        let work = move |store: &mut dyn Store| drop(reply.send(question(store)));
        self.send(Request::Ask(Box::new(work))).await?;
        answer.await.map_err(|_| gone())?
    }

    async fn send(&self, request: Request) -> Result<(), Failure> {
        self.requests.send(request).await.map_err(|_| gone())
    }
}

fn state(store: &mut dyn Store, run: &str) -> Result<RunState, Failure> {
    fold(&store.events(run, false)?).ok_or_else(|| Failure::permanent(format!("the journal has no events of run {run}")))
}

fn gone() -> Failure {
    Failure::permanent("the journal's thread has stopped")
}

/// Where the journal is.
enum Place {
    Sqlite(std::path::PathBuf),
    Postgres(Box<sqlx::postgres::PgConnectOptions>),
}

impl Place {
    fn parse(url: &str, base: &Path) -> Result<Self, Failure> {
        if let Some(path) = url.strip_prefix("sqlite:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() || path == ":memory:" {
                let help = format!("name a file, such as `{}`", super::DEFAULT_URL);
                return Err(Failure::permanent(format!("the journal cannot be at `{url}`: it would be forgotten")).help(help));
            }
            return Ok(Self::Sqlite(base.join(path)));
        }
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return PostgresStore::options(url).map(|options| Self::Postgres(Box::new(options)));
        }
        // The text may hold a password, so that only its scheme is shown.
        let scheme = url.split_once(':').map_or("no scheme", |(scheme, _)| scheme);
        Err(Failure::permanent(format!("the journal cannot be kept in this kind of place: {scheme}"))
            .help("`state:` takes `sqlite:PATH` or `postgres://…`"))
    }

    fn open(self, runtime: tokio::runtime::Handle) -> Result<Box<dyn Store>, Failure> {
        Ok(match self {
            Self::Sqlite(path) => Box::new(SqliteStore::open(&path)?),
            Self::Postgres(options) => Box::new(PostgresStore::open(*options, runtime)?),
        })
    }
}
