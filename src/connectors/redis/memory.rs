//! How much room a server has, and what it does without any.

use super::reply::text;
use super::{Command, Server};
use crate::failure::Failure;

impl Server {
    /// The fields of `INFO memory` of every master.
    async fn memory(&self) -> Result<Vec<String>, Failure> {
        let mut infos = Vec::new();
        for master in &self.topology().await?.masters {
            infos.push(text(self.on(&master.address, &[Command::new("INFO").arg("memory")]).await?.pop().unwrap_or_default())?);
        }
        Ok(infos)
    }

    /// The policy by which a full server drops keys; `None` when it has no limit, or refuses writes instead.
    pub async fn eviction(&self) -> Result<Option<String>, Failure> {
        Ok(self.memory().await?.iter().filter(|info| field(info, "maxmemory") != Some(0)).find_map(|info| {
            let policy = info.lines().find_map(|line| line.strip_prefix("maxmemory_policy:"))?.trim();
            (policy != "noeviction").then(|| policy.to_owned())
        }))
    }

    /// Bytes that are left before it is full; `None` when it has no limit.
    pub async fn room(&self) -> Result<Option<u64>, Failure> {
        let mut room = None;
        for info in self.memory().await? {
            let (limit, used) = (field(&info, "maxmemory").unwrap_or(0), field(&info, "used_memory").unwrap_or(0));
            if limit == 0 {
                return Ok(None);
            }
            room = Some(room.unwrap_or(0) + limit.saturating_sub(used));
        }
        Ok(room)
    }
}

fn field(info: &str, name: &str) -> Option<u64> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?.trim().parse().ok()
}
