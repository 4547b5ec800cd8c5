//! Reads `notify:` of a project file, and renders what is sent.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::conform;
use super::reader::{Mode, Reader};
use super::resolve::{Given, RunFacts, context};
use crate::diagnostic::Diagnostic;
use crate::load::Project;
use crate::load::document::child;
use crate::load::file::{self, Occasion};
use crate::load::template::Event;
use crate::secret::Secret;

/// Something that is worth telling somebody.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Notice {
    /// What it is.
    pub occasion: Occasion,
    /// When it happened, in milliseconds since 1970.
    pub at_ms: i64,
    /// The pipeline.
    pub pipeline: String,
    /// The run.
    pub run: RunFacts,
    /// The stage that failed; empty for a recovery.
    pub stage: String,
    /// What happened.
    pub message: String,
    /// The way out, when there is one.
    pub help: String,
}

/// One request that tells somebody.
#[derive(Clone, Debug)]
pub struct Request {
    /// Which of the project's notifications it is, from 0.
    pub place: usize,
    /// Where it goes.
    pub url: Secret<String>,
    /// Names and values.
    pub headers: Vec<(String, Secret<String>)>,
    /// What is sent.
    pub body: Secret<String>,
    /// What it is: a media type.
    pub content_type: &'static str,
}

/// Checks `notify:` of a project file.
pub(super) fn check(reader: &mut Reader<'_>, said: &[file::Notify]) {
    for (place, said) in said.iter().enumerate() {
        let _ = read(reader, place, said, &Value::Null);
    }
}

/// The requests that a notice asks for.
pub fn requests(project: &Project, env: &dyn Fn(&str) -> Option<String>, notice: &Notice) -> Result<Vec<Request>, Vec<Diagnostic>> {
    let Some(document) = &project.document else { return Ok(Vec::new()) };
    let said: file::Project = serde_json::from_value(conform::project().conform(document).value).unwrap_or_default();
    let said = said.notify.unwrap_or_default();
    let mut names = Reader::of_project(document, &[], Mode::Check);
    check(&mut names, &said);
    let kind = if notice.occasion == Occasion::Failure { "failure" } else { "recovery" };
    let given = Given { params: BTreeMap::new(), env, run: Some(notice.run.clone()) };
    let env: Vec<String> = names.env.into_iter().collect();
    let mut context = context(&notice.pipeline, project, &given, &env, BTreeMap::new());
    context.event =
        Some(Event { kind: kind.to_owned(), stage: notice.stage.clone(), message: notice.message.clone(), help: notice.help.clone() });
    let all = json!({
        "event": kind, "pipeline": notice.pipeline, "run": notice.run.id, "scheduled_at": notice.run.scheduled_at,
        "stage": notice.stage, "message": notice.message, "help": notice.help,
    });
    let mut reader = Reader::of_project(document, &[], Mode::Render(&context));
    let wanted = said.iter().enumerate().filter(|(_, said)| said.on.as_ref().is_none_or(|on| on.contains(&notice.occasion)));
    let requests: Vec<Request> = wanted.filter_map(|(place, said)| read(&mut reader, place, said, &all)).collect();
    if reader.problems.is_empty() { Ok(requests) } else { Err(reader.problems) }
}

fn read(reader: &mut Reader<'_>, place: usize, said: &file::Notify, all: &Value) -> Option<Request> {
    let at = format!("/notify/{place}");
    let url_at = format!("{at}/url");
    let url = said.url.as_ref().and_then(|url| reader.text(&url_at, url))?;
    let known = ["https://", "http://"].iter().any(|scheme| url.starts_with(scheme));
    if !known && !begins_with_template(&url) {
        reader.error("notify-url", &url_at, "the URL is not one of HTTP", "write `https://…`, or a template that gives it");
        return None;
    }
    let mut headers = Vec::new();
    for (name, value) in said.headers.iter().flat_map(|entries| &entries.0) {
        let header_at = child(&format!("{at}/headers"), name);
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') || name.is_empty() {
            reader.error_at_key("notify-header", &header_at, format!("`{name}` is no name of a header"), "write letters, digits and `-`");
        }
        let value = reader.text(&header_at, value)?;
        headers.push((name.clone(), Secret::new(value)));
    }
    let (body, content_type) = match &said.body {
        None => (all.to_string(), "application/json"),
        Some(body) if body.0.is_string() => {
            (message(reader, &format!("{at}/body"), &body.0)?.as_str()?.to_owned(), "text/plain; charset=utf-8")
        }
        Some(body) => (message(reader, &format!("{at}/body"), &body.0)?.to_string(), "application/json"),
    };
    Some(Request { place, url: Secret::new(url), headers, body: Secret::new(body), content_type })
}

/// A value with its texts rendered.
fn message(reader: &mut Reader<'_>, at: &str, value: &Value) -> Option<Value> {
    Some(match value {
        Value::String(text) => Value::String(reader.message(at, text)?),
        Value::Array(items) => {
            let items = items.iter().enumerate().map(|(index, item)| message(reader, &format!("{at}/{index}"), item));
            Value::Array(items.collect::<Option<_>>()?)
        }
        Value::Object(entries) => {
            let entries = entries.iter().map(|(key, value)| Some((key.clone(), message(reader, &child(at, key), value)?)));
            Value::Object(entries.collect::<Option<_>>()?)
        }
        other => other.clone(),
    })
}

fn begins_with_template(url: &str) -> bool {
    url.trim_start().starts_with("{{") || url.trim_start().starts_with("{%")
}
