//! The records of what was written: an older worker, and an attempt that was thought lost, can change nothing.

use std::path::Path;
use std::sync::Arc;

use haul::connectors::redis::{Command, Lease, Marks, Server, Told};
use haul::connectors::{LoadKey, Mark};
use haul::data::{Digest, Position};
use haul::define::pipeline::{Connection, Engine};
use haul::failure::{Failure, FailureKind};
use haul::secret::Secret;

use crate::support::loads;
use crate::support::redis::redis;

fn server() -> Arc<Server> {
    let connection = Connection {
        name: "r".to_owned(),
        engine: Some(Engine::Redis),
        url: Secret::new(redis().fresh_database()),
        max_connections: 4,
        at: String::new(),
        http: Default::default(),
    };
    Server::new(&connection, Path::new(".")).expect("a server")
}

/// The records of one output, as each process has them.
fn marks(server: &Arc<Server>) -> Marks {
    Marks::new(Arc::clone(server), &loads::key("run"), None, Told::default())
}

fn mark(rows: u64, position: Option<&str>) -> Mark {
    let position = position.map(|text| Position(text.to_owned()));
    Mark { split: "all".to_owned(), rows, digest: Digest::default(), rejects: 0, position }
}

/// Begins a load as its only worker.
async fn begun(marks: &Marks, key: &LoadKey) -> u64 {
    let epoch = marks.claim(key).await.expect("a claim").epoch;
    marks.begin(key, epoch, "a note").await.expect("begun");
    epoch
}

#[track_caller]
fn assert_fenced(outcome: Result<(), Failure>) {
    assert_eq!(outcome.expect_err("an older worker went on").kind, FailureKind::Fenced);
}

#[track_caller]
fn assert_moved_on(outcome: Result<(), Failure>) {
    let failure = outcome.expect_err("a lost attempt went on");
    assert!(failure.kind == FailureKind::Transient && failure.view_lost, "{failure:?}");
}

#[tokio::test]
async fn an_older_worker_changes_no_record() {
    let marks = marks(&server());
    let key = loads::key("run");
    let old = begun(&marks, &key).await;
    marks.advance(old, None, &mark(10, Some("ten"))).await.expect("a mark");
    let new = marks.claim(&key).await.expect("a claim");
    assert!(new.epoch > old && new.found.is_some_and(|found| found.marks == [mark(10, Some("ten"))]));
    assert_fenced(marks.advance(old, Some(&mark(10, Some("ten"))), &mark(20, Some("twenty"))).await);
    assert_fenced(marks.publish(old).await);
    assert_fenced(marks.begin(&key, old, "another note").await);
    let standing = marks.standing("all").await.expect("the records");
    assert_eq!((standing.epoch, standing.published, standing.mark), (new.epoch, false, Some(mark(10, Some("ten")))));
}

/// A server that was started again without the last claim is no newer worker.
#[tokio::test]
async fn a_claim_that_is_forgotten_is_made_again() {
    let server = server();
    let marks = marks(&server);
    let key = loads::key("run");
    begun(&marks, &key).await;
    let epoch = begun(&marks, &key).await;
    let counter = b"haul:{shop/orders/0}:epoch";
    for forgotten in [Command::new("SET").key(counter).arg(epoch - 1), Command::new("DEL").key(counter)] {
        server.call(&[forgotten]).await.expect("a server with less than it had");
        let mut lease = server.lend(&marks.node().await.expect("a node")).await.expect("a connection");
        let outcomes = [
            marks.begin(&key, epoch, "a note").await,
            marks.advance(epoch, None, &mark(10, None)).await,
            marks.watch(&mut lease, epoch, "all", None).await,
            marks.publish(epoch).await,
        ];
        for outcome in outcomes {
            let failure = outcome.expect_err("a forgotten worker went on");
            assert!(failure.kind == FailureKind::Transient && failure.view_lost, "{failure:?}");
        }
    }
}

#[tokio::test]
async fn a_mark_takes_the_place_of_the_one_before_it_only() {
    let marks = marks(&server());
    let epoch = begun(&marks, &loads::key("run")).await;
    let (first, second) = (mark(10, Some("ten")), mark(20, Some("twenty")));
    marks.advance(epoch, None, &first).await.expect("the first");
    // The answer may have been lost.
    marks.advance(epoch, None, &first).await.expect("the first again");
    marks.advance(epoch, Some(&first), &second).await.expect("the second");
    assert_moved_on(marks.advance(epoch, Some(&first), &mark(15, Some("fifteen"))).await);
    assert_moved_on(marks.advance(epoch, None, &mark(20, Some("another place"))).await);
    // Rows without a position are the whole split.
    marks.advance(epoch, Some(&second), &mark(20, None)).await.expect("the whole");
    assert_eq!(marks.standing("all").await.expect("the records").mark, Some(mark(20, None)));
}

#[tokio::test]
async fn a_load_of_another_plan_is_not_gone_on_with() {
    let marks = marks(&server());
    let key = loads::key("run");
    let epoch = begun(&marks, &key).await;
    marks.advance(epoch, None, &mark(10, Some("ten"))).await.expect("a mark");
    let claim = marks.claim(&LoadKey { plan_hash: "plan 2".to_owned(), ..key.clone() }).await.expect("a claim");
    assert!(claim.found.is_none() && claim.left_behind == 10, "{claim:?}");
    // What is forgotten is neither gone on with nor left behind.
    marks.forget().await.expect("forgotten");
    let claim = marks.claim(&key).await.expect("a claim");
    assert!(claim.found.is_none() && claim.left_behind == 0, "{claim:?}");
}

/// A transaction that writes a key and takes its turn. True when it was carried out.
async fn transact(marks: &Marks, lease: &mut Lease, key: &[u8]) -> bool {
    let write = Command::new("SET").key(key).arg("written");
    let commands = [Command::new("MULTI"), write, marks.take_turn("all"), Command::new("EXEC")];
    let replies = lease.send(&commands).await.expect("answers");
    !matches!(replies.last(), None | Some(::redis::Value::Nil))
}

#[tokio::test]
async fn a_transaction_that_was_begun_before_another_worker_or_attempt_wrote_is_not_carried_out() {
    let server = server();
    let marks = marks(&server);
    let key = loads::key("run");
    let epoch = begun(&marks, &key).await;
    let node = marks.node().await.expect("a node");
    let (mut one, mut other) = (server.lend(&node).await.expect("a connection"), server.lend(&node).await.expect("a connection"));
    marks.watch(&mut one, epoch, "all", None).await.expect("watched");
    marks.watch(&mut other, epoch, "all", None).await.expect("watched");
    assert!(transact(&marks, &mut one, b"one").await);
    assert!(!transact(&marks, &mut other, b"other").await, "two attempts at one split have both written");
    marks.watch(&mut one, epoch, "all", None).await.expect("watched");
    let newer = marks.claim(&key).await.expect("a claim").epoch;
    assert!(!transact(&marks, &mut one, b"one").await, "an older worker has written");
    assert_fenced(marks.watch(&mut other, epoch, "all", None).await);
    marks.advance(newer, None, &mark(10, Some("ten"))).await.expect("a mark");
    assert_moved_on(marks.watch(&mut one, newer, "all", None).await);
    marks.watch(&mut one, newer, "all", Some(&mark(10, Some("ten")))).await.expect("watched");
}
