//! The verbs that make and draw pipelines.

use crate::support::redis::{ask, connect, redis};
use crate::support::{Project, golden, postgres};

const SHOP: &str = r#"
connections:
  shop: { url: "{{ env.SHOP_URL }}" }
  warehouse: { url: "sqlite:warehouse.db" }
  out: { url: "file:out" }
stages:
  customers:
    kind: batch
    from: { sql: shop, table: public.customers }
    to: { sql: warehouse, table: customers, mode: replace }
  orders:
    kind: batch
    after: [customers]
    from:
      - { sql: shop, query: "select * from \"orders\"", as: o }
      - { sql: warehouse, table: customers, as: c }
    transform:
      - sql: "select o.* from o join c on c.id = o.customer_id"
    to:
      - { sql: warehouse, table: orders, mode: replace }
      - { files: out, path: "orders.parquet" }
    rejects: { to: { files: out, path: "bad <orders>.ndjson" }, at_most: 10 }
  report:
    kind: batch
    from: { stage: orders, as: o }
    transform:
      - sql: "select count(*) as n from o"
    to: { discard: "only counted" }
"#;

#[test]
fn a_graph_is_drawn_from_the_definition_alone() {
    let project = Project::new();
    project.file("pipelines/shop.yaml", SHOP);
    golden("verbs/graph.mermaid", &project.haul(&["graph", "shop"]).expect(0).stdout);
    golden("verbs/graph.dot", &project.haul(&["graph", "shop", "--format", "dot"]).expect(0).stdout);
    golden("verbs/graph.json", &project.haul(&["graph", "shop", "--json"]).expect(0).stdout);
}

#[test]
fn a_graph_of_a_wrong_definition_is_refused_with_its_places() {
    let project = Project::new();
    project.file("pipelines/shop.yaml", SHOP.replace("stage: orders", "stage: ordres"));
    let said = project.haul(&["graph", "shop"]).expect(2);
    assert!(said.stdout.is_empty() && said.stderr.contains("ordres"), "{said:?}");
    assert!(said.stderr.contains("error: 1 problem stands in the way; nothing was done"), "{said:?}");
    let said = project.haul(&["graph", "shop", "--json"]).expect(2);
    let document: serde_json::Value = serde_json::from_str(&said.stderr).expect("one JSON document");
    assert_eq!((&document["exit_code"], &document["diagnostics"][0]["code"]), (&2.into(), &"unknown-stage".into()), "{document}");
    project.file("pipelines/shop.yaml", SHOP.replace("select count(*) as n from o", "selct count(*) from o"));
    let said = project.haul(&["graph", "shop"]).expect(2);
    assert!(said.stderr.contains("selct"), "SQL is part of the definition: {said:?}");
    let said = project.haul(&["graph", "shpo"]).expect(2);
    assert!(said.stderr.contains("did you mean `shop`?"), "{said:?}");
}

#[test]
fn a_new_project_validates_and_is_never_overwritten() {
    let project = Project::new();
    let said = project.haul(&["init", "first"]).expect(0);
    assert!(said.stdout.ends_with("next: cd first && haul run hello\n"), "{said:?}");
    project.haul(&["validate", "--project", "first"]).expect(0);
    assert!(project.read("first/schema/pipeline.schema.json").contains("\"$schema\""));
    let said = project.haul(&["run", "hello", "--project", "first", "--param", "at_least=99"]).expect(0);
    assert!(
        said.stdout.contains("done: 3 stages, 1,013 rows in ") && said.stdout.contains("3 of 3 outputs verified identical"),
        "{said:?}"
    );
    assert_eq!(project.read("first/out/countries.csv"), "country,customers,spent\nDE,334,16521\nFR,333,16479\nPL,333,16500\n");
    assert!(project.haul(&["show", "--project", "first"]).expect(0).stdout.contains("params    at_least=99"));
    let said = project.haul(&["run", "hello", "--project", "first", "-q"]).expect(0);
    assert!(said.stderr.is_empty() && said.stdout.starts_with("done: ") && said.stdout.lines().count() == 1, "{said:?}");
    let runs: serde_json::Value =
        serde_json::from_str(&project.haul(&["runs", "--project", "first", "--json"]).expect(0).stdout).expect("JSON");
    assert_eq!(runs.as_array().map(Vec::len), Some(2));
    let said = project.haul(&["run", "hello", "--project", "first", "--json"]).expect(0);
    let events: Vec<haul::journal::Event> = said.stdout.lines().map(|line| serde_json::from_str(line).expect("an event a line")).collect();
    assert_eq!(events.first().map(|event| event.what.kind()), Some("run_started"));
    assert_eq!(events.last().map(|event| event.what.kind()), Some("run_finished"));
    project.file("first/pipelines/hello.yaml", "mine");
    let said = project.haul(&["init", "first"]).expect(3);
    assert!(said.stderr.starts_with("error: first/haul.yaml, first/pipelines/hello.yaml, "), "{said:?}");
    assert_eq!(project.read("first/pipelines/hello.yaml"), "mine");
    project.file("second/.gitignore", "mine");
    project.haul(&["init", "second"]).expect(0);
    assert_eq!(project.read("second/.gitignore"), "mine");
}

#[test]
fn a_new_pipeline_has_a_stage_for_each_table_of_sqlite() {
    let project = Project::new();
    project.file("haul.yaml", "connections: { out: { url: \"file:out\" } }\n");
    let database = rusqlite::Connection::open(project.path("shop.db")).expect("a database");
    let made = "create table customers (id integer primary key, name text);
        create table \"order lines\" (id integer); create table \"odd{{name\" (id integer);
        create view seen as select 1 as one; create table haul_marks (x);";
    database.execute_batch(made).expect("tables");
    let said = project.haul(&["new", "shop-copy", "--from", "sqlite:shop.db", "--to", "out"]).expect(0);
    let expected =
        "wrote pipelines/shop-copy.yaml: 2 stages\nleft out odd{{name: a pipeline cannot write its name\nnext: haul plan shop-copy\n";
    assert_eq!(said.stdout, expected);
    golden("verbs/new-sqlite.yaml", &project.read("pipelines/shop-copy.yaml"));
    project.haul(&["validate"]).expect(0);
    let said = project.haul(&["new", "shop-copy", "--from", "sqlite:shop.db", "--to", "out"]).expect(3);
    assert!(said.stderr.contains("there is a pipeline `shop-copy` already"), "{said:?}");
}

#[test]
fn a_new_pipeline_never_writes_a_password_into_its_file() {
    let project = Project::new();
    project.file("haul.yaml", "connections: { warehouse: { url: \"{{ env.WAREHOUSE_URL }}\" } }\n");
    let url = postgres().fresh_database();
    postgres()
        .sql(&url, "create table orders (id int); create schema audit; create table audit.orders (id int); create table plain (x int)");
    let with_password = url.replace("postgres@", "postgres:hunter2@");
    let said = project.haul(&["new", "deep/copy", "--from", &with_password, "--to", "sqlite:copy.db"]).expect(0);
    assert!(said.stdout.contains("put SOURCE_URL=URL into .env"), "{said:?}");
    golden("verbs/new-postgres.yaml", &project.read("pipelines/deep/copy.yaml"));
    let mut command = project.command(&["new", "back", "--from", "warehouse", "--to", "sqlite:copy.db"]);
    let output = command.env("WAREHOUSE_URL", &url).output().expect("haul can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(project.read("pipelines/back.yaml").contains("from: { sql: warehouse, table: public.plain }"));
    project.haul(&["validate"]).expect(0);
}

#[test]
fn a_new_pipeline_has_a_stage_for_each_file() {
    let project = Project::new();
    for path in ["in/orders.csv", "in/2024/orders.csv.gz", "in/items.NDJSON", "in/notes.txt", "in/.hidden.csv"] {
        project.file(path, "");
    }
    project.haul(&["new", "load", "--from", "file:in", "--to", "sqlite:shop.db"]).expect(3);
    project.file("pipelines/.keep", "");
    project.haul(&["new", "load", "--from", "file:in", "--to", "sqlite:shop.db"]).expect(0);
    golden("verbs/new-files.yaml", &project.read("pipelines/load.yaml"));
    project.haul(&["validate"]).expect(0);
}

#[test]
fn a_new_pipeline_of_keys_runs() {
    let project = Project::new();
    let (old, new) = (redis().fresh_database(), redis().fresh_database());
    project.file("haul.yaml", format!("connections: {{ new: {{ url: \"{new}\" }} }}\n"));
    project.file("pipelines/.keep", "");
    let arguments = ["new", "migrate", "--from", &old, "--to", "new"];
    let said = project.haul(&arguments).expect(3);
    assert!(said.stderr.contains("nothing to read was found in `source`"), "{said:?}");
    ask::<()>(&mut connect(&old), &["SET", "key", "value"]);
    assert_eq!(project.haul(&arguments).expect(0).stdout, "wrote pipelines/migrate.yaml: 1 stage\nnext: haul plan migrate\n");
    golden("verbs/new-redis.yaml", &project.read("pipelines/migrate.yaml").replace(&old, "redis://old"));
    project.haul(&["run", "migrate"]).expect(0);
    assert_eq!(ask::<String>(&mut connect(&new), &["GET", "key"]), "value");
    for (from, to, expected) in
        [("new", "sqlite:x.db", "from: { redis: new, hash: \"user:{{ id }}\" }"), ("sqlite:x.db", "new", "to: { redis: new, hash:")]
    {
        let said = project.haul(&["new", "rows", "--from", from, "--to", to]).expect(2);
        assert!(said.stderr.contains(expected), "{said:?}");
    }
}

#[test]
fn a_new_pipeline_that_cannot_be_says_why() {
    let project = Project::new();
    project.file("haul.yaml", "connections: { out: { url: \"file:out\" } }\n");
    for (arguments, code, expected) in [
        (["new", "x", "--from", "nowhere", "--to", "out"], 2, "there is no connection `nowhere`"),
        (["new", "x", "--from", "mongo://host/db", "--to", "out"], 2, "`mongo` names no engine that haul knows"),
        (["new", "../x", "--from", "out", "--to", "out"], 2, "`../x` cannot be the name of a pipeline"),
        (["new", "x", "--from", "sqlite:missing.db", "--to", "out"], 3, "missing.db"),
    ] {
        let said = project.haul(&arguments).expect(code);
        assert!(said.stderr.starts_with("error: ") && said.stderr.contains(expected), "{said:?}");
    }
    assert!(!project.path("pipelines/x.yaml").exists());
}
