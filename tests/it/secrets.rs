//! What a secret file holds is used, and never shown.

use rusqlite::Connection;

use crate::support::Project;

const CONNECTIONS: &str = "connections:\n  db: { url: 'sqlite:shop.db' }\n  files: { url: 'file:files' }\nstages:\n";

#[test]
fn a_plan_shows_the_text_that_names_a_secret() {
    let mut project = Project::new();
    project.env("LEAST", "4711");
    project.file("token", "hush-hush\n");
    let shop = Connection::open(project.path("shop.db")).expect("a database");
    shop.execute_batch("create table people (id integer primary key, name text, note text)").expect("a table");
    let stage = |steps: &str| {
        format!(
            "{CONNECTIONS}  people:\n    kind: batch\n    from: {{ sql: db, table: people }}\n    transform:\n{steps}    to: {{ files: files, path: people.csv }}\n"
        )
    };
    let steps = "      - filter: \"name = {{ secret.file('token') }}\"
      - filter: \"id > {{ env.LEAST | int }} and name = {{ secret.file('token') }} and note like 'a%'\"
      - set: { seal: \"name || {{ secret.file('token') }}\", public: \"'as it is'\" }
      - sql: \"select id, {{ secret.file('token') }} as token, seal, public from input\"
";
    project.file("pipelines/p.yaml", stage(steps));
    for arguments in [&["plan", "p"][..], &["plan", "p", "--json"]] {
        let said = project.haul(arguments).expect(0);
        let said = said.stdout + &said.stderr;
        assert!(!said.contains("hush") && !said.contains("4711"), "{said}");
        for shown in [
            "filter: name = {{ secret.file('token') }}",
            "filter: a part of id > {{ env.LEAST | int }} and",
            "set: seal = name || {{ secret.file('token') }} (text)",
            "set: public = 'as it is' (text)",
            "sql: select id, {{ secret.file('token') }} as token",
        ] {
            assert!(said.contains(shown), "{shown}: {said}");
        }
    }
    project.file("pipelines/p.yaml", stage("      - set: { seal: \"id + date_trunc({{ secret.file('token') }}, note)\" }\n"));
    let said = project.haul(&["plan", "p"]).expect(2).stderr;
    assert!(said.contains("it holds a secret") && !said.contains("hush"), "{said}");
}

#[test]
fn another_salt_begins_a_cut_run_anew() {
    let project = Project::new();
    project.file("salt", "one");
    project.file("files/bad.csv", "id,name\n1,a\n2\n");
    project.file(
        "pipelines/p.yaml",
        format!(
            "{CONNECTIONS}  good:
    kind: batch
    from: {{ generate: 3, columns: {{ id: i, name: \"'user-' || i\" }} }}
    transform: [ {{ mask: {{ name: {{ hash: \"{{{{ secret.file('salt') }}}}\" }} }} }} ]
    to: {{ sql: db, table: good, mode: replace }}
  bad:
    kind: batch
    after: [good]
    from: {{ files: files, path: bad.csv }}
    to: {{ sql: db, table: bad, mode: replace }}
"
        ),
    );
    let name = || {
        let shop = Connection::open(project.path("shop.db")).expect("the database");
        shop.query_row("select name from good where id = 1", [], |row| row.get::<_, String>(0)).expect("a row")
    };
    project.haul(&["run", "p"]).expect(1);
    let before = name();
    project.file("salt", "two");
    project.file("files/bad.csv", "id,name\n1,a\n2,b\n");
    project.haul(&["run", "p"]).expect(0);
    assert_ne!(name(), before);
}

#[test]
fn what_is_wrong_in_a_template_is_pointed_at_in_the_file() {
    let project = Project::new();
    let line = "      - filter: \"{{ params.s }} = name or 'ö' = nope12\"";
    let place = |line: &str, word: &str| {
        let at = line.find(word).expect("the word");
        format!("pipelines/p.yaml:13:{}", line[..at].chars().count() + 1)
    };
    for (s, line, expected) in [
        ("x", line, place(line, "nope12")),
        ("a text that is longer than its tag", line, place(line, "nope12")),
        // What stands in no place of the file is told of the whole text.
        ("x", "      - filter: \"{{ params.c | ident }} = name\"", place("      - filter: \"", "\"")),
    ] {
        project.file(
            "pipelines/p.yaml",
            format!(
                "params:\n  s: {{ type: text, default: '{s}' }}\n  c: {{ type: text, default: nope12 }}
connections:\n  files: {{ url: 'file:files' }}\nstages:\n  p:\n    kind: batch
    # The name is wrong.
    from: {{ generate: 3, columns: {{ id: i, name: \"'n'\" }} }}
    to: {{ files: files, path: p.csv }}
    transform:\n{line}\n"
            ),
        );
        let said = project.haul(&["plan", "p"]).expect(2).stderr;
        assert!(said.contains("unknown column `nope12`") && said.contains(&expected), "{expected}: {said}");
    }
}
