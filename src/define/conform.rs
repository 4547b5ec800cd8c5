//! Checks a document against its JSON Schema, in the words of someone who writes YAML, and takes out what is wrong, so that the rest
//! can still be read and checked.

use std::sync::OnceLock;

use jsonschema::error::{TypeKind, ValidationErrorKind as Rule};
use jsonschema::{ValidationError, Validator};
use serde_json::Value;

use crate::diagnostic::Diagnostic;
use crate::diagnostic::suggest::{did_you_mean, joined, list};
use crate::load::document::{Document, child, last_key};
use crate::load::{file, schema, shape};

mod words;

use words::{type_word, what};

/// A schema, ready to check with.
pub struct Shape {
    schema: Value,
    validator: Validator,
}

/// What a document says where it follows its schema.
pub struct Conformed {
    /// The document's value without what breaks the schema.
    pub value: Value,
    /// Pointers to what was taken out: there something is written, but not understood.
    pub broken: Vec<String>,
    /// What breaks the schema.
    pub diagnostics: Vec<Diagnostic>,
}

/// The shape of pipeline files.
pub fn pipeline() -> &'static Shape {
    static SHAPE: OnceLock<Shape> = OnceLock::new();
    SHAPE.get_or_init(|| Shape::new(schema::pipeline()))
}

/// The shape of project files.
pub fn project() -> &'static Shape {
    static SHAPE: OnceLock<Shape> = OnceLock::new();
    SHAPE.get_or_init(|| Shape::new(schema::project()))
}

impl Shape {
    #[expect(clippy::expect_used, reason = "the schema is made by this program, and a test compiles it")]
    fn new(schema: Value) -> Self {
        let validator = jsonschema::validator_for(&schema).expect("the schema of this program compiles");
        Self { schema, validator }
    }

    /// Checks a document.
    pub fn conform(&self, document: &Document) -> Conformed {
        let mut found = Found { shape: self, document, conflicts: Vec::new(), broken: Vec::new(), diagnostics: Vec::new() };
        found.family_conflicts("", &document.value);
        for error in self.validator.iter_errors(&document.value) {
            found.error(&error);
        }
        let Found { mut broken, diagnostics, .. } = found;
        let mut value = document.value.clone();
        for pointer in &mut broken {
            remove(&mut value, pointer);
        }
        whole_numbers(&mut value);
        Conformed { value, broken, diagnostics }
    }

    /// The schema at or above a path in which `properties` stands, and the name of its definition.
    fn owner<'s>(&self, schema_path: &'s str) -> (Vec<&str>, &'s str) {
        let at = schema_path.rfind('/').map_or("", |end| &schema_path[..end]);
        let properties = self.schema.pointer(at).and_then(|schema| schema["properties"].as_object());
        let keys = properties.map(|properties| properties.keys().map(String::as_str).collect()).unwrap_or_default();
        (keys, at.strip_prefix("/$defs/").map_or("", |rest| rest.split('/').next().unwrap_or_default()))
    }

    /// The definitions that have a key of this name, in words.
    fn homes(&self, key: &str) -> Vec<String> {
        let defs = self.schema["$defs"].as_object().into_iter().flatten();
        let homes = defs.filter(|(name, def)| !def["properties"][key].is_null() && !matches!(name.as_str(), "Input" | "Output" | "Stage"));
        homes.map(|(name, _)| what(name)).collect()
    }
}

/// Takes out what a pointer names. An item of a list goes with its whole list, since the others would change their places.
fn remove(value: &mut Value, pointer: &mut String) {
    loop {
        let Some(end) = pointer.rfind('/') else {
            *value = Value::Object(serde_json::Map::new());
            return;
        };
        let key = last_key(pointer);
        match value.pointer_mut(&pointer[..end]) {
            Some(Value::Object(object)) => {
                object.shift_remove(&key);
                return;
            }
            Some(Value::Array(_)) => pointer.truncate(end),
            _ => return,
        }
    }
}

/// `2.0` is a whole number to JSON Schema; here it becomes one.
fn whole_numbers(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(object) => object.values_mut().for_each(whole_numbers),
        Value::Number(number) => {
            if let Some(float) = number.as_f64().filter(|_| number.is_f64())
                && float.fract() == 0.0
                && float.abs() < 9e15
            {
                *number = (float as i64).into();
            }
        }
        _ => {}
    }
}

struct Found<'a> {
    shape: &'a Shape,
    document: &'a Document,
    /// Pointers to inputs and outputs that name two families.
    conflicts: Vec<String>,
    broken: Vec<String>,
    diagnostics: Vec<Diagnostic>,
}

impl Found<'_> {
    /// Finds inputs and outputs that name two families, of which the schema can only say confusing things.
    fn family_conflicts(&mut self, pointer: &str, value: &Value) {
        let stages = value.get("stages").and_then(Value::as_object);
        for (stage, said) in stages.into_iter().flatten() {
            for (side, keys) in [("from", file::Input::KEYS), ("to", file::Output::KEYS)] {
                let at = format!("{}/{side}", child(&format!("{pointer}/stages"), stage));
                match said.get(side) {
                    Some(Value::Array(items)) => {
                        for (index, item) in items.iter().enumerate() {
                            self.family_conflict(&format!("{at}/{index}"), item, keys);
                        }
                    }
                    Some(item) => self.family_conflict(&at, item, keys),
                    None => {}
                }
            }
        }
    }

    fn family_conflict(&mut self, pointer: &str, item: &Value, keys: &[&str]) {
        let named: Vec<&str> = keys.iter().copied().filter(|key| item.get(key).is_some()).collect();
        if let [first, second, ..] = named.as_slice() {
            let message = format!("`{first}` and `{second}` both name where rows are; one of them can");
            let problem = self.document.at_key(Diagnostic::error("two-families", message), &child(pointer, second), "the second");
            let problem = self.document.at_key(problem, &child(pointer, first), "the first");
            self.diagnostics.push(problem.help("keep one, or write a list with one item for each"));
            self.conflicts.push(pointer.to_owned());
            self.broken.push(pointer.to_owned());
        }
    }

    fn error(&mut self, error: &ValidationError<'_>) {
        let pointer = error.instance_path().to_string();
        if self.conflicts.iter().any(|conflict| pointer == *conflict || pointer.starts_with(&format!("{conflict}/"))) {
            return;
        }
        let schema_path = error.schema_path().to_string();
        match error.kind() {
            Rule::AdditionalProperties { unexpected } => {
                for key in unexpected {
                    let problem = self.unknown_key(&child(&pointer, key), key, &schema_path);
                    self.take_out(child(&pointer, key), problem);
                }
            }
            Rule::Required { property } => {
                let key = property.as_str().unwrap_or_default();
                let (_, owner) = self.shape.owner(&schema_path);
                let owner = if owner == "Stage" || pointer.is_empty() { what("BatchStage") } else { what(owner) };
                let owner = if pointer.is_empty() { "a pipeline".to_owned() } else { owner };
                let problem = Diagnostic::error("missing-key", format!("`{key}` is missing"));
                let problem = self.document.at_key(problem, &pointer, format!("{owner} needs `{key}`"));
                self.diagnostics.push(problem.help(format!("add `{key}:`{}", self.said_of(&schema_path, key))));
            }
            Rule::PropertyNames { error } => {
                let name = error.instance().as_str().unwrap_or_default().to_owned();
                let at = child(&pointer, &name);
                let hyphen = if last_key(&pointer) == "params" { "" } else { ", `-`" };
                let problem = Diagnostic::error("invalid-name", format!("`{name}` cannot be a name"));
                let help =
                    format!("names begin with a letter or `_`, go on with letters, digits{hyphen} and `_`, and have at most 63 characters");
                let problem = self.document.at_key(problem, &at, "").help(help);
                self.take_out(at, problem);
            }
            kind => {
                let Some(problem) = self.value_problem(kind, &pointer, error.instance(), &schema_path) else { return };
                self.take_out(pointer, problem);
            }
        }
    }

    fn take_out(&mut self, pointer: String, problem: Diagnostic) {
        if !self.broken.contains(&pointer) {
            self.diagnostics.push(problem);
            self.broken.push(pointer);
        }
    }

    fn unknown_key(&self, pointer: &str, key: &str, schema_path: &str) -> Diagnostic {
        let (keys, owner) = self.shape.owner(schema_path);
        let problem = Diagnostic::error("unknown-key", format!("unknown key `{key}`"));
        let owner = if owner.is_empty() { "the file".to_owned() } else { what(owner) };
        let problem = self.document.at_key(problem, pointer, format!("{owner} has no such key"));
        if let Some(near) = did_you_mean(key, keys.iter().copied()) {
            return problem.help(format!("did you mean `{near}`?"));
        }
        let homes = self.shape.homes(key);
        let problem = if homes.is_empty() { problem } else { problem.help(format!("`{key}` is a key of {}", joined(&homes))) };
        problem.help(format!("the keys of {owner} are {}", list(keys.iter().copied())))
    }

    /// The first sentence of a key's description, to be put behind its name.
    fn said_of(&self, schema_path: &str, key: &str) -> String {
        let at = schema_path.rfind('/').map_or("", |end| &schema_path[..end]);
        let said = self.shape.schema.pointer(at).and_then(|schema| schema["properties"][key]["description"].as_str());
        let sentence = said.and_then(|said| said.split(". ").next()).map(|sentence| sentence.trim_end_matches('.').replace('\n', " "));
        sentence.map_or_else(String::new, |sentence| {
            let mut letters = sentence.chars();
            let first = letters.next().map(|letter| letter.to_lowercase().to_string()).unwrap_or_default();
            format!(" — {first}{}", letters.as_str())
        })
    }

    fn value_problem(&self, kind: &Rule, pointer: &str, value: &Value, schema_path: &str) -> Option<Diagnostic> {
        let key = last_key(pointer);
        let key = if key.bytes().all(|byte| byte.is_ascii_digit()) { "the item".to_owned() } else { format!("`{key}`") };
        let error = |code, message: String| self.document.at_value(Diagnostic::error(code, message), pointer, "");
        Some(match kind {
            Rule::Type { kind } => self.wrong_type(kind, pointer, value),
            Rule::Enum { options } => {
                let words: Vec<&str> = options.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                let written = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                let problem = error("unknown-value", format!("{key} cannot be `{written}`"));
                match did_you_mean(&written, words.iter().copied()) {
                    Some(near) => problem.help(format!("did you mean `{near}`?")),
                    None => problem,
                }
                .help(match options.as_array() {
                    Some(options) if options.contains(&Value::Null) => "write `null`, `{ hash: salt }` or `{ redact: text }`".to_owned(),
                    _ => format!("the values are {}", list(words)),
                })
            }
            Rule::Pattern { pattern } => pattern_problem(pattern, &key, value, &error),
            Rule::Minimum { limit } => error("out-of-range", format!("{key} is {value}; the least is {limit}")),
            Rule::Maximum { limit } => error("out-of-range", format!("{key} is {value}; the most is {limit}")),
            Rule::MinItems { .. } => error("empty", format!("{key} is an empty list")).help("name at least one, or remove the key"),
            Rule::MinLength { .. } => error("empty", format!("{key} is empty")).help("write a value, or remove the key"),
            Rule::MinProperties { .. } => error("empty", format!("{key} is empty")).help("name at least one, or remove it"),
            Rule::MaxProperties { .. } => self.too_many_keys(pointer, value, schema_path),
            Rule::AnyOf { .. } => self.no_family(pointer, value),
            other => error("wrong-value", format!("{key} does not fit the schema: {}", other.keyword())),
        })
    }

    fn wrong_type(&self, expected: &TypeKind, pointer: &str, value: &Value) -> Diagnostic {
        let expected: Vec<String> = match expected {
            TypeKind::Single(only) => vec![only.to_string()],
            TypeKind::Multiple(several) => several.iter().map(|ty| ty.to_string()).filter(|ty| ty != "null").collect(),
        };
        let words: Vec<&str> = expected.iter().map(|ty| type_word(ty)).collect();
        let found = match value {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Number(number) if number.is_f64() => "a number",
            Value::Number(_) => "a whole number",
            Value::String(_) => "a text",
            Value::Array(_) => "a list",
            Value::Object(_) => "a mapping",
        };
        let message = format!("expected {}, found {found}", words.join(" or "));
        let problem = self.document.at_value(Diagnostic::error("wrong-type", message), pointer, "");
        let written = self.document.written(pointer).unwrap_or_default();
        let has = |ty: &str| expected.iter().any(|expected| expected == ty);
        match value {
            Value::Number(_) | Value::Bool(_) if has("string") => problem.help(format!("quote it: \"{written}\"")),
            Value::String(text) if has("boolean") && matches!(text.to_ascii_lowercase().as_str(), "yes" | "on" | "y") => {
                problem.help("write true")
            }
            Value::String(text) if has("boolean") && matches!(text.to_ascii_lowercase().as_str(), "no" | "off" | "n") => {
                problem.help("write false")
            }
            Value::String(text) if (has("integer") || has("number")) && text.parse::<f64>().is_ok() => {
                problem.help(format!("write {text} without quotes"))
            }
            Value::String(_) if pointer == "/schedule" => problem.help("write `{ cron: \"0 2 * * *\" }` or `{ every: 15m }`"),
            Value::String(_) | Value::Number(_) if has("array") && !written.contains('\n') => problem.help(format!("write [{written}]")),
            Value::Object(_) if has("array") => problem.help("begin each item with `- `"),
            Value::Null => problem.help("write a value, or remove the key"),
            _ if has("object") => match pointer.split('/').collect::<Vec<_>>().as_slice() {
                ["", "params", name] => problem.help(format!("write `{name}: {{ type: text, default: … }}`")),
                ["", "connections", name] => problem.help(format!("write `{name}: {{ url: … }}`")),
                _ => problem,
            },
            _ => problem,
        }
    }

    fn too_many_keys(&self, pointer: &str, value: &Value, schema_path: &str) -> Diagnostic {
        let keys: Vec<&String> = value.as_object().into_iter().flat_map(|object| object.keys()).collect();
        let what = if schema_path.contains("/Step/") { "a step" } else { "a mask" };
        let message = format!("{what} does one thing, and this one names {}", list(keys.iter().map(|key| key.as_str())));
        let mut problem = Diagnostic::error("one-key", message);
        for (index, key) in keys.iter().enumerate().skip(1) {
            problem = self.document.at_key(problem, &child(pointer, key), if index == 1 { "one too many" } else { "" });
        }
        problem.help(if what == "a step" { "begin the next step with its own `- `" } else { "keep one" })
    }

    fn no_family(&self, pointer: &str, value: &Value) -> Diagnostic {
        let output = pointer.split('/').nth(3) == Some("to");
        let keys = if output { file::Output::KEYS } else { file::Input::KEYS };
        let problem = Diagnostic::error("missing-family", format!("{} names no family", if output { "the output" } else { "the input" }));
        let problem = self.document.at_value(problem, pointer, "");
        let written = || value.as_object().into_iter().flatten();
        let near = written().find_map(|(key, _)| did_you_mean(key, keys.iter().copied()).map(|near| (key, near)));
        let problem = match (near, written().next()) {
            (Some((key, near)), _) => problem.help(format!("did you mean `{near}` instead of `{key}`?")),
            (None, Some((name, _))) if written().all(|(_, value)| value.is_object()) => {
                let name = if output { String::new() } else { format!(", as: {name}") };
                problem.help(format!("several stand in a list, an item each: `- {{ …{name} }}`"))
            }
            _ => problem,
        };
        let first = if output { "where rows go" } else { "where rows come from" };
        problem.help(format!("the first key says {first}: {}", list(keys.iter().copied())))
    }
}

fn pattern_problem(pattern: &str, key: &str, value: &Value, error: &dyn Fn(&'static str, String) -> Diagnostic) -> Diagnostic {
    let text = value.as_str().unwrap_or_default();
    match pattern {
        shape::DURATION_PATTERN => {
            let problem = error("invalid-duration", format!("{key} is not a length of time: `{text}`"));
            problem.help("write a whole number and its unit: `500ms`, `30s`, `2m`, `1h` or `7d`")
        }
        shape::SIZE_PATTERN => {
            let problem = error("invalid-size", format!("{key} is not a size: `{text}`"));
            problem.help("write a whole number and its unit: `512B`, `64KiB`, `64MiB` or `1GiB`")
        }
        shape::SHARE_PATTERN => {
            let problem = error("invalid-count", format!("{key} is neither a number of rows nor a share: `{text}`"));
            problem.help("write a whole number, or a share such as `90%`")
        }
        _ if pattern.contains("\\x00") => {
            error("invalid-character", format!("{key} must be one ASCII character, and is `{}`", text.escape_debug()))
        }
        _ if pattern.contains("[0-9]+") => {
            error("invalid-count", format!("{key} must be a whole number, or a template that gives one")).help("write digits only")
        }
        "^[A-Za-z_][A-Za-z0-9_-]{0,62}$" => {
            let problem = error("invalid-name", format!("`{text}` cannot name a feed"));
            problem.help("names begin with a letter or `_`, and go on with at most 62 letters, digits, `_` and `-`")
        }
        _ => {
            let problem = error("invalid-name", format!("`{text}` cannot name an input"));
            problem.help("names in SQL begin with a letter or `_`, and go on with letters, digits and `_`")
        }
    }
}
