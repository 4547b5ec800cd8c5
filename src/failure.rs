//! What a run sees when something goes wrong: a kind that decides what happens next, a message for people, and the cause.

use std::error::Error;
use std::fmt;
use std::time::Duration;

/// Decides what happens after a failure. Only [`FailureKind::Transient`] is retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// May pass by itself: a lost connection, a timeout, a deadlock, a full queue.
    Transient,
    /// Will not pass by itself: a missing table, a refused privilege, a full disk, a wrong query.
    Permanent,
    /// The data is at fault, not the systems: a value that does not fit, a ragged line.
    BadRows,
    /// The run was asked to stop.
    Cancelled,
    /// A newer run took over the load: this one must not write any more.
    Fenced,
}

impl FailureKind {
    /// The word that the journal and `--json` output use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Permanent => "permanent",
            Self::BadRows => "bad_rows",
            Self::Cancelled => "cancelled",
            Self::Fenced => "fenced",
        }
    }
}

/// One failure. The message is lowercase, fits "failed to {…}" or stands alone, and names the thing and the place.
#[derive(Debug)]
pub struct Failure {
    /// What the executor does about it.
    pub kind: FailureKind,
    /// What happened, for people. Never holds a secret.
    pub message: String,
    /// The way out, when there is one to name.
    pub help: Option<String>,
    /// What lies beneath, when a library reported it.
    pub cause: Option<Box<dyn Error + Send + Sync>>,
    /// The one view that all splits of a source were read through is gone: trying the split again is no use before a new view is opened.
    pub view_lost: bool,
    /// The system itself said how long to wait before it is asked again.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure without a cause beneath it.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), help: None, cause: None, view_lost: false, retry_after: None }
    }

    /// Worth trying again.
    pub fn transient(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Transient, message)
    }

    /// Not worth trying again.
    pub fn permanent(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Permanent, message)
    }

    /// The data is at fault.
    pub fn bad_rows(message: impl Into<String>) -> Self {
        Self::new(FailureKind::BadRows, message)
    }

    /// The run was asked to stop.
    pub fn cancelled() -> Self {
        Self::new(FailureKind::Cancelled, "stopped on request")
    }

    /// Names the way out.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Keeps what lies beneath.
    #[must_use]
    pub fn cause(mut self, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Says that the source's view is gone.
    #[must_use]
    pub fn view_lost(mut self) -> Self {
        self.view_lost = true;
        self
    }

    /// Says how long to wait at least before another try.
    #[must_use]
    pub fn retry_after(mut self, wait: Option<Duration>) -> Self {
        self.retry_after = wait;
        self
    }

    /// Says what was being done when the failure came: "{doing}: {message}".
    #[must_use]
    pub fn during(mut self, doing: impl fmt::Display) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }
}

/// The message, then every cause beneath it that adds something, on one line.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let mut said = self.message.clone();
        let mut next: Option<&dyn Error> = self.cause.as_deref().map(|cause| cause as &dyn Error);
        while let Some(cause) = next {
            let text = cause.to_string();
            if !said.contains(&text) {
                write!(f, ": {text}")?;
                said.push_str(&text);
            }
            next = cause.source();
        }
        Ok(())
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as &(dyn Error + 'static))
    }
}
