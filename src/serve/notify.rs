//! Tells people that runs failed and recovered. No run waits for it: notices are kept in the journal until they have reached everybody, each
//! receiver has a task of its own, and one that does not answer holds up nobody else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use super::{Level, Voice};
use crate::connectors::tls::install_provider;
use crate::define::{self, Notice, Project, Request};
use crate::failure::Failure;
use crate::journal::{Decided, Journal, SEPARATOR};
use crate::tasks;

/// Notices that may wait; more are dropped, and the log says so.
const MOST: usize = 256;
/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The waits between tries, in seconds.
const WAITS: [u64; 4] = [1, 5, 30, 120];

/// The way to those who are told.
pub(super) struct Notifier {
    queue: mpsc::Sender<Waiting>,
    journal: Journal,
    voice: Voice,
    /// Notices that have not reached everybody.
    count: Arc<AtomicUsize>,
    _task: AbortOnDropHandle<()>,
}

/// A notice, under its key in the journal.
struct Waiting {
    project: Arc<Project>,
    key: String,
    notice: Notice,
}

impl Notifier {
    pub(super) fn start(voice: &Voice, journal: &Journal) -> Self {
        let (queue, mut notices) = mpsc::channel::<Waiting>(MOST);
        let count = Arc::new(AtomicUsize::new(0));
        let mut post = Post {
            voice: voice.clone(),
            journal: journal.clone(),
            count: Arc::clone(&count),
            client: None,
            receivers: BTreeMap::new(),
            tasks: JoinSet::new(),
        };
        let task = tasks::start(async move {
            loop {
                tokio::select! {
                    waiting = notices.recv() => match waiting {
                        Some(waiting) => post.send(waiting).await,
                        None => return,
                    },
                    Some(_) = post.tasks.join_next(), if !post.tasks.is_empty() => {}
                }
            }
        });
        Self { queue, journal: journal.clone(), voice: voice.clone(), count, _task: task }
    }

    /// Leaves a notice in the journal and sends it, or drops it when very many wait. `told` is recorded with it.
    pub(super) async fn tell(&self, project: &Arc<Project>, notice: Notice, told: &Decided) -> Result<(), Failure> {
        if self.count.load(Ordering::Relaxed) >= MOST {
            self.voice.of(Level::Error, &notice.pipeline, None, format!("a notification is dropped: {MOST} are waiting"));
            return self.journal.decide(&[], std::slice::from_ref(told)).await.map(drop);
        }
        // A recovery may be of the run that had failed.
        let key = format!("{}{SEPARATOR}{}{SEPARATOR}{:?}", notice.run.id, notice.at_ms, notice.occasion);
        self.journal.post(&key, notice.at_ms, &notice, told).await?;
        self.queue(Waiting { project: Arc::clone(project), key, notice });
        Ok(())
    }

    /// Sends what an earlier daemon has left in the journal.
    pub(super) async fn take_up(&self, project: &Arc<Project>) -> Result<(), Failure> {
        for (key, notice) in self.journal.posted().await? {
            self.queue(Waiting { project: Arc::clone(project), key, notice });
        }
        Ok(())
    }

    fn queue(&self, waiting: Waiting) {
        self.count.fetch_add(1, Ordering::Relaxed);
        // As many fit as may wait; what does not, stays in the journal for the next daemon.
        let _ = self.queue.try_send(waiting);
    }
}

/// A request on its way, and who waits for it.
struct Letter {
    request: Request,
    notice: Arc<Notice>,
    over: oneshot::Sender<()>,
}

/// The task that hands notices on.
struct Post {
    voice: Voice,
    journal: Journal,
    count: Arc<AtomicUsize>,
    /// Made for the first notice: most projects tell nobody.
    client: Option<reqwest::Client>,
    /// One for each receiver, by its place in the project file: what it is told comes in order.
    receivers: BTreeMap<usize, mpsc::Sender<Letter>>,
    tasks: JoinSet<()>,
}

impl Post {
    async fn send(&mut self, waiting: Waiting) {
        let Waiting { project, key, notice } = waiting;
        let requests = define::requests(&project, &|name| std::env::var(name).ok(), &notice);
        let requests = requests.unwrap_or_else(|problems| {
            self.voice.line(Level::Error, "a notification cannot be written", Some(&notice.pipeline), None, problems);
            Vec::new()
        });
        let notice = Arc::new(notice);
        let mut ends = Vec::new();
        for request in requests {
            let (over, end) = oneshot::channel();
            let letter = Letter { request, notice: Arc::clone(&notice), over };
            if let Some(receiver) = self.receiver(letter.request.place) {
                // It has room for all that may wait.
                let _ = receiver.send(letter).await;
                ends.push(end);
            }
        }
        let (journal, voice, count) = (self.journal.clone(), self.voice.clone(), Arc::clone(&self.count));
        self.tasks.spawn(async move {
            for end in ends {
                let _ = end.await;
            }
            if let Err(failure) = journal.delivered(&key).await {
                voice.say(Level::Warn, format!("a notification may be sent again: {failure}"));
            }
            count.fetch_sub(1, Ordering::Relaxed);
        });
    }

    /// The way to one receiver.
    fn receiver(&mut self, place: usize) -> Option<mpsc::Sender<Letter>> {
        if let Some(receiver) = self.receivers.get(&place) {
            return Some(receiver.clone());
        }
        let client = match self.client.take().map_or_else(new_client, Ok) {
            Ok(client) => client,
            Err(error) => {
                self.voice.say(Level::Error, format!("failed to set up HTTP for notifications: {error}"));
                return None;
            }
        };
        self.client = Some(client.clone());
        let (sender, mut letters) = mpsc::channel::<Letter>(MOST);
        let voice = self.voice.clone();
        self.tasks.spawn(async move {
            while let Some(letter) = letters.recv().await {
                deliver(&client, &letter.request, &letter.notice, &voice).await;
                let _ = letter.over.send(());
            }
        });
        self.receivers.insert(place, sender.clone());
        Some(sender)
    }
}

fn new_client() -> reqwest::Result<reqwest::Client> {
    install_provider();
    reqwest::Client::builder().timeout(TIMEOUT).redirect(reqwest::redirect::Policy::none()).build()
}

/// Sends one request until it is taken, as often as makes sense. Its key is the same each time, so that a receiver can tell a repetition.
async fn deliver(client: &reqwest::Client, request: &Request, notice: &Notice, voice: &Voice) {
    let mut waits = WAITS.into_iter();
    loop {
        let mut post = client.post(request.url.reveal()).header("Content-Type", request.content_type);
        post = post.header("Idempotency-Key", format!("{}-{}-{}", notice.run.id, notice.at_ms, request.place));
        for (name, value) in &request.headers {
            post = post.header(name, value.reveal());
        }
        // The error's own text may show the URL, and a URL may hold a token.
        let (said, again) = match post.body(request.body.reveal().clone()).send().await {
            Ok(answer) if answer.status().is_success() => return,
            Ok(answer) => {
                let status = answer.status();
                (format!("the answer was {status}"), status.is_server_error() || status.as_u16() == 408 || status.as_u16() == 429)
            }
            Err(error) => {
                let again = !error.is_builder();
                (error.without_url().to_string(), again)
            }
        };
        let of = |level, rest: &str| {
            voice.of(level, &notice.pipeline, Some(&notice.run.id), format!("a notification did not arrive, {said}{rest}"))
        };
        match waits.next().filter(|_| again) {
            Some(wait) => {
                of(Level::Warn, &format!("; next try after {wait} s"));
                tokio::time::sleep(Duration::from_secs(wait)).await;
            }
            None => return of(Level::Error, ""),
        }
    }
}
