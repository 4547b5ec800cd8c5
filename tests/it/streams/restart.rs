//! Servers that are restarted under a stream, and slots that a server has given up.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::changes::{assert_same, catch_up, pipeline};
use super::{rows, signal, sql, start, until};
use crate::support::{Postgres, Project, Shutdown, own_postgres, postgres};

/// Fills the server's log, and has it throw away what no slot may keep.
fn fill_the_log(from: &str) {
    sql(
        from,
        "do $$ begin for n in 1..4 loop insert into items select max(id) + 1, 'while away' from items; perform pg_switch_wal(); end loop; end $$",
    );
    sql(from, "checkpoint");
}

#[test]
fn a_slot_that_the_server_has_invalidated_is_said_plainly() {
    let source = own_postgres(false);
    source.set(&["max_slot_wal_keep_size = '1MB'"]);
    let (from, to) = (source.fresh_database(), postgres().fresh_database());
    sql(&from, "create table items (id int primary key, name text); insert into items values (1, 'first')");
    let project = Project::new();
    pipeline(&project, "lost", &from, &to, "rows: 50, every: 10ms");
    catch_up(&project, "lost");
    let status = || sql(&from, "select wal_status from pg_replication_slots");
    // While the stream is away.
    fill_the_log(&from);
    assert_eq!(status(), "lost");
    let told = ["the server has invalidated the replication slot haul_lost_items_", "--fresh", "max_slot_wal_keep_size"];
    let said = project.haul(&["run", "lost", "--until", "caught-up"]).expect(1);
    assert!(told.iter().all(|part| said.stdout.contains(part)), "{said:?}");
    assert_eq!(rows(&to, "items"), "1|1", "nothing is written behind a gap");
    project.haul(&["run", "lost", "--until", "caught-up", "--fresh"]).expect(0);
    assert_same(&from, &to);
    // While it goes, and its target keeps it waiting.
    let mut haul = start(&project, "lost");
    sql(&from, "insert into items values (1000, 'goes')");
    until(&project, "a row", || sql(&to, "select count(*) from items where id = 1000") == "1");
    let mut holder = postgres().psql(&to);
    let lock = "begin; lock table items; select pg_sleep(600)";
    let mut holder = holder.args(["--command", lock]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("psql can be started");
    until(&project, "the lock", || {
        sql(&to, "select count(*) from pg_locks where relation = 'items'::regclass and mode = 'AccessExclusiveLock' and granted") == "1"
    });
    sql(&from, "insert into items values (1001, 'waits')");
    until(&project, "an invalidated slot", || {
        fill_the_log(&from);
        status() == "lost"
    });
    sql(&to, "select pg_terminate_backend(pid) from pg_stat_activity where query like '%pg_sleep(600)%' and pid <> pg_backend_pid()");
    holder.wait().expect("psql ends");
    until(&project, "the end", || haul.try_wait().expect("haul can be asked").is_some());
    let log = project.read("log.txt");
    assert!(told.iter().all(|part| log.contains(part)), "{log}");
    project.haul(&["run", "lost", "--until", "caught-up", "--fresh"]).expect(0);
    assert_same(&from, &to);
}

#[test]
fn servers_may_restart_under_a_stream() {
    let (source, target) = (own_postgres(false), own_postgres(false));
    let (from, to) = (source.fresh_database(), target.fresh_database());
    sql(&from, "create table items (id int primary key, n int not null, big text); alter table items alter big set storage external");
    sql(&from, "insert into items select i, 0, repeat(md5(i::text), 100) from generate_series(1, 2000) i");
    let project = Project::new();
    pipeline(&project, "restarts", &from, &to, "rows: 100, every: 10ms");
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (from, stop) = (from.clone(), Arc::clone(&stop));
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let load = "update items set n = n + 1 where id % 20 = (random() * 19)::int;
                    delete from items where id % 50 = (random() * 49)::int;
                    insert into items select i, 0, repeat('x', 3000) from generate_series(1, 2000, 7) i on conflict do nothing;
                    update items set id = -id where id % 30 = (random() * 29)::int and not exists (select from items o where o.id = -items.id)";
                // A server that restarts sends its writers away.
                let _ = postgres().psql(&from).args(["--command", load]).stdout(Stdio::null()).stderr(Stdio::null()).status();
            }
        })
    };
    let mut haul = start(&project, "restarts");
    let position = || {
        sql(
            &to,
            "select case when to_regclass('haul_marks') is null then '' else query_to_xml('select rows from haul_marks', false, true, '')::text end",
        )
    };
    let moves = |what: &str| {
        let last = position();
        until(&project, what, || position() != last);
    };
    moves("a beginning");
    // Two of each, since the second meets a stream that has come back already.
    let servers: [(&str, &Postgres); 2] = [("source", &source), ("target", &target)];
    for (name, server) in servers {
        for how in [Shutdown::Fast, Shutdown::Immediate, Shutdown::Immediate, Shutdown::Fast] {
            server.restart(how);
            moves(&format!("a commit after the {name} had gone {how:?}"));
        }
    }
    std::thread::scope(|scope| {
        for (_, server) in servers {
            scope.spawn(move || server.restart(Shutdown::Immediate));
        }
    });
    moves("a commit after both had gone");
    stop.store(true, Ordering::Relaxed);
    writer.join().expect("the writer");
    let status = haul.try_wait().expect("haul can be asked");
    assert!(status.is_none(), "haul ended with {status:?}:\n{}", project.read("log.txt"));
    let digest = "select count(*), md5(string_agg(t::text, ' ' order by id)) from items t";
    let expected = sql(&from, digest);
    until(&project, "an equal table", || sql(&to, digest) == expected);
    signal(&haul, "-TERM");
    assert_eq!(haul.wait().expect("haul ends").code(), Some(143));
}
