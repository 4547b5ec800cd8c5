//! What is copied arrives as it was, wherever it goes.

use super::world::{Client, World, client_of, fill, url_of, world_of};
use super::{copy, project};
use crate::support::redis::{cluster, redis, standalone, tls};

/// A source with every type of key, and an empty target.
fn two_databases() -> (String, String, World) {
    let (source, target) = (redis().fresh_database(), redis().fresh_database());
    let mut client = Client::of(&source);
    fill(&mut client);
    let world = client.world();
    assert!(world.len() >= 24, "{} keys", world.len());
    (source, target, world)
}

#[track_caller]
fn same(expected: &World, found: &World) {
    for (key, held) in expected {
        assert_eq!(Some(held), found.get(key), "key {}", key.escape_ascii());
    }
    assert_eq!(expected.len(), found.len(), "keys in all");
}

#[test]
fn every_type_as_payloads_and_as_commands() {
    let (source, target, world) = two_databases();
    let said = copy(&source, &target, "");
    assert!(said.stderr.contains("identical") || said.stdout.contains("identical"), "{said:?}");
    same(&world, &Client::of(&target).world());
    let by_commands = redis().fresh_database();
    let project = project(&source, &by_commands, "keys: [\"*\"]", ", copy: commands", "    verify: digest\n");
    let plan = project.haul(&["plan", "copy"]).expect(0).stdout;
    assert!(plan.contains("values by commands, since the pipeline says so"), "{plan}");
    project.haul(&["run", "copy"]).expect(0);
    same(&world, &Client::of(&by_commands).world());
    project.haul(&["verify", "copy"]).expect(0);
}

#[test]
fn to_a_cluster_and_back() {
    let (source, back, world) = two_databases();
    let cluster = cluster();
    copy(&source, &url_of(&cluster), "");
    same(&world, &world_of(&cluster));
    let held: Vec<usize> = cluster.nodes.iter().map(|node| client_of(node).world().len()).collect();
    assert!(held.iter().all(|keys| *keys > 0), "every master has some: {held:?}");
    copy(&url_of(&cluster), &back, "");
    same(&world, &Client::of(&back).world());
    copy(&source, &url_of(&cluster), ", copy: commands, conflict: replace");
    same(&world, &world_of(&cluster));
}

#[test]
fn over_tls_with_a_user() {
    let (source, _, world) = two_databases();
    let server = tls();
    let url = format!("{}?ca={}", server.url(), server.authority().display());
    copy(&source, &url, "");
    same(&world, &client_of(&server).world());
    let stranger = project(&source, &server.url(), "keys: [\"*\"]", "", "").haul(&["plan", "copy"]).expect(2);
    assert!(stranger.stderr.contains("no TLS connection that can be trusted"), "{}", stranger.stderr);
    let weak = project(&source, &format!("{}?verify=none", server.url()), "keys: [\"*\"]", ", conflict: replace", "")
        .haul(&["plan", "copy"])
        .expect(0);
    assert!(weak.stdout.contains("TLS without a check of the certificate"), "{}", weak.stdout);
    assert!(!weak.stdout.contains("se/cret") && !weak.stdout.contains("se%2Fcret"));
}

#[test]
fn only_the_keys_that_are_asked_for() {
    let (source, _, world) = two_databases();
    let check = |from: &str, keep: &dyn Fn(&str, &super::world::Held) -> bool| {
        let target = redis().fresh_database();
        project(&source, &target, from, ", only: true", "").haul(&["run", "copy"]).expect(0);
        let kept: World =
            world.iter().filter(|(key, held)| keep(&String::from_utf8_lossy(key), held)).map(|(k, v)| (k.clone(), v.clone())).collect();
        assert!(!kept.is_empty(), "{from}");
        same(&kept, &Client::of(&target).world());
    };
    check("keys: [\"list:*\"]", &|key, _| key.starts_with("list:"));
    check("keys: [\"list:*\", \"set:*\", \"!*:large\"]", &|key, _| {
        (key.starts_with("list:") || key.starts_with("set:")) && !key.ends_with(":large")
    });
    check("keys: [\"*\"], types: [hash]", &|_, held| held.ty == "hash");
    check("keys: [\"*\"], types: [sorted_set, stream]", &|_, held| held.ty == "zset" || held.ty == "stream");
    check("keys: [\"*\"], lifetime: { unlimited: false }", &|_, held| held.expires_at > 0);
    check("keys: [\"*\"], lifetime: { max: 1h }", &|_, held| held.expires_at < 0);
    check("keys: [\"*\"], size: { min: 10KiB }, types: [string]", &|key, _| key == "long");
}

#[test]
fn steps_see_keys_as_rows() {
    let (source, target, world) = two_databases();
    let steps = "    transform:\n      - filter: \"type in ('set', 'hash') and expires_at is null\"\n";
    project(&source, &target, "keys: [\"*\"]", "", steps).haul(&["run", "copy"]).expect(0);
    let kept = world.into_iter().filter(|(_, held)| ["set", "hash"].contains(&held.ty.as_str()) && held.expires_at < 0).collect();
    same(&kept, &Client::of(&target).world());
}

#[test]
fn keys_get_new_names_in_their_own_slots() {
    let (source, _, world) = two_databases();
    let cluster = cluster();
    copy(&source, &url_of(&cluster), ", key: \"new:{{ key | replace('list:', 'l:') }}\"");
    let renamed = |key: &[u8]| {
        let key = key.strip_prefix(b"list:").map_or_else(|| key.to_vec(), |rest| [b"l:", rest].concat());
        [b"new:".to_vec(), key].concat()
    };
    same(&world.into_iter().map(|(key, held)| (renamed(&key), held)).collect(), &world_of(&cluster));
}

#[test]
fn two_keys_of_one_name_are_an_error() {
    let (source, target) = (redis().fresh_database(), redis().fresh_database());
    let mut client = Client::of(&source);
    client.say("SET user:1 a");
    client.say("SET USER:1 b");
    let said =
        project(&source, &target, "keys: [\"*\"]", ", conflict: replace, key: \"{{ key | lower }}\"", "").haul(&["run", "copy"]).expect(1);
    assert!(said.stderr.contains("would be renamed to user:1, and so would another key"), "{}", said.stderr);
}

#[test]
fn what_is_there_already() {
    let (source, target) = (redis().fresh_database(), redis().fresh_database());
    let (mut old, mut new) = (Client::of(&source), Client::of(&target));
    fill(&mut old);
    for route in ["dump", "commands"] {
        new.say("FLUSHDB");
        // The same value is no conflict, in whatever order it lies; then another value, type and expiry.
        for number in (0..700).rev() {
            let value = "v".repeat(number % 200);
            new.ask(&[b"SADD", b"set:large", format!("member {number} {value}").as_bytes()]);
        }
        new.say("SET number 12345");
        copy(&source, &target, &format!(", copy: {route}"));
        for (other, what) in [("SET number 12346", "number (its value differs)"), ("SADD set:large more", "set:large (its value differs)")]
        {
            new.say("FLUSHDB");
            copy(&source, &target, &format!(", copy: {route}"));
            new.say(other);
            let project = project(&source, &target, "keys: [\"*\"]", &format!(", copy: {route}"), "");
            let said = project.haul(&["run", "copy"]).expect(1);
            assert!(said.stderr.contains(what), "{}", said.stderr);
        }
        new.say("SET number 12346");
        let before = new.world();
        project(&source, &target, "keys: [\"*\"]", &format!(", copy: {route}, conflict: skip"), "    verify: none\n")
            .haul(&["run", "copy"])
            .expect(0);
        same(&before, &new.world());
        copy(&source, &target, &format!(", copy: {route}, conflict: replace"));
        same(&old.world(), &new.world());
        assert!(new.own().iter().all(|key| !key.contains("temporary")), "{:?}", new.own());
    }
}

#[test]
fn a_server_that_comes_back_during_a_copy() {
    let source = redis().fresh_database();
    let mut client = Client::of(&source);
    fill(&mut client);
    for number in 0..3000 {
        client.ask(&[b"SET", format!("key:{number}").as_bytes(), &[b'x'; 200]]);
    }
    let server = standalone();
    let more = "    batch: { rows: 50, bytes: 64KiB }\n    retry: { attempts: 50, backoff: { initial: 50ms, max: 200ms } }\n";
    let project = project(&source, &server.url(), "keys: [\"*\"]", ", conflict: replace", more);
    let mut run = project.command(&["run", "copy"]);
    let mut run = run.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().expect("haul can be started");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while client_of(&server).world().len() < 300 {
        assert!(std::time::Instant::now() < deadline, "nothing arrives");
    }
    server.restart();
    let status = run.wait().expect("haul ends");
    assert_eq!(status.code(), Some(0));
    same(&client.world(), &client_of(&server).world());
}
