//! Keys that are copied to a server.
//!
//! Every key is written so that writing it again changes nothing; then the mark of how far the split is. What a crash leaves besides are
//! temporary keys of large values: the next worker that claims the load removes them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use redis::Value as Reply;
use xxhash_rust::xxh3::xxh3_64;

use super::pieces::{integer_text, words};
use super::shown;
use super::target::Route;
use super::writer::KeysWriter;
use crate::connectors::redis::marks::tag_of;
use crate::connectors::redis::reply::{good, items};
use crate::connectors::redis::{Command, Marks, Server, Told, slot};
use crate::connectors::{Claim, Compared, Load, LoadKey, Mark, Rows, Sink, Target, TargetProblem, Writer};
use crate::data::{BatchLimit, BatchStream, Schema};
use crate::define::pipeline::{KeysSink, RESERVED};
use crate::failure::Failure;

/// Renamed keys that are remembered to tell when two get the same name, at about 40 bytes each.
const REMEMBERED: usize = 1 << 20;

/// A server that keys are copied to.
#[derive(Clone)]
pub(super) struct KeysTarget {
    pub(super) server: Arc<Server>,
    pub(super) spec: Arc<KeysSink>,
    /// New names and the old ones behind them, by their hashes.
    names: Arc<Mutex<HashMap<u64, u64>>>,
    told: Told,
}

impl Server {
    /// A place for keys as they are.
    pub fn keys_sink(self: &Arc<Self>, spec: &KeysSink) -> Arc<dyn Sink> {
        Arc::new(KeysTarget { server: Arc::clone(self), spec: Arc::new(spec.clone()), names: Arc::default(), told: Told::default() })
    }
}

impl KeysTarget {
    pub(super) fn marks(&self, key: &LoadKey) -> Marks {
        Marks::new(Arc::clone(&self.server), key, None, Arc::clone(&self.told))
    }

    /// The name that a key gets. Two keys that get the same one are an error.
    pub(super) fn name(&self, key: &[u8]) -> Result<Vec<u8>, Failure> {
        let Some(rename) = &self.spec.rename else { return Ok(key.to_vec()) };
        let name = rename.apply(key).map_err(|problem| {
            let failure = Failure::permanent(format!("the key {} cannot be renamed: {}", shown(key), problem.message));
            problem.help.into_iter().fold(failure, Failure::help)
        })?;
        if name.starts_with(RESERVED.as_bytes()) {
            return Err(Failure::permanent(format!(
                "the key {} would be renamed to {}, a name that haul keeps for itself",
                shown(key),
                shown(&name)
            )));
        }
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let (new, old) = (xxh3_64(&name), xxh3_64(key));
        match names.get(&new) {
            Some(known) if *known != old => {
                let message = format!("the key {} would be renamed to {}, and so would another key", shown(key), shown(&name));
                Err(Failure::permanent(message).help("write a template in `key:` that gives each key a name of its own"))
            }
            Some(_) => Ok(name),
            None => {
                if names.len() < REMEMBERED {
                    names.insert(new, old);
                }
                Ok(name)
            }
        }
    }

    /// The temporary key of a key: in the same slot, so that it can be renamed to it, and the same for every attempt of a load.
    pub(super) fn temporary(load: &LoadKey, key: &[u8]) -> Vec<u8> {
        let mut name = temporary_prefix(Some(slot(key)), load).into_bytes();
        name.extend(format!("{:016x}", xxh3_64(key)).into_bytes());
        name
    }

    /// Removes temporary keys that an earlier worker left.
    async fn sweep(&self, load: &LoadKey) -> Result<(), Failure> {
        let pattern = format!("{}*", temporary_prefix(None, load));
        for master in &self.server.refresh().await?.masters {
            let mut cursor = 0;
            loop {
                let command = Command::new("SCAN").arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(5000);
                let reply = good(self.server.on(&master.address, &[command]).await?.pop().unwrap_or_default())?;
                let mut page = items(reply)?.into_iter();
                cursor = integer_text(page.next().unwrap_or_default())?;
                let found = words(items(page.next().unwrap_or_default())?)?;
                let removes: Vec<Command> = found.iter().map(|key| Command::new("DEL").key(key)).collect();
                for reply in self.server.call(&removes).await? {
                    good(reply)?;
                }
                if cursor == 0 {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// What temporary keys of a load begin with; without a slot, as a pattern.
fn temporary_prefix(slot: Option<u16>, load: &LoadKey) -> String {
    let owner = xxh3_64(format!("{}/{}/{}", load.pipeline, load.stage, load.output).as_bytes());
    let tag = slot.map_or_else(|| "*".to_owned(), |slot| tag_of(slot).to_string());
    format!("{RESERVED}{tag}}}:temporary:{owner:016x}:")
}

#[async_trait]
impl Sink for KeysTarget {
    async fn plan(&self, incoming: &Schema) -> Result<Result<Target, Vec<TargetProblem>>, Failure> {
        self.target(incoming).await
    }

    async fn portable(&self, incoming: &Schema) -> Result<bool, Failure> {
        Ok(matches!(self.route(incoming).await?, Route::Commands(_)))
    }

    async fn room(&self) -> Result<Option<u64>, Failure> {
        self.server.room().await
    }

    async fn claim(&self, key: &LoadKey) -> Result<Claim, Failure> {
        let mut claim = self.marks(key).claim(key).await?;
        if claim.left_behind > 0 || claim.found.as_ref().is_some_and(|found| !found.published) {
            self.sweep(key).await?;
        }
        // Keys of an unfinished copy are no rows that would be there twice: `conflict` decides about each of them.
        claim.left_behind = 0;
        Ok(claim)
    }

    async fn prepare(&self, load: &Load, note: &str) -> Result<(), Failure> {
        self.marks(&load.key).begin(&load.key, load.epoch, note).await
    }

    async fn writer(&self, load: &Load, _: &str, from: Option<&Mark>) -> Result<Box<dyn Writer>, Failure> {
        Ok(Box::new(KeysWriter::new(self.clone(), load.clone(), from).await?))
    }

    async fn publish(&self, load: &Load) -> Result<(), Failure> {
        self.marks(&load.key).publish(load.epoch).await
    }

    async fn read_back(&self, _: &Load, _: BatchLimit) -> Result<BatchStream, Failure> {
        Err(Failure::permanent("copied keys are compared on the server, not read back"))
    }

    async fn compare(&self, load: &Load, rows: &dyn Rows) -> Result<Option<Compared>, Failure> {
        super::compare::compare(self, load, rows).await.map(Some)
    }

    fn staged(&self) -> bool {
        false
    }

    async fn abandon(&self, key: &LoadKey) -> Result<(), Failure> {
        self.sweep(key).await?;
        self.marks(key).forget().await
    }
}

/// Whether the server says that a key is there already.
pub(super) fn is_busy(reply: &Reply) -> bool {
    matches!(reply, Reply::ServerError(error) if error.code() == "BUSYKEY")
}
