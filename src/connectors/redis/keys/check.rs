//! Whether a key holds what commands would make: each command is turned into questions and the answers they must have. Nothing is written.

use redis::Value as Reply;

use super::pieces::words;
use crate::connectors::redis::Command;
use crate::connectors::redis::reply::{bytes, integer, items, text};
use crate::failure::Failure;

/// A question to a key, and the answer that is right.
pub(super) struct Check {
    pub command: Command,
    right: Right,
}

/// Right answers.
enum Right {
    /// These bytes.
    Bytes(Vec<u8>),
    /// These, in this order.
    Words(Vec<Vec<u8>>),
    /// The same number, however it is written.
    Score(Vec<u8>),
    /// This number.
    Number(u64),
    /// One entry of a stream with these fields.
    Entry(Vec<Vec<u8>>),
    /// A mapping with this field.
    Field(&'static str, Vec<u8>),
    /// A mapping among the items with this name, and this field when one is given.
    Named(Vec<u8>, Option<(&'static str, Vec<u8>)>),
    /// A pending entry of this consumer that was delivered so often.
    Pending(Vec<u8>, Vec<u8>),
}

/// How far the pieces of a key were checked: bytes of a string, elements of anything else.
#[derive(Debug, Default)]
pub(super) struct Progress(u64);

/// The type of the key that a command makes, as `TYPE` says it.
pub(super) fn type_of(command: &str) -> &'static str {
    match command {
        "SET" | "APPEND" => "string",
        "RPUSH" => "list",
        "SADD" => "set",
        "ZADD" => "zset",
        "HSET" => "hash",
        _ => "stream",
    }
}

/// The questions of one command of a piece.
pub(super) fn of_command(name: &str, of: &[&[u8]], key: &[u8], progress: &mut Progress, checks: &mut Vec<Check>) {
    let ask = |command: &str| Command::new(command).key(key);
    let word = |at: usize| of.get(at).map(|word| word.to_vec()).unwrap_or_default();
    let mut check = |command: Command, right: Right| checks.push(Check { command, right });
    let at = progress.0;
    match name {
        "SET" | "APPEND" => {
            let stretch = word(0);
            progress.0 += stretch.len() as u64;
            if !stretch.is_empty() {
                check(ask("GETRANGE").arg(at).arg(progress.0 - 1), Right::Bytes(stretch));
            }
        }
        "RPUSH" => {
            progress.0 += of.len() as u64;
            check(ask("LRANGE").arg(at).arg(progress.0 - 1), Right::Words(of.iter().map(|word| word.to_vec()).collect()));
        }
        "SADD" => {
            progress.0 += of.len() as u64;
            of.iter().for_each(|member| check(ask("SISMEMBER").arg(*member), Right::Number(1)));
        }
        "ZADD" => {
            progress.0 += of.len() as u64 / 2;
            of.chunks_exact(2).for_each(|pair| check(ask("ZSCORE").arg(pair[1]), Right::Score(pair[0].to_vec())));
        }
        "HSET" => {
            progress.0 += of.len() as u64 / 2;
            let fields = of.iter().step_by(2).fold(ask("HMGET"), |command, field| command.arg(*field));
            check(fields, Right::Words(of.iter().skip(1).step_by(2).map(|value| value.to_vec()).collect()));
        }
        // A stream without entries is made with one that is dropped.
        "XADD" if of.first() == Some(&&b"MAXLEN"[..]) => {}
        "XADD" => {
            progress.0 += 1;
            check(ask("XRANGE").arg(of[0]).arg(of[0]), Right::Entry(of[1..].iter().map(|word| word.to_vec()).collect()));
        }
        "XSETID" => check(ask("XINFO STREAM"), Right::Field("last-generated-id", word(0))),
        "XGROUP CREATE" => check(ask("XINFO GROUPS"), Right::Named(word(0), Some(("last-delivered-id", word(1))))),
        "XGROUP CREATECONSUMER" => check(ask("XINFO CONSUMERS").arg(word(0)), Right::Named(word(1), None)),
        "XCLAIM" => check(ask("XPENDING").arg(word(0)).arg(word(3)).arg(word(3)).arg(1), Right::Pending(word(1), word(7))),
        _ => {}
    }
}

/// The last question: that there is nothing more.
pub(super) fn of_length(ty: &str, key: &[u8], progress: &Progress) -> Check {
    let length = match ty {
        "string" => "STRLEN",
        "list" => "LLEN",
        "set" => "SCARD",
        "zset" => "ZCARD",
        "hash" => "HLEN",
        _ => "XLEN",
    };
    Check { command: Command::new(length).key(key), right: Right::Number(progress.0) }
}

impl Check {
    /// Whether an answer is right. A refusal is wrong: the key holds another type, or none.
    pub(super) fn is_right(&self, reply: Reply) -> Result<bool, Failure> {
        if matches!(&reply, Reply::ServerError(error) if error.code() == "WRONGTYPE" || error.code() == "ERR" || error.code() == "NOGROUP")
        {
            return Ok(false);
        }
        Ok(match &self.right {
            Right::Bytes(right) => bytes(reply)?.as_ref() == Some(right),
            Right::Words(right) => words(items(reply)?)? == *right,
            Right::Score(right) => bytes(reply)?.is_some_and(|score| same_score(&score, right)),
            Right::Number(right) => integer(reply)?.unsigned_abs() == *right,
            Right::Entry(right) => match items(reply)?.pop() {
                None => false,
                Some(entry) => words(items(items(entry)?.pop().unwrap_or_default())?)? == *right,
            },
            Right::Field(name, right) => has_field(reply, name, right)?,
            Right::Named(name, field) => {
                let mut found = false;
                for one in items(reply)? {
                    let named = has_field(one.clone(), "name", name)?;
                    found |= named && field.as_ref().map_or(Ok(true), |(name, right)| has_field(one, name, right))?;
                }
                found
            }
            Right::Pending(consumer, count) => match items(reply)?.pop() {
                None => false,
                Some(entry) => {
                    let entry = words(items(entry)?)?;
                    entry.get(1) == Some(consumer) && entry.get(3) == Some(count)
                }
            },
        })
    }
}

fn same_score(one: &[u8], other: &[u8]) -> bool {
    let number = |text: &[u8]| std::str::from_utf8(text).ok().and_then(|text| text.parse::<f64>().ok());
    one == other || number(one).zip(number(other)).is_some_and(|(one, other)| one == other)
}

fn has_field(mapping: Reply, name: &str, right: &[u8]) -> Result<bool, Failure> {
    let mut fields = items(mapping)?.into_iter();
    while let (Some(field), Some(value)) = (fields.next(), fields.next()) {
        if text(field)? == name {
            return Ok(words(vec![value])?[0] == right);
        }
    }
    Ok(false)
}
