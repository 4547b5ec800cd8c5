//! Tells people that runs failed and recovered. Nothing waits for it: notices have a queue and a task of their own.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{Level, Voice};
use crate::connectors::tls::install_provider;
use crate::define::{self, Notice, Project, Request};

/// Notices that may wait; more are dropped, and the log says so.
const QUEUE: usize = 256;
/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The waits between tries, in seconds.
const WAITS: [u64; 4] = [1, 5, 30, 120];

/// The way to those who are told.
pub(super) struct Notifier {
    queue: mpsc::Sender<(Arc<Project>, Notice)>,
    voice: Voice,
    _task: AbortOnDropHandle<()>,
}

impl Notifier {
    pub(super) fn start(voice: &Voice) -> Self {
        let (queue, mut notices) = mpsc::channel::<(Arc<Project>, Notice)>(QUEUE);
        let said = voice.clone();
        let task = tokio::spawn(async move {
            let mut client = None;
            while let Some((project, notice)) = notices.recv().await {
                let requests = define::requests(&project, &|name| std::env::var(name).ok(), &notice);
                let requests = requests.unwrap_or_else(|problems| {
                    said.line(Level::Error, "a notification cannot be written", Some(&notice.pipeline), None, problems);
                    Vec::new()
                });
                for request in requests {
                    // Made for the first of them: most projects tell nobody.
                    let made = match client.take() {
                        Some(client) => Ok(client),
                        None => new_client(),
                    };
                    match made {
                        Ok(made) => {
                            deliver(&made, &request, &notice, &said).await;
                            client = Some(made);
                        }
                        Err(error) => said.say(Level::Error, format!("failed to set up HTTP for notifications: {error}")),
                    }
                }
            }
        });
        Self { queue, voice: voice.clone(), _task: AbortOnDropHandle::new(task) }
    }

    /// Queues a notice, or drops it when very many wait.
    pub(super) fn tell(&self, project: &Arc<Project>, notice: Notice) {
        let pipeline = notice.pipeline.clone();
        if self.queue.try_send((Arc::clone(project), notice)).is_err() {
            self.voice.of(Level::Error, &pipeline, None, format!("a notification is dropped: {QUEUE} are waiting"));
        }
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
        post = post.header("Idempotency-Key", format!("{}-{}", notice.run.id, request.place));
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
