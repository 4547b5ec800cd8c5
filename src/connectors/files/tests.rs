//! Loads in an object store, and loads that are cut at moments that no run from outside could meet on purpose.

use std::io::Read;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use arrow::array::{ArrayRef, Int64Array};
use arrow::record_batch::RecordBatch;
use futures::StreamExt;
use object_store::memory::InMemory;

use super::sink::FileSink;
use super::source::FileSource;
use super::store::{Change, Found, Local, Object, Pending, Ranges, Store};
use crate::connectors::{Load, LoadKey, Mark, ReadRequest, Sink, Source, SplitGoal};
use crate::data::{BatchLimit, Column, RowHasher, Schema, Type};
use crate::define::pipeline::{Compression, FileFormat, FilesSink, FilesSource, Verify, WriteMode};
use crate::failure::{Failure, FailureKind};
use crate::tasks;

fn batch(ids: Range<i64>) -> (Schema, RecordBatch) {
    let schema = Schema { columns: vec![Column::new("id", Type::Int(64))] };
    let array: ArrayRef = Arc::new(Int64Array::from_iter_values(ids));
    let batch = RecordBatch::try_new(schema.to_arrow(), vec![array]).expect("a batch");
    (schema, batch)
}

fn key(run: &str) -> LoadKey {
    LoadKey { pipeline: "p".to_owned(), stage: "s".to_owned(), output: 0, run: run.to_owned(), plan_hash: "h".to_owned() }
}

async fn write(sink: &FileSink, load: &Load, split: &str, batch: &RecordBatch) -> Result<(), Failure> {
    let digest = RowHasher::default().digest(batch);
    let mut writer = sink.writer(load, split, None).await?;
    writer.write(batch.clone()).await?;
    writer.commit(Mark { split: split.to_owned(), rows: digest.rows, digest, rejects: 0, position: None }).await.map(drop)
}

async fn rows(store: &Arc<dyn Store>, path: &str) -> usize {
    let spec = FilesSource {
        connection: "data".to_owned(),
        path: path.to_owned(),
        format: FileFormat::Parquet,
        compression: None,
        columns: std::collections::BTreeMap::new(),
        sample: 100,
    };
    let reading = FileSource::new(Arc::clone(store), spec).open(ReadRequest::default()).await.expect("files");
    let mut rows = 0;
    for split in reading.splits(SplitGoal { most: 8, bytes: 1 }).await.expect("splits").splits {
        let mut stream = reading.read(&split, None).await.expect("a stream");
        while let Some(chunk) = stream.next().await {
            rows += chunk.expect("rows").batch.num_rows();
        }
    }
    rows
}

fn bucket() -> Arc<dyn Store> {
    Arc::new(Object::new(Arc::new(InMemory::new()), "pre/fix", "s3://bucket/pre/fix".to_owned()))
}

fn spec(path: &str, mode: WriteMode) -> FilesSink {
    let (connection, path) = ("data".to_owned(), path.to_owned());
    FilesSink { connection, path, format: FileFormat::Parquet, compression: Compression::Zstd, mode, roll: None }
}

/// The whole way of a load through an object store, which has neither locks nor renames.
#[tokio::test]
async fn loads_in_an_object_store_resume_fence_and_publish() {
    for (path, mode, runs, expected) in
        [("out/x.parquet", WriteMode::Replace, 2, 100), ("out/x/", WriteMode::Replace, 2, 100), ("out/x/", WriteMode::Append, 2, 200)]
    {
        let store = bucket();
        let spec = spec(path, mode);
        let (schema, all) = batch(0..100);
        for run in 0..runs {
            let sink = FileSink::new(Arc::clone(&store), spec.clone());
            assert!(sink.plan(&schema).await.expect("a plan").is_ok());
            let name = format!("run {run}");
            let claim = sink.claim(&key(&name)).await.expect("a claim");
            let old = Load { key: key(&name), epoch: claim.epoch, schema: schema.clone(), verify: Verify::Digest };
            sink.prepare(&old, "note").await.expect("a load");
            write(&sink, &old, "0000", &all.slice(0, 60)).await.expect("rows");
            let claim = sink.claim(&key(&name)).await.expect("a claim");
            assert_eq!(claim.found.expect("the load").marks.len(), 1);
            assert_eq!(write(&sink, &old, "0001", &all).await.expect_err("an old epoch").kind, FailureKind::Fenced);
            let load = Load { epoch: claim.epoch, ..old };
            // Two splits at the same time change one record.
            let (one, two) = (all.slice(60, 20), all.slice(80, 20));
            let (first, second) = tokio::join!(write(&sink, &load, "0001", &one), write(&sink, &load, "0002", &two));
            first.and(second).expect("rows");
            sink.publish(&load).await.expect("a target");
            sink.publish(&load).await.expect("nothing to do");
            let back: usize = sink
                .read_back(&load, BatchLimit::default())
                .await
                .expect("rows")
                .map(|chunk| chunk.expect("rows").batch.num_rows())
                .collect::<Vec<_>>()
                .await
                .into_iter()
                .sum();
            assert_eq!(back, 100, "{path}");
            assert!(sink.claim(&key(&name)).await.expect("a claim").found.is_some_and(|found| found.published));
        }
        assert_eq!(rows(&store, path).await, expected, "{path}");
        let left = tasks::blocking(move || store.list("", usize::MAX)).await.expect("a list");
        assert!(left.iter().all(|file| file.path.starts_with("out/x")), "{left:?}");
    }
}

/// What goes wrong once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// A change of a file of this name is made and its answer lost, so that it is made again.
    Twice(&'static str),
    /// A file of this name cannot be changed.
    Change(&'static str),
    /// No file can be removed below this folder.
    Remove(&'static str),
    /// A folder cannot be moved to this name.
    Move(&'static str),
}

/// A store in which something goes wrong.
struct Faulty {
    store: Arc<dyn Store>,
    fault: Mutex<Option<Fault>>,
}

impl Faulty {
    fn with(store: &Arc<dyn Store>, fault: Fault) -> Arc<Self> {
        Arc::new(Self { store: Arc::clone(store), fault: Mutex::new(Some(fault)) })
    }

    /// Whether this is what goes wrong, and has not gone wrong yet.
    fn goes_wrong(&self, matches: impl Fn(Fault) -> bool) -> bool {
        self.fault.lock().expect("the fault").take_if(|fault| matches(*fault)).is_some()
    }

    fn has_gone_wrong(&self) -> bool {
        self.fault.lock().expect("the fault").is_none()
    }
}

impl Store for Faulty {
    fn change(&self, path: &str, change: Change<'_>) -> Result<(), Failure> {
        if self.goes_wrong(|fault| matches!(fault, Fault::Change(name) if path.ends_with(name))) {
            return Err(Failure::transient("cut"));
        }
        if self.goes_wrong(|fault| matches!(fault, Fault::Twice(name) if path.ends_with(name))) {
            self.store.change(path, change)?;
        }
        self.store.change(path, change)
    }

    fn remove(&self, path: &str) -> Result<(), Failure> {
        if self.goes_wrong(|fault| matches!(fault, Fault::Remove(folder) if path.starts_with(folder))) {
            return Err(Failure::transient("cut"));
        }
        self.store.remove(path)
    }

    fn rename_folder(&self, from: &str, to: &str) -> Result<(), Failure> {
        if self.goes_wrong(|fault| matches!(fault, Fault::Move(name) if to == name)) {
            return Err(Failure::transient("cut"));
        }
        self.store.rename_folder(from, to)
    }

    fn label(&self) -> String {
        self.store.label()
    }

    fn list(&self, folder: &str, depth: usize) -> Result<Vec<Found>, Failure> {
        self.store.list(folder, depth)
    }

    fn names(&self, folder: &str) -> Result<Vec<String>, Failure> {
        self.store.names(folder)
    }

    fn stat(&self, path: &str) -> Result<Option<Found>, Failure> {
        self.store.stat(path)
    }

    fn open_at(&self, path: &str, start: u64) -> Result<Box<dyn Read + Send>, Failure> {
        self.store.open_at(path, start)
    }

    fn is_near(&self) -> bool {
        self.store.is_near()
    }

    fn ranges(&self, path: &str) -> Result<Box<dyn Ranges>, Failure> {
        self.store.ranges(path)
    }

    fn create(&self, path: &str) -> Result<Box<dyn Pending>, Failure> {
        self.store.create(path)
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), Failure> {
        self.store.rename(from, to)
    }

    fn renames_folders(&self) -> bool {
        self.store.renames_folders()
    }

    fn check_target(&self, path: &str, folder: bool) -> Result<(), Failure> {
        self.store.check_target(path, folder)
    }

    fn remove_folder(&self, path: &str) -> Result<(), Failure> {
        self.store.remove_folder(path)
    }

    fn remove_empty_folder(&self, path: &str) -> Result<(), Failure> {
        self.store.remove_empty_folder(path)
    }

    fn read_small(&self, path: &str) -> Result<Option<Vec<u8>>, Failure> {
        self.store.read_small(path)
    }

    fn promise(&self) -> &'static str {
        self.store.promise()
    }
}

/// Begins a load of a run and writes one split of it, ready to be published.
async fn loaded(sink: &FileSink, key: &LoadKey, (schema, rows): &(Schema, RecordBatch)) -> Load {
    let claim = sink.claim(key).await.expect("a claim");
    let load = Load { key: key.clone(), epoch: claim.epoch, schema: schema.clone(), verify: Verify::Digest };
    sink.prepare(&load, "note").await.expect("a load");
    write(sink, &load, "all", rows).await.expect("rows");
    load
}

/// The files that are right in a folder and no manifest.
async fn parts(store: &Arc<dyn Store>, folder: &'static str) -> Vec<String> {
    let store = Arc::clone(store);
    let mut names = tasks::blocking(move || store.names(folder)).await.expect("a list");
    names.retain(|name| !name.starts_with('.'));
    names
}

#[tokio::test]
async fn a_manifest_that_is_written_twice_costs_no_part() {
    let store = bucket();
    for run in ["run 1", "run 2"] {
        let faulty = Faulty::with(&store, Fault::Twice(".haul-manifest.json"));
        let sink = FileSink::new(faulty.clone(), spec("out/x/", WriteMode::Replace));
        let load = loaded(&sink, &key(run), &batch(0..100)).await;
        sink.publish(&load).await.expect(run);
        assert!(faulty.has_gone_wrong());
        assert_eq!((rows(&store, "out/x/").await, parts(&store, "out/x").await.len()), (100, 1), "{run}");
    }
}

/// A replacement that is cut while the replaced parts are removed: whoever comes next removes the others.
#[tokio::test]
async fn replaced_parts_that_were_not_removed_are_known_and_go() {
    for next in ["a retry", "another process", "another run"] {
        let store = bucket();
        let sink = FileSink::new(Arc::clone(&store), spec("out/x/", WriteMode::Replace));
        let load = loaded(&sink, &key("run 1"), &batch(0..10)).await;
        sink.publish(&load).await.expect("a target");
        let faulty = Faulty::with(&store, Fault::Remove("out/x/part-"));
        let cut = FileSink::new(faulty.clone(), spec("out/x/", WriteMode::Replace));
        let load = loaded(&cut, &key("run 2"), &batch(0..100)).await;
        cut.publish(&load).await.expect_err("a fault");
        assert!(faulty.has_gone_wrong());
        assert_eq!((rows(&store, "out/x/").await, parts(&store, "out/x").await.len()), (100, 2), "{next}");
        assert!(sink.plan(&load.schema).await.expect("a plan").is_ok(), "{next}: the folder is refused");
        let mut expected = 100;
        match next {
            "a retry" => cut.publish(&load).await.expect(next),
            "another process" => assert!(sink.claim(&key("run 2")).await.expect(next).found.is_some_and(|found| found.published)),
            _ => {
                expected = 7;
                let load = loaded(&sink, &key("run 3"), &batch(0..7)).await;
                sink.publish(&load).await.expect(next);
            }
        }
        assert_eq!((rows(&store, "out/x/").await, parts(&store, "out/x").await.len()), (expected, 1), "{next}");
    }
}

/// Between the two renames of a swap there is no folder: a load that does not go on gives the old one its name again.
#[tokio::test]
async fn a_folder_whose_swap_was_cut_is_not_lost() {
    for goes_on in [true, false] {
        let folder = tempfile::tempdir().expect("a folder");
        let store: Arc<dyn Store> = Arc::new(Local::new(folder.path().to_owned()));
        let sink = FileSink::new(Arc::clone(&store), spec("out/x/", WriteMode::Replace));
        let load = loaded(&sink, &key("run 1"), &batch(0..10)).await;
        sink.publish(&load).await.expect("a target");
        let faulty = Faulty::with(&store, Fault::Move("out/x"));
        let cut = FileSink::new(faulty.clone(), spec("out/x/", WriteMode::Replace));
        let load = loaded(&cut, &key("run 2"), &batch(0..100)).await;
        cut.publish(&load).await.expect_err("a fault");
        assert!(faulty.has_gone_wrong() && parts(&store, "out/x").await.is_empty());
        if goes_on {
            sink.publish(&load).await.expect("a target");
            assert_eq!(rows(&store, "out/x/").await, 100);
            continue;
        }
        let changed = LoadKey { plan_hash: "changed".to_owned(), ..key("run 3") };
        let load = loaded(&sink, &changed, &batch(0..7)).await;
        assert_eq!(rows(&store, "out/x/").await, 10, "the old rows are gone before the new ones are there");
        sink.publish(&load).await.expect("a target");
        assert_eq!(rows(&store, "out/x/").await, 7);
        let cut = FileSink::new(Faulty::with(&store, Fault::Move("out/x")), spec("out/x/", WriteMode::Replace));
        let load = loaded(&cut, &key("run 4"), &batch(0..100)).await;
        cut.publish(&load).await.expect_err("a fault");
        sink.abandon(&key("run 4")).await.expect("nothing in the way");
        assert_eq!(rows(&store, "out/x/").await, 7);
    }
}

/// A load that was cut while its parts were moved in, and whose format was changed then, has parts with other endings than are written now.
#[tokio::test]
async fn parts_of_another_format_that_were_moved_in_are_known_and_go() {
    let store = bucket();
    let other = FilesSink { format: FileFormat::Ndjson, compression: Compression::Gzip, ..spec("out/x/", WriteMode::Append) };
    let cut = FileSink::new(Faulty::with(&store, Fault::Change(".haul-manifest.json")), other);
    let load = loaded(&cut, &key("run 1"), &batch(0..10)).await;
    cut.publish(&load).await.expect_err("a fault");
    let left = parts(&store, "out/x").await;
    assert!(left.len() == 1 && left[0].ends_with(".ndjson.gz"), "{left:?}");
    let sink = FileSink::new(Arc::clone(&store), spec("out/x/", WriteMode::Append));
    assert!(sink.plan(&load.schema).await.expect("a plan").is_ok(), "the folder is refused");
    let changed = LoadKey { plan_hash: "changed".to_owned(), ..key("run 2") };
    let load = loaded(&sink, &changed, &batch(0..7)).await;
    sink.publish(&load).await.expect("a target");
    assert_eq!((rows(&store, "out/x/").await, parts(&store, "out/x").await.len()), (7, 1));
}
