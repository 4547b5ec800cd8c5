//! Writing one split, into one table or several: COPY BINARY, then the mark, in one transaction.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use async_trait::async_trait;
use tokio::sync::mpsc;

use arrow::record_batch::RecordBatch;

use super::came::Came;
use super::catalog::{quoted, shape};
use super::copying::{AHEAD, Copy, copy_in, lost};
use super::encode::{Encoder, prepared};
use super::fit::Form;
use super::marks::Ledger;
use super::open::{FRAME, Into, Open, copy_of, written};
use super::session::{Session, Use};
use super::sift::{AT_ONCE, Kept};
use super::sink::PgSink;
use super::target::{Copied, copied};
use super::tuples::HEADER;
use super::upsert::Incoming;
use crate::connectors::{Committed, Load, Mark, Writer, moved_on};
use crate::data::{Digest, RawChunk, Reject, RowHasher, Schema, change};
use crate::define::pipeline::{Verify, WriteMode};
use crate::failure::{Failure, FailureKind};
use crate::tasks;

/// A table that is written, and the columns that come for it.
#[derive(Clone)]
pub(super) struct Table {
    pub sink: PgSink,
    pub schema: Schema,
}

/// Writes one split. Connects when the first rows come.
pub(super) struct PgWriter {
    /// The first one's schema holds the ledger.
    pub(super) tables: Vec<Table>,
    pub(super) load: Load,
    split: String,
    /// The split's mark in the target, as far as this writer knows.
    from: Option<Mark>,
    pub(super) open: Option<Open>,
    hasher: RowHasher,
    /// In streams: what came since the last commit.
    pub(super) kept: Option<Kept>,
    /// What the last commit has left, so that the next one need not ask for it again.
    left: Option<Left>,
}

struct Left {
    ledger: Ledger,
    into: BTreeMap<usize, Into>,
}

impl PgWriter {
    pub(super) fn new(tables: Vec<Table>, load: Load, split: String, from: Option<Mark>) -> Self {
        Self { tables, load, split, from, open: None, hasher: RowHasher::default(), kept: None, left: None }
    }

    /// Begins the transaction.
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
        open.state = Copy::Resting(session);
        Ok(open)
    }

    /// Begins the transaction and the COPY into one of the tables, unless that runs.
    async fn copy(&mut self, changes: bool, number: usize) -> Result<Option<&mut Open>, Failure> {
        self.begin(changes).await?;
        let Some(mut open) = self.open.take_if(|open| open.done.is_none() && open.current != Some(number)) else {
            return Ok(self.open.as_mut().filter(|open| open.done.is_none()));
        };
        open.end_copy(&self.split).await?;
        let mut session = open.rested()?;
        let place = match open.into.entry(number) {
            Entry::Occupied(found) => found.into_mut(),
            Entry::Vacant(place) => {
                let left = self.left.as_mut().and_then(|left| left.into.remove(&number));
                place.insert(match left {
                    Some(left) if shape(&mut session, &left.table).await? == left.shape => left,
                    _ => self.find(&mut session, number, changes).await?,
                })
            }
        };
        let copy = match &place.upsert {
            Some(incoming) => copy_of(&incoming.rows, place, changes),
            None => {
                let (incoming, copy) = self.copy_into(&mut session, place, number, changes).await?;
                place.digest = (incoming.is_some() && self.load.verify == Verify::Digest).then(Digest::default);
                place.upsert = incoming;
                copy
            }
        };
        let (frames, receive) = mpsc::channel(AHEAD);
        let task = tasks::start(copy_in(session, copy, receive));
        open.state = Copy::Copying { frames, task };
        open.current = Some(number);
        open.frame.extend_from_slice(HEADER);
        Ok(Some(self.open.insert(open)))
    }

    /// Looks at the target and at the split's mark, and changes nothing.
    pub(super) async fn enter(&self, changes: bool) -> Result<Open, Failure> {
        let first = self.first();
        let mut session = first.pool.session(Use::Write).await?;
        if let Some(left) = &self.left {
            return Ok(Open::new(session, left.ledger.clone(), None, changes));
        }
        let ledger = first.ledger(&mut session).await?;
        // Seen early; what counts is the look under lock before the commit.
        if ledger.look(&mut session, &self.load.key).await?.is_none_or(|row| row.epoch != self.load.epoch as i64) {
            return Err(fenced());
        }
        let found = ledger.find_mark(&mut session, &self.load.key, &self.split).await?;
        let done = found.as_ref().filter(|found| found.position.is_none()).cloned();
        if done.is_none() && found != self.from {
            return Err(moved_on(&self.split));
        }
        Ok(Open::new(session, ledger, done, changes))
    }

    /// Looks at one of the tables as it is now.
    pub(super) async fn find(&self, session: &mut Session, number: usize, changes: bool) -> Result<Into, Failure> {
        let unknown = || Failure::permanent("rows came for a table that is not written");
        let Table { sink, schema } = self.tables.get(number).ok_or_else(unknown)?;
        let table = sink.written_to(session, &self.load).await?;
        let Copied { forms: mut columns, names } = copied(&table, schema)?;
        if changes {
            let behind = schema.columns.len();
            columns.extend([(behind, Form::Bytes), (behind + 1, Form::Bytes)]);
        }
        let shape = shape(session, &table).await?;
        Ok(Into { table, names, columns, shape, upsert: None, digest: None, copied: 0 })
    }

    /// The COPY, into the target or, for an upsert, into a temporary table, which is made here.
    pub(super) async fn copy_into(
        &self,
        session: &mut Session,
        place: &Into,
        number: usize,
        changes: bool,
    ) -> Result<(Option<Incoming>, String), Failure> {
        let table = &place.table;
        let WriteMode::Upsert { key } = &self.tables[number].sink.spec.mode else {
            return Ok((None, copy_of(&quoted(&[table.schema.clone(), table.name.clone()])?, place, changes)));
        };
        let came = changes.then(|| Came::new(&self.tables[number].schema, &place.columns, &table.columns, key));
        let incoming = Incoming::create(session, table, place.names.clone(), key, came, number).await?;
        let copy = copy_of(&incoming.rows, place, changes);
        Ok((Some(incoming), copy))
    }

    pub(super) fn first(&self) -> &PgSink {
        &self.tables[0].sink
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
        if self.tables.len() == 1 {
            self.kept = Some(Kept::default());
        }
    }

    async fn refused(&mut self) -> Result<Vec<Reject>, Failure> {
        if self.open.as_ref().is_some_and(|open| open.arrived.is_none()) && self.kept.is_some() {
            let arrived = self.arrive().await;
            self.or_kept(arrived)?;
        }
        self.sift().await
    }

    async fn write_raw(&mut self, chunk: RawChunk) -> Result<(), Failure> {
        let Some(open) = self.copy(false, 0).await? else { return Ok(()) };
        open.raw = true;
        open.rows += chunk.rows;
        if let Some(digest) = open.into.get_mut(&0).and_then(|place| place.digest.as_mut()) {
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
        let number = change::table(batch);
        if changes && !matches!(self.first().spec.mode, WriteMode::Upsert { .. }) {
            return Err(Failure::permanent("changes can only be applied by a key").help("write `mode: upsert`"));
        }
        let mut hasher = std::mem::take(&mut self.hasher);
        let Some(open) = self.copy(changes, number).await? else { return Ok(()) };
        let Some(mut place) = open.into.remove(&number) else { return Err(lost()) };
        if let Some(incoming) = &mut place.upsert {
            incoming.came.look(batch)?;
        }
        let columns = &place.columns;
        if let Some(digest) = &mut place.digest {
            let places: Vec<usize> = columns.iter().map(|(place, _)| *place).collect();
            hasher.hashes(batch, &places).for_each(|hash| digest.add_row(hash));
        }
        let arrays = prepared(batch, columns);
        let mut encoder = Encoder::new(batch, &arrays, columns)?;
        while encoder.fill(&mut open.frame, FRAME)? {
            open.flush(false).await?;
        }
        open.flush(false).await?;
        drop(encoder);
        open.into.insert(number, place);
        open.rows += batch.num_rows() as u64;
        self.hasher = hasher;
        Ok(())
    }

    /// Ends the COPY and brings its rows to where they belong. Only the commit is missing then.
    async fn arrive(&mut self) -> Result<(), Failure> {
        let Some(open) = self.open.as_mut().filter(|open| open.done.is_none() && open.arrived.is_none()) else { return Ok(()) };
        open.end_copy(&self.split).await?;
        let mut session = open.rested()?;
        let Some(open) = &self.open else { return Ok(()) };
        let verified = || {
            let came = open.into.iter();
            came.filter_map(|(number, place)| Some((place, &self.tables[*number], place.upsert.as_ref()?, place.digest?)))
        };
        for (place, Table { sink, schema }, incoming, digest) in verified() {
            incoming.verify_arrival(&mut session, sink, &written(schema, &place.columns), digest, open.raw).await?;
        }
        let rows = open.merge(&mut session).await?;
        for (_, _, incoming, _) in verified() {
            incoming.verify_merge(&mut session).await?;
        }
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
        // A load that replaces may lose the table that it writes to, and must then say why.
        if self.from.is_some() && !self.first().replaces() {
            let left = self.left.get_or_insert_with(|| Left { ledger: open.ledger.clone(), into: BTreeMap::new() });
            let into = std::mem::take(&mut open.into).into_iter();
            left.into.extend(into.map(|(number, place)| (number, Into { upsert: None, digest: None, copied: 0, ..place })));
        }
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
        let mut session = self.first().pool.session(Use::Write).await.map_err(|failure| failure.during("after a lost commit"))?;
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
