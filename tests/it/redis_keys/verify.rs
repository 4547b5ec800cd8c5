//! Comparison of two servers: what differs is told with its key, and nothing else is.

use super::world::{Client, fill};
use super::{copy, project};
use crate::support::redis::redis;

#[test]
fn every_difference_is_told() {
    let (source, target) = (redis().fresh_database(), redis().fresh_database());
    let mut old = Client::of(&source);
    fill(&mut old);
    let project = project(&source, &target, "keys: [\"*\"]", ", only: true", "");
    project.haul(&["run", "copy"]).expect(0);
    let mut new = Client::of(&target);
    let verify = || project.haul(&["verify", "copy"]);
    verify().expect(0);
    let changes = [
        ("DEL list:small", "list:small: missing in the target"),
        ("SET more 1", "more: only in the target"),
        ("RENAME hash:small set:small", "set:small: only in the target"),
        ("LSET list:large 600 other", "list:large: its value differs"),
        ("SADD set:large other", "set:large: its value differs"),
        ("SREM set:words x", "set:words: its value differs"),
        ("HSET hash:large extra 1", "hash:large: its value differs"),
        ("ZINCRBY zset:large 0.001 m5vvvvv", "zset:large: its value differs"),
        ("APPEND long x", "long: its value differs"),
        ("XACK stream:groups workers 1-0", "stream:groups: its value differs"),
        ("XADD stream:large * a b", "stream:large: its value differs"),
        ("PERSIST expiring", "expiring: its expiry differs"),
        ("PEXPIRE number 100000", "number: its expiry differs"),
    ];
    for (change, told) in changes {
        new.say(change);
        let said = verify().expect(1);
        let text = said.stdout + &said.stderr;
        assert!(text.contains(told), "after {change}: {text}");
        new.say("FLUSHDB");
        copy(&source, &target, "");
        verify().expect(0);
    }
    new.say("DEL plain");
    new.say("RPUSH plain value");
    let said = verify().expect(1);
    assert!((said.stdout + &said.stderr).contains("plain: its type differs"));
}

/// A key that expires between the two sides is no difference.
#[test]
fn keys_that_expire_on_the_way_are_no_difference() {
    let (source, target) = (redis().fresh_database(), redis().fresh_database());
    let mut old = Client::of(&source);
    fill(&mut old);
    for number in 0..2000 {
        old.ask(&[b"SET", format!("short:{number}").as_bytes(), b"x", b"PX", format!("{}", 1 + number * 2).as_bytes()]);
    }
    copy(&source, &target, ", only: true");
    copy(&source, &target, ", only: true, copy: commands, conflict: replace");
}

#[test]
fn counting_looks_for_keys_only() {
    let (source, target) = (redis().fresh_database(), redis().fresh_database());
    fill(&mut Client::of(&source));
    copy(&source, &target, "");
    let mut new = Client::of(&target);
    new.say("SET plain other");
    let to = ", conflict: skip";
    project(&source, &target, "keys: [\"*\"]", to, "    verify: count\n").haul(&["run", "copy"]).expect(0);
    let said = project(&source, &target, "keys: [\"*\"]", to, "").haul(&["run", "copy"]).expect(1);
    assert!(said.stderr.contains("plain: its value differs"), "{}", said.stderr);
}
