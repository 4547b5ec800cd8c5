//! Who holds which keys, and whether that stayed so while they were read.
//!
//! A scan tells nothing of keys that went to another node before it came to them, of a node that was emptied by a failover, or of a server
//! that was started again between two pages. So whoever scans asks for the holders before and after: slots whose holder is not the same
//! process in the same role, without a break, were not read for certain.

use std::collections::BTreeMap;

use super::reply::text;
use super::server::uncovered;
use super::{Address, Command, Master, SLOTS, Server};
use crate::failure::Failure;

/// The holders of all slots at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holders {
    /// The nodes, and what is another text once any of their slots came from another node: name, epoch and process.
    nodes: Vec<(Address, String)>,
    /// The number of the node that holds each slot.
    by_slot: Vec<Option<usize>>,
    /// Slots that are being moved: their keys leave their node one by one for this one.
    moving: BTreeMap<u16, Address>,
}

/// What one node holds of some slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Where it is.
    pub node: Address,
    /// The slots, as inclusive ranges.
    pub slots: Vec<(u16, u16)>,
}

impl Server {
    /// Asks every master which slots it holds, and which of them it is giving away. What others say of a master is late. Fails when nobody holds
    /// one of these slots.
    pub async fn holders(&self, wanted: &[(u16, u16)]) -> Result<Holders, Failure> {
        let topology = self.refresh().await?;
        let cluster = self.facts().await?.cluster;
        let mut holders = Holders { nodes: Vec::new(), by_slot: vec![None; usize::from(SLOTS)], moving: BTreeMap::new() };
        for (number, master) in topology.masters.iter().enumerate() {
            let commands = [Command::new("INFO").arg("server"), Command::new("CLUSTER NODES")];
            let mut replies = self.on(&master.address, &commands[..if cluster { 2 } else { 1 }]).await?.into_iter();
            let info = text(replies.next().unwrap_or_default())?;
            let mut state = info.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap_or_default().trim().to_owned();
            let mut slots = master.slots.clone();
            if cluster {
                let nodes = text(replies.next().unwrap_or_default())?;
                let fields = own(&nodes);
                state = format!("{}/{}/{state}", fields.first().unwrap_or(&""), fields.get(6).unwrap_or(&""));
                slots = held(&fields);
                holders.moving.extend(leaving(&nodes, master));
            }
            holders.nodes.push((master.address.clone(), state));
            for (first, last) in slots.into_iter().filter(|(first, last)| first <= last && *last < SLOTS) {
                holders.by_slot[usize::from(first)..=usize::from(last)].fill(Some(number));
            }
        }
        let lost = each(wanted).filter(|slot| holders.by_slot[usize::from(*slot)].is_none()).count();
        if lost == 0 { Ok(holders) } else { Err(uncovered(lost)) }
    }
}

/// The fields of the line by which a node tells of itself in `CLUSTER NODES`:
/// `<id> <ip:port@bus,…> <flags> <master> <ping> <pong> <epoch> <link> <slots> …`.
fn own(nodes: &str) -> Vec<&str> {
    let mut lines = nodes.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    lines.find(|fields| fields.get(2).is_some_and(|flags| flags.contains("myself"))).unwrap_or_default()
}

/// The slots that a node says it holds: `0-5460`, `7000`. A replica says none.
fn held(own: &[&str]) -> Vec<(u16, u16)> {
    let range = |field: &&str| {
        let (first, last) = field.split_once('-').unwrap_or((*field, *field));
        Some((first.parse().ok()?, last.parse().ok()?))
    };
    own.iter().skip(8).filter_map(range).collect()
}

/// The slots that a node is giving away, which it tells as `[93->-<id>]`, and where they go.
fn leaving(nodes: &str, master: &Master) -> Vec<(u16, Address)> {
    let address_of = |id: &str| {
        let line = nodes.lines().find_map(|line| line.strip_prefix(id)?.strip_prefix(' '))?;
        let (host, port) = line.split(['@', ' ']).next()?.rsplit_once(':')?;
        let host = if host.is_empty() { master.address.host.clone() } else { host.to_owned() };
        Some(Address { host, port: port.parse().ok()? })
    };
    let fields = own(nodes);
    let moves = fields.iter().skip(8).filter_map(|field| field.strip_prefix('[')?.strip_suffix(']')?.split_once("->-"));
    moves.filter_map(|(slot, id)| Some((slot.parse().ok()?, address_of(id)?))).collect()
}

impl Holders {
    /// Who is to be asked for the keys of some slots, in this order: those who hold them, then those to whom the keys of a slot are moving, so
    /// that a key that leaves the first one unseen is met at the second.
    pub fn of(&self, slots: &[(u16, u16)]) -> Vec<Held> {
        let mut all = Vec::new();
        for (number, (node, _)) in self.nodes.iter().enumerate() {
            all.push(Held {
                node: node.clone(),
                slots: ranges(each(slots).filter(|slot| self.by_slot[usize::from(*slot)] == Some(number))),
            });
        }
        let mut moving: BTreeMap<&Address, Vec<u16>> = BTreeMap::new();
        each(slots)
            .filter_map(|slot| Some((slot, self.moving.get(&slot)?)))
            .for_each(|(slot, to)| moving.entry(to).or_default().push(slot));
        all.extend(moving.into_iter().map(|(node, slots)| Held { node: node.clone(), slots: ranges(slots.into_iter()) }));
        all.retain(|held| !held.slots.is_empty());
        all
    }

    /// Some slots, of those that are being moved.
    pub fn moving(&self, slots: &[(u16, u16)]) -> usize {
        each(slots).filter(|slot| self.moving.contains_key(slot)).count()
    }

    /// Those of some slots that did not stay where they were since an earlier moment.
    pub fn moved_since(&self, before: &Self, slots: &[(u16, u16)]) -> Vec<(u16, u16)> {
        ranges(each(slots).filter(|slot| self.place(*slot) != before.place(*slot)))
    }

    /// What is the same text as long as some slots stay where they are.
    pub fn state(&self, slots: &[(u16, u16)]) -> String {
        let mut states: Vec<String> = each(slots).filter_map(|slot| Some(self.place(slot).0?.to_owned())).collect();
        states.dedup();
        states.join(" ")
    }

    fn place(&self, slot: u16) -> (Option<&str>, Option<&Address>) {
        (self.by_slot[usize::from(slot)].map(|number| self.nodes[number].1.as_str()), self.moving.get(&slot))
    }
}

/// Whether a slot is one of some ranges.
pub fn within(slots: &[(u16, u16)], slot: u16) -> bool {
    slots.iter().any(|(first, last)| (*first..=*last).contains(&slot))
}

fn each(slots: &[(u16, u16)]) -> impl Iterator<Item = u16> {
    slots.iter().flat_map(|(first, last)| *first..=*last).filter(|slot| *slot < SLOTS)
}

/// Slots in their order, as ranges.
fn ranges(slots: impl Iterator<Item = u16>) -> Vec<(u16, u16)> {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for slot in slots {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == slot => *last = slot,
            _ => ranges.push((slot, slot)),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holders(nodes: &[(&str, (u16, u16))], moving: &[(u16, &str)]) -> Holders {
        let address = |host: &str| Address { host: host.to_owned(), port: 1 };
        let mut by_slot = vec![None; usize::from(SLOTS)];
        for (number, (_, (first, last))) in nodes.iter().enumerate() {
            by_slot[usize::from(*first)..=usize::from(*last)].fill(Some(number));
        }
        Holders {
            nodes: nodes.iter().map(|(state, _)| (address(&state[..1]), (*state).to_owned())).collect(),
            by_slot,
            moving: moving.iter().map(|(slot, host)| (*slot, address(host))).collect(),
        }
    }

    #[test]
    fn slots_that_moved_are_told() {
        let before = holders(&[("a1", (0, 99)), ("b1", (100, 199))], &[(5, "b")]);
        let check = |after: Holders, expected: &[(u16, u16)]| assert_eq!(after.moved_since(&before, &[(0, 199)]), expected, "{after:?}");
        check(before.clone(), &[]);
        check(holders(&[("a1", (0, 49)), ("b1", (50, 199))], &[(5, "b")]), &[(50, 99)]);
        check(holders(&[("a2", (0, 99)), ("b1", (100, 199))], &[(5, "b")]), &[(0, 99)]);
        check(holders(&[("a1", (0, 99)), ("b1", (100, 199))], &[(7, "b")]), &[(5, 5), (7, 7)]);
        check(holders(&[("a1", (0, 99)), ("b1", (100, 198))], &[(5, "b")]), &[(199, 199)]);
        assert_eq!(holders(&[("a2", (0, 99))], &[]).moved_since(&before, &[(100, 150)]), [(100, 150)], "only what was asked for");
    }

    #[test]
    fn who_takes_a_slot_is_asked_after_who_gives_it() {
        let found = holders(&[("b1", (100, 199)), ("a1", (0, 99))], &[(5, "b"), (6, "b"), (150, "a")]).of(&[(0, 120)]);
        let found: Vec<(&str, &[(u16, u16)])> = found.iter().map(|held| (held.node.host.as_str(), held.slots.as_slice())).collect();
        assert_eq!(found, [("b", &[(100, 120)][..]), ("a", &[(0, 99)]), ("b", &[(5, 6)])]);
    }

    #[test]
    fn a_node_tells_what_it_gives_away() {
        let nodes = "07c3 10.0.0.1:30004@31004,host4 master - 0 1426238317239 4 connected 5461-10922\n\
                     e7d1 :30001@31001 myself,master - 0 0 9 connected 0-5459 7000 [93->-07c3] [94-<-07c3] [95->-gone]\n";
        let master = Master { address: Address { host: "h".to_owned(), port: 30001 }, slots: Vec::new() };
        assert_eq!((own(nodes)[6], held(&own(nodes))), ("9", vec![(0, 5459), (7000, 7000)]));
        assert_eq!(leaving(nodes, &master), [(93, Address { host: "10.0.0.1".to_owned(), port: 30004 })]);
    }
}
