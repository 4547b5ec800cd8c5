//! Loads that are stopped, taken over, repeated and published.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use haul::connectors::{LoadKey, ReadRequest, Sink};
use haul::data::{Reject, Schema};
use haul::define::pipeline::{FilesSink, WriteMode};
use haul::failure::FailureKind;

use super::{Folder, from, to};
use crate::support::loads::{self, assert_same_rows, begin, key, mark, read_back, write};

const PATHS: [&str; 4] = ["out/x.csv", "out/x.parquet", "out/x.ndjson.gz", "out/parts.parquet/"];

fn halves() -> (Schema, RecordBatch, RecordBatch, RecordBatch) {
    let (schema, all) = loads::ids(0..100, "row");
    (schema, all.slice(0, 60), all.slice(60, 40), all)
}

#[tokio::test]
async fn a_load_goes_on_where_a_killed_one_stopped() {
    for path in PATHS {
        let folder = Folder::new();
        let (schema, first, second, all) = halves();
        let sink = folder.sink(to(path));
        let old = begin(&sink, &key("run 1"), &schema).await.expect("a load");
        write(&sink, &old, "0000", &first).await.expect("rows");
        // A writer that never commits leaves nothing.
        let mut cut = sink.writer(&old, "0001", None).await.expect("a writer");
        cut.write(second.clone()).await.expect("rows");
        drop(cut);
        assert!(!folder.exists(path), "{path} is seen before it is published");
        // Another process goes on, and the old one is fenced off.
        let sink = folder.sink(to(path));
        let claim = sink.claim(&key("run 2")).await.expect("a claim");
        let found = claim.found.expect("the unfinished load");
        assert_eq!((found.run.as_str(), found.note.as_str(), found.published), ("run 1", "a note", false));
        assert_eq!(found.marks, [mark("0000", &first)]);
        let load = haul::connectors::Load { key: key("run 2"), epoch: claim.epoch, ..old.clone() };
        let fenced = write(&sink, &old, "0001", &second).await.expect_err("an old epoch");
        assert_eq!(fenced.kind, FailureKind::Fenced, "{fenced}");
        assert_eq!(sink.publish(&old).await.expect_err("an old epoch").kind, FailureKind::Fenced);
        write(&sink, &load, "0001", &second).await.expect("rows");
        // A split that is committed again is left as it is.
        write(&sink, &load, "0000", &second).await.expect("nothing");
        assert_same_rows(&read_back(&sink, &load).await.expect(path), &all);
        sink.publish(&load).await.expect(path);
        sink.publish(&load).await.expect("nothing to do");
        assert_same_rows(&read_back(&sink, &load).await.expect(path), &all);
        let (rows, _) = loads::read(&folder.source(from(path)), ReadRequest::default(), 8).await.expect(path);
        assert_same_rows(&rows, &all);
        // Nothing but the target and the record is left.
        let left: Vec<String> = folder.visible();
        assert!(left.iter().all(|file| file.starts_with(path.trim_end_matches('/'))), "{left:?}");
        // The published load is known to the run that made it, and over for any other.
        let again = sink.claim(&key("run 2")).await.expect("a claim");
        assert!(again.epoch > load.epoch && again.found.is_some_and(|found| found.published && found.marks.len() == 2), "{path}");
        assert!(sink.claim(&key("run 3")).await.expect("a claim").found.is_none(), "{path}");
    }
}

#[tokio::test]
async fn a_crash_between_the_rename_and_its_record_is_survived() {
    // The record is put back to what it was before the last step, which is what a crash right before that step leaves.
    for path in PATHS {
        for splits in [1, 2] {
            let folder = Folder::new();
            let (schema, first, second, all) = halves();
            let sink = folder.sink(to(path));
            let load = begin(&sink, &key("run 1"), &schema).await.expect("a load");
            let expected = if splits == 1 { first.clone() } else { all };
            write(&sink, &load, "0000", &first).await.expect("rows");
            if splits == 2 {
                write(&sink, &load, "0001", &second).await.expect("rows");
            }
            let record = folder.all().into_iter().find(|file| file.ends_with("load.json")).expect("a record");
            sink.publish(&load).await.expect(path);
            let published = folder.read(&record);
            let target = if path.ends_with('/') { "\"moving\"".to_owned() } else { publishing(&folder, path) };
            folder.file(&record, published.replace("\"published\"", &target));
            let sink = folder.sink(to(path));
            let claim = sink.claim(&key("run 1")).await.expect("a claim");
            assert_eq!(claim.found.expect("the load").marks.len(), splits);
            let load = haul::connectors::Load { epoch: claim.epoch, ..load };
            assert_same_rows(&read_back(&sink, &load).await.expect(path), &expected);
            sink.publish(&load).await.expect(path);
            let (rows, _) = loads::read(&folder.source(from(path)), ReadRequest::default(), 8).await.expect(path);
            assert_same_rows(&rows, &expected);
        }
    }
}

/// The record's word for a file that is about to get its name, whose seal is that of the target.
fn publishing(folder: &Folder, path: &str) -> String {
    let bytes = folder.bytes(path);
    format!(
        "{{\"publishing\": {{\"file\": \"gone.part\", \"seal\": {{\"bytes\": {}, \"xxh3\": \"{:032x}\"}}}}}}",
        bytes.len(),
        xxhash_rust::xxh3::xxh3_128(&bytes)
    )
}

#[tokio::test]
async fn a_fresh_load_discards_what_was_staged() {
    for path in PATHS {
        let folder = Folder::new();
        let (schema, first, second, _) = halves();
        let sink = folder.sink(to(path));
        let old = begin(&sink, &key("run 1"), &schema).await.expect("a load");
        write(&sink, &old, "0000", &first).await.expect("rows");
        sink.abandon(&key("run 1")).await.expect("nothing in the way");
        assert!(folder.visible().is_empty(), "{:?}", folder.all());
        assert_eq!(write(&sink, &old, "0001", &second).await.expect_err("an abandoned load").kind, FailureKind::Fenced);
        let load = loads::load(&sink, "run 2", &schema, &second).await.expect("a load");
        assert_same_rows(&read_back(&sink, &load).await.expect(path), &second);
        let (rows, _) = loads::read(&folder.source(from(path)), ReadRequest::default(), 8).await.expect(path);
        assert_same_rows(&rows, &second);
    }
}

#[tokio::test]
async fn replace_swaps_a_folder_and_append_adds_to_it() {
    let folder = Folder::new();
    let (schema, first, second, all) = halves();
    let replace = folder.sink(to("parts.parquet/"));
    let append: Arc<dyn Sink> = folder.sink(FilesSink { mode: WriteMode::Append, ..to("parts.parquet/") });
    let rows = async || loads::read(&folder.source(from("parts.parquet/")), ReadRequest::default(), 8).await.expect("rows").0;
    loads::load(&replace, "run 1", &schema, &first).await.expect("a load");
    assert_part_of(&folder, "run_1");
    loads::load(&replace, "run 2", &schema, &second).await.expect("a load");
    let part = assert_part_of(&folder, "run_2");
    assert_same_rows(&rows().await, &second);
    let added = loads::load(&append, "run 3", &schema, &first).await.expect("a load");
    assert_same_rows(&rows().await, &all);
    assert_same_rows(&read_back(&append, &added).await.expect("its own rows"), &first);
    // Files that haul did not write are neither mixed with nor removed.
    folder.file("parts.parquet/mine.parquet", "x");
    for sink in [&replace, &append] {
        let problems = sink.plan(&schema).await.expect("a plan").expect_err("a foreign file");
        assert!(problems[0].message.contains("mine.parquet"), "{problems:?}");
        let failure = loads::load(sink, "run 4", &schema, &first).await.expect_err("a foreign file");
        assert!(failure.message.contains("mine.parquet"), "{failure}");
        sink.abandon(&key("run 4")).await.expect("nothing in the way");
    }
    assert!(folder.exists("parts.parquet/mine.parquet") && folder.exists(&part));
}

/// The folder's only part, which is of that run.
#[track_caller]
fn assert_part_of(folder: &Folder, run: &str) -> String {
    let found = folder.visible();
    assert!(found.len() == 2 && found[0] == "parts.parquet/.haul-manifest.json", "{found:?}");
    assert!(found[1].starts_with(&format!("parts.parquet/part-all-{run}-")), "{found:?}");
    found[1].clone()
}

#[tokio::test]
async fn two_stages_of_a_run_append_to_one_folder() {
    let folder = Folder::new();
    let (schema, first, second, all) = halves();
    let sink: Arc<dyn Sink> = folder.sink(FilesSink { mode: WriteMode::Append, ..to("parts.parquet/") });
    let stage = |name: &str| LoadKey { stage: name.to_owned(), plan_hash: format!("plan of {name}"), ..key("run 1") };
    let (one, two) = (begin(&sink, &stage("one"), &schema).await, begin(&sink, &stage("two"), &schema).await);
    let (one, two) = (one.expect("a load"), two.expect("a load"));
    write(&sink, &one, "all", &first).await.expect("rows");
    write(&sink, &two, "all", &second).await.expect("rows");
    sink.publish(&one).await.expect("its part");
    sink.publish(&two).await.expect("its own part");
    assert_same_rows(&read_back(&sink, &one).await.expect("its own rows"), &first);
    assert_same_rows(&read_back(&sink, &two).await.expect("its own rows"), &second);
    let (rows, _) = loads::read(&folder.source(from("parts.parquet/")), ReadRequest::default(), 8).await.expect("rows");
    assert_same_rows(&rows, &all);
}

#[tokio::test]
async fn a_part_that_was_moved_in_goes_with_its_load() {
    let folder = Folder::new();
    let (schema, first, second, all) = halves();
    let append: Arc<dyn Sink> = folder.sink(FilesSink { mode: WriteMode::Append, ..to("parts.parquet/") });
    loads::load(&append, "run 1", &schema, &first).await.expect("a load");
    let before = (folder.all(), folder.bytes("parts.parquet/.haul-manifest.json"));
    let load = loads::load(&append, "run 2", &schema, &second).await.expect("a load");
    // Put back to what a crash between the move and the manifest leaves.
    let record = folder.all().into_iter().find(|file| file.ends_with("load.json")).expect("a record");
    let moving = folder.read(&record).replace("\"published\"", "\"moving\"");
    folder.file(&record, &moving).file("parts.parquet/.haul-manifest.json", &before.1);
    assert_eq!(folder.all().len(), before.0.len() + 1);
    append.abandon(&load.key).await.expect("nothing in the way");
    assert_eq!(folder.all(), before.0);
    // The same load again, as a source that changed makes a run begin it: its part has the name of the one that went.
    loads::load(&append, "run 2", &schema, &second).await.expect("a load");
    let (rows, _) = loads::read(&folder.source(from("parts.parquet/")), ReadRequest::default(), 8).await.expect("rows");
    assert_same_rows(&rows, &all);
}

#[tokio::test]
async fn replace_removes_nothing_that_haul_did_not_write() {
    for foreign in ["deep/down/mine.txt", ".gitkeep", ".git/config", ".haul/other/load.json", "two/x.parquet"] {
        let folder = Folder::new();
        let (schema, first, second, _) = halves();
        let sink = folder.sink(to("parts.parquet/"));
        loads::load(&sink, "run 1", &schema, &first).await.expect("a load");
        let path = format!("parts.parquet/{foreign}");
        folder.file(&path, "mine");
        let problems = sink.plan(&schema).await.expect("a plan").expect_err(foreign);
        let name = foreign.split('/').next().expect("a name");
        assert!(problems[0].message.contains(&format!("`parts.parquet/{name}` was not written by haul")), "{problems:?}");
        loads::load(&sink, "run 2", &schema, &second).await.expect_err(foreign);
        assert_eq!(folder.read(&path), "mine");
        let (rows, _) = loads::read(&folder.source(from("parts.parquet/")), ReadRequest::default(), 8).await.expect("rows");
        assert_same_rows(&rows, &first);
    }
    // Where nothing is taken away, what is hidden is in nobody's way.
    let folder = Folder::new();
    let (schema, first, ..) = halves();
    folder.file("parts.parquet/.gitkeep", "");
    loads::load(&folder.sink(FilesSink { mode: WriteMode::Append, ..to("parts.parquet/") }), "run 1", &schema, &first)
        .await
        .expect("a load");
}

#[tokio::test]
async fn targets_that_cannot_be_are_named_before_the_run() {
    let folder = Folder::new();
    folder.file("folder/x", "").file("file", "");
    let (schema, _) = loads::ids(0..1, "x");
    let upsert = WriteMode::Upsert { key: vec!["id".to_owned()] };
    for (spec, field) in [
        (to("../x.csv"), "path"),
        (to("/tmp/x.csv"), "path"),
        (to("x*.csv"), "path"),
        (to("folder"), "path"),
        (to("file/"), "path"),
        (to(".haul/x.csv"), "path"),
        (FilesSink { mode: WriteMode::Append, ..to("x.csv") }, "mode"),
        (FilesSink { mode: upsert, ..to("x/") }, "mode"),
    ] {
        let problems = folder.sink(spec.clone()).plan(&schema).await.expect("a plan").expect_err(&spec.path);
        assert!(problems.len() == 1 && problems[0].field == field, "{}: {problems:?}", spec.path);
    }
}

/// The variable that names the folder to the process whose files may not grow.
const SMALL_DISK: &str = "HAUL_TEST_SMALL_DISK";

#[cfg(unix)]
#[tokio::test]
async fn a_full_disk_leaves_nothing_that_looks_whole() {
    let (schema, batch) = loads::ids(0..200_000, "row");
    // A limit on the size of files stands for a full disk. It belongs to a process: this test runs itself again under it.
    if let Some(base) = std::env::var_os(SMALL_DISK) {
        let root = super::root("file:.", std::path::Path::new(&base)).expect("a folder's URL");
        for path in PATHS {
            let failure = loads::load(&root.sink(&to(path)), "run 1", &schema, &batch).await.expect_err("no room");
            assert_eq!(failure.kind, FailureKind::Permanent, "{failure}");
            assert!(failure.to_string().contains("File too large"), "{failure}");
            assert!(failure.help.as_deref().is_some_and(|help| help.contains("make room")), "{failure:?}");
        }
        return;
    }
    let folder = Folder::new();
    let mut child = std::process::Command::new("sh");
    child.args(["-c", "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\""]).arg(std::env::current_exe().expect("this binary"));
    child.args(["--exact", "files::load::a_full_disk_leaves_nothing_that_looks_whole"]).env(SMALL_DISK, folder.folder.path());
    let output = child.output().expect("the test runs again");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
    assert!(folder.visible().is_empty(), "{:?}", folder.all());
    // With room, the same load goes through.
    for path in PATHS {
        let sink = folder.sink(to(path));
        loads::load(&sink, "run 1", &schema, &batch).await.expect(path);
        let (rows, _) = loads::read(&folder.source(from(path)), ReadRequest::default(), 8).await.expect(path);
        assert_same_rows(&rows, &batch);
    }
}

#[tokio::test]
async fn rejects_are_put_together_once() {
    let folder = Folder::new();
    let root = folder.root();
    let reject = |line: u64| Reject { origin: format!("x.csv:{line}"), reason: "bad".to_owned(), row: "a,\"b\"\n".to_owned() };
    let log = root.rejects("bad/rows.ndjson").expect("a path");
    let mut dropped = log.writer("0002", "0002");
    dropped.write(&[reject(9)]).await.expect("rows");
    drop(dropped);
    log.publish(false).await.expect("nothing");
    assert!(folder.all().is_empty(), "{:?}", folder.all());
    for (split, lines) in [("0001", vec![3]), ("0000", vec![7]), ("0000", vec![1, 2])] {
        let mut writer = log.writer(split, split);
        for line in lines {
            writer.write(&[reject(line)]).await.expect("rows");
        }
        writer.commit().await.expect("kept");
    }
    assert!(!folder.exists("bad/rows.ndjson"));
    // Another process publishes, and once more.
    folder.root().rejects("bad/rows.ndjson").expect("a path").publish(false).await.expect("a file");
    log.publish(false).await.expect("nothing to do");
    let line = |line: u64, split: &str| {
        format!("{{\"origin\":\"x.csv:{line}\",\"reason\":\"bad\",\"row\":\"a,\\\"b\\\"\\n\",\"split\":\"{split}\"}}\n")
    };
    assert_eq!(folder.read("bad/rows.ndjson"), [line(1, "0000"), line(2, "0000"), line(3, "0001")].concat());
    assert_eq!(folder.all(), ["bad/rows.ndjson"]);
    // A split whose retry has no bad rows keeps none.
    let log = root.rejects("other.ndjson").expect("a path");
    let mut writer = log.writer("0000", "0000");
    writer.write(&[reject(1)]).await.expect("rows");
    writer.commit().await.expect("kept");
    log.writer("0000", "0000").commit().await.expect("kept");
    log.publish(false).await.expect("nothing");
    assert_eq!(folder.all(), ["bad/rows.ndjson"]);
    assert!(root.rejects("../x").is_err());
}
