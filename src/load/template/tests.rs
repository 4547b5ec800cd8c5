use datafusion::sql::sqlparser;
use proptest::prelude::*;
use sqlparser::ast::{Expr, SelectItem, SetExpr, Statement, UnaryOperator, Value as Literal};

use super::*;

const DIALECTS: [Dialect; 3] = [Dialect::Postgres, Dialect::Sqlite, Dialect::DataFusion];

fn context(params: &[(&str, Value)]) -> Context {
    Context {
        params: params.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        env: Arc::new(|name| (name == "REGION").then(|| "emea".to_owned())),
        base: PathBuf::from("."),
        run: Some(Run {
            id: "r1".to_owned(),
            started_at: "2026-01-31T04:05:06Z".to_owned(),
            scheduled_at: "2026-01-01T00:00:00Z".to_owned(),
            interval_start: "2025-12-31T00:00:00Z".to_owned(),
        }),
        pipeline: "orders".to_owned(),
        event: None,
    }
}

fn sql(text: &str, dialect: Dialect, params: &[(&str, Value)]) -> Result<String, String> {
    render(text, Target::Sql(dialect), &context(params)).map(|rendered| rendered.text).map_err(said)
}

fn text(text: &str, params: &[(&str, Value)]) -> Result<String, String> {
    render(text, Target::Text, &context(params)).map(|rendered| rendered.text).map_err(said)
}

fn said(problem: Problem) -> String {
    format!("{}: {}; {}", problem.code, problem.message, problem.help.unwrap_or_default())
}

fn typed() -> Vec<(&'static str, Value)> {
    vec![
        ("t", Value::Text("it's".to_owned())),
        ("i", Value::Int(-5)),
        ("n", Value::number("12.50").expect("a number")),
        ("b", Value::Bool(true)),
        ("d", Value::date("2020-01-01").expect("a date")),
        ("at", Value::timestamp("2020-01-01T01:00:00.5+01:00").expect("an instant")),
        ("s", Value::Secret("hush".to_owned())),
    ]
}

#[test]
fn values_become_typed_literals_of_each_dialect() {
    let all = "{{ params.t }} , {{ params.i }} , {{ params.n }} , {{ params.b }} , {{ params.d }} , {{ params.at }} , {{ none }}";
    let check = |dialect, expected: &str| assert_eq!(sql(all, dialect, &typed()).as_deref(), Ok(expected));
    check(Dialect::Postgres, "'it''s' , -5 , 12.50 , true , DATE '2020-01-01' , TIMESTAMPTZ '2020-01-01T00:00:00.5Z' , NULL");
    check(Dialect::Sqlite, "'it''s' , -5 , 12.50 , 1 , '2020-01-01' , '2020-01-01T00:00:00.5Z' , NULL");
    check(Dialect::DataFusion, "'it''s' , -5 , 12.50 , true , DATE '2020-01-01' , '2020-01-01T00:00:00.5Z' , NULL");
    assert_eq!(text("{{ params.t }} {{ params.d }} {{ params.n }} {{ params.b }}", &typed()).as_deref(), Ok("it's 2020-01-01 12.50 true"));
}

#[test]
fn lists_names_and_signs_stand_on_their_own() {
    let check =
        |template: &str, expected: &str| assert_eq!(sql(template, Dialect::Postgres, &typed()).as_deref(), Ok(expected), "{template}");
    check("a in ({{ 'x,y' | split(',') }})", "a in ('x', 'y')");
    check("a in ({{ [1, none, params.d] }})", "a in (1, NULL, DATE '2020-01-01')");
    check("select s.{{ 'a\"b' | ident }}", "select s.\"a\"\"b\"");
    check("5 -{{ params.i }}", "5 - -5");
    check("a = {{ params.missing | default('x') }}", "a = 'x'");
    check("{% for x in [1, 2] %}{{ x }},{% endfor %}3", "1,2,3");
    check("{% if params.b %}a = {{ params.i }}{% else %}true{% endif %}", "a = -5");
    check("a = {{ env.REGION | upper }}", "a = 'EMEA'");
}

#[test]
fn no_expression_stands_inside_another_token() {
    let refused = |template: &str, message: &str| {
        let found = check(template, Target::Sql(Dialect::Postgres)).map_err(said).expect_err(template);
        assert!(found.contains(message), "{template}: {found}");
    };
    refused("a = '{{ params.t }}'", "inside quotes; remove the quotes");
    refused("select \"{{ params.t }}\"", "inside a quoted name");
    refused("1 -- {{ params.t }}", "inside an SQL comment");
    refused("1 /* {{ params.t }} */", "inside an SQL comment");
    refused("$$ {{ params.t }} $$", "inside quotes");
    refused("E{{ params.t }}", "stands against another word");
    refused("{{ params.t }}{{ params.t }}", "stands against another word");
    refused("{{ params.t | safe }}", "no value enters SQL unquoted");
    refused("{% include 'x' %}", "not part of haul's templates");
    refused("{% macro m() %}{% endmacro %}", "not part of haul's templates");
    refused("{% autoescape true %}{% endautoescape %}", "not part of haul's templates");
}

#[test]
fn what_only_a_render_shows_is_refused_by_the_render() {
    // Each branch is balanced only together with the other one.
    let template = "{% if params.b %}'{% endif %}{% if not params.b %}'{% endif %} {{ params.t }}";
    assert!(sql(template, Dialect::Postgres, &typed()).is_err_and(|said| said.contains("inside quotes")));
    let glued = "E{% if params.b %}{{ params.t }}{% endif %}";
    assert!(sql(glued, Dialect::Postgres, &typed()).is_err_and(|said| said.contains("stands against another word")));
    // A block's text is a value like any other one.
    let block = "{% set x %}a' or 'b{% endset %}{{ x }}";
    assert_eq!(sql(block, Dialect::Postgres, &[]).as_deref(), Ok("'a'' or ''b'"));
    let block = "{% set x %}{{ params.t }}{% endset %}{{ x }}";
    assert!(sql(block, Dialect::Postgres, &typed()).is_err());
    let block = "{% set x %}{{ params.t }}{% endset %}select 1";
    assert!(sql(block, Dialect::Postgres, &typed()).is_err_and(|said| said.contains("rendered into a block")));
}

#[test]
fn names_are_checked_without_values() {
    let uses = check("{{ params.since }} {{ env['X'] | default(env.HOME) }}", Target::Text).map_err(said);
    assert_eq!(uses, Err("template-name: `env` stands alone; its parts are named with a dot; write for example `env.HOME`".to_owned()));
    let template = "{% set y = params.since %}{{ y }} {{ env.HOME }} {{ secret.file('a') }} {{ run.id }} {{ pipeline.name }}";
    let uses = check(template, Target::Text).expect("a good template");
    assert_eq!(uses.params.keys().collect::<Vec<_>>(), ["since"]);
    assert_eq!(&template[uses.params["since"].clone()], "params.since");
    assert_eq!(&template[uses.env["HOME"].clone()], "env.HOME");
    assert!(uses.secret && uses.run && uses.run_id);
    assert!(check("{{ run.started_at }}", Target::Text).is_ok_and(|uses| uses.run && !uses.run_id));
    let refused = |template: &str, expected: &str| {
        let problem = check(template, Target::Text).expect_err(template);
        let at = problem.span.clone().map_or("", |span| &template[span]);
        assert_eq!(format!("{at} | {}", said(problem)), expected);
    };
    refused("a {{ parms.x }}", "parms.x | template-name: unknown name `parms` in a template; did you mean `params`?");
    refused("{{ run.ids }}", "run.ids | template-name: `run` has no `ids`; did you mean `id`?");
    refused("{{ 'a' | uper }}", "uper | template-filter: unknown filter `uper`; did you mean `upper`?");
    refused("{{ params.x is defned }}", "defned | template-syntax: unknown test `defned`; did you mean `defined`?");
    refused("{{ params.x | ident }}", "ident | template-filter: `| ident` quotes a name for SQL, and this is not SQL; remove it");
}

#[test]
fn a_syntax_error_has_a_place_and_a_reason() {
    let problem = check("one\n{{ params. }}", Target::Text).expect_err("no template");
    assert_eq!(problem.code, "template-syntax");
    assert!(problem.span.is_some_and(|span| span.start >= 4), "{}", problem.message);
}

#[test]
fn missing_values_say_what_is_missing() {
    assert_eq!(
        text("{{ env.NOPE }}", &[]),
        Err("template-undefined: the environment variable `NOPE` is not set; set it, or write `{{ env.NOPE | default('…') }}`".to_owned())
    );
    assert_eq!(
        text("{{ params.since }}", &[]),
        Err("template-undefined: the param `since` has no value; give it a default, or pass `--param since=…`".to_owned())
    );
    assert_eq!(text("{{ env.NOPE | default('x') }}", &[]).as_deref(), Ok("x"));
    let outside = Context { run: None, ..context(&[]) };
    assert!(render("{{ run.id }}", Target::Text, &outside).is_err_and(|problem| problem.message == "`run.id` is known in a run only"));
}

#[test]
fn secrets_are_reported_and_never_told() {
    let secret = |template: &str| render(template, Target::Text, &context(&typed())).expect("a text").secret;
    assert!(secret("{{ params.s }}") && secret("{{ env.REGION }}"));
    assert!(!secret("{{ params.t }} {{ run.id }}"));
    let rendered = render("{{ params.s }}", Target::Text, &context(&typed())).expect("a text");
    assert_eq!(rendered.text, "hush");
    assert!(!format!("{rendered:?}").contains("hush"));
    let told = text("{{ params.s | int }}", &typed()).expect_err("no number");
    assert!(!told.contains("hush"), "{told}");
}

#[test]
fn secret_files_stay_below_the_base() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("base")).expect("a folder");
    std::fs::write(folder.path().join("base/salt"), "pepper\n").expect("a file");
    std::fs::write(folder.path().join("outside"), "x").expect("a file");
    #[cfg(unix)]
    std::os::unix::fs::symlink(folder.path().join("outside"), folder.path().join("base/link")).expect("a link");
    let context = Context { base: folder.path().join("base"), ..context(&[]) };
    let read = |path: &str| render(&format!("{{{{ secret.file('{path}') }}}}"), Target::Text, &context).map_err(said);
    assert_eq!(read("salt").map(|rendered| (rendered.text, rendered.secret)), Ok(("pepper".to_owned(), true)));
    assert!(read("nope").is_err_and(|said| said.contains("the secret file `nope` cannot be read")));
    assert!(read("../outside").is_err_and(|said| said.contains("leaves the project's folder")));
    assert!(read("link").is_err_and(|said| said.contains("leaves the project's folder")));
    assert!(read(&folder.path().join("outside").display().to_string()).is_ok());
}

#[test]
fn renders_are_bounded() {
    let deep = format!("{}x{}", "{% for a in [1,2,3,4,5,6,7,8,9,10] %}".repeat(8), "{% endfor %}".repeat(8));
    assert!(text(&deep, &[]).is_err_and(|said| said.starts_with("template-limit: the template takes too many steps")));
    let long = [("t", Value::Text("x".repeat(600_000)))];
    assert!(text("{{ params.t }}{{ params.t }}", &long).is_err_and(|said| said.contains("more than 1048576 bytes")));
}

#[test]
fn values_without_a_form_are_refused() {
    for template in ["{{ [] }}", "{{ {'a': 1} }}", "{{ [[1]] }}", "{{ 'a\\u0000b' }}", "{{ 1e400 }}"] {
        assert!(sql(template, Dialect::Postgres, &[]).is_err(), "{template}");
    }
    assert!(text("{{ [1] }}", &[]).is_err_and(|said| said.contains("join")));
    assert!(text("{{ none }}", &[]).is_err());
}

/// What an independent parser reads in `select …`: exactly one item.
fn read_back(dialect: Dialect, sql: &str) -> Expr {
    let parsed = match dialect {
        Dialect::Postgres => sqlparser::parser::Parser::parse_sql(&sqlparser::dialect::PostgreSqlDialect {}, sql),
        Dialect::Sqlite => sqlparser::parser::Parser::parse_sql(&sqlparser::dialect::SQLiteDialect {}, sql),
        Dialect::DataFusion => sqlparser::parser::Parser::parse_sql(&sqlparser::dialect::GenericDialect {}, sql),
    };
    let mut statements = parsed.unwrap_or_else(|error| panic!("{sql}: {error}"));
    assert_eq!(statements.len(), 1, "{sql}");
    let Statement::Query(query) = statements.remove(0) else { panic!("{sql}") };
    let SetExpr::Select(select) = *query.body else { panic!("{sql}") };
    assert!(select.from.is_empty() && select.selection.is_none(), "{sql}");
    assert_eq!(select.projection.len(), 1, "{sql}");
    let Some(SelectItem::UnnamedExpr(expr)) = select.projection.into_iter().next() else { panic!("{sql}") };
    expr
}

/// Texts that try: quotes, backslashes, comments, tags, dollar quotes, controls.
fn hostile() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("'".to_owned()),
        Just("\\".to_owned()),
        Just("--".to_owned()),
        Just("/*".to_owned()),
        Just("*/".to_owned()),
        Just("$$".to_owned()),
        Just("\"".to_owned()),
        Just("{{".to_owned()),
        Just("%}".to_owned()),
        Just("; drop table x".to_owned()),
        Just("\n".to_owned()),
        any::<char>().prop_map(String::from),
        any::<String>(),
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_text_breaks_out(value in hostile()) {
        for dialect in DIALECTS {
            let rendered = sql("select {{ params.x }}", dialect, &[("x", Value::Text(value.clone()))]);
            if value.contains('\0') {
                prop_assert!(rendered.is_err());
                continue;
            }
            let rendered = rendered.expect("a text without NUL renders");
            let Expr::Value(literal) = read_back(dialect, &rendered) else { panic!("{rendered}") };
            let (Literal::SingleQuotedString(read) | Literal::EscapedStringLiteral(read)) = literal.value else { panic!("{rendered}") };
            prop_assert_eq!(&read, &value);
            if dialect == Dialect::Sqlite {
                let connection = rusqlite::Connection::open_in_memory().expect("a database");
                let read: String = connection.query_row(&rendered, [], |row| row.get(0)).expect("one row");
                prop_assert_eq!(&read, &value);
            }
        }
    }

    #[test]
    fn no_name_breaks_out(value in hostile()) {
        for dialect in DIALECTS {
            let Ok(rendered) = sql("select {{ params.x | ident }}", dialect, &[("x", Value::Text(value.clone()))]) else {
                prop_assert!(value.is_empty() || value.contains('\0') || (dialect == Dialect::Postgres && value.len() > 63));
                continue;
            };
            let Expr::Identifier(name) = read_back(dialect, &rendered) else { panic!("{rendered}") };
            prop_assert_eq!(name.quote_style, Some('"'));
            prop_assert_eq!(&name.value, &value);
        }
    }

    #[test]
    fn whole_numbers_stay_numbers(value in any::<i64>()) {
        for dialect in DIALECTS {
            let rendered = sql("select {{ params.x }}", dialect, &[("x", Value::Int(value))]).expect("a number");
            let (sign, literal) = match read_back(dialect, &rendered) {
                Expr::UnaryOp { op: UnaryOperator::Minus, expr } => ("-", *expr),
                expr => ("", expr),
            };
            let Expr::Value(literal) = literal else { panic!("{rendered}") };
            let Literal::Number(digits, _) = literal.value else { panic!("{rendered}") };
            prop_assert_eq!(format!("{sign}{digits}"), value.to_string());
        }
    }
}
