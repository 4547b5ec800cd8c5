//! Stages, and the settings they take over from the file's and the project's defaults.

use std::time::Duration;

use super::graph::items;
use super::pipeline::{CacheMode, CacheSink, Flow, Input, Kind, Limits, Output, Retry, SinkSpec, SplitPolicy, Stage, Step, Verify};
use super::reader::Reader;
use super::tables::Comes;
use super::{caches, inputs, outputs, steps, streams};
use crate::data::BatchLimit;
use crate::diagnostic::Diagnostic;
use crate::load::document::child;
use crate::load::file::{self, Defaults, Rows};
use crate::load::shape;

/// The least memory that a run can work in.
const LEAST_MEMORY: u64 = 1 << 20;
/// The least bytes of a batch.
const LEAST_BATCH: u64 = 1 << 10;

/// Reads every stage.
pub fn read(reader: &mut Reader<'_>, said: &file::Pipeline, shared: &file::Project) -> Vec<Stage> {
    check_settings(reader, said.defaults.as_ref(), None);
    let defaults = [said.defaults.as_ref(), shared.defaults.as_ref()];
    let mut stages = Vec::new();
    for (name, said) in said.stages.iter().flat_map(|entries| &entries.0) {
        let at = child("/stages", name);
        let (own, description) = match said {
            file::Stage::Batch(said) => (
                own_settings(said.retry.as_ref(), said.timeout.as_ref(), said.verify, said.splits.as_ref(), said.batch.as_ref()),
                &said.description,
            ),
            file::Stage::Cache(said) => (
                // What a cache holds is proved by its number of rows.
                own_settings(
                    said.retry.as_ref(),
                    said.timeout.as_ref(),
                    Some(file::Verify::None),
                    said.splits.as_ref(),
                    said.batch.as_ref(),
                ),
                &said.description,
            ),
            file::Stage::Stream(said) => (streams::settings(reader, &at, said), &said.description),
            file::Stage::Unclear => continue,
        };
        settings(reader, &at, &own);
        let levels = [Some(&own), defaults[0], defaults[1]];
        let without_rows = matches!(said, file::Stage::Cache(said) if said.from.is_none());
        let mut flow = flow(reader, name, &at, said.rows(), &levels).filter(|flow| without_rows || !flow.from.is_empty());
        let mut retry = retry(&levels);
        let mut timeout = first(&levels, |level| level.timeout.as_ref()).and_then(shape::Duration::read);
        let kind = match said {
            file::Stage::Cache(said) => {
                let kind = caches::read(reader, &at, said);
                if let Some(flow) = flow.as_mut().filter(|_| !without_rows) {
                    let sink = SinkSpec::Cache(CacheSink { cache: name.clone(), mode: CacheMode::Fill, version: None });
                    flow.to = vec![Output { sink, allow_lossy: Vec::new(), at: at.clone() }];
                }
                kind.map(|cache| Kind::Cache(Box::new(cache)))
            }
            file::Stage::Stream(said) => {
                (retry, timeout) = (streams::retry(said, retry), None);
                if let Some(flow) = &mut flow {
                    streams::check(reader, &at, flow);
                    flow.verify = Verify::None;
                }
                Some(streams::kind(said))
            }
            _ => Some(Kind::Batch),
        };
        let (Some(flow), Some(kind)) = (flow, kind) else { continue };
        if !matches!(kind, Kind::Stream { .. }) {
            streams::only_in_streams(reader, &flow);
        }
        stages.push(Stage {
            name: name.clone(),
            after: after(said.rows(), &at),
            retry,
            timeout,
            kind,
            flow,
            description: description.clone(),
            at,
        });
    }
    outputs::same_targets(reader, &stages);
    caches::outputs(reader, &stages);
    stages
}

/// What a stage says of the settings that it may also leave to the defaults.
pub(super) fn own_settings(
    retry: Option<&file::Retry>,
    timeout: Option<&shape::Duration>,
    verify: Option<file::Verify>,
    splits: Option<&file::Splits>,
    batch: Option<&file::BatchSize>,
) -> Defaults {
    Defaults {
        retry: retry.map(copy_retry),
        timeout: timeout.cloned(),
        verify,
        splits: splits.map(|splits| file::Splits { bytes: splits.bytes.clone(), ..*splits }),
        batch: batch.map(|batch| file::BatchSize { bytes: batch.bytes.clone(), ..*batch }),
    }
}

fn after(said: Rows<'_>, at: &str) -> Vec<(String, String)> {
    said.after.iter().enumerate().map(|(index, name)| (name.clone(), format!("{at}/after/{index}"))).collect()
}

/// The rows of a stage. `None` when an input cannot be understood, which has been reported.
fn flow(reader: &mut Reader<'_>, name: &str, at: &str, said: Rows<'_>, levels: &[Option<&Defaults>; 3]) -> Option<Flow> {
    let from_at = format!("{at}/from");
    let from_items = items(said.from, &from_at);
    let from: Vec<Input> = from_items.iter().filter_map(|(at, input)| inputs::read(reader, at, input)).collect();
    duplicate_inputs(reader, &from);
    let transform_at = format!("{at}/transform");
    let transform = steps::read(reader, &transform_at, said.transform.unwrap_or_default());
    if from_items.len() > 1 && !matches!(transform.first(), Some(Step::Sql(_))) && !reader.broken(&transform_at) {
        let first_is_sql = said.transform.and_then(|steps| steps.first()).is_some_and(|step| step.sql.is_some());
        if !first_is_sql {
            let pointer = if said.transform.is_some() { format!("{transform_at}/0") } else { from_at.clone() };
            let message = format!("`{name}` has {} inputs, and nothing says how they become one", from_items.len());
            reader.error("inputs-need-sql", &pointer, message, "make the first step of `transform` a `sql` over their names");
        }
    }
    let complete = from.len() == from_items.len();
    let comes = Comes::of(&from_items, &from);
    let to = items(said.to, &format!("{at}/to")).iter().filter_map(|(at, output)| outputs::read(reader, at, output, &comes)).collect();
    let rejects = said.rejects.and_then(|rejects| outputs::rejects(reader, &format!("{at}/rejects"), rejects));
    let verify = first(levels, |level| level.verify).unwrap_or(file::Verify::Digest);
    complete.then(|| Flow {
        from,
        transform,
        to,
        verify: match verify {
            file::Verify::Digest => Verify::Digest,
            file::Verify::Count => Verify::Count,
            file::Verify::None => Verify::None,
        },
        rejects,
        splits: split_policy(levels),
        batch: batch_limit(levels),
    })
}

fn copy_retry(said: &file::Retry) -> file::Retry {
    let backoff = said.backoff.as_ref();
    file::Retry {
        attempts: said.attempts,
        backoff: backoff.map(|said| file::Backoff { initial: said.initial.clone(), max: said.max.clone(), ..*said }),
        total: said.total.clone(),
    }
}

fn duplicate_inputs(reader: &mut Reader<'_>, inputs: &[Input]) {
    for (index, input) in inputs.iter().enumerate() {
        if let Some(first) = inputs[..index].iter().find(|first| first.name == input.name) {
            let problem = Diagnostic::error("duplicate-input", format!("two inputs have the name `{}`", input.name));
            let problem = reader.document.at_value(problem, &named_at(reader, input), "the second");
            let problem = reader.document.at_value(problem, &named_at(reader, first), "the first");
            reader.problems.push(problem.help("give one of them another name with `as:`"));
        }
    }
}

/// Where an input's name is said: its `as`, else the input itself.
fn named_at(reader: &Reader<'_>, input: &Input) -> String {
    let name = format!("{}/as", input.at);
    if reader.document.get(&name).is_some() { name } else { input.at.clone() }
}

/// The first level that says something: the stage, the file's defaults, the project's.
fn first<'a, T>(levels: &[Option<&'a Defaults>; 3], get: impl Fn(&'a Defaults) -> Option<T>) -> Option<T> {
    levels.iter().flatten().copied().find_map(get)
}

fn retry(levels: &[Option<&Defaults>; 3]) -> Retry {
    fn backoff(level: &Defaults) -> Option<&file::Backoff> {
        level.retry.as_ref()?.backoff.as_ref()
    }
    let duration =
        |said: Option<&shape::Duration>, default: u64| said.and_then(shape::Duration::read).unwrap_or(Duration::from_secs(default));
    let initial = duration(first(levels, |level| backoff(level)?.initial.as_ref()), 1);
    Retry {
        attempts: first(levels, |level| level.retry.as_ref()?.attempts).unwrap_or(5),
        initial,
        // A longest wait that nobody wrote gives way to a longer first one.
        max: match first(levels, |level| backoff(level)?.max.as_ref()) {
            Some(said) => duration(Some(said), 60),
            None => Duration::from_secs(60).max(initial),
        },
        factor: first(levels, |level| backoff(level)?.factor).unwrap_or(2.0),
        jitter: first(levels, |level| backoff(level)?.jitter).unwrap_or(true),
        total: Some(duration(first(levels, |level| level.retry.as_ref()?.total.as_ref()), 3600)),
    }
}

fn split_policy(levels: &[Option<&Defaults>; 3]) -> SplitPolicy {
    SplitPolicy {
        most: first(levels, |level| level.splits.as_ref()?.most).unwrap_or(64),
        bytes: first(levels, |level| level.splits.as_ref()?.bytes.as_ref()).and_then(shape::Size::read).unwrap_or(64 << 20),
        concurrency: first(levels, |level| level.splits.as_ref()?.concurrency).unwrap_or(4),
    }
}

fn batch_limit(levels: &[Option<&Defaults>; 3]) -> BatchLimit {
    let default = BatchLimit::default();
    let bytes = first(levels, |level| level.batch.as_ref()?.bytes.as_ref()).and_then(shape::Size::read);
    BatchLimit {
        rows: first(levels, |level| level.batch.as_ref()?.rows).unwrap_or(default.rows),
        bytes: bytes.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(default.bytes),
    }
}

/// Reads `limits:` over those of the project.
pub fn limits(reader: &mut Reader<'_>, own: Option<&file::Limits>, shared: Option<&file::Limits>) -> Limits {
    check_settings(reader, None, own);
    let levels = [own, shared];
    let said = || levels.iter().flatten().copied();
    Limits {
        stages: said().find_map(|level| level.stages).unwrap_or(4),
        splits: said().find_map(|level| level.splits).unwrap_or(8),
        memory: said().find_map(|level| level.memory.as_ref()).and_then(shape::Size::read).unwrap_or(256 << 20),
        drain: said().find_map(|level| level.drain.as_ref()).and_then(shape::Duration::read).unwrap_or(Duration::from_secs(30)),
    }
}

/// Checks `defaults:` and `limits:` of a pipeline or a project file.
pub fn check_settings(reader: &mut Reader<'_>, defaults: Option<&Defaults>, limits: Option<&file::Limits>) {
    if let Some(defaults) = defaults {
        settings(reader, "/defaults", defaults);
    }
    if let Some(limits) = limits {
        at_least(reader, "/limits/memory", limits.memory.as_ref(), LEAST_MEMORY, "1MiB");
    }
}

/// Checks what the schema cannot say of a stage's settings.
fn settings(reader: &mut Reader<'_>, at: &str, said: &Defaults) {
    positive(reader, &format!("{at}/timeout"), said.timeout.as_ref());
    at_least(reader, &format!("{at}/batch/bytes"), said.batch.as_ref().and_then(|batch| batch.bytes.as_ref()), LEAST_BATCH, "1KiB");
    at_least(reader, &format!("{at}/splits/bytes"), said.splits.as_ref().and_then(|splits| splits.bytes.as_ref()), LEAST_BATCH, "1KiB");
    let Some(retry) = &said.retry else { return };
    positive(reader, &format!("{at}/retry/total"), retry.total.as_ref());
    let Some(backoff) = &retry.backoff else { return };
    let backoff_at = format!("{at}/retry/backoff");
    positive(reader, &format!("{backoff_at}/max"), backoff.max.as_ref());
    let length = |said: &Option<shape::Duration>| said.as_ref().and_then(shape::Duration::read);
    if let (Some(initial), Some(max)) = (length(&backoff.initial), length(&backoff.max))
        && initial > max
        && !max.is_zero()
    {
        let problem = Diagnostic::error("backoff-order", "the first wait is longer than the longest one");
        let problem = reader.document.at_value(problem, &format!("{backoff_at}/initial"), "the first wait");
        let problem = reader.document.at_value(problem, &format!("{backoff_at}/max"), "the longest");
        reader.problems.push(problem.help("swap the two, or raise `max`"));
    }
    if retry.attempts == Some(1) && retry.backoff.is_some() {
        let message = "`backoff` is for tries after the first, and `attempts` is 1";
        reader.warn_at_key("backoff-unused", &backoff_at, message, "remove `backoff`, or raise `attempts`");
    }
}

pub(super) fn positive(reader: &mut Reader<'_>, at: &str, said: Option<&shape::Duration>) {
    if said.and_then(shape::Duration::read).is_some_and(|length| length.is_zero()) {
        reader.error("out-of-range", at, "a time of zero would end at once", "write a longer time, or remove the key");
    }
}

pub(super) fn at_least(reader: &mut Reader<'_>, at: &str, said: Option<&shape::Size>, least: u64, word: &str) {
    if said.and_then(shape::Size::read).is_some_and(|size| size < least) {
        reader.error("out-of-range", at, "the size is too small to work with", format!("the least is {word}"));
    }
}
