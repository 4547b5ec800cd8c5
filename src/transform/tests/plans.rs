//! What is known before the run: problems, and what moves into the source.

use super::*;

async fn problems(steps: &[Step]) -> Vec<String> {
    let problems = compile(&inputs(&orders().0), steps, None, &Tables::new()).await.expect_err("problems");
    let place = |problem: &Problem, sql: Option<&str>| match (&problem.span, sql) {
        (Some(span), Some(sql)) => format!("{} `{}`", problem.at, &sql[span.clone()]),
        _ => problem.at.clone(),
    };
    let sql = steps.iter().find_map(|step| match step {
        Step::Filter(expr) | Step::Sql(expr) => Some(expr.sql.as_str()),
        Step::Set(columns) => columns.first().map(|(_, expr)| expr.sql.as_str()),
        _ => None,
    });
    let said = |problem: &Problem| {
        let help = problem.help.as_ref().map(|help| format!("; {help}")).unwrap_or_default();
        format!("{}: {}: {}{help}", problem.code, place(problem, sql), problem.message)
    };
    problems.iter().map(said).collect()
}

#[tokio::test]
async fn problems_say_what_where_and_how() {
    let check = |steps: Vec<Step>, expected: &'static [&'static str]| async move { assert_eq!(problems(&steps).await, expected) };
    check(vec![filter("statsu = 'a'")], &["transform-column: /step `statsu`: unknown column `statsu`; did you mean `status`?"]).await;
    check(vec![filter("\"total\" > 1")], &["transform-column: /step `\"total\"`: unknown column `total`; did you mean `Total`?"]).await;
    check(vec![filter("id + 1")], &["transform-type: /step: a filter is true or false; this is int64; compare it with something"]).await;
    check(vec![filter("id = ")], &["transform-syntax: /step ``: the SQL does not parse: expected: an expression, found: EOF"]).await;
    check(vec![filter("uper(status) = 'A'")], &["transform-function: /step `uper`: unknown function `uper`; did you mean `upper`?"]).await;
    check(
        vec![filter("number > 1")],
        &["transform-type: /step `number`: column `number` is a decimal without precision, which an expression cannot compute with; \
           write `cast(number as decimal(38,10))`, with the digits it needs"],
    )
    .await;
    check(
        vec![filter("placed_at < now()")],
        &["transform-function: /step `now`: `now` gives another value each time, so a retried split would not give the same rows; \
           for the time of the run write `cast({{ run.started_at }} as timestamptz)`"],
    )
    .await;
    check(
        vec![set(&[("n", "count(*)")])],
        &["transform-function: /step `count`: `count` looks at more than one row; use a `sql` step, such as `select …, count(*) from input group by …`"],
    )
    .await;
    check(vec![filter("exists (select 1)")], &["transform-syntax: /step: a subquery cannot stand here; use a `sql` step"]).await;
    check(vec![query("select nme from ordrs")], &["transform-table: /step `ordrs`: unknown table `ordrs`; did you mean `orders`?"]).await;
    check(vec![query("select statsu from orders")], &["transform-column: /step `statsu`: unknown column `statsu`; did you mean `status`?"])
        .await;
    check(
        vec![query("select id, id from orders a")],
        &["transform-type: /step: projections require unique expression names but the expression \"a.id\" at position 0 and \"a.id\" at position 1 have the same name. Consider aliasing (\"AS\") one of them."],
    )
    .await;
    check(
        vec![Step::Select(names(&["id", "nope"])), Step::Drop(names(&["id"])), cast(&[("status", Type::Int(8))])],
        &[
            "transform-column: /step/nope: unknown column `nope`; the columns are `id`, `Total`, `status`, `placed_at`, `day`, `number`, `ref`, `doc`, `paid`",
            "transform-column: /step/id: no column is left; drop fewer columns",
            "transform-column: /step/status: unknown column `status`; the columns are ",
        ],
    )
    .await;
    check(
        vec![cast(&[("ref", Type::Int(8))])],
        &["transform-type: /step/ref: there is no cast from uuid to int8; cast to text first, or leave the column as it is"],
    )
    .await;
    // What follows from a problem is not a problem of its own.
    check(
        vec![set(&[("x", "nope + 1")]), filter("x > 1"), cast(&[("x", Type::Uuid)])],
        &["transform-column: /step `nope`: unknown column `nope`; the columns are `id`, `Total`, `status`, `placed_at`, `day`, `number`, `ref`, `doc`, `paid`"],
    )
    .await;
}

async fn raw_problems(steps: &[Step]) -> Vec<Problem> {
    compile(&inputs(&orders().0), steps, None, &Tables::new()).await.expect_err("problems")
}

#[tokio::test]
async fn the_caret_stands_under_the_use_that_is_at_fault() {
    for (step, word, at) in [
        (query("select a.id from orders a join orders b on a.id = b.id where id > 3"), "id", 61),
        (query("select orders.statsu, status as statsu from orders"), "statsu", 14),
        (query("select status as nope, a.status as n from orders a where nope > 1 and a.nope > 1"), "nope", 57),
        (query("select 1 as \"uper\", uper(status) as x from orders"), "uper", 20),
        (query("select ordrs.id from ordrs"), "ordrs", 7),
        (query("select 1 as ordrs from ordrs"), "ordrs", 23),
        (query("select a.id as number from orders a order by number + 1, a.number"), "number", 59),
        (filter("upper(status) = 'A' and upper > 1"), "upper", 24),
        (filter("status <> 'é' and status = upper(status) and uper(status) = 'uper'"), "uper", 46),
    ] {
        let (Step::Filter(expr) | Step::Sql(expr)) = &step else { unreachable!("the steps above") };
        let problems = raw_problems(std::slice::from_ref(&step)).await;
        let spans: Vec<_> = problems.iter().map(|problem| problem.span.clone()).collect();
        assert_eq!(spans, [Some(at..at + word.len())], "{}: {problems:?}", expr.sql);
        assert_eq!(&expr.sql[at..at + word.len()], word);
    }
}

#[tokio::test]
async fn only_what_follows_from_a_problem_is_left_out() {
    let steps = [
        set(&[("n", "bad(1)")]),
        filter("statsu = 'n'"),
        filter("n > 1 and day = 'n' + paid"),
        filter("n"),
        filter("n > 1 and (status = )"),
        filter("n > 1 and statsu = 'x'"),
        filter("id + 1"),
    ];
    let said: Vec<String> = raw_problems(&steps).await.into_iter().map(|problem| problem.message).collect();
    assert_eq!(
        said,
        [
            "unknown function `bad`",
            "unknown column `statsu`",
            "the SQL does not parse: expected: an expression, found: )",
            "unknown column `statsu`",
            "a filter is true or false; this is int64",
        ]
    );
}

#[tokio::test]
async fn decimals_without_precision_are_not_ordered_or_told_apart() {
    for sql in [
        "select id from orders order by number",
        "select number from orders group by number",
        "select distinct number from orders",
        "select distinct on (number) number, id from orders",
        "select distinct on (id) number, id from orders order by id, number",
        "select number from orders union select number from orders",
        "select number from orders except all select number from orders",
        "select a.id from orders a join orders b using (number)",
        "select count(distinct number) as n from orders",
        "select id from (select id, number as n from orders) as a order by n",
    ] {
        let said = problems(&[query(sql)]).await;
        assert!(said[0].contains("is a decimal without precision") && said[0].contains("write `cast("), "{sql}: {said:?}");
    }
    assert_eq!(
        problems(&[dedupe(&["id", "NUMBER"])]).await,
        ["transform-type: /step: column `number` is a decimal without precision, which an expression cannot compute with; \
          write `cast(number as decimal(38,10))`, with the digits it needs"]
    );
    for sql in [
        "select count(number) as n from orders",
        "select number from orders union all select number from orders",
        "select distinct cast(number as decimal(10,2)) as number from orders order by number",
        "select id from orders where number is not null",
    ] {
        assert!(!compiled(&[query(sql)]).await.rowwise(), "{sql}");
    }
}

#[tokio::test]
async fn what_holds_a_secret_is_shown_as_it_is_written() {
    let secret = |sql: &str, written: &str| Expr { written: Some(written.to_owned()), ..expr(sql) };
    let steps = [Step::Filter(secret("ID > 4711", "ID > {{ s }}")), Step::Filter(secret("id < 4711 and status like 'hush'", "{{ t }}"))];
    let compiled = compile(&inputs(&orders().0), &steps, Some(Dialect::Postgres), &Tables::new()).await.expect("compiled");
    assert_eq!(compiled.pushed().text, ["filter: ID > {{ s }}", "filter: a part of {{ t }}"]);
    assert_eq!(compiled.pushed().filter.as_deref(), Some("\"id\" > 4711 AND \"id\" < 4711"));
    assert_eq!(compiled.describe(), ["filter: ID > {{ s }} (by the source)", "filter: {{ t }}"]);
    let wrong = [Step::Filter(secret("id > 'hush' + 1 )", "{{ s }}"))];
    let said = problems(&wrong).await;
    assert!(said[0].contains("it holds a secret") && !said[0].contains("hush"), "{said:?}");
}

#[tokio::test]
async fn leading_steps_move_into_the_source() {
    let mut schema = orders().0;
    for column in &mut schema.columns {
        column.native.get_or_insert_with(|| "its own".to_owned());
    }
    let compiled =
        async |steps: &[Step]| compile(&inputs(&schema), steps, Some(Dialect::Postgres), &Tables::new()).await.expect("compiled");
    let all =
        compiled(&[filter("total > 1"), Step::Drop(names(&["doc", "ref"])), filter("paid"), Step::Select(names(&["total", "id"]))]).await;
    assert!(all.is_identity() && all.rowwise());
    assert_eq!(all.pushed().filter.as_deref(), Some("\"Total\" > 1 AND \"paid\""));
    assert_eq!(all.pushed().columns.as_deref(), Some(["Total".to_owned(), "id".to_owned()].as_slice()));
    assert_eq!(all.pushed().text, ["filter: \"Total\" > 1", "filter: \"paid\"", "columns: Total, id"]);
    assert_eq!(all.schema().columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>(), ["Total", "id"]);
    assert_eq!(all.describe()[0], "filter: total > 1 (by the source)");
    // What the source cannot decide ends it, and is done here.
    let part = compiled(&[filter("id > 1 and status like 'n%'"), filter("id > 2"), Step::Select(names(&["id"]))]).await;
    assert!(!part.is_identity());
    assert_eq!(
        part.pushed(),
        &Pushed { columns: None, filter: Some("\"id\" > 1".to_owned()), text: vec!["filter: \"id\" > 1".to_owned()] }
    );
    assert_eq!(part.describe(), ["filter: id > 1 and status like 'n%'", "filter: id > 2", "select: id"]);
    // Behind a step that changes columns or rows, nothing is the source's any more.
    for first in [set(&[("id", "id * 2")]), Step::Rename(Vec::new()), query("select * from orders limit 1"), dedupe(&["ref"])] {
        assert_eq!(compiled(&[first, filter("id > 1")]).await.pushed(), &Pushed::default());
    }
    let several = [inputs(&orders().0), vec![InputColumns { name: "b".to_owned(), schema: orders().0 }]].concat();
    let join =
        compile(&several, &[query("select a.id from orders a, b")], Some(Dialect::Postgres), &Tables::new()).await.expect("compiled");
    assert_eq!(join.pushed(), &Pushed::default());
}

#[tokio::test]
async fn what_holds_a_secret_is_only_quoted_from_the_file() {
    let masked = "the SQL is wrong here; it holds a secret, so what is wrong is not quoted";
    let tag = "{{ secret.file('x') | ident }}";
    let secret = |sql: &str, filter: bool| {
        let expr = Expr { sql: sql.replace(tag, "hunter2"), written: Some(sql.to_owned()), at: "/step".to_owned() };
        if filter { Step::Filter(expr) } else { Step::Sql(expr) }
    };
    for (sql, filter, expected) in [
        ("{{ secret.file('x') | ident }} = 1", true, masked),
        ("{{ secret.file('x') | ident }}(id) = 1", true, masked),
        ("{{ secret.file('x') | ident }}.id = 1", true, masked),
        ("select {{ secret.file('x') | ident }} from orders", false, masked),
        ("select * from {{ secret.file('x') | ident }}", false, masked),
        ("statsu = '{{ secret.file('x') | ident }}'", true, "unknown column `statsu`"),
        ("select statsu from orders where status = '{{ secret.file('x') | ident }}'", false, "unknown column `statsu`"),
    ] {
        let problems = compile(&inputs(&orders().0), &[secret(sql, filter)], None, &Tables::new()).await.expect_err(sql);
        assert_eq!(problems[0].message, expected, "{sql}");
        assert!(!format!("{problems:?}").contains("hunter2"), "{sql}: {problems:?}");
    }
}
