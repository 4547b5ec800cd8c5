//! The file that gets a stage's bad rows: one JSON object a line, with `origin`, `reason`, `row` and `split`.

use std::io::{self, Write};
use std::sync::Arc;

use tokio::sync::Mutex;
use xxhash_rust::xxh3::xxh3_64;

use super::codec::{read_failed, write_failed};
use super::paths::{self, WORK_FOLDER};
use super::store::{Pending, Store, join, parent};
use super::{part, stream};
use crate::data::Reject;
use crate::data::text::json::json_string;
use crate::failure::Failure;

/// The file that gets a stage's bad rows. Each split's are kept aside until `publish` puts them together.
#[derive(Clone)]
pub struct RejectLog {
    store: Arc<dyn Store>,
    path: String,
    work: String,
    /// Whether the leftovers of an earlier publication were looked for. Held while they are removed, before any part is written.
    tidied: Arc<Mutex<bool>>,
}

/// The bad rows of one split. Dropping it without [`RejectWriter::commit`] leaves nothing.
pub struct RejectWriter {
    log: RejectLog,
    split: String,
    pending: Option<Box<dyn Pending>>,
}

impl RejectLog {
    /// Touches nothing yet.
    pub(super) fn new(store: Arc<dyn Store>, path: String) -> Result<Self, Failure> {
        paths::check_target(&path).map_err(Failure::permanent)?;
        if path.ends_with('/') {
            return Err(
                Failure::permanent(format!("`{path}` is a folder; rejects go to one file")).help("name a file, such as `rejects.ndjson`")
            );
        }
        let (beside, _) = parent(&path);
        let work = join(&join(beside, WORK_FOLDER), &format!("rejects-{:016x}", xxh3_64(path.as_bytes())));
        Ok(Self { store, path, work, tidied: Arc::default() })
    }

    /// A writer for the bad rows of one split.
    pub fn writer(&self, split: &str) -> Result<RejectWriter, Failure> {
        Ok(RejectWriter { log: self.clone(), split: split.to_owned(), pending: None })
    }

    fn part(&self, split: &str) -> String {
        join(&self.work, &format!("{}.rejects", part::name(split)))
    }

    /// Says that the parts are in the file already, and are only left to be removed.
    fn done(&self) -> String {
        join(&self.work, "published")
    }

    /// Removes what a process that was killed right after its publication left.
    async fn tidy(&self) -> Result<(), Failure> {
        let mut tidied = self.tidied.lock().await;
        if !*tidied {
            let log = self.clone();
            stream::blocking(move || if log.store.stat(&log.done())?.is_some() { log.remove_parts() } else { Ok(()) }).await?;
            *tidied = true;
        }
        Ok(())
    }

    /// Removes what an abandoned load kept aside: its rows are not those of the load that begins.
    pub async fn discard(&self) -> Result<(), Failure> {
        let log = self.clone();
        stream::blocking(move || log.remove_parts()).await
    }

    /// Puts the committed parts together, in split order, into the file: behind what it holds when it `grows`, as a stream's does, else in its
    /// place. Nothing is made when there are no parts. May be repeated, and goes on where a killed one stopped; a file that grows may then
    /// hold the last rows twice.
    pub async fn publish(&self, grows: bool) -> Result<(), Failure> {
        self.tidy().await?;
        let log = self.clone();
        stream::blocking(move || {
            let mut parts: Vec<String> = log.store.list(&log.work, 0)?.into_iter().map(|file| file.path).collect();
            parts.retain(|path| path.ends_with(".rejects") && !parent(path).1.starts_with('.'));
            parts.sort();
            if !parts.is_empty() {
                if grows && log.store.stat(&log.path)?.is_some() {
                    parts.insert(0, log.path.clone());
                }
                log.join(&parts)?;
                let mut done = log.store.create(&log.done())?;
                done.write_all(b"1").map_err(|error| write_failed(&log.path, error))?;
                done.finish()?;
            }
            log.remove_parts()
        })
        .await
    }

    fn join(&self, parts: &[String]) -> Result<(), Failure> {
        let whole = join(&self.work, "whole");
        let mut file = self.store.create(&whole)?;
        for path in parts {
            let mut content = self.store.open(path)?;
            io::copy(&mut content, &mut file).map_err(|error| read_failed(path, error))?;
        }
        file.finish()?;
        self.store.rename(&whole, &self.path)
    }

    /// Removes the work folder, the word that the parts are done for last.
    fn remove_parts(&self) -> Result<(), Failure> {
        for file in self.store.list(&self.work, 0)? {
            if file.path != self.done() {
                self.store.remove(&file.path)?;
            }
        }
        self.store.remove(&self.done())?;
        self.store.remove_folder(&self.work)?;
        self.store.remove_empty_folder(parent(&self.work).0)
    }
}

impl RejectWriter {
    /// Takes bad rows.
    pub async fn write(&mut self, rejects: &[Reject]) -> Result<(), Failure> {
        if rejects.is_empty() {
            return Ok(());
        }
        self.log.tidy().await?;
        let mut text = Vec::new();
        for reject in rejects {
            let members = [("origin", &reject.origin), ("reason", &reject.reason), ("row", &reject.row), ("split", &self.split)];
            for (place, (key, value)) in members.into_iter().enumerate() {
                text.push(if place == 0 { b'{' } else { b',' });
                json_string(key, &mut text);
                text.push(b':');
                json_string(value, &mut text);
            }
            text.extend_from_slice(b"}\n");
        }
        let (log, path) = (self.log.clone(), self.log.part(&self.split));
        let pending = self.pending.take();
        let pending = stream::blocking(move || {
            let mut pending = match pending {
                Some(pending) => pending,
                None => log.store.create(&path)?,
            };
            pending.write_all(&text).map_err(|error| write_failed(&path, error))?;
            Ok(pending)
        });
        self.pending = Some(pending.await?);
        Ok(())
    }

    /// Keeps the rows aside, whole. Repeating it for a split replaces what an earlier attempt kept; without rows, nothing is kept.
    pub async fn commit(self) -> Result<(), Failure> {
        self.log.tidy().await?;
        let Self { log, split, pending } = self;
        stream::blocking(move || match pending {
            Some(pending) => pending.finish(),
            None => log.store.remove(&log.part(&split)),
        })
        .await
    }
}
