//! What becomes of columns in keys, and what a load can promise.

use crate::connectors::redis::{Facts, slot};
use crate::connectors::{Target, TargetProblem};
use crate::data::{Column, Grade, Mapped, Schema, Type};
use crate::define::pipeline::{KeyTtl, RedisRowsSink, RowMode, RowShape};
use crate::load::template::{KeyTemplate, Part};

/// How rows and marks get onto the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// All keys are on one node: transactions that hold rows and mark. The slot that all keys share, when the server is a cluster.
    Transactions(Option<u16>),
    /// Keys are spread over a cluster: commands that can be repeated, and the mark after them.
    Spread,
}

/// How a load will be written.
pub(super) fn route(spec: &RedisRowsSink, cluster: bool) -> Route {
    if !cluster {
        return Route::Transactions(None);
    }
    constant_slot(&spec.key).map_or(Route::Spread, |slot| Route::Transactions(Some(slot)))
}

/// The slot of every key of a template, when its text decides: a key without columns, or one with a hash tag before its first column.
fn constant_slot(key: &KeyTemplate) -> Option<u16> {
    if let Some(key) = key.constant() {
        return Some(slot(key.as_bytes()));
    }
    let Some(Part::Text(text)) = key.parts().first() else { return None };
    let (_, rest) = text.split_once('{')?;
    let (tag, _) = rest.split_once('}')?;
    (!tag.is_empty()).then(|| slot(tag.as_bytes()))
}

/// What the incoming columns become, or every problem with them.
pub(super) fn plan(spec: &RedisRowsSink, facts: &Facts, writers: usize, incoming: &Schema) -> Result<Target, Vec<TargetProblem>> {
    let mut problems = Vec::new();
    server(facts, &mut problems);
    columns(spec, incoming, &mut problems);
    let route = route(spec, facts.cluster);
    if spec.changes && route == Route::Spread {
        problems.push(TargetProblem {
            code: "target-guarantee",
            field: spec.shape.word(),
            message: "changes of rows whose keys are spread over a cluster cannot be applied exactly once".to_owned(),
            help: "give all keys one slot with a hash tag: `{app}:user:…`".to_owned(),
        });
    }
    if spec.mode == RowMode::Append && route == Route::Spread {
        problems.push(TargetProblem {
            code: "target-guarantee",
            field: spec.shape.word(),
            message: format!("keys of a `{}` that are spread over a cluster cannot be appended to exactly once", spec.shape.word()),
            help: "give all keys one slot with a hash tag: `{app}:queue:…`".to_owned(),
        });
    }
    let columns: Vec<Mapped> = incoming.columns.iter().map(|column| mapped(spec, column, &mut problems)).collect();
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(Target {
        columns,
        ddl: Vec::new(),
        exists: true,
        wire: None,
        writers,
        whole: false,
        checkpoints: true,
        guarantee: guarantee(spec, route),
        reads_as: reads_as(spec, incoming),
        tables: Vec::new(),
    })
}

/// The columns as a source on the same keys would describe them, with the types that it would be told.
fn reads_as(spec: &RedisRowsSink, incoming: &Schema) -> Schema {
    let in_key = |name: &str| spec.key.columns().any(|column| column == name);
    let fixed = |name: &str| !spec.shape.named() && spec.shape.fixed().contains(&name);
    let mut columns: Vec<Column> = spec.key.columns().filter_map(|name| incoming.find(name).map(|(_, column)| column.clone())).collect();
    match spec.shape {
        RowShape::List => columns.push(Column::new("index", Type::Int(64))),
        RowShape::Stream => columns.push(Column::new("entry_id", Type::Text)),
        _ => {}
    }
    columns.extend(incoming.columns.iter().filter(|column| !in_key(&column.name)).cloned());
    for column in &mut columns {
        column.nullable = !in_key(&column.name) && !fixed(&column.name) && !["index", "entry_id"].contains(&column.name.as_str());
        column.native = None;
    }
    Schema { columns }
}

fn server(facts: &Facts, problems: &mut Vec<TargetProblem>) {
    if facts.replica {
        problems.push(TargetProblem {
            code: "target-read-only",
            field: "redis",
            message: "the server is a replica, which takes no writes".to_owned(),
            help: "name the primary in the connection's URL".to_owned(),
        });
    }
}

/// Every column has a place, and every place its column.
fn columns(spec: &RedisRowsSink, incoming: &Schema, problems: &mut Vec<TargetProblem>) {
    let word = spec.shape.word();
    let names = || incoming.columns.iter().map(|column| format!("`{}`", column.name)).collect::<Vec<_>>().join(", ");
    let mut missing = |field: &'static str, name: &str, what: &str| {
        if incoming.find(name).is_none() {
            problems.push(TargetProblem {
                code: "target-columns",
                field,
                message: format!("there is no column `{name}`, which {what}"),
                help: format!("the columns are {}; a `set` or `rename` step can make it", names()),
            });
        }
    };
    spec.key.columns().for_each(|name| missing(word, name, "stands in the key"));
    // A list numbers its items itself.
    let held: Vec<&str> =
        if spec.shape.named() { Vec::new() } else { spec.shape.fixed().iter().copied().filter(|name| *name != "index").collect() };
    held.iter().for_each(|name| missing(word, name, &format!("is what a `{word}` holds")));
    if let KeyTtl::Column(name) = &spec.ttl {
        missing("ttl", name, "tells when a key expires");
    }
    if spec.shape == RowShape::Stream && incoming.find("entry_id").is_some() {
        problems.push(TargetProblem {
            code: "target-columns",
            field: word,
            message: "the column `entry_id` has no place in a stream: the server numbers its entries".to_owned(),
            help: "drop it with `drop: [entry_id]`, or give it another name with `rename`".to_owned(),
        });
    }
    if spec.shape.named() {
        return;
    }
    let known =
        |name: &str| held.contains(&name) || spec.key.columns().any(|column| column == name) || spec.ttl == KeyTtl::Column(name.to_owned());
    for column in incoming.columns.iter().filter(|column| !known(&column.name)) {
        problems.push(TargetProblem {
            code: "target-columns",
            field: word,
            message: format!("the column `{}` has no place in a `{word}` with this key", column.name),
            help: format!("drop it with `drop: [{}]`, put it into the key, or write a `hash` or `json`", column.name),
        });
    }
}

fn mapped(spec: &RedisRowsSink, column: &Column, problems: &mut Vec<TargetProblem>) -> Mapped {
    let exact = |native: &str| (native.to_owned(), Grade::Exact, "");
    let in_key = spec.key.columns().any(|name| name == column.name);
    let refused = match &column.ty {
        Type::Native { .. } => Some("only its own engine can read it"),
        Type::Array(item) if matches!(**item, Type::Native { .. }) => Some("only its own engine can read its items"),
        _ => None,
    };
    let mut problem = |message: String, help: &str| {
        problems.push(TargetProblem { code: "target-column", field: "", message, help: help.to_owned() });
    };
    if let Some(why) = refused {
        problem(format!("column `{}` is {}: {why}", column.name, column.ty), "cast it to text");
    }
    let is_ttl = spec.ttl == KeyTtl::Column(column.name.clone());
    let (native, grade, reason) = if is_ttl {
        if column.ty != Type::TimestampTz {
            let message = format!("the expiry `{}` is {}, and must be a timestamptz", column.name, column.ty);
            problem(message, "cast it: `cast: { column: timestamptz }`");
        }
        ("expiry".to_owned(), Grade::Widened, "the key's expiry in whole milliseconds; not stored as a value")
    } else if spec.shape == RowShape::SortedSet && column.name == "score" {
        score(&column.ty, &column.name, &mut problem)
    } else if spec.shape == RowShape::Json {
        json(&column.ty)
    } else {
        match &column.ty {
            Type::Text => exact("text"),
            Type::Bytes => exact("bytes"),
            _ => ("text".to_owned(), Grade::Widened, "Redis keeps bytes: its text form, which reads back equal"),
        }
    };
    let native = if in_key && spec.shape.named() {
        format!("key, {native}")
    } else if in_key {
        "key".to_owned()
    } else {
        native
    };
    Mapped { name: column.name.clone(), native, grade, reason: reason.to_owned() }
}

/// A score is a float of 64 bits.
fn score(ty: &Type, name: &str, problem: &mut dyn FnMut(String, &str)) -> (String, Grade, &'static str) {
    let (grade, reason) = match ty {
        Type::Float(64) => (Grade::Exact, ""),
        Type::Int(8 | 16 | 32) | Type::UInt(8 | 16 | 32) | Type::Float(_) => (Grade::Widened, "a score is a float of 64 bits"),
        Type::Int(_) | Type::UInt(_) => (Grade::Lossy, "a score is a float of 64 bits, which keeps whole numbers up to 2^53"),
        Type::Decimal(..) | Type::Number => (Grade::Lossy, "a score is a float of 64 bits, which keeps about 15 digits"),
        _ => {
            problem(format!("the score `{name}` is {ty}, and must be a number"), "cast it: `cast: { score: float64 }`");
            (Grade::Lossy, "")
        }
    };
    ("score".to_owned(), grade, reason)
}

fn json(ty: &Type) -> (String, Grade, &'static str) {
    let (native, reason) = match ty {
        Type::Bool => ("boolean", ""),
        Type::Int(8 | 16 | 32) | Type::UInt(8 | 16 | 32) => ("number", ""),
        Type::Int(_) | Type::UInt(_) | Type::Decimal(..) => ("number", "all digits are written; a reader that uses doubles keeps about 15"),
        Type::Number | Type::Float(_) => ("number", "`NaN` and the infinities are written as strings"),
        Type::Text => ("string", ""),
        Type::Json => ("value", ""),
        Type::Array(_) => ("array", ""),
        Type::Bytes => ("string", "JSON has no bytes: `\\x` and hexadecimal digits"),
        _ => ("string", "JSON has no such type: its text form"),
    };
    (native.to_owned(), if reason.is_empty() { Grade::Exact } else { Grade::Widened }, reason)
}

fn guarantee(spec: &RedisRowsSink, route: Route) -> String {
    if spec.changes {
        return "effectively once: what changes leave and their mark in one transaction; other keys stay".to_owned();
    }
    let rows = match (route, spec.mode) {
        (Route::Transactions(_), RowMode::Append) => "effectively once: rows and their mark in one transaction",
        (Route::Transactions(_), _) => "effectively once: repeatable writes in transactions, the last of them with the mark",
        (Route::Spread, _) => "effectively once: repeatable writes, and their mark after them",
    };
    let keys = match spec.mode {
        RowMode::Replace => "; the last row of a key wins, other keys stay",
        RowMode::Merge if spec.shape == RowShape::Hash => "; the last row of a key wins, other fields stay",
        RowMode::Merge => "; other members stay",
        RowMode::Append => "; proved by count",
    };
    format!("{rows}{keys}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::template::Holes;

    #[test]
    fn a_slot_is_constant_when_the_text_before_the_columns_decides_it() {
        let slot_of = |text: &str| {
            let holes = Holes::cut(text).expect(text);
            constant_slot(&holes.fill(&holes.text).expect(text))
        };
        assert_eq!(slot_of("foo"), Some(slot(b"foo")));
        assert_eq!(slot_of("{app}:{{ id }}"), Some(slot(b"app")));
        assert_eq!(slot_of("x{app}{{ id }}"), Some(slot(b"app")));
        for spread in ["user:{{ id }}", "{{ id }}:{app}", "{}:{{ id }}{app}", "{a:{{ id }}}"] {
            assert_eq!(slot_of(spread), None, "{spread}");
        }
    }
}
