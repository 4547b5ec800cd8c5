//! One view of the keys of a source: a split for each master, read by a scan.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::{OptionFuture, try_join};
use futures::stream;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use xxhash_rust::xxh3::xxh3_64;

use super::decode::Rows;
use super::fetch::Fetch;
use super::layout::Layout;
use crate::connectors::redis::reply::{bytes, good, items};
use crate::connectors::redis::{Address, Command, Server, Version, slot};
use crate::connectors::{Reading, Split, SplitGoal, Splits};
use crate::data::{BatchLimit, BatchStream, Chunk, Position, Schema};
use crate::define::pipeline::{OtherTypes, RESERVED, RedisRows, RowShape};
use crate::failure::Failure;

/// Keys that the server looks at in one step of a scan.
const SCANNED: usize = 1000;
/// Chunks that may wait for a slow consumer.
const QUEUE: usize = 2;
/// The first version that scans for one type.
const SCAN_TYPE: Version = Version(6, 0, 0);

/// One view of the keys of a source.
pub(super) struct RowReading {
    inner: Arc<Inner>,
}

struct Inner {
    server: Arc<Server>,
    spec: Arc<RedisRows>,
    layout: Layout,
    limit: BatchLimit,
    keeps_null: bool,
}

/// What a split covers: the keys of these nodes.
#[derive(Serialize, Deserialize)]
struct Nodes {
    nodes: Vec<(String, u16)>,
}

impl RowReading {
    /// A view through a request's columns.
    pub(super) fn new(server: Arc<Server>, spec: Arc<RedisRows>, layout: Layout, limit: BatchLimit) -> Self {
        Self { inner: Arc::new(Inner { server, spec, layout, limit, keeps_null: false }) }
    }

    /// A view of what haul wrote itself, where JSON's `null` is a value.
    pub(super) fn of_own(server: Arc<Server>, spec: Arc<RedisRows>, layout: Layout, limit: BatchLimit) -> Self {
        Self { inner: Arc::new(Inner { server, spec, layout, limit, keeps_null: true }) }
    }
}

#[async_trait]
impl Reading for RowReading {
    fn schema(&self) -> &Schema {
        &self.inner.layout.schema
    }

    async fn splits(&self, goal: SplitGoal) -> Result<Splits, Failure> {
        let topology = self.inner.server.topology().await?;
        let nodes: Vec<Address> = match self.inner.spec.key.constant() {
            Some(key) => topology.master(slot(key.as_bytes())).map(|master| master.address.clone()).into_iter().collect(),
            None => topology.masters.iter().map(|master| master.address.clone()).collect(),
        };
        let most = goal.most.max(1);
        let share = nodes.len().div_ceil(most).max(1);
        let splits = nodes.chunks(share).enumerate().map(|(place, nodes)| {
            let label: Vec<String> = nodes.iter().map(Address::to_string).collect();
            let range = Nodes { nodes: nodes.iter().map(|node| (node.host.clone(), node.port)).collect() };
            Ok(Split {
                id: if most == 1 { "all".to_owned() } else { format!("{place:04}") },
                range: serde_json::to_value(range).map_err(|error| Failure::permanent("a split cannot be recorded").cause(error))?,
                label: format!("{} on {}", self.inner.spec.key, label.join(", ")),
                rows: None,
            })
        });
        Ok(Splits { splits: splits.collect::<Result<_, Failure>>()?, fingerprint: self.fingerprint().await? })
    }

    /// Keys that move to another master would be read twice, or not at all.
    async fn fingerprint(&self) -> Result<Option<String>, Failure> {
        let topology = self.inner.server.refresh().await?;
        if topology.masters.len() == 1 {
            return Ok(None);
        }
        let slots: Vec<String> = topology.masters.iter().map(|master| format!("{} {:?}", master.address, master.slots)).collect();
        Ok(Some(format!("{:016x}", xxh3_64(slots.join("\n").as_bytes()))))
    }

    async fn read(&self, split: &Split, _: Option<&Position>) -> Result<BatchStream, Failure> {
        let nodes: Nodes = serde_json::from_value(split.range.clone())
            .map_err(|error| Failure::permanent(format!("the recorded split `{}` is not one of Redis", split.id)).cause(error))?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        let inner = Arc::clone(&self.inner);
        let task = AbortOnDropHandle::new(tokio::spawn(async move { inner.read(nodes, sender).await }));
        Ok(Box::pin(stream::unfold((receiver, Some(task)), |(mut receiver, task)| async move {
            if let Some(chunk) = receiver.recv().await {
                return Some((Ok(chunk), (receiver, task)));
            }
            // The reader is done; its answer is the end of the stream.
            let answer = task?.await.unwrap_or_else(|error| Err(Failure::permanent("a bug: reading keys panicked").cause(error)));
            answer.err().map(|failure| (Err(failure), (receiver, None)))
        })))
    }
}

impl Inner {
    async fn read(&self, nodes: Nodes, sender: mpsc::Sender<Chunk>) -> Result<(), Failure> {
        let rows = Rows::new(self.layout.clone(), self.limit, self.keeps_null);
        let mut fetch = Fetch::new(&self.server, &self.spec, rows, sender).await?;
        for (host, port) in nodes.nodes {
            match self.spec.key.constant() {
                Some(key) => fetch.keys(&[key.as_bytes().to_vec()]).await?,
                None => self.scan(&Address { host, port }, &mut fetch).await?,
            }
        }
        fetch.end().await
    }

    /// Reads the keys of one node. While one page of keys is read, the next one is asked for.
    async fn scan(&self, node: &Address, fetch: &mut Fetch<'_>) -> Result<(), Failure> {
        // A scan may give a key twice when the server's table shrinks meanwhile.
        let mut seen = HashSet::new();
        let mut page = page(&self.server, &self.spec, node, b"0").await?;
        loop {
            let keys: Vec<Vec<u8>> = page.keys.into_iter().filter(|key| seen.insert(xxh3_64(key))).collect();
            let next: OptionFuture<_> = (page.cursor != b"0").then(|| self::page(&self.server, &self.spec, node, &page.cursor)).into();
            let next = async { next.await.transpose() };
            let (following, ()) = try_join(next, fetch.keys(&keys)).await?;
            match following {
                Some(following) => page = following,
                None => return Ok(()),
            }
        }
    }
}

/// One page of a scan.
pub(super) struct Page {
    /// Where the next one begins; `0` after the last.
    pub cursor: Vec<u8>,
    /// Keys of the source.
    pub keys: Vec<Vec<u8>>,
}

/// Asks a node for the next keys of a source. haul's own records are none of them.
pub(super) async fn page(server: &Server, spec: &RedisRows, node: &Address, cursor: &[u8]) -> Result<Page, Failure> {
    let command = Command::new("SCAN").arg(cursor).arg("MATCH").arg(spec.key.pattern()).arg("COUNT").arg(SCANNED);
    let by_type = spec.other_types == OtherTypes::Skip && server.facts().await?.version >= SCAN_TYPE;
    let command = if by_type { command.arg("TYPE").arg(type_name(spec.shape)) } else { command };
    let reply = good(server.on(node, &[command]).await?.pop().unwrap_or_default())?;
    let mut parts = items(reply)?.into_iter();
    let cursor = bytes(parts.next().unwrap_or_default())?.unwrap_or_default();
    let mut keys = Vec::new();
    for key in items(parts.next().unwrap_or_default())? {
        let key = bytes(key)?.unwrap_or_default();
        // The pattern may match keys that the template does not.
        if !key.starts_with(RESERVED.as_bytes()) && spec.key.read(&key).is_some() {
            keys.push(key);
        }
    }
    Ok(Page { cursor, keys })
}

/// The server's name for the type of a shape's keys.
pub(super) fn type_name(shape: RowShape) -> &'static str {
    match shape {
        RowShape::Hash => "hash",
        RowShape::Json | RowShape::String => "string",
        RowShape::List => "list",
        RowShape::Set => "set",
        RowShape::SortedSet => "zset",
        RowShape::Stream => "stream",
    }
}
