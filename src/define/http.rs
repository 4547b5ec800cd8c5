//! HTTP: what connections need for it, which answers are read, and what fits together.

use super::connections::{Family, engine_of};
use super::inputs::{Ending, column_type, csv_dialect};
use super::pipeline::{CursorFrom, HttpBody, HttpSource, Paginate, PaginateBy};
use super::reader::Reader;
use crate::load::document::child;
use crate::load::file::{self, Format, HttpFormat};
use crate::load::shape::{Entries, Scalar, Size};

mod follow;
mod output;
mod settings;

pub use output::{changes, output};
pub use settings::settings;

/// Rows looked at to find columns when an input declares none.
const SAMPLE: usize = 1000;
/// Bytes of the largest JSON answer when an input does not say.
const MOST_BODY: u64 = 64 << 20;

/// Reads an input.
pub fn input(reader: &mut Reader<'_>, at: &str, said: &file::HttpInput) -> Option<HttpSource> {
    let connection = said.http.clone()?;
    engine_of(reader, &format!("{at}/http"), &connection, Family::Http);
    let path = path(reader, &format!("{at}/path"), said.path.as_ref()?)?;
    let query = query(reader, &format!("{at}/query"), said.query.as_ref())?;
    let body = body(reader, at, said, &path)?;
    let mut columns = Vec::new();
    for (name, ty) in said.columns.iter().flat_map(|entries| &entries.0) {
        let at = child(&format!("{at}/columns"), name);
        columns.extend(column_type(reader, &at, ty).map(|ty| (name.clone(), ty)));
    }
    let paginate = match &said.paginate {
        None => None,
        Some(said) => Some(paginate(reader, &format!("{at}/paginate"), said, &body)?),
    };
    if let Some(taken) = paginate.as_ref().and_then(|paginate| taken(paginate, &query)) {
        let message = format!("`{taken}` asks for pages, and cannot be a fixed parameter as well");
        let help = format!("remove `{taken}` here; `first` and `size` of `paginate` say where pages begin and how long they are");
        reader.error_at_key("http-paginate", &child(&format!("{at}/query"), taken), message, help);
    }
    let sample = said.sample.unwrap_or(if said.columns.is_none() { SAMPLE } else { 0 });
    if sample == 0 && columns.is_empty() && said.follow.is_none() && !reader.broken(&format!("{at}/columns")) {
        let message = "without a sample, nothing says which columns the rows have";
        reader.error("http-columns", &format!("{at}/sample"), message, "declare `columns`, or remove `sample`");
    }
    let max_body = said.max_body.as_ref().and_then(Size::read).unwrap_or(MOST_BODY);
    let follow = follow::follow(reader, at, said, paginate.as_ref(), &columns);
    let sample = if said.follow.is_some() { 0 } else { sample };
    Some(HttpSource { connection, path, query, body, paginate, columns, sample, max_body, follow })
}

/// A path below the URL of a connection.
fn path(reader: &mut Reader<'_>, at: &str, said: &str) -> Option<String> {
    let text = reader.text(at, said)?;
    check_path(reader, at, &text)?;
    Some(text)
}

fn check_path(reader: &mut Reader<'_>, at: &str, text: &str) -> Option<()> {
    let problem = if text.contains("://") || text.starts_with("//") {
        Some(("the path is a URL", "name the path below the connection's URL; another host needs a connection of its own"))
    } else if !text.starts_with('/') && !text.starts_with("{{") {
        Some(("the path does not begin with `/`", "write `/orders`: it is put behind the connection's URL"))
    } else if text.split(['/', '\\']).any(|part| part == "..") {
        Some(("the path leaves the connection's URL with `..`", "name the whole path, or point the connection somewhere else"))
    } else if text.contains(['?', '#']) && !text.contains("{{") {
        Some(("the path holds a query", "write parameters below `query:`, where they are escaped"))
    } else if text.contains(|letter: char| letter.is_control()) {
        Some(("the path holds a control character", "remove it"))
    } else {
        None
    };
    match problem {
        Some((message, help)) => {
            reader.error("http-path", at, message, help);
            None
        }
        None => Some(()),
    }
}

fn query(reader: &mut Reader<'_>, at: &str, said: Option<&Entries<Scalar>>) -> Option<Vec<(String, String)>> {
    let mut query = Vec::new();
    for (name, value) in said.iter().flat_map(|entries| &entries.0) {
        let at = child(at, name);
        let text = match value.0.as_str() {
            Some(text) => reader.text(&at, text)?,
            // As it is written: `1.10` stays `1.10`.
            None => reader.document.written(&at).map_or_else(|| value.0.to_string(), str::to_owned),
        };
        query.push((name.clone(), text));
    }
    Some(query)
}

fn body(reader: &mut Reader<'_>, at: &str, said: &file::HttpInput, path: &str) -> Option<HttpBody> {
    if said.follow.is_some() {
        return Some(HttpBody::Ndjson);
    }
    let ending = Ending::of(path);
    let format = said.format.unwrap_or(match ending.format {
        Some(Format::Ndjson) => HttpFormat::Ndjson,
        Some(Format::Csv) => HttpFormat::Csv,
        Some(Format::Parquet) | None => HttpFormat::Json,
    });
    let unused = [
        ("records", said.records.is_some() && format != HttpFormat::Json, "json"),
        ("max_body", said.max_body.is_some() && format != HttpFormat::Json, "json"),
        ("csv", said.csv.is_some() && format != HttpFormat::Csv, "csv"),
    ];
    for (key, _, word) in unused.into_iter().filter(|(_, unused, _)| *unused) {
        let message = format!("`{key}` is for `format: {word}`, and the format is another");
        reader.error_at_key("http-format", &format!("{at}/{key}"), message, format!("remove `{key}`, or write `format: {word}`"));
    }
    Some(match format {
        HttpFormat::Json => {
            let records = said.records.clone().unwrap_or_default();
            pointer(reader, &format!("{at}/records"), &records)?;
            HttpBody::Json(records)
        }
        HttpFormat::Ndjson => HttpBody::Ndjson,
        HttpFormat::Csv => HttpBody::Csv(csv_dialect(reader, at, said.csv.as_ref(), ending.tabs)),
    })
}

/// A JSON pointer is empty, or begins with a slash.
fn pointer(reader: &mut Reader<'_>, at: &str, text: &str) -> Option<()> {
    if text.is_empty() || text.starts_with('/') {
        return Some(());
    }
    let help = format!(
        "a JSON pointer begins with `/` and names one member after the other: `/{}`",
        text.trim_start_matches("$.").replace('.', "/")
    );
    reader.error("http-pointer", at, format!("`{text}` is no JSON pointer"), help);
    None
}

fn paginate(reader: &mut Reader<'_>, at: &str, said: &file::Paginate, body: &HttpBody) -> Option<Paginate> {
    use file::PaginateBy as By;
    let by = said.by?;
    let word = match by {
        By::Link => "link",
        By::Cursor => "cursor",
        By::Offset => "offset",
        By::Page => "page",
    };
    let unused = [
        ("next", said.next.is_some() && !matches!(by, By::Link | By::Cursor)),
        ("column", said.column.is_some() && by != By::Cursor),
        ("param", said.param.is_some() && by == By::Link),
        ("first", said.first.is_some() && by != By::Page),
        ("size_param", said.size_param.is_some() && said.size.is_none()),
    ];
    for (key, _) in unused.into_iter().filter(|(_, unused)| *unused) {
        let (message, help) = match key {
            "size_param" => ("`size_param` says how `size` is asked for, and there is no `size`".to_owned(), "add `size`".to_owned()),
            key => (format!("`{key}` means nothing in pages by {word}"), format!("remove `{key}`")),
        };
        reader.error_at_key("http-paginate", &format!("{at}/{key}"), message, help);
    }
    if let Some(next) = &said.next {
        pointer(reader, &format!("{at}/next"), next)?;
        if !matches!(body, HttpBody::Json(_)) {
            let message = "only a JSON answer has members that a pointer could name";
            reader.error("http-paginate", &format!("{at}/next"), message, "use the header `Link`, an offset or a page number");
            return None;
        }
    }
    let param = said.param.clone().unwrap_or_else(|| word.to_owned());
    let by = match (by, &said.next, &said.column) {
        (By::Link, None, _) => PaginateBy::LinkHeader,
        (By::Link, Some(next), _) => PaginateBy::Link(next.clone()),
        (By::Cursor, Some(next), None) => PaginateBy::Cursor { param, from: CursorFrom::Answer(next.clone()) },
        (By::Cursor, None, Some(column)) => {
            if matches!(body, HttpBody::Csv(_)) {
                let message = "rows of CSV have no members that could be a cursor";
                reader.error("http-paginate", &format!("{at}/column"), message, "use the header `Link`, an offset or a page number");
                return None;
            }
            PaginateBy::Cursor { param, from: CursorFrom::LastRow(column.clone()) }
        }
        (By::Cursor, ..) => {
            let message = "a cursor is one value: `next` in the answer, or the `column` of its last row";
            reader.error("http-paginate", at, message, "write `next: /next_cursor` or `column: id`");
            return None;
        }
        (By::Offset, ..) => PaginateBy::Offset(param),
        (By::Page, ..) => PaginateBy::Page(param, said.first.unwrap_or(1)),
    };
    let size = said.size.map(|size| (said.size_param.clone().unwrap_or_else(|| "limit".to_owned()), size));
    Some(Paginate { by, size })
}

/// The fixed parameter that pages are asked for with.
fn taken<'a>(paginate: &Paginate, query: &'a [(String, String)]) -> Option<&'a str> {
    let own = match &paginate.by {
        PaginateBy::Cursor { .. } | PaginateBy::LinkHeader | PaginateBy::Link(_) => None,
        PaginateBy::Offset(param) | PaginateBy::Page(param, _) => Some(param),
    };
    let size = paginate.size.as_ref().map(|(param, _)| param);
    query.iter().map(|(name, _)| name).find(|name| Some(*name) == own || Some(*name) == size).map(String::as_str)
}
