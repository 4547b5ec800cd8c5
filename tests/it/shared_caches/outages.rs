//! A server that dies, hangs or comes back, for each policy.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};

use super::{FOUND, LOAD, ORDERS, SAID, ended, project, rows, told, wait_until};
use crate::support::redis::{self, Redis, ask};
use crate::support::{Project, Said};

/// Looks the same three customers up again and again, for long enough to be disturbed. Writes rows that found another customer, or none.
const LONG: &str = "  orders:
    kind: batch
    from: { generate: 1000000, columns: { n: i, id: 'i % 3 + 1' } }
    transform:
      - lookup: { cache: customers, on: id, add: { found: id } }
      - filter: 'found is distinct from id'
    to: { sql: out, table: orders }
    batch: { rows: 500 }
    retry: { attempts: 50, backoff: { initial: 100ms, max: 200ms } }
";

/// Starts a run of [`LONG`], and gives it back once it has found its rows on the server again and again.
fn begun(project: &Project, own: &Redis) -> Child {
    let run = project.command(&["run", "p", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("haul can be started");
    let mut connection = own.connect();
    wait_until("rows on the server", || {
        let keys: Vec<String> = ask(&mut connection, &["KEYS", "customer:*"]);
        keys.iter().any(|key| ask::<bool>(&mut connection, &["HEXISTS", key, "haul:row"]))
    });
    let stats = |connection: &mut ::redis::Connection| {
        let stats: String = ask(connection, &["INFO", "commandstats"]);
        stats.lines().find_map(|line| line.strip_prefix("cmdstat_hmget:calls=")?.split(',').next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    let written = stats(&mut connection);
    wait_until("rows to be found", || stats(&mut connection) >= written + 6);
    run
}

/// The report on the lookups of a run that must have come through with the right rows.
fn lookups_of(run: Child) -> serde_json::Value {
    let output = run.wait_with_output().expect("an end");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let said = Said { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }.expect(0);
    let end = ended(&said, "orders");
    assert_eq!(end["rows_out"], 0, "rows without their own customer: {end}");
    end["lookups"][0].clone()
}

#[test]
fn a_server_that_is_not_there_means_what_the_pipeline_says() {
    let check = |settings: &str, code: i32, words: &str| {
        let own = redis::standalone();
        let project = project(&own.url(), &format!("{LOAD}{settings}"), ORDERS);
        own.kill();
        let said = project.haul(&["run", "p", "--json"]).expect(code);
        if code == 0 {
            assert_eq!(rows(&project, "out.db", SAID), FOUND);
            assert_eq!(ended(&said, "orders")["lookups"][0][words], 5, "{}", said.stdout);
        } else {
            assert!(told(&said, words), "{said:?}");
        }
    };
    check("", 3, "unreachable");
    check("    on_backend_error: fail\n", 3, "unreachable");
    check("    on_backend_error: bypass\n", 0, "bypassed");
    check("    on_backend_error: stale\n    stale_if_error: 1h\n    levels: { memory: { ttl: 1s } }\n", 1, "no server answers there");
}

#[test]
fn a_server_that_dies_in_the_middle_of_a_run_is_bypassed() {
    let own = redis::standalone();
    let project = project(&own.url(), &format!("{LOAD}    on_backend_error: bypass\n"), LONG);
    let run = begun(&project, &own);
    own.kill();
    let lookups = lookups_of(run);
    assert!(lookups["bypassed"].as_i64() > Some(0) && lookups["hits"].as_i64() > Some(0), "{lookups}");
}

/// A row that the server had is kept in memory again once its time there is over, though it comes past the server.
#[test]
fn a_server_that_is_bypassed_does_not_keep_rows_from_the_memory() {
    let own = redis::standalone();
    let settings = "    on_backend_error: bypass\n    levels: { memory: { ttl: 100ms } }\n";
    let project = project(&own.url(), &format!("{LOAD}{settings}"), LONG);
    let watch = std::time::Instant::now();
    let run = begun(&project, &own);
    own.kill();
    let lookups = lookups_of(run);
    // Each of three keys may come with a query of its own.
    let most = 3 * (watch.elapsed().as_millis() as i64 / 100 + 2);
    assert!(lookups["bypassed"].as_i64() > Some(0) && lookups["loads"].as_i64() <= Some(most), "{most}: {lookups}");
}

#[test]
fn a_server_that_dies_in_the_middle_of_a_run_leaves_what_the_memory_has() {
    let own = redis::standalone();
    let settings = "    on_backend_error: stale\n    stale_if_error: 1h\n    levels: { memory: { ttl: 20ms } }\n";
    let project = project(&own.url(), &format!("{LOAD}{settings}"), LONG);
    let run = begun(&project, &own);
    own.kill();
    let lookups = lookups_of(run);
    assert!(lookups["stale_served"].as_i64() > Some(0) && lookups["memory_hits"].as_i64() > Some(0), "{lookups}");
    assert_eq!((&lookups["bypassed"], &lookups["loads"]), (&0.into(), &1.into()), "{lookups}");
}

#[test]
fn a_server_that_comes_back_is_waited_for_and_nothing_is_lost() {
    let own = redis::standalone();
    let project = project(&own.url(), LOAD, LONG);
    let mut run = begun(&project, &own);
    own.kill();
    let mut said = BufReader::new(run.stdout.take().expect("a pipe was asked for"));
    let mut stdout = String::new();
    while !stdout.contains("attempt_failed") {
        assert!(said.read_line(&mut stdout).expect("events") > 0, "the run ended before its server was missed:\n{stdout}");
    }
    own.start_again();
    said.read_to_string(&mut stdout).expect("events");
    let status = run.wait().expect("an end");
    let end = ended(&Said { code: status.code(), stdout, stderr: String::new() }.expect(0), "orders");
    assert_eq!(end["rows_out"], 0, "rows without their own customer: {end}");
    assert_eq!(end["lookups"][0]["bypassed"], 0, "{end}");
}

#[test]
fn a_server_that_hangs_is_not_waited_for_by_those_who_can_do_without_it() {
    let own = redis::standalone();
    let project = project(&own.url(), &format!("{LOAD}    on_backend_error: bypass\n"), ORDERS);
    let mut connection = own.connect();
    let sleeper = std::thread::spawn(move || ::redis::cmd("DEBUG").arg("SLEEP").arg("300").query::<()>(&mut connection).is_ok());
    let said = project.haul(&["run", "p", "--json"]).expect(0);
    assert_eq!(rows(&project, "out.db", SAID), FOUND);
    assert_eq!(ended(&said, "orders")["lookups"][0]["bypassed"], 5);
    assert!(!sleeper.is_finished(), "the server woke up");
    own.kill();
    assert!(!sleeper.join().expect("a thread"), "the server slept until it was killed");
}

#[test]
fn a_node_of_a_cluster_that_dies_in_the_middle_of_a_run_is_bypassed() {
    let cluster = redis::cluster();
    let project = project(&cluster.nodes[0].url(), &format!("{LOAD}    on_backend_error: bypass\n"), LONG);
    let holder = |key: &str| {
        let slot: u16 = cluster.nodes[0].ask(&["CLUSTER", "KEYSLOT", key]);
        &cluster.nodes[usize::from(slot / 5461).min(2)]
    };
    let node = holder("customer:1");
    let run = begun(&project, node);
    node.kill();
    let lookups = lookups_of(run);
    assert!(lookups["bypassed"].as_i64() > Some(0) && lookups["hits"].as_i64() > Some(0), "{lookups}");
}
