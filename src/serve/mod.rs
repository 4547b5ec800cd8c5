//! `haul serve`: what a project does by itself.
//!
//! `daemon` holds the book of schedules and the one loop, and keeps streams going; `worker` carries out one run; `status` is what the HTTP side shows.
//! Whoever is told [`Line`]s prints them. Two daemons on one journal: one leads, the other stands by.

mod daemon;
mod definitions;
mod http;
mod logs;
mod notify;
mod status;
mod worker;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::mpsc;

use crate::clock;
use crate::diagnostic::Diagnostic;
use crate::failure::Failure;
use crate::journal::Journal;
use crate::run::Control;

use self::status::Status;
pub use definitions::{Definition, Definitions, Kept};

/// Lines that may wait for whoever prints them.
const LINES: usize = 1024;

/// The name of the lease that the leading daemon has. No pipeline's name begins so.
const LEAD: &str = "/serve";

/// How often a daemon that stands by asks whether it may lead, and how often the leading one looks around.
const PERIOD: Duration = Duration::from_millis(500);

/// What a daemon does.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The project's folder.
    pub base: PathBuf,
    /// The most runs that go at the same time.
    pub runs: usize,
    /// Where it answers to HTTP.
    pub listen: Option<SocketAddr>,
    /// Runs are forgotten that began longer ago.
    pub keep_for: Duration,
    /// The latest so many runs of a pipeline are kept.
    pub keep_runs: u32,
}

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Info,
    /// Worth a look.
    Warn,
    /// Somebody has to do something.
    Error,
}

/// One thing that the daemon says.
#[derive(Clone, Debug)]
pub struct Line {
    /// Milliseconds since 1970-01-01 UTC.
    pub at_ms: i64,
    /// How much it matters.
    pub level: Level,
    /// One sentence.
    pub message: String,
    /// The pipeline it concerns.
    pub pipeline: Option<String>,
    /// The run it concerns.
    pub run: Option<String>,
    /// What is wrong with a definition.
    pub problems: Vec<Diagnostic>,
}

/// Where lines go. A reader that is slow or gone costs lines, never time.
#[derive(Clone, Debug)]
struct Voice(mpsc::Sender<Line>);

impl Voice {
    fn say(&self, level: Level, message: impl Into<String>) {
        self.line(level, message, None, None, Vec::new());
    }

    fn of(&self, level: Level, pipeline: &str, run: Option<&str>, message: impl Into<String>) {
        self.line(level, message, Some(pipeline), run, Vec::new());
    }

    fn line(&self, level: Level, message: impl Into<String>, pipeline: Option<&str>, run: Option<&str>, problems: Vec<Diagnostic>) {
        let (pipeline, run) = (pipeline.map(str::to_owned), run.map(str::to_owned));
        let _ = self.0.try_send(Line { at_ms: clock::now_ms(), level, message: message.into(), pipeline, run, problems });
    }
}

/// Starts a daemon. It says its lines until it ends; the future ends when `control` says so and what was going has come to rest, or with the
/// failure that keeps it from going on.
pub fn start(settings: Settings, journal: Journal, control: Control) -> (mpsc::Receiver<Line>, impl Future<Output = Result<(), Failure>>) {
    let (sender, lines) = mpsc::channel(LINES);
    (lines, serve(settings, journal, control, Voice(sender)))
}

/// Who serves the project of a journal; `None` when nobody does.
pub async fn leader(journal: &Journal) -> Result<Option<String>, Failure> {
    // The lease is given back at once: a daemon that starts meanwhile asks again a moment later.
    Ok(journal.try_lease(LEAD).await?.err())
}

async fn serve(settings: Settings, journal: Journal, control: Control, voice: Voice) -> Result<(), Failure> {
    let status = Arc::new(Status::default());
    let _server = match settings.listen {
        Some(address) => Some(http::start(address, Arc::clone(&status), &voice).await?),
        None => None,
    };
    let mut told = false;
    let _lead = loop {
        match journal.try_lease(LEAD).await? {
            Ok(lease) => break lease,
            Err(holder) if !told => {
                voice.say(Level::Info, format!("standing by: {holder} serves this project"));
                told = true;
            }
            Err(_) => {}
        }
        status.stands_by();
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = control.drain.cancelled() => return Ok(()),
        }
    };
    daemon::lead(settings, journal, control, voice, status).await
}
