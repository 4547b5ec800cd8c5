//! `haul new NAME --from X --to Y`

mod discover;
mod text;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::define::pipeline::{Connection, Engine};
use crate::define::{self, Given};
use crate::diagnostic::{Diagnostic, SourceText};
use crate::load::Project;
use crate::load::project::PIPELINES;
use crate::plan;
use crate::secret::Secret;

use super::init::{shown, write_new};
use super::{CliError, Exit, Global, project, render, signals};
use text::End;

/// Arguments of `haul new`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The pipeline's name
    name: String,
    /// Where its rows come from: a connection of haul.yaml, or a URL
    #[arg(long, value_name = "CONNECTION|URL")]
    from: String,
    /// Where its rows go: a connection of haul.yaml, or a URL
    #[arg(long, value_name = "CONNECTION|URL")]
    to: String,
}

/// Writes a pipeline with one batch stage for each table, or file, that is found in the source, or for all keys of a Redis.
pub(super) fn run(global: &Global, args: Args) -> Result<Exit, CliError> {
    let project = project::open(global)?;
    let depth = check_name(&args.name)?;
    let path = project.base.join(PIPELINES).join(format!("{}.yaml", args.name));
    if path.exists() {
        let message = format!("there is a pipeline `{}` already: {}", args.name, shown(&path));
        return Err(CliError::new(Exit::Environment, message).help("give another name, or remove that file"));
    }
    let (from, source) = end(&project, "source", &args.from)?;
    let (to, _) = end(&project, "target", &args.to)?;
    fit(&from, &to)?;
    let discover = async { Ok(discover::discover(&source, &project.base).await?) };
    let found = signals::block_on(|stop| async move { stop.unless(discover).await })??;
    if found.usable.is_empty() {
        let help = "a pipeline can be written by hand as well; see the example that `haul init` writes";
        return Err(CliError::new(Exit::Environment, format!("nothing to read was found in `{}`", from.connection)).help(help));
    }
    let text = text::pipeline(&from, &to, &found.usable, depth);
    let shown_path = shown(path.strip_prefix(&project.base).unwrap_or(&path));
    let source = Arc::new(SourceText { path: shown_path.clone(), text });
    let checked = plan::check(&args.name, &source, &project);
    if checked.pipeline.is_none() {
        return Err(CliError::refused(checked.diagnostics, Exit::Definition));
    }
    write_new(&path, &source.text)?;
    tell(global, &args.name, &shown_path, &[&from, &to], &found);
    Ok(Exit::Done)
}

/// Keys go to another Redis as they are. Between keys and rows only people know which key holds what.
fn fit(from: &End, to: &End) -> Result<(), CliError> {
    let (message, line) = match (from.engine == Engine::Redis, to.engine == Engine::Redis) {
        (true, false) => (
            format!("keys of `{}` only go to another Redis as they are; as rows, the pipeline says how keys hold them", from.connection),
            format!("from: {{ redis: {}, hash: \"user:{{{{ id }}}}\" }}", from.connection),
        ),
        (false, true) => (
            format!("rows become keys of `{}` as the pipeline says, and what is found does not tell", to.connection),
            format!("to: {{ redis: {}, hash: \"user:{{{{ id }}}}\" }}", to.connection),
        ),
        _ => return Ok(()),
    };
    Err(CliError::new(Exit::Definition, message).help(format!("write the stage by hand, with `{line}`; docs/redis.md has all shapes")))
}

fn tell(global: &Global, name: &str, path: &str, ends: &[&End], found: &discover::Discovered) {
    let variables: Vec<&str> = ends.iter().filter_map(|end| end.variable).collect();
    if global.json {
        let stages = found.usable.len();
        render::json(&serde_json::json!({ "written": [path], "stages": stages, "skipped": found.skipped, "environment": variables }));
        return;
    }
    let mut lines = vec![format!("wrote {path}: {}", render::words::counted(found.usable.len() as u64, "stage"))];
    lines.extend(found.skipped.iter().map(|skipped| format!("left out {skipped}: a pipeline cannot write its name")));
    for variable in variables {
        lines.push(format!("the URL holds a password, which belongs into no file that git sees: put {variable}=URL into .env"));
    }
    lines.push(format!("next: haul plan {name}"));
    render::out(&lines.join("\n"));
}

/// How many folders below the project the pipeline's file is.
fn check_name(name: &str) -> Result<usize, CliError> {
    let fits = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
    };
    if name.split('/').all(fits) {
        return Ok(name.split('/').count());
    }
    Err(CliError::new(Exit::Definition, format!("`{name}` cannot be the name of a pipeline"))
        .help("names are letters, digits, `-` and `_`; a `/` makes a folder"))
}

/// One end, as the file will say it and as it is reached now.
fn end(project: &Project, name: &'static str, given: &str) -> Result<(End, Connection), CliError> {
    if !given.contains(':') {
        let connection = shared(project, given)?;
        let engine = connection.engine.filter(|engine| *engine != Engine::Http).ok_or_else(|| unknown_engine(given))?;
        return Ok((End { connection: given.to_owned(), url: None, variable: None, engine }, connection));
    }
    let engine = engine_of(given)?;
    let variable = if name == "source" { "SOURCE_URL" } else { "TARGET_URL" };
    let hide = url::Url::parse(given).is_ok_and(|url| url.password().is_some());
    let said = if hide { format!("{{{{ env.{variable} }}}}") } else { given.to_owned() };
    let connection = Connection {
        name: name.to_owned(),
        engine: Some(engine),
        url: Secret::new(given.to_owned()),
        max_connections: 4,
        http: Default::default(),
        at: String::new(),
    };
    Ok((End { connection: name.to_owned(), url: Some(said), variable: hide.then_some(variable), engine }, connection))
}

fn engine_of(url: &str) -> Result<Engine, CliError> {
    match url.split_once(':').map(|(scheme, _)| scheme) {
        Some("postgres" | "postgresql") => Ok(Engine::Postgres),
        Some("sqlite") => Ok(Engine::Sqlite),
        Some("file") => Ok(Engine::File),
        Some("s3") => Ok(Engine::S3),
        Some("redis" | "rediss") => Ok(Engine::Redis),
        scheme => Err(unknown_engine(scheme.unwrap_or_default())),
    }
}

fn unknown_engine(what: &str) -> CliError {
    CliError::new(Exit::Definition, format!("`{what}` names no engine that haul knows"))
        .help("URLs begin with `postgres://`, `sqlite:`, `redis://`, `rediss://`, `file:` or `s3://`")
}

/// A connection of the project, resolved the way a run would resolve it: through a pipeline that uses it.
fn shared(project: &Project, name: &str) -> Result<Connection, CliError> {
    let word = serde_json::Value::from(name);
    let probe = |from: &str| {
        let text = format!("stages:\n  probe:\n    kind: batch\n    from: {{ {from} }}\n    to: {{ discard: \"a probe\" }}\n");
        let source = Arc::new(SourceText { path: "haul.yaml".to_owned(), text });
        let given = Given { params: BTreeMap::new(), env: &|name| std::env::var(name).ok(), run: None };
        define::resolve("probe", &source, project, &given)
    };
    let families = [format!("sql: {word}, table: probe"), format!("files: {word}, path: probe.csv"), format!("redis: {word}, hash: probe")];
    let other_family = |problems: &[Diagnostic]| problems.iter().any(|problem| problem.code == "connection-family");
    let mut resolved = probe(&families[0]);
    for family in &families[1..] {
        resolved = resolved.or_else(|problems| if other_family(&problems) { probe(family) } else { Err(problems) });
    }
    let mut resolved = resolved.map_err(|problems| {
        let first = problems.into_iter().next();
        let error = CliError::new(Exit::Definition, first.as_ref().map_or("the project has problems", |problem| &problem.message));
        first.iter().flat_map(|problem| &problem.help).fold(error, |error, help| error.help(help.clone()))
    })?;
    resolved.pipeline.connections.remove(name).ok_or_else(|| CliError::new(Exit::Definition, format!("there is no connection `{name}`")))
}
