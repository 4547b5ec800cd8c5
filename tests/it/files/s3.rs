//! Files in a bucket of a real S3 server.

use crate::support::Project;
use crate::support::s3::{CREDENTIALS, Store};

/// A project that writes rows to a bucket and reads them back.
fn project(store: &Store, path: &str, rows: u32) -> Project {
    let mut project = Project::new();
    for (name, value) in CREDENTIALS {
        project.env(name, value);
    }
    let format = path.trim_end_matches('/').rsplit_once('.').map_or("", |(_, ending)| ending);
    let parts = if path.ends_with('/') { format!("{path}*.{format}") } else { path.to_owned() };
    project.file(
        "pipelines/there.yaml",
        format!(
            "connections: {{ lake: {{ url: \"{}\" }} }}
stages:
  there:
    kind: batch
    from: {{ generate: {rows}, columns: {{ id: i, text: \"i::text || repeat('x', 100)\" }} }}
    to: {{ files: lake, path: \"{path}\", format: {format} }}
    splits: {{ most: 4, bytes: 4MiB }}
",
            store.url("deep/er")
        ),
    );
    project.file(
        "pipelines/back.yaml",
        format!(
            "connections: {{ lake: {{ url: \"{}\" }}, here: {{ url: 'sqlite:here.db' }} }}
stages:
  back:
    kind: batch
    from: {{ files: lake, path: \"{parts}\" }}
    to: {{ sql: here, table: rows, mode: replace }}
",
            store.url("deep/er")
        ),
    );
    project
}

/// The objects of the bucket that are no records of haul's own.
fn objects(store: &Store) -> Vec<String> {
    fn walk(folder: &std::path::Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            if entry.path().is_dir() {
                walk(&entry.path(), found);
            } else {
                found.push(entry.path().to_string_lossy().into_owned());
            }
        }
    }
    let mut found = Vec::new();
    walk(&store.bucket(), &mut found);
    found.retain(|path| !path.contains("/.haul"));
    found.sort();
    found
}

fn count_and_sum(project: &Project) -> (i64, i64) {
    let database = rusqlite::Connection::open(project.path("here.db")).expect("a database");
    database.query_row("select count(*), sum(id) from rows", [], |row| Ok((row.get(0)?, row.get(1)?))).expect("rows")
}

#[test]
fn rows_go_to_a_bucket_and_come_back() {
    let store = Store::start();
    // 20 MiB of text make several parts of one upload.
    for (path, rows) in [("one.csv", 200_000), ("parts.parquet/", 100_000), ("small.ndjson", 10)] {
        let project = project(&store, path, rows);
        let said = project.haul(&["run", "there"]).expect(0);
        assert!(said.stdout.contains("verified"), "{}", said.stdout);
        project.haul(&["verify", "there"]).expect(0);
        project.haul(&["run", "back"]).expect(0);
        let rows = i64::from(rows);
        let (found, sum) = count_and_sum(&project);
        assert_eq!(found, rows, "{path}");
        assert!([rows * (rows - 1) / 2, rows * (rows + 1) / 2].contains(&sum), "{path}: {sum}");
        assert_eq!(store.open_uploads(), Vec::<String>::new(), "{path}");
    }
}

#[test]
fn a_second_run_takes_the_place_of_the_first() {
    let store = Store::start();
    for path in ["out.csv", "parts.csv/"] {
        let first = project(&store, path, 200_000);
        first.haul(&["run", "there"]).expect(0);
        let second = project(&store, path, 3);
        second.haul(&["run", "there"]).expect(0);
        second.haul(&["run", "back"]).expect(0);
        assert_eq!(count_and_sum(&second).0, 3, "{path}");
    }
    assert_eq!(objects(&store).len(), 2, "{:?}", objects(&store));
}

#[test]
fn what_a_store_refuses_is_said_with_the_way_out() {
    let store = Store::start();
    let mut wrong = project(&store, "out.csv", 3);
    wrong.env("AWS_SECRET_ACCESS_KEY", "another");
    let said = wrong.haul(&["plan", "there"]).expect(2);
    let words = format!("{}{}", said.stdout, said.stderr);
    assert!(words.contains("AWS_SECRET_ACCESS_KEY") && !words.contains("another"), "{words}");
    assert_eq!(objects(&store), Vec::<String>::new());
}
