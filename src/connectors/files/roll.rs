//! Part after part of a stream, in a folder where each is seen when it is whole.
//!
//! A part is written in the work folder and synced. Then one change of the record commits it: its number, and the mark that holds the position
//! behind its rows. Then it is renamed to its place. What a crash leaves between the last two steps, the next writer finds in the record and
//! renames; what it leaves before them is rubbish, and its rows are read again. Parts in the folder are nobody's but the reader's: they may be
//! moved away or removed at any time, and their numbers are not given out again.

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::codec::Seal;
use super::manifest;
use super::part::{self, PartWriter};
use super::sink::{self, Target};
use super::state::{LoadRecord, Record, Work};
use super::store::{join, parent};
use crate::connectors::{Claim, Committed, FoundLoad, Load, LoadKey, Mark, Sink, TargetProblem, Writer, moved_on};
use crate::data::{BatchLimit, BatchStream, Position, Schema};
use crate::failure::{Failure, FailureKind};
use crate::tasks;

/// What the record says of a stream that writes part after part.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Rolled {
    /// The number of the last part.
    parts: u64,
    /// What is committed.
    mark: Option<Rows>,
    /// The last part, which may still have to be renamed.
    last: Option<Last>,
}

/// A mark as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Rows {
    split: String,
    rows: u64,
    digest: String,
    rejects: u64,
    position: Option<Position>,
}

/// A part that is committed.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Last {
    /// Its name in the work folder.
    file: String,
    /// Its name in the folder.
    name: String,
    seal: Seal,
}

impl Rows {
    fn of(mark: &Mark) -> Self {
        Self {
            split: mark.split.clone(),
            rows: mark.rows,
            digest: mark.digest.to_string(),
            rejects: mark.rejects,
            position: mark.position.clone(),
        }
    }

    fn mark(&self) -> Result<Mark, Failure> {
        let digest = self.digest.parse().map_err(|what: String| Failure::permanent(format!("the record of a load is broken: {what}")))?;
        Ok(Mark { split: self.split.clone(), rows: self.rows, digest, rejects: self.rejects, position: self.position.clone() })
    }
}

impl Rolled {
    /// Behind the parts that are there already, whoever numbered them.
    fn begin(target: &Target, earlier: Option<&Self>) -> Result<Self, Failure> {
        let mut parts = earlier.map_or(0, |earlier| earlier.parts);
        for file in target.store.list(target.folder(), 0)? {
            parts = parts.max(number(parent(&file.path).1).unwrap_or(0));
        }
        Ok(Self { parts, ..earlier.map(Self::begun_anew).unwrap_or_default() })
    }

    /// Without its mark. The last part stays.
    fn begun_anew(&self) -> Self {
        Self { mark: None, ..self.clone() }
    }

    /// What is committed.
    fn marks(&self) -> Result<Vec<Mark>, Failure> {
        self.mark.iter().map(Rows::mark).collect()
    }
}

/// A part's name: its number comes first in any order of names.
fn name(target: &Target, number: u64) -> String {
    format!("part-{number:012}.{}", part::ending(&target.spec))
}

fn number(name: &str) -> Option<u64> {
    name.strip_prefix("part-")?.split('.').next()?.parse().ok()
}

/// Whether the folder exists; a failure when something stands in the way.
pub(super) fn there(target: &Target) -> Result<bool, Failure> {
    let store = &*target.store;
    store.check_target(target.folder(), true)?;
    if manifest::read(store, target.folder())?.is_some() {
        return Err(Failure::permanent(format!("`{}` holds the parts of a batch stage, which replaces them", target.spec.path))
            .help("let the stream write to a folder of its own"));
    }
    Ok(!store.list(target.folder(), 0)?.is_empty())
}

/// Brings the last part to its place, if a killed worker has not.
fn settle(target: &Target, work: &Work, record: &Record) -> Result<(), Failure> {
    let Some(last) = record.rolled.as_ref().and_then(|rolled| rolled.last.as_ref()) else { return Ok(()) };
    let from = work.file(&last.file);
    match target.store.stat(&from)? {
        Some(found) if found.size == last.seal.bytes => target.store.rename(&from, &join(target.folder(), &last.name)),
        Some(_) => Err(Failure::permanent(format!("`{from}` is not as it was committed")).help("run again with `--fresh`")),
        None => Ok(()),
    }
}

/// A folder that gets part after part.
pub(super) struct RollSink {
    pub(super) target: Target,
}

#[async_trait]
impl Sink for RollSink {
    async fn plan(&self, incoming: &Schema) -> Result<Result<crate::connectors::Target, Vec<TargetProblem>>, Failure> {
        let (target, incoming) = (self.target.clone(), incoming.clone());
        tasks::blocking(move || sink::plan(&target, &incoming)).await
    }

    async fn claim(&self, key: &LoadKey) -> Result<Claim, Failure> {
        let (target, key) = (self.target.clone(), key.clone());
        tasks::blocking(move || Work::new(&key, &target.spec.path).change_any(&*target.store, |record| claim(record, &key))).await
    }

    async fn prepare(&self, load: &Load, note: &str) -> Result<(), Failure> {
        let (target, load, note) = (self.target.clone(), load.clone(), note.to_owned());
        tasks::blocking(move || {
            let work = Work::new(&load.key, &target.spec.path);
            work.change(&*target.store, &load, |record| {
                record.rolled = Some(Rolled::begin(&target, record.rolled.as_ref())?);
                record.load = Some(LoadRecord::begun(&load.key, &note));
                Ok(())
            })
        })
        .await
    }

    async fn writer(&self, load: &Load, split: &str, from: Option<&Mark>) -> Result<Box<dyn Writer>, Failure> {
        let work = Work::new(&load.key, &self.target.spec.path);
        Ok(Box::new(RollWriter::open(self.target.clone(), work, load, split, from).await?))
    }

    /// Parts are seen as they come.
    async fn publish(&self, _: &Load) -> Result<(), Failure> {
        Ok(())
    }

    async fn read_back(&self, _: &Load, _: BatchLimit) -> Result<BatchStream, Failure> {
        Err(Failure::permanent("what a stream has written to files is its readers' own, and not read back"))
    }

    fn staged(&self) -> bool {
        false
    }

    async fn abandon(&self, key: &LoadKey) -> Result<(), Failure> {
        let (target, key) = (self.target.clone(), key.clone());
        tasks::blocking(move || {
            let work = Work::new(&key, &target.spec.path);
            work.change_any(&*target.store, |record| {
                // Whoever still writes it is fenced off.
                record.epoch += 1;
                record.load = None;
                record.rolled = record.rolled.as_ref().map(Rolled::begun_anew);
                Ok(())
            })
        })
        .await
    }
}

fn claim(record: &mut Record, key: &LoadKey) -> Result<Claim, Failure> {
    record.epoch += 1;
    let marks = record.rolled.as_ref().map_or_else(|| Ok(Vec::new()), Rolled::marks)?;
    let mut claim = Claim { epoch: record.epoch, ..Claim::default() };
    match &mut record.load {
        Some(load) if load.plan_hash == key.plan_hash => {
            // A stream outlives more runs than anybody wants to read of: the first and the last are kept.
            load.runs.truncate(1);
            load.runs.push(key.run.clone());
            claim.found = Some(FoundLoad { run: load.run().to_owned(), note: load.note.clone(), marks, published: false });
        }
        Some(_) => claim.left_behind = marks.iter().map(|mark| mark.rows).sum(),
        None => {}
    }
    Ok(claim)
}

/// Writes part after part.
struct RollWriter {
    target: Target,
    work: Work,
    load: Load,
    split: String,
    /// The mark in the record, as far as this writer knows.
    from: Option<Mark>,
    /// The part that is being written, once there are rows for it.
    part: Option<PartWriter>,
}

impl RollWriter {
    /// Finishes what a killed worker has begun, and removes what it has left.
    async fn open(target: Target, work: Work, load: &Load, split: &str, from: Option<&Mark>) -> Result<Self, Failure> {
        let own = Self { target, work, load: load.clone(), split: split.to_owned(), from: from.cloned(), part: None };
        let (target, work) = (own.target.clone(), own.work.clone());
        tasks::blocking(move || {
            settle(&target, &work, &work.read(&*target.store)?)?;
            work.clean(&*target.store)
        })
        .await?;
        Ok(own)
    }
}

#[async_trait]
impl Writer for RollWriter {
    async fn write(&mut self, batch: RecordBatch) -> Result<(), Failure> {
        let part = self.part.get_or_insert_with(|| PartWriter::new(self.target.clone(), self.work.clone(), &self.load, &self.split));
        part.write(batch).await
    }

    fn written_bytes(&self) -> Option<u64> {
        Some(self.part.as_ref().map_or(0, PartWriter::bytes))
    }

    async fn checkpoint(&mut self, mark: Mark) -> Result<Committed, Failure> {
        let part = match &mut self.part {
            Some(part) => Some((part.file().to_owned(), part.finish().await?)),
            None => None,
        };
        self.part = None;
        let bytes = part.as_ref().map_or(0, |(_, seal)| seal.bytes);
        let (target, work, load, from, to) =
            (self.target.clone(), self.work.clone(), self.load.clone(), self.from.replace(mark.clone()), mark.clone());
        tasks::blocking(move || commit(&target, &work, &load, from.as_ref(), &to, part)).await?;
        Ok(Committed { rows: mark.rows, bytes })
    }

    async fn commit(mut self: Box<Self>, mark: Mark) -> Result<Committed, Failure> {
        self.checkpoint(mark).await
    }
}

/// Names the part and the mark in the record, and brings the part to its place.
fn commit(
    target: &Target,
    work: &Work,
    load: &Load,
    from: Option<&Mark>,
    mark: &Mark,
    part: Option<(String, Seal)>,
) -> Result<(), Failure> {
    let store = &*target.store;
    let (from, mark) = (from.map(Rows::of), Rows::of(mark));
    let file = part.as_ref().map(|(file, _)| file.clone());
    let committed = work.change(store, load, |record| {
        if record.load.as_ref().is_none_or(|current| current.plan_hash != load.key.plan_hash) {
            return Err(Failure::new(FailureKind::Fenced, "the stream was started again by another run"));
        }
        let rolled = record.rolled.get_or_insert_default();
        // The answer to an earlier try of this change may have been lost.
        let is_done = rolled.mark.as_ref() == Some(&mark) && rolled.last.as_ref().map(|last| &last.file) == file.as_ref();
        if is_done && file.is_some() {
            return Ok(());
        }
        if rolled.mark != from {
            return Err(moved_on(&mark.split));
        }
        rolled.mark = Some(mark.clone());
        if let Some((file, seal)) = &part {
            rolled.parts += 1;
            rolled.last = Some(Last { file: file.clone(), name: name(target, rolled.parts), seal: seal.clone() });
        }
        Ok(())
    });
    let record = work.read(store)?;
    let ours = file.is_some() && record.rolled.as_ref().and_then(|rolled| rolled.last.as_ref()).map(|last| &last.file) == file.as_ref();
    match committed {
        Err(failure) if !ours => {
            if let Some(file) = &file {
                store.remove(&work.file(file))?;
            }
            Err(failure)
        }
        _ => settle(target, work, &record),
    }
}
