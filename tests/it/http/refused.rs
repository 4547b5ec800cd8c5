//! What is refused: answers that mean nothing, servers without end, and hosts that may not be asked.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;

use super::project;
use crate::support::web::{Asked, Web, answer, head, json};

fn strange(asked: &Asked, out: &mut TcpStream) -> std::io::Result<()> {
    match asked.path.as_str() {
        "/secret" => answer(out, 403, &[], format!("{} and {} may\n\tnot", asked.header("authorization"), asked.header("x-api-key"))),
        "/html" => answer(out, 200, &[("Content-Type", "text/html")], "<!doctype html><p>hello"),
        "/object" => json(out, r#"{"count": 1, "orders": [{"id": 1}]}"#),
        "/large" => json(out, &format!("[{{\"id\": \"{}\"}}]", "x".repeat(2000))),
        "/forever" => json(out, r#"{"next": "again", "items": [{"id": 1}]}"#),
        "/deaf" => json(out, r#"[{"id": 1}, {"id": 2}]"#),
        "/round" => answer(out, 302, &[("Location", "/round")], ""),
        "/file" => answer(out, 302, &[("Location", "file:///etc/passwd")], ""),
        "/metadata" => answer(out, 302, &[("Location", "http://169.254.169.254/latest")], ""),
        "/other_name" => {
            answer(out, 302, &[("Location", &format!("http://127.0.0.1:{}/ok", asked.header("host").split(':').nth(1).unwrap_or("")))], "")
        }
        "/ok" => json(out, r#"[{"id": 1}]"#),
        "/bare" => {
            head(out, 200, &[])?;
            out.write_all(b"{\"id\": 1}\n{\"id\": 2}\n")
        }
        "/bare_json" => {
            head(out, 200, &[])?;
            out.write_all(b"[{\"id\": 1}]")
        }
        "/silent" => {
            std::thread::sleep(std::time::Duration::from_secs(5));
            Ok(())
        }
        other => answer(out, 404, &[], other),
    }
}

/// What `haul plan` says of an input: its message, and its exit code.
#[track_caller]
fn check(connection: &str, from: &str, code: i32, expected: &[&str]) {
    let project = project(&format!(
        "connections:\n  api: {{ {connection} }}\nstages:\n  a:\n    kind: batch\n    from: {{ http: api, {from} }}\n    to: {{ discard: \"a look\" }}\n"
    ));
    let said = project.haul(&["plan", "p"]).expect(code);
    let text = said.stdout + &said.stderr;
    for part in expected {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
    assert!(!text.contains("hunter2"), "a secret shows:\n{text}");
}

#[test]
fn answers_that_mean_nothing_are_told_with_the_way_out() {
    let web = Web::start(strange);
    let url = format!("url: \"{}\"", web.url());
    let secrets = format!("{url}, auth: {{ bearer: \"hunter2-token\" }}, headers: {{ X-Api-Key: \"hunter2-key\" }}");
    check(&secrets, "path: /secret", 2, &["GET /secret was answered 403 Forbidden: Bearer *** and *** may not", "`auth`"]);
    let basic = format!("{url}, auth: {{ user: me, password: \"hunter2-word\" }}");
    check(&basic, "path: /secret", 2, &["Basic *** and may not"]);
    check(&url, "path: /nowhere", 2, &["GET /nowhere was answered 404 Not Found: /nowhere"]);
    check(&url, "path: /html", 2, &["is not JSON"]);
    check(&url, "path: /object", 2, &["the answer is an object, and not an array of rows", "`records: /orders`"]);
    check(&url, "path: /object, records: /count", 2, &["`/count` of the answer is a single value"]);
    check(&url, "path: /large, max_body: 1KiB", 2, &["larger than 1024 bytes", "max_body"]);
    check(&url, "path: /forever, records: /items, paginate: { by: cursor, next: /next }", 2, &["the same page again and again"]);
    check(&url, "path: /round", 2, &["redirected more than 5 times"]);
    check(&url, "path: /file", 2, &["`file:`, which is not followed"]);
    check(&format!("{url}, idle_timeout: 100ms"), "path: /silent", 3, &["no answer came within 100ms"]);
    check("url: \"http://127.0.0.1:1\"", "path: /", 3, &["no server answers there"]);
}

/// NDJSON that was cut behind a line looks whole, unless its answer says how long it is.
#[test]
fn rows_are_not_read_out_of_answers_that_do_not_say_where_they_end() {
    let web = Web::start(strange);
    let url = format!("url: \"{}\"", web.url());
    let refused = ["says neither its length nor its end", "allow_unmeasured: true"];
    check(&url, "path: /bare, format: ndjson", 2, &refused);
    check(&url, "path: /bare, format: csv", 2, &refused);
    check(&format!("{url}, allow_unmeasured: true"), "path: /bare, format: ndjson", 0, &["id"]);
    check(&url, "path: /bare_json", 0, &["id"]);
}

#[test]
fn a_server_that_does_not_heed_its_parameter_is_seen() {
    let web = Web::start(strange);
    let project = project(&format!(
        "connections:\n  api: {{ url: \"{}\" }}\nstages:\n  a:\n    kind: batch\n    from: {{ http: api, path: /deaf, paginate: {{ by: offset }}, columns: {{ id: int64 }} }}\n    to: {{ discard: \"a look\" }}\n",
        web.url()
    ));
    let said = project.haul(&["run", "p"]).expect(1);
    assert!(said.stderr.contains("the same page again and again"), "{}", said.stderr);
}

#[test]
fn private_addresses_are_asked_only_when_that_is_meant() {
    let web = Web::start(strange);
    let port = web.host.split(':').nth(1).expect("a port").to_owned();
    let refused = ["address of this machine or of a private network", "allow_private: true"];
    check(&format!("url: \"{}\"", web.url()), "path: /metadata", 2, &refused);
    check("url: \"http://192.168.0.1\"", "path: /", 2, &refused);
    // The URL's own name for this machine is as good as a permission; another name is not.
    let by_name = format!("url: \"http://localhost:{port}\"");
    check(&by_name, "path: /ok", 0, &["one answer"]);
    check(&by_name, "path: /other_name", 2, &refused);
    check(&format!("{by_name}, allow_private: true"), "path: /other_name", 0, &["one answer"]);
}

#[test]
fn credentials_go_to_their_own_host_only() {
    let other = Arc::new(Web::start(|_, out| json(out, r#"[{"id": 1}]"#)));
    let to = format!("{}/elsewhere", other.url());
    let web = Web::start(move |asked, out| match asked.path.as_str() {
        "/here" => json(out, r#"[{"id": 1}]"#),
        "/near" => answer(out, 307, &[("Location", "/here")], ""),
        _ => answer(out, 302, &[("Location", &to)], ""),
    });
    let connection = format!("url: \"{}\", auth: {{ bearer: \"hunter2-token\" }}, headers: {{ X-Api-Key: \"hunter2-key\" }}", web.url());
    check(&connection, "path: /near", 0, &["id"]);
    check(&connection, "path: /far", 0, &["id"]);
    for asked in web.asked() {
        assert_eq!(asked.header("authorization"), "Bearer hunter2-token", "{}", asked.path);
        assert_eq!(asked.header("x-api-key"), "hunter2-key", "{}", asked.path);
    }
    let asked = other.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].path, "/elsewhere");
    assert_eq!((asked[0].header("authorization"), asked[0].header("x-api-key")), ("", ""), "another host got what it must not know");
}
