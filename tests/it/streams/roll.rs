//! Streams into files: part after part, each seen when it is whole.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use rusqlite::Connection;

use super::{signal, start, until};
use crate::support::{Project, dice, kills};

/// Kills the stream has to survive.
const KILLS: usize = 60;

fn pipeline(project: &Project, output: &str, batch: &str) {
    project.file(
        "pipelines/roll.yaml",
        format!(
            "connections:
  from: {{ url: \"sqlite:from.db\" }}
  out: {{ url: \"file:out\" }}
stages:
  items:
    kind: stream
    from: {{ sql: from, table: items, cursor: id, every: 20ms }}
    to: {{ files: out, path: items/, {output} }}
    batch: {{ {batch} }}
"
        ),
    );
}

fn source(project: &Project) -> Connection {
    let source = Connection::open(project.path("from.db")).expect("a database");
    source.execute_batch("pragma journal_mode = wal; create table items (id integer primary key, note text)").expect("a table");
    source
}

fn add(source: &Connection, from: usize, to: usize) {
    let sql =
        "insert into items with recursive i(v) as (select ?1 union all select v + 1 from i where v < ?2) select v, 'note ' || v from i";
    source.execute(sql, [from as i64, to as i64]).expect("rows");
}

/// Names of the parts that can be seen, in order.
fn parts(project: &Project) -> Vec<String> {
    let Ok(folder) = std::fs::read_dir(project.path("out/items")) else { return Vec::new() };
    let mut names: Vec<String> = folder.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name")).collect();
    names.sort();
    names
}

fn part(project: &Project, name: &str) -> PathBuf {
    project.path("out/items").join(name)
}

/// The ids in the parts, in the order of names and lines.
fn ids(project: &Project) -> Vec<usize> {
    let text: String = parts(project).iter().map(|name| std::fs::read_to_string(part(project, name)).expect("a part")).collect();
    text.lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a whole line")["id"].as_u64().expect("an id") as usize)
        .collect()
}

fn catch_up(project: &Project, more: &[&str]) -> String {
    let arguments = [&["run", "roll", "--until", "caught-up"], more].concat();
    let said = project.haul(&arguments).expect(0);
    said.stdout + &said.stderr
}

fn left(project: &Project) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![project.path("out/.haul")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.expect("an entry").path();
            if path.is_dir() { folders.push(path) } else { found.push(path.file_name().expect("a name").to_string_lossy().into_owned()) }
        }
    }
    found
}

#[test]
fn parts_end_by_rows_and_their_names_are_dense() {
    let project = Project::new();
    let source = source(&project);
    add(&source, 1, 250);
    pipeline(&project, "format: ndjson, roll: { rows: 100, every: 1h }", "rows: 10");
    catch_up(&project, &[]);
    let names = ["part-000000000001.ndjson", "part-000000000002.ndjson", "part-000000000003.ndjson"];
    assert_eq!(parts(&project), names);
    let rows = |name: &str| std::fs::read_to_string(part(&project, name)).expect("a part").lines().count();
    assert_eq!(names.map(rows), [100, 100, 50]);
    // Nothing new makes no part. What a reader has taken away does not come again, and its number neither.
    catch_up(&project, &[]);
    std::fs::remove_file(part(&project, names[2])).expect("a part");
    add(&source, 251, 260);
    catch_up(&project, &[]);
    assert_eq!(parts(&project), [names[0], names[1], "part-000000000004.ndjson"]);
    assert_eq!(ids(&project), [(1..=200).collect::<Vec<_>>(), (251..=260).collect()].concat());
    assert_eq!(left(&project), ["load.json"]);
    // From the beginning again, behind the parts that are there.
    let said = catch_up(&project, &["--fresh"]);
    assert_eq!(parts(&project).len(), 6, "{said}");
    assert_eq!(ids(&project)[210..], (1..=260).collect::<Vec<_>>());
}

/// The size is that of the file, and the time runs from the first row.
#[test]
fn parts_end_by_bytes_and_time() {
    let project = Project::new();
    let source = source(&project);
    pipeline(&project, "format: ndjson, roll: { bytes: 256KiB, every: 1s }", "rows: 100");
    let mut haul = start(&project, "roll");
    add(&source, 1, 40_000);
    until(&project, "parts by size and a last one by time", || ids(&project).len() == 40_000);
    let sizes: Vec<u64> = parts(&project).iter().map(|name| std::fs::metadata(part(&project, name)).expect("a part").len()).collect();
    assert!(sizes.len() > 3 && sizes[..sizes.len() - 1].iter().all(|size| *size > 64 << 10), "{sizes:?}");
    // What is not due yet is made whole by a signal.
    pipeline(&project, "format: ndjson, roll: { every: 1h }", "rows: 100");
    signal(&haul, "-TERM");
    assert_eq!(haul.wait().expect("haul ends").code(), Some(143), "{}", project.read("log.txt"));
    let before = parts(&project).len();
    haul = start(&project, "roll");
    add(&source, 40_001, 40_100);
    until(&project, "a part under way", || left(&project).iter().any(|name| name.contains("part")));
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(parts(&project).len(), before);
    signal(&haul, "-TERM");
    assert_eq!(haul.wait().expect("haul ends").code(), Some(143), "{}", project.read("log.txt"));
    assert_eq!(ids(&project), (1..=40_100).collect::<Vec<_>>());
}

/// Each part stands for itself: a reader needs no other. A batch stage of another pipeline reads them all.
#[test]
fn every_format_is_written_in_whole_parts() {
    for (format, ending) in [
        ("format: csv", "csv"),
        ("format: csv, compression: gzip", "csv.gz"),
        ("format: ndjson, compression: zstd", "ndjson.zst"),
        ("format: parquet", "parquet"),
    ] {
        let project = Project::new();
        let source = source(&project);
        add(&source, 1, 250);
        pipeline(&project, &format!("{format}, roll: {{ rows: 100 }}"), "rows: 50");
        catch_up(&project, &[]);
        assert_eq!(parts(&project).len(), 3, "{ending}");
        assert!(parts(&project).iter().all(|name| name.ends_with(ending)), "{:?}", parts(&project));
        project.file(
            "pipelines/back.yaml",
            format!(
                "connections: {{ out: {{ url: \"file:out\" }}, to: {{ url: \"sqlite:back.db\" }} }}
stages:
  back: {{ kind: batch, from: {{ files: out, path: \"items/*.{ending}\" }}, to: {{ sql: to, table: items, mode: replace }} }}
"
            ),
        );
        project.haul(&["run", "back"]).expect(0);
        let back = Connection::open(project.path("back.db")).expect("the target");
        let sum = "select count(*) || ' ' || sum(id) || ' ' || count(distinct note) from items";
        assert_eq!(back.query_row(sum, [], |row| row.get::<_, String>(0)).expect("a sum"), "250 31375 250", "{ending}");
    }
}

/// Killed at any moment: a part that can be seen is whole, and stays as it is; numbers have no holes; no row is missing or there twice.
#[test]
fn kills_leave_whole_parts_and_every_row_once() {
    let project = Project::new();
    let source = source(&project);
    pipeline(&project, "format: ndjson, roll: { rows: 40, every: 30ms }", "rows: 7");
    let wanted = kills(KILLS);
    let (mut dice, seed) = dice();
    let mut seen: BTreeSet<(String, String)> = BTreeSet::new();
    let mut moved = 0;
    let mut rows = 0;
    for _ in 0..wanted {
        let before = parts(&project).len();
        let mut haul = start(&project, "roll");
        for _ in 0..dice.usize(1..8) {
            add(&source, rows + 1, rows + 50);
            rows += 50;
            std::thread::sleep(Duration::from_millis(dice.u64(1..30)));
        }
        if dice.bool() {
            until(&project, "a part", || parts(&project).len() > before);
        }
        std::thread::sleep(Duration::from_millis(dice.u64(1..60)));
        if let Some(status) = haul.try_wait().expect("haul can be asked") {
            panic!("haul ended with {status}; seed {seed}:\n{}", project.read("log.txt"));
        }
        haul.kill().expect("haul can be killed");
        haul.wait().expect("haul can be waited for");
        let names = parts(&project);
        moved += usize::from(names.len() > before);
        let now: BTreeSet<(String, String)> =
            names.iter().map(|name| (name.clone(), std::fs::read_to_string(part(&project, name)).expect("a part"))).collect();
        assert!(now.is_superset(&seen), "a part has changed or gone; seed {seed}");
        seen = now;
        assert_eq!(ids(&project), (1..=ids(&project).len()).collect::<Vec<_>>(), "seed {seed}");
    }
    catch_up(&project, &[]);
    assert_eq!(ids(&project), (1..=rows).collect::<Vec<_>>(), "seed {seed}");
    let names: Vec<String> = (1..=parts(&project).len()).map(|number| format!("part-{number:012}.ndjson")).collect();
    assert_eq!(parts(&project), names, "seed {seed}");
    assert_eq!(left(&project), ["load.json"], "seed {seed}");
    assert!(moved * 4 >= wanted, "of {wanted} kills only {moved} met a stream that had written a part");
}
