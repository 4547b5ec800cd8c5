//! Keys that are larger than a batch come in pieces.

use super::project;
use super::world::{Client, bytes, fill};
use crate::support::redis::redis;

/// Batches so small that every large key is cut into many pieces.
const SMALL: &str = "    batch: { bytes: 1KiB }\n";

#[test]
fn pieces_make_the_whole() {
    let (source, target) = (redis().fresh_database(), redis().fresh_database());
    let mut client = Client::of(&source);
    fill(&mut client);
    client.ask(&[b"SET", b"huge", &(0..500_000_u32).flat_map(u32::to_be_bytes).collect::<Vec<u8>>()]);
    for route in ["auto", "commands"] {
        for conflict in ["error", "error", "skip", "replace"] {
            let to = format!(", copy: {route}, conflict: {conflict}");
            project(&source, &target, "keys: [\"*\"]", &to, SMALL).haul(&["run", "copy"]).expect(0);
            assert_eq!(client.world(), Client::of(&target).world(), "{to}");
        }
        assert!(Client::of(&target).own().iter().all(|key| !key.contains("temporary")));
        Client::of(&target).say("FLUSHDB");
    }
}

/// Whatever the size of a key, haul holds a few batches of it: 200 MiB in one list and 100 MiB in one string go through far less memory.
#[test]
fn a_large_key_takes_little_memory() {
    let (source, target) = (redis().fresh_database(), redis().fresh_database());
    let mut client = Client::of(&source);
    let element = vec![b'e'; 10_000];
    for _ in 0..200 {
        let mut words: Vec<&[u8]> = vec![b"RPUSH", b"list"];
        words.extend(std::iter::repeat_n(element.as_slice(), 100));
        client.ask(&words);
    }
    client.ask(&[b"SETRANGE", b"string", b"104857599", b"x"]);
    let project = project(&source, &target, "keys: [\"*\"]", "", "limits: { memory: 32MiB }\n");
    let run = project.command(&["run", "copy"]).output().expect("haul can be started");
    assert_eq!(run.status.code(), Some(0), "{}", String::from_utf8_lossy(&run.stderr));
    let idle = peak_kib(&project, &["plan", "copy"]);
    Client::of(&target).say("FLUSHDB");
    let peak = peak_kib(&project, &["run", "copy", "--fresh"]);
    println!("peak {peak} KiB, planning only {idle} KiB");
    assert!(peak < idle + 64 * 1024, "peak {peak} KiB, planning only {idle} KiB");
    let mut target = Client::of(&target);
    assert_eq!(bytes(target.say("GETRANGE string 104857599 104857599")), b"x");
    assert_eq!(target.say("LLEN list"), redis::Value::Int(20_000));
}

/// The most memory that a run of haul had, by GNU time's own count of its child.
fn peak_kib(project: &crate::support::Project, arguments: &[&str]) -> u64 {
    let mut child =
        project.command(arguments).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().expect("haul");
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait().expect("haul can be waited for").is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
        peak = peak.max(line.trim().trim_end_matches(" kB").parse().unwrap_or(0));
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    peak
}
