//! What is wrong with a plan, each problem at its place in the file.

use super::Refused;
use crate::diagnostic::Diagnostic;
use crate::failure::{Failure, FailureKind};
use crate::load::{Document, template};
use crate::transform;

/// Problems gathered while sealing, and whether any is the definition's fault.
pub(super) struct Problems<'a> {
    pub document: &'a Document,
    pub diagnostics: Vec<Diagnostic>,
    pub definition: bool,
    /// What is worth knowing, and no reason not to run.
    pub warnings: Vec<Diagnostic>,
}

impl Problems<'_> {
    /// A problem that several places have is said once, with all of them.
    fn at(&mut self, at: &str, diagnostic: Diagnostic) {
        let diagnostic = diagnostic.label(&self.document.source, self.document.value_span(at), "");
        let same =
            |other: &&mut Diagnostic| (other.code, &other.message, &other.help) == (diagnostic.code, &diagnostic.message, &diagnostic.help);
        let Some(known) = self.diagnostics.iter_mut().find(same) else { return self.diagnostics.push(diagnostic) };
        for label in diagnostic.labels {
            if !known.labels.contains(&label) {
                known.labels.push(label);
            }
        }
    }

    pub(super) fn warning(&mut self, at: &str, diagnostic: Diagnostic) {
        self.warnings.push(diagnostic.label(&self.document.source, self.document.value_span(at), ""));
    }

    pub(super) fn definition(&mut self, at: &str, diagnostic: Diagnostic) {
        self.definition = true;
        self.at(at, diagnostic);
    }

    /// A failure to ask a system: an unreachable one is the environment's fault, a missing table the definition's.
    pub(super) fn failure(&mut self, at: &str, code: &'static str, failure: &Failure) {
        let code = if failure.kind == FailureKind::Transient { "unreachable" } else { code };
        let mut diagnostic = Diagnostic::error(code, failure.to_string());
        if let Some(help) = &failure.help {
            diagnostic = diagnostic.help(help);
        }
        if failure.kind == FailureKind::Transient { self.at(at, diagnostic) } else { self.definition(at, diagnostic) }
    }

    /// Problems of SQL in the file, each at its place in the string.
    pub(super) fn transform(&mut self, at: &str, problems: Vec<transform::Problem>) {
        self.definition = true;
        for problem in problems {
            let mut diagnostic = Diagnostic::error(problem.code, problem.message);
            if let Some(help) = problem.help {
                diagnostic = diagnostic.help(help);
            }
            let at = if problem.at.is_empty() { at } else { problem.at.as_str() };
            // The place is one in the rendered text, and the file has the template.
            let written = self.document.get(at).and_then(|value| value.as_str()).filter(|text| template::is_template(text));
            let span = match (written, problem.word) {
                (None, _) => problem.span,
                (Some(text), Some(word)) => template::place_of(text, &word),
                (Some(_), None) => None,
            };
            let span = span.and_then(|span| self.document.inner_span(at, span)).unwrap_or_else(|| self.document.value_span(at));
            self.diagnostics.push(diagnostic.label(&self.document.source, span, ""));
        }
    }

    pub(super) fn refused(mut self) -> Refused {
        self.diagnostics.sort_by_key(|diagnostic| diagnostic.labels.first().map_or(0, |label| label.span.start));
        Refused { diagnostics: self.diagnostics, environment: !self.definition }
    }
}
