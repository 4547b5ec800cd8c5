//! What is read: every kind of page and body, over servers that fail now and then.

use std::io::{self, Write};
use std::net::TcpStream;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::{KILLS, each_once, objects, project, rows, run_until_asked};
use crate::support::web::{Asked, Web, answer, cut, json};
use crate::support::{dice, kills};

/// Rows of the server.
const COUNT: usize = 103;
/// Rows of a page when nobody says.
const PAGE: usize = 10;

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).expect("gzip");
    encoder.finish().expect("gzip")
}

/// The rows behind the first `before`.
fn page(before: usize, size: usize) -> Vec<String> {
    objects(before + 1..=(before + size).min(COUNT))
}

fn array(rows: &[String]) -> String {
    format!("[\n  {}\n]", rows.join(",\n  "))
}

/// Every way to give rows, by the path.
fn api(asked: &Asked, out: &mut TcpStream) -> io::Result<()> {
    assert!(asked.method == "GET" && asked.body.is_empty());
    let after = asked.number_of("after", 0);
    let next = after + PAGE;
    match asked.path.as_str() {
        "/v1/array" => json(out, &array(&page(0, COUNT))),
        "/v1/inside" => json(out, &format!(r#"{{"meta": {{"data": [1, "]"]}}, "data": {{"a/b": {}}}}}"#, array(&page(0, COUNT)))),
        "/v1/link" => {
            let next_link = format!("<?after={next}&token=s3cret>; rel=\"next\", </v1/link>; rel=\"first\"");
            let links: &[(&str, &str)] = if next < COUNT { &[("Link", &next_link)] } else { &[] };
            assert_eq!(asked.query["token"], "s3cret", "the input's parameters are asked for on every page");
            answer(out, 200, links, array(&page(after, PAGE)))
        }
        "/v1/body_link" => {
            let link = if next < COUNT { format!("\"/v1/body_link?after={next}\"") } else { "null".to_owned() };
            json(out, &format!(r#"{{"items": {}, "links": {{"next": {link}}}}}"#, array(&page(after, PAGE))))
        }
        "/v1/cursor" => {
            let cursor = if next < COUNT { format!("\"{next}\"") } else { "\"\"".to_owned() };
            json(out, &format!(r#"{{"next": {cursor}, "items": {}}}"#, array(&page(after, PAGE))))
        }
        "/v1/last.ndjson" => answer(out, 200, &[("Content-Encoding", "gzip")], gzip(&(page(after, PAGE).join("\n") + "\n"))),
        "/v1/offset" => json(out, &array(&page(asked.number_of("offset", 0), asked.number_of("limit", 999).min(PAGE)))),
        "/v1/page.csv" => {
            let before = (asked.number_of("page", 0) - 1) * 50;
            let rows = (before + 1..=(before + 50).min(COUNT)).map(|id| format!("{id},\"{}\"\n", super::name(id).replace('"', "\"\"")));
            answer(out, 200, &[("Content-Type", "text/csv")], format!("id,name\n{}", rows.collect::<String>()))
        }
        "/v1/nothing" => answer(out, 204, &[], ""),
        other => answer(out, 404, &[], other),
    }
}

#[test]
fn every_page_of_every_kind_arrives_once() {
    let web = Web::start(api);
    let kinds = [
        ("whole", "path: /array"),
        ("inside", "path: /inside, records: /data/a~1b"),
        ("link", "path: /link, query: { token: s3cret }, paginate: { by: link }"),
        ("body_link", "path: /body_link, records: /items, paginate: { by: link, next: /links/next }"),
        (
            "cursor",
            "path: /cursor, records: /items, paginate: { by: cursor, param: after, next: /next }, columns: { name: text, id: int64 }",
        ),
        ("last", "path: /last.ndjson, paginate: { by: cursor, param: after, column: id }"),
        ("by_offset", "path: /offset, paginate: { by: offset, size: 25 }"),
        ("by_page", "path: /page.csv, paginate: { by: page }"),
    ];
    let stages: String = kinds
        .iter()
        .map(|(name, from)| {
            format!("  {name}:\n    kind: batch\n    from: {{ http: api, {from} }}\n    to: {{ sql: db, table: {name}, mode: replace }}\n")
        })
        .collect();
    let nothing = "  nobody:\n    kind: batch\n    from: { http: api, path: /nothing, columns: { id: int64, name: text } }\n    to: { sql: db, table: nobody, mode: replace }\n";
    let project = project(&format!(
        "connections:\n  api: {{ url: \"{}/v1/\" }}\n  db: {{ url: \"sqlite:target.db\" }}\nlimits: {{ stages: 1 }}\nstages:\n{stages}{nothing}",
        web.url()
    ));
    project.haul(&["run", "p"]).expect(0);
    for (name, _) in kinds {
        assert_eq!(rows(&project.path("target.db"), name), each_once(COUNT), "{name}");
    }
    assert_eq!(rows(&project.path("target.db"), "nobody").len(), 0);
    project.haul(&["verify", "p"]).expect(0);
}

const PAGED: &str = "stages:
  a:
    kind: batch
    from: { http: api, path: /rows, paginate: { by: offset }, columns: { id: int64, name: text } }
    to: { sql: db, table: a, mode: append }
    batch: { rows: 4 }
    retry: { attempts: 20, backoff: { initial: 5ms } }
";

/// Pages of many rows, so that there are checkpoints between them.
fn many(asked: &Asked) -> String {
    array(&objects(asked.number_of("offset", 0) + 1..=(asked.number_of("offset", 0) + 100).min(1000)))
}

/// What the first answers were: too many requests, an error, nothing at all, half a page; then all goes well. No row is missed or doubled, no page
/// that was committed is asked for again, and the server is left alone for as long as it wants.
#[test]
fn what_may_pass_is_tried_again_from_the_last_page() {
    let web = Web::start(|asked, out| match asked.number {
        0 => answer(out, 429, &[("Retry-After", "1")], "slow down"),
        1 => answer(out, 503, &[], ""),
        2 => Ok(()),
        7 | 9 => cut(out, &many(asked)),
        11 => answer(out, 500, &[], "no"),
        _ => json(out, &many(asked)),
    });
    let text = format!("connections:\n  api: {{ url: \"{}\" }}\n  db: {{ url: \"sqlite:target.db\" }}\n{PAGED}", web.url());
    let project = project(&text);
    project.haul(&["run", "p"]).expect(0);
    assert_eq!(rows(&project.path("target.db"), "a"), each_once(1000));
    let asked = web.asked();
    assert!(asked[1].at - asked[0].at >= Duration::from_secs(1), "the server asked for a second");
    let firsts = asked.iter().filter(|asked| asked.number_of("offset", 0) == 0).count();
    assert_eq!(firsts, 4, "the first page is asked for until it is there, and never again");
}

/// Lines that are cut behind a whole one look complete but for the length that was promised.
#[test]
fn lines_that_are_cut_between_two_are_no_whole_answer() {
    let text = objects(1..=40).join("\n") + "\n";
    let web = Web::start(move |asked, out| match asked.number {
        0 | 2 => cut(out, text.lines().next().map(|line| format!("{line}\n")).as_deref().expect("a line")),
        _ => answer(out, 200, &[("Content-Type", "application/x-ndjson")], &text),
    });
    let project = project(&format!(
        "connections:\n  api: {{ url: \"{}\" }}\n  db: {{ url: \"sqlite:target.db\" }}\n{}",
        web.url(),
        PAGED.replace("path: /rows, paginate: { by: offset }", "path: /rows.ndjson")
    ));
    project.haul(&["run", "p"]).expect(0);
    assert_eq!(rows(&project.path("target.db"), "a"), each_once(40));
    assert!(web.asked().len() > 1);
}

/// kill -9 in the middle: the next run goes on with the page behind the last commit.
#[test]
fn a_killed_run_goes_on_with_its_page() {
    let web = Web::start(|asked, out| {
        std::thread::sleep(Duration::from_millis(15));
        json(out, &many(asked))
    });
    let text = format!("connections:\n  api: {{ url: \"{}\" }}\n  db: {{ url: \"sqlite:target.db\" }}\n{PAGED}", web.url());
    let (mut dice, seed) = dice();
    let wanted = kills(KILLS);
    let (mut dealt, mut halfway) = (0, 0);
    while dealt < wanted {
        let project = project(&text);
        loop {
            let before = web.asked().len();
            let done = run_until_asked(&project, &web, before + dice.usize(1..8));
            let first = web.asked().get(before).map(|asked| asked.number_of("offset", 0));
            halfway += usize::from(first.is_some_and(|offset| offset > 0));
            if done {
                break;
            }
            dealt += 1;
        }
        assert_eq!(rows(&project.path("target.db"), "a"), each_once(1000), "seed {seed}");
    }
    assert!(halfway > 0, "no run went on from a page");
}

/// What is no row goes to the file of bad rows, named by its page and place.
#[test]
fn bad_rows_are_named_by_their_page() {
    let web = Web::start(|asked, out| match asked.number_of("page", 0) {
        1 => json(out, r#"{"items": [{"id": 1, "name": "a", "more": [1]}, {"id": "x", "name": "b"}, 7]}"#),
        2 => json(out, r#"{"items": [{"id": 4, "name": null}]}"#),
        _ => json(out, r#"{"items": []}"#),
    });
    let project = project(&format!(
        "connections:\n  api: {{ url: \"{}\" }}\n  db: {{ url: \"sqlite:target.db\" }}\n  bad: {{ url: \"file:.\" }}
stages:
  a:
    kind: batch
    from: {{ http: api, path: /rows, records: /items, paginate: {{ by: page }}, columns: {{ id: int64, name: text }} }}
    to: {{ sql: db, table: a }}
    rejects: {{ to: {{ files: bad, path: bad.ndjson }}, at_most: 2 }}
",
        web.url()
    ));
    project.haul(&["run", "p"]).expect(0);
    let bad = project.read("bad.ndjson");
    assert!(bad.contains("GET /rows page 1 row 2") && bad.contains("GET /rows page 1 row 3"), "{bad}");
    let database = rusqlite::Connection::open(project.path("target.db")).expect("the database");
    assert_eq!(database.query_row("select count(*) || '|' || sum(id) from a", [], |row| row.get::<_, String>(0)).expect("rows"), "2|5");
}
