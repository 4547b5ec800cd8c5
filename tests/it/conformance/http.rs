//! Rows sent to an API and read from it again: what is promised to a server that heeds the keys of requests, and answers as servers do. Nothing can
//! be read back from such a sink, and what a writer that goes away has sent cannot be taken back.

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use haul::connectors::http::Api;
use haul::data::Type;
use haul::define::pipeline::{HttpBody, HttpMethod, HttpPayload, HttpSettings, HttpSink, HttpSource, WriteMode};
use haul::load::template::{Holes, KeyTemplate};

use super::loading::{
    a_checkpoint_from_another_place, a_newer_worker, a_read_that_is_stopped, committing_twice, going_on_from_a_checkpoint,
    resuming_after_a_part, runs_after_each_other,
};
use super::values::{a_cell_of_100_mib, a_thousand_columns, awkward_values, names_of_every_kind, no_rows, one_column};
use super::{System, connection, declared, every_connector, folder};
use crate::support::web::{Asked, Web, answer};

mod values {
    use super::*;

    every_connector!(of [lines]: awkward_values, no_rows, one_column, a_thousand_columns, a_cell_of_100_mib, names_of_every_kind,
        a_read_that_is_stopped);
}

mod promises {
    use super::*;

    every_connector!(of [lines, misbehaving]: resuming_after_a_part, committing_twice, a_newer_worker, going_on_from_a_checkpoint,
        a_checkpoint_from_another_place, runs_after_each_other);
}

fn lines() -> System {
    system(|_, _| None)
}

/// Every other request that carries rows meets one fault or another, before they are taken or behind that.
fn misbehaving() -> System {
    system(|asked, out| {
        if asked.method == "GET" {
            return None;
        }
        match asked.number % 12 {
            1 => Some(answer(out, 429, &[("Retry-After", "0")], "too many")),
            3 => Some(answer(out, 500, &[], "broken")),
            5 => Some(answer(out, 409, &[], "still at it")),
            7 => Some(Ok(())),
            9 => Some(answer(out, 503, &[], "")),
            _ => None,
        }
    })
}

/// A server that takes the rows of each key once, and gives them all. `fault` may answer first; what it answers has not been heard.
fn system(fault: impl Fn(&Asked, &mut TcpStream) -> Option<std::io::Result<()>> + Send + Sync + 'static) -> System {
    let taken = Mutex::new((BTreeSet::new(), Vec::new()));
    let web = Web::start(move |asked, out| {
        if let Some(answered) = fault(asked, out) {
            return answered;
        }
        let mut taken = taken.lock().expect("the rows");
        let (keys, rows) = &mut *taken;
        if asked.method == "GET" {
            return answer(out, 200, &[("Content-Type", "application/x-ndjson")], &rows);
        }
        if keys.insert(asked.header("idempotency-key").to_owned()) {
            rows.extend_from_slice(&asked.body);
        }
        // Of some requests the rows are taken and nobody hears of it.
        if asked.number % 12 == 11 { Ok(()) } else { answer(out, 200, &[], "") }
    });
    let mut to = connection(&web.url());
    to.http = HttpSettings { allow_private: true, ..HttpSettings::default() };
    let api = Api::new(&to).expect("a server's URL");
    let (place, reading) = (folder(), Arc::clone(&api));
    let base = place.path().to_owned();
    System {
        sink: Box::new(move |_| {
            let (connection, path, query) = ("c".to_owned(), path(), Vec::new());
            let (method, payload) = (HttpMethod::Post, HttpPayload::Ndjson);
            api.sink(&HttpSink { connection, path, query, method, payload, rows: 70, bytes: 1 << 20, changes: false }, &base)
        }),
        source: Box::new(move |schema| {
            reading.source(&HttpSource {
                connection: "c".to_owned(),
                path: "/rows".to_owned(),
                query: Vec::new(),
                body: HttpBody::Ndjson,
                paginate: None,
                columns: declared(schema).into_iter().collect(),
                sample: 1000,
                max_body: 1 << 30,
                follow: None,
            })
        }),
        modes: vec![WriteMode::Append],
        // As in a file of such lines, JSON's null is read as NULL.
        lacks: |ty| *ty == Type::Json,
        reads_back: false,
        _place: Box::new(place),
    }
}

fn path() -> KeyTemplate {
    let holes = Holes::cut("/rows").expect("a path");
    holes.fill(&holes.text).expect("a path")
}
