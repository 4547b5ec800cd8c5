//! What scans over the keys of a server have in common: what a split covers, and the keys that a scan gives twice.

use std::collections::{HashSet, VecDeque};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::{Facts, Server};
use crate::connectors::Split;
use crate::failure::Failure;

/// Keys that a scan is known to have given lately. What Redis repeats was given a moment ago; see [`Recent`].
const KEPT: usize = 1 << 17;

/// What a split covers, in the form that is kept with a load: slots mean the same keys wherever they move.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Range {
    /// The slots, as inclusive ranges.
    pub slots: Vec<(u16, u16)>,
}

impl Range {
    /// As it was recorded.
    pub fn of(split: &Split) -> Result<Self, Failure> {
        serde_json::from_value(split.range.clone())
            .map_err(|error| Failure::permanent(format!("the split {} cannot be read", split.id)).cause(error))
    }

    /// As it is recorded.
    pub fn split(self, id: String, label: String) -> Result<Split, Failure> {
        let range = serde_json::to_value(self).map_err(|error| Failure::permanent("a split cannot be written down").cause(error))?;
        Ok(Split { id, range, label, rows: None })
    }
}

/// The keys that a scan gave lately.
///
/// A cursor counts through the buckets of the server's table with its bits reversed, so that a table that grows or shrinks meanwhile changes
/// nothing about buckets that are done: only when it shrinks, the one bucket that the cursor stands in is given again (see `dictScan` in
/// `dict.c` of Redis). What comes twice therefore comes right after the first time, and a bounded memory of about 4 MiB is enough. Of servers
/// that are no kin of Redis, which have other tables, every key is remembered.
pub struct Recent {
    known: HashSet<u64>,
    order: Option<VecDeque<u64>>,
}

impl Recent {
    /// For a scan of a server.
    pub async fn of(server: &Server) -> Result<Self, Failure> {
        Ok(Self::new(server.facts().await?))
    }

    fn new(facts: &Facts) -> Self {
        let bounded = ["Redis", "Valkey"].contains(&facts.product.as_str());
        Self { known: HashSet::new(), order: bounded.then(VecDeque::new) }
    }

    /// Whether a key was not given lately.
    pub fn is_new(&mut self, key: &[u8]) -> bool {
        let hash = xxh3_64(key);
        let new = self.known.insert(hash);
        if let Some(order) = self.order.as_mut().filter(|_| new) {
            order.push_back(hash);
            if order.len() > KEPT
                && let Some(oldest) = order.pop_front()
            {
                self.known.remove(&oldest);
            }
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_given_lately_are_remembered() {
        let facts = |info: &str| Facts::read(info, Vec::new()).expect("facts");
        let run = |facts: &Facts| {
            let mut recent = Recent::new(facts);
            let keys = 0..2 * KEPT as u64;
            assert!(keys.clone().all(|key| recent.is_new(&key.to_le_bytes())));
            let again = keys.clone().rev().map(|key| recent.is_new(&key.to_le_bytes())).collect::<Vec<_>>();
            (again.iter().take_while(|new| !**new).count(), recent.known.len())
        };
        assert_eq!(run(&facts("redis_version:7.0.15\r\n")), (KEPT, KEPT));
        assert_eq!(run(&facts("redis_version:7.0.15\r\ndragonfly_version:1\r\n")), (2 * KEPT, 2 * KEPT));
    }
}
