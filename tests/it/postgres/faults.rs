//! Servers that are not there, refuse, die, or lose an answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use haul::connectors::{Load, ReadRequest};
use haul::define::pipeline::{Verify, WriteMode};
use haul::failure::FailureKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Database, assert_nothing_left, server, spec};
use crate::support::loads::{self, ids};
use crate::support::postgres;

/// What happens to the answer of a COMMIT.
#[derive(Clone, Copy, PartialEq)]
enum Lost {
    /// The server gets the COMMIT, and its answer goes nowhere.
    Answer,
    /// The COMMIT goes nowhere.
    Question,
}

/// Stands between haul and the server. Once armed, it cuts the first connection that sends a COMMIT.
struct Proxy {
    port: u16,
    armed: Arc<AtomicBool>,
}

impl Proxy {
    async fn start(lost: Lost) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let armed = Arc::new(AtomicBool::new(false));
        let shared = Arc::clone(&armed);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, lost, Arc::clone(&shared)));
            }
        });
        Self { port, armed }
    }
}

async fn pass(mut client: TcpStream, lost: Lost, armed: Arc<AtomicBool>) {
    let mut server = TcpStream::connect(("127.0.0.1", postgres().port)).await.expect("the server");
    let (mut question, mut answer) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        tokio::select! {
            read = client.read(&mut question) => match read {
                Ok(0) | Err(_) => return,
                Ok(length) => {
                    let question = &question[..length];
                    if question.windows(7).any(|bytes| bytes == b"commit\0") && armed.swap(false, Ordering::SeqCst) {
                        if lost == Lost::Answer {
                            server.write_all(question).await.expect("a write");
                            // The answer comes, so the commit is done, and is thrown away.
                            assert_ne!(server.read(&mut answer).await.expect("an answer"), 0);
                        }
                        return;
                    }
                    server.write_all(question).await.expect("a write");
                }
            },
            read = server.read(&mut answer) => match read {
                Ok(0) | Err(_) => return,
                Ok(length) => if client.write_all(&answer[..length]).await.is_err() { return },
            },
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_without_an_answer_is_settled_by_its_mark() {
    for lost in [Lost::Answer, Lost::Question] {
        let database = Database::new();
        let proxy = Proxy::start(lost).await;
        let through = server(&database.url.replace(&format!(":{}/", postgres().port), &format!(":{}/", proxy.port))).expect("a server");
        let sink = through.sink(&spec("t"));
        let (schema, batch) = ids(0..10, "a");
        let load = loads::begin(&sink, &loads::key("run 1"), &schema).await.expect("a load");
        let mut writer = sink.writer(&load, "0000", None).await.expect("a writer");
        writer.write(batch.clone()).await.expect("a write");
        proxy.armed.store(true, Ordering::SeqCst);
        let committed = writer.commit(loads::mark("0000", &batch)).await;
        match lost {
            Lost::Answer => assert_eq!(committed.expect("the mark is there").rows, 10),
            Lost::Question => assert_eq!(committed.expect_err("the mark is not there").kind, FailureKind::Transient),
        }
        assert!(!proxy.armed.load(Ordering::SeqCst), "the proxy has seen the commit");
        // Either way, trying again leaves every row once.
        assert_eq!(loads::write(&sink, &load, "0000", &batch).await.expect("a commit"), 10);
        assert_eq!(database.sql("select count(*), count(distinct id) from t"), "10|10");
        assert_nothing_left(&database);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_without_an_answer_is_settled_by_its_mark() {
    for lost in [Lost::Answer, Lost::Question] {
        let database = Database::new();
        let proxy = Proxy::start(lost).await;
        let through = server(&database.url.replace(&format!(":{}/", postgres().port), &format!(":{}/", proxy.port))).expect("a server");
        let sink = through.sink(&spec("t"));
        let (schema, first) = ids(0..10, "a");
        let second = ids(10..20, "b").1;
        let load = loads::begin(&sink, &loads::key("run 1"), &schema).await.expect("a load");
        let mut writer = sink.writer(&load, "0000", None).await.expect("a writer");
        writer.write(first.clone()).await.expect("a write");
        let begun = loads::checkpoint("0000", "10", &[&first]);
        writer.checkpoint(begun.clone()).await.expect("a checkpoint");
        writer.write(second.clone()).await.expect("a write");
        proxy.armed.store(true, Ordering::SeqCst);
        let moved = loads::checkpoint("0000", "20", &[&first, &second]);
        let committed = writer.checkpoint(moved.clone()).await;
        assert!(!proxy.armed.load(Ordering::SeqCst), "the proxy has seen the commit");
        let expected = match lost {
            Lost::Answer => {
                committed.expect("the mark is there");
                (moved, "20|20")
            }
            Lost::Question => {
                assert_eq!(committed.expect_err("the mark is not there").kind, FailureKind::Transient);
                (begun, "10|10")
            }
        };
        assert_eq!(sink.claim(&load.key).await.expect("a claim").found.expect("the load").marks, [expected.0]);
        assert_eq!(database.sql("select count(*), count(distinct id) from t"), expected.1);
        assert_nothing_left(&database);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_the_server_ends_is_worth_another_try() {
    let database = Database::new();
    database.sql("create table s as select i::bigint as id, repeat('x', 1000) as name from generate_series(1, 100000) i");
    let kill = || {
        database
            .sql("select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and application_name = 'haul'")
    };
    let sink = database.sink("t", WriteMode::Append);
    let (schema, batch) = ids(0..10, "a");
    let load = loads::begin(&sink, &loads::key("run 1"), &schema).await.expect("a load");
    let mut writer = sink.writer(&load, "0000", None).await.expect("a writer");
    writer.write(batch.clone()).await.expect("a write");
    kill();
    let failure = writer.commit(loads::mark("0000", &batch)).await.expect_err("a killed session");
    assert_eq!(failure.kind, FailureKind::Transient, "{failure}");
    assert_eq!(loads::write(&sink, &load, "0000", &batch).await.expect("a commit"), 10);

    // With the connection that holds the snapshot goes the snapshot; nothing is read from another one.
    let source = database.table("s");
    let reading = source.open(ReadRequest::default()).await.expect("a reading");
    let split = reading.splits(haul::connectors::SplitGoal { most: 4, bytes: 1 }).await.expect("splits").splits.remove(0);
    kill();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let Err(failure) = reading.read(&split, None).await else { panic!("a snapshot that is gone") };
    assert_eq!(failure.kind, FailureKind::Transient, "{failure}");
    let reading = source.open(ReadRequest::default()).await.expect("a reading");
    let stream = reading.read(&split, None).await.expect("a stream");
    kill();
    let failure = loads::drain(reading.schema(), stream).await.expect_err("a killed session");
    assert_eq!(failure.kind, FailureKind::Transient, "{failure}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_is_dropped_leaves_no_trace() {
    let database = Database::new();
    let (schema, batch) = ids(0..10_000, "a");
    for mode in [WriteMode::Append, super::upsert(&["id"])] {
        let sink = database.sink("t", mode);
        let load = loads::begin(&sink, &loads::key("run 1"), &schema).await.expect("a load");
        for batches in 0..3 {
            let mut writer = sink.writer(&load, "0000", None).await.expect("a writer");
            for _ in 0..batches {
                writer.write(batch.clone()).await.expect("a write");
            }
        }
        // A commit that is cancelled somewhere in the middle.
        let mut writer = sink.writer(&load, "0000", None).await.expect("a writer");
        writer.write(batch.clone()).await.expect("a write");
        let _ = tokio::time::timeout(Duration::from_micros(300), writer.commit(loads::mark("0000", &batch))).await;
        assert_nothing_left(&database);
        let rows = database.sql("select count(*) from t");
        let marks = database.sql("select coalesce(sum(rows), 0) from haul_marks");
        assert_eq!(rows, marks, "rows without a mark, or a mark without rows");
        database.sql("drop table t, haul_marks, haul_loads");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_the_server_refuses_are_named() {
    let database = Database::new();
    database.sql("create table t (id bigint primary key, name varchar(5))");
    let sink = database.sink("t", WriteMode::Append);
    let load = |schema: &haul::data::Schema, epoch| Load { key: loads::key("run 1"), epoch, schema: schema.clone(), verify: Verify::Count };
    let (schema, long) = ids(0..20, "long");
    let begun = loads::begin(&sink, &loads::key("run 1"), &schema).await.expect("a load");
    let failure = loads::write(&sink, &load(&schema, begun.epoch), "0000", &long).await.expect_err("a text that is too long");
    assert_eq!(failure.kind, FailureKind::BadRows);
    assert!(failure.message.contains("varying(5)") && failure.message.contains("COPY t, line 1, column name"), "{failure}");
    database.sql("alter table t alter name type text; insert into t values (7, 'there')");
    let failure = loads::write(&sink, &load(&schema, begun.epoch), "0000", &long).await.expect_err("a key that is there");
    assert!(failure.kind == FailureKind::BadRows && failure.message.contains("(id)=(7)"), "{failure}");
    assert_nothing_left(&database);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_cannot_be_reached_says_why() {
    let database = Database::new();
    let describe = |url: String| async move {
        let source = server(&url).map(|server| {
            let read = haul::define::pipeline::SqlRead::Query("select 1 as a".to_owned());
            server.source(&haul::define::pipeline::SqlSource { connection: "pg".to_owned(), read, split_by: None })
        });
        match source {
            Ok(source) => source.describe().await.map(|_| ()),
            Err(failure) => Err(failure),
        }
    };
    let check = |url: String, kind: Option<FailureKind>, word: &'static str| async move {
        let answer = describe(url.clone()).await;
        assert_eq!(answer.as_ref().err().map(|failure| failure.kind), kind, "{url}: {answer:?}");
        let text = answer.err().map(|failure| failure.to_string()).unwrap_or_default();
        assert!(text.contains(word) && !text.contains("geheim"), "{text}");
    };
    let port = format!(":{}/", postgres().port);
    let free = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address").port();
    check(database.url.clone(), None, "").await;
    check(database.url.replace("127.0.0.1", "localhost"), None, "").await;
    check(format!("{}?sslmode=prefer", database.url), None, "").await;
    check(format!("{}?sslmode=verify-full", database.url), Some(FailureKind::Permanent), "no TLS connection").await;
    check(format!("{}?sslmode=require", database.url), Some(FailureKind::Permanent), "does not support TLS").await;
    check(format!("{}?sslmode=maybe", database.url), Some(FailureKind::Permanent), "sslmode `maybe`").await;
    check(format!("{}?ssl=on", database.url), Some(FailureKind::Permanent), "unknown parameter `ssl`").await;
    check(database.url.replace(&port, &format!(":{free}/")), Some(FailureKind::Transient), "no server answers").await;
    check(format!("{}x", database.url), Some(FailureKind::Permanent), "does not exist (SQLSTATE 3D000)").await;
    check(database.url.replace("postgres@", "nobody:geheim@"), Some(FailureKind::Permanent), "\"nobody\" does not exist").await;
    check("postgres://u:geheim@no-such-host.invalid/x".to_owned(), Some(FailureKind::Permanent), "host name is not known").await;
    check("postgres://u:geheim@[/x".to_owned(), Some(FailureKind::Permanent), "is no URL").await;
}
