//! Servers of other versions than the one that is here.

use super::project;
use super::world::{Client, fill};
use crate::support::heard::Heard;
use crate::support::proxy::Proxy;
use crate::support::redis::{redis, standalone};

/// The target says that it is older than it is.
#[test]
fn an_older_target_gets_streams_in_words_that_it_knows() {
    let (source, target) = (redis().fresh_database(), redis().fresh_database());
    fill(&mut Client::of(&source));
    let info: String = redis().ask(&["INFO", "server"]);
    let version = info.lines().find_map(|line| line.strip_prefix("redis_version:")).expect("a version");
    let proxy = Proxy::pretending(redis().port, &format!("redis_version:{}", &version[..3]), "redis_version:6.0");
    let through = target.replace(&redis().port.to_string(), &proxy.port.to_string());
    project(&source, &through, "keys: [\"stream:*\"]", ", copy: commands", "    verify: digest\n").haul(&["run", "copy"]).expect(0);
    let mut client = Client::of(&target);
    let mut told = |command: &str| format!("{:?}", client.say(command));
    // It counts what was added to it; the source has dropped one of its nine.
    let stream = told("XINFO STREAM stream:groups");
    assert!(stream.contains("\"entries-added\"'), int(8)"), "{stream}");
    let consumers = told("XINFO CONSUMERS stream:groups workers");
    assert!(["lazy", "one", "two"].iter().all(|name| consumers.contains(name)), "{consumers}");
}

/// Servers before 6.2 know no place behind an id.
#[test]
fn streams_are_read_in_words_that_every_server_knows() {
    let server = standalone();
    let mut client = Client(server.connect());
    fill(&mut client);
    let (url, target) = (server.url(), redis().fresh_database());
    let heard = Heard::of(&server);
    project(&url, &target, "keys: [\"stream:*\"]", ", copy: commands", "    batch: { bytes: 1KiB }\n").haul(&["run", "copy"]).expect(0);
    let rows = project(&url, &target, "stream: \"stream:large\", columns: { n: int64 }", "", "");
    rows.file("pipelines/copy.yaml", rows.read("pipelines/copy.yaml").replace("to: { redis: new }", "to: { discard: \"a look\" }"));
    rows.haul(&["run", "copy"]).expect(0);
    let commands = heard.commands();
    for name in ["XRANGE", "XPENDING"] {
        let said: Vec<&String> = commands.iter().map(|(_, words)| words).filter(|words| words.contains(name)).collect();
        assert!(said.len() > 2, "{said:?}");
        assert!(said.iter().all(|words| !words.contains("\"(")), "{said:?}");
    }
}
