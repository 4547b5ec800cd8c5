//! The level of a cache that processes share: hashes in Redis, one for each key.
//!
//! A hash holds the columns of a row as texts, NULL columns left out, and up to two fields of haul's own:
//!
//! - `haul:row`, what is known of it: `FORM KIND VERSION SINCE UNTIL`. The form stands for the cache and its columns ([`meta`]); the kind is `r`
//!   for a row, `n` for a key that the origin has no row of, `g` for a row that was removed; versions have 16 digits, and times are microseconds.
//! - `haul:lock`, who loads it: `TOKEN UNTIL`. A key that nobody has a row of is locked by a hash of this field alone, which expires.
//!
//! Versions are compared, locks taken and times read by scripts on the node that holds the key ([`scripts`]): the clocks of the processes do
//! not matter, and what is compared with each other was written by one clock.
//!
//! A cache that is filled has [`generations`]: the names of its hashes end in `@` and a number, and a control hash says which one is seen.
//! So a filling is beside what lookups see until the control hash names it, in one step.

mod generations;
mod locks;
mod meta;
mod names;
mod read;
mod scripts;
mod write;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use redis::Value;

use self::names::Names;
use self::scripts::Script;
use crate::connectors::redis::{Command, Replies, Server, reply};
use crate::data::Schema;
use crate::failure::Failure;
use crate::load::template::KeyTemplate;

pub use generations::Begun;
pub use locks::Lock;
pub use read::Found;
pub use write::{Kind, Put};

/// What the fields of haul's own begin with; no column is called so.
pub const OWN: &str = "haul:";
/// What is known of a row.
const ROW: &str = "haul:row";
/// Commands that are built, sent and answered at a time.
const PART: usize = 4096;

/// The hashes of one cache.
pub struct Remote {
    server: Arc<Server>,
    names: Names,
    schema: Schema,
    /// Of the cache and its columns: rows of another form are not there.
    form: String,
    /// Whether the names have generations.
    generations: bool,
    /// How old a filling may be whose rows have no end of their own.
    oldest: Option<Duration>,
    /// The generation that was seen last; 0 for none.
    current: AtomicU64,
}

impl Remote {
    /// Connects to nothing yet. `key` are the numbers of the columns that name a row.
    pub fn new(server: Arc<Server>, template: &KeyTemplate, schema: &Schema, key: &[usize], generations: bool) -> Self {
        let names = Names::new(template, schema, key);
        let form = meta::form(&names.control(), schema);
        Self { server, names, schema: schema.clone(), form, generations, oldest: None, current: AtomicU64::new(0) }
    }

    /// Refuses lookups once the filling is older than this.
    #[must_use]
    pub fn no_older_than(self, oldest: Option<Duration>) -> Self {
        Self { oldest, ..self }
    }

    async fn call(&self, commands: &[Command]) -> Result<Replies, Failure> {
        self.server.call(commands).await
    }

    /// Sends commands that run a script, which nodes are given that do not know it.
    async fn run(&self, script: &Script, commands: &[Command]) -> Result<Replies, Failure> {
        let mut replies = self.call(commands).await?;
        let unknown = |reply: &Value| matches!(reply, Value::ServerError(error) if error.code() == "NOSCRIPT");
        let again: Vec<usize> = (0..replies.len()).filter(|at| unknown(&replies[*at])).collect();
        if again.is_empty() {
            return Ok(replies);
        }
        for master in &self.server.topology().await?.masters {
            reply::good(self.server.on(&master.address, &[script.load()]).await?.pop().unwrap_or_default())?;
        }
        let commands: Vec<Command> = again.iter().map(|at| commands[*at].clone()).collect();
        for (at, reply) in again.into_iter().zip(self.call(&commands).await?) {
            replies[at] = reply;
        }
        Ok(replies)
    }

    /// Runs a script on the control hash.
    async fn control_script(&self, script: &Script, arguments: &[&str]) -> Result<Value, Failure> {
        let command = arguments.iter().fold(script.on(&self.names.control()), |command, argument| command.arg(*argument));
        reply::good(self.run(script, &[command]).await?.pop().unwrap_or_default())
    }

    /// The answer to a command about one of the cache's keys.
    fn of_key(&self, name: &[u8], answer: Value) -> Result<Value, Failure> {
        // Servers before 7.0 tell of it in the text of what went wrong in a script.
        let other_type = |text: Option<&str>| text.is_some_and(|text| text.contains("WRONGTYPE"));
        match &answer {
            Value::ServerError(error) if other_type(Some(error.code())) || other_type(error.details()) => Err(self.foreign(name)),
            _ => reply::good(answer),
        }
    }

    /// A key of the server that holds what this cache did not write.
    fn foreign(&self, name: &[u8]) -> Failure {
        let name = String::from_utf8_lossy(name);
        Failure::permanent(format!("`{name}` in `{}` holds something that no cache has written", self.server.name()))
            .help("give the cache's keys another name in `in: { key: … }`, or remove what is there")
    }
}
