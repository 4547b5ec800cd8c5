//! Keys → rows.

use super::Bench;
use crate::support::proxy::{Fault, Proxy};
use crate::support::redis::{cluster, redis};

fn bench() -> Bench {
    Bench::new(redis().fresh_database())
}

#[test]
fn each_shape_has_its_columns() {
    let bench = bench();
    for words in [
        &["HSET", "user:1", "name", "Anna", "age", "41"][..],
        &["HSET", "user:2", "name", "Ben", "city", "Ulm"],
        &["SET", "doc:a", r#"{"n":1.5,"t":"x","deep":{"a":[1]}}"#],
        &["SET", "doc:b", r#"{"t":null}"#],
        &["SET", "price:x", "1.50"],
        &["RPUSH", "queue:q", "first", "second"],
        &["SADD", "tags:7", "red", "blue"],
        &["ZADD", "ranking:chess", "2.5", "anna", "-inf", "ben"],
        &["XADD", "orders", "5-1", "id", "9", "total", "1.10"],
        &["XADD", "orders", "5-2", "id", "10", "note", "late"],
    ] {
        bench.ask::<redis::Value>(words);
    }
    let check = |from: &str, expected: &[&str]| assert_eq!(bench.read(from), expected, "{from}");
    check("hash: \"user:{{ id }}\"", &["id,age,city,name", "1,41,NULL,Anna", "2,NULL,Ulm,Ben"]);
    check("hash: \"user:{{ id }}\", columns: { name: text }", &["id,name", "1,Anna", "2,Ben"]);
    check("hash: \"user:{{ id }}\", columns: { nothing: int32 }", &["id,nothing", "1,NULL", "2,NULL"]);
    check("json: \"doc:{{ key }}\"", &["key,deep,n,t", "a,\"{\"\"a\"\":[1]}\",1.5,x", "b,NULL,NULL,NULL"]);
    check("string: \"price:{{ sku }}\", columns: { value: \"decimal(12,2)\" }", &["sku,value", "x,1.50"]);
    check("list: \"queue:{{ name }}\"", &["name,index,value", "q,0,first", "q,1,second"]);
    check("set: \"tags:{{ article }}\"", &["article,member", "7,blue", "7,red"]);
    check("sorted_set: \"ranking:{{ game }}\"", &["game,member,score", "chess,anna,2.5", "chess,ben,-Infinity"]);
    check("stream: orders", &["entry_id,id,note,total", "5-1,9,NULL,1.10", "5-2,10,late,NULL"]);
    check("hash: \"user:2\", columns: { city: text }", &["city", "Ulm"]);
    check("hash: \"user:3\", columns: { city: text }", &["city"]);
}

/// `value` of a hash's field, or of a key's part, in the declared type or as bad rows that name key and field.
#[test]
fn what_does_not_fit_is_a_bad_row() {
    let bench = bench();
    bench.ask::<()>(&["SET", "n:1", "12"]);
    bench.ask::<()>(&["SET", "n:2", "twelve"]);
    bench.ask::<()>(&["SET", "n:x", "12"]);
    let mut set = redis::cmd("SET");
    set.arg("n:3").arg(&b"\xff"[..]).exec(&mut bench.redis()).expect("a value that is no text");
    bench.ask::<i64>(&["RPUSH", "n:4", "12"]);
    let from = "from: { redis: r, string: \"n:{{ id }}\", columns: { id: int32, value: int32 } }";
    let to = "to: { files: here, path: out.csv }\nrejects: { to: { files: here, path: bad.ndjson }, at_most: 4 }";
    bench.run(&format!("{from}\n{to}")).expect(0);
    assert_eq!(bench.lines("out.csv"), ["id,value", "1,12"]);
    let bad = bench.project.read("bad.ndjson");
    for part in [
        "n:2",
        "column `value`: the value `twelve` is no int32",
        "column `id`: the value `x`",
        "is not UTF-8",
        "another type than `string`",
    ] {
        assert!(bad.contains(part), "{part} is not in\n{bad}");
    }
    assert_eq!(bad.lines().count(), 4, "{bad}");
    let said = bench.run(&format!("{from}\nto: {{ discard: \"a look\" }}")).expect(1);
    assert!(said.stderr.contains("n:"), "{}", said.stderr);
    bench.ask::<()>(&["DEL", "n:2", "n:3", "n:x"]);
    bench
        .run(&format!("{}, other_types: skip }}\nto: {{ files: here, path: out.csv }}", from.strip_suffix(" }").expect("its end")))
        .expect(0);
    assert_eq!(bench.lines("out.csv"), ["id,value", "1,12"]);
}

#[test]
fn bytes_stay_bytes() {
    let bench = bench();
    redis::cmd("HSET").arg("b:1").arg("raw").arg(&b"\x00\xff"[..]).exec(&mut bench.redis()).expect("a field");
    assert_eq!(bench.read("hash: \"b:{{ id }}\""), ["id,raw", "1,\\x00ff"]);
}

#[test]
fn collections_larger_than_a_piece_are_read_whole() {
    let bench = bench();
    let mut redis = bench.redis();
    let mut pipe = redis::pipe();
    for item in 0..2_345 {
        pipe.cmd("RPUSH").arg("list").arg(item).ignore();
        pipe.cmd("SADD").arg("set").arg(format!("member {item}")).ignore();
        pipe.cmd("ZADD").arg("sorted").arg(item).arg(format!("member {item}")).ignore();
        pipe.cmd("XADD").arg("stream").arg("*").arg("n").arg(item).ignore();
        pipe.cmd("HSET").arg(format!("hash:{item}")).arg("n").arg(item).ignore();
    }
    pipe.exec(&mut redis).expect("keys");
    for (from, sum) in [
        ("list: list, columns: { value: int64 }", "sum(value)"),
        ("set: set", "sum(cast(substr(member, 8) as bigint))"),
        ("sorted_set: sorted, columns: { score: int64 }", "sum(score)"),
        ("stream: stream, columns: { n: int64 }", "sum(n)"),
        ("hash: \"hash:{{ id }}\", columns: { n: int64 }", "sum(n)"),
    ] {
        let sql = format!("- sql: \"select count(*) as rows, {sum} as total from input\"");
        let stage = format!("from: {{ redis: r, {from} }}\ntransform:\n{sql}\nto: {{ files: here, path: out.csv }}");
        bench.run(&stage).expect(0);
        assert_eq!(bench.lines("out.csv"), ["rows,total", &format!("2345,{}", 2344 * 2345 / 2)], "{from}");
    }
    assert!(bench.project.read("out.csv").contains("2345"));
}

#[test]
fn the_expiry_is_a_column() {
    let bench = bench();
    bench.ask::<()>(&["SET", "k:a", "1", "PXAT", "4000000000123"]);
    bench.ask::<()>(&["SET", "k:b", "2"]);
    let rows = bench.read("string: \"k:{{ id }}\", ttl: { column: until }");
    assert_eq!(rows, ["id,value,until", "a,1,2096-10-02T07:06:40.123Z", "b,2,NULL"]);
}

#[test]
fn a_source_over_a_cluster_reads_every_master() {
    let cluster = cluster();
    let bench = Bench::new(cluster.nodes[1].url());
    for node in &cluster.nodes {
        let mut connection = node.connect();
        for id in 0..300 {
            // Only the slot's own master takes the key.
            let _ = redis::cmd("SET").arg(format!("k:{id}")).arg(id).exec(&mut connection);
        }
    }
    let rows = bench.read("string: \"k:{{ id }}\", columns: { id: int64, value: int64 }");
    assert_eq!(rows.len(), 301);
    assert!((0..300).all(|id| rows.contains(&format!("{id},{id}"))), "{rows:?}");
    let said = bench.project.haul(&["run", "p", "--fresh", "--json"]).expect(0);
    assert_eq!(said.stdout.matches("split_finished").count(), 3, "{}", said.stdout);
}

#[test]
fn nothing_to_sample_is_told() {
    let bench = bench();
    let said = bench.run("from: { redis: r, hash: \"user:{{ id }}\" }\nto: { discard: \"a look\" }").expect(2);
    assert!(said.stderr.contains("no `hash` has a key like `user:{{ id }}`"), "{}", said.stderr);
}

/// Runs while another client changes a key, when haul says a word for the first time.
#[track_caller]
fn read_while(from: &str, word: &str, fault: Fault, meanwhile: &[&str]) -> Vec<String> {
    let url = redis().fresh_database();
    let direct = Bench::new(url.clone());
    direct.ask::<()>(&["SET", "k:a", "1"]);
    let proxy = Proxy::before(redis().port);
    let bench = Bench::new(url.replace(&redis().port.to_string(), &proxy.port.to_string()));
    proxy.spoil(word, 0, fault);
    std::thread::scope(|scope| {
        let read = scope.spawn(|| bench.read(from));
        while !proxy.has_spoilt() {
            assert!(!read.is_finished(), "nobody said {word:?}");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        direct.ask::<redis::Value>(meanwhile);
        proxy.let_go();
        read.join().expect("lines")
    })
}

/// A key that is not there any more when its expiry is asked for is none that never expires.
#[test]
fn a_key_whose_time_comes_behind_its_value_is_no_row() {
    let from = "string: \"k:{{ id }}\", ttl: { column: until }";
    assert_eq!(read_while(from, "PEXPIRETIME\r\n$3\r\nk:a\r\n", Fault::HoldWord, &["PEXPIREAT", "k:a", "1"]), ["id,value,until"]);
}

/// A hash that was not there a moment ago is read as it is by now.
#[test]
fn a_hash_that_is_made_while_it_is_read_is_no_row_of_nulls() {
    let from = "hash: user, columns: { city: text }";
    assert_eq!(read_while(from, "HLEN\r\n$4\r\nuser\r\n", Fault::Hold, &["HSET", "user", "city", "Ulm"]), ["city", "Ulm"]);
}
