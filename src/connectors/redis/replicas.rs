//! Whether replicas have what was written: a replica that takes its master's place has only what reached it.

use std::time::Duration;

use redis::Value;

use super::error::FAILOVER;
use super::facts::fields;
use super::marks::tag_of;
use super::reply::{good, integer, text};
use super::{Command, Master, Server};
use crate::define::pipeline::RESERVED;
use crate::failure::Failure;

/// How long a replica may take to have what was written.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the key stays that is written to be waited for, in milliseconds.
const KEPT_MS: u64 = 60_000;

impl Server {
    /// Waits until a replica of each master has what was written to it, where a master has replicas. A commit is told only after that: otherwise
    /// a failover could lose rows whose mark, on another node, stays; or rows and marks that the run believes to be there.
    pub async fn replicated(&self) -> Result<(), Failure> {
        for master in &self.topology().await?.masters {
            self.replicated_on(master).await?;
        }
        Ok(())
    }

    /// The same for one master.
    pub async fn replicated_on(&self, master: &Master) -> Result<(), Failure> {
        let node = &master.address;
        let info = text(self.on(node, &[Command::new("INFO").arg("replication")]).await?.pop().unwrap_or_default())?;
        if !has_replica(&info) {
            return Ok(());
        }
        // `WAIT` is about what came before the connection's last write, whoever sent it; until 7.2 before its last command.
        let wait = Command::new("WAIT").arg(1).arg(PATIENCE.as_millis() as u64);
        let mut ends = master.slots.iter().flat_map(|(first, last)| [*first, *last]);
        let replicas = loop {
            let Some(slot) = ends.next() else {
                return Err(Failure::transient(format!("the slots of {node} are being moved")).retry_after(Some(FAILOVER)));
            };
            let key = format!("{RESERVED}{}}}:written", tag_of(slot));
            let write = Command::new("SET").key(key.as_bytes()).arg("").arg("PX").arg(KEPT_MS);
            let mut replies = self.blocking(node, &[write, wait.clone()], PATIENCE).await?.into_iter();
            match replies.next().unwrap_or_default() {
                // Keys of this slot are made on another node by now; those of the next one are not.
                Value::ServerError(error) if ["ASK", "MOVED"].contains(&error.code()) => self.doubt(),
                written => {
                    good(written)?;
                    break integer(replies.next().unwrap_or_default())?;
                }
            }
        };
        if replicas > 0 {
            return Ok(());
        }
        let message = format!("no replica of `{}` at {node} has the last writes after {} s", self.name(), PATIENCE.as_secs());
        Err(Failure::transient(message).help("a replica that hangs can be taken away with `REPLICAOF NO ONE`").retry_after(Some(FAILOVER)))
    }
}

/// Whether a master has a replica that takes part. One that still copies the whole of it will have everything in the end.
fn has_replica(info: &str) -> bool {
    // `slave0:ip=127.0.0.1,port=6380,state=online,offset=14,lag=0`
    fields(info).iter().any(|(name, value)| name.starts_with("slave") && value.split(',').any(|field| field == "state=online"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_that_take_part() {
        assert!(has_replica(
            "role:master\r\nconnected_slaves:2\r\nslave0:ip=h,port=1,state=wait_bgsave\r\nslave1:ip=h,port=2,state=online,lag=0\r\n"
        ));
        assert!(!has_replica("role:master\r\nconnected_slaves:1\r\nslave0:ip=h,port=1,state=wait_bgsave,offset=0\r\n"));
        assert!(!has_replica("role:slave\r\nslave_repl_offset:14\r\nslave_priority:100\r\nconnected_slaves:0\r\n"));
    }
}
