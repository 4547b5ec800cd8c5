//! Keys of every type, and a look at what a server holds that shares no code with haul.

use std::collections::{BTreeMap, BTreeSet};

use redis::{Connection, Value};

use crate::support::redis::{Cluster, Redis, connect};

/// What a key holds: its type, its value in a form without order where the type has none, and when it expires in milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub ty: String,
    pub value: String,
    pub expires_at: i64,
}

/// Every key of a database, but for haul's own.
pub type World = BTreeMap<Vec<u8>, Held>;

/// A connection that sends binary words.
pub struct Client(pub Connection);

impl Client {
    /// To what a URL names.
    pub fn of(url: &str) -> Self {
        Self(connect(url))
    }

    #[track_caller]
    pub fn ask(&mut self, words: &[&[u8]]) -> Value {
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(*word);
        }
        command.query(&mut self.0).unwrap_or_else(|error| panic!("redis refused {words:?}: {error}"))
    }

    /// One command in words of plain text.
    #[track_caller]
    pub fn say(&mut self, command: &str) -> Value {
        let words: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
        self.ask(&words)
    }

    /// What the database holds.
    pub fn world(&mut self) -> World {
        let Value::Array(keys) = self.ask(&[b"KEYS", b"*"]) else { panic!("KEYS gives a list") };
        let keys = keys.into_iter().map(bytes).filter(|key| !key.starts_with(b"haul:{"));
        keys.map(|key| (key.clone(), self.held(&key))).collect()
    }

    /// Names that haul keeps for itself.
    pub fn own(&mut self) -> Vec<String> {
        let Value::Array(keys) = self.ask(&[b"KEYS", b"haul:{*"]) else { panic!("KEYS gives a list") };
        keys.into_iter().map(|key| String::from_utf8(bytes(key)).expect("plain")).collect()
    }

    fn held(&mut self, key: &[u8]) -> Held {
        let ty = String::from_utf8(bytes(self.ask(&[b"TYPE", key]))).expect("a type");
        let value = match ty.as_str() {
            "string" => format!("{:?}", self.ask(&[b"GET", key])),
            "list" => format!("{:?}", self.ask(&[b"LRANGE", key, b"0", b"-1"])),
            "set" => sorted(self.ask(&[b"SMEMBERS", key]), 1),
            "zset" => format!("{:?}", self.ask(&[b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"])),
            "hash" => sorted(self.ask(&[b"HGETALL", key]), 2),
            "stream" => self.stream(key),
            other => panic!("type {other}"),
        };
        let Value::Int(expires_at) = self.ask(&[b"PEXPIRETIME", key]) else { panic!("a time") };
        Held { ty, value, expires_at }
    }

    /// Entries, ids, groups, and who waits for what; not how long ago, which goes on.
    fn stream(&mut self, key: &[u8]) -> String {
        let mut told = format!("{:?}", self.ask(&[b"XRANGE", key, b"-", b"+"]));
        let info = fields(self.ask(&[b"XINFO", b"STREAM", key]));
        for name in ["length", "last-generated-id", "max-deleted-entry-id", "entries-added", "groups"] {
            told += &format!(" {name}={:?}", info[name]);
        }
        let Value::Array(groups) = self.ask(&[b"XINFO", b"GROUPS", key]) else { panic!("groups") };
        for group in groups {
            let name = bytes(fields(group.clone())["name"].clone());
            told += &format!("\n{:?}", fields(group));
            let Value::Array(consumers) = self.ask(&[b"XINFO", b"CONSUMERS", key, &name]) else { panic!("consumers") };
            for consumer in consumers {
                let consumer = fields(consumer);
                told += &format!("\n  {:?} {:?}", consumer["name"], consumer["pending"]);
            }
            let Value::Array(pending) = self.ask(&[b"XPENDING", key, &name, b"-", b"+", b"1000"]) else { panic!("pending") };
            for entry in pending {
                let Value::Array(entry) = entry else { panic!("an entry") };
                told += &format!("\n  {:?} {:?} {:?}", entry[0], entry[1], entry[3]);
            }
        }
        told
    }
}

/// What all masters of a cluster hold.
pub fn world_of(cluster: &Cluster) -> World {
    cluster.nodes.iter().flat_map(|node| Client(node.connect()).world()).collect()
}

/// The URL of a cluster: any of its nodes.
pub fn url_of(cluster: &Cluster) -> String {
    cluster.nodes[1].url()
}

/// The first of a server's databases.
pub fn client_of(server: &Redis) -> Client {
    Client(server.connect())
}

pub fn bytes(value: Value) -> Vec<u8> {
    match value {
        Value::BulkString(bytes) => bytes,
        Value::SimpleString(text) => text.into_bytes(),
        other => panic!("no bytes: {other:?}"),
    }
}

fn fields(value: Value) -> BTreeMap<String, Value> {
    let Value::Array(items) = value else { panic!("a mapping") };
    let named = items.chunks_exact(2).map(|pair| (String::from_utf8(bytes(pair[0].clone())).expect("a name"), pair[1].clone()));
    // How long ago somebody was seen goes on; so does a lag that a copy by commands cannot set.
    named.filter(|(name, _)| !["lag", "entries-read"].contains(&name.as_str())).collect()
}

fn sorted(value: Value, step: usize) -> String {
    let Value::Array(items) = value else { panic!("a list") };
    let groups: BTreeSet<String> = items.chunks_exact(step).map(|group| format!("{group:?}")).collect();
    format!("{groups:?}")
}

/// Keys of every type and of many encodings: small and large, binary, empty, with expiry and without.
pub fn fill(client: &mut Client) {
    client.ask(&[b"SET", b"plain", b"value"]);
    client.ask(&[b"SET", b"", b"the empty key"]);
    client.ask(&[b"SET", b"empty", b""]);
    client.ask(&[b"SET", b"number", b"12345"]);
    client.ask(&[b"SET", b"\xff\x00bin\r\nary", b"\x00\xff\r\n$3\r\n"]);
    client.ask(&[b"SET", "umlaut:ä:\u{F4241}".as_bytes(), "ö".as_bytes()]);
    client.ask(&[b"SET", b"long", &b"compressible ".repeat(5000)]);
    client.ask(&[b"SET", b"expiring", b"x", b"PXAT", b"4102444800123"]);
    client.ask(&[b"SET", b"{tag}one", b"1"]);
    client.ask(&[b"SET", b"{tag}two", b"2"]);
    client.ask(&[b"SETBIT", b"bits", b"1000", b"1"]);
    client.ask(&[b"RPUSH", b"list:small", b"a", b"", b"\xff", b"a"]);
    client.ask(&[b"SADD", b"set:numbers", b"3", b"1", b"2"]);
    client.ask(&[b"SADD", b"set:words", b"x", b"", b"\xfe\xff"]);
    client.ask(&[b"ZADD", b"zset:small", b"1.5", b"a", b"-inf", b"b", b"inf", b"c", b"3.141592653589793", b"\xff", b"0.1", b"d"]);
    client.ask(&[b"HSET", b"hash:small", b"name", b"Ada", b"", b"empty field", b"\xff", b""]);
    for number in 0..700 {
        let text = number.to_string();
        let value = "v".repeat(number % 200);
        client.ask(&[b"RPUSH", b"list:large", text.as_bytes(), value.as_bytes()]);
        client.ask(&[b"SADD", b"set:large", format!("member {number} {value}").as_bytes()]);
        client.ask(&[b"ZADD", b"zset:large", format!("{}", number as f64 / 7.0).as_bytes(), format!("m{text}{value}").as_bytes()]);
        client.ask(&[b"HSET", b"hash:large", format!("field {text}").as_bytes(), value.as_bytes()]);
        client.ask(&[
            b"XADD",
            b"stream:large",
            format!("{}-{}", number + 1, number % 3).as_bytes(),
            b"n",
            text.as_bytes(),
            b"v",
            value.as_bytes(),
        ]);
    }
    client.ask(&[b"PEXPIREAT", b"hash:large", b"4102444800456"]);
    client.ask(&[b"PEXPIREAT", b"list:small", b"4102444800789"]);
    for entry in 1..=9 {
        client.ask(&[b"XADD", b"stream:groups", format!("{entry}-0").as_bytes(), b"", b"\xff\x00", b"field", b""]);
    }
    client.say("XGROUP CREATE stream:groups workers 0");
    client.say("XGROUP CREATE stream:groups idle $");
    client.say("XGROUP CREATECONSUMER stream:groups workers lazy");
    client.say("XREADGROUP GROUP workers one COUNT 4 STREAMS stream:groups >");
    client.say("XREADGROUP GROUP workers two COUNT 3 STREAMS stream:groups >");
    client.say("XREADGROUP GROUP workers one COUNT 2 STREAMS stream:groups 0");
    client.say("XACK stream:groups workers 2-0 5-0");
    client.say("XDEL stream:groups 9-0");
    client.say("XADD stream:empty 7-7 a b");
    client.say("XDEL stream:empty 7-7");
    client.say("XGROUP CREATE stream:new fresh $ MKSTREAM");
}
