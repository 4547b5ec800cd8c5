//! Which node holds which keys.

use redis::Value;

use super::address::Address;
use super::reply::{integer, items, text};
use crate::failure::Failure;

/// The slots of a cluster.
pub const SLOTS: u16 = 16384;

/// One node that takes writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Master {
    /// Where it is.
    pub address: Address,
    /// The slots it holds, as inclusive ranges, sorted; all of them when there is no cluster.
    pub slots: Vec<(u16, u16)>,
}

/// The nodes of a server that hold keys, sorted by their first slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// At least one.
    pub masters: Vec<Master>,
    /// Nodes that copy a master, and may take its place.
    pub replicas: Vec<Address>,
}

impl Topology {
    /// One server that holds everything.
    pub(super) fn single(address: Address) -> Self {
        Self { masters: vec![Master { address, slots: vec![(0, SLOTS - 1)] }], replicas: Vec::new() }
    }

    /// Reads the answer to `CLUSTER SLOTS`: a list of `[first, last, [host, port, id, …], replicas…]`. A node that does not know its own
    /// host is the one that was asked.
    pub(super) fn read(reply: Value, asked: &Address) -> Result<Self, Failure> {
        let (mut masters, mut replicas): (Vec<Master>, Vec<Address>) = Default::default();
        for range in items(reply)? {
            let mut range = items(range)?.into_iter();
            let mut bound = || u16::try_from(integer(range.next().ok_or_else(odd)?)?).map_err(|_| odd());
            let slots = (bound()?, bound()?);
            let address = node(range.next().ok_or_else(odd)?, asked)?;
            for replica in range {
                replicas.push(node(replica, asked)?);
            }
            match masters.iter_mut().find(|master| master.address == address) {
                Some(master) => master.slots.push(slots),
                None => masters.push(Master { address, slots: vec![slots] }),
            }
        }
        replicas.sort();
        replicas.dedup();
        for master in &mut masters {
            master.slots.sort_unstable();
        }
        masters.sort_by_key(|master| master.slots.first().copied());
        if masters.is_empty() {
            return Err(Failure::transient("no node of the cluster holds any slot")
                .help("the cluster is not set up yet; `redis-cli --cluster check` shows its state"));
        }
        Ok(Self { masters, replicas })
    }

    /// The master that holds a slot; `None` when no master does.
    pub fn master(&self, slot: u16) -> Option<&Master> {
        self.masters.iter().find(|master| master.slots.iter().any(|(first, last)| (*first..=*last).contains(&slot)))
    }

    /// Slots that no master holds: keys of these can be neither read nor written.
    pub fn uncovered(&self) -> usize {
        let held: usize = self.masters.iter().flat_map(|master| &master.slots).map(|(first, last)| usize::from(last - first) + 1).sum();
        usize::from(SLOTS).saturating_sub(held)
    }
}

fn odd() -> Failure {
    Failure::permanent("the answer to CLUSTER SLOTS cannot be read")
}

/// Where a node is: `[host, port, …]`.
fn node(reply: Value, asked: &Address) -> Result<Address, Failure> {
    let mut node = items(reply)?.into_iter();
    let host = match node.next().ok_or_else(odd)? {
        Value::Nil => String::new(),
        host => text(host)?,
    };
    let port = u16::try_from(integer(node.next().ok_or_else(odd)?)?).map_err(|_| odd())?;
    let host = if host.is_empty() || host == "?" { asked.host.clone() } else { host };
    Ok(Address { host, port })
}

/// The slot of a key: CRC16 (XMODEM) of the part between the first `{` and the next `}`, when there is such a part and it is not empty,
/// else of the whole key. See the Redis cluster specification.
pub fn slot(key: &[u8]) -> u16 {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        let close = rest.iter().position(|byte| *byte == b'}')?;
        (close > 0).then(|| &rest[..close])
    });
    crc16(tag.unwrap_or(key)) % SLOTS
}

fn crc16(bytes: &[u8]) -> u16 {
    let mut crc: u16 = 0;
    for byte in bytes {
        crc ^= u16::from(*byte) << 8;
        for _ in 0..8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
        }
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(slot(b"foo"), 12182);
        assert_eq!(slot(b"{user1000}.following"), slot(b"user1000"));
        assert_eq!(slot(b"foo{}{bar}"), crc16(b"foo{}{bar}") % SLOTS);
        assert_eq!(slot(b"foo{{bar}}zap"), slot(b"{bar"));
        assert_eq!(slot(b"foo{bar}{zap}"), slot(b"bar"));
    }

    #[test]
    fn the_slots_of_a_cluster_are_read() {
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let node = |host: Value, port: i64| Value::Array(vec![host, Value::Int(port), bulk("id")]);
        let range = |first: i64, last: i64, node: Value| Value::Array(vec![Value::Int(first), Value::Int(last), node]);
        let reply = Value::Array(vec![
            range(8000, 16000, node(bulk("b"), 2)),
            range(0, 99, node(Value::Nil, 1)),
            range(100, 7999, node(bulk(""), 1)),
        ]);
        let asked = Address { host: "a".to_owned(), port: 9 };
        let topology = Topology::read(reply, &asked).expect("a topology");
        let address = |slot| topology.master(slot).map(|master| master.address.to_string());
        assert_eq!(topology.masters.len(), 2);
        assert_eq!(
            (address(0), address(7999), address(8000), address(16001)),
            (Some("a:1".into()), Some("a:1".into()), Some("b:2".into()), None)
        );
        assert_eq!(topology.uncovered(), 383);
        assert!(Topology::read(Value::Array(Vec::new()), &asked).is_err());
    }
}
