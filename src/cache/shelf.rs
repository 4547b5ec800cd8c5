//! Rows in memory, by their key. An older row never takes the place of a newer one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use moka::ops::compute::Op;
use moka::sync::Cache as Map;

/// What one entry takes besides its key and row, in bytes: its times, pointers and the map's own places.
const OVERHEAD_BYTES: usize = 200;

/// What is known of a key. Times are microseconds since the cache was made.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its row.
    pub kept: Kept,
    /// Greater for what is newer; 0 when nobody knows.
    pub version: u64,
    /// When it was true: a load counts from when it asked.
    pub since_us: u64,
    /// Until when it is served.
    pub until_us: u64,
}

/// The row of a key.
#[derive(Clone, Debug)]
pub enum Kept {
    /// In row form.
    Row(Arc<[u8]>),
    /// The origin has none.
    Nowhere,
    /// It was removed: what is older must not come back.
    Gone,
}

impl Entry {
    /// Whether it may take the place of another one.
    fn replaces(&self, old: &Self) -> bool {
        match self.kept {
            // A load that found nothing has no version: it is told apart by its time.
            Kept::Nowhere => self.since_us >= old.since_us,
            // Nor has a row that came past the server: it is newer than one whose time was over when it was asked for.
            Kept::Row(_) if self.version == 0 => old.version == 0 || old.until_us < self.since_us,
            Kept::Row(_) | Kept::Gone => self.version >= old.version,
        }
    }

    fn bytes(&self, key: &[u8]) -> usize {
        let row = if let Kept::Row(row) = &self.kept { row.len() } else { 0 };
        key.len() + row + OVERHEAD_BYTES
    }
}

/// Rows in memory.
pub struct Shelf {
    entries: Map<Vec<u8>, Entry>,
    /// When it was begun.
    pub since_us: u64,
    bytes: AtomicU64,
    rows: AtomicU64,
}

impl Shelf {
    /// Keeps everything it is given.
    pub fn unbounded(since_us: u64) -> Self {
        Self { entries: Map::builder().build(), since_us, bytes: AtomicU64::new(0), rows: AtomicU64::new(0) }
    }

    /// Keeps what is asked for most within so many bytes.
    pub fn bounded(since_us: u64, bytes: u64) -> Self {
        let weight = |key: &Vec<u8>, entry: &Entry| u32::try_from(entry.bytes(key)).unwrap_or(u32::MAX);
        Self { entries: Map::builder().weigher(weight).max_capacity(bytes).build(), ..Self::unbounded(since_us) }
    }

    /// What is known of a key, its time over or not.
    pub fn get(&self, key: &[u8]) -> Option<Entry> {
        self.entries.get(key)
    }

    /// Keeps an entry, unless what is there is newer.
    pub fn put(&self, key: &[u8], mut entry: Entry) {
        self.entries.entry_by_ref(key).and_compute_with(|old| {
            let old = old.map(moka::Entry::into_value);
            if let Some(old) = &old {
                if !entry.replaces(old) {
                    return Op::Nop;
                }
                entry.version = entry.version.max(old.version);
            }
            let is_row = |entry: &Entry| u64::from(matches!(entry.kept, Kept::Row(_)));
            let before = old.as_ref().map_or((0, 0), |old| (old.bytes(key) as u64, is_row(old)));
            self.bytes.fetch_add((entry.bytes(key) as u64).wrapping_sub(before.0), Ordering::Relaxed);
            self.rows.fetch_add(is_row(&entry).wrapping_sub(before.1), Ordering::Relaxed);
            Op::Put(entry)
        });
    }

    /// Forgets a key.
    pub fn remove(&self, key: &[u8]) {
        self.entries.invalidate(key);
    }

    /// Bytes of what it was given and did not replace.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Rows that it was given and did not replace.
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kept: Kept, version: u64, since_us: u64) -> Entry {
        Entry { kept, version, since_us, until_us: u64::MAX }
    }

    fn row(text: &str) -> Kept {
        Kept::Row(text.as_bytes().into())
    }

    /// What a shelf holds after entries came in this order.
    fn check(entries: &[(Kept, u64, u64)], expected: &str) {
        let shelf = Shelf::unbounded(0);
        for (kept, version, since) in entries {
            shelf.put(b"k", entry(kept.clone(), *version, *since));
        }
        let found = match shelf.get(b"k").expect("an entry").kept {
            Kept::Row(row) => String::from_utf8_lossy(&row).into_owned(),
            Kept::Nowhere => "nowhere".to_owned(),
            Kept::Gone => "gone".to_owned(),
        };
        assert_eq!(found, expected, "{entries:?}");
    }

    #[test]
    fn what_is_older_never_takes_the_place_of_what_is_newer() {
        check(&[(row("old"), 1, 1), (row("new"), 2, 2)], "new");
        check(&[(row("new"), 2, 2), (row("late"), 1, 3)], "new");
        check(&[(row("same"), 2, 2), (row("again"), 2, 3)], "again");
        check(&[(Kept::Gone, 5, 5), (row("late"), 4, 9)], "gone");
        check(&[(Kept::Gone, 5, 5), (row("new"), 6, 9)], "new");
        // A load that began before the row came found nothing; one that began after it knows better.
        check(&[(row("new"), 7, 5), (Kept::Nowhere, 0, 4)], "new");
        check(&[(row("old"), 7, 5), (Kept::Nowhere, 0, 6)], "nowhere");
        // And does not open the door to what is older than the row it took the place of.
        check(&[(row("old"), 7, 5), (Kept::Nowhere, 0, 6), (row("older"), 6, 7)], "nowhere");
    }

    #[test]
    fn a_row_without_a_version_takes_the_place_of_one_whose_time_is_over() {
        let find = |until_us: u64, since_us: u64| {
            let shelf = Shelf::unbounded(0);
            shelf.put(b"k", Entry { until_us, ..entry(row("of the server"), 7, 1) });
            shelf.put(b"k", entry(row("past it"), 0, since_us));
            // What the server has of the same version is what it was.
            let Kept::Row(found) = shelf.get(b"k").expect("an entry").kept else { panic!("a row") };
            shelf.put(b"k", entry(row("again"), 7, 9));
            let Kept::Row(again) = shelf.get(b"k").expect("an entry").kept else { panic!("a row") };
            assert_eq!(&*again, b"again");
            String::from_utf8_lossy(&found).into_owned()
        };
        assert_eq!(find(4, 5), "past it");
        assert_eq!(find(5, 5), "of the server", "it was in its time");
        assert_eq!(find(9, 5), "of the server", "somebody brought it while the other one was under way");
    }

    #[test]
    fn rows_and_bytes_are_those_that_are_held() {
        let shelf = Shelf::unbounded(0);
        for version in 1..4 {
            shelf.put(b"a", entry(row("12345"), version, version));
            shelf.put(b"b", entry(row("1"), version, version));
        }
        shelf.put(b"b", entry(Kept::Gone, 9, 9));
        assert_eq!((shelf.rows(), shelf.bytes()), (1, 2 * OVERHEAD_BYTES as u64 + 2 + 5));
    }
}
