//! Feeds beside other things: under `haul serve`, with another process, with programs that are not ours, and as what a pipeline follows.

use std::sync::{Arc, OnceLock};

use super::*;
use crate::support::web::{Web, answer};

#[test]
fn serve_goes_on_when_the_pipeline_does_not() {
    let project = project(", key: id", "");
    add(&project, 1..=10);
    let haul = Haul::start(&project, &["serve", "--listen", "127.0.0.1:0"]);
    haul.until_head(&project, 10);
    let address = haul.address();
    let mut client = get(&address, "/feeds/a?from=start", &[]);
    client.object();
    follow_on(|| client.object(), 0, 10);
    project.haul(&["pause", "p"]).expect(0);
    haul.until("a pause", || haul.said().contains("it is not to go on"));
    add(&project, 11..=12);
    let mut other = get(&address, "/feeds/a?from=snapshot", &[]);
    other.object();
    follow_on(|| other.object(), 0, 10);
    project.haul(&["resume", "p"]).expect(0);
    follow_on(|| client.object(), 10, 12);
    let web = haul
        .said()
        .split("listening on http://")
        .nth(1)
        .and_then(|rest| Some(rest.split_whitespace().next()?.to_owned()))
        .expect("an address");
    let mut metrics = get(&web, "/metrics", &[]);
    let mut found = Vec::new();
    while let Some(line) = metrics.line() {
        found.extend(line.strip_prefix("haul_feed_").map(str::to_owned));
        if found.len() > 9 || line.starts_with("haul_feed_slow_total{feed=\"a\",became=\"latest_per_key\"}") {
            break;
        }
    }
    for expected in ["head{feed=\"a\"} 12", "clients{feed=\"a\"} 2", "lag_events{feed=\"a\"} 0", "slow_total{feed=\"a\",became=\"skip\"} 0"]
    {
        assert!(found.iter().any(|line| line == expected), "{expected} is not in {found:#?}");
    }
    haul.stop();
}

#[test]
fn another_process_stands_by_and_takes_over() {
    let (project, first, address) = filled("", "", 3);
    let text = project.read("pipelines/p.yaml").replace("feed: a", "feed: b");
    project.file("pipelines/q.yaml", text);
    let second = Haul::start(&project, &["run", "q"]);
    second.until("a stand-by", || second.said().contains("feeds are served by another process"));
    // One process serves what all of them write.
    second.until("the other's feed", || get(&address, "/feeds/b", &[]).status == 200);
    first.kill();
    second.until("a successor", || {
        let served = project.read(".haul/feeds/served");
        let address = served.trim().trim_start_matches("http://").to_owned();
        client::try_get(&address, "/feeds/a?as=poll&from=start", &[]).is_ok_and(|answer| answer.status == 200)
    });
}

#[test]
fn two_writers_of_one_feed_are_refused() {
    let (project, _haul, _) = filled("", "", 1);
    let text = project.read("pipelines/p.yaml");
    project.file("pipelines/q.yaml", text);
    let said = project.haul(&["run", "q", "--until", "caught-up"]);
    assert_ne!(said.code, Some(0));
    assert!(said.stderr.contains("the feed `a` is written by stage `a` of pipeline `p`"), "{}", said.stderr);
}

#[test]
fn a_pipeline_follows_a_feed() {
    for (follow, place) in [("follow: sse", "from=start"), ("follow: websocket", "from=start"), ("follow: ndjson", "from=start")] {
        let (project, haul, address) = filled(", key: id", "", 500);
        let name = follow.split(' ').nth(1).expect("a protocol");
        let (key, value) = place.split_once('=').expect("a parameter");
        project.file(
            "pipelines/q.yaml",
            format!(
                "connections:\n  feeds: {{ url: \"http://{address}\" }}\n  db: {{ url: \"sqlite:{name}.db\" }}
stages:
  b:
    kind: stream
    from: {{ http: feeds, path: /feeds/a, query: {{ {key}: {value} }}, {follow}, columns: {{ id: int64, name: text }} }}
    to: {{ sql: db, table: b, mode: append }}
    batch: {{ every: 10ms }}
"
            ),
        );
        let follower = Haul::start(&project, &["run", "q"]);
        let rows = || -> rusqlite::Result<i64> {
            let database = Connection::open(project.path(&format!("{name}.db")))?;
            database.query_row("select count(*) from b where id is not null and name is not null", [], |row| row.get(0))
        };
        follower.until("500 rows", || rows().unwrap_or(0) >= 500);
        add(&project, 501..=520);
        follower.until("520 rows", || rows().unwrap_or(0) >= 520);
        if name == "sse" {
            // The position is that of the last event: what comes meanwhile is not lost, and nothing comes twice.
            follower.kill();
            add(&project, 521..=540);
            haul.until_head(&project, 540);
            let follower = Haul::start(&project, &["run", "q"]);
            follower.until("540 rows", || rows().unwrap_or(0) >= 540);
            follower.stop();
        }
        let expected = if name == "sse" { 540 } else { 520 };
        let database = Connection::open(project.path(&format!("{name}.db"))).expect("a database");
        let found: (i64, i64) =
            database.query_row("select count(*), count(distinct id) from b", [], |row| Ok((row.get(0)?, row.get(1)?))).expect("rows");
        assert_eq!(found, (expected, expected), "{follow}");
    }
}

#[test]
fn a_pipeline_is_told_of_events_that_are_lost() {
    let (project, haul, address) = filled(", keep: { rows: 10 }", "", 5);
    project.file(
        "pipelines/q.yaml",
        format!(
            "connections:\n  feeds: {{ url: \"http://{address}\" }}\n  db: {{ url: \"sqlite:target.db\" }}
stages:
  b:
    kind: stream
    from: {{ http: feeds, path: /feeds/a, query: {{ from: start }}, follow: sse, columns: {{ id: int64, name: text }} }}
    to: {{ sql: db, table: b, mode: append }}
    batch: {{ every: 10ms }}
"
        ),
    );
    let follower = Haul::start(&project, &["run", "q"]);
    let rows = || {
        Connection::open(project.path("target.db")).and_then(|db| db.query_row("select count(*) from b", [], |row| row.get::<_, i64>(0)))
    };
    follower.until("5 rows", || rows().unwrap_or(0) == 5);
    follower.kill();
    for part in 0..5 {
        add(&project, 6 + part * 20..=25 + part * 20);
        haul.until_head(&project, 25 + part * 20);
    }
    let said = project.haul(&["run", "q"]).expect(1);
    assert!(said.stderr.contains("the feed lost 80 events"), "{}", said.stderr);
}

/// The events that a program writes, one JSON object a line.
fn program(mut command: Command, count: usize) -> Vec<Value> {
    use std::io::{BufRead, BufReader};
    let mut child = command.stdout(Stdio::piped()).spawn().expect("the program can be started");
    let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let found = lines.map(|line| line.expect("a line")).filter_map(|line| {
        let value: Value = serde_json::from_str(line.strip_prefix("data: ").unwrap_or(&line)).ok()?;
        value["@feed"].is_null().then_some(value)
    });
    let found: Vec<Value> = found.take(count).collect();
    let _ = child.kill();
    let _ = child.wait();
    found
}

#[test]
fn curl_reads_a_feed() {
    let (_project, _haul, address) = filled("", "", 30);
    for arguments in [vec![], vec!["-H", "Accept: text/event-stream"]] {
        let mut curl = Command::new("curl");
        curl.args(["-sN", &format!("http://{address}/feeds/a?from=start")]).args(arguments);
        let mut found = program(curl, 30).into_iter();
        follow_on(|| found.next().expect("an event"), 0, 30);
    }
}

/// A page that says to the server it came from what its EventSource is told, one after the other.
const PAGE: &str = "<script>
    let said = Promise.resolve();
    new EventSource('EVENTS').onmessage = (event) => {
        said = said.then(() => fetch('/said', { method: 'POST', body: event.data }));
    };
</script>";

/// The browser's EventSource comes again by itself when the server goes, and goes on behind its last event.
#[test]
fn a_browser_goes_on_by_itself() {
    let page = Arc::new(OnceLock::<String>::new());
    let shown = Arc::clone(&page);
    let web = Web::start(move |asked, stream| {
        let page = if asked.method == "GET" { shown.get().map_or("", String::as_str) } else { "" };
        answer(stream, 200, &[("Content-Type", "text/html")], page)
    });
    let (project, haul, address) = filled("", &format!(", origins: [\"{}\"]", web.url()), 30);
    page.set(PAGE.replace("EVENTS", &format!("http://{address}/feeds/a?from=start"))).expect("the only page");
    let profile = format!("--user-data-dir={}", project.path("profile").display());
    let mut chromium = Command::new("chromium");
    chromium.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", &profile, &web.url()]);
    let _browser = Running(chromium.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("chromium can be started"));
    let said = || web.asked().into_iter().filter(|asked| asked.path == "/said").map(|asked| asked.body).collect::<Vec<_>>();
    haul.until("the first event in the browser", || !said().is_empty());
    haul.kill();
    project.file("haul.yaml", format!("feeds: {{ listen: \"{address}\", origins: [\"{}\"] }}\n", web.url()));
    let haul = Haul::start(&project, &["run", "p"]);
    add(&project, 31..=60);
    haul.until("the last event in the browser", || said().len() >= 60);
    let mut found = said().into_iter().map(|body| serde_json::from_slice(&body).expect("an event"));
    follow_on(|| found.next().expect("an event"), 0, 60);
    assert_eq!(found.next(), None, "an event comes once");
}

/// A program that ends with the value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
