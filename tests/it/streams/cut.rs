//! The network breaks at each stage of the hand-over from a copy to the changes behind it, and the end is the same.

use super::sql;
use crate::support::proxy::{Fault, Proxy};
use crate::support::{Project, postgres};

#[test]
fn every_stage_of_the_hand_over_may_break() {
    let server = postgres().port;
    let proxies = [Proxy::before(server), Proxy::before(server)];
    // Which side breaks, at which word, after how many of it, and how.
    let stages = [
        (0, "pg_create_logical_replication_slot", 0, Fault::Cut),
        (0, "pg_create_logical_replication_slot", 0, Fault::Swallow),
        (0, "copy (select", 0, Fault::Cut),
        (0, "copy (select", 0, Fault::CutAnswers(3000)),
        (0, "copy (select", 0, Fault::Stall),
        (0, "START_REPLICATION", 0, Fault::Cut),
        (0, "START_REPLICATION", 0, Fault::Swallow),
        (0, "START_REPLICATION", 1, Fault::CutAnswers(300)),
        (0, "START_REPLICATION", 1, Fault::CutAnswers(20_000)),
        (1, "copy pg_temp", 0, Fault::Cut),
        (1, "commit\0", 2, Fault::Swallow),
        (1, "commit\0", 4, Fault::Swallow),
        (1, "commit\0", 4, Fault::Cut),
    ];
    for (case, (side, word, passing, fault)) in stages.into_iter().enumerate() {
        let name = format!("cut{case}");
        let urls = [postgres().fresh_database(), postgres().fresh_database()];
        let through = |side: usize| urls[side].replace(&format!(":{server}/"), &format!(":{}/", proxies[side].port));
        sql(
            &urls[0],
            "create table items (id int primary key, name text); insert into items select i, repeat('x', i % 90) from generate_series(1, 500) i",
        );
        let project = Project::new();
        project.file(
            &format!("pipelines/{name}.yaml"),
            format!(
                "connections:\n  from: {{ url: \"{}\" }}\n  to: {{ url: \"{}\" }}\nstages:\n  items:\n    kind: stream
    from: {{ sql: from, changes: items }}\n    to: {{ sql: to, table: items, mode: upsert, key: [id] }}
    batch: {{ rows: 100, every: 10ms }}\n    retry: {{ backoff: {{ initial: 20ms, max: 200ms }} }}\n",
                through(0),
                through(1)
            ),
        );
        proxies[side].spoil(word, passing, fault);
        let run = || project.haul(&["run", &name, "--until", "caught-up"]).expect(0);
        run();
        sql(
            &urls[0],
            "insert into items select i, 'new' from generate_series(1000, 3000) i; update items set id = -id where id % 3 = 0;
             delete from items where id % 7 = 0",
        );
        run();
        assert!(proxies[side].has_spoilt(), "{word} was not said: {fault:?}");
        let digest = "select count(*), md5(string_agg(t::text, ' ' order by id)) from items t";
        assert_eq!(sql(&urls[0], digest), sql(&urls[1], digest), "{word}, {fault:?}");
        project.haul(&["drop", &name]).expect(0);
    }
}
