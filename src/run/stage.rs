//! One stage of a run: what was claimed, what is committed, what is left to do; its beginning and its end.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::progress::StageCounters;
use super::rejects::RejectBudget;
use super::verify;
use crate::connectors::{FoundLoad, Load, LoadKey, Mark, Reading, Split, SplitGoal, Splits, Views};
use crate::data::Digest;
use crate::define::pipeline::Verify;
use crate::failure::Failure;
use crate::plan::{Origin, OutputPlan, Plan, Sealed, StagePlan};

/// The split id of a stage that is one unit.
pub const WHOLE: &str = "all";

/// What every stage of a run shares.
pub struct RunContext {
    /// The plan.
    pub plan: Plan<Sealed>,
    /// The run's id.
    pub run: String,
    /// Whether unfinished loads are abandoned first.
    pub fresh: bool,
    /// Outputs, by stage and place, whose earlier load this run has abandoned: what it finds there from then on is its own.
    pub abandoned: Mutex<HashSet<(String, usize)>>,
    /// Stages that earlier processes of the run brought to their end.
    pub done: BTreeSet<String>,
    /// Whether streams end when they have caught up.
    pub until_caught_up: bool,
    /// Cancelled by the dispatcher when the run is to commit what it has begun, and end.
    pub drain: CancellationToken,
    /// Where joins and edges spill; below the project's `.haul` folder.
    pub spill: PathBuf,
}

/// One stage that has been claimed and is ready to work.
pub struct StageRun {
    /// Its plan.
    pub plan: StagePlan,
    /// Its counters.
    pub counters: Arc<StageCounters>,
    /// One consistent view of each source, by input; `None` for inputs that are stages, and when nothing is left to read.
    readings: Mutex<Vec<Option<Arc<dyn Reading>>>>,
    /// One load for each output.
    pub loads: Vec<LoadRun>,
    /// Its splits; a single [`WHOLE`] one when it is not worked on by split.
    pub splits: Vec<Split>,
    /// Bad rows.
    pub rejects: Arc<RejectBudget>,
    /// Sentences for the journal.
    pub notes: Vec<String>,
    /// Rows and bytes that were written by this process.
    pub written_bytes: AtomicU64,
    /// Whether an earlier process of the run came to its end, proof included.
    pub done_before: bool,
}

/// One output of a stage that has been claimed.
pub struct LoadRun {
    /// What the sink knows it by.
    pub load: Load,
    /// Whether it is visible already.
    published: AtomicBool,
    /// The digest of what an appended-to target held before.
    before: Option<Digest>,
    marks: Mutex<BTreeMap<String, Mark>>,
}

/// What is kept beside each load in its sink, so that a later process can go on without the journal. Versioned.
#[derive(Serialize, Deserialize)]
struct Note {
    v: u32,
    splits: Splits,
    before: Option<String>,
}

const NOTE_VERSION: u32 = 1;

impl LoadRun {
    /// Whether all of a split is committed here.
    pub fn has(&self, split: &str) -> bool {
        self.is_published() || self.marked(split).is_some_and(|mark| mark.position.is_none())
    }

    /// Whether it is visible already.
    pub fn is_published(&self) -> bool {
        self.published.load(Ordering::Relaxed)
    }

    /// Remembers that it is visible.
    pub fn set_published(&self) {
        self.published.store(true, Ordering::Relaxed);
    }

    /// What is committed of a split, all of it or its beginning.
    pub fn marked(&self, split: &str) -> Option<Mark> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner).get(split).cloned()
    }

    /// Remembers a commit.
    pub fn mark(&self, mark: Mark) {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner).insert(mark.split.clone(), mark);
    }

    /// The sum of all commits.
    pub fn total(&self) -> Digest {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner).values().map(|mark| mark.digest).sum()
    }

    fn rejects(&self) -> u64 {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner).values().map(|mark| mark.rejects).sum()
    }

    /// What the target held before an append began.
    pub fn before(&self) -> Digest {
        self.before.unwrap_or_default()
    }
}

impl StageRun {
    /// The splits that some output still lacks.
    pub fn pending(&self) -> Vec<usize> {
        (0..self.splits.len()).filter(|&at| !self.is_done(&self.splits[at].id)).collect()
    }

    /// Whether every output has a split.
    pub fn is_done(&self, split: &str) -> bool {
        !self.loads.is_empty() && self.loads.iter().all(|load| load.has(split))
    }

    /// Claims every output, opens the sources, and decides what is left to do.
    pub async fn begin(context: &RunContext, number: usize, counters: Arc<StageCounters>, views: &Views) -> Result<Self, Failure> {
        let plan = &context.plan.stages[number];
        let plan = if plan.late { refreshed(context, number).await? } else { plan.clone() };
        let mut claims = Vec::with_capacity(plan.outputs.len());
        for (place, output) in plan.outputs.iter().enumerate() {
            claims.push(claim(context, &plan, place, output).await?);
        }
        let mut stage = Self {
            readings: Mutex::new(vec![None; plan.inputs.len()]),
            loads: Vec::new(),
            splits: Vec::new(),
            rejects: RejectBudget::new(None, BTreeMap::new()),
            notes: Vec::new(),
            written_bytes: AtomicU64::new(0),
            done_before: context.done.contains(&plan.stage.name),
            counters,
            plan,
        };
        let published = !claims.is_empty() && claims.iter().all(|(_, found)| found.as_ref().is_some_and(|found| found.published));
        if !published {
            stage.open(views).await?;
        }
        let goes_on = stage.take_up(claims).await?;
        stage.open_rejects(context, goes_on).await?;
        stage.count();
        Ok(stage)
    }

    async fn open(&mut self, views: &Views) -> Result<(), Failure> {
        let mut readings = Vec::with_capacity(self.plan.inputs.len());
        for input in &self.plan.inputs {
            readings.push(match &input.origin {
                Origin::Source(from) => {
                    let reading = from.source.open(from.request.within(views)).await;
                    Some(reading.map_err(|failure| failure.during(format!("reading {}", input.label)))?)
                }
                Origin::Stage(_) => None,
            });
        }
        self.readings = Mutex::new(readings);
        Ok(())
    }

    /// The view of the source of one input.
    pub fn reading(&self, input: usize) -> Option<Arc<dyn Reading>> {
        self.readings.lock().unwrap_or_else(PoisonError::into_inner).get(input).cloned().flatten()
    }

    /// Ends the views: nothing is read any more, and a source should not hold its snapshot while a target is proved.
    pub(super) fn release(&self) {
        self.readings.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Goes on with what was found, or starts loads from nothing; says whether any of them goes on.
    async fn take_up(&mut self, mut claims: Vec<(Load, Option<FoundLoad>)>) -> Result<bool, Failure> {
        let mut cuts = Vec::with_capacity(claims.len());
        for (load, found) in &claims {
            let cut = |found: &FoundLoad| read_note(&found.note, load).map(|note| (found.published, note.splits));
            cuts.push(found.as_ref().map(cut).transpose()?);
        }
        // What is published is done, and may be of an earlier state of the source than what is not.
        let mut recorded = cuts.iter().flatten().min_by_key(|(published, _)| *published).map(|(_, splits)| splits.clone());
        if let Some(splits) = &recorded
            && self.source_changed(splits).await?
        {
            self.notes.push(
                "the source changed since this load began; it starts again from nothing, so that it holds one state of it".to_owned(),
            );
            recorded = None;
        }
        for (place, ((_, found), cut)) in claims.iter_mut().zip(cuts).enumerate() {
            // Splits of another cut hold other rows under the same names: their marks count for nothing.
            if cut.is_some_and(|(published, splits)| !published && recorded.as_ref() != Some(&splits)) {
                self.refuse_mixing(place, found.take())?;
            }
        }
        let splits = match recorded {
            Some(splits) => splits,
            None => self.cut().await?,
        };
        let mut goes_on = false;
        for (place, (load, found)) in claims.into_iter().enumerate() {
            goes_on |= found.is_some();
            let run = match found {
                Some(found) => {
                    if self.plan.streams() {
                        self.plan.outputs[place].evolve(&load).await?;
                    }
                    resumed(load, &found)?
                }
                None => self.fresh_load(place, load, &splits).await?,
            };
            self.loads.push(run);
        }
        self.splits = splits.splits;
        Ok(goes_on)
    }

    /// Whether recorded splits no longer mean the rows they meant.
    async fn source_changed(&self, recorded: &Splits) -> Result<bool, Failure> {
        match (&recorded.fingerprint, self.reading(0)) {
            (Some(then), Some(reading)) => Ok(reading.fingerprint().await?.as_ref() != Some(then)),
            _ => Ok(false),
        }
    }

    /// A load whose rows are visible already cannot start again by itself.
    fn refuse_mixing(&self, place: usize, found: Option<FoundLoad>) -> Result<(), Failure> {
        let output = &self.plan.outputs[place];
        let rows: u64 = found.iter().flat_map(|found| &found.marks).map(|mark| mark.rows).sum();
        if rows > 0 && !output.sink.staged() {
            let message = format!("the source changed since the run began, and {rows} of its rows are in {} already", output.label);
            return Err(Failure::permanent(message)
                .help("`--fresh` starts over: an upsert converges, an append writes the rows that are there already a second time"));
        }
        Ok(())
    }

    async fn cut(&self) -> Result<Splits, Failure> {
        let whole = || Split { id: WHOLE.to_owned(), range: serde_json::Value::Null, label: "all rows".to_owned(), rows: None };
        match self.reading(0) {
            Some(reading) if self.plan.by_split() && !self.plan.streams() => {
                let policy = &self.plan.flow().splits;
                reading.splits(SplitGoal { most: policy.most, bytes: policy.bytes }).await
            }
            // A cache that nothing fills has nothing to do.
            _ => Ok(Splits { splits: self.plan.inputs.first().map(|_| whole()).into_iter().collect(), fingerprint: None }),
        }
    }

    async fn fresh_load(&self, place: usize, load: Load, splits: &Splits) -> Result<LoadRun, Failure> {
        let output = &self.plan.outputs[place];
        let before = if output.appends() && self.plan.flow().verify != Verify::None && self.exists(output).await? {
            // What the table lacks can be read back only once it is there.
            output.sink.evolve(&load).await.map_err(|failure| failure.during(format!("altering {}", output.label)))?;
            Some(verify::read_back(&self.plan, output, &load).await?)
        } else {
            None
        };
        let note = Note { v: NOTE_VERSION, splits: splits.clone(), before: before.map(|digest| digest.to_string()) };
        let note = serde_json::to_string(&note).map_err(|error| Failure::permanent("failed to write down the splits").cause(error))?;
        output.sink.prepare(&load, &note).await.map_err(|failure| failure.during(format!("preparing {}", output.label)))?;
        Ok(LoadRun { load, published: AtomicBool::new(false), before, marks: Mutex::default() })
    }

    /// Whether a target is there by now: an earlier stage may have created it since the plan was made.
    async fn exists(&self, output: &OutputPlan) -> Result<bool, Failure> {
        let exists = async || output.sink.plan(&self.plan.schema).await.map(|target| target.is_ok_and(|target| target.exists));
        Ok(output.target.exists || exists().await.map_err(|failure| failure.during(format!("looking at {}", output.label)))?)
    }

    async fn open_rejects(&mut self, context: &RunContext, goes_on: bool) -> Result<(), Failure> {
        let Some(rejects) = &self.plan.flow().rejects else { return Ok(()) };
        let log = context.plan.connections.files(&rejects.connection)?.rejects(&rejects.path)?;
        if !goes_on {
            log.discard().await?;
        }
        self.rejects = RejectBudget::new(Some((log, rejects.at_most)), self.rejects_by_split());
        Ok(())
    }

    /// Rows refused by what is committed of each split, in any output.
    fn rejects_by_split(&self) -> BTreeMap<String, u64> {
        let mut rejects = BTreeMap::new();
        for load in &self.loads {
            for mark in load.marks.lock().unwrap_or_else(PoisonError::into_inner).values() {
                let most = rejects.entry(mark.split.clone()).or_insert(0);
                *most = mark.rejects.max(*most);
            }
        }
        rejects
    }

    /// Rows refused by committed splits, in this process and earlier ones.
    pub fn rejected(&self) -> u64 {
        self.loads.iter().map(LoadRun::rejects).max().unwrap_or(0)
    }

    /// Tells the counters what is known before any work.
    fn count(&self) {
        let done = self.splits.len() - self.pending().len();
        self.counters.splits.store(self.splits.len() as u64, Ordering::Relaxed);
        self.counters.splits_done.store(done as u64, Ordering::Relaxed);
        self.counters.rows_expected.store(self.rows_estimated().unwrap_or(0), Ordering::Relaxed);
    }

    /// The rows that its sources are thought to hold.
    pub fn rows_estimated(&self) -> Option<u64> {
        self.plan
            .inputs
            .iter()
            .map(|input| match &input.origin {
                Origin::Source(from) => from.description.rows,
                Origin::Stage(_) => None,
            })
            .sum()
    }
}

async fn refreshed(context: &RunContext, number: usize) -> Result<StagePlan, Failure> {
    context.plan.refresh(number).await.map_err(|refused| {
        let problems: Vec<String> = refused.diagnostics.iter().map(|problem| format!("{}: {}", problem.code, problem.message)).collect();
        let message = format!("the plan does not fit what the earlier stage made: {}", problems.join("; "));
        if refused.environment { Failure::transient(message) } else { Failure::permanent(message) }
    })
}

async fn claim(context: &RunContext, plan: &StagePlan, place: usize, output: &OutputPlan) -> Result<(Load, Option<FoundLoad>), Failure> {
    let key = LoadKey {
        pipeline: context.plan.pipeline.name.clone(),
        stage: plan.stage.name.clone(),
        output: place,
        run: context.run.clone(),
        plan_hash: plan.hash.clone(),
    };
    let during = |failure: Failure| failure.during(format!("claiming {}", output.label));
    let own = (key.stage.clone(), place);
    if context.fresh && !context.abandoned.lock().unwrap_or_else(PoisonError::into_inner).contains(&own) {
        output.sink.abandon(&key).await.map_err(during)?;
        context.abandoned.lock().unwrap_or_else(PoisonError::into_inner).insert(own);
    }
    let claim = output.sink.claim(&key).await.map_err(during)?;
    if claim.left_behind > 0 && claim.found.is_none() && !context.fresh {
        let message =
            format!("an unfinished load of another definition has already written {} rows to {}", claim.left_behind, output.label);
        let finish = match &claim.left_by {
            Some(run) => format!("finish it as it was, with `haul retry {run}`"),
            None => "finish it with the old definition".to_owned(),
        };
        return Err(
            Failure::permanent(message).help(format!("{finish}, or pass `--fresh` to leave its rows where they are and start over"))
        );
    }
    Ok((Load { key, epoch: claim.epoch, schema: plan.schema.clone(), verify: plan.flow().verify }, claim.found))
}

fn read_note(note: &str, load: &Load) -> Result<Note, Failure> {
    let note: Note = serde_json::from_str(note)
        .map_err(|error| Failure::permanent(format!("the record of the load of `{}` cannot be read", load.key.stage)).cause(error))?;
    if note.v == NOTE_VERSION {
        return Ok(note);
    }
    Err(Failure::permanent(format!("the load of `{}` was begun by another version of haul (record version {})", load.key.stage, note.v))
        .help("finish it with that version, or pass `--fresh` to start over"))
}

fn resumed(load: Load, found: &FoundLoad) -> Result<LoadRun, Failure> {
    let note = read_note(&found.note, &load)?;
    let before = note.before.map(|text| text.parse::<Digest>()).transpose().map_err(Failure::permanent)?;
    let marks = found.marks.iter().map(|mark| (mark.split.clone(), mark.clone())).collect();
    Ok(LoadRun { load, published: AtomicBool::new(found.published), before, marks: Mutex::new(marks) })
}
