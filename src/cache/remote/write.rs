//! Rows → hashes.

use arrow::array::ArrayRef;

use super::scripts::PUT;
use super::{PART, Remote};
use crate::connectors::redis::{Command, reply};
use crate::data::text::Printer;
use crate::failure::Failure;

/// How long a removed row is remembered, in milliseconds: longer than any load or filling that read it before.
const GONE_MS: u64 = 24 * 3_600_000;

/// What a hash says of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It has this row.
    Row,
    /// The origin has none.
    Nowhere,
    /// It was removed.
    Gone,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Row => "r",
            Self::Nowhere => "n",
            Self::Gone => "g",
        }
    }

    /// The kind of a word.
    pub fn of(word: &str) -> Option<Self> {
        [Self::Row, Self::Nowhere, Self::Gone].into_iter().find(|kind| kind.word() == word)
    }
}

/// One hash to write.
#[derive(Clone, Copy)]
pub struct Put<'a> {
    /// Its whole name.
    pub name: &'a [u8],
    /// What it says.
    pub kind: Kind,
    /// `None` for that of its time.
    pub version: Option<u64>,
    /// When it was true, in microseconds by the clock of its node; `None` is now.
    pub since_us: Option<u64>,
    /// How long it is served from now on, in microseconds; `None` without end.
    pub life_us: Option<u64>,
    /// How long it is kept beyond that, in microseconds.
    pub beyond_us: u64,
    /// The number of its row.
    pub row: usize,
}

/// What became of a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Whether it is there; false when what is there is newer.
    pub written: bool,
    /// Whether it was the first of its time: a filling counts each key once.
    pub first: bool,
}

impl Put<'_> {
    fn command(&self, form: &str) -> Command {
        let keep_ms = match (self.kind, self.life_us) {
            (Kind::Gone, _) => GONE_MS,
            (_, None) => 0,
            (_, Some(life_us)) => (life_us.saturating_add(self.beyond_us) / 1000).max(1),
        };
        let version = self.version.map_or_else(String::new, |version| format!("{version:016x}"));
        let since = self.since_us.map_or_else(String::new, |since| since.to_string());
        PUT.on(self.name).arg(form).arg(self.kind.word()).arg(version).arg(since).arg(self.life_us.unwrap_or(0)).arg(keep_ms)
    }
}

impl Remote {
    /// Writes hashes. `columns` are the cache's columns of the rows that the hashes of kind [`Kind::Row`] name.
    pub async fn put(&self, puts: &[Put<'_>], columns: &[ArrayRef]) -> Result<Vec<Written>, Failure> {
        let columns = self.schema.columns.iter().zip(columns);
        let columns: Vec<(&str, Printer<'_>)> =
            columns.map(|(column, array)| (column.name.as_str(), Printer::new(array, &column.ty))).collect();
        let mut text = Vec::new();
        let mut command = |put: &Put<'_>| {
            let mut command = put.command(&self.form);
            if put.kind == Kind::Row {
                for (name, printer) in columns.iter().filter(|(_, printer)| !printer.is_null(put.row)) {
                    text.clear();
                    printer.print_raw(put.row, &mut text);
                    command = command.arg(*name).arg(text.as_slice());
                }
            }
            command
        };
        let mut written = Vec::with_capacity(puts.len());
        for part in puts.chunks(PART) {
            let commands: Vec<Command> = part.iter().map(&mut command).collect();
            for (put, answer) in part.iter().zip(self.run(&PUT, &commands).await?) {
                match reply::integer(self.of_key(put.name, answer)?)? {
                    -1 => return Err(self.foreign(put.name)),
                    answer => written.push(Written { written: answer & 2 != 0, first: answer & 1 != 0 }),
                }
            }
        }
        Ok(written)
    }
}
