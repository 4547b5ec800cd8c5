//! Stages that append, to targets that others append to as well.

use rusqlite::Connection;

use super::{pipeline, rows, walk};
use crate::support::Project;

#[test]
fn stages_that_append_to_one_table_in_turn_are_each_proved() {
    let project = Project::new();
    project.file("files/bad.csv", "id,name\n1,a\n2\n");
    pipeline(
        &project,
        "turns",
        "  one:
    kind: batch
    from: { generate: 10, columns: { id: 'i' } }
    to: { sql: db, table: numbers, mode: append }
  two:
    kind: batch
    after: [one]
    from: { generate: 20, columns: { id: 'i' } }
    to: { sql: db, table: numbers, mode: append }
  three:
    kind: batch
    after: [two]
    from: { files: files, path: bad.csv }
    to: { sql: db, table: three, mode: replace }
",
    );
    let said = project.haul(&["run", "turns"]).expect(1);
    assert!(!said.stdout.contains("does not hold") && said.stderr.contains("bad.csv:3"), "{}{}", said.stdout, said.stderr);
    // The run goes on: what was proved before others wrote to the table stays so.
    project.file("files/bad.csv", "id,name\n1,a\n2,b\n");
    project.haul(&["run", "turns"]).expect(0);
    assert_eq!(rows(&project.path("out.db"), "select count(*), sum(id) from numbers"), ["30|235"]);
}

#[test]
fn an_append_that_failed_its_proof_is_proved_again() {
    let project = Project::new();
    let stage = "  numbers:
    kind: batch
    from: { generate: 10, columns: { id: 'i' } }
    to: { sql: db, table: numbers, mode: append }
";
    pipeline(&project, "append", stage);
    let database = Connection::open(project.path("out.db")).expect("the database");
    let one_more = "create table numbers (id integer);
        create trigger one_more after insert on numbers when new.id = 5 begin insert into numbers values (-1); end";
    database.execute_batch(one_more).expect("a table that takes more than it is given");
    for _ in 0..2 {
        let said = project.haul(&["run", "append"]).expect(1);
        assert!(said.stdout.contains("10 rows sent, 11 found") && said.stdout.contains("every row a second time"), "{}", said.stdout);
    }
    database.execute("delete from numbers where id = -1", []).expect("the row goes");
    project.haul(&["run", "append"]).expect(0);
    assert_eq!(rows(&project.path("out.db"), "select count(*), sum(id) from numbers"), ["10|45"]);
}

#[test]
fn stages_that_append_to_one_folder_keep_their_parts_apart() {
    let project = Project::new();
    pipeline(
        &project,
        "folder",
        "  one:
    kind: batch
    from: { generate: 10, columns: { id: 'i' } }
    to: { files: files, path: out/, format: ndjson, mode: append }
  two:
    kind: batch
    from: { generate: 20, columns: { id: 'i' } }
    to: { files: files, path: out/, format: ndjson, mode: append }
",
    );
    for times in 1..3 {
        project.haul(&["run", "folder"]).expect(0);
        let parts = walk(&project.path("files/out")).into_iter().filter(|path| path.ends_with(".ndjson"));
        let lines = parts.map(|path| std::fs::read_to_string(path).expect("a part").lines().count());
        assert_eq!(lines.sum::<usize>(), times * 30);
    }
}

#[test]
fn a_table_that_is_appended_to_gets_columns_that_its_rows_lack() {
    for table in ["create table people (id integer)", "create table people (id integer, name text)"] {
        let project = Project::new();
        let stage = "  people:
    kind: batch
    from: { generate: 10, columns: { id: 'i', name: \"'user-' || i\" } }
    to: { sql: db, table: people, mode: append, schema: evolve }
";
        pipeline(&project, "people", stage);
        let database = Connection::open(project.path("out.db")).expect("the database");
        database.execute_batch(&format!("{table}; insert into people (id) values (-1)")).expect("a row without a name");
        project.haul(&["run", "people"]).expect(0);
        project.haul(&["run", "people"]).expect(0);
        project.haul(&["verify", "people"]).expect(0);
        assert_eq!(rows(&project.path("out.db"), "select count(*), count(name), sum(id) from people"), ["21|20|89"]);
    }
}

#[test]
fn stages_that_write_to_a_table_beside_an_append_must_wait_for_each_other() {
    let project = Project::new();
    let stages = |mode: &str, more: &str| {
        format!(
            "  eu:
    kind: batch
    from: {{ generate: 10, columns: {{ id: 'i' }} }}
    to: {{ sql: db, table: orders, mode: append }}
  us:
    kind: batch
    from: {{ generate: 20, columns: {{ id: 'i + 10' }} }}
    to: {{ sql: db, table: orders, {mode} }}
{more}"
        )
    };
    let database = Connection::open(project.path("out.db")).expect("the database");
    database.execute_batch("create table orders (id integer primary key)").expect("a table");
    for mode in ["mode: append", "mode: upsert, key: [id]"] {
        pipeline(&project, "orders", &stages(mode, ""));
        let said = project.haul(&["plan", "orders"]).expect(2);
        assert_eq!(said.stderr.matches("unordered-append").count(), 1, "{}", said.stderr);
        pipeline(&project, "orders", &stages(mode, "    after: [eu]\n"));
        project.haul(&["run", "orders"]).expect(0);
        database.execute("delete from orders", []).expect("no rows");
    }
}
