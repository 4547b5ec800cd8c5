//! Names: two spellings of one table.

use crate::support::{Project, postgres};

use super::pipeline;

/// A stage that makes a table, and one that reads it under another spelling.
fn two(made: &str, mode: &str, after: &str, read: &str) -> String {
    format!(
        "  first:
    kind: batch
    from: {{ generate: 10, columns: {{ id: i }} }}
    to: {{ sql: db, table: {made}{mode} }}
  second:
    kind: batch{after}
    from: {{ sql: db, table: {read} }}
    to: {{ files: files, path: second.csv }}
"
    )
}

const AFTER: &str = "\n    after: [first]";

#[test]
fn a_table_is_the_same_however_stages_spell_it() {
    let database = postgres().fresh_database();
    for (url, made, read) in [("sqlite:out.db", "Orders", "main.orders"), (&database, "orders", "public.orders")] {
        let project = Project::new();
        let write = |stages: &str| {
            let connections = format!("connections:\n  db: {{ url: '{url}' }}\n  files: {{ url: 'file:files' }}\n");
            project.file("pipelines/names.yaml", format!("{connections}stages:\n{stages}"));
        };
        write(&two(made, "", "", read));
        let said = project.haul(&["run", "names"]).expect(2);
        assert!(said.stderr.contains("unordered-read"), "{}", said.stderr);
        write(&two(made, "", AFTER, read));
        let said = project.haul(&["plan", "names"]).expect(0);
        assert!(said.stdout.contains("an earlier stage writes it"), "{}", said.stdout);
        project.haul(&["run", "names"]).expect(0);
        assert_eq!(project.read("files/second.csv").lines().count(), 11);
    }
}

#[test]
fn stages_that_append_under_two_spellings_take_turns() {
    let project = Project::new();
    let stage = |name: &str, table: &str, after: &str| {
        let from = "    from: { generate: 10, columns: { id: i } }\n";
        format!("  {name}:\n    kind: batch{after}\n{from}    to: {{ sql: db, table: {table}, mode: append }}\n")
    };
    pipeline(&project, "turns", &(stage("first", "Orders", "") + &stage("second", "orders", "")));
    assert!(project.haul(&["plan", "turns"]).expect(2).stderr.contains("unordered-append"));
    pipeline(&project, "turns", &(stage("first", "Orders", "") + &stage("second", "orders", AFTER)));
    project.haul(&["plan", "turns"]).expect(0);
}

#[test]
fn a_problem_of_several_stages_is_told_once_with_all_of_its_places() {
    let project = Project::new();
    let stage = |name: &str, table: &str| {
        format!("  {name}:\n    kind: batch\n    from: {{ sql: db, table: {table} }}\n    to: {{ discard: test }}\n")
    };
    pipeline(&project, "missing", &[stage("a", "nowhere"), stage("b", "nowhere"), stage("c", "elsewhere")].concat());
    rusqlite::Connection::open(project.path("out.db"))
        .and_then(|database| database.execute_batch("create table t (id)"))
        .expect("a database");
    let said = project.haul(&["plan", "missing", "--json"]).expect(2);
    let document: serde_json::Value = serde_json::from_str(&said.stderr).expect("one JSON document");
    let lines = |problem: &serde_json::Value| -> Vec<u64> {
        problem["labels"].as_array().into_iter().flatten().filter_map(|label| label["line"].as_u64()).collect()
    };
    let found: Vec<Vec<u64>> = document["diagnostics"].as_array().expect("a list").iter().map(lines).collect();
    assert_eq!(found, [vec![7, 11], vec![15]], "{document}");
}
