//! One server or cluster: its facts, its masters, and commands sent to the right one of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::{FutureExt, try_join_all};
use redis::Value;
use tokio::sync::OnceCell;

use super::address::{Address, Settings};
use super::command::{Command, Replies};
use super::error::FAILOVER;
use super::facts::Facts;
use super::node::{Lease, Node};
use super::reply::{items, text};
use super::subscription::Subscription;
use super::topology::{Master, Topology};
use crate::connectors::tls;
use crate::define::pipeline::Connection;
use crate::failure::{Failure, FailureKind};

/// Bytes of commands that go out in one pipeline; a larger command goes alone.
pub const PIPELINE_BYTES: usize = 1 << 20;
/// Commands that go out in one pipeline.
pub const PIPELINE_COMMANDS: usize = 1000;
/// Rounds in which commands follow a slot that moves, or wait for a cluster that is busy, before the failure is the caller's.
const ROUNDS: u32 = 12;
/// The wait after the first such round; each is twice as long as the one before, up to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_millis(20);
/// The longest wait between two rounds.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// One server or cluster, named by a connection. Holds no connection until it is used.
pub struct Server {
    name: String,
    settings: Settings,
    max_connections: u32,
    facts: OnceCell<Facts>,
    topology: tokio::sync::Mutex<Option<Arc<Topology>>>,
    /// Something happened that another topology would explain.
    doubted: AtomicBool,
    nodes: Mutex<BTreeMap<Address, Arc<Node>>>,
}

/// Where a command goes next.
enum Route {
    Slot,
    Ask(Address),
}

impl Server {
    /// Reads the connection's URL and the certificates it names. Connects to nothing yet.
    pub fn new(connection: &Connection, base: &Path) -> Result<Arc<Self>, Failure> {
        Ok(Arc::new(Self {
            name: connection.name.clone(),
            settings: Settings::read(connection, base)?,
            max_connections: connection.max_connections,
            facts: OnceCell::new(),
            topology: tokio::sync::Mutex::default(),
            doubted: AtomicBool::new(false),
            nodes: Mutex::default(),
        }))
    }

    /// The connection's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The user that logs in.
    pub fn user(&self) -> &str {
        self.settings.user()
    }

    /// The number of the database; always 0 in a cluster.
    pub fn database(&self) -> u32 {
        self.settings.database()
    }

    /// What is weaker than it could be about the way to the server, because its URL asks for it: to be shown in plans.
    pub fn weakness(&self) -> Option<&'static str> {
        self.settings.weakness()
    }

    /// What the server says of itself; asked once.
    pub async fn facts(&self) -> Result<&Facts, Failure> {
        self.facts.get_or_try_init(|| self.ask_facts()).await
    }

    async fn ask_facts(&self) -> Result<Facts, Failure> {
        let commands = [Command::new("INFO"), Command::new("MODULE LIST")];
        let mut replies = self.on(&self.settings.seed, &commands).await?.into_iter();
        let mut next = || replies.next().unwrap_or_default();
        let info = text(next())?;
        // Each module is a mapping with a name; users without the right to ask, and servers without modules, say nothing.
        let mut modules = Vec::new();
        for module in items(next()).unwrap_or_default() {
            let fields: Vec<String> = items(module)?.into_iter().filter_map(|field| text(field).ok()).collect();
            let name = fields.iter().position(|field| field == "name").and_then(|at| fields.get(at + 1));
            modules.extend(name.cloned());
        }
        let facts = Facts::read(&info, modules);
        let facts = facts.ok_or_else(|| Failure::permanent(format!("`{}` does not say which version of Redis it is", self.name)))?;
        if info.contains("redis_mode:sentinel") {
            let help = "ask it with `SENTINEL GET-MASTER-ADDR-BY-NAME`, and name that server in the connection's URL";
            return Err(Failure::permanent(format!("`{}` is a sentinel, which holds no keys", self.name)).help(help));
        }
        if facts.cluster && self.database() != 0 {
            return Err(Failure::permanent(format!("`{}` is a cluster, which has no database {}", self.name, self.database()))
                .help("remove the number at the end of the connection's URL"));
        }
        Ok(facts)
    }

    /// The nodes that hold keys, as last seen; asked again when a node was lost or refused what it should have taken.
    pub async fn topology(&self) -> Result<Arc<Topology>, Failure> {
        let mut known = self.topology.lock().await;
        match &*known {
            Some(known) if !self.doubted.load(Ordering::Relaxed) => Ok(Arc::clone(known)),
            _ => self.find(&mut known).await,
        }
    }

    /// Asks again for the nodes that hold keys: any node that was known may answer.
    pub async fn refresh(&self) -> Result<Arc<Topology>, Failure> {
        self.find(&mut *self.topology.lock().await).await
    }

    /// Says that the nodes that are known may not be those that hold the keys any more.
    pub fn doubt(&self) {
        self.doubted.store(true, Ordering::Relaxed);
    }

    async fn find(&self, known: &mut Option<Arc<Topology>>) -> Result<Arc<Topology>, Failure> {
        // Boxed, since everything that is sent waits for it: futures would be nested too deeply otherwise.
        let found = Arc::new(Box::pin(self.ask_topology(known.as_deref())).await?);
        // What is lost while it is asked is lost again when it is used.
        self.doubted.store(false, Ordering::Relaxed);
        *known = Some(Arc::clone(&found));
        Ok(found)
    }

    async fn ask_topology(&self, known: Option<&Topology>) -> Result<Topology, Failure> {
        let seed = &self.settings.seed;
        if !self.facts().await?.cluster {
            return Ok(Topology::single(seed.clone()));
        }
        let mut others: BTreeSet<Address> = self.nodes.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
        others.extend(known.iter().flat_map(|known| known.masters.iter().map(|master| &master.address).chain(&known.replicas)).cloned());
        others.remove(seed);
        let mut first = None;
        for node in std::iter::once(seed).chain(&others) {
            let answer = self.on(node, &[Command::new("CLUSTER SLOTS")]).await;
            match answer.and_then(|mut replies| Topology::read(replies.pop().unwrap_or_default(), node)) {
                Ok(topology) => return Ok(topology),
                Err(failure) => first = first.or(Some(failure)),
            }
        }
        Err(first.unwrap_or_else(|| Failure::transient("no node of the cluster answers")))
    }

    /// Sends commands to one node in one pipeline and gives their answers in order. A command that was refused has a `ServerError` in its
    /// place; a failure means that the connection broke, and that any of them may have been carried out. Nothing is sent again.
    pub async fn on(&self, node: &Address, commands: &[Command]) -> Result<Replies, Failure> {
        self.send(node, &commands.iter().collect::<Vec<_>>(), Duration::ZERO).await
    }

    /// As [`Server::on`], for commands that may block for as long as `longest`.
    pub async fn blocking(&self, node: &Address, commands: &[Command], longest: Duration) -> Result<Replies, Failure> {
        self.send(node, &commands.iter().collect::<Vec<_>>(), longest).await
    }

    async fn send(&self, address: &Address, commands: &[&Command], longest: Duration) -> Result<Replies, Failure> {
        let node = self.node(address)?;
        // As `dyn Future`: whether the library's futures can go to another thread would be worked out anew for all that waits for them.
        let sent = node.send(commands, longest).boxed().await;
        sent.map_err(|failure| self.lost(failure).during(format_args!("`{}` at {address}", self.name)))
    }

    /// A node that is lost may have a replica that takes its place soon.
    fn lost(&self, failure: Failure) -> Failure {
        self.doubt();
        let cluster = self.facts.get().is_some_and(|facts| facts.cluster);
        if cluster && failure.kind == FailureKind::Transient { failure.retry_after(Some(FAILOVER)) } else { failure }
    }

    /// Lends a connection to one node, for transactions.
    pub async fn lend(&self, address: &Address) -> Result<Lease, Failure> {
        let lease = self.node(address)?.lend().boxed().await;
        lease.map_err(|failure| self.lost(failure).during(format_args!("`{}` at {address}", self.name)))
    }

    /// Listens to a channel, or to all channels of a pattern. Each node of a cluster has all messages, so any that answers will do.
    pub async fn subscribe(&self, channel: &str, is_pattern: bool) -> Result<Subscription, Failure> {
        let topology = self.topology().await?;
        let mut first = None;
        for Master { address, .. } in &topology.masters {
            match self.node(address)?.subscribe(channel, is_pattern).boxed().await {
                Ok(subscription) => return Ok(subscription),
                Err(failure) => first = first.or(Some(failure.during(format_args!("`{}` at {address}", self.name)))),
            }
        }
        Err(self.lost(first.unwrap_or_else(|| Failure::transient("no node of the cluster answers"))))
    }

    /// The most connections to one node that may be lent at the same time.
    pub fn most_lent(&self) -> usize {
        (self.max_connections as usize).max(2) - 1
    }

    fn node(&self, address: &Address) -> Result<Arc<Node>, Failure> {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(node) = nodes.get(address) {
            return Ok(Arc::clone(node));
        }
        tls::install_provider();
        let node = Node::new(self.settings.client(address)?, self.max_connections);
        nodes.insert(address.clone(), Arc::clone(&node));
        Ok(node)
    }

    /// Sends commands to the nodes of their keys' slots, in pipelines of bounded size, and gives their answers in the order of the commands.
    /// Commands of one node go out in order; those of different nodes at the same time. Slots that move are followed, and a cluster that is
    /// busy moving them is waited for, up to about four seconds. A command that was refused otherwise has a `ServerError` in its place.
    pub async fn call(&self, commands: &[Command]) -> Result<Replies, Failure> {
        let mut replies: Vec<Option<Value>> = vec![None; commands.len()];
        let mut open: Vec<(usize, Route)> = (0..commands.len()).map(|at| (at, Route::Slot)).collect();
        let mut topology = self.topology().await?;
        let mut pause = PAUSE;
        for round in 0..ROUNDS {
            let mut moved = false;
            let mut again = Vec::new();
            let mut answers = self.round(&topology, commands, open).await?;
            answers.sort_by_key(|(at, _)| *at);
            if out_of_order(answers.iter().map(|(at, reply)| (commands[*at].slot(), reply))) {
                return Err(Failure::transient(format!("a slot of `{}` changed hands in the middle of a pipeline", self.name)));
            }
            for (at, reply) in answers {
                match next_route(&reply, round + 1 == ROUNDS) {
                    None => replies[at] = Some(reply),
                    Some(route) => {
                        moved |= matches!(route, Route::Slot);
                        again.push((at, route));
                    }
                }
            }
            if again.is_empty() {
                break;
            }
            open = again;
            if moved {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                topology = self.refresh().await?;
            }
        }
        Ok(replies.into_iter().map(Option::unwrap_or_default).collect())
    }

    /// Sends every open command once.
    async fn round(&self, topology: &Topology, commands: &[Command], open: Vec<(usize, Route)>) -> Result<Vec<(usize, Value)>, Failure> {
        let mut by_node: BTreeMap<(&Address, bool), Vec<usize>> = BTreeMap::new();
        for (at, route) in &open {
            let (address, asking) = match route {
                Route::Ask(address) => (address, true),
                Route::Slot => match commands[*at].slot() {
                    None => (&topology.masters[0].address, false),
                    Some(slot) => match topology.master(slot) {
                        Some(master) => (&master.address, false),
                        None => return Err(uncovered(topology.uncovered())),
                    },
                },
            };
            by_node.entry((address, asking)).or_default().push(*at);
        }
        // A list of futures, because a closure over borrowed addresses would not do in a task.
        let mut sends = Vec::with_capacity(by_node.len());
        for ((address, asking), at) in by_node {
            sends.push(self.to_node(address, asking, commands, at));
        }
        let answers = try_join_all(sends).await?;
        Ok(answers.into_iter().flatten().collect())
    }

    /// Sends the commands of one node, one pipeline after the other.
    async fn to_node(&self, address: &Address, asking: bool, commands: &[Command], at: Vec<usize>) -> Result<Vec<(usize, Value)>, Failure> {
        let ask = Command::new("ASKING");
        let mut answers = Vec::with_capacity(at.len());
        let mut rest = at.as_slice();
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |at: &&usize| {
                bytes += commands[**at].bytes();
                bytes <= PIPELINE_BYTES
            };
            let count = rest.iter().take(PIPELINE_COMMANDS).take_while(fits).count().max(1);
            let (now, later) = rest.split_at(count);
            rest = later;
            let pipeline: Vec<&Command> = now.iter().flat_map(|at| asking.then_some(&ask).into_iter().chain([&commands[*at]])).collect();
            let replies = self.send(address, &pipeline, Duration::ZERO).await?;
            let step = if asking { 2 } else { 1 };
            answers.extend(now.iter().copied().zip(replies.into_iter().skip(step - 1).step_by(step)));
        }
        Ok(answers)
    }
}

/// Where a command goes again after this reply; `None` when the reply stands.
fn next_route(reply: &Value, last: bool) -> Option<Route> {
    let Value::ServerError(error) = reply else { return None };
    match error.code() {
        _ if last => None,
        "MOVED" | "TRYAGAIN" | "CLUSTERDOWN" | "LOADING" | "MASTERDOWN" => Some(Route::Slot),
        // `ASK 3999 127.0.0.1:6381`
        "ASK" => {
            let (host, port) = error.details()?.split_whitespace().nth(1)?.rsplit_once(':')?;
            Some(Route::Ask(Address { host: host.trim_matches(['[', ']']).to_owned(), port: port.parse().ok()? }))
        }
        _ => None,
    }
}

/// Whether a command was carried out though one before it in its slot was sent to another node or told to wait: to do that one now would
/// turn their order round. An `ASK` is about the key alone, and a later command with the same key gets one as well.
fn out_of_order<'a>(answers: impl Iterator<Item = (Option<u16>, &'a Value)>) -> bool {
    let mut put_off = BTreeSet::new();
    for (slot, reply) in answers {
        match reply {
            Value::ServerError(error) if ["MOVED", "CLUSTERDOWN", "LOADING", "MASTERDOWN"].contains(&error.code()) => {
                put_off.insert(slot);
            }
            _ if !put_off.is_empty() && put_off.contains(&slot) => return true,
            _ => {}
        }
    }
    false
}

/// The failure of so many slots that nobody holds.
pub(super) fn uncovered(slots: usize) -> Failure {
    Failure::transient(format!("{slots} slots of the cluster have no master"))
        .help("`redis-cli --cluster check` shows which; a replica may be about to take over")
        .retry_after(Some(FAILOVER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_a_slot_is_never_turned_round() {
        let moved = |code: &str| {
            let text = format!("-{code} 3999 127.0.0.1:6381\r\n");
            redis::parse_redis_value(text.as_bytes()).expect("an error")
        };
        let check = |answers: &[(u16, Value)], expected: bool| {
            assert_eq!(out_of_order(answers.iter().map(|(slot, reply)| (Some(*slot), reply))), expected, "{answers:?}");
        };
        check(&[(1, Value::Okay), (1, moved("MOVED")), (1, moved("MOVED"))], false);
        check(&[(1, moved("CLUSTERDOWN")), (2, Value::Okay), (1, moved("MOVED"))], false);
        check(&[(1, moved("CLUSTERDOWN")), (1, Value::Okay)], true);
        check(&[(1, moved("MOVED")), (2, Value::Okay), (1, Value::Int(1))], true);
        check(&[(1, moved("ASK")), (1, Value::Okay)], false);
    }
}
