//! Keys that go away, or whose time comes, between the moments at which they are read.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use futures::StreamExt;
use haul::connectors::redis::Server;
use haul::connectors::{ReadRequest, SplitGoal};
use haul::data::{BatchLimit, BatchStream};
use haul::define::pipeline::{Connection, Engine, KeysSource};
use haul::failure::Failure;
use haul::secret::Secret;

use super::project;
use super::world::{Client, fill};
use crate::support::proxy::{Fault, Proxy};
use crate::support::redis::redis;

/// Reads one key in small pieces.
async fn pieces(url: &str, key: &str, least_lifetime: Option<Duration>) -> BatchStream {
    let connection = Connection {
        name: "r".to_owned(),
        engine: Some(Engine::Redis),
        url: Secret::new(url.to_owned()),
        max_connections: 4,
        at: String::new(),
        http: Default::default(),
    };
    let server = Server::new(&connection, Path::new(".")).expect("a server");
    let source = server.keys(&KeysSource { patterns: vec![key.to_owned()], least_lifetime, ..KeysSource::all("r") });
    let request = ReadRequest { limit: BatchLimit { rows: 100, bytes: 1024 }, ..ReadRequest::default() };
    let reading = source.open(request).await.expect("a reading");
    let splits = reading.splits(SplitGoal { most: 1, bytes: 1 }).await.expect("splits").splits;
    reading.read(&splits[0], None).await.expect("a stream")
}

/// The next piece: whether there was one.
async fn next(pieces: &mut BatchStream) -> Result<bool, Failure> {
    while let Some(chunk) = pieces.next().await {
        match chunk?.batch.num_rows() {
            0 => {}
            rows => {
                assert_eq!(rows, 1);
                return Ok(true);
            }
        }
    }
    Ok(false)
}

const LARGE: [&str; 6] = ["long", "list:large", "set:large", "zset:large", "hash:large", "stream:large"];

#[tokio::test]
async fn a_key_that_goes_away_between_its_pieces_is_told() {
    let url = redis().fresh_database();
    let mut client = Client::of(&url);
    fill(&mut client);
    for key in LARGE {
        let mut pieces = pieces(&url, key, None).await;
        assert!(next(&mut pieces).await.expect("a piece"), "{key} has no first piece");
        client.say(&format!("DEL {key}"));
        match next(&mut pieces).await {
            Ok(_) => panic!("half of {key} was taken for the whole"),
            Err(failure) => assert!(failure.message.contains("went away while it was read in pieces"), "{key}: {failure}"),
        }
    }
}

#[tokio::test]
async fn a_lifetime_is_judged_once_for_all_pieces_of_a_key() {
    let url = redis().fresh_database();
    let mut client = Client::of(&url);
    fill(&mut client);
    for key in LARGE {
        let mut all = pieces(&url, key, None).await;
        let mut count = 0;
        while next(&mut all).await.expect("a piece") {
            count += 1;
        }
        assert!(count > 1, "{key} comes at once");
        client.say(&format!("EXPIRE {key} 7200"));
        let mut lasting = pieces(&url, key, Some(Duration::from_secs(3600))).await;
        assert!(next(&mut lasting).await.expect("a piece"));
        // As when the time passes.
        client.say(&format!("EXPIRE {key} 1800"));
        for piece in 1..count {
            assert!(next(&mut lasting).await.expect("a piece"), "{key} ended after {piece} of {count} pieces");
        }
    }
}

/// The expiry of a key is told behind its value: what happens to it in between.
#[test]
fn the_expiry_of_a_key_is_that_of_its_value() {
    let check = |to: &str, word: &str, meanwhile: &str, left: std::ops::RangeInclusive<i64>| {
        let (source, target) = (redis().fresh_database(), redis().fresh_database());
        let mut client = Client::of(&source);
        client.say("SET short x");
        let proxy = Proxy::before(redis().port);
        let project = project(&source.replace(&redis().port.to_string(), &proxy.port.to_string()), &target, "keys: [\"*\"]", to, "");
        proxy.spoil(word, 0, Fault::HoldWord);
        let mut run = project.command(&["run", "copy"]);
        let mut run = run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("haul can be started");
        while !proxy.has_spoilt() {
            std::thread::sleep(Duration::from_millis(5));
            assert!(run.try_wait().expect("haul can be waited for").is_none(), "the run ended without {word:?}");
        }
        client.say(meanwhile);
        proxy.let_go();
        assert_eq!(run.wait().expect("haul ends").code(), Some(0), "{to}");
        let redis::Value::Int(found) = Client::of(&target).say("PTTL short") else { panic!("a time") };
        assert!(left.contains(&found), "{to}: {found}");
    };
    check("", "PEXPIRETIME\r\n$5\r\nshort\r\n", "PEXPIREAT short 1", -2..=-2);
    check(", copy: commands", "PEXPIRETIME\r\n$5\r\nshort\r\n", "PEXPIREAT short 1", -2..=-2);
    check(", copy: commands", "GET\r\n$5\r\nshort\r\n", "SET short y PX 600000", 1..=600_000);
}
