//! The journal's promises, on SQLite and on PostgreSQL: durable, one process a pipeline, clear about damage and about newer programs.

use std::collections::BTreeMap;
use std::fs;

use crate::support::postgres;
use haul::failure::{Failure, FailureKind};
use haul::journal::{DEFAULT_URL, Event, Journal, Outcome, What};

fn event(run: &str, at_ms: i64, what: What) -> Event {
    Event { at_ms, run: run.to_owned(), what }
}

fn started(run: &str, at_ms: i64, pipeline: &str, plan_hash: &str) -> Event {
    let what = What::RunStarted {
        pipeline: pipeline.to_owned(),
        plan_hash: plan_hash.to_owned(),
        params: BTreeMap::from([("since".to_owned(), "2020-01-01".to_owned())]),
        trigger: "manual".to_owned(),
        scheduled_ms: None,
        interval_start_ms: None,
        resumed: false,
        version: "0.1.0".to_owned(),
        stages: vec!["orders".to_owned()],
    };
    event(run, at_ms, what)
}

fn note(run: &str, at_ms: i64, text: &str) -> Event {
    event(run, at_ms, What::Note { stage: None, text: text.to_owned() })
}

fn finished(run: &str, at_ms: i64, outcome: Outcome) -> Event {
    event(run, at_ms, What::RunFinished { outcome, elapsed_ms: 10, refused: None })
}

/// An empty place for a journal.
struct Empty {
    url: String,
    base: tempfile::TempDir,
}

impl Empty {
    async fn open(&self) -> Journal {
        Journal::open(&self.url, self.base.path()).await.expect("the journal opens")
    }
}

/// One place of each kind.
fn places() -> [Empty; 2] {
    [DEFAULT_URL.to_owned(), postgres().fresh_database()].map(|url| Empty { url, base: tempfile::tempdir().expect("a folder") })
}

fn told(failure: &Failure) -> String {
    format!("{failure} / {}", failure.help.as_deref().unwrap_or_default())
}

#[tokio::test]
async fn what_was_recorded_is_there_for_the_next_process() {
    for place in places() {
        recorded_survives(&place).await;
    }
}

async fn recorded_survives(place: &Empty) {
    let journal = place.open().await;
    for place in 0..300 {
        journal.record(&note("0197aa", place, &format!("note {place}"))).await.expect("recorded");
    }
    journal.record(&started("0197ab", 5, "shop", "h1")).await.expect("recorded");
    journal.record(&note("0197ab", 6, "late")).await.expect("recorded");
    journal.record(&finished("0197ab", 7, Outcome::Done)).await.expect("recorded");
    drop(journal);
    if place.url == DEFAULT_URL {
        assert_eq!(fs::read_to_string(place.base.path().join(".haul/.gitignore")).expect("a .gitignore"), "*\n");
    }

    let journal = place.open().await;
    let state = journal.show("0197ab").await.expect("the run");
    assert_eq!((state.outcome, state.pipeline.as_str(), state.notes.len()), (Some(Outcome::Done), "shop", 1));
    assert_eq!(state.params["since"], "2020-01-01");
    journal.record(&note("0197ab", 8, "after")).await.expect("recorded");
    let texts: Vec<String> = journal.show("0197ab").await.expect("the run").notes.into_iter().map(|note| note.text).collect();
    assert_eq!(texts, ["late", "after"]);
}

#[tokio::test]
async fn events_of_many_tasks_keep_their_order_within_each_run() {
    for place in places() {
        order_is_kept(place.open().await).await;
    }
}

async fn order_is_kept(journal: Journal) {
    let tasks = (0..8).map(|task| {
        let journal = journal.clone();
        tokio::spawn(async move {
            let run = format!("run-{task}");
            journal.record(&started(&run, task, "p", "h")).await.expect("recorded");
            for place in 0..40 {
                journal.record(&note(&run, place, &place.to_string())).await.expect("recorded");
            }
            journal.flush().await.expect("durable");
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("the task ends");
    }
    for task in 0..8 {
        let texts: Vec<String> = journal.show(&format!("run-{task}")).await.expect("the run").notes.into_iter().map(|n| n.text).collect();
        assert_eq!(texts, (0..40).map(|place| place.to_string()).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn runs_are_listed_latest_first_and_found_by_prefix() {
    for place in places() {
        runs_are_found(place.open().await).await;
    }
}

async fn runs_are_found(journal: Journal) {
    let failure = journal.show("latest").await.expect_err("there is no run");
    assert_eq!(told(&failure), "there are no runs yet / `haul run NAME` makes one");
    for (run, at_ms, pipeline) in [("0197aa", 1, "shop"), ("0197ab", 2, "shop"), ("0198", 3, "stock"), ("0198f", 4, "stock")] {
        journal.record(&started(run, at_ms, pipeline, "h")).await.expect("recorded");
    }
    let ids = |runs: Vec<haul::journal::RunSummary>| runs.into_iter().map(|run| run.run).collect::<Vec<_>>();
    assert_eq!(ids(journal.runs(None, 3).await.expect("runs")), ["0198f", "0198", "0197ab"]);
    assert_eq!(ids(journal.runs(Some("shop"), 9).await.expect("runs")), ["0197ab", "0197aa"]);
    assert_eq!(journal.show("latest").await.expect("the run").run, "0198f");
    assert_eq!(journal.show("0197ab").await.expect("the run").run, "0197ab");
    assert_eq!(journal.show("0198").await.expect("a whole id, though another begins with it").run, "0198");
    assert!(told(&journal.show("0197").await.expect_err("two runs")).starts_with("several runs begin with `0197`"));
    assert!(told(&journal.show("x").await.expect_err("no run")).starts_with("no run begins with `x`"));
}

#[tokio::test]
async fn only_the_latest_run_can_be_gone_on_with() {
    for place in places() {
        latest_is_unfinished(place.open().await).await;
    }
}

async fn latest_is_unfinished(journal: Journal) {
    let unfinished = async |hash| journal.unfinished("shop", hash).await.expect("an answer").map(|state| state.run);
    assert_eq!(unfinished(None).await, None);
    journal.record(&started("a", 1, "shop", "h1")).await.expect("recorded");
    assert_eq!(unfinished(Some("h1")).await.as_deref(), Some("a"));
    assert_eq!(unfinished(Some("h2")).await, None);
    assert_eq!(unfinished(None).await.as_deref(), Some("a"));
    journal.record(&started("b", 2, "shop", "h1")).await.expect("recorded");
    for (outcome, expected) in [(Outcome::Interrupted, Some("b")), (Outcome::Failed, Some("b")), (Outcome::Done, None)] {
        journal.record(&finished("b", 3, outcome)).await.expect("recorded");
        assert_eq!(unfinished(Some("h1")).await.as_deref(), expected, "after {outcome:?}");
    }
}

#[tokio::test]
async fn one_process_at_a_time_works_on_a_pipeline() {
    for place in places() {
        one_holds_the_lease(place.open().await, place.open().await).await;
    }
}

async fn one_holds_the_lease(first: Journal, second: Journal) {
    let lease = first.lease("shop").await.expect("the lease");
    let other = second.lease("stock").await.expect("another pipeline is free");
    let failure = told(&second.lease("shop").await.expect_err("it is taken"));
    let expected = format!("pipeline `shop` is being run by process {} ", std::process::id());
    assert!(failure.starts_with(&expected) && failure.contains(" since 20"), "{failure}");
    assert!(told(&first.lease("shop").await.expect_err("it is taken")).contains("this process already"));
    drop((lease, other));
    first.flush().await.expect("the lease is given back");
    second.lease("shop").await.expect("it is free again");
}

#[tokio::test]
async fn processes_that_take_turns_at_a_run_lose_nothing_of_each_other() {
    for place in places() {
        turns_are_taken(place.open().await, place.open().await).await;
    }
}

async fn turns_are_taken(first: Journal, second: Journal) {
    for (turn, journal) in [&first, &second, &first, &second, &first].into_iter().enumerate() {
        let lease = journal.lease("shop").await.expect("the lease");
        journal.record(&started("0197aa", 0, "shop", "h")).await.expect("recorded");
        for number in 0..5 {
            journal.record(&note("0197aa", 1, &format!("{turn} {number}"))).await.expect("recorded");
        }
        // The third is killed.
        if turn != 2 {
            journal.record(&finished("0197aa", 2, Outcome::Interrupted)).await.expect("recorded");
        }
        journal.flush().await.expect("durable");
        drop(lease);
        journal.flush().await.expect("the lease is given back");
    }
    let texts: Vec<String> = first.show("0197aa").await.expect("the run").notes.into_iter().map(|note| note.text).collect();
    let expected: Vec<String> = (0..25).map(|place| format!("{} {}", place / 5, place % 5)).collect();
    assert_eq!(texts, expected);
}

#[tokio::test]
async fn an_event_whose_place_is_taken_is_not_reported_durable() {
    for place in places() {
        place_is_taken(place.open().await, place.open().await).await;
    }
}

async fn place_is_taken(first: Journal, second: Journal) {
    first.record(&started("0197aa", 0, "shop", "h")).await.expect("recorded");
    second.record(&started("0197aa", 1, "shop", "h")).await.expect("recorded");
    let failure = first.record(&finished("0197aa", 2, Outcome::Done)).await.expect_err("another process has written there");
    assert_eq!((failure.kind, told(&failure).contains("0197aa")), (FailureKind::Fenced, true), "{failure}");
    assert_eq!(first.show("0197aa").await.expect("the run").outcome, None);
}

#[tokio::test]
async fn a_run_that_was_overtaken_fails_no_other_run() {
    let [place, _] = places();
    let (first, second) = (place.open().await, place.open().await);
    first.record(&started("0197aa", 0, "shop", "h")).await.expect("recorded");
    first.record(&started("0197bb", 0, "other", "h")).await.expect("recorded");
    second.record(&started("0197aa", 1, "shop", "h")).await.expect("recorded");
    // While the journal cannot be written, events gather.
    let lock = rusqlite::Connection::open(place.base.path().join(".haul/state.db")).expect("the journal");
    lock.execute_batch("begin immediate").expect("a lock");
    let unlock = async {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        lock.execute_batch("commit").expect("no lock");
    };
    let ends = [finished("0197bb", 1, Outcome::Failed), finished("0197aa", 2, Outcome::Done), finished("0197bb", 3, Outcome::Done)];
    let [one, two, three] = &ends;
    let (one, two, three, ()) = tokio::join!(first.record(one), first.record(two), first.record(three), unlock);
    one.expect("recorded");
    assert_eq!(two.expect_err("another process has written there").kind, FailureKind::Fenced);
    three.expect("recorded");
    assert_eq!(first.show("0197bb").await.expect("the run").outcome, Some(Outcome::Done));
}

#[tokio::test]
async fn damage_and_newer_versions_are_named_with_the_way_out() {
    let base = tempfile::tempdir().expect("a folder");
    drop(Journal::open(DEFAULT_URL, base.path()).await.expect("the journal opens"));
    let path = base.path().join(".haul/state.db");
    let newer = || rusqlite::Connection::open(&path)?.execute("insert into haul_journal_migrations values (7, 0)", []);
    newer().expect("a newer version is written");
    let failure = told(&Journal::open(DEFAULT_URL, base.path()).await.expect_err("too new"));
    assert!(failure.contains("was written by a newer haul: its version is 7, this one knows 2"), "{failure}");

    fs::write(&path, "this is no database, and it is long enough to have been one".repeat(40)).expect("written");
    for aside in ["state.db-wal", "state.db-shm"] {
        let _ = fs::remove_file(base.path().join(".haul").join(aside));
    }
    let failure = told(&Journal::open(DEFAULT_URL, base.path()).await.expect_err("damaged"));
    assert!(failure.contains("state.db is damaged") && failure.contains("move the journal aside"), "{failure}");
}

#[tokio::test]
async fn a_numberthat_cannot_keep_a_journal_is_refused_without_its_password() {
    let base = tempfile::tempdir().expect("a folder");
    for (url, expected) in [
        ("mysql://me:hunter2@host/db", "the journal cannot be kept in this kind of place: mysql"),
        ("sqlite::memory:", "the journal cannot be at `sqlite::memory:`: it would be forgotten"),
        ("postgres://me:hunter2@host:notaport/db", "the journal's PostgreSQL URL cannot be read"),
    ] {
        let failure = told(&Journal::open(url, base.path()).await.expect_err(url));
        assert!(failure.starts_with(expected) && !failure.contains("hunter2"), "{failure}");
    }
}

#[tokio::test]
async fn a_lost_connection_costs_neither_events_nor_the_lease() {
    let place = Empty { url: postgres().fresh_database(), base: tempfile::tempdir().expect("a folder") };
    let journal = place.open().await;
    let _lease = journal.lease("shop").await.expect("the lease");
    journal.record(&started("0197aa", 0, "shop", "h")).await.expect("recorded");
    for number in 0..5 {
        journal.record(&note("0197aa", number, &number.to_string())).await.expect("recorded");
        journal.flush().await.expect("durable");
        let ended = "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name like 'haul %' and datname = current_database()";
        assert_eq!(postgres().sql(&place.url, ended), "1");
    }
    assert_eq!(journal.show("0197aa").await.expect("the run").notes.len(), 5);
    let failure = told(&place.open().await.lease("shop").await.expect_err("it is taken"));
    assert!(failure.contains("is being run by process"), "{failure}");
}

#[tokio::test]
async fn a_lost_lock_stays_lost_for_everybody_until_its_lease_is_given_back() {
    let place = Empty { url: postgres().fresh_database(), base: tempfile::tempdir().expect("a folder") };
    let first = place.open().await;
    let (shop, _stock) = (first.lease("shop").await.expect("the lease"), first.lease("stock").await.expect("the lease"));
    let ended = "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name like 'haul %' and datname = current_database()";
    assert_eq!(postgres().sql(&place.url, ended), "1");
    let second = place.open().await;
    let _taken = second.lease("shop").await.expect("nobody holds it");
    for _ in 0..2 {
        let failure = first.record(&started("0197aa", 0, "shop", "h")).await.expect_err("it is fenced");
        assert!(failure.kind == FailureKind::Fenced && told(&failure).contains("`shop`"), "{failure}");
    }
    assert_eq!(first.runs(None, 1).await.expect_err("it is fenced").kind, FailureKind::Fenced);
    assert!(told(&second.lease("stock").await.expect_err("it was taken again")).contains("is being run by process"));
    drop(shop);
    let _ = first.flush().await;
    assert_eq!(first.runs(None, 1).await.expect("nothing is held that is lost").len(), 0);
}

#[tokio::test]
async fn a_newer_postgres_journal_is_refused() {
    let url = postgres().fresh_database();
    let base = tempfile::tempdir().expect("a folder");
    drop(Journal::open(&url, base.path()).await.expect("the journal opens"));
    postgres().sql(&url, "insert into haul_journal_migrations values (7, 0)");
    let failure = told(&Journal::open(&url, base.path()).await.expect_err("too new"));
    assert!(failure.contains("was written by a newer haul: its version is 7, this one knows 2"), "{failure}");
}
