//! What a writer holds of a split that is being written: the connection, the COPY that runs, and what has come for each table.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::apply::{self, EXTRA};
use super::catalog;
use super::copying::{Copy, lost};
use super::fit::Form;
use super::marks::Ledger;
use super::session::Session;
use super::tables;
use super::tuples::TRAILER;
use super::upsert::Incoming;
use crate::connectors::Mark;
use crate::data::{Digest, Schema};
use crate::failure::Failure;

/// Frames sent to the server hold at least so many bytes, but for the last: small ones cost a system call each.
pub(super) const FRAME: usize = 128 << 10;

/// A split that is being written.
pub(super) struct Open {
    pub(super) ledger: Ledger,
    /// By the number of the table; those that rows have come for.
    pub(super) into: BTreeMap<usize, Into>,
    pub(super) state: Copy,
    /// The table whose COPY runs.
    pub(super) current: Option<usize>,
    /// The mark, when this split turns out to be written already; what comes in is then dropped.
    pub(super) done: Option<Mark>,
    pub(super) frame: Vec<u8>,
    /// Sent with the COPY that runs.
    pub(super) rows: u64,
    pub(super) bytes: u64,
    pub(super) raw: bool,
    /// Rows are changes, with two columns behind their own.
    pub(super) changes: bool,
    /// Rows in the target, once all that came is there and only the commit is missing.
    pub(super) arrived: Option<u64>,
}

/// One table of a split that is being written.
pub(super) struct Into {
    pub(super) table: catalog::Table,
    /// The names of the columns that are written, quoted.
    pub(super) names: Vec<String>,
    pub(super) columns: Vec<(usize, Form)>,
    /// What an upsert needs to know of its target and its temporary table.
    pub(super) upsert: Option<Incoming>,
    /// Of what came in, when an upsert is to be verified.
    pub(super) digest: Option<Digest>,
    /// Rows that the server took.
    pub(super) copied: u64,
    /// Tells the table from what it may be changed into.
    pub(super) shape: String,
}

pub(super) fn copy_of(into: &str, place: &Into, changes: bool) -> String {
    let extra: String = if changes { EXTRA.iter().map(|name| format!(", {name}")).collect() } else { String::new() };
    format!("copy {into} ({}{extra}) from stdin (format binary)", place.names.join(", "))
}

/// The columns that are written, as a schema of their own.
pub(super) fn written(schema: &Schema, columns: &[(usize, Form)]) -> Schema {
    Schema { columns: columns.iter().map(|(place, _)| schema.columns[*place].clone()).collect() }
}

impl Open {
    /// Nothing written yet.
    pub(super) fn new(session: Session, ledger: Ledger, done: Option<Mark>, changes: bool) -> Self {
        Self {
            ledger,
            into: BTreeMap::new(),
            state: Copy::Resting(session),
            current: None,
            done,
            frame: Vec::new(),
            rows: 0,
            bytes: 0,
            raw: false,
            changes,
            arrived: None,
        }
    }

    /// Sends the frame when it is large enough, or in any case.
    pub(super) async fn flush(&mut self, anyway: bool) -> Result<(), Failure> {
        if self.frame.len() < FRAME && !anyway {
            return Ok(());
        }
        let capacity = self.frame.capacity();
        let frame = std::mem::replace(&mut self.frame, Vec::with_capacity(capacity.clamp(FRAME, 2 * FRAME)));
        self.send(Bytes::from(frame)).await
    }

    pub(super) async fn send(&mut self, frame: Bytes) -> Result<(), Failure> {
        self.bytes += frame.len() as u64;
        if let Copy::Copying { frames, .. } = &self.state
            && frames.send(frame).await.is_ok()
        {
            return Ok(());
        }
        // The task has ended early, and says why.
        match self.rest().await {
            Ok(_) => Err(Failure::permanent("a COPY ended before its rows did, which is a bug in haul")),
            Err(failure) => Err(failure),
        }
    }

    /// Ends the COPY that runs with all that was sent.
    pub(super) async fn end_copy(&mut self, split: &str) -> Result<(), Failure> {
        let Some(current) = self.current.take() else { return Ok(()) };
        self.frame.extend_from_slice(TRAILER);
        self.flush(true).await?;
        let (copied, sent) = (self.rest().await?, std::mem::take(&mut self.rows));
        if copied != sent {
            return Err(Failure::permanent(format!("split {split}: the server took {copied} rows of {sent}")));
        }
        if let Some(place) = self.into.get_mut(&current) {
            place.copied += copied;
        }
        Ok(())
    }

    /// Waits for the end of the COPY; gives the rows that the server took.
    async fn rest(&mut self) -> Result<u64, Failure> {
        match std::mem::replace(&mut self.state, Copy::Broken) {
            Copy::Copying { frames, task } => {
                drop(frames);
                let died = |died| Failure::permanent("the writer died, which is a bug in haul").cause(died);
                let (session, rows) = task.await.map_err(died)??;
                self.state = Copy::Resting(session);
                Ok(rows)
            }
            resting @ Copy::Resting(_) => {
                self.state = resting;
                Ok(0)
            }
            Copy::Broken => Err(lost()),
        }
    }

    /// The connection, between two COPYs.
    pub(super) fn rested(&mut self) -> Result<Session, Failure> {
        match std::mem::replace(&mut self.state, Copy::Broken) {
            Copy::Resting(session) => Ok(session),
            Copy::Copying { .. } | Copy::Broken => Err(lost()),
        }
    }

    /// Takes what is in the temporary tables to the targets.
    pub(super) async fn merge(&self, session: &mut Session) -> Result<u64, Failure> {
        let came: Vec<_> = self.into.values().filter_map(|place| Some((place, place.upsert.as_ref()?, place.copied))).collect();
        if self.changes {
            return merge_changes(session, &came).await;
        }
        let mut rows = self.into.values().filter(|place| place.upsert.is_none()).map(|place| place.copied).sum();
        for (_, incoming, _) in came {
            rows += incoming.merge(session).await?;
        }
        Ok(rows)
    }

    /// The same of one temporary table, with so many rows.
    pub(super) async fn merge_one(&self, session: &mut Session, place: &Into, incoming: &Incoming, rows: u64) -> Result<u64, Failure> {
        if self.changes { merge_changes(session, &[(place, incoming, rows)]).await } else { incoming.merge(session).await }
    }
}

async fn merge_changes(session: &mut Session, came: &[(&Into, &Incoming, u64)]) -> Result<u64, Failure> {
    let mut tables = Vec::with_capacity(came.len());
    for (place, incoming, rows) in came {
        let own = place.columns.len() - EXTRA.len();
        tables.push(incoming.changes(place.columns[..own].iter().map(|(place, _)| *place), *rows));
    }
    // Rows that only come to one table stand in nobody's way.
    let references = if came.len() > 1 || came.iter().any(|(_, incoming, _)| incoming.came.gone || incoming.came.moved) {
        let oids: Vec<u32> = came.iter().map(|(place, ..)| place.table.oid).collect();
        tables::references(session, &oids).await?
    } else {
        Vec::new()
    };
    apply::apply(session, &tables, &references).await
}
