//! The log below a feed: commits that happen once, workers that come late, what is dropped, and what is too large for memory.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, StringArray};
use haul::connectors::feed::{self, Log};
use haul::connectors::{Load, Sink};
use haul::data::{Column, Schema, Type};
use haul::define::pipeline::{FeedKeep, FeedSink, SlowClient};
use haul::failure::FailureKind;

use crate::support::loads::{self, batch_of, checkpoint, ids, mark};

struct Place {
    folder: tempfile::TempDir,
    sink: Arc<dyn Sink>,
}

fn place(keep: FeedKeep) -> Place {
    let folder = tempfile::Builder::new().prefix("haul-test-").tempdir().expect("a folder");
    let (slow, slow_after) = (SlowClient::Disconnect, Duration::from_secs(1));
    let spec = FeedSink { feed: "a".to_owned(), key: vec!["id".to_owned()], keep, slow, slow_after };
    let sink = feed::sink(&spec, folder.path());
    Place { folder, sink }
}

const ALL: FeedKeep = FeedKeep { rows: u64::MAX, bytes: u64::MAX, age: Duration::from_secs(1 << 30) };

impl Place {
    fn log(&self) -> Log {
        Log::open(self.folder.path(), "a").expect("a log").expect("a feed")
    }

    /// The number of the oldest event, and of the newest.
    fn edges(&self) -> (u64, u64) {
        let edges = self.log().edges().expect("edges");
        (edges.oldest, edges.head)
    }

    fn lines(&self) -> Vec<serde_json::Value> {
        let (edges, blocks) = self.log().behind(0, usize::MAX).expect("blocks");
        let mut next = edges.oldest;
        for block in &blocks {
            assert_eq!(
                (block.first, block.lines.iter().filter(|byte| **byte == b'\n').count() as u64),
                (next, block.last + 1 - block.first)
            );
            next = block.last + 1;
        }
        assert_eq!(next, edges.head + 1);
        let lines = blocks.iter().flat_map(|block| block.lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()));
        lines.map(|line| serde_json::from_slice(line).expect("JSON")).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_happens_once() {
    let place = place(ALL);
    let (schema, batch) = ids(1..101, "a");
    let load = loads::begin(&place.sink, &loads::key("run 1"), &schema).await.expect("a load");
    for _ in 0..2 {
        loads::write(&place.sink, &load, "0000", &batch).await.expect("a commit");
        assert_eq!(place.edges(), (1, 100));
    }
    loads::write(&place.sink, &load, "0001", &ids(101..151, "a").1).await.expect("a commit");
    assert_eq!(place.edges(), (1, 150));
    let ids: Vec<_> = place.lines().iter().map(|line| line["id"].as_u64()).collect();
    assert_eq!(ids, (1..=150).map(Some).collect::<Vec<_>>());
    place.sink.publish(&load).await.expect("published");
    // The next run adds to it.
    let load = loads::begin(&place.sink, &loads::key("run 2"), &schema).await.expect("a load");
    loads::write(&place.sink, &load, "0000", &batch).await.expect("a commit");
    assert_eq!(place.edges(), (1, 250));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_on_from_its_mark_and_from_nowhere_else() {
    let place = place(ALL);
    let (schema, first) = ids(1..11, "a");
    let load = loads::begin(&place.sink, &loads::key("run 1"), &schema).await.expect("a load");
    let mut writer = place.sink.writer(&load, "all", None).await.expect("a writer");
    writer.write(first.clone()).await.expect("written");
    let one = checkpoint("all", "10", &[&first]);
    writer.checkpoint(one.clone()).await.expect("committed");
    // What is not committed leaves no trace.
    writer.write(first.clone()).await.expect("written");
    drop(writer);
    assert_eq!(place.edges(), (1, 10));
    let mut late = place.sink.writer(&load, "all", None).await.expect("a writer");
    late.write(first.clone()).await.expect("written");
    let second = ids(11..21, "a").1;
    let failure = late.checkpoint(checkpoint("all", "11", &[&second])).await.expect_err("another mark");
    assert!(failure.kind == FailureKind::Transient && failure.view_lost, "{failure}");
    let claim = place.sink.claim(&loads::key("run 2")).await.expect("a claim");
    assert_eq!(claim.found.expect("the load").marks, std::slice::from_ref(&one));
    let mut fenced = place.sink.writer(&load, "all", Some(&one)).await.expect("a writer");
    fenced.write(second.clone()).await.expect("written");
    let two = checkpoint("all", "20", &[&first, &second]);
    assert_eq!(fenced.checkpoint(two.clone()).await.expect_err("a newer worker").kind, FailureKind::Fenced);
    let load = Load { epoch: claim.epoch, ..load };
    let mut writer = place.sink.writer(&load, "all", Some(&one)).await.expect("a writer");
    writer.write(second).await.expect("written");
    writer.checkpoint(two).await.expect("committed");
    assert_eq!(place.edges(), (1, 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_split_larger_than_memory_is_one_commit() {
    let place = place(ALL);
    let schema = Schema { columns: vec![Column::new("id", Type::Int(64)), Column::new("name", Type::Text)] };
    let batch = |from: i64| {
        let names: ArrayRef = Arc::new(StringArray::from_iter_values((0..1000).map(|row| format!("{row:04000}"))));
        batch_of(&schema, vec![Arc::new(Int64Array::from_iter_values(from..from + 1000)), names])
    };
    let load = loads::begin(&place.sink, &loads::key("run 1"), &schema).await.expect("a load");
    let mut writer = place.sink.writer(&load, "all", None).await.expect("a writer");
    let batches: Vec<_> = (0..10).map(|part| batch(part * 1000)).collect();
    for batch in &batches {
        writer.write(batch.clone()).await.expect("written");
        assert_eq!(place.edges().1, 0);
    }
    let whole = haul::connectors::Mark { position: None, ..checkpoint("all", "", &batches.iter().collect::<Vec<_>>()) };
    writer.commit(whole).await.expect("committed");
    let ids: Vec<_> = place.lines().iter().map(|line| line["id"].as_u64()).collect();
    assert_eq!(ids, (0..10_000).map(Some).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_much_or_too_old_goes_and_newest_rows_stay() {
    let check = async |keep: FeedKeep, least: u64, most: u64| {
        let place = place(keep);
        let (schema, _) = ids(0..1, "a");
        let load = loads::begin(&place.sink, &loads::key("run 1"), &schema).await.expect("a load");
        for split in 0..20 {
            let batch = ids(split * 50 + 1..split * 50 + 51, "a").1;
            loads::write(&place.sink, &load, &format!("{split:04}"), &batch).await.expect("a commit");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let (oldest, head) = place.edges();
        assert_eq!(head, 1000);
        let kept = head + 1 - oldest;
        assert!((least..=most).contains(&kept), "{kept} events are kept by {keep:?}");
        let (_, newest) = place.log().newest(0, head, false, usize::MAX).expect("rows");
        assert_eq!(newest.len(), 1000);
    };
    check(ALL, 1000, 1000).await;
    check(FeedKeep { rows: 120, ..ALL }, 120, 170).await;
    check(FeedKeep { bytes: 4000, ..ALL }, 50, 150).await;
    check(FeedKeep { age: Duration::from_millis(1), ..ALL }, 50, 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_cannot_be_events_are_refused() {
    let place = place(ALL);
    let schema = Schema { columns: vec![Column::new("id", Type::Int(64)), Column::new("data", Type::Json)] };
    let data: ArrayRef = Arc::new(StringArray::from(vec![Some("{\"a\": 1.10}"), Some("{\n}"), None, Some("1")]));
    let batch = batch_of(&schema, vec![Arc::new(Int64Array::from(vec![Some(1), Some(2), None, Some(4)])), data]);
    let load = loads::begin(&place.sink, &loads::key("run 1"), &schema).await.expect("a load");
    let mut writer = place.sink.writer(&load, "all", None).await.expect("a writer");
    writer.write(batch.clone()).await.expect("written");
    let refused = writer.refused().await.expect("rows");
    let reasons: Vec<_> = refused.iter().map(|reject| (reject.origin.as_str(), reject.reason.as_str())).collect();
    assert!(reasons[0].0 == "row 2" && reasons[0].1.contains("line breaks"), "{reasons:?}");
    assert_eq!(reasons[1], ("row 3", "column `id` of its key is NULL"));
    let mark = haul::connectors::Mark { rows: 2, rejects: 2, ..mark("all", &batch) };
    writer.commit(mark).await.expect("committed");
    let expected =
        [serde_json::json!({ "@op": "put", "id": 1, "data": { "a": 1.1 } }), serde_json::json!({ "@op": "put", "id": 4, "data": 1 })];
    assert_eq!(place.lines(), expected);
}
