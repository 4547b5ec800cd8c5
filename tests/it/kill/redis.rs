//! Rows into Redis: hashes that are replaced, and a list that is appended to.

use redis::Commands;

use super::rows::{Mode, Rows, gather};
use super::sql::sqlite_source;
use super::{PIPELINE, Target, torture};
use crate::support::Project;
use crate::support::redis::{connect, redis};

#[test]
fn redis_hashes() {
    keys(Mode::Upsert, "", "hash: \"item:{{ id }}\"");
}

#[test]
fn redis_list() {
    let one_text = "    transform:\n      - set: { value: \"id || '|' || payload\" }\n      - select: [value]\n";
    keys(Mode::Append, one_text, "list: items");
}

fn keys(mode: Mode, transform: &str, to: &str) {
    let project = Project::new();
    sqlite_source(&project);
    let url = redis().fresh_database();
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
    torture(&project, &Keys { url, mode });
}

/// A database of the test's server.
struct Keys {
    url: String,
    mode: Mode,
}

impl Keys {
    fn rows(&self) -> Rows {
        let mut redis = connect(&self.url);
        if self.mode == Mode::Append {
            let items: Vec<String> = redis.lrange("items", 0, -1).expect("the list");
            let split = |item: &String| item.split_once('|').map(|(id, payload)| (id.parse().expect("a number"), payload.to_owned()));
            return gather(items.iter().map(|item| split(item).expect("an id and a payload")));
        }
        let keys: Vec<String> = redis.keys("item:*").expect("the keys");
        let mut pipe = redis::pipe();
        for key in &keys {
            pipe.cmd("HMGET").arg(key).arg("id").arg("payload");
        }
        let values: Vec<(Option<i64>, Option<String>)> = pipe.query(&mut redis).expect("hashes");
        let half = || (0, "half of a hash".to_owned());
        gather(values.into_iter().map(|(id, payload)| id.zip(payload).unwrap_or_else(half)))
    }
}

impl Target for Keys {
    fn reset(&self) {
        let mut redis = connect(&self.url);
        redis::cmd("FLUSHDB").exec(&mut redis).expect("an empty database");
        let mut pipe = redis::pipe();
        for (id, payload) in self.mode.before() {
            if self.mode == Mode::Append {
                pipe.rpush("items", format!("{id}|{payload}")).ignore();
            } else {
                pipe.hset_multiple(format!("item:{id}"), &[("id", id.to_string()), ("payload", payload)]).ignore();
            }
        }
        pipe.exec(&mut redis).expect("what was there before");
    }

    fn after_kill(&self, recorded: u64) -> Result<(), String> {
        self.mode.check_after_kill(&self.rows(), recorded)
    }

    fn at_end(&self) -> Result<(), String> {
        self.mode.check_at_end(&self.rows())?;
        let mut redis = connect(&self.url);
        let keys: Vec<String> = redis.keys("*").expect("the keys");
        let own = |key: &&String| key.starts_with("item") || key.starts_with(&format!("haul:{{{PIPELINE}/copy/0}}:"));
        let strange: Vec<&String> = keys.iter().filter(|key| !own(key)).collect();
        if strange.is_empty() { Ok(()) } else { Err(format!("the server holds what nobody asked for: {strange:?}")) }
    }
}
