//! What was sent: a document of this machine for each output, below the project's `.haul` folder. An API keeps no marks for us.

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::connectors::files::{Local, Store};
use crate::connectors::{Claim, FoundLoad, Load, LoadKey, Mark, moved_on};
use crate::data::Position;
use crate::failure::{Failure, FailureKind};
use crate::tasks;

/// Version of the document.
const VERSION: u32 = 1;

/// The document of one output.
#[derive(Clone)]
pub(super) struct Record {
    store: Arc<Local>,
    path: String,
}

#[derive(Default, Serialize, Deserialize)]
struct Written {
    version: u32,
    /// The epoch of the last claim. Marks of an older one are refused.
    epoch: u64,
    load: Option<Sent>,
}

/// One load.
#[derive(Serialize, Deserialize)]
struct Sent {
    /// The one that began it, and those that took it over.
    runs: Vec<String>,
    plan_hash: String,
    note: String,
    published: bool,
    marks: Vec<SentMark>,
    /// The epoch under which it was begun. Under a later one rows may have been sent that no mark tells of.
    #[serde(default)]
    begun: u64,
}

#[derive(Serialize, Deserialize)]
struct SentMark {
    split: String,
    rows: u64,
    digest: String,
    rejects: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    position: Option<Position>,
}

/// What a writer finds before it sends.
pub(super) struct Standing {
    /// The run that began the load: part of the keys of its requests.
    pub run: String,
    /// Whether all of the split was sent.
    pub done: bool,
    /// Whether another process may have sent some of it behind its last mark.
    pub taken_over: bool,
}

impl SentMark {
    fn of(mark: &Mark) -> Self {
        let Mark { split, rows, digest, rejects, position } = mark.clone();
        Self { split, rows, digest: digest.to_string(), rejects, position }
    }

    fn mark(&self) -> Result<Mark, Failure> {
        let digest = self.digest.parse().map_err(|what: String| Failure::permanent(format!("the record of a load is broken: {what}")))?;
        let (split, position) = (self.split.clone(), self.position.clone());
        Ok(Mark { split, rows: self.rows, digest, rejects: self.rejects, position })
    }
}

impl Sent {
    fn run(&self) -> String {
        self.runs.first().cloned().unwrap_or_default()
    }

    fn marks(&self) -> Result<Vec<Mark>, Failure> {
        self.marks.iter().map(SentMark::mark).collect()
    }
}

impl Record {
    /// The document of an output of the project in `base`.
    pub(super) fn new(base: &Path, key: &LoadKey) -> Self {
        let hash = xxh3_64(format!("{}\0{}\0{}", key.pipeline, key.stage, key.output).as_bytes());
        Self { store: Arc::new(Local::new(base.join(".haul").join("http"))), path: format!("{hash:016x}/load.json") }
    }

    /// Changes the document while nobody else does.
    async fn change<T: Send + 'static>(
        &self,
        mut change: impl FnMut(&mut Written) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let Self { store, path } = self.clone();
        tasks::blocking(move || {
            let mut answer = None;
            store.change(&path, &mut |old| {
                let mut written = match old {
                    None => Written { version: VERSION, ..Written::default() },
                    Some(bytes) => read(&path, bytes)?,
                };
                answer = Some(change(&mut written)?);
                let text = serde_json::to_vec_pretty(&written);
                Ok(Some(text.map_err(|error| Failure::permanent("the record of a load cannot be written").cause(error))?))
            })?;
            answer.ok_or_else(|| Failure::permanent("the record of a load was not changed"))
        })
        .await
    }

    /// The same, when the worker may: nobody has claimed the load after it.
    async fn change_own<T: Send + 'static>(
        &self,
        load: &Load,
        mut change: impl FnMut(&mut Option<Sent>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let (epoch, stage) = (load.epoch, load.key.stage.clone());
        self.change(move |written| {
            if written.epoch != epoch {
                return Err(Failure::new(FailureKind::Fenced, format!("another worker took over the load of stage `{stage}`")));
            }
            change(&mut written.load)
        })
        .await
    }

    /// Takes the load over.
    pub(super) async fn claim(&self, key: &LoadKey) -> Result<Claim, Failure> {
        let key = key.clone();
        self.change(move |written| {
            written.epoch += 1;
            let mut claim = Claim { epoch: written.epoch, ..Claim::default() };
            if let Some(sent) = &mut written.load {
                let same_run = sent.runs.contains(&key.run);
                if sent.plan_hash == key.plan_hash && (same_run || !sent.published) {
                    let (run, note) = (sent.run(), sent.note.clone());
                    claim.found = Some(FoundLoad { run, note, marks: sent.marks()?, published: sent.published });
                    if !same_run {
                        sent.runs.push(key.run.clone());
                    }
                } else if !sent.published {
                    claim.left_behind = sent.marks.iter().map(|mark| mark.rows).sum();
                }
            }
            Ok(claim)
        })
        .await
    }

    /// Begins the load anew, without marks.
    pub(super) async fn begin(&self, load: &Load, note: &str) -> Result<(), Failure> {
        let (key, note, begun) = (load.key.clone(), note.to_owned(), load.epoch);
        self.change_own(load, move |sent| {
            let (runs, plan_hash) = (vec![key.run.clone()], key.plan_hash.clone());
            *sent = Some(Sent { runs, plan_hash, note: note.clone(), published: false, marks: Vec::new(), begun });
            Ok(())
        })
        .await
    }

    /// How a split of the load stands.
    pub(super) async fn standing(&self, load: &Load, split: &str) -> Result<Standing, Failure> {
        let (split, epoch) = (split.to_owned(), load.epoch);
        self.change_own(load, move |sent| {
            let sent = of(sent)?;
            let done = sent.published || sent.marks.iter().any(|mark| mark.split == split && mark.position.is_none());
            Ok(Standing { run: sent.run(), done, taken_over: sent.begun != epoch })
        })
        .await
    }

    /// Records how far a split was sent, over the mark that the worker went on from. A split that is done stays so.
    pub(super) async fn advance(&self, load: &Load, before: Option<&Mark>, mark: &Mark) -> Result<(), Failure> {
        let (before, mark) = (before.cloned(), mark.clone());
        self.change_own(load, move |sent| {
            let marks = &mut of(sent)?.marks;
            let place = marks.iter().position(|known| known.split == mark.split);
            let known = place.map(|place| marks[place].mark()).transpose()?;
            if known.as_ref() == Some(&mark) {
                return Ok(());
            }
            if known != before {
                return Err(moved_on(&mark.split));
            }
            match place {
                Some(place) => marks[place] = SentMark::of(&mark),
                None => marks.push(SentMark::of(&mark)),
            }
            Ok(())
        })
        .await
    }

    /// Says that everything was sent.
    pub(super) async fn publish(&self, load: &Load) -> Result<(), Failure> {
        self.change_own(load, |sent| {
            of(sent)?.published = true;
            Ok(())
        })
        .await
    }

    /// Forgets the load; epochs go on.
    pub(super) async fn forget(&self) -> Result<(), Failure> {
        self.change(|written| {
            written.load = None;
            Ok(())
        })
        .await
    }
}

fn of(sent: &mut Option<Sent>) -> Result<&mut Sent, Failure> {
    sent.as_mut().ok_or_else(|| Failure::permanent("the record of the load is gone").help("run again with `--fresh`"))
}

fn read(path: &str, bytes: &[u8]) -> Result<Written, Failure> {
    let broken = |what: String| {
        Failure::permanent(format!("the record `.haul/http/{path}` {what}"))
            .help("restore it, or remove its folder to send everything again")
    };
    let written: Written = serde_json::from_slice(bytes).map_err(|error| broken("cannot be read".to_owned()).cause(error))?;
    if written.version == VERSION { Ok(written) } else { Err(broken(format!("has the version {}, not {VERSION}", written.version))) }
}
