//! Connections: names, URLs and the engines behind them.

use std::collections::{BTreeMap, BTreeSet};

use super::graph::items;
use super::http;
use super::pipeline::{Connection, Engine};
use super::reader::Reader;
use crate::diagnostic::Diagnostic;
use crate::diagnostic::suggest::{did_you_mean, known_names};
use crate::load::document::child;
use crate::load::file::{self, Input, Output, Rows};
use crate::load::template::is_template;
use crate::load::{Document, Project};
use crate::secret::Secret;

/// The URL schemes of this version.
const SCHEMES: &[(&str, Engine)] = &[
    ("postgres", Engine::Postgres),
    ("postgresql", Engine::Postgres),
    ("sqlite", Engine::Sqlite),
    ("file", Engine::File),
    ("s3", Engine::S3),
    ("redis", Engine::Redis),
    ("rediss", Engine::Redis),
    ("http", Engine::Http),
    ("https", Engine::Http),
];

/// Schemes that haul is meant to know and does not in this version.
const LATER: &[&str] = &["mysql", "mariadb"];

/// Connections open at the same time when a connection does not say.
const MAX_CONNECTIONS: u32 = 8;

/// Reads the connections of the file and those of the project that its stages name. Rendered, a connection that no stage names is left
/// out: its environment need not be there.
pub fn read(reader: &mut Reader<'_>, said: &file::Pipeline, shared: &file::Project, project: &Project) -> BTreeMap<String, Connection> {
    let used = used(said);
    let document = reader.document;
    let mut connections = BTreeMap::new();
    if let (Some(entries), Some(shared_document)) = (&shared.connections, &project.document) {
        for (name, said) in entries.0.iter().filter(|(name, _)| used.contains(name.as_str())) {
            let problems = reader.problems.len();
            let connection = one(reader, shared_document, name, said);
            // In a check the project file's problems are its own; see `check_project`.
            if !reader.renders() {
                reader.problems.truncate(problems);
            }
            // One that has a problem is there all the same: its uses are not unknown.
            reader.more_connections |= connection.is_none();
            connections.extend(connection.map(|connection| (name.clone(), connection)));
        }
    }
    for (name, said) in said.connections.iter().flat_map(|entries| &entries.0) {
        if !reader.renders() || used.contains(name.as_str()) {
            connections.extend(one(reader, document, name, said).map(|connection| (name.clone(), connection)));
        }
    }
    connections
}

/// Checks the connections and the state URL of a project file.
pub fn check_project(reader: &mut Reader<'_>, said: &file::Project) {
    let document = reader.document;
    for (name, said) in said.connections.iter().flat_map(|entries| &entries.0) {
        let _ = one(reader, document, name, said);
    }
    if let Some(state) = &said.state
        && let Some(text) = reader.text("/state", state)
    {
        match engine(&text) {
            Ok(Some(Engine::File | Engine::S3 | Engine::Redis | Engine::Http)) => {
                reader.error(
                    "connection-url",
                    "/state",
                    "runs are recorded in a database",
                    "write `sqlite:` and a path, or `postgres://…`",
                );
            }
            Ok(_) => {}
            Err((message, help)) => reader.error("connection-url", "/state", message, help),
        }
    }
}

/// Warns of connections of the file that no stage names.
pub fn unused(reader: &mut Reader<'_>, said: &file::Pipeline) {
    if !reader.reports_unused("unknown-connection") {
        return;
    }
    let used = used(said);
    for (name, _) in said.connections.iter().flat_map(|entries| &entries.0) {
        if !used.contains(name.as_str()) {
            let at = child("/connections", name);
            reader.warn_at_key("unused-connection", &at, format!("no stage uses the connection `{name}`"), "use it, or remove it");
        }
    }
}

/// What a family needs of the connection it names.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `sql:`
    Sql,
    /// `files:`
    Files,
    /// `redis:`
    Redis,
    /// `http:`
    Http,
}

/// Looks up the connection that a family key names, and checks that its engine serves the family. The engine is `None` when it is not
/// known yet, or when there is a problem, which has been reported.
pub fn engine_of(reader: &mut Reader<'_>, pointer: &str, name: &str, family: Family) -> Option<Engine> {
    let Some(connection) = reader.connections.get(name) else {
        let at = child("/connections", name);
        if !reader.more_connections && !reader.broken(&at) && reader.document.get(&at).is_none() {
            let known = reader.connections.keys().map(String::as_str);
            let help = known_names(name, "connections", known);
            let how = "connections are declared below `connections:` of this file or of haul.yaml";
            let problem = Diagnostic::error("unknown-connection", format!("there is no connection `{name}`"));
            let problem = reader.document.at_value(problem, pointer, "").help(help).help(how);
            reader.problems.push(problem);
        }
        return None;
    };
    let engine = connection.engine?;
    let (serves, wanted) = match family {
        Family::Sql => (matches!(engine, Engine::Postgres | Engine::Sqlite), "`sql` needs a database"),
        Family::Files => (matches!(engine, Engine::File | Engine::S3), "`files` needs a folder or a bucket"),
        Family::Redis => (engine == Engine::Redis, "`redis` needs a Redis server"),
        Family::Http => (engine == Engine::Http, "`http` needs an HTTP API"),
    };
    if serves {
        return Some(engine);
    }
    let other = match engine {
        Engine::Postgres | Engine::Sqlite => "sql",
        Engine::File | Engine::S3 => "files",
        Engine::Redis => "redis",
        Engine::Http => "http",
    };
    let message = format!("{wanted}, and the connection `{name}` is {}", engine_words(engine));
    let url = format!("{}/url", connection.at);
    let problem = reader.document.at_value(Diagnostic::error("connection-family", message), pointer, "");
    let problem = match reader.document.place(&url) {
        Some(place) => problem.label(&reader.document.source, place.value.clone(), "its URL"),
        None => problem,
    };
    reader.problems.push(problem.help(format!("write `{other}: {name}`, or name another connection")));
    None
}

fn engine_words(engine: Engine) -> &'static str {
    match engine {
        Engine::Postgres => "a PostgreSQL database",
        Engine::Sqlite => "a SQLite database",
        Engine::File => "a folder of files",
        Engine::S3 => "a bucket of files",
        Engine::Redis => "a Redis server",
        Engine::Http => "an HTTP API",
    }
}

fn one(reader: &mut Reader<'_>, document: &Document, name: &str, said: &file::Connection) -> Option<Connection> {
    let at = child("/connections", name);
    let pointer = format!("{at}/url");
    let url = reader.text_of(document, &pointer, said.url.as_ref()?)?;
    let engine = match engine(&url) {
        Ok(engine) => engine,
        Err((message, help)) => {
            let problem = document.at_value(Diagnostic::error("connection-url", message), &pointer, "");
            reader.problems.push(problem.help(help));
            None
        }
    };
    let max_connections = said.max_connections.unwrap_or(MAX_CONNECTIONS);
    let http = http::settings(reader, document, &at, said, (&url, engine))?;
    Some(Connection { name: name.to_owned(), engine, url: Secret::new(url), max_connections, http, at })
}

/// The engine of a URL, by its scheme; `None` when a template hides it. The error is a message, which shows no more of the URL than its
/// scheme, and a way out.
pub fn engine(url: &str) -> Result<Option<Engine>, (String, String)> {
    let visible = ["{{", "{%", "{#"].iter().filter_map(|tag| url.find(tag)).min().map_or(url, |end| &url[..end]);
    let known = || SCHEMES.iter().map(|(scheme, _)| *scheme);
    let forms =
        "write `postgres://user@host/database`, `sqlite:path`, `file:folder`, `s3://bucket/prefix`, `redis://host` or `https://host/path`";
    let Some((scheme, rest)) = visible.split_once(':') else {
        return if is_template(url) { Ok(None) } else { Err(("the URL has no scheme".to_owned(), forms.to_owned())) };
    };
    let Some((_, engine)) = SCHEMES.iter().find(|(known, _)| *known == scheme) else {
        if LATER.contains(&scheme) {
            return Err((format!("connections to `{scheme}:` are not in this version"), forms.to_owned()));
        }
        let shown = if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)) { scheme } else { "…" };
        let help = did_you_mean(scheme, known()).map_or_else(|| forms.to_owned(), |near| format!("did you mean `{near}:`?"));
        return Err((format!("unknown scheme `{shown}:` in the URL"), help));
    };
    let whole = visible.len() == url.len();
    match engine {
        Engine::Sqlite if rest == ":memory:" => {
            Err(("a SQLite database in memory would be gone with each connection".to_owned(), "write `sqlite:` and a path".to_owned()))
        }
        Engine::Sqlite | Engine::File if whole && rest.trim_start_matches('/').is_empty() && rest.len() != 1 => {
            Err((format!("the URL names no {}", if *engine == Engine::File { "folder" } else { "file" }), forms.to_owned()))
        }
        Engine::Postgres | Engine::S3 | Engine::Redis | Engine::Http if whole && (!rest.starts_with("//") || rest.len() == 2) => {
            Err((format!("the `{scheme}:` URL names no {}", if *engine == Engine::S3 { "bucket" } else { "host" }), forms.to_owned()))
        }
        engine => Ok(Some(*engine)),
    }
}

/// The names of the connections that stages use.
fn used(said: &file::Pipeline) -> BTreeSet<&str> {
    let mut used = BTreeSet::new();
    for (_, stage) in said.stages.iter().flat_map(|entries| &entries.0) {
        used_by(stage.rows(), &mut used);
        if let file::Stage::Cache(stage) = stage {
            used.extend(stage.load.as_ref().and_then(|load| load.sql.as_deref()));
            used.extend(stage.home.as_ref().and_then(|home| home.redis.as_deref()));
        }
    }
    used
}

fn used_by<'a>(stage: Rows<'a>, used: &mut BTreeSet<&'a str>) {
    for (_, input) in items(stage.from, "") {
        match input {
            Input::Sql(input) => used.extend(input.sql.as_deref()),
            Input::Files(input) => used.extend(input.files.as_deref()),
            Input::Redis(input) => used.extend(input.redis.as_deref()),
            Input::Http(input) => used.extend(input.http.as_deref()),
            Input::Generate(_) | Input::Stage(_) | Input::Unclear => {}
        }
    }
    for (_, output) in items(stage.to, "") {
        match output {
            Output::Sql(output) => used.extend(output.sql.as_deref()),
            Output::Files(output) => used.extend(output.files.as_deref()),
            Output::Redis(output) => used.extend(output.redis.as_deref()),
            Output::Http(output) => used.extend(output.http.as_deref()),
            Output::Feed(_) | Output::Discard(_) | Output::Cache(_) | Output::Unclear => {}
        }
    }
    let rejects = stage.rejects.and_then(|rejects| rejects.to.as_ref());
    used.extend(rejects.and_then(|to| to.files.as_deref()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_name_engines_and_secrets_stay_hidden() {
        assert_eq!(engine("postgres://u:p@h/d"), Ok(Some(Engine::Postgres)));
        assert_eq!(engine("sqlite:a.db"), Ok(Some(Engine::Sqlite)));
        assert_eq!(engine("file:data"), Ok(Some(Engine::File)));
        assert_eq!(engine("file:///data"), Ok(Some(Engine::File)));
        assert_eq!(engine("s3://bucket/{{ params.x }}"), Ok(Some(Engine::S3)));
        assert_eq!(engine("rediss://u:p@h:1/2?ca=x"), Ok(Some(Engine::Redis)));
        assert_eq!(engine("https://api.example.com/v1"), Ok(Some(Engine::Http)));
        assert_eq!(engine("{{ env.URL }}"), Ok(None));
        for wrong in [
            "warehouse.db",
            "sqlite::memory:",
            "sqlite:",
            "file:",
            "postgres:",
            "s3://",
            "redis:",
            "redis://",
            "http:",
            "mysql://h/d",
            "postgre://h/d",
        ] {
            assert!(engine(wrong).is_err(), "{wrong}");
        }
        let (message, help) = engine("hunter2 secret:word").unwrap_err();
        assert!(!message.contains("hunter2") && !help.contains("hunter2"), "{message}");
    }
}
