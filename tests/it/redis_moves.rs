//! Slots that move, masters that die and servers that forget, while they are read and written. A target that holds its writes back keeps a run
//! where it is until the change is done.

use std::process::Child;
use std::time::{Duration, Instant};

use crate::support::heard::Heard;
use crate::support::redis::{Cluster, Redis, ask, connect, redis, replicated_cluster, standalone};
use crate::support::{Project, redis as servers};

/// Rows of each load.
const COUNT: usize = 20_000;
/// Slots that change hands, of which some keys are read already, and some are not.
const SLOTS: std::ops::Range<u16> = 100..500;

/// A project with one stage. `stage` are its lines, without their indent.
fn project(from: &str, to: &str, stage: &str) -> Project {
    let project = Project::new();
    let stage: String = stage.trim().lines().map(|line| format!("    {}\n", line.trim_start())).collect();
    project.file(
        "pipelines/p.yaml",
        format!(
            "connections:
  old: {{ url: \"{from}\" }}
  new: {{ url: \"{to}\" }}
stages:
  s:
    kind: batch
{stage}    batch: {{ rows: 50 }}
    splits: {{ concurrency: 1, bytes: 16KiB }}
    retry: {{ attempts: 30, backoff: {{ initial: 200ms, max: 1s }} }}
"
        ),
    );
    project
}

fn start(project: &Project) -> Child {
    let log = std::fs::File::create(project.path("log.txt")).expect("a log");
    let mut command = project.command(&["run", "p"]);
    command.stdout(log.try_clone().expect("a second handle")).stderr(log).spawn().expect("haul can be started")
}

#[track_caller]
fn end(project: &Project, mut run: Child) {
    let status = run.wait().expect("haul ends");
    assert_eq!(status.code(), Some(0), "{}", project.read("log.txt"));
}

#[track_caller]
fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !so() {
        assert!(Instant::now() < deadline, "waited for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn size(nodes: &[&Redis]) -> usize {
    nodes.iter().map(|node| node.ask::<usize>(&["DBSIZE"])).sum()
}

/// The numbers of the rows that some nodes hold, sorted. Each key says its number, too.
fn numbers(nodes: &[&Redis]) -> Vec<usize> {
    let mut numbers = Vec::new();
    for node in nodes {
        let mut connection = node.connect();
        let keys: Vec<String> = ask(&mut connection, &["KEYS", "row:*"]);
        let mut pipeline = redis::pipe();
        for key in &keys {
            pipeline.cmd("HGET").arg(key).arg("v");
        }
        let values: Vec<usize> = if keys.is_empty() { Vec::new() } else { pipeline.query(&mut connection).expect("values") };
        for (key, value) in keys.iter().zip(values) {
            assert_eq!(*key, format!("row:{value}"));
            numbers.push(value);
        }
    }
    numbers.sort_unstable();
    numbers
}

const GENERATED: &str = "from: { generate: 20000, columns: { id: i, v: i } }\n";

/// Rows in a cluster.
fn filled(cluster: &Cluster) {
    let to = &cluster.nodes[0].url();
    project(to, to, &format!("{GENERATED}to: {{ redis: new, hash: \"row:{{{{ id }}}}\" }}\nverify: none")).haul(&["run", "p"]).expect(0);
    assert_eq!(numbers(&masters(cluster)).len(), COUNT);
}

fn masters(cluster: &Cluster) -> Vec<&Redis> {
    cluster.nodes.iter().collect()
}

/// Moves [`SLOTS`] from the first master to the second, all of their keys included.
fn reshape(cluster: &Cluster) {
    let (from, to) = (&cluster.nodes[0], &cluster.nodes[1]);
    from.open_slots(to, SLOTS);
    from.move_keys(to, SLOTS, |_| true);
    from.close_slots(to, SLOTS);
}

const KEYS: &str = "from: { redis: old, keys: [\"row:*\"] }\nto: { redis: new, conflict: replace }\nverify: digest";
const ROWS: &str =
    "from: { redis: old, hash: \"row:{{ id }}\", columns: { id: int64, v: int64 } }\nto: { redis: new, hash: \"row:{{ id }}\" }";

/// Starts a run that reads the cluster, and holds it in the middle.
fn held_in_the_middle(cluster: &Cluster, target: &Redis, stage: &str) -> (Project, Child) {
    let project = project(&cluster.nodes[2].url(), &target.url(), stage);
    let run = start(&project);
    until("the first rows", || size(&[target]) > 500);
    target.hold();
    assert!(size(&[target]) < COUNT * 2 / 3, "the run was too quick to be held in the middle: {}", size(&[target]));
    (project, run)
}

#[test]
fn slots_that_move_while_their_keys_are_read() {
    for stage in [KEYS, ROWS] {
        let (cluster, target) = (replicated_cluster(), standalone());
        filled(&cluster);
        let (project, run) = held_in_the_middle(&cluster, &target, stage);
        reshape(&cluster);
        target.go_on();
        end(&project, run);
        assert_eq!(numbers(&[&target]), (0..COUNT).collect::<Vec<_>>(), "{stage}");
    }
}

/// A slot that stays half moved is read on both sides as keys; as rows it might be read twice, and is waited for.
#[test]
fn slots_that_are_half_moved() {
    let (cluster, target) = (replicated_cluster(), standalone());
    filled(&cluster);
    let (from, to) = (&cluster.nodes[0], &cluster.nodes[1]);
    from.open_slots(to, SLOTS);
    from.move_keys(to, SLOTS, |place| place % 2 == 0);
    project(&from.url(), &target.url(), KEYS).haul(&["run", "p"]).expect(0);
    assert_eq!(numbers(&[&target]), (0..COUNT).collect::<Vec<_>>());
    target.ask::<()>(&["FLUSHALL"]);
    let project = project(&from.url(), &target.url(), ROWS);
    let run = start(&project);
    until("a refusal", || project.read("log.txt").contains("are being moved"));
    from.move_keys(to, SLOTS, |_| true);
    from.close_slots(to, SLOTS);
    end(&project, run);
    assert_eq!(numbers(&[&target]), (0..COUNT).collect::<Vec<_>>());
}

#[test]
fn a_master_that_dies_while_its_keys_are_read() {
    for stage in [KEYS, ROWS] {
        let (cluster, target) = (replicated_cluster(), standalone());
        filled(&cluster);
        let (project, run) = held_in_the_middle(&cluster, &target, stage);
        cluster.nodes[0].kill();
        cluster.replicas[0].take_over();
        target.go_on();
        end(&project, run);
        assert_eq!(numbers(&[&target]), (0..COUNT).collect::<Vec<_>>(), "{stage}");
    }
}

/// Slots move, and then a master dies, under a copy of keys, rows that are spread, and a list in one slot.
#[test]
fn a_target_whose_slots_move_and_whose_masters_die() {
    let source = redis().fresh_database();
    project(&source, &source, &format!("{GENERATED}to: {{ redis: new, hash: \"row:{{{{ id }}}}\" }}\nverify: none"))
        .haul(&["run", "p"])
        .expect(0);
    let spread = format!("{GENERATED}to: {{ redis: new, hash: \"row:{{{{ id }}}}\" }}");
    let listed =
        format!("{GENERATED}transform:\n  - select: [v]\n  - rename: {{ v: value }}\nto: {{ redis: new, list: \"{{foo}}:items\" }}");
    let cluster = replicated_cluster();
    let mut alive = masters(&cluster);
    for (place, stage) in [(0, KEYS), (1, spread.as_str()), (2, listed.as_str())] {
        let appends = stage.contains("list:");
        let project = project(&source, &alive[2].url(), stage);
        let run = start(&project);
        // The tag `foo` has a slot of the third master.
        let there = |alive: &[&Redis]| if appends { alive[2].ask::<usize>(&["LLEN", "{foo}:items"]) } else { size(alive) };
        until("the first rows", || there(&alive) > 500);
        alive[place].hold();
        assert!(there(&alive) < COUNT * 2 / 3, "too quick to be held");
        if place == 1 {
            // Between the two that are not held.
            let slots = SLOTS;
            alive[0].open_slots(alive[2], slots.clone());
            alive[0].move_keys(alive[2], slots.clone(), |_| true);
            alive[0].close_slots(alive[2], slots);
        }
        cluster.nodes[place].kill();
        cluster.replicas[place].take_over();
        alive[place] = &cluster.replicas[place];
        end(&project, run);
        if appends {
            let mut items: Vec<usize> = alive[2].ask(&["LRANGE", "{foo}:items", "0", "-1"]);
            items.sort_unstable();
            assert_eq!(items, (0..COUNT).collect::<Vec<_>>());
        } else {
            assert_eq!(numbers(&alive), (0..COUNT).collect::<Vec<_>>(), "{stage}");
            for node in &alive {
                node.ask::<()>(&["FLUSHALL"]);
            }
        }
    }
}

const HASHES: &str = "to: { redis: new, hash: \"row:{{ id }}\" }";
const LIST: &str = "transform:\n  - select: [v]\n  - rename: { v: value }\nto: { redis: new, list: items }";

/// How many rows are there by now.
fn there(to: &str, target: &Redis) -> usize {
    if to == LIST { target.ask(&["LLEN", "items"]) } else { size(&[target]) }
}

/// The numbers that came, in order.
fn brought(to: &str, target: &Redis) -> Vec<usize> {
    if to != LIST {
        return numbers(&[target]);
    }
    let mut items: Vec<usize> = target.ask(&["LRANGE", "items", "0", "-1"]);
    items.sort_unstable();
    items
}

/// A server that is started again without what it acknowledged last has forgotten whole splits: they are written again.
#[test]
fn a_target_that_forgets() {
    for to in [HASHES, LIST] {
        let target = standalone();
        let project = project(&target.url(), &target.url(), &format!("{GENERATED}{to}"));
        let run = start(&project);
        let there = || there(to, &target);
        until("the first rows", || there() > 500);
        target.ask::<()>(&["SAVE"]);
        let saved = there();
        until("rows that are forgotten", || there() > saved + 2000);
        target.kill();
        target.start_again();
        end(&project, run);
        assert_eq!(brought(to, &target), (0..COUNT).collect::<Vec<_>>());
    }
}

/// The same for a server that has not even kept who claimed the load.
#[test]
fn a_target_that_forgets_everything() {
    for to in [HASHES, LIST] {
        let target = standalone();
        let project = project(&target.url(), &target.url(), &format!("{GENERATED}{to}"));
        let run = start(&project);
        until("the first rows", || there(to, &target) > 500);
        target.kill();
        target.start_again();
        end(&project, run);
        assert_eq!(brought(to, &target), (0..COUNT).collect::<Vec<_>>());
    }
}

/// Since 7.2 a server waits for the last write of a connection, and not for its last command.
#[test]
fn replicas_are_waited_for_behind_a_write() {
    let (server, replica) = (standalone(), standalone());
    replica.ask::<()>(&["REPLICAOF", "127.0.0.1", &server.port.to_string()]);
    until("the replica", || server.ask::<String>(&["INFO", "replication"]).contains("state=online"));
    let heard = Heard::of(&server);
    let few = GENERATED.replace("20000", "300");
    project(&server.url(), &server.url(), &format!("{few}to: {{ redis: new, hash: \"row:{{{{ id }}}}\" }}")).haul(&["run", "p"]).expect(0);
    let commands = heard.commands();
    let waits: Vec<usize> = (0..commands.len()).filter(|at| commands[*at].1.starts_with("\"WAIT\"")).collect();
    assert!(!waits.is_empty(), "nobody waited");
    for at in waits {
        let before = commands[..at].iter().rev().find(|(client, _)| *client == commands[at].0).map_or("", |(_, words)| words);
        assert!(before.starts_with("\"SET\" \"haul:{"), "{before} stands before WAIT");
    }
}

/// What the documentation lists as least rights is enough for rows, over TLS, and no more is asked for.
#[test]
fn rows_over_tls_with_the_least_rights() {
    let server = servers::tls();
    let rights = ["+@read", "+@write", "+@transaction", "+eval", "+info", "+cluster", "+wait"];
    let rule = [&["ACL", "SETUSER", "rows", "on", ">pw", "~row:*", "~doc:*", "~list", "~haul:*"][..], &rights].concat();
    server.ask::<()>(&rule);
    let url = format!("rediss://rows:pw@127.0.0.1:{}?ca={}", server.port, server.authority().display());
    let few = GENERATED.replace("20000", "300");
    for to in ["hash: \"row:{{ id }}\"", "json: \"doc:{{ id }}\"", "stream: list, maxlen: 1000"] {
        let project = project(&url, &url, &format!("{few}to: {{ redis: new, {to} }}\nverify: digest"));
        project.haul(&["run", "p"]).expect(0);
    }
    assert_eq!(server.ask::<usize>(&["XLEN", "list"]), 300);
    let back = redis().fresh_database();
    project(&url, &back, ROWS).haul(&["run", "p"]).expect(0);
    assert_eq!(ask::<Vec<String>>(&mut connect(&back), &["KEYS", "row:*"]).len(), 300);
    let said = project(&url, &url, &format!("{few}to: {{ redis: new, hash: \"other:{{{{ id }}}}\" }}")).haul(&["run", "p"]).expect(1);
    assert!(said.stdout.contains("NOPERM") || said.stderr.contains("NOPERM"), "{said:?}");
}

/// What `SCAN` gives twice, it gives twice in a row of few keys: a bounded memory of keys is enough.
#[test]
fn a_scan_repeats_only_what_it_gave_lately() {
    let mut connection = connect(&redis().fresh_database());
    let (mut repeats, mut farthest) = (0, 0);
    for round in 0..20_usize {
        let count = 20_000;
        ask::<()>(&mut connection, &["FLUSHDB"]);
        let mut pipeline = redis::pipe();
        for key in 0..count {
            pipeline.cmd("SET").arg(format!("key:{round}:{key}")).arg("").ignore();
        }
        pipeline.exec(&mut connection).expect("keys");
        let mut given: Vec<String> = Vec::new();
        let (mut cursor, mut left) = ("0".to_owned(), count);
        loop {
            let (next, keys): (String, Vec<String>) = ask(&mut connection, &["SCAN", &cursor, "COUNT", "17"]);
            for key in keys {
                if let Some(before) = given.iter().rev().position(|known| *known == key) {
                    (repeats, farthest) = (repeats + 1, farthest.max(before));
                }
                given.push(key);
            }
            cursor = next;
            if cursor == "0" {
                break;
            }
            // The table shrinks several times under the scan.
            if given.len() > 100 + round && left > 60 {
                let mut pipeline = redis::pipe();
                for key in left / 20..left {
                    pipeline.cmd("DEL").arg(format!("key:{round}:{key}")).ignore();
                }
                pipeline.exec(&mut connection).expect("fewer keys");
                left /= 20;
                std::thread::sleep(Duration::from_millis(250));
            }
        }
    }
    println!("{repeats} keys came twice, the farthest after {farthest} others");
    assert!(farthest < 1000, "a key came again after {farthest} others");
}
