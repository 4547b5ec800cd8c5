//! Templates: minijinja, strict about undefined names, without loader, macros, includes or a raw way into SQL.
//!
//! The YAML is parsed first and its string leaves are rendered after, so a value cannot inject YAML. In SQL an expression becomes one typed,
//! quoted literal, or one quoted identifier with `| ident`; the rendered text is scanned with the expressions still blank, and refused
//! when one stands where SQL would not read it as a token of its own.

mod sql;
mod tags;
mod value;

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use minijinja::value::{Object, Rest};
use minijinja::{Environment, ErrorKind, UndefinedBehavior};

use crate::dialect::Dialect;
pub use value::Value;

/// Instructions one render may take.
const FUEL: u64 = 100_000;
/// Nesting one render may reach.
const RECURSION: usize = 32;
/// Most bytes of a rendered text, and of a secret file.
const MOST_BYTES: usize = 1 << 20;

const ROOTS: &[&str] = &["params", "env", "secret", "run", "pipeline"];
const STATEMENTS: &[&str] = &["if", "elif", "else", "endif", "for", "endfor", "set", "endset", "with", "endwith", "raw", "endraw"];
const TESTS: &[&str] = &["defined", "undefined", "none", "true", "false", "in", "startingwith", "endingwith"];
const FILTERS: &[&str] =
    &["default", "d", "upper", "lower", "trim", "replace", "split", "join", "length", "first", "last", "int", "string", "ident"];

/// What a template renders to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Plain text: a path, a URL.
    Text,
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
}

/// What a run knows of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// `run.id`
    pub id: String,
    /// `run.started_at`, RFC 3339.
    pub started_at: String,
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

/// Checks a template without any value: its syntax, its words, and where in SQL its expressions stand.
pub fn check(text: &str, target: Target) -> Result<Uses, Problem> {
    let environment = environment(target, &Arc::default());
    let template = environment.template_from_str(text).map_err(|error| syntax_problem(text, &error))?;
    let pieces = tags::pieces(text);
    check_words(text, target, &pieces)?;
    let mut uses = Uses::default();
    let mut names: Vec<(String, Range<usize>)> =
        template.undeclared_variables(true).into_iter().map(|name| (name.clone(), place_of(text, &pieces, &name))).collect();
    names.sort_by_key(|(_, span)| (span.start, span.end));
    for (name, span) in names {
        note_use(&mut uses, &name, span)?;
    }
    if let Target::Sql(dialect) = target {
        check_places(text, dialect, &pieces)?;
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
    let outcome = template.render_captured_to(namespaces(context, &trace), &mut written).map(drop);
    let trace = std::mem::take(&mut *lock(&trace));
    outcome.map_err(|error| render_problem(text, &error, &trace, written.0.len()))?;
    let blank = String::from_utf8(written.0).map_err(|_| problem("template-render", "the rendered text is not UTF-8"))?;
    let rendered = match target {
        Target::Text => blank,
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
            Target::Text => out.write_str(&value::to_text(value).map_err(refused)?)?,
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

fn note_use(uses: &mut Uses, name: &str, span: Range<usize>) -> Result<(), Problem> {
    let (root, rest) = name.split_once('.').map_or((name, None), |(root, rest)| (root, Some(rest)));
    let leaf = rest.map(|rest| rest.split('.').next().unwrap_or(rest));
    let known = |words: &[&str]| -> Result<(), Problem> {
        let unknown = |leaf: &str| {
            let told = problem("template-name", format!("`{root}` has no `{leaf}`")).at(span.clone());
            told.help(suggest(leaf, words).unwrap_or_else(|| format!("`{root}` has {}", list(words))))
        };
        match leaf {
            Some(leaf) if words.contains(&leaf) => Ok(()),
            Some(leaf) => Err(unknown(leaf)),
            None => Ok(()),
        }
    };
    match (root, leaf) {
        ("params", Some(leaf)) => {
            uses.params.entry(leaf.to_owned()).or_insert(span);
        }
        ("env", Some(leaf)) => {
            uses.env.entry(leaf.to_owned()).or_insert(span);
        }
        (_, None) if ROOTS.contains(&root) => {
            let example = match root {
                "params" => "params.since",
                "env" => "env.HOME",
                "secret" => "secret.file('path')",
                "run" => "run.id",
                _ => "pipeline.name",
            };
            return Err(problem("template-name", format!("`{root}` stands alone; its parts are named with a dot"))
                .at(span)
                .help(format!("write for example `{example}`")));
        }
        ("secret", _) => {
            known(&["file"])?;
            uses.secret = true;
        }
        ("run", _) => {
            known(&["id", "started_at"])?;
            uses.run = true;
        }
        ("pipeline", _) => known(&["name"])?,
        _ => {
            let help = suggest(root, ROOTS).unwrap_or_else(|| format!("the names are {}", list(ROOTS)));
            return Err(problem("template-name", format!("unknown name `{root}` in a template")).at(span).help(help));
        }
    }
    Ok(())
}

/// The nearest known word, as a help.
fn suggest(word: &str, known: &[&str]) -> Option<String> {
    let best = known.iter().max_by(|a, b| strsim::jaro_winkler(word, a).total_cmp(&strsim::jaro_winkler(word, b)))?;
    (strsim::jaro_winkler(word, best) > 0.8).then(|| format!("did you mean `{best}`?"))
}

fn list(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// The place of the first use of a dotted name.
fn place_of(text: &str, pieces: &[tags::Piece], name: &str) -> Range<usize> {
    let path: Vec<&str> = name.split('.').collect();
    let words: Vec<tags::Word<'_>> = pieces
        .iter()
        .flat_map(|piece| match piece {
            tags::Piece::Text(_) => Vec::new(),
            tags::Piece::Expression(tag) | tags::Piece::Statement(tag) => tags::words(text, tag.clone()).collect(),
        })
        .collect();
    let starts = |window: &&[tags::Word<'_>]| {
        let same = window.iter().zip(&path).all(|(word, part)| word.text == *part);
        let followed = path.len() > 1 || window[0].before != '.';
        same && followed && window[0].before != '.' && window[1..].iter().all(|word| word.before == '.')
    };
    let found = words.windows(path.len()).find(starts);
    found.map_or(0..text.len(), |window| window[0].span.start..window[window.len() - 1].span.end)
}

fn check_words(text: &str, target: Target, pieces: &[tags::Piece]) -> Result<(), Problem> {
    for piece in pieces {
        let (tag, statement) = match piece {
            tags::Piece::Text(_) => continue,
            tags::Piece::Expression(tag) => (tag, false),
            tags::Piece::Statement(tag) => (tag, true),
        };
        let words: Vec<tags::Word<'_>> = tags::words(text, tag.clone()).collect();
        if let Some(first) = words.first().filter(|first| statement && !STATEMENTS.contains(&first.text)) {
            let message = format!("`{{% {} %}}` is not part of haul's templates", first.text);
            return Err(problem("template-syntax", message).at(first.span.clone()).help("write expressions, `if`, `for` and `set`"));
        }
        for (index, word) in words.iter().enumerate() {
            let says =
                |at: Option<usize>, said: &str| at.and_then(|at| words.get(at)).is_some_and(|word| word.text == said && word.before != '.');
            let is = says(index.checked_sub(1), "is") || (says(index.checked_sub(1), "not") && says(index.checked_sub(2), "is"));
            if word.before == '|' {
                check_filter(word, target)?;
            } else if is && word.before == 'a' && word.text != "not" && !TESTS.contains(&word.text) {
                let help = suggest(word.text, TESTS).unwrap_or_else(|| format!("the tests are {}", list(TESTS)));
                return Err(problem("template-syntax", format!("unknown test `{}`", word.text)).at(word.span.clone()).help(help));
            }
        }
    }
    Ok(())
}

fn check_filter(word: &tags::Word<'_>, target: Target) -> Result<(), Problem> {
    let name = word.text;
    let problem = |message: String| problem("template-filter", message).at(word.span.clone());
    match (name, target) {
        ("ident", Target::Text) => Err(problem("`| ident` quotes a name for SQL, and this is not SQL".to_owned()).help("remove it")),
        ("safe" | "escape" | "e" | "tojson", Target::Sql(_)) => {
            Err(problem(format!("there is no `| {name}`: no value enters SQL unquoted"))
                .help("an expression becomes a quoted literal; for a name use `| ident`"))
        }
        _ if FILTERS.contains(&name) => Ok(()),
        _ => Err(problem(format!("unknown filter `{name}`"))
            .help(suggest(name, FILTERS).unwrap_or_else(|| format!("the filters are {}", list(FILTERS))))),
    }
}

/// The scan before any value is known: block tags vanish, expressions become holes.
fn check_places(text: &str, dialect: Dialect, pieces: &[tags::Piece]) -> Result<(), Problem> {
    if let Some(at) = text.find(sql::HOLE) {
        return Err(problem("template-sql", "SQL cannot hold a NUL character").at(at..at + 1));
    }
    let mut blank = String::with_capacity(text.len());
    let mut holes = Vec::new();
    for piece in pieces {
        match piece {
            tags::Piece::Text(range) => blank.push_str(&text[range.clone()]),
            tags::Piece::Statement(_) => {}
            tags::Piece::Expression(range) => {
                blank.push(sql::HOLE);
                holes.push(range.clone());
            }
        }
    }
    // Branches that stand side by side can glue texts together that never meet; the scan of the rendered text judges those.
    let branches = pieces.iter().any(|piece| matches!(piece, tags::Piece::Statement(_)));
    for (place, hole) in sql::places(dialect, &blank).into_iter().zip(holes) {
        if let Some(problem) = misplaced(place).filter(|_| !(branches && place == sql::Place::Glued)) {
            return Err(problem.at(hole));
        }
    }
    Ok(())
}

fn misplaced(place: sql::Place) -> Option<Problem> {
    let (message, help) = match place {
        sql::Place::Open | sql::Place::Tight => return None,
        sql::Place::Glued => ("an expression stands against another word of the SQL", "leave a blank before and after `{{ … }}`"),
        sql::Place::Literal => {
            ("an expression stands inside quotes", "remove the quotes around `{{ … }}`: it becomes a quoted literal by itself")
        }
        sql::Place::Identifier => (
            "an expression stands inside a quoted name",
            "remove the quotes and write `{{ … | ident }}`: it becomes a quoted name by itself",
        ),
        sql::Place::Comment => ("an expression stands inside an SQL comment", "take it out of the comment, or write `{# … #}` around it"),
    };
    Some(problem("template-sql", message).help(help))
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
        if let Some(problem) = misplaced(place) {
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

fn namespaces(context: &Context, trace: &Arc<Mutex<Trace>>) -> minijinja::Value {
    let root = |root: &str| {
        let namespace = Namespace { root: root.to_owned(), context: context.clone(), trace: Arc::clone(trace) };
        (root.to_owned(), minijinja::Value::from_object(namespace))
    };
    minijinja::Value::from_pairs(ROOTS.iter().map(|name| root(name)))
}

/// One root name. A part that is missing is remembered, so that the problem can say which and why.
struct Namespace {
    root: String,
    context: Context,
    trace: Arc<Mutex<Trace>>,
}

impl std::fmt::Debug for Namespace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.root)
    }
}

impl Object for Namespace {
    fn get_value(self: &Arc<Self>, key: &minijinja::Value) -> Option<minijinja::Value> {
        let key = key.as_str()?;
        let secret = || lock(&self.trace).secret = true;
        let missing = |message: String, help: String| lock(&self.trace).problem = Some(problem("template-undefined", message).help(help));
        let run = |part: fn(&Run) -> &String| match &self.context.run {
            Some(run) => Some(minijinja::Value::from(part(run).as_str())),
            None => {
                missing(format!("`run.{key}` is known in a run only"), "take it out of what is needed before the run".to_owned());
                None
            }
        };
        match (self.root.as_str(), key) {
            ("params", _) => {
                let value = self.context.params.get(key);
                match value {
                    None => missing(format!("the param `{key}` has no value"), format!("give it a default, or pass `--param {key}=…`")),
                    Some(Value::Secret(_)) => secret(),
                    Some(_) => {}
                }
                value.map(Value::to_jinja)
            }
            ("env", _) => {
                let value = (self.context.env)(key);
                match value {
                    None => missing(
                        format!("the environment variable `{key}` is not set"),
                        format!("set it, or write `{{{{ env.{key} | default('…') }}}}`"),
                    ),
                    Some(_) => secret(),
                }
                value.map(minijinja::Value::from)
            }
            ("run", "id") => run(|run| &run.id),
            ("run", "started_at") => run(|run| &run.started_at),
            ("pipeline", "name") => Some(minijinja::Value::from(self.context.pipeline.as_str())),
            _ => None,
        }
    }

    fn call_method(
        self: &Arc<Self>,
        _: &mut minijinja::State<'_, '_>,
        method: &str,
        args: &[minijinja::Value],
    ) -> Result<minijinja::Value, minijinja::Error> {
        if self.root != "secret" || method != "file" {
            return Err(minijinja::Error::new(ErrorKind::UnknownMethod, format!("`{}` has no `{method}`", self.root)));
        }
        let (path, Rest(more)): (String, Rest<minijinja::Value>) = minijinja::value::from_args(args)?;
        if !more.is_empty() {
            return Err(minijinja::Error::new(ErrorKind::TooManyArguments, "`secret.file` takes one path"));
        }
        let mut trace = lock(&self.trace);
        trace.secret = true;
        read_secret(&self.context.base, &path).map(minijinja::Value::from).map_err(|problem| {
            trace.problem = Some(problem);
            minijinja::Error::new(ErrorKind::InvalidOperation, "the secret cannot be read")
        })
    }
}

/// Reads a secret file, without its last line break. A relative path stays below `base`, symbolic links included.
fn read_secret(base: &Path, path: &str) -> Result<String, Problem> {
    let refused = |reason: String, help: &str| problem("template-secret", format!("the secret file `{path}` {reason}")).help(help);
    let given = Path::new(path);
    let full = base.join(given);
    if !given.is_absolute() {
        let outside = || refused("leaves the project's folder".to_owned(), "use an absolute path if it is meant");
        if given.components().any(|part| part == Component::ParentDir) {
            return Err(outside());
        }
        if let (Ok(base), Ok(real)) = (base.canonicalize(), full.canonicalize())
            && !real.starts_with(base)
        {
            return Err(outside());
        }
    }
    let unreadable = |error: std::io::Error| refused(format!("cannot be read: {error}"), "create it, or name another file");
    let size = std::fs::metadata(&full).map_err(unreadable)?.len();
    if size > MOST_BYTES as u64 {
        return Err(refused(format!("has {size} bytes; at most {MOST_BYTES} are read"), "name a smaller file"));
    }
    let bytes = std::fs::read(&full).map_err(unreadable)?;
    let mut text =
        String::from_utf8(bytes).map_err(|_| refused("is not UTF-8 text".to_owned(), "store it as text, for example in base64"))?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
