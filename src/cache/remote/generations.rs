//! Fillings: which one is seen, which one is under way, and what becomes of the others.

use std::borrow::Cow;
use std::sync::atomic::Ordering;

use redis::Value;

use super::meta::HALF;
use super::names::{generation_of, in_generation};
use super::scripts::{BEGIN, SHOW, SWEEP};
use super::{Put, Remote};
use crate::connectors::redis::{Command, reply};
use crate::failure::Failure;

/// Keys that the server looks at in one step of a sweep.
const SCANNED: u32 = 1000;

/// What the control hash says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Control {
    /// The generation that is seen; 0 for none.
    pub current: u64,
    /// The one that is being filled; 0 for none.
    pub filling: u64,
    /// Rows of the one that is seen.
    pub rows: u64,
    /// When it began, in microseconds.
    pub since_us: u64,
    /// The form of its rows.
    pub form: String,
}

impl Control {
    fn read(hash: Value) -> Result<Self, Failure> {
        let mut fields = reply::items(hash)?.into_iter();
        let mut number = || reply::integer(fields.next().unwrap_or_default()).map(|number| u64::try_from(number).unwrap_or(0));
        let (current, filling, rows, since_us) = (number()?, number()?, number()?, number()?);
        let form = reply::bytes(fields.next().unwrap_or_default())?.unwrap_or_default();
        Ok(Self { current, filling, rows, since_us, form: String::from_utf8_lossy(&form).into_owned() })
    }
}

/// A filling that has begun.
#[derive(Clone, Copy, Debug, Default)]
pub struct Begun {
    /// Its generation.
    pub generation: u64,
    /// When that was, in microseconds by the server's clock.
    pub since_us: u64,
}

impl Remote {
    pub(super) fn control_command(&self) -> Command {
        let fields = ["current", "filling", "rows", "since", "form"];
        fields.iter().fold(Command::new("HMGET").key(&self.names.control()), |command, field| command.arg(*field))
    }

    pub(super) fn read_control(&self, reply: Value) -> Result<Control, Failure> {
        Control::read(reply)
    }

    async fn control(&self) -> Result<Control, Failure> {
        Control::read(self.call(&[self.control_command()]).await?.pop().unwrap_or_default())
    }

    /// Rows of the generation that is seen.
    pub async fn rows(&self) -> Result<u64, Failure> {
        Ok(self.control().await?.rows)
    }

    /// The name of a hash in the generation that was seen last.
    pub fn seen<'n>(&self, name: &'n [u8]) -> Cow<'n, [u8]> {
        self.named(name, self.current.load(Ordering::Relaxed))
    }

    /// The name of a hash in a generation.
    pub fn named<'n>(&self, name: &'n [u8], generation: u64) -> Cow<'n, [u8]> {
        if self.generations { Cow::Owned(in_generation(name, generation)) } else { Cow::Borrowed(name) }
    }

    /// Begins a filling; older ones can no longer be shown from here on.
    pub async fn begin(&self) -> Result<Begun, Failure> {
        let answer = reply::items(self.control_script(&BEGIN, &[]).await?)?;
        let numbers: Vec<i64> = answer.into_iter().map(reply::integer).collect::<Result<_, _>>()?;
        match numbers.as_slice() {
            [generation, since_us] => Ok(Begun { generation: generation.unsigned_abs(), since_us: since_us.unsigned_abs() }),
            _ => Err(Failure::permanent("the server did not begin a filling")),
        }
    }

    /// Lets a filling be seen. False when a newer one has begun.
    pub async fn show(&self, begun: Begun, rows: u64) -> Result<bool, Failure> {
        let arguments = [begun.generation.to_string(), rows.to_string(), begun.since_us.to_string(), self.form.clone()];
        let shown = reply::integer(self.control_script(&SHOW, &arguments.each_ref().map(String::as_str)).await?)? == 1;
        if shown {
            self.current.store(begun.generation, Ordering::Relaxed);
        }
        Ok(shown)
    }

    /// Writes hashes for everybody: to the generation that is seen, and to one that is being filled, which knows nothing of the change. When
    /// another one has come up meanwhile, it is written as well. The names are without a generation.
    pub async fn change(&self, puts: &[Put<'_>], columns: &[arrow::array::ArrayRef]) -> Result<(), Failure> {
        if !self.generations {
            return self.put(puts, columns).await.map(drop);
        }
        let mut written = Vec::new();
        loop {
            let control = self.control().await?;
            let open = [control.current, control.filling].into_iter().find(|open| *open > 0 && !written.contains(open));
            let Some(generation) = open else { return Ok(()) };
            let names: Vec<Vec<u8>> = puts.iter().map(|put| in_generation(put.name, generation)).collect();
            let puts: Vec<Put<'_>> = puts.iter().zip(&names).map(|(put, name)| Put { name, ..*put }).collect();
            self.put(&puts, columns).await?;
            written.push(generation);
        }
    }

    /// Removes the hashes of generations that nobody sees any more, those of fillings that were cut included.
    pub async fn sweep(&self) -> Result<(), Failure> {
        let control = self.control().await?;
        let pattern = self.names.pattern();
        // Newer ones belong to fillings that began since.
        let old = |generation: u64| generation < control.current && generation != control.filling;
        for master in &self.server.topology().await?.masters {
            let mut cursor = b"0".to_vec();
            loop {
                let scan = Command::new("SCAN").arg(cursor).arg("MATCH").arg(pattern.as_str()).arg("COUNT").arg(SCANNED);
                let answer = self.server.on(&master.address, &[scan]).await?.pop().unwrap_or_default();
                let mut answer = reply::items(answer)?.into_iter();
                cursor = reply::bytes(answer.next().unwrap_or_default())?.unwrap_or_default();
                let mut removals = Vec::new();
                for key in reply::items(answer.next().unwrap_or_default())? {
                    let key = reply::bytes(key)?.unwrap_or_default();
                    if generation_of(&key).is_some_and(old) {
                        removals.push(SWEEP.on(&key).arg(&self.form[..HALF]));
                    }
                }
                self.run(&SWEEP, &removals).await?.into_iter().try_for_each(|answer| reply::good(answer).map(drop))?;
                if cursor == b"0" || cursor.is_empty() {
                    break;
                }
            }
        }
        Ok(())
    }
}
