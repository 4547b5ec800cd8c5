//! The rows that are moved, and what each mode may and must leave of them.

use std::collections::BTreeMap;
use std::sync::OnceLock;

/// Rows of the source, with the ids 1 to this.
pub const COUNT: i64 = 40_000;

/// How rows meet what is there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Append,
    Replace,
    Upsert,
}

/// A table of two columns, by id; the payloads of an id that is there more than once stand side by side.
pub type Rows = BTreeMap<i64, Vec<String>>;

/// The payload of a row of the source. [`PAYLOAD_SQL`] says the same.
pub fn payload(id: i64) -> String {
    format!("row {id} {}.", "x".repeat(usize::try_from(id % 40).expect("a small number")))
}

/// [`payload`] in the SQL of PostgreSQL, over `id`.
pub const PAYLOAD_SQL: &str = "'row ' || id || ' ' || repeat('x', (id % 40)::int) || '.'";

/// What the source holds.
pub fn source() -> impl Iterator<Item = (i64, String)> {
    (1..=COUNT).map(|id| (id, payload(id)))
}

impl Mode {
    /// As pipelines write it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Replace => "replace",
            Self::Upsert => "upsert",
        }
    }

    /// What the target holds before the run.
    pub fn before(self) -> Vec<(i64, String)> {
        let kept = (-100..0).map(|id| (id, "there before".to_owned()));
        match self {
            Self::Append | Self::Replace => kept.collect(),
            Self::Upsert => kept.chain((1..=COUNT).step_by(2).map(|id| (id, "to be replaced".to_owned()))).collect(),
        }
    }

    /// What it must hold when the run is done.
    pub fn after(self) -> Vec<(i64, String)> {
        let kept = self.before().into_iter().filter(|(id, _)| *id < 0 && self != Self::Replace);
        kept.chain(source()).collect()
    }

    /// What a reader may see after a kill.
    pub fn check_after_kill(self, found: &Rows, recorded: u64) -> Result<(), String> {
        let (before, after) = self.gathered();
        match self {
            Self::Replace if found == before || found == after => return Ok(()),
            Self::Replace => return Err(format!("a replaced target is half done: {}", difference(after, found))),
            Self::Append | Self::Upsert => {}
        }
        if let Some((id, payloads)) =
            found.iter().find(|(id, payloads)| before.get(id) != Some(*payloads) && after.get(id) != Some(*payloads))
        {
            return Err(format!("after a kill, the id {id} holds {payloads:?}"));
        }
        if let Some(id) = before.keys().find(|id| !found.contains_key(id)) {
            return Err(format!("after a kill, the id {id} is gone, which was there before"));
        }
        let committed =
            found.iter().filter(|(id, payloads)| after.get(id) == Some(*payloads) && before.get(id) != Some(*payloads)).count() as u64;
        if committed < recorded {
            return Err(format!("the journal calls {recorded} rows committed, the target holds {committed} of them"));
        }
        Ok(())
    }

    /// What must be there in the end.
    pub fn check_at_end(self, found: &Rows) -> Result<(), String> {
        let (_, expected) = self.gathered();
        if found == expected { Ok(()) } else { Err(format!("the target is wrong in the end: {}", difference(expected, found))) }
    }

    /// The rows of [`Self::before`] and [`Self::after`] by id, made once: every kill is compared with them.
    fn gathered(self) -> &'static (Rows, Rows) {
        static OF_EACH: [OnceLock<(Rows, Rows)>; 3] = [const { OnceLock::new() }; 3];
        OF_EACH[self as usize].get_or_init(|| (gather(self.before()), gather(self.after())))
    }
}

/// Rows by id.
pub fn gather(rows: impl IntoIterator<Item = (i64, String)>) -> Rows {
    let mut gathered = Rows::new();
    for (id, payload) in rows {
        gathered.entry(id).or_default().push(payload);
    }
    gathered
}

fn difference(expected: &Rows, found: &Rows) -> String {
    let lost = expected.keys().filter(|id| !found.contains_key(id)).count();
    let doubled: usize = found.values().map(|payloads| payloads.len() - 1).sum();
    let strange = found.iter().filter(|(id, payloads)| expected.get(id).is_none_or(|rightly| rightly[0] != payloads[0])).count();
    format!("{lost} ids lost, {doubled} rows doubled, {strange} ids with other payloads, of {} rows", expected.len())
}
