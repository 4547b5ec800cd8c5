//! Clients that do not keep up: what becomes of them, and that nobody else notices.

use serde_json::json;

use super::clients::socket;
use super::*;
use crate::support::peak_kib;

/// Rows that are wide enough that no connection's buffers take all of them.
const COUNT: u64 = 160;

/// A feed whose rows have 100 kB each.
fn wide(output: &str) -> Project {
    let project = project(output, "");
    let text = project
        .read("pipelines/p.yaml")
        .replace("    batch:", "    transform: [{ set: { name: \"name || repeat('x', 100000)\" } }]\n    batch:");
    project.file("pipelines/p.yaml", text);
    project
}

/// A feed with a client that stops reading after the first event, and what it is told when it reads again.
fn stuck(slow: &str) -> (Project, Haul, String, Answer) {
    let project = wide(&format!(", key: id, slow: {slow}, slow_after: 3s"));
    let haul = Haul::start(&project, &["run", "p"]);
    add(&project, 1..=1);
    haul.until_head(&project, 1);
    let address = haul.address();
    let mut client = get(&address, "/feeds/a?from=start", &[]);
    assert_eq!(client.object()["@feed"], "start");
    assert_eq!(client.object()["@id"], 1);
    let mut other = get(&address, "/feeds/a", &[]);
    other.object();
    for part in 0..COUNT / 16 {
        let first = 2 + part * 16;
        add(&project, first..=first + 15);
        // Whoever reads gets everything meanwhile.
        for id in first..first + 16 {
            assert_eq!(other.object()["@id"], id);
        }
    }
    // By now it lags behind for longer than it may.
    std::thread::sleep(Duration::from_secs(4));
    (project, haul, address, client)
}

/// Reads on until a note, past events that follow on each other. Gives the note and the last event before it.
fn until_note(client: &mut Answer) -> (Value, u64) {
    let mut at = 1;
    loop {
        let value = client.object();
        if !value["@feed"].is_null() {
            return (value, at);
        }
        at += 1;
        assert_eq!(value["@id"], at);
    }
}

#[test]
fn a_slow_client_is_disconnected_and_goes_on_later() {
    let (_project, _haul, address, mut client) = stuck("disconnect");
    let (note, at) = until_note(&mut client);
    assert_eq!(note, json!({ "@feed": "end", "reason": "slow", "place": at.to_string() }));
    assert_eq!(client.line(), None);
    assert!(at > 1 && at < COUNT, "{at}");
    let mut again = get(&address, &format!("/feeds/a?from={at}"), &[]);
    assert_eq!(again.object()["lost"], 0);
    for id in at + 1..=COUNT + 1 {
        assert_eq!(again.object()["@id"], id);
    }
}

#[test]
fn a_slow_client_skips_and_is_told() {
    let (project, _haul, _, mut client) = stuck("skip");
    let (note, at) = until_note(&mut client);
    let head = COUNT + 1;
    assert_eq!(note, json!({ "@feed": "skipped", "place": head.to_string(), "lost": head - at }));
    add(&project, head + 1..=head + 1);
    assert_eq!(client.object()["@id"], head + 1);
}

#[test]
fn a_slow_client_gets_the_last_event_of_each_key() {
    let (project, _haul, _, mut client) = stuck("latest_per_key");
    let (note, at) = until_note(&mut client);
    assert_eq!(note["@feed"], "latest_per_key");
    // Each key had one event here, so that none is left out; what follows is new.
    for id in at + 1..=COUNT + 1 {
        assert_eq!(client.object()["@id"], id);
    }
    add(&project, COUNT + 2..=COUNT + 2);
    assert_eq!(client.object()["@id"], COUNT + 2);
}

/// Clients that never read, of each protocol that goes on.
const STUCK: usize = 6;
/// Rows of the flood: 32 MB, of which no socket's buffers hold a fourth.
const FLOOD: u64 = 320;
/// What the flood may add to haul's memory. Each client may hold one piece of the feed.
const MOST_KIB: u64 = 64 << 10;

#[test]
fn clients_that_never_read_cost_no_memory_and_hold_nobody_up() {
    let project = wide(", slow_after: 1h");
    let haul = Haul::start(&project, &["run", "p"]);
    add(&project, 1..=1);
    haul.until_head(&project, 1);
    let address = haul.address();
    let mut answers: Vec<Answer> =
        (0..2 * STUCK).map(|client| get(&address, &format!("/feeds/a?from=start&as={}", ["ndjson", "sse"][client % 2]), &[])).collect();
    let sockets: Vec<_> = (0..STUCK).map(|_| socket(&address, "?from=start")).collect();
    let mut other = get(&address, "/feeds/a", &[]);
    other.object();
    let before = peak_kib(&haul.child);
    for first in (2..FLOOD + 2).step_by(16) {
        add(&project, first..=first + 15);
        // Whoever reads gets everything meanwhile.
        for id in first..first + 16 {
            assert_eq!(other.object()["@id"], id);
        }
    }
    let grown = peak_kib(&haul.child) - before;
    println!("{} stuck clients: {before} KiB before, {grown} KiB more after", 3 * STUCK);
    assert!(grown < MOST_KIB, "{} clients that do not read made haul grow by {grown} KiB", 3 * STUCK);
    drop(sockets);
    // One that begins to read after all has missed nothing until then. It is given up where the flood took longer than haul's patience.
    let (mut late, mut at) = (answers.swap_remove(0), 0);
    while at <= FLOOD
        && let Ok(Some(line)) = late.try_line()
    {
        if let Some(id) = serde_json::from_str::<Value>(&line).ok().and_then(|event| event["@id"].as_u64()) {
            at += 1;
            assert_eq!(id, at);
        }
    }
    assert!(at > 0);
}

/// What a client has not taken yet may go from the log while its answer goes on: it is told what it did not get.
#[test]
fn a_gap_amid_an_answer_is_told() {
    let project = wide(", keep: { rows: 20 }, slow_after: 1h");
    let haul = Haul::start(&project, &["run", "p"]);
    add(&project, 1..=1);
    haul.until_head(&project, 1);
    let mut client = get(&haul.address(), "/feeds/a?from=start", &[]);
    assert_eq!(client.object()["@feed"], "start");
    assert_eq!(client.object()["@id"], 1);
    for first in (2..=COUNT + 1).step_by(16) {
        add(&project, first..=first + 15);
    }
    haul.until_head(&project, COUNT + 1);
    // The log may outrun it more than once, as long as there is room in the buffers between.
    let (mut at, mut lost) = (1, 0);
    while at <= COUNT {
        let value = client.object();
        if value["@feed"].is_null() {
            at += 1;
            assert_eq!(value["@id"], at);
        } else {
            let gap = value["lost"].as_u64().expect("a count");
            (at, lost) = (at + gap, lost + gap);
            assert_eq!(value, json!({ "@feed": "gap", "place": at.to_string(), "lost": gap }));
        }
    }
    assert!(lost > 0);
}
