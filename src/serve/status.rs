//! What there is to see of a daemon from outside: its readiness and its metrics.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::feeds::Meter;
use crate::journal::{Event, Outcome, TickState, What};
use crate::run::progress::{StageCounters, UNKNOWN};

/// Upper bounds of the schedule lag's histogram, in milliseconds.
const LAG_BOUNDS: [u64; 15] = [1, 2, 5, 10, 20, 30, 40, 50, 75, 100, 200, 500, 1_000, 10_000, 60_000];

/// Counts since the daemon's start, and how things are now.
#[derive(Debug, Default)]
pub(super) struct Status(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: State,
    definitions: [usize; 2],
    going: usize,
    waiting: usize,
    paused: usize,
    runs: BTreeMap<(String, &'static str), u64>,
    done_ms: BTreeMap<String, i64>,
    ticks: BTreeMap<&'static str, u64>,
    lookups: BTreeMap<(String, String, &'static str), u64>,
    rows: u64,
    bytes: u64,
    rejects: u64,
    retries: u64,
    reloads: u64,
    /// Counters of the streams that go, by pipeline and stage.
    streams: BTreeMap<(String, String), Arc<StageCounters>>,
    restarts: BTreeMap<String, u64>,
    /// The feeds that are served.
    feeds: Option<Meter>,
    lag: [u64; LAG_BOUNDS.len()],
    lag_count: u64,
    lag_sum_ms: u64,
}

/// What of a stream's counters is shown: the metric, what it is, and its value when there is one.
type StreamGauge = (&'static str, &'static str, fn(&StageCounters) -> Option<String>);

const STREAM_GAUGES: [StreamGauge; 5] = [
    ("stream_lag_seconds", "How far a stream is behind its source.", |counters| {
        let behind_ms = counters.behind_ms.load(Ordering::Relaxed);
        (behind_ms != UNKNOWN).then(|| seconds(i64::try_from(behind_ms).unwrap_or(i64::MAX)))
    }),
    ("stream_lag_bytes", "How far a stream is behind its source, in bytes of the source's log.", |counters| {
        let behind = counters.behind_bytes.load(Ordering::Relaxed);
        (behind != UNKNOWN).then(|| behind.to_string())
    }),
    ("stream_kept_bytes", "Bytes of its log that a source keeps for a stream.", |counters| {
        let kept = counters.kept_bytes.load(Ordering::Relaxed);
        (kept != UNKNOWN).then(|| kept.to_string())
    }),
    ("stream_rows", "Rows that a stream has handed on since its start.", |counters| {
        Some(counters.rows_out.load(Ordering::Relaxed).to_string())
    }),
    ("stream_last_commit_timestamp_seconds", "When a stream committed last.", |counters| {
        let at_ms = counters.committed_at_ms.load(Ordering::Relaxed);
        (at_ms > 0).then(|| seconds(i64::try_from(at_ms).unwrap_or(i64::MAX)))
    }),
];

/// Streams that are shown; dropping it takes them out.
pub(super) struct Followed {
    status: Arc<Status>,
    keys: Vec<(String, String)>,
}

impl Drop for Followed {
    fn drop(&mut self) {
        let mut inner = self.status.lock();
        self.keys.iter().for_each(|key| drop(inner.streams.remove(key)));
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Starting,
    StandsBy,
    Leads,
    Drains,
}

impl Status {
    pub(super) fn stands_by(&self) {
        self.lock().state = State::StandsBy;
    }

    pub(super) fn leads(&self) {
        self.lock().state = State::Leads;
    }

    pub(super) fn drains(&self) {
        self.lock().state = State::Drains;
    }

    /// Whether work may be expected of it, and a word on why.
    pub(super) fn readiness(&self) -> (bool, &'static str) {
        match self.lock().state {
            State::Starting => (false, "starting"),
            State::StandsBy => (true, "standing by"),
            State::Leads => (true, "leading"),
            State::Drains => (false, "draining"),
        }
    }

    /// Pipelines that can run, and those that cannot.
    pub(super) fn loaded(&self, right: usize, wrong: usize) {
        let mut inner = self.lock();
        inner.definitions = [right, wrong];
        inner.reloads += 1;
    }

    /// What the book holds.
    pub(super) fn counts(&self, (going, waiting, paused): (usize, usize, usize)) {
        let mut inner = self.lock();
        (inner.going, inner.waiting, inner.paused) = (going, waiting, paused);
    }

    /// What became of ticks.
    pub(super) fn ticks(&self, state: TickState, count: u64) {
        *self.lock().ticks.entry(state.as_str()).or_default() += count;
    }

    /// A run was set going so long after the moment it was due.
    pub(super) fn lag(&self, lag_ms: u64) {
        let mut inner = self.lock();
        for (place, bound) in LAG_BOUNDS.iter().enumerate() {
            inner.lag[place] += u64::from(lag_ms <= *bound);
        }
        inner.lag_count += 1;
        inner.lag_sum_ms += lag_ms;
    }

    /// Something happened in a run.
    pub(super) fn note(&self, pipeline: &str, event: &Event) {
        let mut inner = self.lock();
        match &event.what {
            What::AttemptFailed { retry_in_ms: Some(_), .. } => inner.retries += 1,
            What::StageFinished { rows_out, bytes, rejects, lookups, .. } => {
                for report in lookups {
                    for (result, count) in report.results() {
                        *inner.lookups.entry((pipeline.to_owned(), report.cache.clone(), result)).or_default() += count;
                    }
                }
                inner.rows += rows_out;
                inner.bytes += bytes;
                inner.rejects += rejects;
            }
            What::RunFinished { outcome, .. } => {
                *inner.runs.entry((pipeline.to_owned(), outcome.as_str())).or_default() += 1;
                if *outcome == Outcome::Done {
                    inner.done_ms.insert(pipeline.to_owned(), event.at_ms);
                }
            }
            _ => {}
        }
    }

    /// Shows the counters of a run's streams, for as long as the answer lives.
    pub(super) fn follow(self: &Arc<Self>, pipeline: &str, stages: Vec<(String, Arc<StageCounters>)>) -> Followed {
        let stages = stages.into_iter().map(|(stage, counters)| ((pipeline.to_owned(), stage), counters));
        let stages: BTreeMap<_, _> = stages.collect();
        let keys = stages.keys().cloned().collect();
        self.lock().streams.extend(stages);
        Followed { status: Arc::clone(self), keys }
    }

    /// Whether a pipeline has streams that go.
    pub(super) fn follows(&self, pipeline: &str) -> bool {
        self.lock().streams.keys().any(|(name, _)| name == pipeline)
    }

    /// Shows the counts of feeds, or no more.
    pub(super) fn serves(&self, feeds: Option<Meter>) {
        self.lock().feeds = feeds;
    }

    /// A pipeline that is kept going has come to an end, and starts again.
    pub(super) fn restarts(&self, pipeline: &str) {
        *self.lock().restarts.entry(pipeline.to_owned()).or_default() += 1;
    }

    /// Everything in the text format of Prometheus.
    pub(super) fn metrics(&self) -> String {
        let inner = self.lock();
        let mut out = String::new();
        let mut family = |name: &str, kind: &str, help: &str, values: Vec<(String, String)>| {
            let _ = writeln!(out, "# HELP haul_{name} {help}\n# TYPE haul_{name} {kind}");
            for (labels, value) in values {
                let _ = writeln!(out, "haul_{name}{labels} {value}");
            }
        };
        let one = |value: u64| vec![(String::new(), value.to_string())];
        let [right, wrong] = inner.definitions;
        family("leads", "gauge", "Whether this daemon leads.", one(u64::from(inner.state == State::Leads)));
        let states = [("right", right), ("wrong", wrong), ("paused", inner.paused)];
        let states = states.iter().map(|(state, count)| (format!("{{state=\"{state}\"}}"), count.to_string())).collect();
        family("pipelines", "gauge", "Pipelines by the state of their definition.", states);
        family("reloads_total", "counter", "Times that definitions were read.", one(inner.reloads));
        family("runs_going", "gauge", "Runs that go.", one(inner.going as u64));
        family("ticks_waiting", "gauge", "Ticks whose runs wait.", one(inner.waiting as u64));
        let runs = inner
            .runs
            .iter()
            .map(|((pipeline, outcome), count)| (format!("{{pipeline=\"{}\",outcome=\"{outcome}\"}}", label(pipeline)), count.to_string()));
        family("runs_total", "counter", "Runs that ended.", runs.collect());
        let done = inner.done_ms.iter().map(|(pipeline, ms)| (format!("{{pipeline=\"{}\"}}", label(pipeline)), seconds(*ms)));
        family("last_done_timestamp_seconds", "gauge", "When the last run of a pipeline was done.", done.collect());
        let ticks = inner.ticks.iter().map(|(state, count)| (format!("{{state=\"{state}\"}}"), count.to_string())).collect();
        family("ticks_total", "counter", "Ticks by what became of them.", ticks);
        let lookups = inner.lookups.iter().map(|((pipeline, cache, result), count)| {
            (format!("{{pipeline=\"{}\",cache=\"{}\",result=\"{result}\"}}", label(pipeline), label(cache)), count.to_string())
        });
        family("lookups_total", "counter", "Keys looked up in caches, by what came of it.", lookups.collect());
        family("rows_total", "counter", "Rows written.", one(inner.rows));
        family("bytes_total", "counter", "Bytes read.", one(inner.bytes));
        family("rejects_total", "counter", "Rows refused.", one(inner.rejects));
        family("retries_total", "counter", "Attempts that were tried again.", one(inner.retries));
        let restarts = inner.restarts.iter().map(|(pipeline, count)| (format!("{{pipeline=\"{}\"}}", label(pipeline)), count.to_string()));
        family(
            "stream_restarts_total",
            "counter",
            "Times that a pipeline with streams was started again after a failure.",
            restarts.collect(),
        );
        for (name, help, value) in STREAM_GAUGES {
            let of = |((pipeline, stage), counters): (&(String, String), &Arc<StageCounters>)| {
                let labels = format!("{{pipeline=\"{}\",stage=\"{}\"}}", label(pipeline), label(stage));
                Some((labels, value(counters)?))
            };
            family(name, "gauge", help, inner.streams.iter().filter_map(of).collect());
        }
        let mut lag: Vec<(String, String)> = LAG_BOUNDS
            .iter()
            .zip(inner.lag)
            .map(|(bound, count)| (format!("_bucket{{le=\"{}\"}}", seconds(*bound as i64)), count.to_string()))
            .collect();
        lag.push(("_bucket{le=\"+Inf\"}".to_owned(), inner.lag_count.to_string()));
        lag.push(("_sum".to_owned(), seconds(inner.lag_sum_ms as i64)));
        lag.push(("_count".to_owned(), inner.lag_count.to_string()));
        family("schedule_lag_seconds", "histogram", "From the moment a run was due to its being set going.", lag);
        out.extend(inner.feeds.as_ref().map(Meter::metrics));
        out
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn seconds(ms: i64) -> String {
    (ms as f64 / 1000.0).to_string()
}

/// A label's value, escaped.
fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::LookupReport;

    #[test]
    fn metrics_read_as_prometheus_wants_them() {
        let status = Status::default();
        assert_eq!(status.readiness(), (false, "starting"));
        status.leads();
        status.lag(7);
        status.lag(700);
        let event =
            Event { at_ms: 1500, run: "r".to_owned(), what: What::RunFinished { outcome: Outcome::Done, elapsed_ms: 1, refused: None } };
        status.note("a \"b\"", &event);
        let lookups = vec![LookupReport {
            cache: "c".to_owned(),
            keys: 9,
            hits: 4,
            memory_hits: 1,
            misses: 3,
            negative_hits: 2,
            ..LookupReport::default()
        }];
        let (stage, outcome, outputs) = ("s".to_owned(), Outcome::Done, Vec::new());
        let what = What::StageFinished {
            stage,
            outcome,
            rows_in: 1,
            rows_out: 1,
            bytes: 1,
            rejects: 0,
            elapsed_ms: 1,
            outputs,
            lookups,
            failure: None,
        };
        status.note("p", &Event { at_ms: 1500, run: "r".to_owned(), what });
        let text = status.metrics();
        for line in [
            "haul_leads 1",
            "haul_runs_total{pipeline=\"a \\\"b\\\"\",outcome=\"done\"} 1",
            "haul_lookups_total{pipeline=\"p\",cache=\"c\",result=\"hit\"} 4",
            "haul_lookups_total{pipeline=\"p\",cache=\"c\",result=\"negative_hit\"} 2",
            "haul_last_done_timestamp_seconds{pipeline=\"a \\\"b\\\"\"} 1.5",
            "haul_schedule_lag_seconds_bucket{le=\"0.005\"} 0",
            "haul_schedule_lag_seconds_bucket{le=\"0.01\"} 1",
            "haul_schedule_lag_seconds_bucket{le=\"+Inf\"} 2",
            "haul_schedule_lag_seconds_sum 0.707",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
