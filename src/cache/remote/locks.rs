//! Who loads a key: of all processes that miss it, one asks the origin.

use std::time::Duration;

use super::scripts::{LOCK, UNLOCK};
use super::{PART, Remote};
use crate::connectors::redis::{Command, reply};
use crate::failure::Failure;

/// What became of a try to lock a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// It is held from now on; now is this time, in microseconds by the clock of the key's node.
    Taken(u64),
    /// There is a row, or it is known that there is none.
    Answered,
    /// Somebody else loads it.
    Busy,
}

impl Remote {
    /// Tries to lock some names, or to keep their locks for longer. A lock ends with its lease when its owner dies.
    pub async fn lock(&self, names: &[&[u8]], token: &str, lease: Duration) -> Result<Vec<Lock>, Failure> {
        let lease = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
        let mut locks = Vec::with_capacity(names.len());
        for part in names.chunks(PART) {
            let command = |name: &&[u8]| LOCK.on(name).arg(self.form.as_str()).arg(token).arg(lease);
            let commands: Vec<Command> = part.iter().map(command).collect();
            for (name, answer) in part.iter().zip(self.run(&LOCK, &commands).await?) {
                locks.push(match reply::integer(self.of_key(name, answer)?)? {
                    0 => Lock::Answered,
                    -1 => Lock::Busy,
                    -2 => return Err(self.foreign(name)),
                    now_us => Lock::Taken(now_us.unsigned_abs()),
                });
            }
        }
        Ok(locks)
    }

    /// Gives locks back that are still held.
    pub async fn unlock(&self, names: &[&[u8]], token: &str) -> Result<(), Failure> {
        for part in names.chunks(PART) {
            let commands: Vec<Command> = part.iter().map(|name| UNLOCK.on(name).arg(token)).collect();
            self.run(&UNLOCK, &commands).await?.into_iter().try_for_each(|answer| reply::good(answer).map(drop))?;
        }
        Ok(())
    }
}
