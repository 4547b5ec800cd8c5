//! `docs/types.md`: what becomes of each type between each pair of systems. Each row of the page has moved its values, the awkward ones
//! included, through real servers and files before it is written; UPDATE_GOLDENS=1 renews it.

mod sources;

use std::fmt::Write as _;

use haul::data::{Grade, Mapped, Schema, Type};

use crate::conformance::{self, System};
use crate::support::loads::{self, assert_same_rows};
use crate::support::{golden, postgres};
use sources::{Rows, Source};

const INTRO: &str = "\
# Types

What becomes of a column on its way from one system to another. This page is made by a test, from what the connectors answer: every row has
moved its values through real servers and files, and read them back equal. Among the values are `NaN`, infinities, -0.0, dates before
the year 1 and without end, 24:00, empty and NULL texts, the ends of each range and NULL items of arrays.

A plain name is **exact**: the same values, the same meaning. A number behind it is **widened**: every value survives and reads back equal, in a
wider or looser type, for the reason below the table. Nothing on this page is lossy: columns that haul creates never are; an existing column may be, and
then the pipeline must name it in `allow_lossy`. Infinite dates and the time 24:00 have no place in Parquet, and are refused there as bad rows.

Between two tables of the same engine a column keeps its own type. What only one engine understands (a *native* type) goes to another one in
its text form.
";

/// The systems a page has a column for, in order.
const TARGETS: [&str; 5] = ["PostgreSQL", "SQLite", "CSV", "NDJSON", "Parquet"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_row_of_the_page_moves_its_values() {
    let mut page = INTRO.to_owned();
    for source in sources::all().await {
        table(&mut page, &source).await;
    }
    golden("../docs/types.md", &page);
}

/// One section of the page: a row for each type of a source.
async fn table(page: &mut String, source: &Source) {
    let mut cells = Vec::new();
    for name in TARGETS {
        cells.push(moved(source, name).await);
    }
    let mut reasons: Vec<String> = Vec::new();
    let heads = TARGETS.map(|name| format!("to {name}")).join(" | ");
    let _ = write!(page, "\n## From {}\n\n| {} | in haul | {heads} |\n|{}\n", source.name, source.head, "---|".repeat(TARGETS.len() + 2));
    for (place, (label, column)) in source.labels.iter().zip(&source.own.schema.columns).enumerate() {
        let _ = write!(page, "| {label} | {} |", named(&column.ty));
        for target in &cells {
            let mapped: &Mapped = &target[place];
            let _ = match mapped.grade {
                Grade::Exact => write!(page, " `{}` |", mapped.native),
                Grade::Widened => write!(page, " `{}` {} |", mapped.native, number(&mut reasons, &mapped.reason)),
                Grade::Lossy => panic!("{label} as {}: {}", mapped.native, mapped.reason),
            };
        }
        page.push('\n');
    }
    page.push('\n');
    for (place, reason) in reasons.iter().enumerate() {
        let _ = writeln!(page, "{}. {reason}", place + 1);
    }
}

fn named(ty: &Type) -> String {
    match ty {
        Type::Native { .. } => "native".to_owned(),
        ty => ty.to_string(),
    }
}

/// The number of a reason on the page, in parentheses.
fn number(reasons: &mut Vec<String>, reason: &str) -> String {
    let place = reasons.iter().position(|known| known == reason).unwrap_or_else(|| {
        reasons.push(reason.to_owned());
        reasons.len() - 1
    });
    format!("({})", place + 1)
}

/// Moves all of a source's rows into a target that did not exist, and gives what each column became.
async fn moved(source: &Source, target: &str) -> Vec<Mapped> {
    let Rows { schema, batch } = source.rows_for(target);
    let system = system(target, source);
    let sink = (system.sink)(&system.modes[0]);
    let shown = |what: &str| format!("{} to {target}: {what}", source.name);
    let planned = sink.plan(schema).await.expect("a plan").unwrap_or_else(|problems| panic!("{}", shown(&format!("{problems:?}"))));
    let load = loads::load(&sink, "run 1", schema, batch).await.unwrap_or_else(|failure| panic!("{}", shown(&failure.to_string())));
    assert_same_rows(&loads::read_back(&sink, &load).await.expect("rows"), batch);
    reads_equal(&system, schema, batch, &planned.columns).await;
    planned.columns
}

/// Whoever reads the target next finds the same values in every column that has kept its type.
async fn reads_equal(system: &System, schema: &Schema, batch: &arrow::record_batch::RecordBatch, mapped: &[Mapped]) {
    let (rows, rejects) = loads::read(&(system.source)(schema), Default::default(), 4).await.expect("rows");
    assert_eq!(rejects, []);
    let found = Schema::from_arrow(&rows.schema()).expect("logical columns").columns;
    for (place, (found, sent)) in found.iter().zip(&schema.columns).enumerate() {
        if found.ty == sent.ty && !(system.lacks)(&sent.ty) {
            let (found, sent) = (rows.project(&[place]).expect("a column"), batch.project(&[place]).expect("a column"));
            assert_eq!(loads::values(&found), loads::values(&sent), "{:?}: {found:?}\nsent {sent:?}", mapped[place]);
        }
    }
}

fn system(target: &str, source: &Source) -> System {
    match target {
        // The types a database of the source's has of its own are there in the target too.
        "PostgreSQL" => {
            let url = postgres().fresh_database();
            if source.name == "PostgreSQL" {
                postgres().sql(&url, sources::OWN_TYPES);
            }
            conformance::postgresql_at(&url)
        }
        "SQLite" => conformance::sqlite(),
        "CSV" => conformance::csv_file(),
        "NDJSON" => conformance::ndjson_folder(),
        "Parquet" => conformance::parquet_file(),
        other => panic!("no such system: {other}"),
    }
}
