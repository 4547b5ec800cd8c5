//! The record of loads and marks, kept in the database that the rows are in, so that both commit together.
//!
//! `haul_loads` has one row for each output of each stage of each pipeline: the load that wrote it last, and the epoch of the worker that
//! may go on with it. `haul_marks` has one row for each split of that load that was committed.

use rusqlite::{Connection as Sqlite, OptionalExtension, Result, params};

use crate::connectors::{Claim, FoundLoad, LoadKey, Mark};
use crate::data::{Digest, Position};

/// Names that belong to haul in every database it writes to.
pub(super) const TABLES: [&str; 2] = ["haul_loads", "haul_marks"];

/// The version of both tables' columns, kept with every load.
const FORMAT: i64 = 2;

const CREATE: &str = "
    create table if not exists haul_loads (
        pipeline TEXT NOT NULL, stage TEXT NOT NULL, output INTEGER NOT NULL, format INTEGER NOT NULL, epoch INTEGER NOT NULL,
        state TEXT NOT NULL, run TEXT NOT NULL, continued_by TEXT, plan_hash TEXT NOT NULL, note TEXT NOT NULL,
        PRIMARY KEY (pipeline, stage, output)
    ) without rowid;
    create table if not exists haul_marks (
        pipeline TEXT NOT NULL, stage TEXT NOT NULL, output INTEGER NOT NULL, split TEXT NOT NULL, epoch INTEGER NOT NULL,
        \"rows\" INTEGER NOT NULL, digest TEXT NOT NULL, rejects INTEGER NOT NULL, position TEXT,
        PRIMARY KEY (pipeline, stage, output, split)
    ) without rowid;";

/// How far a load has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::connectors) enum State {
    /// Claimed, and nothing prepared for it yet.
    Claimed,
    /// Splits may be committed.
    Open,
    /// Visible and finished.
    Published,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Claimed => "claimed",
            Self::Open => "open",
            Self::Published => "published",
        }
    }
}

/// One row of `haul_loads`.
struct LoadRow {
    epoch: u64,
    state: String,
    run: String,
    continued_by: Option<String>,
    plan_hash: String,
    note: String,
}

fn find(connection: &Sqlite, key: &LoadKey) -> Result<Option<LoadRow>> {
    connection
        .query_row(
            "select epoch, state, run, continued_by, plan_hash, note from haul_loads where pipeline = ? and stage = ? and output = ?",
            params![key.pipeline, key.stage, key.output as i64],
            |row| {
                Ok(LoadRow {
                    epoch: row.get::<_, i64>(0)? as u64,
                    state: row.get(1)?,
                    run: row.get(2)?,
                    continued_by: row.get(3)?,
                    plan_hash: row.get(4)?,
                    note: row.get(5)?,
                })
            },
        )
        .optional()
}

/// Creates the tables where they are missing, and gives those of an earlier version the column they lack.
pub(in crate::connectors) fn create(connection: &Sqlite) -> Result<()> {
    connection.execute_batch(CREATE)?;
    let positions = "select count(*) from pragma_table_info('haul_marks') where name = 'position'";
    if connection.query_row(positions, [], |row| row.get::<_, i64>(0))? == 0 {
        connection.execute_batch("alter table haul_marks add column position TEXT")?;
    }
    Ok(())
}

/// Takes the load over, within the caller's transaction. `staged` says that rows are not visible before the load is published.
pub(in crate::connectors) fn claim(connection: &Sqlite, key: &LoadKey, staged: bool) -> Result<Claim> {
    let Some(row) = find(connection, key)? else {
        connection.execute(
            "insert into haul_loads values (?, ?, ?, ?, 1, ?, ?, null, ?, '')",
            params![key.pipeline, key.stage, key.output as i64, FORMAT, State::Claimed.as_str(), key.run, key.plan_hash],
        )?;
        return Ok(Claim { epoch: 1, ..Claim::default() });
    };
    let begun = row.state != State::Claimed.as_str();
    let published = row.state == State::Published.as_str();
    let ours = row.run == key.run || row.continued_by.as_deref() == Some(&key.run);
    let goes_on = begun && row.plan_hash == key.plan_hash && (ours || !published);
    // A load that is gone on with belongs to both runs: whichever of them comes back must find it, published or not.
    connection.execute(
        "update haul_loads set epoch = epoch + 1, continued_by = iif(?4, ?5, continued_by) where pipeline = ?1 and stage = ?2 and output = ?3",
        params![key.pipeline, key.stage, key.output as i64, goes_on && !ours, key.run],
    )?;
    let marks = if begun { marks(connection, key)? } else { Vec::new() };
    let left_behind = if goes_on || published || staged { 0 } else { marks.iter().map(|mark| mark.rows).sum() };
    let left_by = (left_behind > 0).then(|| row.continued_by.unwrap_or_else(|| row.run.clone()));
    let found = goes_on.then_some(FoundLoad { run: row.run, note: row.note, marks, published });
    Ok(Claim { epoch: row.epoch + 1, found, left_behind, left_by })
}

/// Begins the load of a key anew, without marks.
pub(in crate::connectors) fn begin(connection: &Sqlite, key: &LoadKey, note: &str) -> Result<()> {
    forget(connection, key)?;
    connection.execute(
        "update haul_loads set state = ?, run = ?, continued_by = null, plan_hash = ?, note = ?, format = ? where pipeline = ? and stage = ? and output = ?",
        params![State::Open.as_str(), key.run, key.plan_hash, note, FORMAT, key.pipeline, key.stage, key.output as i64],
    )?;
    Ok(())
}

/// Removes the marks of a key, and its load's claim to be gone on with.
pub(in crate::connectors) fn forget(connection: &Sqlite, key: &LoadKey) -> Result<()> {
    connection.execute(
        "delete from haul_marks where pipeline = ? and stage = ? and output = ?",
        params![key.pipeline, key.stage, key.output as i64],
    )?;
    set_state(connection, key, State::Claimed)
}

pub(in crate::connectors) fn set_state(connection: &Sqlite, key: &LoadKey, state: State) -> Result<()> {
    connection.execute(
        "update haul_loads set state = ? where pipeline = ? and stage = ? and output = ?",
        params![state.as_str(), key.pipeline, key.stage, key.output as i64],
    )?;
    Ok(())
}

/// The newest epoch of a key and whether its load is published; `None` when nobody ever claimed it.
pub(in crate::connectors) fn epoch(connection: &Sqlite, key: &LoadKey) -> Result<Option<(u64, bool)>> {
    Ok(find(connection, key)?.map(|row| (row.epoch, row.state == State::Published.as_str())))
}

/// The mark of one split.
pub(in crate::connectors) fn mark(connection: &Sqlite, key: &LoadKey, split: &str) -> Result<Option<Mark>> {
    Ok(marks(connection, key)?.into_iter().find(|mark| mark.split == split))
}

fn marks(connection: &Sqlite, key: &LoadKey) -> Result<Vec<Mark>> {
    let mut statement = connection.prepare_cached(
        "select split, \"rows\", digest, rejects, position from haul_marks where pipeline = ? and stage = ? and output = ? order by split",
    )?;
    let marks = statement.query_map(params![key.pipeline, key.stage, key.output as i64], |row| {
        let digest: String = row.get(2)?;
        let digest: Digest = digest
            .parse()
            .map_err(|error: String| rusqlite::Error::FromSqlConversionFailure(2, rusqlite::types::Type::Text, error.into()))?;
        let position = row.get::<_, Option<String>>(4)?.map(Position);
        Ok(Mark { split: row.get(0)?, rows: row.get::<_, i64>(1)? as u64, digest, rejects: row.get::<_, i64>(3)? as u64, position })
    })?;
    marks.collect()
}

/// Records what is written of a split, in the transaction that wrote it, in the place of its earlier mark.
pub(in crate::connectors) fn put(connection: &Sqlite, key: &LoadKey, epoch: u64, mark: &Mark) -> Result<()> {
    connection.execute(
        "insert or replace into haul_marks (pipeline, stage, output, split, epoch, \"rows\", digest, rejects, position)
         values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        params![
            key.pipeline,
            key.stage,
            key.output as i64,
            mark.split,
            epoch as i64,
            mark.rows as i64,
            mark.digest.to_string(),
            mark.rejects as i64,
            mark.position.as_ref().map(|position| &position.0)
        ],
    )?;
    Ok(())
}
