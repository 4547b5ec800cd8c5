//! Events in, states out.

use super::*;

fn at(at_ms: i64, what: What) -> Event {
    Event { at_ms, run: "r1".to_owned(), what }
}

fn started(resumed: bool) -> What {
    What::RunStarted {
        pipeline: "shop".to_owned(),
        plan_hash: "h".to_owned(),
        params: BTreeMap::new(),
        trigger: "manual".to_owned(),
        scheduled_ms: None,
        interval_start_ms: None,
        resumed,
        version: "0.1.0".to_owned(),
        stages: vec!["a".to_owned(), "b".to_owned()],
    }
}

fn begun(stage: &str, splits_done: u64) -> What {
    What::StageStarted { stage: stage.to_owned(), splits: 2, splits_done, rows: None }
}

fn split(stage: &str, split: &str, rows: u64) -> What {
    What::SplitFinished {
        stage: stage.to_owned(),
        split: split.to_owned(),
        label: format!("part {split}"),
        rows,
        bytes: rows * 10,
        rejects: 0,
        attempt: 1,
        elapsed_ms: 5,
    }
}

fn ended(stage: &str, outcome: Outcome, rows: u64) -> What {
    let failure = (outcome == Outcome::Failed).then(|| Cause { kind: "permanent".to_owned(), message: "no table".to_owned(), help: None });
    What::StageFinished {
        stage: stage.to_owned(),
        outcome,
        rows_in: rows,
        rows_out: rows,
        bytes: rows * 10,
        rejects: 0,
        elapsed_ms: 50,
        outputs: Vec::new(),
        lookups: Vec::new(),
        failure,
    }
}

#[test]
fn what_is_done_stays_done() {
    let past = || vec![started(false), begun("a", 0), ended("a", Outcome::Done, 5), ended("b", Outcome::Failed, 0), started(true)];
    let after = |outcome: Outcome| {
        let state = state(past().into_iter().chain([ended("a", outcome, 0)]).collect());
        let stage = &state.stages[0];
        (stage.done, stage.outcome, stage.rows_out, stage.failure.is_some())
    };
    assert_eq!(after(Outcome::Skipped), (true, Some(Outcome::Done), 5, false));
    assert_eq!(after(Outcome::Interrupted), (true, Some(Outcome::Done), 5, false));
    assert_eq!(after(Outcome::Failed), (true, Some(Outcome::Failed), 5, true));
    let again = state(past().into_iter().chain([ended("a", Outcome::Failed, 0), started(true)]).collect());
    assert_eq!((again.stages[0].outcome, again.stages[0].failure.is_some()), (Some(Outcome::Done), false));
}

fn state(whats: Vec<What>) -> RunState {
    let events: Vec<Event> = whats.into_iter().enumerate().map(|(place, what)| at(1000 + 100 * place as i64, what)).collect();
    fold(&events).expect("there are events")
}

#[test]
fn nothing_folds_to_nothing() {
    assert_eq!(fold(&[]), None);
}

#[test]
fn a_killed_run_shows_what_it_had_committed_and_can_go_on() {
    let state = state(vec![started(false), begun("a", 0), split("a", "0000", 7), split("a", "0001", 5)]);
    assert_eq!((state.outcome, state.elapsed_ms, state.can_go_on()), (None, 300, true));
    assert_eq!((state.stages[0].rows_out, state.stages[0].bytes, state.stages[0].splits_done.len()), (12, 120, 2));
    assert_eq!(state.stages[1], StageState { stage: "b".to_owned(), ..StageState::default() });
}

#[test]
fn a_split_whose_event_comes_twice_counts_once() {
    let state = state(vec![started(false), begun("a", 0), split("a", "0000", 7), started(true), begun("a", 1), split("a", "0000", 7)]);
    assert_eq!((state.stages[0].rows_out, state.stages[0].splits_done.len(), state.resumes), (7, 1, 1));
}

#[test]
fn a_stage_that_begins_again_from_nothing_forgets_its_splits() {
    let state = state(vec![started(false), begun("a", 0), split("a", "0000", 7), started(true), begun("a", 0)]);
    assert!(state.stages[0].splits_done.is_empty());
}

#[test]
fn a_resumed_run_keeps_what_is_done_and_reopens_the_rest() {
    let finished = |outcome| What::RunFinished { outcome, elapsed_ms: 400, refused: None };
    let mut events = vec![started(false), ended("a", Outcome::Done, 7), ended("b", Outcome::Failed, 0), finished(Outcome::Failed)];
    let failed = state(events.clone());
    assert_eq!((failed.outcome, failed.can_go_on()), (Some(Outcome::Failed), true));
    assert_eq!(failed.failure().map(|(stage, cause)| (stage, &cause.message[..])), Some(("b", "no table")));
    events.push(started(true));
    let reopened = state(events.clone());
    assert_eq!((reopened.outcome, reopened.stages[0].outcome, reopened.stages[1].outcome), (None, Some(Outcome::Done), None));
    assert_eq!(reopened.failure(), None);
    events.extend([ended("b", Outcome::Done, 3), finished(Outcome::Done)]);
    let done = state(events);
    assert_eq!((done.outcome, done.can_go_on(), done.elapsed_ms), (Some(Outcome::Done), false, 800));
    assert!(!failed.failed_before && reopened.failed_before && done.failed_before);
    assert_eq!((done.summary().stages_done, done.summary().rows, done.summary().resumes), (2, 10, 1));
}
