//! What people read of a run, from made-up events, as files that a reviewer can read.

use std::collections::BTreeMap;

use haul::cli::render::lines::{Splits, Teller};
use haul::cli::render::{Paint, history, summary};
use haul::journal::{Cause, Event, Outcome, OutputReport, RunState, Verdict, What, fold};

use crate::support::golden;

const RUN: &str = "019a0c3e-77aa-7b1f-8d2e-000000000001";

/// Events at milliseconds after 2026-01-31T04:05:06Z.
fn events(whats: Vec<(i64, What)>) -> Vec<Event> {
    whats.into_iter().map(|(ms, what)| Event { at_ms: 1_769_832_306_000 + ms, run: RUN.to_owned(), what }).collect()
}

fn started(resumed: bool) -> What {
    What::RunStarted {
        pipeline: "shop".to_owned(),
        plan_hash: "5f0c2a91d3b84e67".to_owned(),
        params: BTreeMap::from([("region".to_owned(), "emea".to_owned()), ("since".to_owned(), "2020-01-01".to_owned())]),
        trigger: "manual".to_owned(),
        scheduled_ms: None,
        interval_start_ms: None,
        resumed,
        version: "0.1.0".to_owned(),
        stages: vec!["customers".to_owned(), "orders".to_owned(), "report".to_owned()],
    }
}

fn begun(stage: &str, splits: u64, splits_done: u64, rows: Option<u64>) -> What {
    What::StageStarted { stage: stage.to_owned(), splits, splits_done, rows }
}

fn split(stage: &str, number: u64, attempt: u32) -> What {
    What::SplitFinished {
        stage: stage.to_owned(),
        split: format!("{number:04}"),
        label: format!("blocks {}..{}", number * 4096, (number + 1) * 4096),
        rows: 250_000,
        bytes: 31 << 20,
        rejects: u64::from(attempt > 1),
        attempt,
        elapsed_ms: 1900,
    }
}

fn attempt_failed(stage: &str, split: &str, kind: &str, message: &str, retry_in_ms: Option<u64>) -> What {
    let failure = Cause { kind: kind.to_owned(), message: message.to_owned(), help: None };
    What::AttemptFailed { stage: stage.to_owned(), split: split.to_owned(), attempt: 1, failure, retry_in_ms }
}

fn ended(stage: &str, outcome: Outcome, rows: (u64, u64), elapsed_ms: u64, outputs: Vec<(&str, Verdict)>, failure: Option<Cause>) -> What {
    let report = |(target, verdict): (&str, Verdict)| OutputReport { target: target.to_owned(), rows: rows.1, verdict };
    What::StageFinished {
        stage: stage.to_owned(),
        outcome,
        rows_in: rows.0,
        rows_out: rows.1,
        bytes: rows.0 * 130,
        rejects: rows.0 - rows.1,
        elapsed_ms,
        outputs: outputs.into_iter().map(report).collect(),
        lookups: Vec::new(),
        failure,
    }
}

fn identical(rows: u64) -> Verdict {
    Verdict::Identical { rows, digest: format!("{rows:032x}") }
}

/// A run in which all goes well after one lost connection.
fn done() -> Vec<Event> {
    let note = What::Note { stage: Some("orders".to_owned()), text: "the filter is pushed into the source".to_owned() };
    let lost = "failed to read blocks 4096..8192 of public.orders: connection reset by peer";
    events(vec![
        (0, started(false)),
        (3, begun("customers", 1, 0, Some(18_000))),
        (450, ended("customers", Outcome::Done, (18_000, 18_000), 447, vec![("warehouse.customers", identical(18_000))], None)),
        (451, begun("orders", 4, 0, Some(1_000_000))),
        (452, note),
        (2600, split("orders", 0, 1)),
        (2700, split("orders", 2, 1)),
        (2800, attempt_failed("orders", "0001", "transient", lost, Some(740))),
        (4400, split("orders", 3, 1)),
        (5600, split("orders", 1, 2)),
        (
            6100,
            ended(
                "orders",
                Outcome::Done,
                (1_000_001, 1_000_000),
                5649,
                vec![("warehouse.orders", identical(1_000_000)), ("out/orders.parquet", Verdict::Counted { rows: 1_000_000 })],
                None,
            ),
        ),
        (6101, begun("report", 1, 0, None)),
        (6200, ended("report", Outcome::Done, (12, 12), 99, vec![("discard", Verdict::NotChecked)], None)),
        (6201, What::RunFinished { outcome: Outcome::Done, elapsed_ms: 6201, refused: None }),
    ])
}

/// A run whose second stage finds a wrong value, so that the third is skipped.
fn failed() -> Vec<Event> {
    let verdict = Verdict::Different {
        expected_rows: 1_000_000,
        found_rows: 999_999,
        examples: vec!["id=41: total is 12.50 in the source, 12.5 in the target".to_owned(), "id=977: missing".to_owned()],
    };
    let cause = Cause {
        kind: "permanent".to_owned(),
        message: "what arrived in warehouse.orders is not what was sent".to_owned(),
        help: Some("`haul verify shop` compares again, down to the keys".to_owned()),
    };
    let skipped = Cause { kind: "permanent".to_owned(), message: "stage `orders`, which it needs, failed".to_owned(), help: None };
    events(vec![
        (0, started(true)),
        (3, begun("customers", 1, 0, None)),
        (450, ended("customers", Outcome::Done, (18_000, 18_000), 447, vec![("warehouse.customers", identical(18_000))], None)),
        (451, begun("orders", 4, 2, Some(1_000_000))),
        (2600, ended("orders", Outcome::Failed, (1_000_000, 1_000_000), 2149, vec![("warehouse.orders", verdict)], Some(cause))),
        (2601, ended("report", Outcome::Skipped, (0, 0), 0, vec![], Some(skipped))),
        (2602, What::RunFinished { outcome: Outcome::Failed, elapsed_ms: 2602, refused: None }),
    ])
}

/// A run that was asked to stop.
fn interrupted() -> Vec<Event> {
    events(vec![
        (0, started(false)),
        (3, begun("orders", 4, 0, Some(1_000_000))),
        (2600, split("orders", 0, 1)),
        (2700, ended("orders", Outcome::Interrupted, (250_000, 250_000), 2697, vec![], None)),
        (2702, What::RunFinished { outcome: Outcome::Interrupted, elapsed_ms: 2702, refused: None }),
    ])
}

/// A run whose process was killed.
fn killed() -> Vec<Event> {
    interrupted().into_iter().take(3).collect()
}

fn lines(events: &[Event], splits: Splits) -> String {
    let mut teller = Teller::new(splits, Paint::new(false));
    events.iter().filter_map(|event| teller.tell(event)).map(|line| line + "\n").collect()
}

fn state(events: &[Event]) -> RunState {
    fold(events).expect("there are events")
}

/// One file a run: its lines, its summary, and its page in the history.
fn check(name: &str, events: &[Event]) {
    let (state, plain) = (state(events), Paint::new(false));
    let parts = [
        ("lines", lines(events, Splits::Sparse)),
        ("lines with every split", lines(events, Splits::All)),
        ("summary", summary::run(&state, plain) + "\n"),
        ("show", history::show(&state, false, plain) + "\n"),
        ("show -v", history::show(&state, true, plain) + "\n"),
    ];
    let text: String = parts.iter().map(|(title, text)| format!("=== {title}\n{text}\n")).collect();
    golden(&format!("rendering/{name}.txt"), &text);
}

#[test]
fn a_run_that_is_done() {
    check("done", &done());
}

#[test]
fn a_run_that_failed() {
    check("failed", &failed());
}

#[test]
fn a_run_that_was_stopped() {
    check("interrupted", &interrupted());
}

#[test]
fn a_run_that_was_killed() {
    check("killed", &killed());
}

#[test]
fn the_history_of_runs() {
    let summaries: Vec<_> = [killed(), interrupted(), failed(), done()].iter().map(|events| state(events).summary()).collect();
    golden("rendering/runs.txt", &(history::runs(&summaries, Paint::new(false)) + "\n"));
    assert_eq!(history::runs(&[], Paint::new(false)), "no runs yet");
}

#[test]
fn events_in_their_json_form() {
    let lines: Vec<String> = done().iter().chain(&failed()).map(|event| serde_json::to_string(event).expect("JSON") + "\n").collect();
    golden("rendering/events.jsonl", &lines.concat());
    for line in &lines {
        serde_json::from_str::<Event>(line).expect("an event reads back");
    }
}

#[test]
fn colours_change_nothing_but_colours() {
    let bare = |text: &str| {
        let mut parts = text.split("\u{1b}[");
        let first = parts.next().unwrap_or_default().to_owned();
        first + &parts.map(|part| part.split_once('m').map_or("", |(_, rest)| rest)).collect::<String>()
    };
    for events in [done(), failed(), interrupted(), killed()] {
        let state = state(&events);
        let coloured = history::show(&state, true, Paint::new(true));
        assert!(coloured.contains("\u{1b}["));
        assert_eq!(bare(&coloured), history::show(&state, true, Paint::new(false)));
    }
}
