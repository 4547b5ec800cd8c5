//! Names: two spellings of one table, and what `sql` steps call their inputs.

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

#[test]
fn inputs_are_called_what_the_docs_say() {
    let project = Project::new();
    for quarter in ["q1", "q2"] {
        project.file(&format!("files/{quarter}/orders.csv"), "id\n1\n2\n");
    }
    let stage = |path: &str, steps: &str| {
        let from = format!("    from: {{ files: files, path: \"{path}\" }}\n");
        format!("  count:\n    kind: batch\n{from}    transform:\n{steps}    to: {{ files: files, path: count.csv }}\n")
    };
    let count = |table: &str| format!("      - sql: \"select count(*) as n from {table}\"\n");
    let dedupe = "      - dedupe: [id]\n".to_owned();
    for (path, steps, rows) in [
        ("q*/orders.csv", count("input"), "4"),
        ("q1/orders.csv", count("orders"), "2"),
        ("q1/orders.csv", dedupe.clone() + &count("orders"), "2"),
        ("q*/orders.csv", dedupe + &count("input"), "2"),
    ] {
        pipeline(&project, "count", &stage(path, &steps));
        project.haul(&["run", "count"]).expect(0);
        assert_eq!(project.read("files/count.csv"), format!("n\n{rows}\n"), "{path} {steps}");
    }
    pipeline(&project, "count", &stage("q*/orders.csv", &count("orders")));
    assert!(project.haul(&["run", "count"]).expect(2).stderr.contains("the tables are `input`"));
}
