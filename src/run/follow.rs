//! One attempt at a stream: read on from the committed position, write, commit rows and position together, and only then tell the source.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::edge;
use super::output::{Output, Piece};
use super::progress::{Attempt, StageCounters, UNKNOWN};
use super::stage::{RunContext, StageRun};
use super::unit::{Done, finished, forward};
use crate::clock;
use crate::connectors::Reading;
use crate::data::{Lag, Position};
use crate::define::pipeline::{Kind, Roll, SinkSpec};
use crate::failure::Failure;
use crate::tasks;

/// How often a position is committed that moves without rows.
const WITHOUT_ROWS: Duration = Duration::from_secs(10);

/// How often the source is asked how far the stream is behind, whatever its target does.
const LOOK: Duration = Duration::from_secs(1);

/// Follows until the run is stopped, or until it has caught up when that is asked for.
pub async fn follow(context: &RunContext, stage: &Arc<StageRun>) -> Result<Done, Failure> {
    let Kind::Stream { every } = stage.plan.stage.kind else {
        return Err(Failure::permanent("a bounded stage was followed, which is a bug in haul"));
    };
    let (Some(reading), Some(split)) = (stage.reading(0), stage.splits.first().cloned()) else {
        return Err(Failure::permanent("a stream has no source"));
    };
    if context.until_caught_up && !reading.catches_up() {
        let message = format!(
            "{} never says that it has sent everything, so nothing tells when the stream has caught up",
            stage.plan.inputs[0].label
        );
        return Err(Failure::permanent(message).help("leave `--until` out, and end the run by a signal"));
    }
    let attempt = Attempt::new(&stage.counters);
    let mut output = Output::open(stage, &attempt, &split.id).await?;
    output.take_up_rejects().await?;
    let from = output.goes_on_from();
    if let Some(position) = &from {
        // The last process may have been killed between its commit and this word.
        reading.acknowledge(position).await?;
    }
    let (sender, pieces) = mpsc::channel(edge::QUEUE);
    let reader = {
        let (stage, attempt, reading) = (Arc::clone(stage), Arc::clone(&attempt), Arc::clone(&reading));
        let from = from.clone();
        tasks::start(async move {
            let read = async { forward(&stage, &attempt, reading.read(&split, from.as_ref()).await?, &sender).await };
            read.await.map_err(|failure| failure.during(format!("following {}", stage.plan.inputs[0].label)))
        })
    };
    let _telling = {
        let (reading, counters) = (Arc::clone(&reading), Arc::clone(&stage.counters));
        tasks::start(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                if let Some(lag) = reading.lag() {
                    tell(&counters, lag);
                }
            }
        })
    };
    let ends = ends(stage, every);
    let mut stream = Stream { reading, output, stage, ends, committed: from, reached: None, due: None, holds_rows: false };
    match stream.run(context, pieces).await? {
        End::CaughtUp => Ok(stream.output.done()),
        End::Stopped => Err(Failure::cancelled()),
        End::Dried => {
            finished(reader).await?;
            Err(Failure::transient("the source ended a stream that has no end"))
        }
    }
}

/// Why a stream is no longer followed.
enum End {
    CaughtUp,
    Stopped,
    Dried,
}

struct Stream<'a> {
    reading: Arc<dyn Reading>,
    output: Output<'a>,
    stage: &'a StageRun,
    ends: Roll,
    committed: Option<Position>,
    /// Where everything that was written brings the stream; `None` in the middle of what belongs together.
    reached: Option<Position>,
    /// When what was written must be committed.
    due: Option<Instant>,
    /// Whether that is because of rows.
    holds_rows: bool,
}

/// When a commit is due: with what a batch of the stage holds, or with a whole part of its files.
fn ends(stage: &StageRun, every: Duration) -> Roll {
    let rolls = stage.plan.outputs.iter().find_map(|output| match &output.output.sink {
        SinkSpec::Files(sink) => sink.roll.clone(),
        _ => None,
    });
    let limit = stage.plan.flow().batch;
    rolls.unwrap_or(Roll { rows: limit.rows as u64, bytes: limit.bytes as u64, every })
}

impl Stream<'_> {
    async fn run(&mut self, context: &RunContext, mut pieces: mpsc::Receiver<Piece>) -> Result<End, Failure> {
        loop {
            tokio::select! {
                piece = pieces.recv() => {
                    let Some(piece) = piece else {
                        // What came before the break is here, and some sources cannot give it again.
                        self.commit().await?;
                        return Ok(End::Dried);
                    };
                    if self.take(piece).await? && context.until_caught_up {
                        self.commit().await?;
                        return Ok(End::CaughtUp);
                    }
                }
                () = sleep_until(self.due), if self.due.is_some() && self.reached.is_some() => self.commit().await?,
                () = context.drain.cancelled() => {
                    self.commit().await?;
                    return Ok(End::Stopped);
                }
            }
        }
    }

    /// Writes a piece, and commits when enough is waiting. True when the source has nothing more for now.
    async fn take(&mut self, piece: Piece) -> Result<bool, Failure> {
        let lag = match &piece {
            Piece::Rows { lag, .. } => *lag,
            Piece::Raw(_) => None,
        };
        self.reached = self.output.write(piece).await?;
        if let Some(lag) = lag {
            // A source that knows what is committed knows better than what was true when the rows were read.
            tell(&self.stage.counters, self.reading.lag().unwrap_or(lag));
        }
        let (rows, weight) = self.output.waiting();
        if rows >= self.ends.rows || weight >= self.ends.bytes {
            self.commit().await?;
        } else if rows > 0 {
            if !self.holds_rows {
                self.holds_rows = true;
                self.due = Some(clock::instant() + self.ends.every);
            }
        } else if self.reached != self.committed && self.due.is_none() {
            self.due = Some(clock::instant() + WITHOUT_ROWS);
        }
        Ok(lag.is_some_and(|lag| lag.caught_up))
    }

    /// Commits everything up to the position reached, if there is one: what lies behind it waits for the next.
    async fn commit(&mut self) -> Result<(), Failure> {
        let Some(position) = self.reached.clone() else { return Ok(()) };
        (self.due, self.holds_rows) = (None, false);
        if self.output.waiting().0 == 0 && self.committed.as_ref() == Some(&position) {
            return Ok(());
        }
        self.output.checkpoint(position.clone()).await?;
        let counters = &self.stage.counters;
        counters.commits.fetch_add(1, Ordering::Relaxed);
        counters.committed_at_ms.store(clock::now_ms().unsigned_abs(), Ordering::Relaxed);
        self.reading.acknowledge(&position).await?;
        self.committed = Some(position);
        Ok(())
    }
}

fn tell(counters: &StageCounters, lag: Lag) {
    counters.behind_ms.store(lag.behind_ms.unwrap_or(UNKNOWN), Ordering::Relaxed);
    counters.behind_bytes.store(lag.bytes.unwrap_or(UNKNOWN), Ordering::Relaxed);
    counters.kept_bytes.store(lag.kept.unwrap_or(UNKNOWN), Ordering::Relaxed);
}

async fn sleep_until(due: Option<Instant>) {
    if let Some(due) = due {
        tokio::time::sleep_until(due).await;
    }
}
