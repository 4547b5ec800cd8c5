//! Requests that carry rows.

use super::{check_path, query};
use crate::define::connections::{Family, engine_of};
use crate::define::pipeline::{HttpMethod, HttpPayload, HttpSink};
use crate::define::reader::Reader;
use crate::load::file;
use crate::load::shape::Size;

/// Rows of a request when an output does not say.
const BATCH_ROWS: u64 = 500;
/// Bytes of a request when an output does not say.
const BATCH_BYTES: u64 = 1 << 20;

/// What is wrong with an output for changes: where, why, and the way out.
pub fn changes(sink: &HttpSink) -> Option<(&'static str, &'static str, &'static str)> {
    let placed = sink.payload == HttpPayload::Object && sink.path.constant().is_none();
    match (&sink.payload, sink.method) {
        (HttpPayload::Template(_), _) => Some((
            "template",
            "a template cannot say what happened to a row",
            "write `body: object` for one change a request, or `body: ndjson`",
        )),
        (_, HttpMethod::Patch) => Some((
            "method",
            "changes are sent as events, or each to the place of its row",
            "write `method: post` for events, or `method: put` with `body: object` and the key's columns in the path",
        )),
        (_, HttpMethod::Put) if !placed => Some((
            "method",
            "with `put` each change goes to the place of its row, and here all have one place",
            "write `body: object` and a path with the columns of the table's key, or `method: post` for events",
        )),
        _ => None,
    }
}

/// Reads an output.
pub fn output(reader: &mut Reader<'_>, at: &str, said: &file::HttpOutput) -> Option<HttpSink> {
    let connection = said.http.clone()?;
    engine_of(reader, &format!("{at}/http"), &connection, Family::Http);
    let path_at = format!("{at}/path");
    let path = reader.over_rows(&path_at, said.path.as_ref()?, "path")?;
    check_path(reader, &path_at, &path.to_string())?;
    let query = query(reader, &format!("{at}/query"), said.query.as_ref())?;
    let method = match said.method {
        None | Some(file::HttpMethod::Post) => HttpMethod::Post,
        Some(file::HttpMethod::Put) => HttpMethod::Put,
        Some(file::HttpMethod::Patch) => HttpMethod::Patch,
    };
    let payload = match (said.body, &said.template) {
        (Some(_), Some(_)) => {
            let message = "`body` and `template` both say what a request holds";
            reader.error_at_key("http-body", &format!("{at}/template"), message, "remove one of them");
            return None;
        }
        (None, Some(text)) => HttpPayload::Template(reader.over_rows(&format!("{at}/template"), text, "template")?),
        (None | Some(file::HttpPayload::Ndjson), None) => HttpPayload::Ndjson,
        (Some(file::HttpPayload::Array), None) => HttpPayload::Array,
        (Some(file::HttpPayload::Object), None) => HttpPayload::Object,
    };
    let many = matches!(payload, HttpPayload::Ndjson | HttpPayload::Array);
    if many && path.constant().is_none() {
        let message = "a column stands in the path, and a request holds many rows";
        reader.error("http-body", &path_at, message, "write `body: object` for one row a request, or a path without columns");
    }
    if !many && said.batch.is_some() {
        let message = "`batch` says how many rows a request holds, and here it is one";
        reader.error_at_key("http-body", &format!("{at}/batch"), message, "remove `batch`, or write `body: array` or `body: ndjson`");
    }
    let batch = said.batch.as_ref();
    let bytes = batch.and_then(|batch| batch.bytes.as_ref()).and_then(Size::read).unwrap_or(BATCH_BYTES);
    if bytes == 0 {
        reader.error("out-of-range", &format!("{at}/batch/bytes"), "the size is too small to work with", "the least is 1B");
    }
    let rows = if many { batch.and_then(|batch| batch.rows).unwrap_or(BATCH_ROWS) } else { 1 };
    Some(HttpSink { connection, path, query, method, payload, rows, bytes, changes: false })
}
