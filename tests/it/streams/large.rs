//! A transaction that is larger than the memory haul may use.

use super::changes::{assert_same, catch_up, pipeline};
use super::{PATIENCE, rows, signal, sql, start, until, until_within};
use crate::support::{Project, peak_kib, postgres, setting};

/// Rows of the transaction, each of about 2 kB; `HAUL_ROWS` sets another number.
const ROWS: u64 = 80_000;
/// What a transaction of 160 MB may add to haul's memory.
const MOST_KIB: u64 = 80 << 10;

#[test]
fn a_transaction_larger_than_memory_arrives_whole() {
    let count = setting("HAUL_ROWS").unwrap_or(ROWS);
    let (from, to) = (postgres().fresh_database(), postgres().fresh_database());
    sql(&from, "create table items (id int primary key, text text); insert into items values (0, 'first')");
    let project = Project::new();
    pipeline(&project, "large", &from, &to, "every: 10ms");
    catch_up(&project, "large");
    let mut haul = start(&project, "large");
    until(&project, "the stream", || sql(&from, "select active from pg_replication_slots where database = current_database()") == "t");
    let before = peak_kib(&haul);
    sql(
        &from,
        &format!(
            "begin; insert into items select i, repeat(md5(i::text), 60) from generate_series(1, {count}) i;
                  update items set text = 'changed' where id % 10 = 0; delete from items where id % 10 = 1; commit"
        ),
    );
    let expected = sql(&from, "select count(*), count(distinct id) from items");
    // Whoever looks sees nothing of it, or all.
    let patience = PATIENCE * u32::try_from(count / ROWS).unwrap_or(1).max(1);
    until_within(patience, &project, "the transaction", || {
        let now = rows(&to, "items");
        assert!(now == "1|1" || now == expected, "a part of a transaction is seen: {now}");
        now == expected
    });
    let grown = peak_kib(&haul) - before;
    println!("{count} rows in one transaction: {before} KiB before, {grown} KiB more with it");
    assert!(grown < MOST_KIB, "haul grew by {grown} KiB");
    signal(&haul, "-TERM");
    assert_eq!(haul.wait().expect("haul ends").code(), Some(143));
    assert_same(&from, &to);
    project.haul(&["drop", "large"]).expect(0);
}
