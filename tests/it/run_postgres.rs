//! Runs between real PostgreSQLs: lost connections, unreachable servers, sources that change under a cut run.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Project, postgres};

/// A project that copies `public.numbers` from one database to another in many splits, one at a time.
struct Copy {
    project: Project,
    source: String,
    target: String,
}

impl Copy {
    fn new(output: &str) -> Self {
        let (source, target) = (postgres().fresh_database(), postgres().fresh_database());
        postgres().sql(
            &source,
            "create table numbers (id bigint primary key, text text not null);
             insert into numbers select i, repeat('x', 200) || i from generate_series(1, 60000) i; analyze numbers",
        );
        // Without a key, so that nothing but haul keeps rows from being there twice.
        postgres().sql(&target, "create table numbers (id bigint not null, text text not null)");
        let project = Project::new();
        project.file(
            "pipelines/copy.yaml",
            format!(
                "connections:
  source: {{ url: '{source}' }}
  target: {{ url: '{target}' }}
stages:
  numbers:
    kind: batch
    from: {{ sql: source, table: public.numbers }}
    to: {{ sql: target, table: public.numbers, {output} }}
    splits: {{ most: 1000, bytes: 64KiB, concurrency: 1 }}
    retry: {{ attempts: 20, backoff: {{ initial: 20ms, max: 200ms }} }}
"
            ),
        );
        Self { project, source, target }
    }

    fn start(&self, arguments: &[&str]) -> Child {
        self.project.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("haul can be started")
    }

    fn marks(&self) -> u64 {
        let exists = postgres().sql(&self.target, "select count(*) from pg_class where relname = 'haul_marks'");
        if exists == "0" {
            return 0;
        }
        postgres().sql(&self.target, "select count(*) from haul_marks").parse().expect("a number")
    }

    /// Runs until some splits are committed, then kills it.
    fn cut(&self) {
        let mut child = self.start(&["run", "copy"]);
        let begun = Instant::now();
        while self.marks() < 5 {
            assert!(begun.elapsed() < Duration::from_secs(60), "no split was ever committed");
        }
        child.kill().expect("a kill");
        child.wait().expect("an end");
        let done = self.marks();
        assert!(done < 100, "{done} splits were committed before the kill: too late to be a cut run");
    }

    fn sums(&self, url: &str) -> String {
        postgres().sql(url, "select count(*), count(distinct id), sum(id), sum(hashtext(text)::bigint) from numbers")
    }
}

#[test]
fn lost_connections_are_retried_and_nothing_is_lost_or_doubled() {
    let copy = Copy::new("mode: append");
    // With `--fresh`, which must not abandon what the run itself has written when it begins a stage again.
    let mut child = copy.start(&["run", "copy", "--fresh"]);
    let (mut cuts, mut committed) = (0, 0);
    let exit = loop {
        if let Some(exit) = child.try_wait().expect("a child") {
            break exit;
        }
        // After every few commits, all of its connections: the one that holds the snapshot, readers, writers.
        if copy.marks() >= committed + 20 {
            committed = copy.marks();
            let cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = 'haul' and datname = current_database()";
            for url in [&copy.source, &copy.target] {
                cuts += postgres().sql(url, cut).parse::<u32>().expect("a number");
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(exit.success(), "{}", copy.project.haul(&["show", "latest"]).stdout);
    assert!(cuts >= 5, "only {cuts} connections were cut");
    assert_eq!(copy.sums(&copy.source), copy.sums(&copy.target));
    let shown = copy.project.haul(&["show", "latest", "--json"]).expect(0).stdout;
    assert!(shown.contains("transient"), "{shown}");
    let idle = "select count(*) from pg_stat_activity where application_name = 'haul' and datname = current_database()";
    assert_eq!((postgres().sql(&copy.source, idle), postgres().sql(&copy.target, idle)), ("0".to_owned(), "0".to_owned()));
}

#[test]
fn a_source_that_changed_under_a_cut_replace_is_loaded_anew() {
    let copy = Copy::new("mode: replace");
    copy.cut();
    // Rows move to other blocks: the recorded block ranges no longer mean the same rows.
    postgres().sql(&copy.source, "update numbers set text = text || '!' where id <= 30000; select pg_stat_force_next_flush()");
    let said = copy.project.haul(&["run", "copy"]).expect(0);
    assert!(said.stderr.contains("the source changed"), "{}", said.stderr);
    assert_eq!(copy.sums(&copy.source), copy.sums(&copy.target));
}

#[test]
fn a_source_that_changed_under_a_cut_append_needs_a_decision() {
    let copy = Copy::new("mode: append");
    copy.cut();
    postgres().sql(&copy.source, "update numbers set text = text || '!' where id <= 30000; select pg_stat_force_next_flush()");
    let said = copy.project.haul(&["run", "copy"]).expect(1);
    assert!(said.stdout.contains("help: `--fresh` starts over"), "{}", said.stdout);
}

#[test]
fn losing_the_journal_loses_no_rows_and_doubles_none() {
    let copy = Copy::new("mode: append");
    copy.cut();
    std::fs::remove_dir_all(copy.project.path(".haul")).expect("the journal's folder");
    copy.project.haul(&["run", "copy"]).expect(0);
    assert_eq!(copy.sums(&copy.source), copy.sums(&copy.target));
}

#[test]
fn another_definition_does_not_write_over_a_cut_append() {
    let copy = Copy::new("mode: append");
    copy.cut();
    let text = copy.project.read("pipelines/copy.yaml").replace("table: public.numbers }", "table: public.numbers, where: 'id > 10' }");
    copy.project.file("pipelines/copy.yaml", text);
    let said = copy.project.haul(&["run", "copy"]).expect(1);
    assert!(said.stderr.contains("an unfinished load of another definition"), "{}", said.stderr);
}

#[test]
fn rows_that_pass_undecoded_can_be_counted() {
    let copy = Copy::new("mode: append");
    postgres().sql(&copy.target, "insert into numbers values (-1, 'was here before')");
    copy.project.file(
        "pipelines/counted.yaml",
        format!(
            "connections:
  source: {{ url: '{}' }}
  target: {{ url: '{}' }}
stages:
  numbers:
    kind: batch
    from: {{ sql: source, table: public.numbers }}
    to: {{ sql: target, table: public.numbers, mode: append }}
    verify: count
",
            copy.source, copy.target
        ),
    );
    let said = copy.project.haul(&["run", "counted", "--json"]).expect(0);
    assert!(said.stdout.contains(r#""verdict":{"verdict":"counted","rows":60000}"#), "{}", said.stdout);
    // Somebody else's row that comes in between is seen.
    postgres().sql(
        &copy.target,
        "create function one_more() returns trigger language plpgsql as $$ begin insert into numbers values (-2, 'came in between'); return null; end $$;
         create trigger one_more after insert on haul_marks execute function one_more()",
    );
    let said = copy.project.haul(&["run", "counted"]).expect(1);
    assert!(said.stdout.contains("60000 rows sent, 60001 found"), "{}", said.stdout);
}

#[test]
fn an_unreachable_server_is_the_environments_fault() {
    let project = Project::new();
    project.file(
        "pipelines/copy.yaml",
        "connections:
  source: { url: 'postgres://nobody:secretpassword@127.0.0.1:1/none' }
stages:
  numbers:
    kind: batch
    from: { sql: source, table: public.numbers }
    to: { discard: test }
",
    );
    let said = project.haul(&["run", "copy"]).expect(3);
    assert!(said.stderr.contains("refused") && said.stderr.contains("copy.yaml:6"), "{}", said.stderr);
    assert!(!said.stderr.contains("secretpassword"), "{}", said.stderr);
}

#[test]
fn conditions_on_columns_that_are_read_as_text_mean_their_text() {
    let source = postgres().fresh_database();
    postgres().sql(
        &source,
        "create type pair as (a int, b text); create table t (id bigint primary key, p pair, letter \"char\");
         insert into t values (1, row(1, 'x'), 'a'), (2, row(2, null), 'b'), (3, null, 'c')",
    );
    let project = Project::new();
    project.file(
        "pipelines/pairs.yaml",
        format!(
            "connections:
  source: {{ url: '{source}' }}
  files: {{ url: 'file:files' }}
stages:
  pairs:
    kind: batch
    from: {{ sql: source, table: public.t }}
    transform:
      - filter: \"p is not null and letter <> 'bc'\"
      - select: [id]
    to: {{ files: files, path: out.csv }}
"
        ),
    );
    project.haul(&["run", "pairs"]).expect(0);
    // PostgreSQL says that a composite value with a NULL in it is not not null, and cuts the text to one letter.
    assert_eq!(project.read("files/out.csv"), "id\n1\n2\n");
}

#[test]
fn types_of_the_server_alone_are_computed_with_in_their_text_form() {
    let (source, target) = (postgres().fresh_database(), postgres().fresh_database());
    postgres().sql(
        &source,
        "create table places (id bigint primary key, a point, b point, c point); insert into places values (1, '(1,2)', '(3,4)', '(5,6)')",
    );
    let project = Project::new();
    for to in ["sql: target, table: places", "files: files, path: places.csv"] {
        project.file(
            "pipelines/p.yaml",
            format!(
                "connections:
  source: {{ url: '{source}' }}
  target: {{ url: '{target}' }}
  files: {{ url: 'file:files' }}
stages:
  places:
    kind: batch
    from: {{ sql: source, table: public.places }}
    transform: [ {{ cast: {{ a: text }} }}, {{ mask: {{ b: {{ hash: pepper }} }} }} ]
    to: {{ {to} }}
"
            ),
        );
        project.haul(&["run", "p"]).expect(0);
    }
    // printf 'pepper(3,4)' | sha256sum
    let hash = "d8da6a22aa85e0a5d22d50cac873d6ce4ed5caa2ca511a9846933236b48d0d5b";
    assert_eq!(postgres().sql(&target, "select a, b, c, pg_typeof(c) from places"), format!("(1,2)|{hash}|(5,6)|point"));
    assert_eq!(project.read("files/places.csv").lines().nth(1), Some(format!("1,\"(1,2)\",{hash},\"(5,6)\"").as_str()));
}

#[test]
fn queries_compute_with_types_of_the_server_alone_in_their_text_form() {
    let (source, target) = (postgres().fresh_database(), postgres().fresh_database());
    postgres().sql(
        &source,
        "create table ips (id bigint primary key, ip inet); insert into ips values (1, '10.0.0.1'), (2, '9.0.0.1'), (3, null);
         create table names (ip text, name text); insert into names values ('10.0.0.1/32', 'ten')",
    );
    let project = Project::new();
    for (number, (inputs, query, expected)) in [
        ("ips, names", "select id, ip, name from ips join names using (ip)", "1|10.0.0.1/32|ten|text"),
        (
            "ips",
            "with t(id, ip) as (select id, ip from ips) select id, ip, 'a' as name from t where ip = '9.0.0.1/32'",
            "2|9.0.0.1/32|a|text",
        ),
        ("ips", "select id, ip, 'a' as name from ips where id < 3 order by 2 limit 1", "1|10.0.0.1/32|a|text"),
        (
            "ips, names",
            "select id, ip, 'b' as name from ips where id = 1 union all select 7, ip, name from names where name = ''",
            "1|10.0.0.1/32|b|text",
        ),
        ("ips", "select id, ip, 'c' as name from ips where id = 1 union all select id, ip, 'd' from ips where id > 3", "1|10.0.0.1|c|inet"),
    ]
    .into_iter()
    .enumerate()
    {
        let inputs = inputs.split(", ").map(|table| format!("{{ sql: source, table: public.{table} }}"));
        project.file(
            "pipelines/p.yaml",
            format!(
                "connections:
  source: {{ url: '{source}' }}
  target: {{ url: '{target}' }}
stages:
  ips:
    kind: batch
    from: [ {} ]
    transform: [ {{ sql: \"{query}\" }} ]
    to: {{ sql: target, table: t{number} }}
",
                inputs.collect::<Vec<_>>().join(", ")
            ),
        );
        project.haul(&["run", "p"]).expect(0);
        assert_eq!(postgres().sql(&target, &format!("select id, ip, name, pg_typeof(ip) from t{number}")), expected, "{query}");
    }
}

#[test]
fn tables_that_are_read_together_share_one_snapshot() {
    let url = postgres().fresh_database();
    postgres().sql(
        &url,
        "create table a (id bigint primary key); insert into a select generate_series(1, 1000);
         create table b as select id, id * 2 as twice from a; create table c as select id, id * 3 as thrice from a",
    );
    let project = Project::new();
    let from = "from: [ { sql: shop, table: a }, { sql: shop, table: b }, { sql: shop, table: c } ]";
    let sql = "transform: [ { sql: 'select a.id, b.twice, c.thrice from a join b on a.id = b.id join c on a.id = c.id' } ]";
    project.file(
        "pipelines/joined.yaml",
        format!(
            "connections:
  shop: {{ url: '{url}', max_connections: 3 }}
  files: {{ url: 'file:files' }}
stages:
  joined:
    kind: batch
    {from}
    {sql}
    to: {{ sql: shop, table: joined, mode: replace, primary_key: [id] }}
  files:
    kind: batch
    after: [joined]
    {from}
    {sql}
    to: {{ files: files, path: joined.csv }}
"
        ),
    );
    project.haul(&["run", "joined"]).expect(0);
    assert_eq!(postgres().sql(&url, "select count(*), sum(twice), sum(thrice) from joined"), "1000|1001000|1501500");
    project.haul(&["verify", "joined"]).expect(0);
    postgres().sql(&url, "update joined set twice = 0 where id = 77");
    let said = project.haul(&["verify", "joined"]).expect(1);
    assert!(said.stdout.contains("id=77: its values differ"), "{}", said.stdout);
}

#[test]
fn a_run_goes_on_although_the_table_that_it_made_has_a_key_by_now() {
    let url = postgres().fresh_database();
    let project = Project::new();
    project.file("files/orders.csv", "id,name\n1,a\n2,b\n");
    project.file(
        "pipelines/report.yaml",
        format!(
            "connections:
  shop: {{ url: '{url}' }}
  files: {{ url: 'file:files' }}
  db: {{ url: 'sqlite:out.db' }}
stages:
  orders:
    kind: batch
    from: {{ files: files, path: orders.csv }}
    to: {{ sql: shop, table: orders, mode: replace, primary_key: [id] }}
  report:
    kind: batch
    after: [orders]
    from: {{ sql: shop, table: orders }}
    to: {{ sql: db, table: report, mode: append }}
"
        ),
    );
    let database = rusqlite::Connection::open(project.path("out.db")).expect("the database");
    let refuse = "create table report (id integer, name text);
        create trigger refuse before insert on report begin select raise(abort, 'not now'); end";
    database.execute_batch(refuse).expect("a table that refuses rows");
    project.haul(&["run", "report"]).expect(1);
    database.execute_batch("drop trigger refuse").expect("no refusal");
    project.haul(&["run", "report"]).expect(0);
    let journal = rusqlite::Connection::open(project.path(".haul/state.db")).expect("the journal");
    let runs: i64 = journal.query_row("select count(*) from haul_journal_runs", [], |row| row.get(0)).expect("a number");
    assert_eq!(runs, 1);
}
