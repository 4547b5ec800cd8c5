//! The text of a new pipeline. Pure.

use std::collections::BTreeSet;

use crate::cli::render::words;
use crate::define::pipeline::Engine;

/// One end of the pipeline.
#[derive(Clone, Debug)]
pub(super) struct End {
    /// The connection's name.
    pub(super) connection: String,
    /// What its URL says in the file; `None` when the project has the connection already.
    pub(super) url: Option<String>,
    /// The environment variable that the URL comes from, when it holds a password.
    pub(super) variable: Option<&'static str>,
    /// Its engine.
    pub(super) engine: Engine,
}

/// Something that rows can be read from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Found {
    /// A table: an optional schema and a name.
    Table(Vec<String>),
    /// A file below the connection's root.
    File(String),
    /// The keys of a server, as they are.
    Keys,
}

/// A pipeline with one batch stage for each thing found. `depth` is how many folders the file is below the project.
pub(super) fn pipeline(from: &End, to: &End, found: &[Found], depth: usize) -> String {
    let mut text = format!("# yaml-language-server: $schema={}schema/pipeline.schema.json\n", "../".repeat(depth));
    let many = match from.engine {
        Engine::Redis => "every key".to_owned(),
        Engine::File | Engine::S3 => words::counted(found.len() as u64, "file"),
        _ => words::counted(found.len() as u64, "table"),
    };
    text.push_str(&format!("description: {many} of {} into {}.\n", from.connection, to.connection));
    let own: Vec<(&str, &str)> = [from, to].iter().filter_map(|end| Some((end.connection.as_str(), end.url.as_deref()?))).collect();
    if !own.is_empty() {
        text.push_str("\nconnections:\n");
        for (name, url) in own {
            text.push_str(&format!("  {name}: {{ url: {} }}\n", quoted(url)));
        }
    }
    text.push_str("\nstages:\n");
    let mut names = BTreeSet::new();
    let stages: Vec<String> = found.iter().map(|one| stage(one, from, to, found, &mut names)).collect();
    text + &stages.join("\n")
}

fn stage(one: &Found, from: &End, to: &End, all: &[Found], names: &mut BTreeSet<String>) -> String {
    let name = unique(&word(&plain_name(one, all)), names);
    let source = match one {
        Found::Table(parts) => format!("sql: {}, table: {}", from.connection, scalar(&table(parts))),
        Found::File(path) => format!("files: {}, path: {}", from.connection, scalar(path)),
        Found::Keys => format!("redis: {}, keys: [\"*\"]", from.connection),
    };
    let target = match (to.engine, one) {
        (Engine::File | Engine::S3, _) => format!("files: {}, path: {}", to.connection, scalar(&format!("{name}.parquet"))),
        (Engine::Postgres, Found::Table(parts)) if parts.len() == 2 => {
            format!("sql: {}, table: {}, mode: replace", to.connection, scalar(&table(parts)))
        }
        (Engine::Postgres | Engine::Sqlite, Found::Table(_)) => {
            format!("sql: {}, table: {}, mode: replace", to.connection, scalar(&table(&[plain_name(one, all)])))
        }
        (Engine::Redis, _) => format!("redis: {}", to.connection),
        (Engine::Http, _) => format!("http: {}", to.connection),
        (Engine::Postgres | Engine::Sqlite, Found::File(_) | Found::Keys) => {
            format!("sql: {}, table: {name}, mode: replace", to.connection)
        }
    };
    let proof = if *one == Found::Keys { "    verify: digest\n" } else { "" };
    format!("  {name}:\n    kind: batch\n    from: {{ {source} }}\n    to: {{ {target} }}\n{proof}")
}

/// A table's own name, with its schema in front when another schema has one of the same name; a file's name without its endings.
fn plain_name(one: &Found, all: &[Found]) -> String {
    match one {
        Found::Table(parts) => {
            let same = all.iter().filter(|other| matches!(other, Found::Table(other) if other.last() == parts.last())).count();
            if same > 1 { parts.join("_") } else { parts.last().cloned().unwrap_or_default() }
        }
        Found::File(path) => {
            let name = path.rsplit('/').next().unwrap_or_default();
            name.split('.').next().unwrap_or_default().to_owned()
        }
        Found::Keys => "keys".to_owned(),
    }
}

/// A name that stages may have: letters, digits, `_` and `-`, not a digit first, at most 63.
fn word(text: &str) -> String {
    let mut word: String = text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).take(60).collect();
    if !word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        word.insert(0, '_');
    }
    word
}

fn unique(word: &str, names: &mut BTreeSet<String>) -> String {
    let name = (2..1000).map(|number| format!("{word}_{number}"));
    let name = std::iter::once(word.to_owned()).chain(name).find(|name| !names.contains(name)).unwrap_or_else(|| word.to_owned());
    names.insert(name.clone());
    name
}

/// `public.orders`, with a part that holds a dot in double quotes.
fn table(parts: &[String]) -> String {
    let quoted = |part: &String| if part.contains('.') { format!("\"{part}\"") } else { part.clone() };
    parts.iter().map(quoted).collect::<Vec<_>>().join(".")
}

/// A YAML scalar inside a flow mapping: bare when nothing could misread it.
fn scalar(text: &str) -> String {
    let bare = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_./-".contains(c))
        && !["true", "false", "null"].contains(&text.to_ascii_lowercase().as_str());
    if bare { text.to_owned() } else { quoted(text) }
}

/// A YAML scalar in double quotes; JSON's escapes are YAML's as well.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(connection: &str, url: Option<&str>, engine: Engine) -> End {
        End { connection: connection.to_owned(), url: url.map(str::to_owned), variable: None, engine }
    }

    fn tables(names: &[&str]) -> Vec<Found> {
        names.iter().map(|name| Found::Table(name.split('/').map(str::to_owned).collect())).collect()
    }

    #[test]
    fn each_table_becomes_a_stage() {
        let (from, to) = (end("source", Some("{{ env.SOURCE_URL }}"), Engine::Postgres), end("shop", None, Engine::Sqlite));
        let text = pipeline(&from, &to, &tables(&["public/orders", "audit/log", "public/log", "public/Ünïcode x.y"]), 1);
        let expected = r#"# yaml-language-server: $schema=../schema/pipeline.schema.json
description: 4 tables of source into shop.

connections:
  source: { url: "{{ env.SOURCE_URL }}" }

stages:
  orders:
    kind: batch
    from: { sql: source, table: public.orders }
    to: { sql: shop, table: orders, mode: replace }

  audit_log:
    kind: batch
    from: { sql: source, table: audit.log }
    to: { sql: shop, table: audit_log, mode: replace }

  public_log:
    kind: batch
    from: { sql: source, table: public.log }
    to: { sql: shop, table: public_log, mode: replace }

  _n_code_x_y:
    kind: batch
    from: { sql: source, table: "public.\"Ünïcode x.y\"" }
    to: { sql: shop, table: "\"Ünïcode x.y\"", mode: replace }
"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn files_and_tables_go_both_ways() {
        let (files, postgres) = (end("out", None, Engine::File), end("warehouse", None, Engine::Postgres));
        let found = [Found::File("in/orders.csv.gz".to_owned()), Found::File("2024/orders.csv".to_owned())];
        let text = pipeline(&files, &postgres, &found, 2);
        assert!(text.contains("  orders:\n    kind: batch\n    from: { files: out, path: in/orders.csv.gz }\n    to: { sql: warehouse, table: orders, mode: replace }\n"));
        assert!(text.contains("  orders_2:\n    kind: batch\n    from: { files: out, path: \"2024/orders.csv\" }\n"), "{text}");
        let text = pipeline(&postgres, &files, &tables(&["public/true"]), 1);
        assert!(text.contains("to: { files: out, path: true.parquet }"), "{text}");
        assert_eq!(scalar("true"), "\"true\"");
    }
}
