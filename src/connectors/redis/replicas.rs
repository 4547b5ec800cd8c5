//! Whether replicas have what was written: a replica that takes its master's place has only what reached it.

use std::time::Duration;

use super::error::FAILOVER;
use super::facts::fields;
use super::reply::{integer, text};
use super::{Address, Command, Server};
use crate::failure::Failure;

/// How long a replica may take to have what was written.
const PATIENCE: Duration = Duration::from_secs(30);

impl Server {
    /// Waits until a replica of each master has what was written to it, where a master has replicas. A commit is told only after that: otherwise
    /// a failover could lose rows whose mark, on another node, stays; or rows and marks that the run believes to be there.
    pub async fn replicated(&self) -> Result<(), Failure> {
        for master in &self.topology().await?.masters {
            self.replicated_on(&master.address).await?;
        }
        Ok(())
    }

    /// The same for one node.
    pub async fn replicated_on(&self, node: &Address) -> Result<(), Failure> {
        let info = text(self.on(node, &[Command::new("INFO").arg("replication")]).await?.pop().unwrap_or_default())?;
        if !has_replica(&info) {
            return Ok(());
        }
        // `WAIT` is about what came before the connection's last command, whoever sent it.
        let wait = [Command::new("PING"), Command::new("WAIT").arg(1).arg(PATIENCE.as_millis() as u64)];
        let answer = self.blocking(node, &wait, PATIENCE).await?.pop().unwrap_or_default();
        if integer(answer)? > 0 {
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
