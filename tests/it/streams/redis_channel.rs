//! Streams that listen to messages: at most once, and told when some are lost. Channels are those of the whole server, so each test has its own.

use std::process::{Child, Command, Stdio};

use super::{signal, until};
use crate::support::redis::{Redis, ask, cluster, connect, redis, standalone};
use crate::support::{Project, golden, postgres};

/// A project whose streams write to a SQLite database, or to the target that is named.
fn project(from: &str, to: Option<&str>, stages: &str) -> Project {
    let project = Project::new();
    let to = to.unwrap_or("sqlite:target.db");
    let connections = format!("  r: {{ url: \"{from}\" }}\n  to: {{ url: \"{to}\" }}\n  here: {{ url: \"file:.\" }}\n");
    project.file("pipelines/listen.yaml", format!("connections:\n{connections}stages:\n{stages}"));
    project
}

fn stage(name: &str, from: &str, more: &str) -> String {
    format!("  {name}:\n    kind: stream\n    from: {{ redis: r, {from} }}\n    to: {{ sql: to, table: {name}, mode: append }}\n{more}")
}

/// Starts the pipeline, and waits until it listens to a channel.
fn start(project: &Project, server: &Redis, channel: &str) -> Child {
    let log = std::fs::File::create(project.path("log.txt")).expect("a log");
    let mut command = project.command(&["run", "listen", "--json"]);
    let child = command.stdout(log).stderr(Stdio::inherit()).spawn().expect("haul can be started");
    until(project, "a subscription", || listeners(server, channel) == 1);
    child
}

/// How many listen to a channel.
fn listeners(server: &Redis, channel: &str) -> i64 {
    server.ask::<(String, i64)>(&["PUBSUB", "NUMSUB", channel]).1
}

fn stop(project: &Project, mut haul: Child) {
    signal(&haul, "-TERM");
    assert_eq!(haul.wait().expect("haul ends").code(), Some(143), "{}", project.read("log.txt"));
}

fn rows(project: &Project, query: &str) -> Vec<String> {
    let Ok(database) = rusqlite::Connection::open(project.path("target.db")) else { return Vec::new() };
    let Ok(mut statement) = database.prepare(query) else { return Vec::new() };
    let Ok(rows) = statement.query_map([], |row| row.get::<_, String>(0)) else { return Vec::new() };
    rows.map_while(Result::ok).collect()
}

#[test]
fn messages_of_a_channel_and_of_a_pattern_arrive() {
    let server = standalone();
    let objects = "channel: \"orders:{{ shop }}\", columns: { shop: int32, id: int64, total: \"decimal(12,2)\", note: text }";
    let rejects = "    rejects: { to: { files: here, path: bad.ndjson }, at_most: 2 }\n";
    let stages = stage("orders", objects, rejects)
        + &stage("news", "channel: 'news*'", "")
        + &stage("raw", "channel: raw, columns: { value: bytes }", "");
    let project = project(&server.url(), None, &stages);
    let plan = project.haul(&["plan", "listen"]).expect(0).stdout;
    for part in ["messages of the channels orders:*; at most once", "messages of the channel news*; at most once"] {
        assert!(plan.contains(part), "{part} is not in\n{plan}");
    }
    for round in 1..=2 {
        let haul = start(&project, &server, "news*");
        until(&project, "the others", || server.ask::<i64>(&["PUBSUB", "NUMPAT"]) == 1 && listeners(&server, "raw") == 1);
        let mut connection = server.connect();
        let mut publish =
            |channel: &str, payload: &[u8]| redis::cmd("PUBLISH").arg(channel).arg(payload).exec(&mut connection).expect("published");
        for shop in [7, 8] {
            publish(
                &format!("orders:{shop}"),
                format!("{{\"id\": {round}, \"total\": 1.10, \"note\": \"a b\", \"more\": [1]}}").as_bytes(),
            );
        }
        // Neither its name nor its content is a number; the name of the third is no order's.
        publish("orders:x", b"{\"id\": 3}");
        publish("order:7", b"{\"id\": 4}");
        publish("news1", b"of the pattern that is none");
        publish("news*", "it's \"new\" \u{1F980}".as_bytes());
        publish("raw", b"\x00\xff");
        until(&project, "all messages", || {
            rows(&project, "select count(*) || '' from orders") == [(2 * round).to_string()]
                && rows(&project, "select count(*) || '' from news") == [round.to_string()]
                && rows(&project, "select count(*) || '' from raw") == [round.to_string()]
        });
        stop(&project, haul);
    }
    let orders = rows(&project, "select shop || ' ' || id || ' ' || total || ' ' || note from orders order by id, shop");
    assert_eq!(orders, ["7 1 1.10 a b", "8 1 1.10 a b", "7 2 1.10 a b", "8 2 1.10 a b"]);
    assert_eq!(rows(&project, "select distinct value from news"), ["it's \"new\" \u{1F980}"]);
    assert_eq!(rows(&project, "select distinct hex(value) from raw"), ["00FF"]);
    let bad = project.read("bad.ndjson");
    assert!(bad.lines().count() == 2 && bad.contains("column `shop`: the value `x`"), "{bad}");
    let said = project.haul(&["run", "listen", "--until", "caught-up"]).expect(1);
    assert!((said.stdout + &said.stderr).contains("never says that it has sent everything"));
}

/// What came before the break is committed, however long its commit could have waited; what is published meanwhile is lost, and told.
#[test]
fn a_lost_connection_is_told_and_made_again() {
    let server = standalone();
    let project = project(
        &server.url(),
        None,
        &stage("news", "channel: news", "    batch: { every: 1h }\n    retry: { backoff: { initial: 10ms, max: 50ms } }\n"),
    );
    let haul = start(&project, &server, "news");
    let count = || rows(&project, "select count(*) || '' from news");
    let mut published = 0;
    for round in 1..=2 {
        for _ in 0..10 {
            published += server.ask::<i64>(&["PUBLISH", "news", &format!("round {round}")]);
        }
        server.restart();
        until(&project, "what came before", || count() == [published.to_string()]);
        until(&project, "a new subscription", || listeners(&server, "news") == 1);
    }
    assert_eq!(published, 20);
    stop(&project, haul);
    let log = project.read("log.txt");
    let told = "messages that are published until it stands again are lost";
    assert!(log.contains("the connection on which messages come was lost") && log.contains(told), "{log}");
}

/// What waits for a target that stands still is bounded: then haul stops to listen, and says so.
#[test]
fn messages_that_come_too_fast_are_not_kept_without_end() {
    let (server, to) = (standalone(), postgres().fresh_database());
    server.ask::<()>(&["CONFIG", "SET", "client-output-buffer-limit", "pubsub 0 0 0"]);
    let project = project(&server.url(), Some(&to), &stage("news", "channel: news", "    batch: { every: 10ms }\n"));
    let haul = start(&project, &server, "news");
    server.ask::<i64>(&["PUBLISH", "news", "the first"]);
    let there = || super::sql(&to, "select to_regclass('news') is not null") == "t";
    let count = || super::sql(&to, "select count(*) from news").parse::<i64>().expect("a number");
    until(&project, "the first", || there() && count() == 1);
    let mut psql = postgres().psql(&to);
    let mut psql = psql.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("psql can be started");
    let input = psql.stdin.as_mut().expect("a pipe was asked for");
    std::io::Write::write_all(input, b"begin; lock table news in exclusive mode;\n").expect("psql listens");
    until(&project, "the lock", || {
        super::sql(&to, "select count(*) from pg_locks where mode = 'ExclusiveLock' and relation = 'news'::regclass") == "1"
    });
    let mebibyte = "x".repeat(1 << 20);
    let mut heard = 0;
    loop {
        match server.ask::<i64>(&["PUBLISH", "news", &mebibyte]) {
            0 => break,
            _ => heard += 1,
        }
        assert!(heard < 500, "{heard} MiB wait for the target");
    }
    assert!(heard >= 32, "{heard}");
    drop(psql.stdin.take());
    psql.wait().expect("psql ends");
    // The server counts a few listeners more before it notices that nobody reads any more.
    until(&project, "what came before", || count() > 32);
    until(&project, "a new subscription", || listeners(&server, "news") == 1);
    stop(&project, haul);
    let log = project.read("log.txt");
    assert!(log.contains("messages came faster than they are written: 32 MiB of them waited"), "{log}");
}

#[test]
fn any_node_of_a_cluster_is_listened_to() {
    let cluster = cluster();
    let project =
        project(&cluster.nodes[0].url(), None, &stage("news", "channel: news", "    retry: { backoff: { initial: 10ms, max: 50ms } }\n"));
    let log = std::fs::File::create(project.path("log.txt")).expect("a log");
    let haul = project.command(&["run", "listen"]).stdout(log).spawn().expect("haul can be started");
    let mut alive: Vec<&Redis> = cluster.nodes.iter().collect();
    for round in 1..=2 {
        let mut listening = None;
        until(&project, "a subscription", || {
            listening = alive.iter().position(|node| listeners(node, "news") == 1);
            listening.is_some()
        });
        // The message goes in at another node.
        let node = alive.remove(listening.expect("a node"));
        alive[0].ask::<i64>(&["PUBLISH", "news", &round.to_string()]);
        until(&project, "the message", || rows(&project, "select value from news").len() == round);
        if round == 1 {
            node.kill();
        }
    }
    stop(&project, haul);
    let keyspace = project.read("pipelines/listen.yaml").replace("channel: news", "channel: '__keyspace@0__:{{ name }}'");
    project.file("pipelines/listen.yaml", keyspace);
    // The seed may be the node that died.
    let text = project.read("pipelines/listen.yaml").replace(&cluster.nodes[0].url(), &alive[0].url());
    project.file("pipelines/listen.yaml", text);
    let said = project.haul(&["plan", "listen"]);
    assert!(said.code != Some(0) && said.stderr.contains("tells of its own keys alone"), "{said:?}");
}

/// A database has no channels of its own.
#[test]
fn messages_come_whatever_the_database() {
    let url = redis().fresh_database();
    let project = project(&url, None, &stage("news", "channel: whatever_the_database", ""));
    let haul = start(&project, redis(), "whatever_the_database");
    ask::<i64>(&mut connect(&redis().url()), &["PUBLISH", "whatever_the_database", "hello"]);
    until(&project, "the message", || rows(&project, "select value from news") == ["hello"]);
    stop(&project, haul);
}

/// The example, which never ends by itself.
#[test]
fn redis_messages() {
    let server = redis();
    let project = crate::examples::project();
    let haul = |arguments: &[&str]| {
        let mut command: Command = project.command(arguments);
        command.env("REDIS_URL", server.url());
        command
    };
    let said = |arguments: &[&str]| {
        let output = haul(arguments).output().expect("haul can be started");
        assert_eq!(output.status.code(), Some(0), "haul {arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    said(&["validate", "pipelines/redis_messages.yaml"]);
    golden("plans/redis_messages.txt", &said(&["plan", "redis_messages"]));
    let log = std::fs::File::create(project.path("log.txt")).expect("a log");
    let run = haul(&["run", "redis_messages"]).stdout(log).spawn().expect("haul can be started");
    // Nobody else listens, so that somebody does once the stream has begun.
    until(&project, "a listener", || server.ask::<i64>(&["PUBLISH", "prices:7", "{\"sku\": \"x\", \"price\": 1.50}"]) == 1);
    let price = || {
        let database = rusqlite::Connection::open(project.path("target/redis/prices.db")).ok()?;
        database.query_row("select shop || ' ' || sku || ' ' || price from prices", [], |row| row.get::<_, String>(0)).ok()
    };
    until(&project, "a price", || price().is_some());
    assert_eq!(price().as_deref(), Some("7 x 1.50"));
    stop(&project, run);
}
