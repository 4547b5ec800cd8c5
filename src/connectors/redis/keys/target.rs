//! What a server takes of copied keys, asked before any is written.

use redis::Value as Reply;

use super::sink::KeysTarget;
use super::{COLUMNS, DUMP_OF, KEY, NO_DUMP, payload};
use crate::connectors::redis::reply::text;
use crate::connectors::redis::{Command, Version};
use crate::connectors::{Target, TargetProblem};
use crate::data::{Grade, Mapped, Schema, Type};
use crate::define::pipeline::{Conflict, CopyBy};
use crate::failure::Failure;

/// A key that payloads are tried on; they come with an expiry that has passed, so that nothing of them is ever there.
const PROBE: &[u8] = b"haul:{probe}";

/// How values get to the target, and why.
pub(super) enum Route {
    /// As payloads.
    Payloads,
    /// By commands, for this reason.
    Commands(String),
    /// Not at all, for this reason.
    None(String),
}

impl KeysTarget {
    /// Decides how values get there.
    pub(super) async fn route(&self, incoming: &Schema) -> Result<Route, Failure> {
        let carried = incoming.find(COLUMNS[3]).and_then(|(_, column)| column.native.clone()).unwrap_or_default();
        let refused = match self.spec.copy {
            CopyBy::Commands => return Ok(Route::Commands("the pipeline says so".to_owned())),
            _ if carried == NO_DUMP => Some("the source refuses DUMP".to_owned()),
            _ => match carried.strip_prefix(DUMP_OF).and_then(|version| version.parse().ok()) {
                Some(version) => self.refuses_payload(version).await?,
                // No key tells the version, as in an empty database: there is nothing to try.
                None => None,
            },
        };
        Ok(match (refused, self.spec.copy) {
            (None, _) => Route::Payloads,
            (Some(why), CopyBy::Dump) => Route::None(why),
            (Some(why), _) => Route::Commands(why),
        })
    }

    /// Why the target does not take payloads of a version; `None` when it does.
    async fn refuses_payload(&self, version: u16) -> Result<Option<String>, Failure> {
        let command = Command::new("RESTORE").key(PROBE).arg(1).arg(payload::smallest(version)).arg("REPLACE").arg("ABSTTL");
        let reply = self.server.call(&[command]).await?.pop().unwrap_or_default();
        let Reply::ServerError(error) = reply else { return Ok(None) };
        let facts = self.server.facts().await?;
        Ok(Some(match error.code() {
            "NOPERM" => format!("the user `{}` may not run RESTORE", self.server.user()),
            _ if error.details().is_some_and(|details| details.contains("version")) => {
                format!("{facts} does not understand payloads of version {version}")
            }
            code => format!("{facts} answers RESTORE with {code} {}", error.details().unwrap_or_default()),
        }))
    }

    /// Every problem that is known before a key is written.
    async fn problems(&self, incoming: &Schema, route: &Route) -> Result<Vec<TargetProblem>, Failure> {
        let mut problems = columns(incoming);
        let mut problem =
            |code, field, message: String, help: &str| problems.push(TargetProblem { code, field, message, help: help.to_owned() });
        let facts = self.server.facts().await?;
        let name = self.server.name();
        if facts.replica {
            problem(
                "target-read-only",
                "redis",
                format!("`{name}` is a replica and takes no writes"),
                "name its primary in the connection's URL",
            );
        }
        if let Route::None(why) = route {
            problem("target-mode", "copy", format!("values cannot be copied as payloads: {why}"), "write `copy: auto` or `copy: commands`");
        }
        let refused = self.refused_commands(matches!(route, Route::Payloads)).await?;
        if !refused.is_empty() {
            let message = format!("the user `{}` of `{name}` may not run {}", self.server.user(), refused.join(", "));
            problem("target-privilege", "redis", message, "grant them with ACL SETUSER; docs/redis_migration.md lists the least rights");
        }
        if facts.cluster {
            let state = text(self.server.call(&[Command::new("CLUSTER INFO")]).await?.pop().unwrap_or_default())?;
            if !state.contains("cluster_state:ok") {
                let help = "`redis-cli --cluster check` shows what is wrong";
                problem("target-unusable", "redis", format!("the cluster `{name}` is not in order: not all slots are served"), help);
            }
        }
        Ok(problems)
    }

    /// Commands of writing that the login may not run, tried on a key that is not there.
    async fn refused_commands(&self, payloads: bool) -> Result<Vec<&'static str>, Failure> {
        let mut tried = vec![
            ("DEL", Command::new("DEL").key(PROBE)),
            ("PEXPIREAT", Command::new("PEXPIREAT").key(PROBE).arg(1)),
            ("EVAL", Command::new("EVAL").arg("return redis.call('EXISTS', KEYS[1])").arg(1).key(PROBE)),
        ];
        if !payloads {
            tried.push(("RENAME", Command::new("RENAME").key(PROBE).key(PROBE)));
            tried.push(("RENAMENX", Command::new("RENAMENX").key(PROBE).key(PROBE)));
        }
        let commands: Vec<Command> = tried.iter().map(|(_, command)| command.clone()).collect();
        let replies = self.server.call(&commands).await?;
        let refused = |reply: &Reply| matches!(reply, Reply::ServerError(error) if error.code() == "NOPERM");
        Ok(tried.into_iter().zip(replies).filter(|(_, reply)| refused(reply)).map(|((name, _), _)| name).collect())
    }

    pub(super) async fn target(&self, incoming: &Schema) -> Result<Result<Target, Vec<TargetProblem>>, Failure> {
        let route = self.route(incoming).await?;
        let problems = self.problems(incoming, &route).await?;
        if !problems.is_empty() {
            return Ok(Err(problems));
        }
        let facts = self.server.facts().await?;
        let exact = |name: &str, native: &str| Mapped {
            name: name.to_owned(),
            native: native.to_owned(),
            grade: Grade::Exact,
            reason: String::new(),
        };
        let columns = incoming.columns.iter().map(|column| match column.name.as_str() {
            "key" => exact("key", if self.spec.rename.is_some() { "key, renamed" } else { "key" }),
            "expires_at" => exact("expires_at", if facts.version < Version(5, 0, 0) { "PEXPIRE" } else { "PEXPIREAT" }),
            "value" => exact("value", if matches!(route, Route::Payloads) { "RESTORE" } else { "commands" }),
            name => exact(name, "type"),
        });
        Ok(Ok(Target {
            columns: columns.collect(),
            ddl: Vec::new(),
            exists: true,
            wire: None,
            writers: usize::MAX,
            whole: false,
            checkpoints: true,
            guarantee: self.guarantee(&route).await?,
            reads_as: Schema::default(),
            tables: Vec::new(),
        }))
    }

    async fn guarantee(&self, route: &Route) -> Result<String, Failure> {
        let facts = self.server.facts().await?;
        let again = match self.spec.conflict {
            Conflict::Replace => "a key that is written again replaces itself",
            Conflict::Skip => "a key that is there stays",
            Conflict::Error => "a key that is there must hold the same",
        };
        let mut line = format!("effectively once: keys with their absolute expiry, then their mark; {again}");
        if let Route::Commands(why) = route {
            line.push_str(&format!(
                "; values by commands, since {why}: pending entries of deleted messages and the expiry of single fields stay behind"
            ));
        }
        if facts.version < Version(5, 0, 0) {
            line.push_str("; expiry is relative, since the server is older than 5.0: late by as much as a round trip");
        }
        if let Some(policy) = self.server.eviction().await? {
            line.push_str(&format!("; a full target drops keys by its policy {policy}"));
        }
        if let Some(weakness) = self.server.weakness() {
            line.push_str(&format!("; {weakness}"));
        }
        Ok(line)
    }
}

/// Checks that what comes in are keys as a redis input reads them.
fn columns(incoming: &Schema) -> Vec<TargetProblem> {
    let mut problems = Vec::new();
    let mut problem = |message: String, help: &str| {
        problems.push(TargetProblem { code: "target-columns", field: "", message, help: help.to_owned() });
    };
    let from_keys = "read them with `from: { redis: …, keys: [\"*\"] }`, or name the key of a row, such as `hash: \"user:{{ id }}\"`";
    let key = incoming.find("key").map(|(_, column)| column);
    if incoming.find("value").is_none_or(|(_, column)| !matches!(&column.ty, Type::Native { engine: "redis", .. })) {
        problem("the output takes keys as they are, and the stage does not bring any: there is no `value` of a key".to_owned(), from_keys);
        return problems;
    }
    if key.is_none_or(|key| key.ty != Type::Bytes || key.native.as_deref() != Some(KEY)) {
        problem("the column `key` is not the source's own".to_owned(), "leave it as it is, and write the new name in `key:` of the output");
    }
    if incoming.find("expires_at").is_none_or(|(_, column)| column.ty != Type::TimestampTz) {
        problem(
            "the keys would lose their expiry: there is no column `expires_at` of type timestamptz".to_owned(),
            "keep the column; where it is NULL a key never expires",
        );
    }
    for column in incoming.columns.iter().filter(|column| !COLUMNS.contains(&column.name.as_str())) {
        problem(format!("a key has no place for the column `{}`", column.name), "drop it");
    }
    problems
}
