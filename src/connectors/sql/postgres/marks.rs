//! The ledger: two tables beside the target that say which load is being written and which of its splits have been committed.
//!
//! A load's row is the lock of the protocol. A writer holds it shared from just before it marks its split until its transaction ends; who
//! takes the load over, prepares or publishes it holds it alone. So once a claim has raised the epoch, no older writer can commit, and who
//! holds the row alone sees every mark there will ever be.

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::catalog::{ident, quoted};
use super::error::failure;
use super::session::Session;
use crate::connectors::{Claim, FoundLoad, Load, LoadKey, Mark};
use crate::data::Position;
use crate::failure::{Failure, FailureKind};

/// Version of the tables, kept in the comment on `haul_loads`.
const VERSION: &str = "haul ledger, version 2";
/// The version before marks had positions; `ensure` brings it up to date.
const WITHOUT_POSITIONS: &str = "haul ledger, version 1";

/// The advisory lock under which the tables are created; any number that nobody else uses.
const CREATION_LOCK: i64 = 7_018_974_531_201;

/// The ledger in one schema.
#[derive(Clone)]
pub(super) struct Ledger {
    schema: String,
    loads: String,
    marks: String,
}

/// What a load's row says.
pub(super) struct LoadRow {
    pub run: String,
    pub plan_hash: String,
    pub epoch: i64,
    pub state: State,
    pub note: String,
    /// The staging table, unquoted, in the ledger's schema.
    pub staging: Option<String>,
    /// Whether the load created its target.
    pub created: bool,
}

/// How far a load has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Taken over, nothing prepared.
    Claimed,
    /// Prepared; splits are being written.
    Writing,
    /// Visible and finished.
    Published,
    /// Given up.
    Abandoned,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Claimed => "claimed",
            Self::Writing => "writing",
            Self::Published => "published",
            Self::Abandoned => "abandoned",
        }
    }

    fn of(text: &str) -> Option<Self> {
        [Self::Claimed, Self::Writing, Self::Published, Self::Abandoned].into_iter().find(|state| state.as_str() == text)
    }
}

impl Ledger {
    /// The ledger of a schema, by its unquoted name.
    pub(super) fn of(schema: &str) -> Result<Self, Failure> {
        let name = |table: &str| quoted(&[schema.to_owned(), table.to_owned()]);
        Ok(Self { schema: schema.to_owned(), loads: name("haul_loads")?, marks: name("haul_marks")? })
    }

    /// Whether the tables exist, as this version knows them.
    pub(super) async fn exists(&self, session: &mut Session) -> Result<bool, Failure> {
        let comment: Option<String> =
            sqlx::query_scalar("select coalesce(obj_description(to_regclass($1), 'pg_class'), '') where to_regclass($1) is not null")
                .bind(&self.loads)
                .fetch_optional(session.raw())
                .await
                .map_err(failure)?;
        match comment.as_deref() {
            None | Some(WITHOUT_POSITIONS) => Ok(false),
            Some(VERSION) => Ok(true),
            Some(other) => {
                Err(Failure::permanent(format!("the table {} is not one this version knows: its comment is `{other}`", self.loads))
                    .help(format!("update haul, or drop haul_loads and haul_marks when no load is unfinished; expected `{VERSION}`")))
            }
        }
    }

    /// Creates the tables when they are missing, and brings those of an earlier version up to date. Of several that try at once, one creates and the others wait.
    pub(super) async fn ensure(&self, session: &mut Session) -> Result<(), Failure> {
        if self.exists(session).await? {
            return Ok(());
        }
        let Self { schema, loads, marks } = self;
        let of_schema = ident(schema)?;
        session
            .run(format!(
                "begin; select pg_advisory_xact_lock({CREATION_LOCK});
                 create table if not exists {loads} (
                   pipeline text not null, stage text not null, output integer not null, run text not null, plan_hash text not null,
                   epoch bigint not null, state text not null, note text not null default '', staging text, created boolean not null default false,
                   started_at timestamptz not null default now(), changed_at timestamptz not null default now(),
                   primary key (pipeline, stage, output));
                 create table if not exists {marks} (
                   pipeline text not null, stage text not null, output integer not null, split text not null, rows bigint not null,
                   digest text not null, rejects bigint not null, epoch bigint not null, committed_at timestamptz not null default clock_timestamp(),
                   primary key (pipeline, stage, output, split),
                   foreign key (pipeline, stage, output) references {loads} on delete cascade);
                 alter table {marks} add column if not exists position text;
                 comment on table {loads} is '{VERSION}'; commit"
            ))
            .await
            .map_err(|failure| match failure.kind {
                FailureKind::Permanent => failure
                    .during(format_args!("creating haul_loads and haul_marks in the schema {of_schema}"))
                    .help(format!("grant it: `grant create on schema {of_schema} to …`")),
                _ => failure,
            })?;
        Ok(())
    }

    /// The load's row, locked alone for the rest of the transaction.
    pub(super) async fn lock(&self, session: &mut Session, key: &LoadKey) -> Result<Option<LoadRow>, Failure> {
        self.row(session, key, "for update").await
    }

    /// The load's row as it is.
    pub(super) async fn look(&self, session: &mut Session, key: &LoadKey) -> Result<Option<LoadRow>, Failure> {
        self.row(session, key, "").await
    }

    async fn row(&self, session: &mut Session, key: &LoadKey, lock: &str) -> Result<Option<LoadRow>, Failure> {
        let sql = format!(
            "select run, plan_hash, epoch, state, note, staging, created from {} where pipeline = $1 and stage = $2 and output = $3 {lock}",
            self.loads
        );
        let query = sqlx::query(&sql).bind(&key.pipeline).bind(&key.stage).bind(key.output as i32);
        let row = query.fetch_optional(session.raw()).await.map_err(failure)?;
        row.map(|row| load_row(&row).map_err(failure)).transpose()
    }

    /// Takes the load over. Runs in a transaction of its own.
    pub(super) async fn claim(&self, session: &mut Session, key: &LoadKey) -> Result<Claim, Failure> {
        session.run("begin; set local lock_timeout = '2min'").await?;
        let insert = format!(
            "insert into {} (pipeline, stage, output, run, plan_hash, epoch, state) values ($1, $2, $3, $4, $5, 0, $6) on conflict do nothing",
            self.loads
        );
        let query = sqlx::query(&insert).bind(&key.pipeline).bind(&key.stage).bind(key.output as i32);
        query.bind(&key.run).bind(&key.plan_hash).bind(State::Claimed.as_str()).execute(session.raw()).await.map_err(failure)?;
        let row = self.lock(session, key).await?.ok_or_else(|| Failure::transient("the load's row was deleted while it was claimed"))?;
        let goes_on = row.plan_hash == key.plan_hash
            && match row.state {
                State::Writing => true,
                State::Published => row.run == key.run,
                State::Claimed | State::Abandoned => false,
            };
        // Who goes on with a load is its run from now on: the same run finds it again, published or not.
        let run = if goes_on { &key.run } else { &row.run };
        let update = format!(
            "update {} set epoch = epoch + 1, run = $4, changed_at = now() where pipeline = $1 and stage = $2 and output = $3",
            self.loads
        );
        let query = sqlx::query(&update).bind(&key.pipeline).bind(&key.stage).bind(key.output as i32);
        query.bind(run).execute(session.raw()).await.map_err(failure)?;
        let marks = self.marks(session, key).await?;
        session.run("commit").await?;
        let epoch = (row.epoch + 1) as u64;
        if goes_on {
            let found = FoundLoad { run: row.run, note: row.note, marks, published: row.state == State::Published };
            return Ok(Claim { epoch, found: Some(found), ..Claim::default() });
        }
        let in_place = row.state == State::Writing && row.staging.is_none();
        let left_behind = if in_place { marks.iter().map(|mark| mark.rows).sum() } else { 0 };
        Ok(Claim { epoch, found: None, left_behind, left_by: (left_behind > 0).then_some(row.run) })
    }

    /// Locks the load's row alone and makes sure that the load is still the caller's.
    pub(super) async fn own(&self, session: &mut Session, load: &Load) -> Result<LoadRow, Failure> {
        verify(self.lock(session, &load.key).await?, load)
    }

    /// The same for a writer that is about to commit, who shares the row with other writers.
    pub(super) async fn share(&self, session: &mut Session, load: &Load) -> Result<LoadRow, Failure> {
        let row = verify(self.row(session, &load.key, "for share").await?, load)?;
        // After its publication a staged load has no table of its own any more to write to.
        if row.state == State::Writing {
            Ok(row)
        } else {
            Err(Failure::permanent("the load is not being written: it is not prepared, or it has ended"))
        }
    }

    /// Records that the load starts from nothing, and forgets the marks of the one before. The row is locked.
    pub(super) async fn start(
        &self,
        session: &mut Session,
        load: &Load,
        note: &str,
        staging: Option<&str>,
        created: bool,
    ) -> Result<(), Failure> {
        let LoadKey { pipeline, stage, output, run, plan_hash } = &load.key;
        let forget = format!("delete from {} where pipeline = $1 and stage = $2 and output = $3", self.marks);
        let query = sqlx::query(&forget).bind(pipeline).bind(stage).bind(*output as i32);
        query.execute(session.raw()).await.map_err(failure)?;
        let update = format!(
            "update {} set run = $4, plan_hash = $5, state = $6, note = $7, staging = $8, created = $9, started_at = now(), changed_at = now()
             where pipeline = $1 and stage = $2 and output = $3",
            self.loads
        );
        let query = sqlx::query(&update).bind(pipeline).bind(stage).bind(*output as i32).bind(run).bind(plan_hash);
        let query = query.bind(State::Writing.as_str()).bind(note).bind(staging).bind(created);
        query.execute(session.raw()).await.map_err(failure)?;
        Ok(())
    }

    /// Records how a load ended; its staging table is gone. The row is locked.
    pub(super) async fn end(&self, session: &mut Session, key: &LoadKey, state: State) -> Result<(), Failure> {
        let update = format!(
            "update {} set state = $4, staging = null, changed_at = now() where pipeline = $1 and stage = $2 and output = $3",
            self.loads
        );
        let query = sqlx::query(&update).bind(&key.pipeline).bind(&key.stage).bind(key.output as i32);
        query.bind(state.as_str()).execute(session.raw()).await.map_err(failure)?;
        Ok(())
    }

    /// Gives a load up: no marks, and a higher epoch, so that no writer of it commits any more. The row is locked.
    pub(super) async fn abandon(&self, session: &mut Session, key: &LoadKey) -> Result<(), Failure> {
        let forget = format!("delete from {} where pipeline = $1 and stage = $2 and output = $3", self.marks);
        let query = sqlx::query(&forget).bind(&key.pipeline).bind(&key.stage).bind(key.output as i32);
        query.execute(session.raw()).await.map_err(failure)?;
        let update = format!("update {} set epoch = epoch + 1 where pipeline = $1 and stage = $2 and output = $3", self.loads);
        let query = sqlx::query(&update).bind(&key.pipeline).bind(&key.stage).bind(key.output as i32);
        query.execute(session.raw()).await.map_err(failure)?;
        self.end(session, key, State::Abandoned).await
    }

    /// Puts a split's mark in the place of `from`, the one it goes on from; false when another one is there.
    pub(super) async fn mark(&self, session: &mut Session, load: &Load, from: Option<&Mark>, mark: &Mark) -> Result<bool, Failure> {
        let sql = match from {
            None => format!(
                "insert into {} (pipeline, stage, output, split, rows, digest, rejects, epoch, position)
                 values ($1, $2, $3, $4, $5, $6, $7, $8, $9) on conflict do nothing",
                self.marks
            ),
            Some(_) => format!(
                "update {} set rows = $5, digest = $6, rejects = $7, epoch = $8, position = $9, committed_at = clock_timestamp()
                 where pipeline = $1 and stage = $2 and output = $3 and split = $4 and rows = $10 and digest = $11 and position = $12",
                self.marks
            ),
        };
        let query = sqlx::query(&sql).bind(&load.key.pipeline).bind(&load.key.stage).bind(load.key.output as i32);
        let query =
            query.bind(&mark.split).bind(mark.rows as i64).bind(mark.digest.to_string()).bind(mark.rejects as i64).bind(load.epoch as i64);
        let query = query.bind(mark.position.as_ref().map(|position| &position.0));
        let query = match from {
            None => query,
            Some(from) => {
                query.bind(from.rows as i64).bind(from.digest.to_string()).bind(from.position.as_ref().map(|position| &position.0))
            }
        };
        Ok(query.execute(session.raw()).await.map_err(failure)?.rows_affected() == 1)
    }

    /// All marks of a load, in the order of their splits.
    pub(super) async fn marks(&self, session: &mut Session, key: &LoadKey) -> Result<Vec<Mark>, Failure> {
        let select = format!(
            "select split, rows, digest, rejects, position from {} where pipeline = $1 and stage = $2 and output = $3 order by split",
            self.marks
        );
        let query = sqlx::query_as::<_, (String, i64, String, i64, Option<String>)>(&select);
        let rows = query.bind(&key.pipeline).bind(&key.stage).bind(key.output as i32).fetch_all(session.raw()).await.map_err(failure)?;
        let mark = |(split, rows, digest, rejects, position): (String, i64, String, i64, Option<String>)| {
            let digest =
                digest.parse().map_err(|why: String| Failure::permanent(format!("the mark of split {split} is damaged: {why}")))?;
            Ok(Mark { split, rows: rows as u64, digest, rejects: rejects as u64, position: position.map(Position) })
        };
        rows.into_iter().map(mark).collect()
    }

    /// The mark of one split.
    pub(super) async fn find_mark(&self, session: &mut Session, key: &LoadKey, split: &str) -> Result<Option<Mark>, Failure> {
        Ok(self.marks(session, key).await?.into_iter().find(|mark| mark.split == split))
    }
}

fn verify(row: Option<LoadRow>, load: &Load) -> Result<LoadRow, Failure> {
    // Every claim gets an epoch of its own, so the epoch says who holds the load.
    row.filter(|row| row.epoch == load.epoch as i64)
        .ok_or_else(|| Failure::new(FailureKind::Fenced, "another worker has taken this load over"))
}

fn load_row(row: &PgRow) -> Result<LoadRow, sqlx::Error> {
    let state: String = row.try_get(3)?;
    Ok(LoadRow {
        run: row.try_get(0)?,
        plan_hash: row.try_get(1)?,
        epoch: row.try_get(2)?,
        // A state that is not known cannot be gone on with.
        state: State::of(&state).unwrap_or(State::Abandoned),
        note: row.try_get(4)?,
        staging: row.try_get(5)?,
        created: row.try_get(6)?,
    })
}
