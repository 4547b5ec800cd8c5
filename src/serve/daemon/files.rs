//! Definitions that change while the daemon works.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use super::{Daemon, Good};
use crate::clock;
use crate::define::has_errors;
use crate::define::pipeline::Schedule;
use crate::failure::Failure;
use crate::load::project::{FILE, PIPELINES, yaml_files};
use crate::run::launch::Found;
use crate::serve::{Definition, Definitions, Level, Settings};

/// Files with their sizes and times.
pub(super) type Look = Vec<(PathBuf, u64, Option<SystemTime>)>;

impl Daemon {
    /// Reads definitions again once their files have changed and then stood still: a pull of many files is one change.
    pub(super) async fn watch(&mut self) -> Result<(), Failure> {
        let now = look(&self.settings);
        let still = now == self.seen;
        self.seen = now;
        if !still || self.seen == self.read {
            return Ok(());
        }
        self.read = self.seen.clone();
        let before = match Definitions::load(&self.settings.base, Some(&self.definitions)) {
            Ok(definitions) => std::mem::replace(&mut self.definitions, definitions),
            Err(failure) => {
                self.voice.say(Level::Error, format!("definitions stay as they were: {failure}"));
                return Ok(());
            }
        };
        let same = |(name, definition): (&String, &Definition)| {
            let old = before.pipelines.get(name)?;
            (old.source == definition.source && old.problems == definition.problems).then(|| name.clone())
        };
        let same = self.definitions.pipelines.iter().filter_map(same).collect();
        self.take_definitions(&same).await
    }

    /// Puts the definitions to work; of a pipeline that is wrong, its last good version. Nothing is said of those that are the same as before.
    pub(super) async fn take_definitions(&mut self, same: &HashSet<String>) -> Result<(), Failure> {
        let project = &self.definitions.project;
        if has_errors(&self.definitions.problems) {
            self.voice.line(
                Level::Error,
                format!("{FILE} is wrong: what could run before goes on as it was"),
                None,
                None,
                self.definitions.problems.clone(),
            );
        } else {
            self.good.retain(|name, _| self.definitions.pipelines.contains_key(name));
            for (name, definition) in &self.definitions.pipelines {
                if definition.is_right() {
                    let found = Found { project: project.clone(), name: name.clone(), source: Arc::clone(&definition.source) };
                    let lacks = definition.kept.as_ref().and_then(|kept| kept.lacks.as_ref()).filter(|_| !same.contains(name));
                    if let Some(param) = lacks {
                        self.voice.of(Level::Warn, name, None, format!("it is not kept going: its param `{param}` has no default"));
                    }
                    let kept = definition.kept.as_ref().is_some_and(|kept| kept.lacks.is_none());
                    let schedule = definition.schedule.clone().unwrap_or_default();
                    self.good.insert(name.clone(), Good { found, schedule, kept });
                } else if !same.contains(name) {
                    let kept = if self.good.contains_key(name) { "its last good version goes on" } else { "it will not run" };
                    self.voice.line(
                        Level::Error,
                        format!("the definition is wrong: {kept}"),
                        Some(name),
                        None,
                        definition.problems.clone(),
                    );
                }
            }
        }
        let wrong = self.definitions.pipelines.values().filter(|definition| !definition.is_right()).count();
        self.status.loaded(self.definitions.pipelines.len() - wrong, wrong);
        let schedules: BTreeMap<String, Schedule> = self.good.iter().map(|(name, good)| (name.clone(), good.schedule.clone())).collect();
        let by_itself = self.good.values().filter(|good| good.kept || !good.schedule.entries.is_empty()).count();
        let of = self.definitions.pipelines.len();
        self.voice.say(Level::Info, format!("definitions read: {by_itself} of {of} pipelines run by themselves, {wrong} are wrong"));
        let turn = self.book.replace(schedules, clock::now_ms());
        self.write_down(turn).await?;
        let pauses = self.take_pauses().await?;
        self.keep_feeds().await;
        self.keep_streams(&pauses);
        Ok(())
    }
}

/// What the files of a project look like.
pub(super) fn look(settings: &Settings) -> Look {
    let mut files = yaml_files(&settings.base.join(PIPELINES));
    files.extend([FILE, ".env"].map(|name| settings.base.join(name)));
    let of = |path: PathBuf| {
        let metadata = std::fs::metadata(&path).ok()?;
        Some((path, metadata.len(), metadata.modified().ok()))
    };
    files.into_iter().filter_map(of).collect()
}
