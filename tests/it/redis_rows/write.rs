//! Rows → keys.

use super::Bench;
use crate::support::redis::{cluster, redis};

fn bench() -> Bench {
    Bench::new(redis().fresh_database())
}

const ROWS: &str = "id,name,age\n1,Anna,41\n2,NULL,7\n3,\"C, D\",NULL\n";

#[test]
fn each_shape_holds_its_columns() {
    let bench = bench();
    bench.write(ROWS, "hash: \"user:{{ id }}\"").expect(0);
    let hash = |key: &str| bench.ask::<std::collections::BTreeMap<String, String>>(&["HGETALL", key]);
    let pairs = |pairs: &[(&str, &str)]| pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    assert_eq!(hash("user:1"), pairs(&[("id", "1"), ("name", "Anna"), ("age", "41")]));
    assert_eq!(hash("user:2"), pairs(&[("id", "2"), ("age", "7")]));
    bench.write(ROWS, "json: \"doc:{{ id }}\"").expect(0);
    assert_eq!(bench.ask::<String>(&["GET", "doc:3"]), r#"{"id":3,"name":"C, D","age":null}"#);
    bench.write("sku,value\nx,1.50\ny,2\n", "string: \"price:{{ sku }}\"").expect(0);
    assert_eq!(bench.ask::<Vec<String>>(&["MGET", "price:x", "price:y"]), ["1.50", "2.00"]);
    bench.write("q,value\na,1\nb,2\na,3\n", "list: \"queue:{{ q }}\"").expect(0);
    assert_eq!(bench.ask::<Vec<i64>>(&["LRANGE", "queue:a", "0", "-1"]), [1, 3]);
    bench.write("a,member\n7,red\n7,red\n7,blue\n", "set: \"tags:{{ a }}\"").expect(0);
    assert_eq!(bench.ask::<i64>(&["SCARD", "tags:7"]), 2);
    bench.write("member,score\nanna,1\nben,2\nanna,3.5\n", "sorted_set: ranking, allow_lossy: [score]").expect(0);
    assert_eq!(bench.ask::<Vec<String>>(&["ZRANGE", "ranking", "0", "-1", "WITHSCORES"]), ["ben", "2", "anna", "3.5"]);
    bench.write(ROWS, "stream: orders").expect(0);
    let entries: Vec<(String, Vec<String>)> = bench.ask(&["XRANGE", "orders", "-", "+"]);
    let fields: Vec<&[String]> = entries.iter().map(|(_, fields)| fields.as_slice()).collect();
    assert_eq!(fields, [&["id", "1", "name", "Anna", "age", "41"][..], &["id", "2", "age", "7"], &["id", "3", "name", "C, D"]]);
}

/// What is proved is what a key holds in the end, however many of its rows are written at the same time.
#[test]
fn rows_of_one_key_in_several_batches() {
    let bench = bench();
    let check = |rows: &str, to: &str, held: &[&str], expected: &[&str]| {
        bench.project.file("in.csv", rows);
        let from = "from: { files: here, path: in.csv }";
        bench.run(&format!("{from}\nto: {{ redis: r, {to} }}\nbatch: {{ rows: 1 }}\nverify: digest")).expect(0);
        assert_eq!(bench.ask::<Vec<String>>(held), expected, "{to}");
    };
    let rows = "id,value\n1,old\n2,other\n1,new\n";
    check(rows, "hash: \"h:{{ id }}\"", &["HMGET", "h:1", "id", "value"], &["1", "new"]);
    check(rows, "hash: \"m:{{ id }}\", mode: merge", &["HMGET", "m:1", "id", "value"], &["1", "new"]);
    check(rows, "json: \"j:{{ id }}\"", &["MGET", "j:1"], &[r#"{"id":1,"value":"new"}"#]);
    check(rows, "string: \"s:{{ id }}\"", &["MGET", "s:1"], &["new"]);
    let scores = "member,score\na,1\nb,2\na,3\n";
    check(scores, "sorted_set: z, allow_lossy: [score]", &["ZRANGE", "z", "0", "-1", "WITHSCORES"], &["b", "2", "a", "3"]);
}

#[test]
fn replacing_takes_fields_away_and_merging_does_not() {
    let bench = bench();
    for (mode, expected) in [("replace", vec![("age", "7"), ("id", "2")]), ("merge", vec![("age", "7"), ("city", "Ulm"), ("id", "2")])] {
        bench.ask::<i64>(&["DEL", "user:2"]);
        bench.ask::<i64>(&["HSET", "user:2", "name", "Ben", "city", "Ulm"]);
        bench.ask::<i64>(&["EXPIRE", "user:2", "1000"]);
        bench.write(ROWS, &format!("hash: \"user:{{{{ id }}}}\", mode: {mode}")).expect(0);
        let found: std::collections::BTreeMap<String, String> = bench.ask(&["HGETALL", "user:2"]);
        assert_eq!(found.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect::<Vec<_>>(), expected, "{mode}");
        assert_eq!(bench.ask::<i64>(&["TTL", "user:2"]) > 0, mode == "merge", "{mode}: a replaced key is a new one");
    }
}

#[test]
fn keys_live_as_long_as_their_rows_say() {
    let bench = bench();
    let rows = "id,until\n1,2096-10-02T07:06:40.123Z\n2,NULL\n3,2001-01-01T00:00:00Z\n4,2096-10-02T07:06:40.0001Z\n";
    for mode in ["replace", "merge"] {
        bench.ask::<()>(&["FLUSHDB"]);
        bench.ask::<i64>(&["HSET", "k:2", "id", "2"]);
        bench.ask::<i64>(&["EXPIRE", "k:2", "1000"]);
        bench.write(rows, &format!("hash: \"k:{{{{ id }}}}\", ttl: {{ column: until }}, mode: {mode}")).expect(0);
        let expiry = |key: &str| bench.ask::<i64>(&["PEXPIRETIME", key]);
        assert_eq!((expiry("k:1"), expiry("k:2"), expiry("k:3"), expiry("k:4")), (4_000_000_000_123, -1, -2, 4_000_000_000_001), "{mode}");
        assert_eq!(bench.ask::<Vec<String>>(&["HKEYS", "k:1"]), ["id"], "the expiry is not stored");
    }
    for to in ["json: \"j:{{ id }}\"", "list: l, ttl: 10m", "set: s, ttl: 10m", "stream: x, ttl: 10m"] {
        let (key, rows) = match to.split(':').next() {
            Some("json") => ("j:1", "id\n1\n"),
            Some("list") => ("l", "value\n1\n"),
            Some("set") => ("s", "member\n1\n"),
            _ => ("x", "id\n1\n"),
        };
        let to = if to.contains("ttl") { to.to_owned() } else { format!("{to}, ttl: 10m") };
        bench.write(rows, &to).expect(0);
        let left = bench.ask::<i64>(&["PTTL", key]);
        assert!((590_000..=600_000).contains(&left), "{to}: {left} ms left");
    }
}

/// A row that has no key, or whose key other values would have as well, or whose value has no form: the stage fails, and names it.
#[test]
fn rows_that_no_key_can_hold_are_refused() {
    let bench = bench();
    for (rows, to, part) in [
        ("id,n\nNULL,1\n", "hash: \"k:{{ id }}\"", "`id` is NULL"),
        ("a,b,n\n\"x:y\",z,1\n", "hash: \"{{ a }}:{{ b }}\"", "the key `x:y:z` of a row would be read back as other values"),
        ("k,n\nhaul:{x,1\n", "hash: \"{{ k }}\"", "haul's own records"),
        ("k,value\na,NULL\n", "string: \"s:{{ k }}\"", "`value` of the key `s:a` is NULL"),
        ("member,score\na,NULL\nb,2\n", "sorted_set: z, allow_lossy: [score]", "`score` of the key `z` is NULL"),
    ] {
        let said = bench.write(rows, to).expect(1);
        assert!(said.stderr.contains(part), "{to}: {}", said.stderr);
        let keys: Vec<String> = bench.ask(&["KEYS", "*"]);
        assert!(keys.iter().all(|key| key.starts_with("haul:{")), "{to} left {keys:?}");
    }
}

/// A command that fails in a transaction does not undo the others, so a key of another type is found before.
#[test]
fn a_key_of_another_type_stops_everything() {
    let bench = bench();
    bench.ask::<()>(&["SET", "queue:b", "text"]);
    bench.ask::<()>(&["SET", "k:2", "text"]);
    for (rows, to) in [
        ("q,value\na,1\nb,2\n", "list: \"queue:{{ q }}\""),
        ("q,member\na,1\nb,2\n", "set: \"queue:{{ q }}\""),
        ("q,n\na,1\nb,2\n", "stream: \"queue:{{ q }}\""),
        ("q,n\na,1\nb,2\n", "hash: \"queue:{{ q }}\", mode: merge"),
    ] {
        let said = bench.write(rows, to).expect(1);
        assert!(said.stderr.contains("the key `queue:b` holds a string"), "{}", said.stderr);
        assert_eq!(bench.ask::<i64>(&["EXISTS", "queue:a"]), 0, "{to}");
    }
    bench.write("id,n\n2,1\n", "hash: \"k:{{ id }}\"").expect(0);
    assert_eq!(bench.ask::<String>(&["TYPE", "k:2"]), "hash", "a replaced key may have been anything");
}

#[test]
fn what_does_not_fit_a_shape_is_told_before() {
    let bench = bench();
    for (rows, to, part) in [
        ("id,n\n1,1\n", "hash: \"k:{{ ids }}\"", "there is no column `ids`, which stands in the key"),
        ("id,n\n1,1\n", "string: \"k:{{ id }}\"", "there is no column `value`"),
        ("id,value,n\n1,1,1\n", "string: \"k:{{ id }}\"", "the column `n` has no place in a `string`"),
        ("id,n\n1,1\n", "hash: \"k:{{ id }}\", ttl: { column: until }", "`until`, which tells when a key expires"),
        ("id,until\n1,2020-01-01\n", "hash: \"k:{{ id }}\", ttl: { column: until }", "must be a timestamptz"),
        ("member,score\na,x\n", "sorted_set: z", "must be a number"),
        ("member,score\na,9007199254740993\n", "sorted_set: z", "lossy-column"),
        ("entry_id,n\na,1\n", "stream: z", "the server numbers its entries"),
    ] {
        let said = bench.write(rows, to).expect(2);
        assert!(said.stderr.contains(part), "{to}: {}", said.stderr);
    }
}

#[test]
fn a_cluster_takes_what_can_be_kept() {
    let cluster = cluster();
    let bench = Bench::new(cluster.nodes[0].url());
    let rows: String = (0..3_000).map(|id| format!("{id},{id}\n")).collect();
    bench.write(&format!("id,value\n{rows}"), "hash: \"user:{{ id }}\", ttl: 1h").expect(0);
    let keys = |pattern: &str| -> usize { cluster.nodes.iter().map(|node| node.ask::<Vec<String>>(&["KEYS", pattern]).len()).sum() };
    assert_eq!(keys("user:*"), 3_000);
    assert!(cluster.nodes.iter().all(|node| !node.ask::<Vec<String>>(&["KEYS", "user:*"]).is_empty()));
    let said = bench.write(&format!("id,value\n{rows}"), "list: \"queue:{{ id }}\"").expect(2);
    assert!(said.stderr.contains("target-guarantee") && said.stderr.contains("{app}:queue"), "{}", said.stderr);
    bench.write(&format!("id,value\n{rows}"), "list: \"{app}:queue:{{ id }}\"").expect(0);
    assert_eq!(keys("{app}:queue:*"), 3_000);
    // The records share the slot of what is appended.
    let holders: Vec<bool> =
        cluster.nodes.iter().map(|node| !node.ask::<Vec<String>>(&["KEYS", "haul:{*}:p/s/0:marks"]).is_empty()).collect();
    let queues: Vec<bool> = cluster.nodes.iter().map(|node| !node.ask::<Vec<String>>(&["KEYS", "{app}:*"]).is_empty()).collect();
    assert_eq!(holders, queues);
    assert_eq!(bench.read("hash: \"user:{{ id }}\", columns: { value: int64 }").len(), 3_001);
}

#[test]
fn a_stream_keeps_about_as_many_entries_as_it_is_told() {
    let bench = bench();
    let rows: String = (0..5_000).map(|id| format!("{id}\n")).collect();
    bench.write(&format!("id\n{rows}"), "stream: x, maxlen: 1000").expect(0);
    let length = bench.ask::<i64>(&["XLEN", "x"]);
    assert!((1_000..1_200).contains(&length), "{length}");
}

#[test]
fn verify_again_finds_what_was_changed() {
    let bench = bench();
    bench.write(ROWS, "hash: \"user:{{ id }}\"").expect(0);
    bench.project.haul(&["verify", "p"]).expect(0);
    bench.ask::<i64>(&["HSET", "user:1", "name", "Eve"]);
    bench.ask::<i64>(&["DEL", "user:3"]);
    let said = bench.project.haul(&["verify", "p"]).expect(1);
    assert!(said.stdout.contains('1') && said.stdout.contains('3'), "{}", said.stdout);
}
