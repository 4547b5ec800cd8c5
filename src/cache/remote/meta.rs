//! What the server knows of a row, and the form it is in.

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::write::Kind;
use crate::data::Schema;

/// The version of what is stored: part of every form.
const STORED: u32 = 1;

/// Hexadecimal digits of each half of a form.
pub const HALF: usize = 8;

/// What is known of a row that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The number of its key.
    pub key: usize,
    /// Greater for what is newer.
    pub version: u64,
    /// When it was true, in microseconds by the server's clock.
    pub since_us: u64,
    /// Until when it is served; `u64::MAX` without end.
    pub until_us: u64,
}

/// The form of a cache's rows: half of its digits stand for the cache, by the name of its control hash, and half for its columns.
pub fn form(control: &[u8], schema: &Schema) -> String {
    let mut columns = Xxh3::new();
    columns.update(&STORED.to_le_bytes());
    for column in &schema.columns {
        columns.update(format!("{:?} {}\n", column.name, column.ty).as_bytes());
    }
    let half = |hash: u64| format!("{:08x}", hash >> 32);
    half(xxh3_64(control)) + &half(columns.digest())
}

/// Kind and facts of `0123456789abcdef r 000000000000002a 60a24181e4000 0`, numbers in hexadecimal; `None` for another form. A server keeps a
/// hash whose values have no more than 64 bytes in less memory, and this one has 63.
pub fn read(text: &[u8], form: &str, key: usize) -> Option<(Kind, Meta)> {
    let mut words = std::str::from_utf8(text).ok()?.split(' ');
    if words.next()? != form {
        return None;
    }
    let kind = Kind::of(words.next()?)?;
    let mut number = || u64::from_str_radix(words.next()?, 16).ok();
    let (version, since_us, until_us) = (number()?, number()?, number()?);
    Some((kind, Meta { key, version, since_us, until_us: if until_us == 0 { u64::MAX } else { until_us } }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Column, Type};

    #[test]
    fn a_row_of_other_columns_or_of_another_cache_is_not_there() {
        let schema = |ty: Type| Schema { columns: vec![Column::new("id", ty)] };
        let own = form(b"a", &schema(Type::Int(64)));
        assert_eq!(own.len(), 2 * HALF);
        assert_eq!(format!("{own} r {:016x} {:x} {:x}", u64::MAX, 1_u64 << 51, 1_u64 << 51).len(), 63);
        let text = format!("{own} r 000000000000002a 60a24181e4000 0");
        let meta = Meta { key: 3, version: 42, since_us: 1_700_000_000_000_000, until_us: u64::MAX };
        assert_eq!(read(text.as_bytes(), &own, 3), Some((Kind::Row, meta)));
        let others = [form(b"b", &schema(Type::Int(64))), form(b"a", &schema(Type::Int(32)))];
        assert!(others.iter().all(|other| read(text.as_bytes(), other, 3).is_none()));
        assert_eq!(own[..HALF], others[1][..HALF], "the same cache with other columns");
        for odd in ["", "r", &format!("{own} x 1 1 0"), &format!("{own} r 1 1")] {
            assert_eq!(read(odd.as_bytes(), &own, 3), None, "{odd}");
        }
    }
}
