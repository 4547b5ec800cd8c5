//! The file that gets a stage's bad rows: one JSON object a line, with `origin`, `reason`, `row` and `split`.

use std::io::{self, Read, Write};
use std::sync::Arc;

use tokio::sync::Mutex;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::codec::{read_failed, write_failed};
use super::part;
use super::paths::{self, WORK_FOLDER};
use super::store::{Pending, Store, join, parent};
use crate::data::Reject;
use crate::data::text::json::json_string;
use crate::failure::Failure;
use crate::tasks;

/// The file that gets a stage's bad rows. Each split's are kept aside until `publish` puts them together.
#[derive(Clone)]
pub struct RejectLog {
    store: Arc<dyn Store>,
    path: String,
    work: String,
    /// Whether the leftovers of an earlier publication were looked for. Held while they are removed, before any part is written.
    tidied: Arc<Mutex<bool>>,
}

/// Bad rows of one split. Dropping it without [`RejectWriter::commit`] leaves nothing.
pub struct RejectWriter {
    log: RejectLog,
    path: String,
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

    /// A writer for bad rows of one split, which are kept aside under the name of the part.
    pub fn writer(&self, part: &str, split: &str) -> RejectWriter {
        let path = join(&self.work, &format!("{}.rejects", part::name(part)));
        RejectWriter { log: self.clone(), path, split: split.to_owned(), pending: None }
    }

    /// Holds the hash of the file that the parts are about to become. Once it is there, they are only left to be removed.
    fn intended(&self) -> String {
        join(&self.work, "published")
    }

    /// Removes what a process that was killed right after its publication left.
    async fn tidy(&self) -> Result<(), Failure> {
        let mut tidied = self.tidied.lock().await;
        if !*tidied {
            let log = self.clone();
            tasks::blocking(move || if log.is_published()? { log.remove_parts() } else { Ok(()) }).await?;
            *tidied = true;
        }
        Ok(())
    }

    fn is_published(&self) -> Result<bool, Failure> {
        if self.store.stat(&self.intended())?.is_none() || self.store.stat(&self.path)?.is_none() {
            return Ok(false);
        }
        let mut intended = String::new();
        self.store.open(&self.intended())?.read_to_string(&mut intended).map_err(|error| read_failed(&self.intended(), error))?;
        let mut hashed = Hashed::new(io::sink());
        io::copy(&mut self.store.open(&self.path)?, &mut hashed).map_err(|error| read_failed(&self.path, error))?;
        Ok(hashed.digest() == intended)
    }

    /// Removes what an abandoned load kept aside: its rows are not those of the load that begins.
    pub async fn discard(&self) -> Result<(), Failure> {
        let log = self.clone();
        tasks::blocking(move || log.remove_parts()).await
    }

    /// Puts the committed parts together, in split order, into the file: behind what it holds when it `grows`, as a stream's does, else in its
    /// place. Nothing is made when there are no parts. May be repeated, and goes on where a killed one stopped.
    pub async fn publish(&self, grows: bool) -> Result<(), Failure> {
        self.tidy().await?;
        let log = self.clone();
        tasks::blocking(move || {
            let mut parts: Vec<String> = log.store.list(&log.work, 0)?.into_iter().map(|file| file.path).collect();
            parts.retain(|path| path.ends_with(".rejects") && !parent(path).1.starts_with('.'));
            parts.sort();
            if !parts.is_empty() {
                if grows && log.store.stat(&log.path)?.is_some() {
                    parts.insert(0, log.path.clone());
                }
                log.join(&parts)?;
            }
            log.remove_parts()
        })
        .await
    }

    fn join(&self, parts: &[String]) -> Result<(), Failure> {
        let whole = join(&self.work, "whole");
        let mut file = Hashed::new(self.store.create(&whole)?);
        for path in parts {
            let mut content = self.store.open(path)?;
            io::copy(&mut content, &mut file).map_err(|error| read_failed(path, error))?;
        }
        let digest = file.digest();
        file.inner.finish()?;
        let mut intended = self.store.create(&self.intended())?;
        intended.write_all(digest.as_bytes()).map_err(|error| write_failed(&self.path, error))?;
        intended.finish()?;
        self.store.rename(&whole, &self.path)
    }

    /// Removes the work folder, the word that the parts are in the file last.
    fn remove_parts(&self) -> Result<(), Failure> {
        for file in self.store.list(&self.work, 0)? {
            if file.path != self.intended() {
                self.store.remove(&file.path)?;
            }
        }
        self.store.remove(&self.intended())?;
        self.store.remove_folder(&self.work)?;
        self.store.remove_empty_folder(parent(&self.work).0)
    }
}

/// Hashes what is written.
struct Hashed<W> {
    inner: W,
    hash: Xxh3,
}

impl<W> Hashed<W> {
    fn new(inner: W) -> Self {
        Self { inner, hash: Xxh3::new() }
    }

    fn digest(&self) -> String {
        format!("{:032x}", self.hash.digest128())
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
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
        let (log, path) = (self.log.clone(), self.path.clone());
        let pending = self.pending.take();
        let pending = tasks::blocking(move || {
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

    /// Keeps the rows aside, whole. Repeating it for a part replaces what an earlier attempt kept; without rows, nothing is kept.
    pub async fn commit(self) -> Result<(), Failure> {
        self.log.tidy().await?;
        let Self { log, path, pending, .. } = self;
        tasks::blocking(move || match pending {
            Some(pending) => pending.finish(),
            None => log.store.remove(&path),
        })
        .await
    }
}
