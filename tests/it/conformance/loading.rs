//! Rows arrive once, whatever happens on the way: workers that come back, come late or go away.

use futures::StreamExt;
use haul::connectors::{Load, LoadKey, Mark, ReadRequest, SplitGoal};
use haul::data::{BatchLimit, Schema};
use haul::define::pipeline::WriteMode;
use haul::failure::FailureKind;

use super::{System, every_connector, loads, taken_over};
use crate::support::loads::{assert_same_rows, ids};

every_connector!(
    resuming_after_a_part,
    committing_twice,
    a_newer_worker,
    going_on_from_a_checkpoint,
    a_checkpoint_from_another_place,
    a_writer_that_goes_away,
    a_read_that_is_stopped,
    replacing,
    abandoning,
    runs_after_each_other,
);

/// How many rows a source of the published rows gives.
async fn published(system: &System, schema: &Schema) -> usize {
    let (rows, rejects) = loads::read(&system.source(schema), ReadRequest::default(), 4).await.expect("rows");
    assert_eq!(rejects, []);
    rows.num_rows()
}

/// A worker dies after its first commit. The next one finds that split, and only writes the others.
pub(super) async fn resuming_after_a_part(make: fn() -> System) {
    for (place, mode) in make().modes.iter().enumerate() {
        let system = make();
        let sink = system.sink(mode);
        let (schema, first) = ids(0..100, "a");
        let splits = system.splits(&sink, &schema).await;
        let load = loads::begin(&sink, &loads::key("run 1"), &schema).await.expect("a load");
        loads::write(&sink, &load, splits[0], &first).await.expect("a commit");
        drop(sink);

        let sink = system.sink(mode);
        // The same run comes back, or another one after the journal was lost.
        let key = if place == 0 { loads::key("run 2") } else { loads::key("run 1") };
        let claim = sink.claim(&key).await.expect("a claim");
        let found = claim.found.expect("the unfinished load");
        assert_eq!((found.run.as_str(), found.note.as_str(), found.published), ("run 1", "a note", false));
        assert_eq!(found.marks, [loads::mark(splits[0], &first)]);
        let load = Load { key: key.clone(), epoch: claim.epoch, ..load };
        let mut rows = 100;
        for (place, split) in splits.iter().enumerate().skip(1) {
            let from = place as i64 * 100;
            rows += loads::write(&sink, &load, split, &ids(from..from + 100, "b").1).await.expect("a commit");
        }
        sink.publish(&load).await.expect("published");
        sink.publish(&load).await.expect("published again");
        assert_eq!(system.held(&sink, &load).await.num_rows() as u64, rows);
        assert_eq!(published(&system, &schema).await as u64, rows);
        let found = sink.claim(&key).await.expect("a claim").found.expect("the load");
        assert!(found.published && found.marks.len() == splits.len());
    }
}

/// The answer to a commit is lost, and the split is written again.
pub(super) async fn committing_twice(make: fn() -> System) {
    for mode in make().modes {
        let system = make();
        let sink = system.sink(&mode);
        let (schema, batch) = ids(0..100, "a");
        let split = system.splits(&sink, &schema).await[0];
        let load = loads::begin(&sink, &loads::key("run 1"), &schema).await.expect("a load");
        loads::write(&sink, &load, split, &batch).await.expect("a commit");
        loads::write(&sink, &load, split, &batch).await.expect("the same commit");
        loads::write(&system.sink(&mode), &load, split, &batch).await.expect("the same commit of another process");
        sink.publish(&load).await.expect("published");
        assert_same_rows(&system.held(&sink, &load).await, &batch);
        assert_eq!(published(&system, &schema).await, 100);
    }
}

/// A worker that was thought dead wakes up: with a writer it opened before, with a new one, or to publish.
pub(super) async fn a_newer_worker(make: fn() -> System) {
    for mode in make().modes {
        let system = make();
        let sink = system.sink(&mode);
        let (schema, batch) = ids(0..100, "a");
        let splits = system.splits(&sink, &schema).await;
        let old = loads::begin(&sink, &loads::key("run 1"), &schema).await.expect("a load");
        let mut asleep = sink.writer(&old, splits[0], None).await.expect("a writer");
        asleep.write(batch.clone()).await.expect("written");

        let other = system.sink(&mode);
        let new = taken_over(&other, &old).await;
        let late = loads::committed(asleep, loads::mark(splits[0], &batch)).await.expect_err("a late commit");
        assert_eq!(late.kind, FailureKind::Fenced, "{late}");
        let again = loads::write(&sink, &old, splits[0], &batch).await.expect_err("an old worker");
        assert_eq!(again.kind, FailureKind::Fenced, "{again}");
        assert_eq!(sink.publish(&old).await.expect_err("an old worker").kind, FailureKind::Fenced);
        loads::write(&other, &new, splits[0], &batch).await.expect("a commit");
        other.publish(&new).await.expect("published");
        assert_eq!(published(&system, &schema).await, 100);
    }
}

/// A writer dies after a checkpoint. The next one finds the position, and only writes what follows it.
pub(super) async fn going_on_from_a_checkpoint(make: fn() -> System) {
    for mode in make().modes {
        let system = make();
        let sink = system.sink(&mode);
        let (schema, first) = ids(0..100, "a");
        let split = system.splits(&sink, &schema).await[0];
        let load = loads::begin(&sink, &loads::key("run 1"), &schema).await.expect("a load");
        let mut writer = sink.writer(&load, split, None).await.expect("a writer");
        writer.write(first.clone()).await.expect("written");
        let begun = loads::checkpoint(split, "100", &[&first]);
        if !sink.plan(&schema).await.expect("a plan").expect("no problems").checkpoints {
            assert_eq!(loads::checkpointed(&mut writer, begun).await.expect_err("no checkpoints").kind, FailureKind::Permanent);
            continue;
        }
        loads::checkpointed(&mut writer, begun.clone()).await.expect("a checkpoint");
        writer.write(ids(100..150, "lost").1).await.expect("written");
        drop(writer);

        let claim = system.sink(&mode).claim(&load.key).await.expect("a claim");
        assert_eq!(claim.found.expect("the load").marks, std::slice::from_ref(&begun));
        let load = Load { epoch: claim.epoch, ..load };
        let (second, third) = (ids(100..200, "b").1, ids(200..250, "c").1);
        let mut writer = sink.writer(&load, split, Some(&begun)).await.expect("a writer");
        writer.write(second.clone()).await.expect("written");
        loads::checkpointed(&mut writer, loads::checkpoint(split, "200", &[&first, &second])).await.expect("a checkpoint");
        // A checkpoint without rows moves the position alone.
        loads::checkpointed(&mut writer, loads::checkpoint(split, "201", &[&first, &second])).await.expect("a checkpoint");
        writer.write(third.clone()).await.expect("written");
        let done = Mark { position: None, ..loads::checkpoint(split, "", &[&first, &second, &third]) };
        loads::committed(writer, done.clone()).await.expect("a commit");
        sink.publish(&load).await.expect("published");
        let rows = system.held(&sink, &load).await;
        assert_eq!(loads::digest(&rows), done.digest);
        assert_eq!(sink.claim(&load.key).await.expect("a claim").found.expect("the load").marks, [done]);
    }
}

/// A checkpoint lands after its worker gave up on it, and another attempt goes on from the place before: it must not write those rows again.
pub(super) async fn a_checkpoint_from_another_place(make: fn() -> System) {
    for mode in make().modes {
        let system = make();
        let sink = system.sink(&mode);
        let (schema, first) = ids(0..100, "a");
        if !sink.plan(&schema).await.expect("a plan").expect("no problems").checkpoints {
            continue;
        }
        let load = loads::begin(&sink, &loads::key("run 1"), &schema).await.expect("a load");
        let mut late = sink.writer(&load, "0000", None).await.expect("a writer");
        late.write(first.clone()).await.expect("written");
        let mut writer = sink.writer(&load, "0000", None).await.expect("a writer");
        writer.write(first.clone()).await.expect("written");
        let begun = loads::checkpoint("0000", "100", &[&first]);
        loads::checkpointed(&mut late, begun.clone()).await.expect("a checkpoint");
        let refused = loads::checkpointed(&mut writer, loads::checkpoint("0000", "100 too", &[&first])).await.expect_err("another place");
        assert!(refused.kind == FailureKind::Transient && refused.view_lost, "{refused}");
        let mut writer = sink.writer(&load, "0000", None).await.expect("a writer");
        let refused = async {
            writer.write(first.clone()).await?;
            loads::committed(writer, loads::mark("0000", &first)).await
        };
        let refused = refused.await.expect_err("another place");
        assert!(refused.kind == FailureKind::Transient && refused.view_lost, "{refused}");
        let rows = system.held(&sink, &load).await;
        assert_eq!(loads::digest(&rows), begun.digest);
    }
}

/// A writer is dropped before its commit, after rows that no buffer holds.
pub(super) async fn a_writer_that_goes_away(make: fn() -> System) {
    for mode in make().modes {
        let system = make();
        let sink = system.sink(&mode);
        let (schema, batch) = ids(0..100, "kept");
        let split = system.splits(&sink, &schema).await[0];
        let load = loads::begin(&sink, &loads::key("run 1"), &schema).await.expect("a load");
        let mut writer = sink.writer(&load, split, None).await.expect("a writer");
        for part in 0..4 {
            writer.write(ids(part * 50..part * 50 + 50, &"lost".repeat(2_000)).1).await.expect("written");
        }
        drop(writer);
        loads::write(&sink, &load, split, &batch).await.expect("a commit");
        sink.publish(&load).await.expect("published");
        assert_same_rows(&system.held(&sink, &load).await, &batch);
        assert_eq!(published(&system, &schema).await, 100);
    }
}

/// Whoever reads goes away in the middle of a split. The view still gives all rows, to many at once.
pub(super) async fn a_read_that_is_stopped(make: fn() -> System) {
    let system = make();
    let (schema, batch) = ids(0..20_000, "a");
    loads::load(&system.sink(&system.modes[0]), "run 1", &schema, &batch).await.expect("a load");
    let request = ReadRequest { limit: BatchLimit { rows: 100, bytes: 1 << 20 }, ..ReadRequest::default() };
    let reading = system.source(&schema).open(request).await.expect("a view");
    let splits = reading.splits(SplitGoal { most: 4, bytes: 1 }).await.expect("splits").splits;
    for _ in 0..10 {
        let mut stream = reading.read(&splits[0], None).await.expect("a stream");
        let chunk = stream.next().await.expect("a chunk").expect("rows");
        assert!(chunk.batch.num_rows() <= 100);
    }
    let all = splits.iter().map(|split| async { loads::drain(reading.schema(), reading.read(split, None).await?).await });
    let read = futures::future::try_join_all(all).await.expect("rows");
    let rows: usize = read.iter().map(|(batch, _)| batch.num_rows()).sum();
    let digest: haul::data::Digest = read.iter().map(|(batch, _)| loads::digest(batch)).sum();
    assert_eq!((rows, digest), (20_000, loads::digest(&batch)));
}

/// Until it is published, the target holds exactly the old rows; then exactly the new ones.
pub(super) async fn replacing(make: fn() -> System) {
    let system = make();
    let sink = system.sink(&WriteMode::Replace);
    assert!(sink.staged());
    let (schema, old) = ids(0..100, "old");
    loads::load(&sink, "run 1", &schema, &old).await.expect("a load");
    let (_, new) = ids(50..120, "new");
    let load = loads::begin(&sink, &loads::key("run 2"), &schema).await.expect("a load");
    let split = system.splits(&sink, &schema).await[0];
    loads::write(&sink, &load, split, &new).await.expect("a commit");
    let now = async || loads::read(&system.source(&schema), ReadRequest::default(), 4).await.expect("rows").0;
    assert_same_rows(&now().await, &old);
    assert_same_rows(&system.held(&sink, &load).await, &new);
    assert_same_rows(&now().await, &old);
    sink.publish(&load).await.expect("published");
    assert_same_rows(&now().await, &new);
}

/// A load that nobody wants any more leaves nothing staged, and nothing to go on with.
pub(super) async fn abandoning(make: fn() -> System) {
    let system = make();
    let sink = system.sink(&WriteMode::Replace);
    let (schema, old) = ids(0..100, "old");
    loads::load(&sink, "run 1", &schema, &old).await.expect("a load");
    let load = loads::begin(&sink, &loads::key("run 2"), &schema).await.expect("a load");
    let split = system.splits(&sink, &schema).await[0];
    loads::write(&sink, &load, split, &ids(0..7, "new").1).await.expect("a commit");
    sink.abandon(&load.key).await.expect("abandoned");
    sink.abandon(&load.key).await.expect("abandoned again");
    assert!(sink.claim(&load.key).await.expect("a claim").found.is_none());
    assert_eq!(published(&system, &schema).await, 100);
    // Another plan of the same output starts from nothing, too.
    let other = LoadKey { plan_hash: "plan 2".to_owned(), ..loads::key("run 3") };
    let load = loads::begin(&sink, &other, &schema).await.expect("a load");
    loads::write(&sink, &load, split, &ids(0..9, "new").1).await.expect("a commit");
    sink.publish(&load).await.expect("published");
    assert_eq!(published(&system, &schema).await, 9);
}

/// A run that starts after one that is finished finds nothing of it, and adds or replaces rows as its mode says.
pub(super) async fn runs_after_each_other(make: fn() -> System) {
    for mode in make().modes {
        let system = make();
        let sink = system.sink(&mode);
        let (schema, first) = ids(0..100, "a");
        loads::load(&sink, "run 1", &schema, &first).await.expect("a load");
        let claim = sink.claim(&loads::key("run 2")).await.expect("a claim");
        assert!(claim.found.is_none() && claim.left_behind == 0);
        let (_, second) = ids(90..130, "b");
        loads::load(&sink, "run 2", &schema, &second).await.expect("a load");
        let rows = match mode {
            WriteMode::Append => 140,
            WriteMode::Replace => 40,
            WriteMode::Upsert { .. } => 130,
        };
        assert_eq!(published(&system, &schema).await, rows, "{mode:?}");
        // The first run comes back: its load is over, and its rows are not written again.
        let mark = Mark { rows: 100, ..loads::mark("all", &first) };
        let found = sink.claim(&loads::key("run 1")).await.expect("a claim").found;
        assert!(found.is_none_or(|found| found.published && found.marks == [mark]));
    }
}
