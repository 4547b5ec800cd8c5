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
        assert!(said.stdout.contains("10 rows sent, 11 found"), "{}", said.stdout);
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
