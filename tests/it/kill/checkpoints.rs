//! Splits that commit as they go: every attempt goes on from the last checkpoint, with no row twice.

use std::cell::Cell;

use rusqlite::Connection;

use super::rows::{COUNT, Mode};
use super::sql::{Postgres, Sqlite};
use super::{PIPELINE, Target, torture};
use crate::support::{Project, postgres};

#[test]
fn sqlite_checkpoints() {
    let project = Project::new();
    let target = Sqlite { path: project.path("target.db"), mode: Mode::Append };
    let half_done = || {
        let database = Connection::open(project.path("target.db")).expect("the target");
        let count = database.query_row("select count(*) from haul_marks where position is not null", [], |row| row.get::<_, i64>(0));
        count.map_or(0, |count| count as u64)
    };
    survive(&project, "sqlite:target.db", "items", &target, &half_done);
}

#[test]
fn postgres_checkpoints() {
    let target = Postgres { url: postgres().fresh_database(), mode: Mode::Append };
    let half_done = || {
        let exists = postgres().sql(&target.url, "select to_regclass('haul_marks') is not null");
        let count = "select count(*) from haul_marks where position is not null";
        if exists == "t" { postgres().sql(&target.url, count).parse().expect("a number") } else { 0 }
    };
    survive(&Project::new(), &target.url, "public.items", &target, &half_done);
}

fn survive(project: &Project, to: &str, table: &str, target: &dyn Target, half_done: &dyn Fn() -> u64) {
    project.file(
        &format!("pipelines/{PIPELINE}.yaml"),
        format!(
            "connections:
  to: {{ url: \"{to}\" }}
stages:
  copy:
    kind: batch
    from:
      generate: {COUNT}
      columns: {{ id: i + 1, payload: \"'row ' || (i + 1) || ' ' || repeat('x', (i + 1) % 40) || '.'\" }}
    to: {{ sql: to, table: {table}, mode: append }}
    splits: {{ most: 20, bytes: 1KiB, concurrency: 3 }}
    batch: {{ rows: 25 }}
"
        ),
    );
    let counted = Counted { target, half_done, seen: Cell::new(0) };
    torture(project, &counted);
    assert!(counted.seen.get() > 0, "no kill has met a split between two checkpoints");
}

/// A target that counts the kills after which a split was committed in part.
struct Counted<'a> {
    target: &'a dyn Target,
    half_done: &'a dyn Fn() -> u64,
    seen: Cell<usize>,
}

impl Target for Counted<'_> {
    fn reset(&self) {
        self.target.reset();
    }

    fn after_kill(&self, recorded: u64) -> Result<(), String> {
        self.seen.set(self.seen.get() + usize::from((self.half_done)() > 0));
        self.target.after_kill(recorded)
    }

    fn at_end(&self) -> Result<(), String> {
        self.target.at_end()?;
        match (self.half_done)() {
            0 => Ok(()),
            splits => Err(format!("{splits} splits are marked in part after the end of the run")),
        }
    }
}
