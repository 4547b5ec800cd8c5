//! What an author sees: a stable code, a sentence, the places in the file, and the way out. Rendering is in `cli::render`.

pub mod suggest;

use std::ops::Range;
use std::sync::Arc;

/// One text that diagnostics point into.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct SourceText {
    /// As the user named it: a path, or `<stdin>`.
    pub path: String,
    /// The whole text.
    pub text: String,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The definition cannot run.
    Error,
    /// It can run, but is likely not what was meant.
    Warning,
}

/// A place in a text and what there is to say of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Which text.
    pub source: Arc<SourceText>,
    /// Bytes of it.
    pub span: Range<usize>,
    /// Said beside the caret; may be empty for the first label.
    pub text: String,
}

/// One problem of a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Stable, kebab-case, explained in `docs/diagnostics.md`.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// Lowercase, one sentence without a full stop.
    pub message: String,
    /// The first is the place; others are related places.
    pub labels: Vec<Label>,
    /// The way out, one sentence each.
    pub help: Vec<String>,
}

impl Diagnostic {
    /// An error without a place yet.
    pub fn error(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, severity: Severity::Error, message: message.into(), labels: Vec::new(), help: Vec::new() }
    }

    /// A warning without a place yet.
    pub fn warning(code: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, message) }
    }

    /// Adds a place.
    #[must_use]
    pub fn label(mut self, source: &Arc<SourceText>, span: Range<usize>, text: impl Into<String>) -> Self {
        self.labels.push(Label { source: Arc::clone(source), span, text: text.into() });
        self
    }

    /// Adds a way out.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }
}
