//! Every file below `pipelines/` is validated, planned (pinned as a golden) and run, on real systems.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::web::{Web, answer, json};
use crate::support::{self, Project};

mod streams;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The repository's pipelines and data, in a project of their own.
pub fn project() -> Project {
    let project = Project::new();
    copy(&repository("pipelines"), Path::new("pipelines"), &project);
    project
}

fn copy(from: &Path, to: &Path, project: &Project) {
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target, project);
        } else {
            project.file(&target.to_string_lossy(), std::fs::read(entry.path()).expect("a file"));
        }
    }
}

/// Plans and runs one example, and verifies it again.
fn check(name: &str, environment: &[(&str, &str)]) -> Project {
    let project = project();
    check_in(&project, name, environment, &[]);
    project
}

/// The same in a project that is there, with more arguments for the run.
fn check_in(project: &Project, name: &str, environment: &[(&str, &str)], more: &[&str]) {
    let haul = |arguments: &[&str]| {
        let mut command: Command = project.command(arguments);
        command.envs(environment.iter().copied());
        let output = command.output().expect("haul can be started");
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned());
        assert_eq!(output.status.code(), Some(0), "haul {arguments:?}\nstandard output:\n{stdout}\nstandard error:\n{stderr}");
        stdout
    };
    haul(&["validate", &format!("pipelines/{name}.yaml")]);
    support::golden(&format!("plans/{name}.txt"), &haul(&["plan", name]));
    haul(&[&["run", name], more].concat());
    haul(&["verify", name]);
}

#[test]
fn every_example_has_a_test() {
    let mut names: Vec<String> = std::fs::read_dir(repository("pipelines"))
        .expect("pipelines/")
        .filter_map(|entry| entry.expect("an entry").file_name().to_str()?.strip_suffix(".yaml").map(str::to_owned))
        .collect();
    names.sort();
    let expected = [
        "feed_changes",
        "feed_orders",
        "flight_names",
        "follow_changes",
        "follow_orders",
        "follow_redis",
        "follow_shop",
        "hourly_flights",
        "http_airports",
        "http_feed",
        "http_push",
        "nightly_extract",
        "postgres_copy",
        "push_changes",
        "quickstart",
        "redis_cache",
        "redis_messages",
        "redis_migration",
        "redis_rows",
        "rolling_files",
    ];
    assert_eq!(names, expected, "write a test for the new one below");
}

#[test]
fn hourly_flights() {
    let project = check("hourly_flights", &[]);
    let said = project.haul(&["schedule", "hourly_flights", "--from", "2026-03-08T05:00:00Z", "--next", "4"]).expect(0).stdout;
    let expected = ["Sun 2026-03-08 00:05:00 -05:00", "Sun 2026-03-08 01:05:00 -05:00", "Sun 2026-03-08 03:05:00 -04:00"];
    assert!(expected.iter().all(|tick| said.contains(tick)), "{said}");
}

/// The airports of the repository's data as an API would give them: pages of objects, each with the code that the next page begins behind.
#[test]
fn http_airports() {
    let text = std::fs::read_to_string(repository("pipelines/data/airports.csv")).expect("the airports");
    let rows: Vec<(String, f64)> = text
        .lines()
        .skip(1)
        .map(|line| {
            let latitude = line.rsplit(',').nth(1).and_then(|text| text.parse().ok());
            (line.split(',').next().unwrap_or_default().to_owned(), latitude.expect("a latitude"))
        })
        .collect();
    let northern = rows.iter().filter(|(_, latitude)| *latitude > 40.0).count();
    let web = Web::start(move |asked, out| {
        assert_eq!((asked.header("authorization"), asked.query["country"].as_str()), ("Bearer of good news", "us"));
        let after = asked.number_of("after", 0);
        let size = asked.number_of("limit", 1);
        let items = rows.iter().skip(after).take(size).map(|(iata, latitude)| {
            serde_json::json!({ "iata": iata, "name": format!("Airport {iata}"), "latitude": latitude, "longitude": -latitude, "tz": 1 })
        });
        let next = if after + size < rows.len() { serde_json::json!(after + size) } else { serde_json::Value::Null };
        json(out, &serde_json::json!({ "items": items.collect::<Vec<_>>(), "next": next }).to_string())
    });
    let project = check("http_airports", &[("API_URL", &web.url()), ("API_TOKEN", "of good news")]);
    let database = rusqlite::Connection::open(project.path("target/http/warehouse.db")).expect("the database");
    let found: i64 = database.query_row("select count(*) from airports", [], |row| row.get(0)).expect("airports");
    assert_eq!(found as usize, northern);
}

/// Orders that come about while they are followed.
#[test]
fn http_feed() {
    let web = Web::start(|asked, out| {
        let (after, there) = (asked.number_of("after", 0), 250 + asked.number);
        let rows = (after + 1..=there.min(after + asked.number_of("limit", 0)).min(260))
            .map(|id| serde_json::json!({ "id": id, "placed_at": "2024-02-29T12:00:00Z", "total": format!("{id}.50"), "note": null }));
        json(out, &serde_json::Value::from(rows.collect::<Vec<_>>()).to_string())
    });
    let project = project();
    let environment = [("API_URL", web.url())];
    let environment = environment.iter().map(|(name, value)| (*name, value.as_str())).collect::<Vec<_>>();
    check_in(&project, "http_feed", &environment, &["--until", "caught-up"]);
    let found = || {
        let database = rusqlite::Connection::open(project.path("target/http/reporting.db")).expect("the database");
        database.query_row("select count(*), max(id) from orders", [], |row| Ok((row.get(0)?, row.get(1)?))).expect("orders")
    };
    let before: (i64, i64) = found();
    assert!(before.0 > 250 && before.0 == before.1, "{before:?}");
    let mut again = project.command(&["run", "http_feed", "--until", "caught-up"]);
    assert!(again.envs(environment).status().expect("haul can be started").success());
    assert_eq!(found(), (260, 260));
}

#[test]
fn http_push() {
    let web = Web::start(|asked, out| {
        assert_eq!((asked.method.as_str(), asked.path.as_str()), ("PUT", "/airlines"));
        answer(out, 200, &[], "")
    });
    check("http_push", &[("API_URL", &web.url())]);
    let text = std::fs::read_to_string(repository("pipelines/data/airlines.csv")).expect("the airlines");
    let sent: Vec<serde_json::Value> =
        web.asked().iter().flat_map(|asked| serde_json::from_slice::<Vec<_>>(&asked.body).expect("JSON")).collect();
    assert_eq!(sent.len(), text.lines().count() - 1);
    assert!(sent.iter().all(|row| row["carrier"].is_string() && row["name"].is_string()), "{sent:?}");
}

#[test]
fn quickstart() {
    check("quickstart", &[]);
}

#[test]
fn flight_names() {
    let project = check("flight_names", &[]);
    assert!(project.path("target/flight_names/flights.parquet").is_file());
}

/// Rows in the shape of TPC-H, made in the database.
const SHOP: &str = "
    create table public.lineitem (
        l_orderkey bigint not null, l_linenumber integer not null, l_quantity numeric(15,2) not null, l_extendedprice numeric(15,2) not null,
        l_shipdate date not null, l_comment varchar(44) not null, primary key (l_orderkey, l_linenumber));
    insert into public.lineitem
        select i / 4, i % 4, i % 50, i * 1.01, date '1995-01-01' + (i % 1000)::int, 'comment ' || i from generate_series(0, 19999) i;
    create table public.orders (
        o_orderkey bigint primary key, o_orderdate date not null, o_totalprice numeric(15,2) not null, o_clerk char(15) not null);
    insert into public.orders
        select i, date '1994-12-01' + (i % 1000)::int, i * 1.25, 'Clerk#' || lpad(i::text, 9, '0') from generate_series(1, 5000) i;
    analyze;
";

#[test]
fn postgres_copy() {
    let (source, target) = (support::postgres().fresh_database(), support::postgres().fresh_database());
    support::postgres().sql(&source, SHOP);
    check("postgres_copy", &[("SOURCE_URL", &source), ("TARGET_URL", &target)]);
    let sum = "select count(*), sum(l_orderkey * l_linenumber), sum(l_extendedprice), max(l_comment), min(l_shipdate) from public.lineitem";
    assert_eq!(support::postgres().sql(&source, sum), support::postgres().sql(&target, sum));
    let constraints = "select count(*) from pg_constraint where conrelid = 'public.lineitem'::regclass and contype = 'p'";
    assert_eq!(support::postgres().sql(&target, constraints).trim(), "1", "the primary key came along");
}

#[test]
fn follow_redis() {
    let (redis, shop) = (support::redis::redis().fresh_database(), support::postgres().fresh_database());
    let customers =
        "create table customers (id bigint primary key, name text not null); insert into customers values (1, 'Anna'), (2, 'Ben')";
    support::postgres().sql(&shop, customers);
    for total in ["1.50", "20.00"] {
        let entry = ["XADD", "orders", "*", "id", "7", "customer", "1", "total", total];
        support::redis::ask::<String>(&mut support::redis::connect(&redis), &entry);
    }
    let project = project();
    let environment = [("REDIS_URL", redis.as_str()), ("SHOP_URL", shop.as_str())];
    check_in(&project, "follow_redis", &environment, &["--until", "caught-up"]);
    assert_eq!(support::postgres().sql(&shop, "select count(*), sum(total) from orders"), "2|21.50");
    let name: String = support::redis::ask(&mut support::redis::connect(&redis), &["HGET", "customer:2", "name"]);
    assert_eq!(name, "Ben");
    let mut drop: Command = project.command(&["drop", "follow_redis"]);
    assert!(drop.envs(environment).status().expect("haul can be started").success());
}

#[test]
fn rolling_files() {
    let source = support::postgres().fresh_database();
    support::postgres().sql(&source, SHOP);
    let project = project();
    let environment = [("SOURCE_URL", source.as_str())];
    check_in(&project, "rolling_files", &environment, &["--until", "caught-up"]);
    let parts = || std::fs::read_dir(project.path("target/lake/orders")).expect("the folder").count();
    assert!(project.path("target/lake/orders/part-000000000001.parquet").exists());
    let before = parts();
    support::postgres()
        .sql(&source, "insert into orders select (jsonb_populate_record(o, '{\"o_orderkey\": 99000001}')).* from orders o limit 1");
    let mut again = project.command(&["run", "rolling_files", "--until", "caught-up"]);
    assert!(again.envs(environment).status().expect("haul can be started").success());
    assert_eq!(parts(), before + 1);
}

#[test]
fn nightly_extract() {
    let source = support::postgres().fresh_database();
    support::postgres().sql(&source, SHOP);
    let project = check("nightly_extract", &[("SOURCE_URL", &source)]);
    let database = rusqlite::Connection::open(project.path("target/reporting.db")).expect("the database");
    let found: (i64, i64) =
        database.query_row("select count(*), sum(total_cents) from orders", [], |row| Ok((row.get(0)?, row.get(1)?))).expect("orders");
    let expected = support::postgres()
        .sql(&source, "select count(*), sum((o_totalprice * 100)::bigint) from orders where o_orderdate >= '1995-01-01'");
    assert_eq!(format!("{}|{}", found.0, found.1), expected.trim());
    assert!(project.read("target/lake/daily.csv").starts_with("day,orders,total_cents\n"));
}

#[test]
fn redis_rows() {
    let url = support::redis::redis().fresh_database();
    let project = check("redis_rows", &[("REDIS_URL", &url)]);
    let mut redis = support::redis::connect(&url);
    let planes: i64 = rusqlite::Connection::open(project.path("target/redis/warehouse.db"))
        .and_then(|database| database.query_row("select count(*) from planes where expires_at is not null", [], |row| row.get(0)))
        .expect("planes");
    let lines = |path: &str| project.read(path).lines().count() - 1;
    assert_eq!(planes as usize, lines("pipelines/data/planes.csv"));
    let airlines: usize = support::redis::ask(&mut redis, &["LLEN", "airlines"]);
    assert_eq!(airlines, lines("pipelines/data/airlines.csv"));
    let plane: Vec<String> = support::redis::ask(&mut redis, &["HMGET", "plane:N10156", "manufacturer", "seats"]);
    assert_eq!(plane, ["EMBRAER", "55"]);
    let airport: String = support::redis::ask(&mut redis, &["GET", "airport:JFK"]);
    assert!(airport.starts_with(r#"{"iata":"JFK","name":"#), "{airport}");
}

#[test]
fn redis_cache() {
    let url = support::redis::redis().fresh_database();
    let project = check("redis_cache", &[("REDIS_URL", &url)]);
    let mut redis = support::redis::connect(&url);
    let lines = |path: &str| project.read(path).lines().count() - 1;
    assert_eq!(
        support::redis::ask::<usize>(&mut redis, &["DBSIZE"]),
        lines("pipelines/data/airports.csv") + 1,
        "a hash for each, and the control"
    );
    let airport: Vec<String> = support::redis::ask(&mut redis, &["HMGET", "airport_names:JFK@1", "city"]);
    assert_eq!(airport, ["New York"]);
    let flights = project.read("target/redis_cache/flights.csv");
    let named = flights.lines().filter(|line| line.contains(",MIA,") && line.ends_with(",Miami")).count();
    assert!(named > 0 && named == flights.lines().filter(|line| line.contains(",MIA,")).count(), "{named}");
}

#[test]
fn redis_migration() {
    use crate::support::redis::{ask, connect, redis};
    let (old, new) = (redis().fresh_database(), redis().fresh_database());
    let mut source = connect(&old);
    for number in 0..1000 {
        ask::<()>(&mut source, &["HSET", &format!("user:{number}"), "name", &format!("user {number}"), "seen", "1"]);
        ask::<()>(&mut source, &["SET", &format!("user:tmp:{number}"), "x"]);
    }
    ask::<()>(&mut source, &["PEXPIREAT", "user:7", "4102444800000"]);
    check("redis_migration", &[("OLD_REDIS_URL", &old), ("NEW_REDIS_URL", &new)]);
    let mut target = connect(&new);
    assert_eq!(ask::<String>(&mut target, &["HGET", "u:999", "name"]), "user 999");
    assert_eq!(ask::<i64>(&mut target, &["PEXPIRETIME", "u:7"]), 4_102_444_800_000);
    assert_eq!(ask::<Vec<String>>(&mut target, &["KEYS", "u:*"]).len(), 1000);
    assert_eq!(ask::<Vec<String>>(&mut target, &["KEYS", "u*tmp*"]).len(), 0);
}
