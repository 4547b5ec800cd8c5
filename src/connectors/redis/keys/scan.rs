//! Which keys there are: the pages of SCAN over the nodes of a split, filtered as the pipeline asks, with each key's size.
//!
//! Slots that did not stay where they were while their nodes were scanned are scanned again, until nothing moved. So a key that is there all
//! the time is met at least once, whatever a cluster does meanwhile; writing it twice changes nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use redis::Value as Reply;
use serde::{Deserialize, Serialize};

use super::glob;
use super::pieces::{integer_text, words};
use crate::connectors::Split;
use crate::connectors::redis::holders::{Held, Holders, within};
use crate::connectors::redis::reply::{good, integer, items, text};
use crate::connectors::redis::scans::{Range, Recent};
use crate::connectors::redis::{Command, Server, Version, slot};
use crate::data::Position;
use crate::define::pipeline::{KeyType, KeysSource, RESERVED};
use crate::failure::Failure;

/// Keys that SCAN is asked for at a time.
const COUNT: usize = 500;
/// How often slots are scanned again because they moved meanwhile. A cluster that is given another shape moves them one by one, for long.
const ROUNDS: u32 = 10_000;
/// The pause before that.
const PAUSE: Duration = Duration::from_millis(200);

/// Where a scan is, in the form that is kept with a load. A cursor means something as long as the same process holds the same slots.
#[derive(Debug, Serialize, Deserialize)]
struct Place {
    v: u32,
    state: String,
    cursor: u64,
}

const PLACE_VERSION: u32 = 2;

/// A key that is to be read.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// Its name.
    pub key: Vec<u8>,
    /// Its type, when it was asked for; `None` also for types of modules.
    pub ty: Option<KeyType>,
    /// Bytes it takes in memory; 0 when the server does not tell.
    pub bytes: u64,
}

/// A page of keys.
pub(super) struct Page {
    /// Those that the pipeline wants.
    pub keys: Vec<Found>,
    /// Where a scan goes on after this page.
    pub position: Option<Position>,
}

/// A scan over the nodes of a split.
pub(super) struct Scan {
    server: Arc<Server>,
    spec: Arc<KeysSource>,
    slots: Vec<(u16, u16)>,
    /// Who held them when this round began.
    holders: Holders,
    round: u32,
    /// Nodes that are left, and the cursor that the first of them goes on from.
    nodes: VecDeque<Held>,
    cursor: u64,
    /// What tells whether a cursor still means something; empty when a position would mean nothing.
    state: String,
    recent: Recent,
    /// Whether the types of keys are needed by those who read them.
    typed: bool,
    types_pushed: bool,
}

impl Scan {
    /// Begins, or goes on from a position as long as one node holds the split, as the same process all the time.
    pub(super) async fn begin(
        server: Arc<Server>,
        spec: Arc<KeysSource>,
        split: &Split,
        from: Option<&Position>,
        typed: bool,
    ) -> Result<Self, Failure> {
        let slots = Range::of(split)?.slots;
        let holders = server.holders(&slots).await?;
        let nodes: VecDeque<Held> = holders.of(&slots).into();
        let state = if nodes.len() == 1 { holders.state(&slots) } else { String::new() };
        let place = from.and_then(|position| serde_json::from_str::<Place>(&position.0).ok());
        let cursor = place.filter(|place| place.v == PLACE_VERSION && place.state == state).map_or(0, |place| place.cursor);
        let recent = Recent::of(&server).await?;
        let old = server.facts().await?.version < Version(6, 0, 0);
        let types_pushed = spec.types.len() == 1 && !old;
        let typed = typed || (!spec.types.is_empty() && !types_pushed);
        Ok(Self { server, spec, slots, holders, round: 0, nodes, cursor, state, recent, typed, types_pushed })
    }

    /// The next page; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Page>, Failure> {
        if self.nodes.is_empty() {
            self.again().await?;
        }
        let Some(held) = self.nodes.front().cloned() else { return Ok(None) };
        let mut command = Command::new("SCAN").arg(self.cursor).arg("COUNT").arg(COUNT);
        if let Some(pattern) = self.pushed_pattern() {
            command = command.arg("MATCH").arg(pattern);
        }
        if self.types_pushed {
            command = command.arg("TYPE").arg(self.spec.types[0].word());
        }
        let reply = self.server.on(&held.node, &[command]).await?.pop().unwrap_or_default();
        let mut page = items(reply)?.into_iter();
        self.cursor = integer_text(page.next().unwrap_or_default())?;
        let mut keys = words(items(page.next().unwrap_or_default())?)?;
        keys.retain(|key| wanted(&self.spec.patterns, key) && within(&held.slots, slot(key)) && self.recent.is_new(key));
        let keys = self.look(keys).await?;
        if self.cursor == 0 {
            self.nodes.pop_front();
        }
        let position = if self.state.is_empty() || self.cursor == 0 { None } else { Some(self.place()) };
        Ok(Some(Page { keys, position }))
    }

    /// Begins another round over the slots that did not stay where they were.
    async fn again(&mut self) -> Result<(), Failure> {
        let now = self.server.holders(&self.slots).await?;
        let moved = now.moved_since(&self.holders, &self.slots);
        if moved.is_empty() {
            return Ok(());
        }
        self.round += 1;
        if self.round == ROUNDS {
            return Err(Failure::transient(format!("slots of `{}` kept moving while their keys were read", self.server.name())));
        }
        tokio::time::sleep(PAUSE).await;
        self.nodes = now.of(&moved).into();
        (self.holders, self.slots, self.state) = (now, moved, String::new());
        self.recent = Recent::of(&self.server).await?;
        Ok(())
    }

    fn place(&self) -> Position {
        let (state, cursor) = (&self.state, self.cursor);
        Position(serde_json::json!({ "v": PLACE_VERSION, "state": state, "cursor": cursor }).to_string())
    }

    /// The pattern that the server matches itself: the only one that names keys to take.
    fn pushed_pattern(&self) -> Option<&str> {
        let mut takes = self.spec.patterns.iter().filter(|pattern| !pattern.starts_with('!'));
        takes.next().filter(|pattern| takes.next().is_none() && *pattern != "*").map(String::as_str)
    }

    /// Asks for the size of each key, and its type where it is needed; leaves out what is gone or filtered.
    async fn look(&self, keys: Vec<Vec<u8>>) -> Result<Vec<Found>, Failure> {
        let step = if self.typed { 2 } else { 1 };
        let mut commands = Vec::with_capacity(keys.len() * step);
        for key in &keys {
            commands.push(Command::new("MEMORY USAGE").key(key));
            if self.typed {
                commands.push(Command::new("TYPE").key(key));
            }
        }
        let replies = self.server.call(&commands).await?;
        let mut found = Vec::with_capacity(keys.len());
        for (key, replies) in keys.into_iter().zip(replies.chunks(step)) {
            let bytes = match &replies[0] {
                Reply::Nil => continue,
                Reply::Int(bytes) => u64::try_from(*bytes).unwrap_or(0),
                _ => 0,
            };
            let spec = &self.spec;
            if spec.least_bytes.is_some_and(|least| bytes < least) || spec.most_bytes.is_some_and(|most| bytes > most) {
                continue;
            }
            let mut ty = None;
            if let Some(reply) = replies.get(1) {
                let word = text(reply.clone())?;
                if word == "none" {
                    continue;
                }
                ty = KeyType::ALL.into_iter().find(|ty| ty.word() == word);
                if !spec.types.is_empty() && !ty.is_some_and(|ty| spec.types.contains(&ty)) {
                    continue;
                }
            }
            found.push(Found { key, ty, bytes });
        }
        Ok(found)
    }
}

/// Whether patterns want a key: one of those that take must match, none of those that begin with `!`. haul's own records are never wanted.
pub(super) fn wanted(patterns: &[String], key: &[u8]) -> bool {
    let takes = |pattern: &&String| !pattern.starts_with('!');
    !key.starts_with(RESERVED.as_bytes())
        && patterns.iter().filter(takes).any(|pattern| glob::matches(pattern.as_bytes(), key))
        && !patterns.iter().filter_map(|pattern| pattern.strip_prefix('!')).any(|pattern| glob::matches(pattern.as_bytes(), key))
}

/// Keys in the databases of all masters.
pub(super) async fn count(server: &Server) -> Result<u64, Failure> {
    let mut keys = 0;
    for master in &server.topology().await?.masters {
        let reply = server.on(&master.address, &[Command::new("DBSIZE")]).await?.pop().unwrap_or_default();
        keys += integer(good(reply)?)?.unsigned_abs();
    }
    Ok(keys)
}
