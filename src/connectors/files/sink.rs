//! Files as a target: one file, or a folder of parts.
//!
//! Every split is written into a part of its own in the work folder, and named in the load's record when it is whole; see
//! [`super::state`]. `publish` turns the parts into the target; see [`super::publish`].

use std::sync::Arc;

use async_trait::async_trait;

use super::part::{self, PartWriter};
use super::state::{LoadRecord, Stage, Work};
use super::store::Store;
use super::{encoding, grades, manifest, paths, publish, roll, stream};
use crate::connectors::{Claim, FoundLoad, Load, LoadKey, Mark, Sink, Target as Answer, TargetProblem, Writer};
use crate::data::{BatchLimit, BatchStream, Schema};
use crate::define::pipeline::{FileFormat, FilesSink, WriteMode};
use crate::failure::{Failure, FailureKind};
use crate::tasks;

/// Splits written at the same time: each holds an encoder and, in Parquet, a row group.
const WRITERS: usize = 16;

/// What is written, and where.
#[derive(Clone)]
pub(super) struct Target {
    pub store: Arc<dyn Store>,
    pub spec: FilesSink,
    /// Whether the store moves folders in one step.
    pub renames_folders: bool,
}

impl Target {
    /// Whether the target is a folder of parts.
    pub(super) fn is_folder(&self) -> bool {
        self.spec.path.ends_with('/')
    }

    /// The folder's path.
    pub(super) fn folder(&self) -> &str {
        self.spec.path.trim_end_matches('/')
    }

    /// Whether publishing takes the whole folder away and puts a new one in its place.
    pub(super) fn swaps(&self) -> bool {
        self.spec.mode == WriteMode::Replace && self.renames_folders
    }

    fn guarantee(&self) -> String {
        let how = self.store.promise();
        if self.spec.roll.is_some() {
            return format!("effectively once: parts {how}, each seen when it is whole; part and position in one record");
        }
        match (self.is_folder(), self.spec.mode == WriteMode::Append, self.renames_folders) {
            (false, ..) => format!("effectively once: one file, {how}"),
            (true, false, true) => format!("effectively once: parts {how}; the folder is swapped, readers see one load or none"),
            (true, false, false) => {
                format!("effectively once by manifest: parts {how}; a pattern may match both loads for a moment")
            }
            (true, true, _) => format!("effectively once by manifest: parts {how}; a pattern may match some parts of a load before others"),
        }
    }
}

/// One file, or a folder of parts.
pub(super) struct FileSink {
    pub(super) target: Target,
}

impl FileSink {
    /// Touches nothing yet.
    pub(super) fn new(store: Arc<dyn Store>, spec: FilesSink) -> Self {
        let renames_folders = store.renames_folders();
        Self { target: Target { store, spec, renames_folders } }
    }
}

#[async_trait]
impl Sink for FileSink {
    async fn plan(&self, incoming: &Schema) -> Result<Result<Answer, Vec<TargetProblem>>, Failure> {
        let (target, incoming) = (self.target.clone(), incoming.clone());
        tasks::blocking(move || plan(&target, &incoming)).await
    }

    async fn claim(&self, key: &LoadKey) -> Result<Claim, Failure> {
        let (target, key) = (self.target.clone(), key.clone());
        tasks::blocking(move || claim(&target, &key)).await
    }

    async fn prepare(&self, load: &Load, note: &str) -> Result<(), Failure> {
        let (target, load, note) = (self.target.clone(), load.clone(), note.to_owned());
        tasks::blocking(move || {
            let work = Work::new(&load.key, &target.spec.path);
            work.change(&*target.store, &load, |record| {
                publish::take_back(&target, &work, record.load.as_ref())?;
                record.load = Some(LoadRecord::begun(&load.key, &note));
                Ok(())
            })?;
            work.clean(&*target.store)
        })
        .await
    }

    async fn writer(&self, load: &Load, split: &str, _: Option<&Mark>) -> Result<Box<dyn Writer>, Failure> {
        let work = Work::new(&load.key, &self.target.spec.path);
        Ok(Box::new(PartWriter::new(self.target.clone(), work, load, split)))
    }

    async fn publish(&self, load: &Load) -> Result<(), Failure> {
        let (target, load) = (self.target.clone(), load.clone());
        tasks::blocking(move || publish::publish(&target, &Work::new(&load.key, &target.spec.path), &load)).await
    }

    async fn read_back(&self, load: &Load, limit: BatchLimit) -> Result<BatchStream, Failure> {
        let (target, load) = (self.target.clone(), load.clone());
        Ok(stream::chunks(move |give| {
            let work = Work::new(&load.key, &target.spec.path);
            let record = work.read(&*target.store)?;
            let current = record.load.ok_or_else(|| Failure::permanent("there is no load to read back; it was never prepared"))?;
            for (path, header) in publish::places(&target, &work, &current)? {
                if !part::read_back(&target, &load.schema, &path, header, limit, give)? {
                    break;
                }
            }
            Ok(())
        }))
    }

    fn staged(&self) -> bool {
        true
    }

    async fn abandon(&self, key: &LoadKey) -> Result<(), Failure> {
        let (target, key) = (self.target.clone(), key.clone());
        tasks::blocking(move || {
            let work = Work::new(&key, &target.spec.path);
            let unfinished = work.change_any(&*target.store, |record| {
                let unfinished = record.load.as_ref().is_some_and(|load| load.stage != Stage::Published);
                if unfinished {
                    publish::take_back(&target, &work, record.load.as_ref())?;
                    // Whoever still writes it is fenced off.
                    record.epoch += 1;
                    record.load = None;
                }
                Ok(unfinished)
            })?;
            if unfinished { work.clean(&*target.store) } else { Ok(()) }
        })
        .await
    }
}

fn claim(target: &Target, key: &LoadKey) -> Result<Claim, Failure> {
    let store = &*target.store;
    let work = Work::new(key, &target.spec.path);
    let claim = work.change_any(store, |record| {
        record.epoch += 1;
        let mut found = None;
        if let Some(load) = record.load.as_mut().filter(|load| load.plan_hash == key.plan_hash) {
            // A crash may have come between the manifest and the record.
            if load.stage == Stage::Moving && publish::is_published(target, load)? {
                load.stage = Stage::Published;
            }
            let published = load.stage == Stage::Published;
            let same_run = load.runs.contains(&key.run);
            if same_run || !published {
                if load.stage == Stage::Loading {
                    keep_whole_parts(store, &work, load)?;
                }
                let marks = load.in_order().iter().map(super::state::Part::mark).collect::<Result<_, _>>()?;
                found = Some(FoundLoad { run: load.run().to_owned(), note: load.note.clone(), marks, published });
                if !same_run {
                    load.runs.push(key.run.clone());
                }
            }
        }
        Ok(Claim { epoch: record.epoch, found, ..Claim::default() })
    })?;
    // A load that is published is not published again: what a killed worker had no time to remove is removed here.
    if claim.found.as_ref().is_some_and(|found| found.published) {
        publish::clean(target, &work)?;
    }
    Ok(claim)
}

/// Forgets parts whose files are not as they were: a copy of the folder that left some out, or a disk that lost some.
fn keep_whole_parts(store: &dyn Store, work: &Work, load: &mut LoadRecord) -> Result<(), Failure> {
    let mut whole = Vec::new();
    for part in std::mem::take(&mut load.parts) {
        if store.stat(&work.file(&part.file))?.is_some_and(|file| file.size == part.seal.bytes) {
            whole.push(part);
        }
    }
    load.parts = whole;
    Ok(())
}

/// What a target becomes, or everything that is wrong with it.
pub(super) fn plan(target: &Target, incoming: &Schema) -> Result<Result<Answer, Vec<TargetProblem>>, Failure> {
    let spec = &target.spec;
    let mut problems = Vec::new();
    let mut problem =
        |code, field, message: String, help: &str| problems.push(TargetProblem { code, field, message, help: help.to_owned() });
    if let Err(message) = paths::check_target(&spec.path) {
        problem("target-path", "path", message, "name a file, or a folder with a `/` at its end, below the connection's folder");
        return Ok(Err(problems));
    }
    match &spec.mode {
        WriteMode::Upsert { .. } => problem(
            "target-mode",
            "mode",
            "files have no keys to upsert by".to_owned(),
            "use `replace`, or `append` into a folder (a path that ends in `/`)",
        ),
        WriteMode::Append if !target.is_folder() => problem(
            "target-mode",
            "mode",
            format!("rows cannot be appended to the single file `{}`", spec.path),
            "end the path in `/` to add a part to a folder, or use `replace`",
        ),
        WriteMode::Append | WriteMode::Replace => {}
    }
    if let FileFormat::Csv(dialect) = &spec.format
        && !encoding::is_utf8(&dialect.encoding)
    {
        problem("target-encoding", "csv", format!("files are written in UTF-8, not in {}", dialect.encoding), "leave `encoding` out");
    }
    for (place, column) in incoming.columns.iter().enumerate() {
        if incoming.columns[..place].iter().any(|other| other.name == column.name) {
            problem("target-column", "", format!("the column `{}` comes twice", column.name), "rename one of them");
        }
        if let Some(why) = grades::refused(&column.ty, &spec.format) {
            problem(
                "target-type",
                "",
                format!("column `{}` is {}: {why}", column.name, column.ty),
                "drop the column, or cast it to text in the source",
            );
        }
    }
    let rolls = spec.roll.is_some();
    let exists = match if rolls { roll::there(target) } else { there(target) } {
        Ok(exists) => exists,
        Err(failure) if failure.kind == FailureKind::Permanent => {
            problem("target-path", "path", failure.to_string(), failure.help.as_deref().unwrap_or("choose another path"));
            false
        }
        Err(failure) => return Err(failure),
    };
    if !problems.is_empty() {
        return Ok(Err(problems));
    }
    Ok(Ok(Answer {
        tables: Vec::new(),
        columns: grades::map(incoming, &spec.format),
        ddl: Vec::new(),
        exists,
        wire: None,
        writers: if rolls { 1 } else { WRITERS },
        whole: false,
        checkpoints: rolls,
        guarantee: target.guarantee(),
        reads_as: grades::reads_as(incoming, &spec.format),
    }))
}

/// Whether the target exists; a failure when something stands in its way.
fn there(target: &Target) -> Result<bool, Failure> {
    let store = &*target.store;
    store.check_target(target.folder(), target.is_folder())?;
    if !target.is_folder() {
        return Ok(store.stat(&target.spec.path)?.is_some());
    }
    publish::check_folder(target, None)?;
    Ok(manifest::read(store, target.folder())?.is_some())
}
