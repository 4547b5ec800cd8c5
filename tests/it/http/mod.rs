//! HTTP against a real server that behaves and misbehaves.

mod feeds;
mod read;
mod refused;
mod send;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::support::Project;
use crate::support::web::Web;

/// Kills that a test deals at least.
const KILLS: usize = 20;

/// A project whose only pipeline has this text.
fn project(text: &str) -> Project {
    let project = Project::new();
    project.file("pipelines/p.yaml", text);
    project
}

/// Runs the pipeline, and kills it once the server was asked so often in all. True when it was done before.
fn run_until_asked(project: &Project, web: &Web, wanted: usize) -> bool {
    let log = std::fs::File::create(project.path("log.txt")).expect("a log");
    let mut haul = project.command(&["run", "p"]).stdout(Stdio::null()).stderr(log).spawn().expect("haul can be started");
    loop {
        if let Some(status) = haul.try_wait().expect("haul can be asked") {
            assert!(status.success(), "{}", project.read("log.txt"));
            return true;
        }
        if web.asked().len() >= wanted {
            haul.kill().expect("haul can be killed");
            haul.wait().expect("haul can be waited for");
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The rows of a SQLite table of `id` and `name`, with how often each is there.
fn rows(path: &Path, table: &str) -> BTreeMap<(i64, String), usize> {
    let database = rusqlite::Connection::open(path).expect("the database");
    let mut query = database.prepare(&format!("select id, name from {table}")).expect("the table");
    let mut found = BTreeMap::new();
    for row in query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).expect("rows") {
        *found.entry(row.expect("an id and a name")).or_default() += 1;
    }
    found
}

/// Rows with the ids 1 to `count`, each once.
fn each_once(count: usize) -> BTreeMap<(i64, String), usize> {
    (1..=count).map(|id| ((id as i64, name(id)), 1)).collect()
}

fn name(id: usize) -> String {
    format!("name {id} \"é\"")
}

/// The objects of some rows.
fn objects(ids: impl Iterator<Item = usize>) -> Vec<String> {
    ids.map(|id| serde_json::json!({ "id": id, "name": name(id) }).to_string()).collect()
}
