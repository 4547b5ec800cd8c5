//! Where in the write-ahead log a stream of changes is.

use serde::{Deserialize, Serialize};

use crate::data::Position;
use crate::failure::Failure;

const VERSION: u32 = 1;

/// Everything that was committed before `lsn` has been handed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    v: u32,
    /// A place in the log, as `pg_lsn` prints it.
    lsn: String,
    /// The copy that came first, as long as transactions may follow that are in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    copied: Option<Copied>,
}

/// The snapshot that was copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Copied {
    /// As `pg_snapshot` prints it: the transactions that are in the copy.
    pub snapshot: String,
    /// Transactions that committed from this place on are in no case in the copy.
    pub until: String,
}

impl Place {
    /// Behind everything before `lsn`, with what is known of the copy.
    pub(super) fn new(lsn: u64, copied: Option<&Copied>) -> Self {
        let copied = copied.filter(|copied| parse(&copied.until).is_ok_and(|until| lsn < until)).cloned();
        Self { v: VERSION, lsn: print(lsn), copied }
    }

    /// Reads a position back.
    pub(super) fn read(position: &Position) -> Result<(u64, Option<Copied>), Failure> {
        let place: Self = serde_json::from_str(&position.0)
            .map_err(|error| Failure::permanent("the position of the stream is none of a log of changes").cause(error))?;
        if place.v != VERSION {
            return Err(Failure::permanent(format!("the position of the stream is of another version of haul ({})", place.v)));
        }
        Ok((parse(&place.lsn)?, place.copied))
    }

    /// Its stored form.
    pub(super) fn position(&self) -> Result<Position, Failure> {
        let text = serde_json::to_string(self).map_err(|error| Failure::permanent("failed to write a position down").cause(error))?;
        Ok(Position(text))
    }
}

impl Copied {
    /// Whether a transaction is in the copy. Its number has 32 bits, those of a snapshot count on behind them.
    pub(super) fn holds(&self, xid: u32, committed: u64) -> Result<bool, Failure> {
        if committed >= parse(&self.until)? {
            return Ok(false);
        }
        let broken = || Failure::permanent(format!("`{}` is no snapshot", self.snapshot));
        let mut parts = self.snapshot.split(':');
        let mut number = || parts.next().and_then(|part| part.parse::<u64>().ok()).ok_or_else(broken);
        let (first_open, first_unborn) = (number()?, number()?);
        let open = parts.next().ok_or_else(broken)?;
        let before = |other: u64| (xid.wrapping_sub(other as u32) as i32) < 0;
        let is_open = open.split(',').any(|number| number.parse::<u64>().is_ok_and(|number| number as u32 == xid));
        Ok(before(first_open) || (before(first_unborn) && !is_open))
    }
}

/// `16/B374D848` as a number.
pub(super) fn parse(text: &str) -> Result<u64, Failure> {
    let parts =
        text.split_once('/').and_then(|(high, low)| Some((u32::from_str_radix(high, 16).ok()?, u32::from_str_radix(low, 16).ok()?)));
    let (high, low) = parts.ok_or_else(|| Failure::permanent(format!("`{text}` is no place in a write-ahead log")))?;
    Ok(u64::from(high) << 32 | u64::from(low))
}

/// A number as `16/B374D848`.
pub(super) fn print(lsn: u64) -> String {
    format!("{:X}/{:X}", lsn >> 32, lsn as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_kept_and_the_copy_is_forgotten_behind_it() {
        let copied = Copied { snapshot: "10:20:12,15".to_owned(), until: "1/20".to_owned() };
        for (lsn, kept) in [(0x1_0000_0010, true), (0x1_0000_0020, false)] {
            let position = Place::new(lsn, Some(&copied)).position().expect("a position");
            assert_eq!(Place::read(&position).expect("a place"), (lsn, kept.then(|| copied.clone())));
        }
        assert!(Place::read(&Position("{\"v\":2,\"lsn\":\"0/1\"}".to_owned())).is_err());
        assert!(parse("1").is_err() && parse("x/1").is_err());
    }

    #[test]
    fn a_copy_holds_what_its_snapshot_sees() {
        let copied = Copied { snapshot: "10:20:12,15".to_owned(), until: "0/100".to_owned() };
        for (xid, held) in [(9, true), (10, true), (11, true), (12, false), (15, false), (19, true), (20, false), (25, false)] {
            assert_eq!(copied.holds(xid, 0x50).expect("an answer"), held, "{xid}");
            assert!(!copied.holds(xid, 0x100).expect("an answer"));
        }
        // Numbers of transactions go round.
        let high = (1_u64 << 32) + 5;
        let round = Copied { snapshot: format!("{}:{high}:{}", high - 10, high - 1), until: "0/100".to_owned() };
        assert!(round.holds(u32::MAX - 100, 0x50).expect("an answer"));
        assert!(
            !round.holds(4, 0x50).expect("an answer")
                && round.holds(3, 0x50).expect("an answer")
                && !round.holds(5, 0x50).expect("an answer")
        );
    }
}
