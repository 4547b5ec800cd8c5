//! What the names of a template stand for.

use std::path::{Component, Path};
use std::sync::{Arc, Mutex};

use minijinja::ErrorKind;
use minijinja::value::{Object, Rest};

use super::{Context, Event, MOST_BYTES, Problem, ROOTS, Run, Trace, Value, lock, problem};

/// The root names, each looking its parts up in the context.
pub(super) fn namespaces(context: &Context, trace: &Arc<Mutex<Trace>>) -> minijinja::Value {
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
            ("run", "scheduled_at" | "interval_end") => run(|run| &run.scheduled_at),
            ("run", "interval_start") => run(|run| &run.interval_start),
            ("event", _) => {
                let part: fn(&Event) -> &String = match key {
                    "kind" => |event| &event.kind,
                    "stage" => |event| &event.stage,
                    "message" => |event| &event.message,
                    "help" => |event| &event.help,
                    _ => return None,
                };
                self.context.event.as_ref().map(|event| minijinja::Value::from(part(event).as_str()))
            }
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
