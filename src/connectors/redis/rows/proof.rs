//! Whether keys hold what was written to them. They are asked when all of a part is written: of what was written to a key twice, the last counts.

use std::collections::BTreeMap;

use redis::Value;

use super::encode::Expected;
use crate::clock;
use crate::connectors::redis::Command;
use crate::connectors::redis::reply::{bytes, integer, items};
use crate::define::pipeline::RowShape;
use crate::failure::Failure;

/// The keys of a part that are to be read back.
#[derive(Default)]
pub(super) struct Proofs(BTreeMap<Vec<u8>, Proof>);

/// What a key must hold.
struct Proof {
    expected: Expected,
    /// When it may be gone, in milliseconds since 1970, where the load says so.
    expires_ms: Option<i64>,
}

impl Proofs {
    /// Expects this of a key, in place of what was expected before.
    pub(super) fn add(&mut self, key: Vec<u8>, expected: Expected, expires_ms: Option<i64>) {
        let new = Proof { expected, expires_ms };
        match self.0.get_mut(&key) {
            Some(old) => old.followed_by(new),
            None => drop(self.0.insert(key, new)),
        }
    }

    /// The commands that ask for what the keys hold.
    pub(super) fn commands(&self, shape: RowShape) -> Vec<Command> {
        let mut commands = Vec::with_capacity(self.0.len());
        for (key, Proof { expected, .. }) in &self.0 {
            match expected {
                Expected::Fields(fields) => {
                    commands.push(fields.iter().fold(Command::new("HMGET").key(key), |command, (name, _)| command.arg(name.as_str())));
                }
                Expected::Text(_) => commands.push(Command::new("GET").key(key)),
                Expected::Members(members) => {
                    let name = if shape == RowShape::SortedSet { "ZSCORE" } else { "SISMEMBER" };
                    commands.extend(members.keys().map(|member| Command::new(name).key(key).arg(member.as_slice())));
                }
            }
        }
        commands
    }

    /// Compares what keys hold with what was written. A key whose time has come holds nothing, rightly.
    pub(super) fn compare(&self, answers: Vec<Value>) -> Result<(), Failure> {
        let mut answers = answers.into_iter();
        let mut next = || answers.next().unwrap_or_default();
        for (key, Proof { expected, expires_ms }) in &self.0 {
            let same = match expected {
                Expected::Fields(fields) => {
                    let found: Vec<Option<Vec<u8>>> = items(next())?.into_iter().map(bytes).collect::<Result<_, _>>()?;
                    found.len() == fields.len() && fields.iter().zip(&found).all(|((_, wanted), found)| wanted == found)
                }
                Expected::Text(wanted) => bytes(next())?.as_ref() == Some(wanted),
                Expected::Members(members) => {
                    let mut same = true;
                    for score in members.values() {
                        let answer = next();
                        same &= match score {
                            None => integer(answer)? == 1,
                            Some(score) => number(answer)? == Some(*score),
                        };
                    }
                    same
                }
            };
            if !same && expires_ms.is_none_or(|ms| ms > clock::now_ms()) {
                let key = String::from_utf8_lossy(key);
                return Err(Failure::permanent(format!("the key `{key}` does not hold what was written to it"))
                    .help("something else writes the key at the same time, or the server evicts keys: see its `maxmemory-policy`"));
            }
        }
        Ok(())
    }
}

impl Proof {
    fn followed_by(&mut self, new: Self) {
        match (&mut self.expected, new.expected) {
            // Members join those that are there, which go with whichever of the times comes first.
            (Expected::Members(old), Expected::Members(members)) => {
                old.extend(members);
                self.expires_ms = self.expires_ms.into_iter().chain(new.expires_ms).min();
            }
            (old, expected) => (*old, self.expires_ms) = (expected, new.expires_ms),
        }
    }
}

fn number(reply: Value) -> Result<Option<f64>, Failure> {
    if let Value::Double(number) = reply {
        return Ok(Some(number));
    }
    Ok(bytes(reply)?.and_then(|text| String::from_utf8_lossy(&text).parse().ok()))
}
