//! How a verb ends: the exit codes, in one place.

use std::process::ExitCode;

use super::render::words::counted;
use crate::diagnostic::{Diagnostic, Severity};
use crate::failure::{Failure, FailureKind};

/// How a verb ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: it is done.
    Done,
    /// 1: the run failed, or what was compared differs.
    Failed,
    /// 2: the definition or the command line is wrong, or names what is not there.
    Definition,
    /// 3: the environment is in the way: a system does not answer, a file cannot be read or written.
    Environment,
    /// 130: interrupted (SIGINT), after what was begun had been committed or given up cleanly.
    Interrupted,
    /// 143: terminated (SIGTERM), likewise.
    Terminated,
}

impl Exit {
    /// The number the process ends with.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Definition => 2,
            Self::Environment => 3,
            Self::Interrupted => 130,
            Self::Terminated => 143,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a verb could not do its work: printed as what is wrong with the definition, if anything, then `error: …` and `help: …`.
#[derive(Debug)]
pub struct CliError {
    /// What the process ends with.
    pub exit: Exit,
    /// Lowercase, names the thing and the place.
    pub message: String,
    /// The ways out, one sentence each.
    pub help: Vec<String>,
    /// What is wrong with the definition, each with its place.
    pub diagnostics: Vec<Diagnostic>,
}

impl CliError {
    /// An error without a way out yet.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), help: Vec::new(), diagnostics: Vec::new() }
    }

    /// A definition that is refused for these problems.
    pub fn refused(diagnostics: Vec<Diagnostic>, exit: Exit) -> Self {
        let errors = diagnostics.iter().filter(|problem| problem.severity == Severity::Error).count();
        let verb = if errors == 1 { "stands" } else { "stand" };
        let message = format!("{} {verb} in the way; nothing was done", counted(errors as u64, "problem"));
        Self { diagnostics, ..Self::new(exit, message) }
    }

    /// Names a way out.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }
}

/// Outside of a run, what fails is the environment, unless the data is at fault.
impl From<Failure> for CliError {
    fn from(failure: Failure) -> Self {
        let exit = match failure.kind {
            FailureKind::Transient | FailureKind::Permanent => Exit::Environment,
            FailureKind::BadRows | FailureKind::Cancelled | FailureKind::Fenced => Exit::Failed,
        };
        Self { help: failure.help.iter().cloned().collect(), ..Self::new(exit, failure.to_string()) }
    }
}
