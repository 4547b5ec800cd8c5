//! Writing one split: COPY BINARY, then the mark, in one transaction.

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use arrow::record_batch::RecordBatch;

use super::apply::EXTRA;
use super::catalog::{Table, quoted};
use super::copying::{AHEAD, Copy, copy_in, lost};
use super::encode::{Encoder, prepared};
use super::fit::Form;
use super::marks::Ledger;
use super::session::{Session, Use};
use super::sift::{AT_ONCE, Kept};
use super::sink::PgSink;
use super::target::{Copied, copied};
use super::tuples::{HEADER, TRAILER};
use super::upsert::{self, Incoming};
use crate::connectors::{Committed, Load, Mark, Writer, moved_on};
use crate::data::{Digest, RawChunk, Reject, RowHasher, Schema, change};
use crate::define::pipeline::{Verify, WriteMode};
use crate::failure::{Failure, FailureKind};

/// Frames sent to the server hold at least so many bytes, but for the last: small ones cost a system call each.
const FRAME: usize = 128 << 10;

/// Writes one split. Connects when the first rows come.
pub(super) struct PgWriter {
    pub(super) sink: PgSink,
    pub(super) load: Load,
    split: String,
    /// The split's mark in the target, as far as this writer knows.
    from: Option<Mark>,
    pub(super) open: Option<Open>,
    hasher: RowHasher,
    /// In streams: what came since the last commit.
    pub(super) kept: Option<Kept>,
}

/// A split that is being written.
pub(super) struct Open {
    ledger: Ledger,
    pub(super) table: Table,
    /// The names of the columns that are written, quoted.
    pub(super) names: Vec<String>,
    /// What an upsert needs to know of its target and its temporary table.
    upsert: Option<Incoming>,
    pub(super) columns: Vec<(usize, Form)>,
    pub(super) state: Copy,
    /// The mark, when this split turns out to be written already; what comes in is then dropped.
    pub(super) done: Option<Mark>,
    frame: Vec<u8>,
    rows: u64,
    bytes: u64,
    /// Of what came in, when an upsert is to be verified.
    digest: Option<Digest>,
    raw: bool,
    /// Rows are changes, with two columns behind their own.
    changes: bool,
    /// Rows in the target, once all that came is there and only the commit is missing.
    pub(super) arrived: Option<u64>,
}

impl PgWriter {
    pub(super) fn new(sink: PgSink, load: Load, split: String, from: Option<Mark>) -> Self {
        Self { sink, load, split, from, open: None, hasher: RowHasher::default(), kept: None }
    }

    /// Begins the transaction and the COPY.
    async fn begin(&mut self, changes: bool) -> Result<&mut Open, Failure> {
        if self.open.is_none() {
            let open = self.start(changes).await.map_err(|failure| failure.during(format_args!("writing split {}", self.split)))?;
            self.open = Some(open);
        }
        self.open.as_mut().ok_or_else(|| Failure::permanent("a writer was used after its commit"))
    }

    async fn start(&self, changes: bool) -> Result<Open, Failure> {
        let mut open = self.enter(changes).await?;
        if open.done.is_some() {
            return Ok(open);
        }
        let mut session = open.rested()?;
        session.run("begin").await?;
        let (incoming, into) = self.copy_into(&mut session, &open).await?;
        open.upsert = incoming;
        open.digest = (open.upsert.is_some() && self.load.verify == Verify::Digest).then(Digest::default);
        let (frames, receive) = mpsc::channel(AHEAD);
        let task = AbortOnDropHandle::new(tokio::spawn(copy_in(session, into, receive)));
        open.state = Copy::Copying { frames, task };
        open.frame.extend_from_slice(HEADER);
        Ok(open)
    }

    /// Looks at the target and at the split's mark, and changes nothing.
    pub(super) async fn enter(&self, changes: bool) -> Result<Open, Failure> {
        let mut session = self.sink.pool.session(Use::Write).await?;
        let ledger = self.sink.ledger(&mut session).await?;
        let table = self.sink.written_to(&mut session, &self.load).await?;
        let Copied { forms: mut columns, names } = copied(&table, &self.load.schema)?;
        if changes {
            let behind = self.load.schema.columns.len();
            columns.extend([(behind, Form::Bytes), (behind + 1, Form::Bytes)]);
        }
        // Seen early; what counts is the look under lock before the commit.
        if ledger.look(&mut session, &self.load.key).await?.is_none_or(|row| row.epoch != self.load.epoch as i64) {
            return Err(fenced());
        }
        let found = ledger.find_mark(&mut session, &self.load.key, &self.split).await?;
        let done = found.as_ref().filter(|found| found.position.is_none()).cloned();
        if done.is_none() && found != self.from {
            return Err(moved_on(&self.split));
        }
        Ok(Open {
            ledger,
            table,
            names,
            upsert: None,
            columns,
            state: Copy::Resting(session),
            done,
            frame: Vec::new(),
            rows: 0,
            bytes: 0,
            digest: None,
            raw: false,
            changes,
            arrived: None,
        })
    }

    /// The COPY, into the target or, for an upsert, into a temporary table, which is made here.
    pub(super) async fn copy_into(&self, session: &mut Session, open: &Open) -> Result<(Option<Incoming>, String), Failure> {
        let (table, mut columns) = (&open.table, open.names.join(", "));
        let copy = |into: &str, columns: &str| format!("copy {into} ({columns}) from stdin (format binary)");
        let WriteMode::Upsert { key } = &self.sink.spec.mode else {
            return Ok((None, copy(&quoted(&[table.schema.clone(), table.name.clone()])?, &columns)));
        };
        let incoming = Incoming::create(session, table, open.names.clone(), key, open.changes).await?;
        if open.changes {
            columns.extend(EXTRA.map(|name| format!(", {name}")));
        }
        Ok((Some(incoming), copy(upsert::TABLE, &columns)))
    }

    /// The columns that are written, as a schema of their own.
    fn written(&self, columns: &[(usize, Form)]) -> Schema {
        Schema { columns: columns.iter().map(|(place, _)| self.load.schema.columns[*place].clone()).collect() }
    }
}

impl Open {
    /// Sends the frame when it is large enough, or in any case.
    async fn flush(&mut self, anyway: bool) -> Result<(), Failure> {
        if self.frame.len() < FRAME && !anyway {
            return Ok(());
        }
        let capacity = self.frame.capacity();
        let frame = std::mem::replace(&mut self.frame, Vec::with_capacity(capacity.clamp(FRAME, 2 * FRAME)));
        self.send(Bytes::from(frame)).await
    }

    async fn send(&mut self, frame: Bytes) -> Result<(), Failure> {
        self.bytes += frame.len() as u64;
        if let Copy::Copying { frames, .. } = &self.state
            && frames.send(frame).await.is_ok()
        {
            return Ok(());
        }
        // The task has ended early, and says why.
        match self.end_copy().await {
            Ok(_) => Err(Failure::permanent("a COPY ended before its rows did, which is a bug in haul")),
            Err(failure) => Err(failure),
        }
    }

    /// Ends the COPY; gives the rows that the server took.
    async fn end_copy(&mut self) -> Result<u64, Failure> {
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

    /// Takes what is in the temporary table to the target.
    pub(super) async fn merge(&self, session: &mut Session, incoming: &Incoming) -> Result<u64, Failure> {
        if !self.changes {
            return incoming.merge(session).await;
        }
        let own = self.columns.len() - EXTRA.len();
        incoming.changes(self.columns[..own].iter().map(|(place, _)| *place)).apply(session).await
    }
}

fn fenced() -> Failure {
    Failure::new(FailureKind::Fenced, "another worker has taken this load over")
}

#[async_trait]
impl Writer for PgWriter {
    async fn write(&mut self, batch: RecordBatch) -> Result<(), Failure> {
        if let Some(kept) = &mut self.kept
            && kept.take(&batch)?
        {
            return Ok(());
        }
        let sent = self.send(&batch).await;
        self.or_kept(sent)
    }

    fn give_back(&mut self) {
        self.kept = Some(Kept::default());
    }

    async fn refused(&mut self) -> Result<Vec<Reject>, Failure> {
        if self.open.as_ref().is_some_and(|open| open.arrived.is_none()) && self.kept.is_some() {
            let arrived = self.arrive().await;
            self.or_kept(arrived)?;
        }
        self.sift().await
    }

    async fn write_raw(&mut self, chunk: RawChunk) -> Result<(), Failure> {
        let open = self.begin(false).await?;
        if open.done.is_some() {
            return Ok(());
        }
        open.raw = true;
        open.rows += chunk.rows;
        if let Some(digest) = &mut open.digest {
            *digest += chunk.digest;
        }
        if chunk.bytes.len() < FRAME {
            open.frame.extend_from_slice(&chunk.bytes);
            return open.flush(false).await;
        }
        if !open.frame.is_empty() {
            open.flush(true).await?;
        }
        open.send(chunk.bytes).await
    }

    async fn checkpoint(&mut self, mark: Mark) -> Result<Committed, Failure> {
        let committed = self.put(&mark).await?;
        self.kept = self.kept.take().map(|_| Kept::default());
        self.from = Some(mark);
        Ok(committed)
    }

    async fn commit(mut self: Box<Self>, mark: Mark) -> Result<Committed, Failure> {
        self.put(&mark).await
    }
}

impl PgWriter {
    async fn send(&mut self, batch: &RecordBatch) -> Result<(), Failure> {
        let changes = change::is_changes(batch);
        if changes && !matches!(self.sink.spec.mode, WriteMode::Upsert { .. }) {
            return Err(Failure::permanent("changes can only be applied by a key").help("write `mode: upsert`"));
        }
        self.begin(changes).await?;
        let Some(open) = self.open.as_mut().filter(|open| open.done.is_none()) else { return Ok(()) };
        let columns = std::mem::take(&mut open.columns);
        if let Some(digest) = &mut open.digest {
            let places: Vec<usize> = columns.iter().map(|(place, _)| *place).collect();
            self.hasher.hashes(batch, &places).for_each(|hash| digest.add_row(hash));
        }
        let arrays = prepared(batch, &columns);
        let mut encoder = Encoder::new(batch, &arrays, &columns)?;
        while encoder.fill(&mut open.frame, FRAME)? {
            open.flush(false).await?;
        }
        open.flush(false).await?;
        drop(encoder);
        open.columns = columns;
        open.rows += batch.num_rows() as u64;
        Ok(())
    }

    /// Ends the COPY and brings its rows to where they belong. Only the commit is missing then.
    async fn arrive(&mut self) -> Result<(), Failure> {
        let Some(open) = self.open.as_mut().filter(|open| open.done.is_none() && open.arrived.is_none()) else { return Ok(()) };
        open.frame.extend_from_slice(TRAILER);
        open.flush(true).await?;
        let copied = open.end_copy().await?;
        if copied != open.rows {
            return Err(Failure::permanent(format!("split {}: the server took {copied} rows of {}", self.split, open.rows)));
        }
        let mut session = open.rested()?;
        let Some(open) = &self.open else { return Ok(()) };
        let rows = match &open.upsert {
            None => copied,
            Some(incoming) => {
                if let Some(digest) = open.digest {
                    incoming.verify_arrival(&mut session, &self.sink, &self.written(&open.columns), digest, open.raw).await?;
                }
                let rows = open.merge(&mut session, incoming).await?;
                if open.digest.is_some() {
                    incoming.verify_merge(&mut session).await?;
                }
                rows
            }
        };
        if self.kept.is_some() {
            // What only the commit would refuse is refused here, where the row can still be found.
            session.run(AT_ONCE).await?;
        }
        if let Some(open) = &mut self.open {
            open.state = Copy::Resting(session);
            open.arrived = Some(rows);
        }
        Ok(())
    }

    /// Commits the rows together with their mark.
    async fn put(&mut self, mark: &Mark) -> Result<Committed, Failure> {
        self.begin(false).await?;
        self.arrive().await?;
        let Some(mut open) = self.open.take() else { return Err(Failure::permanent("a writer was committed twice")) };
        let mut session = open.rested()?;
        if let Some(done) = &open.done {
            session.release();
            return Ok(Committed { rows: done.rows, bytes: 0 });
        }
        let rows = open.arrived.unwrap_or_default();
        open.ledger.share(&mut session, &self.load).await?;
        if open.ledger.mark(&mut session, &self.load, self.from.as_ref(), mark).await? {
            return self.settle(session, &open.ledger, mark, Committed { rows, bytes: open.bytes }).await;
        }
        // An attempt that was thought lost has committed meanwhile; these rows go.
        session.run("rollback").await?;
        let found = open.ledger.find_mark(&mut session, &self.load.key, &self.split).await?;
        session.release();
        match found {
            Some(done) if done.position.is_none() => Ok(Committed { rows: done.rows, bytes: 0 }),
            _ => Err(moved_on(&self.split)),
        }
    }

    /// Commits. When the answer is lost, waits for the end of the lost transaction and reads the mark, which settles what happened.
    async fn settle(&self, mut session: Session, ledger: &Ledger, mark: &Mark, committed: Committed) -> Result<Committed, Failure> {
        let Err(lost) = session.run("commit").await else {
            session.release();
            return Ok(committed);
        };
        drop(session);
        if lost.kind != FailureKind::Transient {
            return Err(lost);
        }
        let mut session = self.sink.pool.session(Use::Write).await.map_err(|failure| failure.during("after a lost commit"))?;
        // The lost transaction holds the row shared until it has ended, one way or the other.
        session.run("begin; set local lock_timeout = '2min'").await?;
        ledger.lock(&mut session, &self.load.key).await?;
        let found = ledger.find_mark(&mut session, &self.load.key, &self.split).await?;
        session.finish().await?;
        match found {
            Some(found) if found.position.is_none() || found == *mark => Ok(committed),
            _ => Err(lost.during(format_args!("committing split {}, which was rolled back", self.split))),
        }
    }
}
