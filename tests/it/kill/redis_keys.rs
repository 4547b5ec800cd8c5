//! Keys copied between servers: every attempt goes on from the saved cursor of each node, and no key, value or expiry is ever another one.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use redis::Connection;

use super::rows::COUNT;
use super::{PIPELINE, Target, torture};
use crate::support::Project;
use crate::support::redis::{Cluster, cluster, connect, redis};

/// A key's payload, which is the same on both sides for values of these sizes, and the instant of its expiry.
type Keys = BTreeMap<String, (Vec<u8>, i64)>;

struct Server {
    target: RefCell<Connection>,
    expected: Keys,
    /// How many keys the last look at the target found.
    found: Cell<usize>,
}

#[test]
fn keys_as_payloads() {
    survive("conflict: error");
}

#[test]
fn keys_by_commands() {
    survive("conflict: replace, copy: commands");
}

fn survive(how: &str) {
    let source = cluster();
    let url = redis().fresh_database();
    let target = Server { target: RefCell::new(connect(&url)), expected: fill(&source), found: Cell::new(0) };
    let project = Project::new();
    project.file(
        &format!("pipelines/{PIPELINE}.yaml"),
        format!(
            "connections:
  from: {{ url: \"{}\" }}
  to: {{ url: \"{url}\" }}
stages:
  copy:
    kind: batch
    from: {{ redis: from, keys: [\"*\"] }}
    to: {{ redis: to, {how} }}
    splits: {{ concurrency: 1 }}
    batch: {{ rows: 25 }}
",
            source.nodes[0].url()
        ),
    );
    torture(&project, &target);
}

/// Strings, lists, small hashes and sorted sets over all slots, half of them with an expiry.
fn fill(cluster: &Cluster) -> Keys {
    let mut connections: Vec<Connection> = cluster.nodes.iter().map(|node| node.connect()).collect();
    let mut pipelines: Vec<redis::Pipeline> = cluster.nodes.iter().map(|_| redis::pipe()).collect();
    for number in 0..COUNT {
        let key = format!("key:{number}");
        let pipeline = &mut pipelines[node_of(&key)];
        match number % 4 {
            0 => pipeline.cmd("SET").arg(&key).arg("x".repeat(number as usize % 90)),
            1 => pipeline.cmd("RPUSH").arg(&key).arg(&[number, 1, 2]),
            2 => pipeline.cmd("HSET").arg(&key).arg(&["a", "1", "b", &key]),
            _ => pipeline.cmd("ZADD").arg(&key).arg(&["1.5", "a", "2", &key]),
        }
        .ignore();
        if number % 2 == 0 {
            pipeline.cmd("PEXPIREAT").arg(&key).arg(4_102_444_800_000 + number).ignore();
        }
    }
    let mut all = Keys::new();
    for (connection, pipeline) in connections.iter_mut().zip(pipelines) {
        pipeline.query::<()>(connection).expect("the source takes its keys");
        all.append(&mut keys(connection));
    }
    assert_eq!(all.len(), COUNT as usize);
    all
}

/// The master of a test's cluster that holds a key.
pub fn node_of(key: &str) -> usize {
    match crc16(key.as_bytes()) % 16384 {
        0..=5460 => 0,
        5461..=10922 => 1,
        _ => 2,
    }
}

fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc: u16, _| if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 })
    })
}

/// What a server holds, but for haul's own records.
fn keys(connection: &mut Connection) -> Keys {
    let names: Vec<String> = redis::cmd("KEYS").arg("*").query(connection).expect("names");
    let names: Vec<String> = names.into_iter().filter(|name| !name.starts_with("haul:{")).collect();
    let mut pipeline = redis::pipe();
    for name in &names {
        pipeline.cmd("DUMP").arg(name).cmd("PEXPIRETIME").arg(name);
    }
    let held: Vec<redis::Value> = if names.is_empty() { Vec::new() } else { pipeline.query(connection).expect("payloads") };
    let held = held.chunks_exact(2).map(|pair| {
        let payload = redis::from_redis_value_ref(&pair[0]).expect("a payload");
        (payload, redis::from_redis_value_ref(&pair[1]).expect("a time"))
    });
    names.into_iter().zip(held).collect()
}

impl Target for Server {
    fn reset(&self) {
        redis::cmd("FLUSHDB").exec(&mut *self.target.borrow_mut()).expect("the target is emptied");
    }

    fn after_kill(&self, recorded: u64) -> Result<(), String> {
        let found = keys(&mut self.target.borrow_mut());
        self.found.set(found.len());
        let wrong = found.iter().find(|(key, held)| self.expected.get(*key) != Some(*held));
        match wrong {
            Some((key, held)) => Err(format!("{key} holds {held:?}")),
            None if (found.len() as u64) < recorded => Err(format!("{recorded} keys are recorded, and {} are there", found.len())),
            None => Ok(()),
        }
    }

    fn at_end(&self) -> Result<(), String> {
        self.after_kill(COUNT as u64)?;
        let own: Vec<String> = redis::cmd("KEYS").arg("haul:{*").query(&mut *self.target.borrow_mut()).expect("names");
        let left: Vec<&String> = own.iter().filter(|name| name.contains("temporary")).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("left behind: {left:?}")) }
    }

    /// A master is one split, and commits as it goes: some of the keys are there, and not all.
    fn halfway(&self, _: usize) -> bool {
        (1..self.expected.len()).contains(&self.found.get())
    }
}
