//! What can be known before a copy is told before it, at its place.

use super::project;
use super::world::{Client, client_of, fill};
use crate::support::redis::{redis, standalone};

#[test]
fn rights_that_are_missing() {
    let server = standalone();
    fill(&mut client_of(&server));
    let mut root = client_of(&server);
    let login = |user: &str| server.url().replace("redis://", &format!("redis://{user}:pw@"));
    let target = redis().fresh_database();
    root.say("ACL SETUSER noscan on >pw ~* +@all -scan -type");
    let said = project(&login("noscan"), &target, "keys: [\"*\"]", "", "").haul(&["plan", "copy"]).expect(2);
    assert!(said.stderr.contains("may not run TYPE, SCAN"), "{}", said.stderr);
    root.say("ACL SETUSER reader on >pw ~* +@read +@connection +info +cluster");
    let said = project(&target, &login("reader"), "keys: [\"*\"]", ", copy: dump", "").haul(&["plan", "copy"]).expect(2);
    assert!(said.stderr.contains("may not run DEL, PEXPIREAT, EVAL"), "{}", said.stderr);
    let wrong = server.url().replace("redis://", "redis://reader:hunter2@");
    let said = project(&wrong, &target, "keys: [\"*\"]", "", "").haul(&["plan", "copy"]).expect(2);
    assert!(said.stderr.contains("refused user or password") && !said.stderr.contains("hunter2"), "{}", said.stderr);
}

/// Without DUMP values go by commands; without PEXPIRETIME expiry comes by PTTL; without RESTORE values go by commands. The plan says why.
#[test]
fn other_ways_where_a_command_is_refused() {
    let server = standalone();
    let mut root = client_of(&server);
    fill(&mut root);
    let world = root.world();
    root.say("ACL SETUSER nodump on >pw ~* +@all -dump");
    root.say("ACL SETUSER old on >pw ~* +@all -pexpiretime");
    let login = |user: &str| server.url().replace("redis://", &format!("redis://{user}:pw@"));
    for (user, said) in
        [("nodump", "values by commands, since the source refuses DUMP"), ("old", "expiry by PTTL, since the server refuses PEXPIRETIME")]
    {
        let target = redis().fresh_database();
        let project = project(&login(user), &target, "keys: [\"*\"]", "", "");
        let plan = project.haul(&["plan", "copy"]).expect(0).stdout;
        assert!(plan.contains(said), "{plan}");
        project.haul(&["run", "copy"]).expect(0);
        let mut found = Client::of(&target).world();
        for (key, held) in &world {
            let found = found.remove(key).unwrap_or_else(|| panic!("{} is missing", key.escape_ascii()));
            assert_eq!((&held.ty, &held.value), (&found.ty, &found.value));
            assert!(held.expires_at.abs_diff(found.expires_at) <= 100, "{held:?} {found:?}");
        }
    }
    let other = standalone();
    client_of(&other).say("ACL SETUSER norestore on >pw ~* +@all -restore");
    let url = other.url().replace("redis://", "redis://norestore:pw@");
    let project = project(&server.url(), &url, "keys: [\"*\"]", "", "");
    let plan = project.haul(&["plan", "copy"]).expect(0).stdout;
    assert!(plan.contains("values by commands, since the user `norestore` may not run RESTORE"), "{plan}");
    project.haul(&["run", "copy"]).expect(0);
    assert_eq!(world, client_of(&other).world());
}

#[test]
fn a_target_that_cannot_take_it() {
    let source = standalone();
    fill(&mut client_of(&source));
    let plan = |url: &str, to: &str| project(&source.url(), url, "keys: [\"*\"]", to, "").haul(&["plan", "copy"]);
    let full = standalone();
    client_of(&full).say("CONFIG SET maxmemory 1mb");
    let said = plan(&full.url(), "").expect(2);
    assert!(said.stderr.contains("target-room"), "{}", said.stderr);
    client_of(&full).say("CONFIG SET maxmemory 1gb");
    client_of(&full).say("CONFIG SET maxmemory-policy allkeys-lru");
    let said = plan(&full.url(), "").expect(0);
    assert!(said.stdout.contains("a full target drops keys by its policy allkeys-lru"), "{}", said.stdout);
    let replica = standalone();
    client_of(&replica).say(&format!("REPLICAOF 127.0.0.1 {}", full.port));
    let said = plan(&replica.url(), "").expect(2);
    assert!(said.stderr.contains("is a replica and takes no writes"), "{}", said.stderr);
    let lonely = crate::support::redis::cluster();
    client_of(&lonely.nodes[0]).say("CLUSTER DELSLOTS 0");
    let said = plan(&lonely.nodes[0].url(), "");
    assert_ne!(said.code, Some(0), "{said:?}");
    let said = plan(&format!("{}/3", lonely.nodes[0].url()), "");
    assert_ne!(said.code, Some(0), "{said:?}");
}
