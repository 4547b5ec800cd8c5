//! The whole offline check of one file: its definition, and the syntax of its SQL, which only the engine of transforms knows.

use std::sync::Arc;

use crate::define::{self, Checked, Grammar, Project};
use crate::diagnostic::{Diagnostic, SourceText};
use crate::transform;

/// Checks a pipeline without environment, secrets or servers: every problem, in file order. SQL that holds templates is parsed when they
/// are rendered.
pub fn check(name: &str, source: &Arc<SourceText>, project: &Project) -> Checked {
    let mut checked = define::check(name, source, project);
    let Some(document) = &checked.document else { return checked };
    for (grammar, expr) in &checked.plain_sql {
        let outcome = match grammar {
            Grammar::Expression => transform::check_expression(expr),
            Grammar::Query => transform::check_query(expr),
        };
        if let Err(problem) = outcome {
            let span = problem.span.and_then(|span| document.inner_span(&expr.at, span));
            let span = span.unwrap_or_else(|| document.value_span(&expr.at));
            let diagnostic = Diagnostic::error(problem.code, problem.message).label(source, span, "");
            checked.diagnostics.push(problem.help.into_iter().fold(diagnostic, Diagnostic::help));
        }
    }
    define::in_file_order(&mut checked.diagnostics, source);
    if define::has_errors(&checked.diagnostics) {
        checked.pipeline = None;
    }
    checked
}
