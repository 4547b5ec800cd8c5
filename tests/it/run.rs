//! Runs from the command line, on real files and databases: results, proof, failure, stopping and going on.

mod appends;
mod names;
mod resumes;

use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::support::Project;

/// A project that holds the repository's own quickstart and its data.
fn quickstart() -> Project {
    let project = Project::new();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines");
    project.file("pipelines/quickstart.yaml", std::fs::read(root.join("quickstart.yaml")).expect("the quickstart"));
    for entry in std::fs::read_dir(root.join("data")).expect("the data") {
        let entry = entry.expect("an entry");
        let name = format!("pipelines/data/{}", entry.file_name().to_string_lossy());
        project.file(&name, std::fs::read(entry.path()).expect("a data file"));
    }
    project
}

fn rows(database: &std::path::Path, query: &str) -> Vec<String> {
    let connection = Connection::open(database).expect("the database");
    let mut statement = connection.prepare(query).expect("a query");
    let columns = statement.column_count();
    let rows = statement
        .query_map([], |row| {
            let values = (0..columns).map(|column| {
                Ok(match row.get_ref(column)? {
                    rusqlite::types::ValueRef::Null => "NULL".to_owned(),
                    rusqlite::types::ValueRef::Integer(value) => value.to_string(),
                    rusqlite::types::ValueRef::Real(value) => value.to_string(),
                    rusqlite::types::ValueRef::Text(value) => String::from_utf8_lossy(value).into_owned(),
                    rusqlite::types::ValueRef::Blob(value) => format!("{} bytes", value.len()),
                })
            });
            Ok(values.collect::<rusqlite::Result<Vec<_>>>()?.join("|"))
        })
        .expect("rows");
    rows.collect::<rusqlite::Result<_>>().expect("rows")
}

/// Counted with sqlite3 and, independently, in plain Python from the raw files.
const AIRLINES: [&str; 16] = [
    "United Air Lines Inc.|13954|257|13279|23009|1.68",
    "JetBlue Airways|13302|181|13097|121594|9.28",
    "ExpressJet Airlines Inc.|12724|790|12724|262023|22.07",
    "Delta Air Lines Inc.|11323|219|11315|-25874|-2.33",
    "American Airlines Inc.|8098|212|2299|-2859|-0.36",
    "Envoy Air|6571|324|429|37341|5.99",
    "US Airways Inc.|4875|210|4653|1799|0.39",
    "Endeavor Air Inc.|4659|294|4365|29283|6.76",
    "Southwest Airlines Co.|2905|104|2887|9084|3.25",
    "AirTran Airways Corporation|940|29|911|7161|7.88",
    "Virgin America|890|11|890|-10016|-11.41",
    "Alaska Airlines Inc.|180|2|180|-432|-2.43",
    "Frontier Airlines Inc.|165|1|154|3505|21.37",
    "Mesa Airlines Inc.|112|9|112|1158|11.24",
    "Hawaiian Airlines Inc.|90|0|90|-492|-5.47",
    "SkyWest Airlines Inc.|1|0|1|107|107",
];

#[test]
fn the_quickstart_gives_the_right_answers_and_proves_them() {
    let project = quickstart();
    let said = project.haul(&["run", "quickstart"]).expect(0);
    assert!(said.stderr.contains("verified identical") || said.stdout.contains("verified identical"), "{}{}", said.stdout, said.stderr);
    let database = project.path("target/quickstart/warehouse.db");
    assert_eq!(rows(&database, "select * from airline_delays order by flights desc"), AIRLINES);
    assert_eq!(
        rows(&database, "select count(*), sum(distance), sum(dep_delay), sum(cancelled) from flights"),
        ["80789|81343950|892053|2643"]
    );
    assert_eq!(rows(&database, "select count(*), count(distinct iata) from airports"), ["3364|3364"]);
    assert_eq!(rows(&database, "select name from airports where iata = 'DBN'"), ["W. H. \"Bud\" Barron"]);
    assert!(project.read("target/quickstart/visibility.csv").contains("LaGuardia,low,1409,216,28363,23.77"));
    assert!(project.path("target/quickstart/airline_delays.parquet").is_file());

    // Again: the same result, nothing twice.
    project.haul(&["run", "quickstart"]).expect(0);
    assert_eq!(rows(&database, "select count(*) from flights"), ["80789"]);

    project.haul(&["verify", "quickstart"]).expect(0);
    Connection::open(&database).expect("the database").execute("update airports set city = 'X' where iata = 'DBN'", []).expect("a change");
    let said = project.haul(&["verify", "quickstart"]).expect(1);
    assert!(said.stdout.contains("iata=DBN: its values differ"), "{}", said.stdout);
}

fn pipeline(project: &Project, name: &str, stages: &str) {
    let connections = "connections:\n  db: { url: 'sqlite:out.db' }\n  files: { url: 'file:files' }\n";
    project.file(&format!("pipelines/{name}.yaml"), format!("{connections}stages:\n{stages}"));
}

#[test]
fn one_wrong_value_in_a_million_rows_is_found() {
    let project = Project::new();
    pipeline(
        &project,
        "million",
        "  numbers:
    kind: batch
    from: { generate: 1000000, columns: { id: 'i', name: \"'user-' || i\" } }
    to: { sql: db, table: numbers, mode: replace, primary_key: [id] }
    splits: { most: 4, bytes: 1KiB }
",
    );
    project.haul(&["run", "million"]).expect(0);
    project.haul(&["verify", "million"]).expect(0);
    let connection = Connection::open(project.path("out.db")).expect("the database");
    assert_eq!(connection.execute("update numbers set name = 'user-7654321' where id = 765432", []), Ok(1));
    let said = project.haul(&["verify", "million"]).expect(1);
    assert!(said.stdout.contains("765432"), "{}", said.stdout);
}

#[test]
fn a_failed_stage_skips_what_depends_on_it_and_lets_others_finish() {
    let project = Project::new();
    project.file("files/bad.csv", "id,name\n1,a\n2\n3,c\n");
    pipeline(
        &project,
        "mixed",
        "  bad:
    kind: batch
    from: { files: files, path: bad.csv }
    to: { sql: db, table: bad, mode: replace }
  waits:
    kind: batch
    after: [bad]
    from: { generate: 10, columns: { id: i } }
    to: { sql: db, table: waits, mode: replace }
  free:
    kind: batch
    from: { generate: 10, columns: { id: i } }
    to: { sql: db, table: free, mode: replace }
",
    );
    let said = project.haul(&["run", "mixed"]).expect(1);
    assert!(said.stderr.contains("bad.csv:3"), "{}", said.stderr);
    assert_eq!(rows(&project.path("out.db"), "select count(*) from free"), ["10"]);
    let tables = rows(&project.path("out.db"), "select name from sqlite_master where type = 'table' and name in ('bad', 'waits')");
    assert!(tables.is_empty(), "{tables:?}");
    let shown = project.haul(&["show", "latest"]).expect(0).stdout;
    assert!(shown.contains("skipped") && shown.contains("failed"), "{shown}");

    // Mended, the same run goes on: what was done stays done.
    project.file("files/bad.csv", "id,name\n1,a\n2,b\n3,c\n");
    project.haul(&["run", "mixed"]).expect(0);
    assert_eq!(rows(&project.path("out.db"), "select group_concat(name) from bad"), ["a,b,c"]);
    assert_eq!(rows(&project.path("out.db"), "select count(*) from waits"), ["10"]);
}

#[test]
fn bad_rows_go_to_a_file_up_to_their_budget() {
    let project = Project::new();
    project.file("files/people.csv", "id,name\n1,a\n2\n3,c\n4,d,e\n5,f\n");
    let stages = |at_most: u32| {
        format!(
            "  people:
    kind: batch
    from: {{ files: files, path: people.csv }}
    to: {{ sql: db, table: people, mode: replace }}
    rejects: {{ to: {{ files: files, path: 'bad.ndjson' }}, at_most: {at_most} }}
"
        )
    };
    pipeline(&project, "people", &stages(1));
    project.haul(&["run", "people"]).expect(1);
    assert!(!project.path("files/bad.ndjson").exists());
    pipeline(&project, "people", &stages(2));
    project.haul(&["run", "people"]).expect(0);
    assert_eq!(rows(&project.path("out.db"), "select group_concat(id) from people"), ["1,3,5"]);
    let bad = project.read("files/bad.ndjson");
    let lines: Vec<serde_json::Value> = bad.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 2, "{bad}");
    assert!(lines[0]["origin"].as_str().is_some_and(|origin| origin.ends_with("people.csv:3")), "{bad}");
    let left: Vec<_> =
        std::fs::read_dir(project.path("files")).expect("the folder").map(|entry| entry.expect("an entry").file_name()).collect();
    assert_eq!(left.len(), 2, "nothing else is left behind: {left:?}");
}

#[test]
fn bad_rows_of_an_abandoned_run_stay_out_of_the_next_ones_file() {
    let project = Project::new();
    project.file("files/a.csv", "id,name\n1,a\n");
    project.file("files/b.csv", "id,name\n2\n");
    project.file("files/c.csv", "id,name\n3\n4\n5\n");
    let stages = |path: &str, at_most: u32| {
        format!(
            "  people:
    kind: batch
    from: {{ files: files, path: '{path}' }}
    to: {{ sql: db, table: people, mode: replace }}
    splits: {{ concurrency: 1 }}
    rejects: {{ to: {{ files: files, path: 'bad.ndjson' }}, at_most: {at_most} }}
"
        )
    };
    pipeline(&project, "people", &stages("?.csv", 2));
    project.haul(&["run", "people"]).expect(1);
    let kept: Vec<_> = walk(&project.path("files/.haul"));
    assert!(kept.iter().any(|path| path.ends_with(".rejects")), "the bad row of b.csv is kept for the run to go on: {kept:?}");
    pipeline(&project, "people", &stages("c.csv", 3));
    project.haul(&["run", "people"]).expect(0);
    let bad = project.read("files/bad.ndjson");
    assert!(bad.lines().count() == 3 && bad.lines().all(|line| line.contains("c.csv:")), "{bad}");
}

fn walk(folder: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path.display().to_string()] }).collect()
}

#[test]
fn a_terminated_run_commits_what_it_has_begun_and_goes_on_later() {
    let project = Project::new();
    pipeline(
        &project,
        "long",
        "  numbers:
    kind: batch
    from: { generate: 400000, columns: { id: 'i', name: \"'user-' || i\" } }
    to: { sql: db, table: numbers, mode: append }
    splits: { most: 200, bytes: 1KiB, concurrency: 1 }
",
    );
    let mut child =
        project.command(&["run", "long"]).stderr(std::process::Stdio::null()).stdout(std::process::Stdio::null()).spawn().expect("haul");
    let begun = Instant::now();
    let committed = || {
        let count = Connection::open(project.path("out.db"))
            .and_then(|db| db.query_row("select count(*) from haul_marks", [], |row| row.get::<_, i64>(0)));
        count.unwrap_or(0)
    };
    while committed() < 3 {
        assert!(begun.elapsed() < Duration::from_secs(60), "the run never committed a split");
        std::thread::sleep(Duration::from_millis(5));
    }
    let pid = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().expect("kill").success());
    assert_eq!(child.wait().expect("an exit").code(), Some(143));
    let first = committed();
    assert!((3..200).contains(&first), "{first} splits were committed when it stopped");
    let said = project.haul(&["run", "long", "--json"]).expect(0);
    let events: Vec<serde_json::Value> = said.stdout.lines().map(|line| serde_json::from_str(line).expect("an event")).collect();
    let written = events.iter().filter(|event| event["event"] == "split_finished").count() as i64;
    assert_eq!(first + written, 200, "committed splits are not written again");
    assert_eq!(rows(&project.path("out.db"), "select count(*), count(distinct id), sum(id) from numbers"), ["400000|400000|79999800000"]);
}

#[test]
fn stages_stream_to_each_other_and_a_diamond_does_not_block() {
    let project = Project::new();
    pipeline(
        &project,
        "diamond",
        "  top:
    kind: batch
    from: { generate: 300000, columns: { id: 'i', text: \"repeat('x', 100)\" } }
  left:
    kind: batch
    from: { stage: top }
    transform: [ { filter: 'id % 2 = 0' } ]
  right:
    kind: batch
    from: { stage: top }
    transform: [ { set: { third: 'id % 3' } } ]
  joined:
    kind: batch
    from: [ { stage: left }, { stage: right } ]
    transform:
      - sql: 'select l.id, r.third from \"left\" l join \"right\" r on l.id = r.id'
    to: { sql: db, table: joined, mode: replace }
",
    );
    project.haul(&["run", "diamond"]).expect(0);
    assert_eq!(rows(&project.path("out.db"), "select count(*), sum(third) from joined"), ["150000|150000"]);
    assert!(!project.path(".haul/tmp").read_dir().is_ok_and(|mut left| left.next().is_some()), "nothing is left behind");
}

#[test]
fn a_fan_out_reads_once_and_proves_every_output() {
    let project = Project::new();
    pipeline(
        &project,
        "fan",
        "  numbers:
    kind: batch
    from: { generate: 1000, columns: { id: 'i' } }
    to:
      - { sql: db, table: a, mode: replace }
      - { sql: db, table: b, mode: append }
      - { files: files, path: numbers.ndjson }
      - { discard: to be counted }
",
    );
    let said = project.haul(&["run", "fan", "--json"]).expect(0);
    let done: serde_json::Value = said
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("an event"))
        .find(|event| event["event"] == "stage_finished")
        .expect("the stage ends");
    assert_eq!(done["rows_in"], 1000);
    let verdicts: Vec<&str> =
        done["outputs"].as_array().expect("outputs").iter().filter_map(|output| output["verdict"]["verdict"].as_str()).collect();
    assert_eq!(verdicts, ["identical", "identical", "identical", "not_checked"]);
    assert_eq!(project.read("files/numbers.ndjson").lines().count(), 1000);
    assert_eq!(rows(&project.path("out.db"), "select (select sum(id) from a), (select sum(id) from b)"), ["499500|499500"]);
}

#[test]
fn a_stage_reads_what_an_earlier_one_makes_and_says_so_in_the_plan() {
    let project = Project::new();
    pipeline(
        &project,
        "late",
        "  first:
    kind: batch
    from: { generate: 100, columns: { id: 'i' } }
    to: { sql: db, table: first, mode: replace }
  second:
    kind: batch
    after: [first]
    from: { sql: db, table: first }
    to: { files: files, path: second.csv }
",
    );
    let plan = project.haul(&["plan", "late"]).expect(0).stdout;
    assert!(plan.contains("an earlier stage writes it"), "{plan}");
    project.haul(&["run", "late"]).expect(0);
    assert_eq!(project.read("files/second.csv").lines().count(), 101);
}

#[test]
fn an_appended_table_may_hold_other_rows_of_the_same_keys() {
    for other_first in [true, false] {
        let project = Project::new();
        let stage = "  people:
    kind: batch
    from: { sql: db, table: source }
    to: { sql: db, table: people, mode: append }
";
        pipeline(&project, "people", stage);
        let database = Connection::open(project.path("out.db")).expect("the database");
        let sql = "create table source (id integer primary key, name text); insert into source values (1, 'a'), (2, 'b');
            create table people (id integer, name text)";
        database.execute_batch(sql).expect("tables");
        let other = || database.execute("insert into people values (1, 'other')", []).expect("a row");
        if other_first {
            other();
        }
        project.haul(&["run", "people"]).expect(0);
        if !other_first {
            other();
        }
        project.haul(&["verify", "people"]).expect(0);
        database.execute("update people set name = 'c' where name = 'b'", []).expect("a change");
        let said = project.haul(&["verify", "people"]).expect(1).stdout;
        assert!(said.contains("id=2, name=b: missing in the target"), "{said}");
    }
}
