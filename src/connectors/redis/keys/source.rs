//! What a server says of its keys before any is read.

use std::sync::Arc;

use async_trait::async_trait;
use redis::Value as Reply;
use tokio::sync::OnceCell;

use super::expiry::Expiry;
use super::reading::KeysReading;
use super::{DUMP_OF, NO_DUMP, payload, scan, schema};
use crate::connectors::redis::reply::{bytes, text};
use crate::connectors::redis::{Command, Server, Version};
use crate::connectors::{Description, ReadRequest, Reading, Source, requested};
use crate::define::pipeline::KeysSource;
use crate::failure::Failure;

/// Keys that are tried for one whose payload tells the server's version of the format.
const SAMPLES: usize = 8;
/// The largest key whose payload is asked for to learn that version.
const SMALL: i64 = 64 << 10;
/// A key that is asked for and is never there.
const PROBE: &[u8] = b"haul:{probe}";

/// The keys of a server, as a source.
struct Keys {
    server: Arc<Server>,
    spec: Arc<KeysSource>,
    carried: OnceCell<String>,
}

impl Server {
    /// Keys, to be read as they are.
    pub fn keys(self: &Arc<Self>, spec: &KeysSource) -> Arc<dyn Source> {
        Arc::new(Keys { server: Arc::clone(self), spec: Arc::new(spec.clone()), carried: OnceCell::new() })
    }
}

/// What the login may do, of what reading keys takes.
struct Rights {
    dump: bool,
    expiry: Expiry,
}

impl Keys {
    /// Tries every command that reading takes on a key that is not there. All that is refused is told at once.
    async fn rights(&self) -> Result<Rights, Failure> {
        let tried = ["DUMP", "PEXPIRETIME", "TYPE", "PTTL"].map(|name| Command::new(name).key(PROBE));
        let mut commands = tried.to_vec();
        commands.push(Command::new("SCAN").arg(0).arg("COUNT").arg(1));
        let replies = self.server.call(&commands).await?;
        let refused = |reply: &Reply| matches!(reply, Reply::ServerError(error) if error.code() == "NOPERM" && !of_keys(error.details()));
        let missing: Vec<&str> =
            [("TYPE", 2), ("PTTL", 3), ("SCAN", 4)].iter().filter(|(_, at)| refused(&replies[*at])).map(|(name, _)| *name).collect();
        if !missing.is_empty() {
            let message = format!("the user `{}` of `{}` may not run {}", self.server.user(), self.server.name(), missing.join(", "));
            return Err(Failure::permanent(message).help("grant them with ACL SETUSER; docs/redis_migration.md lists the least rights"));
        }
        let knows = |reply: &Reply| !matches!(reply, Reply::ServerError(error) if !(error.code() == "NOPERM" && of_keys(error.details())));
        Ok(Rights { dump: knows(&replies[0]), expiry: if knows(&replies[1]) { Expiry::Instant } else { Expiry::Remaining } })
    }

    /// The version of the format of this server's payloads, by one of them; `None` when there is no small key to ask for.
    async fn payload_version(&self) -> Result<Option<u16>, Failure> {
        for master in &self.server.topology().await?.masters {
            for _ in 0..SAMPLES {
                let reply = self.server.on(&master.address, &[Command::new("RANDOMKEY")]).await?.pop().unwrap_or_default();
                let Ok(Some(key)) = bytes(reply) else { break };
                let commands = [Command::new("MEMORY USAGE").key(&key), Command::new("DUMP").key(&key)];
                let size = self.server.call(&commands[..1]).await?.pop().unwrap_or_default();
                if !matches!(size, Reply::Int(size) if size > SMALL)
                    && let Ok(Some(dumped)) = bytes(self.server.call(&commands[1..]).await?.pop().unwrap_or_default())
                {
                    return Ok(payload::version(&dumped));
                }
            }
        }
        Ok(None)
    }

    /// How values can be carried, in the words that the target reads.
    async fn carried(&self) -> Result<&str, Failure> {
        let asked = async || {
            Ok(match (self.rights().await?.dump, self.payload_version().await?) {
                (false, _) => NO_DUMP.to_owned(),
                (true, Some(version)) => format!("{DUMP_OF}{version}"),
                (true, None) => "DUMP".to_owned(),
            })
        };
        self.carried.get_or_try_init(asked).await.map(String::as_str)
    }

    /// About how many keys there are, and how much they take; only known when nothing is filtered.
    async fn size(&self) -> Result<(Option<u64>, Option<u64>), Failure> {
        let spec = &self.spec;
        let all = spec.patterns == ["*"] && spec.types.is_empty() && spec.least_bytes.is_none() && spec.most_bytes.is_none();
        let all = all && spec.unlimited && spec.least_lifetime.is_none() && spec.most_lifetime.is_none();
        if !all {
            return Ok((None, None));
        }
        let keys = scan::count(&self.server).await?;
        let (mut bytes, mut in_all) = (0_u64, 0_u64);
        for master in &self.server.topology().await?.masters {
            let info = text(self.server.on(&master.address, &[Command::new("INFO")]).await?.pop().unwrap_or_default())?;
            for line in info.lines() {
                if let Some(dataset) = line.strip_prefix("used_memory_dataset:") {
                    bytes += dataset.trim().parse::<u64>().unwrap_or(0);
                }
                // `db0:keys=15,expires=3,avg_ttl=0`
                if let Some(keys) = line.strip_prefix("db").and_then(|rest| rest.split_once(":keys=")) {
                    in_all += keys.1.split(',').next().and_then(|keys| keys.parse::<u64>().ok()).unwrap_or(0);
                }
            }
        }
        // The share of this database.
        let share = u128::from(bytes) * u128::from(keys) / u128::from(in_all.max(1));
        Ok((Some(keys), u64::try_from(share).ok()))
    }
}

/// Whether a refusal is about the key, not the command.
fn of_keys(details: Option<&str>) -> bool {
    details.is_some_and(|details| details.contains("key"))
}

#[async_trait]
impl Source for Keys {
    async fn describe(&self) -> Result<Description, Failure> {
        let facts = self.server.facts().await?;
        let rights = self.rights().await?;
        let mut consistency = format!(
            "{}, live: keys that stay are read as they are when their turn comes",
            if facts.cluster { "a cluster" } else { "one server" }
        );
        if rights.expiry == Expiry::Remaining {
            let why = if facts.version < Version(7, 0, 0) { "is older than 7.0" } else { "refuses PEXPIRETIME" };
            consistency.push_str(&format!("; expiry by PTTL, since the server {why}: late by as much as a round trip"));
        }
        if let Some(weakness) = self.server.weakness() {
            consistency.push_str(&format!("; {weakness}"));
        }
        let (rows, bytes) = self.size().await?;
        Ok(Description { schema: schema(self.carried().await?), key: vec!["key".to_owned()], rows, bytes, wire: None, consistency })
    }

    async fn open(&self, request: ReadRequest) -> Result<Arc<dyn Reading>, Failure> {
        if request.as_text.iter().any(|name| name == "value") {
            return Err(Failure::permanent("the values of keys can only go to Redis as they are").help(
                "drop the column (`- drop: [value]`), write to a `redis` output, or read rows with `hash:`, `json:`, `string:` and the like",
            ));
        }
        let expiry = self.rights().await?.expiry;
        let schema = requested(&schema(self.carried().await?), &request)?;
        Ok(Arc::new(KeysReading { server: Arc::clone(&self.server), spec: Arc::clone(&self.spec), schema, request, expiry }))
    }
}
