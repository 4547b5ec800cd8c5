//! Templates: minijinja, strict about undefined names, without loader, macros, includes or a raw way into SQL.
//!
//! The YAML is parsed first and its string leaves are rendered after, so a value cannot inject YAML. In SQL an expression becomes one typed,
//! quoted literal, or one quoted identifier with `| ident`; the rendered text is scanned with the expressions still blank, and refused
//! when one stands where SQL would not read it as a token of its own.

mod keys;
mod names;
mod rename;
mod sql;
mod tags;
mod value;
mod words;

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use minijinja::{Environment, ErrorKind, UndefinedBehavior};

use crate::dialect::Dialect;
pub use keys::{Holes, KeyTemplate, Part};
pub use rename::Rename;
pub use value::Value;

/// Instructions one render may take.
const FUEL: u64 = 100_000;
/// Nesting one render may reach.
const RECURSION: usize = 32;
/// Most bytes of a rendered text, and of a secret file.
const MOST_BYTES: usize = 1 << 20;

const ROOTS: &[&str] = &["params", "env", "secret", "run", "pipeline", "event"];

/// What a template renders to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Plain text: a path, a URL.
    Text,
    /// Text of a notification, which knows what happened.
    Message,
    /// SQL of a dialect, in which expressions become literals.
    Sql(Dialect),
}

/// A problem of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// A stable diagnostic code.
    pub code: &'static str,
    /// What is wrong; lowercase, and never holds a secret.
    pub message: String,
    /// Bytes of the template's text.
    pub span: Option<Range<usize>>,
    /// The way out.
    pub help: Option<String>,
}

/// What a template reads, each name with the place of its first use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uses {
    /// Params, by name.
    pub params: BTreeMap<String, Range<usize>>,
    /// Environment variables, by name.
    pub env: BTreeMap<String, Range<usize>>,
    /// Whether it reads a secret file.
    pub secret: bool,
    /// Whether it reads something that only a run knows.
    pub run: bool,
    /// Whether it reads the run's id.
    pub run_id: bool,
}

/// What a run knows of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// `run.id`
    pub id: String,
    /// `run.started_at`, RFC 3339.
    pub started_at: String,
    /// `run.scheduled_at` and `run.interval_end`, RFC 3339.
    pub scheduled_at: String,
    /// `run.interval_start`, RFC 3339.
    pub interval_start: String,
}

/// What happened that somebody is told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `event.kind`: `failure` or `recovery`.
    pub kind: String,
    /// `event.stage`
    pub stage: String,
    /// `event.message`
    pub message: String,
    /// `event.help`
    pub help: String,
}

/// Looks an environment variable up by its name.
pub type Environs = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// The values that templates see.
#[derive(Clone)]
pub struct Context {
    /// `params.…`
    pub params: BTreeMap<String, Value>,
    /// `env.…`
    pub env: Environs,
    /// The folder that `secret.file('…')` is relative to.
    pub base: PathBuf,
    /// `run.…`; `None` outside a run, where using it is a problem.
    pub run: Option<Run>,
    /// `pipeline.name`
    pub pipeline: String,
    /// `event.…`; `None` outside a notification.
    pub event: Option<Event>,
}

/// A rendered text.
#[derive(Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// Whether a secret param, a secret file or an environment variable was read for it. Such a text belongs into a
    /// [`crate::secret::Secret`] unless its field is known to be public, as a path is.
    pub secret: bool,
}

/// Shows the text only when it is no secret.
impl std::fmt::Debug for Rendered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rendered").field("text", if self.secret { &"***" } else { &self.text }).field("secret", &self.secret).finish()
    }
}

/// Whether a text holds template tags at all.
pub fn is_template(text: &str) -> bool {
    ["{{", "{%", "{#"].iter().any(|tag| text.contains(tag))
}

/// The first place of a word outside of a template's tags, however its letters are cased.
pub fn place_of(text: &str, word: &str) -> Option<Range<usize>> {
    let in_word = |c: char| c.is_alphanumeric() || c == '_';
    let literal = tags::pieces(text).into_iter().filter_map(|piece| if let tags::Piece::Text(range) = piece { Some(range) } else { None });
    literal.flat_map(|range| range.clone().map(move |at| at..(at + word.len()).min(range.end))).find(|place| {
        let found = text.get(place.clone()).is_some_and(|found| !found.is_empty() && found.eq_ignore_ascii_case(word));
        found && !text[..place.start].ends_with(in_word) && !text[place.end..].starts_with(in_word)
    })
}

/// Checks a template without any value: its syntax, its words, and where in SQL its expressions stand.
pub fn check(text: &str, target: Target) -> Result<Uses, Problem> {
    static CHECKING: [OnceLock<Environment<'static>>; 2] = [const { OnceLock::new() }; 2];
    // Only what is known differs, not what is written: one environment serves every dialect.
    let environment = CHECKING[usize::from(matches!(target, Target::Sql(_)))].get_or_init(|| environment(target, &Arc::default()));
    let template = environment.template_from_str(text).map_err(|error| syntax_problem(text, &error))?;
    let pieces = tags::pieces(text);
    words::check_words(text, target, &pieces)?;
    let mut uses = Uses::default();
    let mut names: Vec<(String, Range<usize>)> =
        template.undeclared_variables(true).into_iter().map(|name| (name.clone(), words::place_of(text, &pieces, &name))).collect();
    names.sort_by_key(|(_, span)| (span.start, span.end));
    for (name, span) in names {
        words::note_use(&mut uses, target, &[], &name, span)?;
    }
    if let Target::Sql(dialect) = target {
        words::check_places(text, dialect, &pieces)?;
    }
    Ok(uses)
}

/// Renders a template.
pub fn render(text: &str, target: Target, context: &Context) -> Result<Rendered, Problem> {
    if !is_template(text) {
        return Ok(Rendered { text: text.to_owned(), secret: false });
    }
    check(text, target)?;
    let trace = Arc::new(Mutex::new(Trace::default()));
    let environment = environment(target, &trace);
    let template = environment.template_from_str(text).map_err(|error| syntax_problem(text, &error))?;
    let mut written = Capped(Vec::new());
    let outcome = template.render_captured_to(names::namespaces(context, &trace), &mut written).map(drop);
    let trace = std::mem::take(&mut *lock(&trace));
    outcome.map_err(|error| render_problem(text, &error, &trace, written.0.len()))?;
    let blank = String::from_utf8(written.0).map_err(|_| problem("template-render", "the rendered text is not UTF-8"))?;
    let rendered = match target {
        Target::Text | Target::Message => blank,
        Target::Sql(dialect) => fill(&blank, dialect, &trace.literals)?,
    };
    Ok(Rendered { text: rendered, secret: trace.secret })
}

/// What a render leaves behind besides its text.
#[derive(Default)]
struct Trace {
    /// The SQL of every expression that was written, in order.
    literals: Vec<String>,
    /// Whether a secret was read.
    secret: bool,
    /// The problem behind an error that minijinja reports in its own words, or that it meets as an undefined value.
    problem: Option<Problem>,
}

fn lock(trace: &Mutex<Trace>) -> std::sync::MutexGuard<'_, Trace> {
    trace.lock().unwrap_or_else(PoisonError::into_inner)
}

fn problem(code: &'static str, message: impl Into<String>) -> Problem {
    Problem { code, message: message.into(), span: None, help: None }
}

impl Problem {
    fn at(mut self, span: Range<usize>) -> Self {
        self.span = Some(span);
        self
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

fn environment(target: Target, trace: &Arc<Mutex<Trace>>) -> Environment<'static> {
    use minijinja::{filters, tests};
    let mut environment = Environment::empty();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION);
    environment.set_debug(true);
    environment.add_filter("default", filters::default);
    environment.add_filter("d", filters::default);
    environment.add_filter("upper", filters::upper);
    environment.add_filter("lower", filters::lower);
    environment.add_filter("trim", filters::trim);
    environment.add_filter("replace", filters::replace);
    environment.add_filter("split", filters::split);
    environment.add_filter("join", filters::join);
    environment.add_filter("length", filters::length);
    environment.add_filter("first", filters::first);
    environment.add_filter("last", filters::last);
    environment.add_filter("int", filters::int);
    environment.add_filter("string", |value: &minijinja::Value| {
        value::to_text(value).map_err(|message| minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_test("defined", tests::is_defined);
    environment.add_test("undefined", tests::is_undefined);
    environment.add_test("none", tests::is_none);
    environment.add_test("true", tests::is_true);
    environment.add_test("false", tests::is_false);
    environment.add_test("in", tests::is_in);
    environment.add_test("startingwith", tests::is_startingwith);
    environment.add_test("endingwith", tests::is_endingwith);
    if matches!(target, Target::Sql(_)) {
        environment.add_filter("ident", |name: String| minijinja::Value::from_object(value::Identifier(name)));
    }
    let trace = Arc::clone(trace);
    environment.set_formatter(move |out, _, value| {
        let refused = |message: String| {
            let help = "give it a value with `| default(…)`, or make a text of it";
            lock(&trace).problem = Some(problem("template-value", message).help(help));
            minijinja::Error::new(ErrorKind::InvalidOperation, "a value has no form here")
        };
        match target {
            Target::Text | Target::Message => out.write_str(&value::to_text(value).map_err(refused)?)?,
            Target::Sql(dialect) => {
                let literal = value::to_sql(value, dialect).map_err(refused)?;
                lock(&trace).literals.push(literal);
                out.write_str(sql::HOLE.encode_utf8(&mut [0; 4]))?;
            }
        }
        Ok(())
    });
    environment
}

/// Puts the literals into the holes, each checked to be a token of its own.
fn fill(blank: &str, dialect: Dialect, literals: &[String]) -> Result<String, Problem> {
    let places = sql::places(dialect, blank);
    if places.len() != literals.len() {
        let message = "an expression was rendered into a block, and the block was changed before it was written";
        return Err(problem("template-sql", message).help("write the expression where the SQL needs it"));
    }
    let mut filled = String::with_capacity(blank.len() + literals.iter().map(String::len).sum::<usize>());
    let mut next = places.into_iter().zip(literals);
    for c in blank.chars() {
        if c != sql::HOLE {
            filled.push(c);
            continue;
        }
        let Some((place, literal)) = next.next() else { continue };
        if let Some(problem) = words::misplaced(place) {
            return Err(problem);
        }
        if place == sql::Place::Tight {
            filled.push(' ');
        }
        filled.push_str(literal);
    }
    Ok(filled)
}

fn syntax_problem(text: &str, error: &minijinja::Error) -> Problem {
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    let line_end = || {
        let line = error.line().unwrap_or(1);
        let start = text.split_inclusive('\n').take(line - 1).map(str::len).sum::<usize>();
        start..start + text[start..].lines().next().map_or(0, str::len)
    };
    let span = error.range().filter(|span| span.end <= text.len() && span.start < span.end).unwrap_or_else(line_end);
    problem("template-syntax", format!("the template does not parse: {detail}")).at(span)
}

fn render_problem(text: &str, error: &minijinja::Error, trace: &Trace, written: usize) -> Problem {
    let span = error.range().filter(|span| span.end <= text.len() && span.start < span.end);
    let mut told = match (error.kind(), &trace.problem) {
        (ErrorKind::OutOfFuel, _) => problem("template-limit", "the template takes too many steps").help("loop over less"),
        (ErrorKind::WriteFailure, _) if written >= MOST_BYTES => {
            problem("template-limit", format!("the template renders more than {} bytes", MOST_BYTES))
        }
        // A missing name is remembered even where `| default(…)` caught it: it only explains an undefined value.
        (kind, Some(problem)) if (kind == ErrorKind::UndefinedError) == (problem.code == "template-undefined") => problem.clone(),
        (ErrorKind::UndefinedError, _) => problem("template-undefined", "the template uses a value that is not there"),
        // The words of a library may quote a value.
        (kind, _) if trace.secret => problem("template-render", format!("the template cannot be rendered: {kind}")),
        (kind, _) => problem(
            "template-render",
            format!("the template cannot be rendered: {}", error.detail().map_or_else(|| kind.to_string(), str::to_owned)),
        ),
    };
    told.span = told.span.or(span);
    told
}

/// Refuses to grow beyond [`MOST_BYTES`].
struct Capped(Vec<u8>);

impl Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > MOST_BYTES {
            self.0.resize(MOST_BYTES, b' ');
            return Err(std::io::Error::other("too much text"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
