//! Rows into Redis: hashes and JSON objects that are replaced, on one server and over a cluster, members that are added to what is there, and a
//! list and a stream that are appended to.

use redis::{Commands, Connection};

use super::redis_keys::node_of;
use super::rows::{Mode, Rows, gather};
use super::sql::sqlite_source;
use super::{KILLS, PIPELINE, Target, torture_for};
use crate::support::redis::{cluster, connect, redis};
use crate::support::{Project, kills};

/// Kills that a sink has to survive whose way of writing another one has as well.
const FEWER: usize = 60;
/// The same for a shape that goes the way of another one but for its commands.
const FEWEST: usize = 25;
/// A list and a stream have no place for two columns, or for an order that is looked at.
const ONE_TEXT: &str = "    transform:\n      - set: { value: \"id || '|' || payload\" }\n      - select: [value]\n";

#[test]
fn redis_hashes() {
    let url = redis().fresh_database();
    survive(&url, Keys { nodes: vec![url.clone()], mode: Mode::Upsert, shape: "hash" }, "", "hash: \"item:{{ id }}\"", KILLS);
}

#[test]
fn redis_hashes_over_a_cluster() {
    let cluster = cluster();
    let nodes: Vec<String> = cluster.nodes.iter().map(|node| node.url()).collect();
    survive(&nodes[0].clone(), Keys { nodes, mode: Mode::Upsert, shape: "hash" }, "", "hash: \"item:{{ id }}\"", FEWER);
}

#[test]
fn redis_list() {
    let url = redis().fresh_database();
    survive(&url, Keys { nodes: vec![url.clone()], mode: Mode::Append, shape: "list" }, ONE_TEXT, "list: items", KILLS);
}

#[test]
fn redis_stream() {
    let url = redis().fresh_database();
    survive(&url, Keys { nodes: vec![url.clone()], mode: Mode::Append, shape: "stream" }, ONE_TEXT, "stream: items", FEWER);
}

#[test]
fn redis_json() {
    let url = redis().fresh_database();
    survive(&url, Keys { nodes: vec![url.clone()], mode: Mode::Upsert, shape: "json" }, "", "json: \"item:{{ id }}\"", FEWEST);
}

#[test]
fn redis_set() {
    let url = redis().fresh_database();
    let members = ONE_TEXT.replace("value", "member");
    survive(&url, Keys { nodes: vec![url.clone()], mode: Mode::Append, shape: "set" }, &members, "set: items", FEWEST);
}

/// The score says how long a row's payload is; see [`payload_of`].
#[test]
fn redis_sorted_set() {
    let url = redis().fresh_database();
    let members = "    transform:\n      - set: { member: \"cast(id as varchar)\", score: \"cast(id % 40 as double)\" }\n      - select: [member, score]\n";
    survive(&url, Keys { nodes: vec![url.clone()], mode: Mode::Upsert, shape: "sorted_set" }, members, "sorted_set: items", FEWEST);
}

fn survive(url: &str, keys: Keys, transform: &str, to: &str, usual: usize) {
    let project = Project::new();
    sqlite_source(&project);
    project.file(
        &format!("pipelines/{PIPELINE}.yaml"),
        format!(
            "connections:
  from: {{ url: \"sqlite:source.db\" }}
  to: {{ url: \"{url}\" }}
stages:
  copy:
    kind: batch
    from: {{ sql: from, table: items }}
{transform}    to: {{ redis: to, {to} }}
    splits: {{ most: 64, bytes: 16KiB, concurrency: 3 }}
"
        ),
    );
    torture_for(&project, &keys, kills(usual));
}

/// A database of the test's server, or the masters of a cluster.
struct Keys {
    nodes: Vec<String>,
    mode: Mode,
    shape: &'static str,
}

impl Keys {
    fn connections(&self) -> Vec<Connection> {
        self.nodes.iter().map(|url| connect(url)).collect()
    }

    fn rows(&self) -> Rows {
        let split = |item: &String| item.split_once('|').map(|(id, payload)| (id.parse().expect("a number"), payload.to_owned()));
        let texts = |items: Vec<String>| gather(items.iter().map(|item| split(item).expect("an id and a payload")));
        let mut connections = self.connections();
        match self.shape {
            "list" => texts(connections[0].lrange("items", 0, -1).expect("the list")),
            "stream" => {
                let entries: Vec<(String, Vec<String>)> =
                    redis::cmd("XRANGE").arg("items").arg("-").arg("+").query(&mut connections[0]).expect("the stream");
                texts(entries.into_iter().map(|(_, mut fields)| fields.remove(1)).collect())
            }
            "set" => texts(connections[0].smembers("items").expect("the set")),
            "sorted_set" => {
                let members: Vec<(i64, f64)> = connections[0].zrange_withscores("items", 0, -1).expect("the sorted set");
                gather(members.into_iter().map(|(id, score)| (id, payload_of(id, score))))
            }
            "json" => gather(objects(&mut connections[0])),
            _ => gather(connections.iter_mut().flat_map(hashes)),
        }
    }
}

fn hashes(redis: &mut Connection) -> Vec<(i64, String)> {
    let keys: Vec<String> = redis.keys("item:*").expect("the keys");
    let mut pipe = redis::pipe();
    for key in &keys {
        pipe.cmd("HMGET").arg(key).arg("id").arg("payload");
    }
    let values: Vec<(Option<i64>, Option<String>)> = if keys.is_empty() { Vec::new() } else { pipe.query(redis).expect("hashes") };
    let half = || (0, "half of a hash".to_owned());
    values.into_iter().map(|(id, payload)| id.zip(payload).unwrap_or_else(half)).collect()
}

fn objects(redis: &mut Connection) -> Vec<(i64, String)> {
    let keys: Vec<String> = redis.keys("item:*").expect("the keys");
    let texts: Vec<String> = if keys.is_empty() { Vec::new() } else { redis.mget(&keys).expect("texts") };
    let object = |text: &String| {
        let object: serde_json::Value = serde_json::from_str(text).expect("JSON");
        (object["id"].as_i64().expect("an id"), object["payload"].as_str().expect("a payload").to_owned())
    };
    texts.iter().map(object).collect()
}

/// The score of a row that was there before the run.
const BEFORE: f64 = -1.0;

/// The payload that a member of a sorted set stands for.
fn payload_of(id: i64, score: f64) -> String {
    match score {
        BEFORE if id < 0 => "there before".to_owned(),
        BEFORE => "to be replaced".to_owned(),
        length => format!("row {id} {}.", "x".repeat(length as usize)),
    }
}

impl Target for Keys {
    fn reset(&self) {
        let mut connections = self.connections();
        for redis in &mut connections {
            redis::cmd("FLUSHDB").exec(redis).expect("an empty database");
        }
        let mut pipes: Vec<redis::Pipeline> = connections.iter().map(|_| redis::pipe()).collect();
        for (id, payload) in self.mode.before() {
            match self.shape {
                "list" => pipes[0].rpush("items", format!("{id}|{payload}")).ignore(),
                "stream" => pipes[0].cmd("XADD").arg("items").arg("*").arg("value").arg(format!("{id}|{payload}")).ignore(),
                "set" => pipes[0].sadd("items", format!("{id}|{payload}")).ignore(),
                "sorted_set" => pipes[0].zadd("items", id, BEFORE).ignore(),
                "json" => pipes[0].set(format!("item:{id}"), serde_json::json!({ "id": id, "payload": payload }).to_string()).ignore(),
                _ => {
                    let key = format!("item:{id}");
                    let node = if self.nodes.len() == 1 { 0 } else { node_of(&key) };
                    pipes[node].hset_multiple(key, &[("id", id.to_string()), ("payload", payload)]).ignore()
                }
            };
        }
        for (pipe, redis) in pipes.iter().zip(&mut connections) {
            pipe.exec(redis).expect("what was there before");
        }
    }

    fn after_kill(&self, recorded: u64) -> Result<(), String> {
        self.mode.check_after_kill(&self.rows(), recorded)
    }

    fn at_end(&self) -> Result<(), String> {
        self.mode.check_at_end(&self.rows())?;
        let keys: Vec<String> =
            self.connections().iter_mut().flat_map(|redis| redis.keys::<_, Vec<String>>("*").expect("the keys")).collect();
        let own = |key: &&String| key.starts_with("item") || key.starts_with(&format!("haul:{{{PIPELINE}/copy/0}}:"));
        let strange: Vec<&String> = keys.iter().filter(|key| !own(key)).collect();
        if strange.is_empty() { Ok(()) } else { Err(format!("the server holds what nobody asked for: {strange:?}")) }
    }
}
