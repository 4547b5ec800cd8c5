//! What all parts of reading a document share: the document, the problems so far, and templates.

use std::collections::{BTreeMap, BTreeSet};

use super::pipeline::{Connection, Expr, Param};
use crate::diagnostic::Diagnostic;
use crate::diagnostic::suggest::known_names;
use crate::dialect::Dialect;
use crate::load::Document;
use crate::load::document::child;
use crate::load::template::{self, Context, Holes, KeyTemplate, Problem, Rename, Rendered, Target, Uses};

/// Whether templates are checked or rendered.
#[derive(Clone, Copy)]
pub enum Mode<'a> {
    /// Texts with templates stay as written.
    Check,
    /// Texts are rendered.
    Render(&'a Context),
}

/// What a SQL text has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grammar {
    /// One expression.
    Expression,
    /// One query.
    Query,
}

/// A pass over a document that collects problems.
pub struct Reader<'a> {
    /// The document.
    pub document: &'a Document,
    /// Every problem so far.
    pub problems: Vec<Diagnostic>,
    /// Declared params, once they are read.
    pub params: Vec<Param>,
    /// The connections that stages name, once they are read.
    pub connections: BTreeMap<String, Connection>,
    /// Set when the project file is broken, so that connections may be missing which it was to declare.
    pub more_connections: bool,
    /// DataFusion's SQL that holds no templates, so that its syntax can be checked.
    pub plain_sql: Vec<(Grammar, Expr)>,
    /// The environment variables that templates name.
    pub env: BTreeSet<String>,
    /// The params that templates name.
    pub used_params: BTreeSet<String>,
    broken: &'a [String],
    mode: Mode<'a>,
    project: bool,
}

impl<'a> Reader<'a> {
    /// Begins.
    pub fn new(document: &'a Document, broken: &'a [String], mode: Mode<'a>) -> Self {
        Self {
            document,
            problems: Vec::new(),
            params: Vec::new(),
            connections: BTreeMap::new(),
            more_connections: false,
            plain_sql: Vec::new(),
            env: BTreeSet::new(),
            used_params: BTreeSet::new(),
            broken,
            mode,
            project: false,
        }
    }

    /// Begins a pass over a project file, in which only the environment is known.
    pub fn of_project(document: &'a Document, broken: &'a [String], mode: Mode<'a>) -> Self {
        Self { project: true, ..Self::new(document, broken, mode) }
    }

    /// Whether something is written at a pointer, above or below it that the schema has reported already.
    pub fn broken(&self, pointer: &str) -> bool {
        let below = |outer: &str, inner: &str| inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        self.broken.iter().any(|broken| below(broken, pointer) || below(pointer, broken))
    }

    /// Whether what no stage seems to use may be reported: nothing below `/stages` is hidden, and no name there is misspelt.
    pub fn reports_unused(&self, misspelt: &str) -> bool {
        let hidden = self.broken.iter().any(|broken| broken.is_empty() || broken.starts_with("/stages"));
        !self.renders() && !hidden && !self.problems.iter().any(|problem| problem.code == misspelt)
    }

    /// Whether texts are rendered, so that everything is known.
    pub fn renders(&self) -> bool {
        matches!(self.mode, Mode::Render(_))
    }

    /// Reports an error at a value; more places and help are added to what it answers with.
    pub fn error(&mut self, code: &'static str, pointer: &str, message: impl Into<String>, help: impl Into<String>) {
        self.error_of(self.document, code, pointer, message, help);
    }

    /// Reports an error at a value of this file or another.
    pub fn error_of(
        &mut self,
        document: &Document,
        code: &'static str,
        pointer: &str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let problem = document.at_value(Diagnostic::error(code, message), pointer, "");
        self.problems.push(problem.help(help));
    }

    /// Reports an error at a key.
    pub fn error_at_key(&mut self, code: &'static str, pointer: &str, message: impl Into<String>, help: impl Into<String>) {
        let problem = self.document.at_key(Diagnostic::error(code, message), pointer, "");
        self.problems.push(problem.help(help));
    }

    /// Reports a warning at a key.
    pub fn warn_at_key(&mut self, code: &'static str, pointer: &str, message: impl Into<String>, help: impl Into<String>) {
        let problem = self.document.at_key(Diagnostic::warning(code, message), pointer, "");
        self.problems.push(problem.help(help));
    }

    /// A text: a path, a URL, a salt. `None` when its template is wrong, which has been reported.
    pub fn text(&mut self, pointer: &str, text: &str) -> Option<String> {
        self.render(self.document, pointer, text, Target::Text).map(|rendered| rendered.text)
    }

    /// A text of a notification.
    pub fn message(&mut self, pointer: &str, text: &str) -> Option<String> {
        self.render(self.document, pointer, text, Target::Message).map(|rendered| rendered.text)
    }

    /// SQL of a dialect.
    pub fn sql(&mut self, pointer: &str, text: &str, dialect: Dialect) -> Option<String> {
        self.render(self.document, pointer, text, Target::Sql(dialect)).map(|rendered| rendered.text)
    }

    /// SQL of a transform or a generated column.
    pub fn datafusion(&mut self, at: &str, text: &str, grammar: Grammar) -> Option<Expr> {
        let Rendered { text: sql, secret } = self.render(self.document, at, text, Target::Sql(Dialect::DataFusion))?;
        let expr = Expr { sql, written: secret.then(|| text.to_owned()), at: at.to_owned() };
        if !self.renders() && !template::is_template(text) {
            self.plain_sql.push((grammar, expr.clone()));
        }
        Some(expr)
    }

    /// A template over rows: the key of a row. `None` when it is wrong, which has been reported.
    pub fn key(&mut self, pointer: &str, text: &str) -> Option<KeyTemplate> {
        self.over_rows(pointer, text, "key")
    }

    /// The same of another text than a key: a path, a body.
    pub fn over_rows(&mut self, pointer: &str, text: &str, what: &str) -> Option<KeyTemplate> {
        let document = self.document;
        let named = |problem: Problem| Problem { message: problem.message.replace("key", what), ..problem };
        let mut report = |problem| self.problems.push(located(document, pointer, named(problem)));
        let holes = Holes::cut(text).map_err(&mut report).ok()?;
        let rendered = self.render(document, pointer, &holes.text, Target::Text)?;
        holes.fill(&rendered.text).map_err(|problem| self.problems.push(located(document, pointer, named(problem)))).ok()
    }

    /// As [`Reader::text`], of another file.
    pub fn text_of(&mut self, document: &Document, pointer: &str, text: &str) -> Option<String> {
        self.render(document, pointer, text, Target::Text).map(|rendered| rendered.text)
    }

    fn render(&mut self, document: &Document, pointer: &str, text: &str, target: Target) -> Option<Rendered> {
        let as_written = || Rendered { text: text.to_owned(), secret: false };
        if !template::is_template(text) {
            return Some(as_written());
        }
        let outcome = match self.mode {
            Mode::Render(context) => template::render(text, target, context),
            Mode::Check => template::check(text, target).map(|uses| {
                self.note(document, pointer, uses);
                as_written()
            }),
        };
        outcome.map_err(|problem| self.problems.push(located(document, pointer, problem))).ok()
    }

    /// A template that makes new keys of old ones. In a check it is checked only.
    pub fn rename(&mut self, pointer: &str, text: &str) -> Option<Rename> {
        let document = self.document;
        let outcome = match self.mode {
            Mode::Render(context) => Rename::new(text, context).map(Some),
            Mode::Check => Rename::check(text).map(|uses| {
                self.note(document, pointer, uses);
                None
            }),
        };
        outcome.map_err(|problem| self.problems.push(located(document, pointer, problem))).ok().flatten()
    }

    fn note(&mut self, document: &Document, pointer: &str, uses: Uses) {
        for (name, span) in &uses.params {
            self.use_param(document, pointer, name, span.clone());
        }
        self.env.extend(uses.env.into_keys());
    }

    fn use_param(&mut self, document: &Document, pointer: &str, name: &str, span: std::ops::Range<usize>) {
        self.used_params.insert(name.to_owned());
        if !std::ptr::eq(document, self.document) || self.project {
            let span = document.inner_span(pointer, span).unwrap_or_else(|| document.value_span(pointer));
            let problem = Diagnostic::error("unknown-param", "a project file has no params").label(&document.source, span, "");
            self.problems.push(problem.help("params belong to one pipeline: declare the connection there, or use `env`"));
            return;
        }
        let known = self.params.iter().any(|param| param.name == name) || self.broken(&child("/params", name));
        if known {
            return;
        }
        let span = document.inner_span(pointer, span).unwrap_or_else(|| document.value_span(pointer));
        let problem = Diagnostic::error("unknown-param", format!("there is no param `{name}`")).label(&document.source, span, "");
        let help = known_names(name, "params", self.params.iter().map(|param| param.name.as_str()));
        self.problems.push(problem.help(help).help("params are declared below `params:` with their type"));
    }
}

fn located(document: &Document, pointer: &str, problem: Problem) -> Diagnostic {
    let span = problem.span.and_then(|span| document.inner_span(pointer, span));
    let diagnostic = Diagnostic::error(problem.code, problem.message);
    let diagnostic = diagnostic.label(&document.source, span.unwrap_or_else(|| document.value_span(pointer)), "");
    match problem.help {
        Some(help) => diagnostic.help(help),
        None => diagnostic,
    }
}
