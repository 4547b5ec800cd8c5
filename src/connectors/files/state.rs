//! The record of a load, kept in the work folder beside its target: who may write, what has been committed, whether it was published.
//!
//! The layout, for a target `out/orders.parquet`: `out/.haul/<hash>/load.json` is the record, and `out/.haul/<hash>/*.part` are the parts
//! that it names, written whole before they are named. Everything else there is rubbish of a process that was killed, and is removed when
//! the load is published. The record stays, so that epochs only grow and a published load is known as such.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::codec::Seal;
use super::paths::WORK_FOLDER;
use super::roll::Rolled;
use super::store::{Store, join, parent};
use crate::connectors::{Load, LoadKey, Mark};
use crate::failure::{Failure, FailureKind};

const VERSION: u32 = 1;

/// The record of the loads of one output of one stage.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    version: u32,
    /// The epoch of the last claim. Commits of an older one are refused.
    pub epoch: u64,
    /// The last load that was prepared.
    pub load: Option<LoadRecord>,
    /// Of a stream that writes part after part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolled: Option<Rolled>,
}

/// One load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct LoadRecord {
    /// The run that began it, and those that took it over.
    pub runs: Vec<String>,
    /// The plan it was begun under.
    pub plan_hash: String,
    /// The executor's own.
    pub note: String,
    /// Where it stands.
    pub stage: Stage,
    /// Committed splits.
    pub parts: Vec<Part>,
}

/// Where a load stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stage {
    /// Splits are being written.
    Loading,
    /// All are written, and this file is about to get the target's name; the seal tells whether it has it already.
    Publishing {
        /// Its name in the work folder.
        file: String,
        /// Its size and hash.
        seal: Seal,
    },
    /// All are written, and the parts are being moved into the target's folder.
    Moving,
    /// It is in the target.
    Published,
}

/// One committed split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Part {
    /// The split's id.
    pub split: String,
    /// Rows that arrived.
    pub rows: u64,
    /// Their digest on the source side.
    pub digest: String,
    /// Rows refused on the way.
    pub rejects: u64,
    /// The part's name in the work folder.
    pub file: String,
    /// Whether it starts with a header line.
    pub header: bool,
    /// Its size and hash.
    pub seal: Seal,
}

impl Part {
    /// The mark it stands for.
    pub(super) fn mark(&self) -> Result<Mark, Failure> {
        let digest = self.digest.parse().map_err(|what: String| Failure::permanent(format!("the record of a load is broken: {what}")))?;
        Ok(Mark { split: self.split.clone(), rows: self.rows, digest, rejects: self.rejects, position: None })
    }
}

impl LoadRecord {
    /// A load that has written nothing yet.
    pub(super) fn begun(key: &LoadKey, note: &str) -> Self {
        Self {
            runs: vec![key.run.clone()],
            plan_hash: key.plan_hash.clone(),
            note: note.to_owned(),
            stage: Stage::Loading,
            parts: Vec::new(),
        }
    }

    /// Parts in split order, which is the order of rows in a single file.
    pub(super) fn in_order(&self) -> Vec<Part> {
        let mut parts = self.parts.clone();
        parts.sort_by(|a, b| a.split.cmp(&b.split));
        parts
    }

    /// Tells this load from all others.
    pub(super) fn id(&self) -> String {
        format!("{:032x}", xxh3_128(format!("{}\0{}", self.run(), self.plan_hash).as_bytes()))
    }

    /// The run that began it.
    pub(super) fn run(&self) -> &str {
        self.runs.first().map_or("", String::as_str)
    }
}

/// The work folder of one output and target.
#[derive(Clone, Debug)]
pub(super) struct Work {
    /// Its path.
    pub folder: String,
}

impl Work {
    /// The folder beside the target.
    pub(super) fn new(key: &LoadKey, target: &str) -> Self {
        let target = target.trim_end_matches('/');
        let hash = xxh3_64(format!("{}\0{}\0{}\0{target}", key.pipeline, key.stage, key.output).as_bytes());
        let (beside, _) = parent(target);
        Self { folder: join(&join(beside, WORK_FOLDER), &format!("{hash:016x}")) }
    }

    /// The records of all outputs whose targets stand beside this one.
    pub(super) fn records_beside(store: &dyn Store, target: &str) -> Result<Vec<Record>, Failure> {
        let (beside, _) = parent(target.trim_end_matches('/'));
        let files = store.list(&join(beside, WORK_FOLDER), 1)?.into_iter().map(|file| file.path);
        let works = files.filter_map(|path| path.strip_suffix("/load.json").map(|folder| Self { folder: folder.to_owned() }));
        works.map(|work| work.read(store)).collect()
    }

    /// A file in it.
    pub(super) fn file(&self, name: &str) -> String {
        join(&self.folder, name)
    }

    fn record(&self) -> String {
        self.file("load.json")
    }

    /// The record as it is now.
    pub(super) fn read(&self, store: &dyn Store) -> Result<Record, Failure> {
        self.parse(store.read_small(&self.record())?.as_deref())
    }

    /// Changes the record when the worker may: its epoch is the newest. The change may be called again when somebody else was first.
    pub(super) fn change<T>(
        &self,
        store: &dyn Store,
        load: &Load,
        mut change: impl FnMut(&mut Record) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.change_any(store, |record| {
            self.fence(record, load)?;
            change(record)
        })
    }

    /// Changes the record whoever wrote it.
    pub(super) fn change_any<T>(&self, store: &dyn Store, mut change: impl FnMut(&mut Record) -> Result<T, Failure>) -> Result<T, Failure> {
        let mut answer = None;
        store.change(&self.record(), &mut |old| {
            let mut record = self.parse(old)?;
            answer = Some(change(&mut record)?);
            let text = serde_json::to_vec_pretty(&record);
            Ok(Some(text.map_err(|error| Failure::permanent("the record of a load cannot be written").cause(error))?))
        })?;
        answer.ok_or_else(|| Failure::permanent("the record of a load was not changed"))
    }

    /// Refuses a worker whose load was taken over.
    pub(super) fn fence(&self, record: &Record, load: &Load) -> Result<(), Failure> {
        if record.epoch == load.epoch {
            return Ok(());
        }
        Err(Failure::new(
            FailureKind::Fenced,
            format!(
                "the load of stage `{}` was taken over by a newer run (epoch {}, this one had {})",
                load.key.stage, record.epoch, load.epoch
            ),
        ))
    }

    /// Removes everything but the record.
    pub(super) fn clean(&self, store: &dyn Store) -> Result<(), Failure> {
        for folder in ["next", "last"] {
            store.remove_folder(&self.file(folder))?;
        }
        for file in store.list(&self.folder, 0)? {
            if file.path != self.record() {
                store.remove(&file.path)?;
            }
        }
        Ok(())
    }

    fn parse(&self, bytes: Option<&[u8]>) -> Result<Record, Failure> {
        let Some(bytes) = bytes else { return Ok(Record { version: VERSION, epoch: 0, load: None, rolled: None }) };
        let broken = |what: String| {
            Failure::permanent(format!("the record `{}` {what}", self.record()))
                .help("restore it, or remove its folder to load from the start")
        };
        let record: Record = serde_json::from_slice(bytes).map_err(|error| broken("cannot be read".to_owned()).cause(error))?;
        if record.version == VERSION { Ok(record) } else { Err(broken(format!("has the version {}, not {VERSION}", record.version))) }
    }
}
