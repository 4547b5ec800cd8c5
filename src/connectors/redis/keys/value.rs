//! The two forms of a value.
//!
//! The first byte tells the form: `D`, and the payload of `DUMP` follows; or `C`, then one byte of flags (1: the first piece of the key, 2: the
//! last), then commands without their key. A command is its number of words and each word's length as 32-bit little-endian numbers, and the
//! words; the first holds the command's name, of one or two words, after which the key belongs.

use crate::connectors::redis::{Command, Version};
use crate::failure::Failure;

const DUMP: u8 = b'D';
const COMMANDS: u8 = b'C';
const FIRST: u8 = 1;
const LAST: u8 = 2;

/// The first version that takes the counters of a stream and of its groups.
const COUNTS: Version = Version(7, 0, 0);
/// The first version that creates consumers.
const CREATES_CONSUMERS: Version = Version(6, 2, 0);

/// Words of one command, at most: what a server takes in one go without holding others up.
pub(super) const MOST_WORDS: usize = 1000;

/// A command of a piece: its name, and its words but for the key.
pub(super) type Words<'a> = (&'a str, Vec<&'a [u8]>);

/// A value that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// The payload of `DUMP`.
    Dump(&'a [u8]),
    /// Commands that make a piece of the value.
    Piece {
        /// Whether it is the first of its key.
        first: bool,
        /// Whether it is the last.
        last: bool,
        /// The commands, as they are kept.
        commands: &'a [u8],
    },
}

/// Puts the payload of `DUMP` into its form.
pub(super) fn dump(payload: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(payload.len() + 1);
    value.push(DUMP);
    value.extend_from_slice(payload);
    value
}

/// Commands on their way into a value.
#[derive(Debug, Default)]
pub(super) struct Piece {
    bytes: Vec<u8>,
}

impl Piece {
    /// Adds one command.
    pub(super) fn command<'a>(&mut self, name: &str, words: impl IntoIterator<Item = &'a [u8], IntoIter: ExactSizeIterator>) {
        let words = words.into_iter();
        self.number(words.len() + 1);
        self.word(name.as_bytes());
        for word in words {
            self.word(word);
        }
    }

    /// Adds commands of one name over many words, of which `step` belong together.
    pub(super) fn many(&mut self, name: &str, words: &[Vec<u8>], step: usize) {
        for words in words.chunks(MOST_WORDS - MOST_WORDS % step) {
            self.command(name, words.iter().map(Vec::as_slice));
        }
    }

    fn number(&mut self, number: usize) {
        // Words are at most 512 MiB each, by the protocol.
        self.bytes.extend_from_slice(&u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes());
    }

    fn word(&mut self, word: &[u8]) {
        self.number(word.len());
        self.bytes.extend_from_slice(word);
    }

    /// The value that holds these commands.
    pub(super) fn value(&self, first: bool, last: bool) -> Vec<u8> {
        let mut value = Vec::with_capacity(self.bytes.len() + 2);
        value.extend([COMMANDS, if first { FIRST } else { 0 } | if last { LAST } else { 0 }]);
        value.extend_from_slice(&self.bytes);
        value
    }
}

impl<'a> Value<'a> {
    /// Reads a value.
    pub(super) fn read(value: &'a [u8]) -> Result<Self, Failure> {
        match value {
            [DUMP, payload @ ..] => Ok(Self::Dump(payload)),
            [COMMANDS, flags, commands @ ..] => Ok(Self::Piece { first: flags & FIRST != 0, last: flags & LAST != 0, commands }),
            _ => Err(odd()),
        }
    }
}

/// The commands of a piece: each a name and its words.
pub(super) fn commands(mut rest: &[u8]) -> Result<Vec<Words<'_>>, Failure> {
    let mut found = Vec::new();
    while !rest.is_empty() {
        let count = number(&mut rest)?;
        let mut words = Vec::with_capacity(count.min(MOST_WORDS + 1));
        for _ in 0..count {
            let length = number(&mut rest)?;
            let (word, after) = rest.split_at_checked(length).ok_or_else(odd)?;
            words.push(word);
            rest = after;
        }
        if words.is_empty() {
            return Err(odd());
        }
        let name = words.remove(0);
        found.push((std::str::from_utf8(name).map_err(|_| odd())?, words));
    }
    Ok(found)
}

/// A command of a piece, for a key of a server of some version.
pub(super) fn for_key(name: &str, words: &[&[u8]], key: &[u8], version: Version) -> Command {
    let most = match name {
        // What a stream counts besides is not known to older servers.
        "XSETID" if version < COUNTS => 1,
        "XGROUP CREATE" if version < COUNTS => 2,
        // A consumer is there once it has asked for what waits for it.
        "XGROUP CREATECONSUMER" if version < CREATES_CONSUMERS => {
            let asks = words.iter().fold(Command::new("XREADGROUP GROUP"), |command, word| command.arg(*word));
            return asks.arg("COUNT").arg(1).arg("STREAMS").key(key).arg("0");
        }
        _ => words.len(),
    };
    words.iter().take(most).fold(Command::new(name).key(key), |command, word| command.arg(*word))
}

fn number(rest: &mut &[u8]) -> Result<usize, Failure> {
    let (number, after) = rest.split_first_chunk::<4>().ok_or_else(odd)?;
    *rest = after;
    Ok(u32::from_le_bytes(*number) as usize)
}

fn odd() -> Failure {
    Failure::permanent("the column `value` does not hold what a redis input read").help("leave the column as it is; filter by the others")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back() {
        assert_eq!(Value::read(&dump(b"\x00ab")).expect("a value"), Value::Dump(b"\x00ab"));
        let mut piece = Piece::default();
        piece.command("XGROUP CREATE", [&b"g"[..], b"", b"\xff\x00"]);
        piece.many("RPUSH", &vec![b"x".to_vec(); 1001], 1);
        piece.many("HSET", &vec![b"y".to_vec(); 1002], 2);
        let value = piece.value(true, false);
        let Value::Piece { first: true, last: false, commands: kept } = Value::read(&value).expect("a value") else { panic!("{value:?}") };
        let found = commands(kept).expect("commands");
        assert_eq!(found[0], ("XGROUP CREATE", vec![&b"g"[..], b"", b"\xff\x00"]));
        let sizes: Vec<(&str, usize)> = found[1..].iter().map(|(name, words)| (*name, words.len())).collect();
        assert_eq!(sizes, [("RPUSH", 1000), ("RPUSH", 1), ("HSET", 1000), ("HSET", 2)]);
        let first = (1..kept.len()).find(|&cut| commands(&kept[..cut]).is_ok()).expect("an end of the first command");
        assert_eq!(commands(&kept[..first]).expect("the first command"), found[..1], "a cut inside of a command is told");
        assert!(Value::read(b"").is_err() && Value::read(b"C").is_err() && Value::read(b"Xa").is_err());
    }
}
