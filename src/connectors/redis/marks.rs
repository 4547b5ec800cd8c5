//! The record of loads and marks, kept on the server that the data is on.
//!
//! Each output of each stage of each pipeline has three keys with one hash tag, so that they share a slot: `…:load`, a hash that says who
//! wrote it last and how far it is; `…:marks`, a hash with one field for each committed split; and `…:epoch`, a counter that every claim
//! raises. A transaction that watches the counter cannot be carried out once a newer worker has claimed the load. Such transactions also write
//! the `…:turn:…` of their split, and watch it: of two attempts of one worker, the one that was thought lost cannot be carried out any more.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use redis::Value;
use serde::{Deserialize, Serialize};

use super::error::FAILOVER;
use super::reply::{bytes, good, integer, items, text};
use super::topology::SLOTS;
use super::{Address, Command, Lease, Master, Server, slot};
use crate::connectors::{Claim, FoundLoad, LoadKey, Mark, moved_on};
use crate::data::Position;
use crate::define::pipeline::RESERVED;
use crate::failure::{Failure, FailureKind};

/// The version of the records' form, kept with every load and mark.
const FORMAT: u32 = 1;

/// How long a turn is remembered, in milliseconds: longer than any command of a lost connection is on its way.
const TURN_MS: u64 = 24 * 60 * 60 * 1000;

/// Why a server knows less than it has told.
const FORGOT: &str = "it was started again without its last writes; see its `appendfsync`";

/// `KEYS`: load, marks, epoch. `ARGV`: run, plan hash, format.
const CLAIM: &str = "
    local epoch = redis.call('INCR', KEYS[3])
    local load = redis.call('HMGET', KEYS[1], 'state', 'run', 'continued_by', 'plan_hash', 'note')
    if not load[1] then
        redis.call('HSET', KEYS[1], 'format', ARGV[3], 'state', 'claimed', 'run', ARGV[1], 'plan_hash', ARGV[2], 'note', '')
        return {epoch, 0}
    end
    local ours = load[2] == ARGV[1] or load[3] == ARGV[1]
    local begun = load[1] ~= 'claimed'
    local goes_on = begun and load[4] == ARGV[2] and (ours or load[1] ~= 'published')
    if goes_on and not ours then redis.call('HSET', KEYS[1], 'continued_by', ARGV[1]) end
    local marks = {}
    if begun then marks = redis.call('HGETALL', KEYS[2]) end
    return {epoch, goes_on and 1 or 0, load[1], load[2], load[5], marks}";

/// `KEYS`: load, marks, epoch. `ARGV`: epoch, run, plan hash, note, format. Gives a list of the counter alone when it is not the worker's epoch,
/// as [`PUBLISH`] and [`ADVANCE`] do.
const BEGIN: &str = "
    local found = redis.call('GET', KEYS[3])
    if found ~= ARGV[1] then return {tonumber(found or 0)} end
    redis.call('DEL', KEYS[1], KEYS[2])
    redis.call('HSET', KEYS[1], 'format', ARGV[5], 'state', 'open', 'run', ARGV[2], 'plan_hash', ARGV[3], 'note', ARGV[4])
    return 1";

/// `KEYS`: load, marks, epoch. `ARGV`: epoch.
const PUBLISH: &str = "
    local found = redis.call('GET', KEYS[3])
    if found ~= ARGV[1] then return {tonumber(found or 0)} end
    redis.call('HSET', KEYS[1], 'state', 'published')
    return 1";

/// `KEYS`: load, marks, epoch.
const FORGET: &str = "
    redis.call('DEL', KEYS[2])
    if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], 'state', 'claimed') end
    return 1";

/// `KEYS`: load, marks, epoch. `ARGV`: epoch, split, mark, the place of the mark before it, its own place. Gives 2 when the split has another
/// mark than these two.
const ADVANCE: &str = "
    local found = redis.call('GET', KEYS[3])
    if found ~= ARGV[1] then return {tonumber(found or 0)} end
    local known = redis.call('HGET', KEYS[2], ARGV[2])
    local place = ''
    if known then
        local mark = cjson.decode(known)
        place = tostring(mark.rows) .. '/' .. (mark.position or '')
    end
    if place == ARGV[5] then return 1 end
    if place ~= ARGV[4] then return 2 end
    redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
    return 1";

/// Where the records of one output are.
#[derive(Clone)]
pub struct Marks {
    server: Arc<Server>,
    prefix: String,
    load: Vec<u8>,
    marks: Vec<u8>,
    epoch: Vec<u8>,
    stage: String,
    told: Told,
}

/// The splits that this process believes to be committed whole.
pub type Told = Arc<Mutex<BTreeSet<String>>>;

/// What a writer finds before it writes.
pub struct Standing {
    /// The newest epoch that was claimed.
    pub epoch: u64,
    /// Whether the load is published.
    pub published: bool,
    /// The mark of the split, when all of it or its beginning is committed.
    pub mark: Option<Mark>,
}

#[derive(Serialize, Deserialize)]
struct Written {
    v: u32,
    rows: u64,
    digest: String,
    rejects: u64,
    epoch: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    position: Option<Position>,
}

impl Marks {
    /// The records of an output, in the slot that its data is in, or in one of their own.
    pub fn new(server: Arc<Server>, key: &LoadKey, with: Option<u16>, told: Told) -> Self {
        let own = format!("{}/{}/{}", key.pipeline, key.stage, key.output).replace(['{', '}'], "_");
        let prefix = match with {
            None => format!("{RESERVED}{own}}}"),
            Some(slot) => format!("{RESERVED}{}}}:{own}", tag_of(slot)),
        };
        let name = |what: &str| format!("{prefix}:{what}").into_bytes();
        Self { server, load: name("load"), marks: name("marks"), epoch: name("epoch"), stage: key.stage.clone(), prefix, told }
    }

    /// Begins a transaction on a connection: it will not be carried out once a newer worker has claimed the load, or another attempt at the
    /// split has written. `before` is the mark that this attempt went on from.
    pub async fn watch(&self, connection: &mut Lease, epoch: u64, split: &str, before: Option<&Mark>) -> Result<(), Failure> {
        let watch = Command::new("WATCH").key(&self.epoch).key(&self.turn(split));
        let [counter, mark] = self.asked(split);
        let mut replies = connection.send(&[watch, counter, mark]).await?.into_iter();
        let mut next = || replies.next().unwrap_or_default();
        good(next())?;
        let found = counted(next())?;
        if found != epoch {
            return Err(self.not_owned(epoch, found));
        }
        if self.answered(split, next())?.as_ref() == before { Ok(()) } else { Err(moved_on(split)) }
    }

    /// A command of every transaction that [`Marks::watch`] begins.
    pub fn take_turn(&self, split: &str) -> Command {
        Command::new("SET").key(&self.turn(split)).arg("").arg("PX").arg(TURN_MS)
    }

    fn turn(&self, split: &str) -> Vec<u8> {
        format!("{}:turn:{split}", self.prefix).into_bytes()
    }

    /// The commands that ask for the counter and for the mark of a split.
    fn asked(&self, split: &str) -> [Command; 2] {
        [Command::new("GET").key(&self.epoch), Command::new("HGET").key(&self.marks).arg(split)]
    }

    fn answered(&self, split: &str, mark: Value) -> Result<Option<Mark>, Failure> {
        bytes(mark)?.map(|written| self.read_mark(split.to_owned(), &written)).transpose()
    }

    async fn run(&self, script: &str, arguments: &[&str]) -> Result<Value, Failure> {
        let command = Command::new("EVAL").arg(script).arg(3).key(&self.load).key(&self.marks).key(&self.epoch);
        let command = arguments.iter().fold(command, |command, argument| command.arg(*argument));
        let reply = good(self.server.call(&[command]).await?.pop().unwrap_or_default())?;
        self.replicated().await?;
        Ok(reply)
    }

    /// Waits until a replica has the records, and what was written to their node before.
    pub async fn replicated(&self) -> Result<(), Failure> {
        self.server.replicated_on(&self.master().await?).await
    }

    /// The node that the records are on.
    pub async fn node(&self) -> Result<Address, Failure> {
        Ok(self.master().await?.address)
    }

    async fn master(&self) -> Result<Master, Failure> {
        let topology = self.server.topology().await?;
        let master = topology.master(slot(&self.epoch)).cloned();
        master.ok_or_else(|| Failure::transient("the slot of the records has no master").retry_after(Some(FAILOVER)))
    }

    /// Runs a script for the worker that has claimed the load.
    async fn run_owned(&self, script: &str, epoch: u64, arguments: &[&str]) -> Result<i64, Failure> {
        match self.run(script, arguments).await? {
            Value::Array(mut found) => Err(self.not_owned(epoch, counted(found.pop().unwrap_or_default())?)),
            answer => integer(answer),
        }
    }

    /// What a worker is told that finds another counter than its epoch: a newer one has claimed the load. No claim makes the counter smaller:
    /// a server that tells so has forgotten some, and the load is to be claimed again.
    pub fn not_owned(&self, epoch: u64, found: u64) -> Failure {
        let stage = &self.stage;
        if found > epoch {
            return Failure::new(FailureKind::Fenced, format!("another worker took over the load of stage `{stage}`"));
        }
        let message = format!("`{}` has forgotten who claimed the load of stage `{stage}`", self.server.name());
        Failure::transient(message).help(FORGOT).view_lost()
    }

    /// Takes the load over. Rows of an unfinished load of another plan are visible already, unless they were `staged`.
    pub async fn claim(&self, key: &LoadKey) -> Result<Claim, Failure> {
        let reply = self.run(CLAIM, &[&key.run, &key.plan_hash, &FORMAT.to_string()]).await?;
        let mut fields = items(reply)?.into_iter();
        let mut next = || fields.next().unwrap_or_default();
        let epoch = counted(next())?;
        let goes_on = integer(next())? == 1;
        let state = next();
        if state == Value::Nil {
            return Ok(Claim { epoch, ..Claim::default() });
        }
        let published = text(state)? == "published";
        let (run, note) = (text(next())?, text(next())?);
        let marks = self.read_marks(next())?;
        let left_behind = if goes_on || published { 0 } else { marks.iter().map(|mark| mark.rows).sum() };
        let left_by = (left_behind > 0).then(|| run.clone());
        Ok(Claim { epoch, found: goes_on.then_some(FoundLoad { run, note, marks, published }), left_behind, left_by })
    }

    fn read_marks(&self, reply: Value) -> Result<Vec<Mark>, Failure> {
        let mut marks = Vec::new();
        let mut fields = items(reply)?.into_iter();
        while let (Some(split), Some(written)) = (fields.next(), fields.next()) {
            marks.push(self.read_mark(text(split)?, &bytes(written)?.unwrap_or_default())?);
        }
        marks.sort_by(|one, other| one.split.cmp(&other.split));
        Ok(marks)
    }

    fn read_mark(&self, split: String, written: &[u8]) -> Result<Mark, Failure> {
        let odd = |why: String| Failure::permanent(format!("the mark of split `{split}` of stage `{}` cannot be read: {why}", self.stage));
        let written: Written = serde_json::from_slice(written).map_err(|error| odd(error.to_string()))?;
        if written.v != FORMAT {
            return Err(odd(format!("it has version {}", written.v)).help("finish the load with the version of haul that began it"));
        }
        let digest = written.digest.parse().map_err(odd)?;
        Ok(Mark { split: split.clone(), rows: written.rows, digest, rejects: written.rejects, position: written.position })
    }

    /// Begins the load anew, without marks.
    pub async fn begin(&self, key: &LoadKey, epoch: u64, note: &str) -> Result<(), Failure> {
        self.told().clear();
        let arguments = [&epoch.to_string(), &key.run, &key.plan_hash, note, &FORMAT.to_string()];
        self.run_owned(BEGIN, epoch, &arguments).await.map(drop)
    }

    fn told(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers that a mark was committed.
    pub fn committed(&self, mark: &Mark) {
        if mark.position.is_none() {
            self.told().insert(mark.split.clone());
        }
    }

    /// Fails when the server has forgotten commits: it was started again without its last writes, or a replica without them took over. The load
    /// is then claimed again, and what is missing written again.
    async fn remembered(&self) -> Result<(), Failure> {
        let told: Vec<String> = self.told().iter().cloned().collect();
        if told.is_empty() {
            return Ok(());
        }
        let command = told.iter().fold(Command::new("HMGET").key(&self.marks), |command, split| command.arg(split.as_str()));
        let found = items(self.server.call(&[command]).await?.pop().unwrap_or_default())?;
        let forgotten: Vec<&String> = told.iter().zip(found).filter(|(_, mark)| *mark == Value::Nil).map(|(split, _)| split).collect();
        if forgotten.is_empty() {
            return Ok(());
        }
        let mut known = self.told();
        known.retain(|split| !forgotten.contains(&split));
        let (server, stage) = (self.server.name(), &self.stage);
        let message = format!("`{server}` has forgotten {} of {} splits of stage `{stage}`", forgotten.len(), told.len());
        Err(Failure::transient(message).help(FORGOT).view_lost())
    }

    /// Says that the load is finished.
    pub async fn publish(&self, epoch: u64) -> Result<(), Failure> {
        self.remembered().await?;
        self.run_owned(PUBLISH, epoch, &[&epoch.to_string()]).await.map(drop)
    }

    /// Removes the marks, and the load's claim to be gone on with.
    pub async fn forget(&self) -> Result<(), Failure> {
        self.run(FORGET, &[]).await.map(drop)
    }

    /// Records how far a split is written, in a step of its own, over the mark that this worker went on from: rows, and `None` when there was none. Another mark than
    /// these two is of an attempt that was thought lost.
    pub async fn advance(&self, epoch: u64, before: Option<&Mark>, mark: &Mark) -> Result<(), Failure> {
        let place = |mark: Option<&Mark>| mark.map_or_else(String::new, place);
        let arguments = [&epoch.to_string(), &mark.split, &self.written(epoch, mark)?, &place(before), &place(Some(mark))];
        match self.run_owned(ADVANCE, epoch, &arguments.map(String::as_str)).await? {
            1 => Ok(()),
            _ => Err(moved_on(&mark.split)),
        }
    }

    /// Records how far a split is written, as a command of the transaction that writes it.
    pub fn record(&self, epoch: u64, mark: &Mark) -> Result<Command, Failure> {
        Ok(Command::new("HSET").key(&self.marks).arg(mark.split.as_str()).arg(self.written(epoch, mark)?))
    }

    fn written(&self, epoch: u64, mark: &Mark) -> Result<String, Failure> {
        let written = Written {
            v: FORMAT,
            rows: mark.rows,
            digest: mark.digest.to_string(),
            rejects: mark.rejects,
            epoch,
            position: mark.position.clone(),
        };
        serde_json::to_string(&written).map_err(|error| Failure::permanent("a mark cannot be written down").cause(error))
    }

    /// How a split of the load stands.
    pub async fn standing(&self, split: &str) -> Result<Standing, Failure> {
        let [counter, mark] = self.asked(split);
        let mut replies = self.server.call(&[counter, mark, Command::new("HGET").key(&self.load).arg("state")]).await?.into_iter();
        let mut next = || replies.next().unwrap_or_default();
        let epoch = counted(next())?;
        let mark = self.answered(split, next())?;
        let published = bytes(next())?.is_some_and(|state| state == b"published");
        Ok(Standing { epoch, published, mark })
    }
}

/// The counter of claims; 0 when there is none.
fn counted(reply: Value) -> Result<u64, Failure> {
    Ok(u64::try_from(integer(reply)?).unwrap_or(0))
}

/// What tells one mark of a split from another, as the script makes it too.
fn place(mark: &Mark) -> String {
    format!("{}/{}", mark.rows, mark.position.as_ref().map_or("", |position| position.0.as_str()))
}

/// A hash tag whose slot is a given one: the first number that falls into it.
pub(super) fn tag_of(wanted: u16) -> u32 {
    static TAGS: OnceLock<Vec<u32>> = OnceLock::new();
    let tags = TAGS.get_or_init(|| {
        let mut tags = vec![u32::MAX; usize::from(SLOTS)];
        // Every slot has a number well below this bound; see the test.
        for number in 0..16 * u32::from(SLOTS) {
            let found = &mut tags[usize::from(slot(number.to_string().as_bytes()))];
            *found = (*found).min(number);
        }
        tags
    });
    tags[usize::from(wanted)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_has_a_tag() {
        let mut found = vec![false; usize::from(SLOTS)];
        for number in 0..16 * u32::from(SLOTS) {
            found[usize::from(slot(number.to_string().as_bytes()))] = true;
        }
        assert!(found.iter().all(|found| *found));
        assert_eq!(slot(format!("haul:{{{}}}:x", tag_of(12182)).as_bytes()), 12182);
    }
}
