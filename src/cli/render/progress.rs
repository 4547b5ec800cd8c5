//! A run while it goes: bars on a terminal, lines elsewhere, or events as JSON.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::clock::{self, Stopwatch};
use crate::journal::{Event, What};
use crate::run::progress::{Progress, StageCounters, UNKNOWN};

use super::lines::{Splits, Teller};
use super::{Paint, words};
use crate::cli::Global;

/// How often bars are drawn.
const BARS: Duration = Duration::from_millis(100);

/// How often a stage that says nothing else gets a line.
const LINES: Duration = Duration::from_secs(10);

/// Rates are taken over so many drawings.
const WINDOW: usize = 30;

/// Before so many milliseconds nothing is said of rates and of time left: it would be chance.
const SETTLED_MS: u64 = 500;

/// More stages than this at the same time are not drawn.
const MOST_BARS: usize = 16;

/// How a run is told.
#[derive(Clone, Copy, Debug)]
pub enum Mode {
    /// A bar for each stage that runs, on standard error.
    Bars(Paint),
    /// Lines of text, on standard error.
    Lines(Splits, Paint),
    /// One JSON line an event, on standard output.
    Json,
    /// Not at all.
    Quiet,
}

impl Mode {
    /// What the arguments ask for, and the terminal can do.
    pub fn of(global: &Global) -> Self {
        let paint = super::paint_err(global);
        match global {
            Global { json: true, .. } => Self::Json,
            Global { quiet: true, .. } => Self::Quiet,
            Global { verbose: true, .. } => Self::Lines(Splits::All, paint),
            _ if std::io::stderr().is_terminal() => Self::Bars(paint),
            _ => Self::Lines(Splits::Sparse, paint),
        }
    }
}

/// Tells the run until its events end.
pub async fn drive(progress: Progress, mode: Mode) {
    let Progress { stages, mut events } = progress;
    let (mut screen, period) = match mode {
        Mode::Bars(paint) => (Screen::Bars(Box::new(Bars::new(&stages, paint))), BARS),
        Mode::Lines(splits, paint) => (Screen::Lines(Teller::new(splits, paint)), LINES),
        Mode::Json => (Screen::Json, LINES),
        Mode::Quiet => (Screen::Quiet, LINES),
    };
    let mut active = Active { stages, views: Vec::new() };
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            event = events.recv() => {
                let Some(event) = event else { break };
                active.note(&event);
                screen.event(&event);
            }
            _ = ticks.tick() => screen.tick(&mut active),
        }
    }
    if let Screen::Bars(bars) = screen {
        let _ = bars.multi.clear();
    }
}

/// Where a run is told.
enum Screen {
    Bars(Box<Bars>),
    Lines(Teller),
    Json,
    Quiet,
}

impl Screen {
    fn event(&mut self, event: &Event) {
        match self {
            Self::Bars(bars) => bars.event(event),
            Self::Lines(teller) => {
                if let Some(line) = teller.tell(event) {
                    super::say(&line);
                }
            }
            Self::Json => match serde_json::to_string(event) {
                Ok(line) => super::out(&line),
                Err(error) => super::say(&format!("error: failed to write an event: {error}")),
            },
            Self::Quiet => {}
        }
    }

    fn tick(&mut self, active: &mut Active) {
        match self {
            Self::Bars(bars) => bars.draw(active),
            Self::Lines(_) => {
                for view in active.views.iter_mut().filter(|view| view.watch.elapsed() >= LINES) {
                    let (name, status) = (view.name.clone(), view.look());
                    super::say(&format!("{name}: {}", status.text()));
                }
            }
            Self::Json | Self::Quiet => {}
        }
    }
}

/// The stages that run now.
struct Active {
    stages: Vec<(String, Arc<StageCounters>)>,
    views: Vec<View>,
}

impl Active {
    fn note(&mut self, event: &Event) {
        match &event.what {
            What::StageStarted { stage, splits, splits_done, .. } => {
                let counters = self.stages.iter().find(|(name, _)| name == stage).map(|(_, counters)| Arc::clone(counters));
                self.views.retain(|view| view.name != *stage);
                self.views.extend(counters.map(|counters| View {
                    name: stage.clone(),
                    counters,
                    watch: Stopwatch::start(),
                    share: if *splits > 0 { (splits.saturating_sub(*splits_done)) as f64 / *splits as f64 } else { 1.0 },
                    seen: VecDeque::new(),
                }));
            }
            What::StageFinished { stage, .. } => self.views.retain(|view| view.name != *stage),
            _ => {}
        }
    }
}

/// One stage that runs, and what was seen of it lately.
struct View {
    name: String,
    counters: Arc<StageCounters>,
    watch: Stopwatch,
    /// The share of the stage that this process has to do; the rest was committed earlier.
    share: f64,
    /// Time in milliseconds and rows, at the last drawings.
    seen: VecDeque<(u64, u64)>,
}

impl View {
    fn look(&mut self) -> Status {
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let elapsed_ms = u64::try_from(self.watch.elapsed().as_millis()).unwrap_or(u64::MAX);
        let rows = read(&self.counters.rows_in);
        let (since_ms, since_rows) = self.seen.front().copied().unwrap_or((0, 0));
        self.seen.push_back((elapsed_ms, rows));
        if self.seen.len() > WINDOW {
            self.seen.pop_front();
        }
        Status {
            rows,
            bytes: read(&self.counters.bytes),
            rejects: read(&self.counters.rejects),
            retries: read(&self.counters.retries),
            splits: read(&self.counters.splits),
            splits_done: read(&self.counters.splits_done),
            rows_expected: (read(&self.counters.rows_expected) as f64 * self.share) as u64,
            elapsed_ms,
            committed_ms: Some(read(&self.counters.committed_at_ms))
                .filter(|at| *at > 0)
                .map(|at| clock::now_ms().unsigned_abs().saturating_sub(at)),
            behind_ms: Some(read(&self.counters.behind_ms)).filter(|ms| *ms != UNKNOWN),
            behind_bytes: Some(read(&self.counters.behind_bytes)).filter(|bytes| *bytes != UNKNOWN),
            kept_bytes: Some(read(&self.counters.kept_bytes)).filter(|bytes| *bytes != UNKNOWN),
            rate: Some(elapsed_ms.saturating_sub(since_ms))
                .filter(|ms| *ms >= SETTLED_MS)
                .and_then(|ms| words::per_second(rows.saturating_sub(since_rows), ms)),
        }
    }
}

/// What there is to say of a stage that runs.
#[derive(Clone, Copy, Debug, Default)]
struct Status {
    rows: u64,
    bytes: u64,
    rejects: u64,
    retries: u64,
    splits: u64,
    splits_done: u64,
    /// Of this process; 0 when unknown.
    rows_expected: u64,
    elapsed_ms: u64,
    /// Since the last commit of a stream.
    committed_ms: Option<u64>,
    /// How far a stream is behind its source.
    behind_ms: Option<u64>,
    behind_bytes: Option<u64>,
    /// Of the source's log, kept for a stream.
    kept_bytes: Option<u64>,
    /// Rows a second, lately.
    rate: Option<u64>,
}

impl Status {
    /// How much is done, from 0 to 1; `None` when nothing is known of the whole. Estimates of rows are often too small: then splits say more.
    fn share(&self) -> Option<f64> {
        if self.rows_expected > 0 && self.rows <= self.rows_expected {
            return Some(self.rows as f64 / self.rows_expected as f64);
        }
        (self.splits > 1).then(|| self.splits_done.min(self.splits) as f64 / self.splits as f64)
    }

    /// Time left if it goes on as it went so far, in milliseconds.
    fn left_ms(&self) -> Option<u64> {
        let share = self.share().filter(|share| *share > 0.0 && self.rows_expected > 0 && self.elapsed_ms >= SETTLED_MS)?;
        Some((self.elapsed_ms as f64 * (1.0 - share) / share) as u64)
    }

    fn text(&self) -> String {
        let mut parts = Vec::new();
        parts.extend(self.share().map(|share| format!("{:.0} %", share * 100.0)));
        parts.push(words::counted(self.rows, "row"));
        parts.push(words::size(self.bytes));
        parts.extend(self.rate.map(|rate| format!("{} rows/s", words::count(rate))));
        if self.splits > 1 {
            parts.push(format!("split {} of {}", words::count(self.splits_done), words::count(self.splits)));
        }
        if let Some(committed_ms) = self.committed_ms {
            parts.extend(self.behind_ms.map(|ms| format!("{} behind", words::span(ms))));
            parts.extend(self.behind_bytes.map(|bytes| format!("{} behind", words::size(bytes))));
            parts.extend(self.kept_bytes.map(|bytes| format!("{} of log kept", words::size(bytes))));
            parts.push(format!("committed {} ago", words::span(committed_ms)));
        }
        if self.rejects > 0 {
            parts.push(format!("{} rejected", words::count(self.rejects)));
        }
        if self.retries > 0 {
            parts.push(if self.retries == 1 { "1 retry".to_owned() } else { format!("{} retries", words::count(self.retries)) });
        }
        parts.extend(self.left_ms().map(|left_ms| format!("{} left", words::span(left_ms))));
        parts.join(", ")
    }
}

/// Bars of the stages that run, below the lines of what has happened.
struct Bars {
    multi: MultiProgress,
    teller: Teller,
    drawn: Vec<(String, ProgressBar)>,
    known: ProgressStyle,
    unknown: ProgressStyle,
    width: usize,
}

impl Bars {
    fn new(stages: &[(String, Arc<StageCounters>)], paint: Paint) -> Self {
        let style = |template: &str| {
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            style.progress_chars("━╸ ")
        };
        Self {
            multi: MultiProgress::new(),
            teller: Teller::new(Splits::Unsaid, paint),
            drawn: Vec::new(),
            known: style("{prefix} {bar:20} {wide_msg}"),
            unknown: style("{prefix} {spinner} {wide_msg}"),
            width: stages.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).min(32),
        }
    }

    fn event(&mut self, event: &Event) {
        if let Some(line) = self.teller.tell(event) {
            let _ = self.multi.println(line);
        }
    }

    fn draw(&mut self, active: &mut Active) {
        self.drawn.retain(|(name, bar)| {
            let goes_on = active.views.iter().any(|view| view.name == *name);
            if !goes_on {
                bar.finish_and_clear();
                self.multi.remove(bar);
            }
            goes_on
        });
        for view in active.views.iter_mut().take(MOST_BARS) {
            let bar = match self.drawn.iter().find(|(name, _)| *name == view.name) {
                Some((_, bar)) => bar.clone(),
                None => {
                    let bar = ProgressBar::new(1000).with_style(self.unknown.clone());
                    let bar = self.multi.add(bar.with_prefix(format!("{:width$}", view.name, width = self.width)));
                    self.drawn.push((view.name.clone(), bar.clone()));
                    bar
                }
            };
            let status = view.look();
            bar.set_style(if status.share().is_some() { self.known.clone() } else { self.unknown.clone() });
            bar.set_position((status.share().unwrap_or(0.0) * 1000.0) as u64);
            bar.set_message(status.text());
            bar.tick();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_what_is_known() {
        let nothing = Status { rate: None, ..Status::default() };
        assert_eq!(nothing.text(), "0 rows, 0 B");
        let estimated =
            Status { rows: 250_000, bytes: 120 << 20, rows_expected: 1_000_000, elapsed_ms: 4000, rate: Some(61_500), ..nothing };
        assert_eq!(estimated.text(), "25 %, 250,000 rows, 120 MiB, 61,500 rows/s, 12 s left");
        let cut = Status { splits: 8, splits_done: 2, retries: 1, rejects: 3, ..estimated };
        assert_eq!(cut.text(), "25 %, 250,000 rows, 120 MiB, 61,500 rows/s, split 2 of 8, 3 rejected, 1 retry, 12 s left");
        let stream = Status {
            rate: None,
            committed_ms: Some(2500),
            behind_ms: Some(400),
            behind_bytes: Some(3 << 20),
            kept_bytes: Some(5 << 20),
            ..nothing
        };
        let (behind, committed) = (words::span(400), words::span(2500));
        assert_eq!(stream.text(), format!("0 rows, 0 B, {behind} behind, 3.0 MiB behind, 5.0 MiB of log kept, committed {committed} ago"));
        let wrong_estimate = Status { rows_expected: 100, ..cut };
        assert_eq!(wrong_estimate.share(), Some(0.25));
        assert_eq!(Status { splits: 1, ..wrong_estimate }.share(), None);
    }
}
