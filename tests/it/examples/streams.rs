//! The examples that follow tables.

use super::{SHOP, check_in, project};
use crate::support::web::{Web, answer};
use crate::support::{self, Project};

/// Follows the shop, changes something in it, and follows it again: then one query gives the same in the shop as another one in its copy.
fn follows(name: &str, change: &str, (in_shop, in_copy): (&str, &str)) {
    let (source, target) = (support::postgres().fresh_database(), support::postgres().fresh_database());
    support::postgres().sql(&source, SHOP);
    let project = project();
    let environment = [("SOURCE_URL", source.as_str()), ("TARGET_URL", target.as_str())];
    check_in(&project, name, &environment, &["--until", "caught-up"]);
    support::postgres().sql(&source, change);
    for arguments in [&["run", name, "--until", "caught-up"][..], &["drop", name]] {
        assert!(project.command(arguments).envs(environment).status().expect("haul can be started").success());
    }
    assert_eq!(support::postgres().sql(&source, in_shop), support::postgres().sql(&target, in_copy));
}

#[test]
fn follow_changes() {
    let change = "delete from orders where o_orderkey % 3 = 0; update orders set o_orderkey = -o_orderkey where o_orderkey < 50";
    let sum = "select count(*), sum(o_orderkey), sum(o_totalprice), max(o_clerk) from public.orders";
    follows("follow_changes", change, (sum, sum));
}

#[test]
fn follow_shop() {
    let change = "begin; delete from lineitem where l_orderkey = 7; delete from orders where o_orderkey = 7; update orders set o_totalprice = 1; commit";
    let sum =
        "select (select count(*) || ' ' || sum(o_totalprice) from orders), (select count(*) || ' ' || sum(l_extendedprice) from lineitem)";
    let copies = sum.replace("from orders", "from shop_orders").replace("from lineitem", "from shop_lineitem");
    follows("follow_shop", change, (sum, &copies));
}

/// The events of a feed as they lie in its file.
fn events(project: &Project, feed: &str) -> Vec<serde_json::Value> {
    let database = rusqlite::Connection::open(project.path(&format!(".haul/feeds/{feed}.db"))).expect("the feed");
    let mut select = database.prepare("select lines from blocks order by first").expect("blocks");
    let blocks = select.query_map([], |row| row.get::<_, Vec<u8>>(0)).expect("blocks");
    let text: Vec<u8> = blocks.flat_map(|block| block.expect("a block")).collect();
    String::from_utf8(text).expect("UTF-8").lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn feed_orders() {
    let project = project();
    project.file("haul.yaml", "feeds: { listen: \"127.0.0.1:0\" }\n");
    check_in(&project, "feed_orders", &[], &["--until", "caught-up"]);
    let ids: Vec<_> = events(&project, "orders").iter().map(|event| event["id"].as_u64().expect("an id")).collect();
    assert_eq!(ids, (1..=100).collect::<Vec<_>>());
}

#[test]
fn feed_changes() {
    let source = support::postgres().fresh_database();
    support::postgres().sql(&source, SHOP);
    let project = project();
    project.file("haul.yaml", "feeds: { listen: \"127.0.0.1:0\" }\n");
    let environment = [("SOURCE_URL", source.as_str())];
    check_in(&project, "feed_changes", &environment, &["--until", "caught-up"]);
    support::postgres()
        .sql(&source, "delete from orders where o_orderkey % 100 = 0; update orders set o_totalprice = 1 where o_orderkey = 7");
    let haul = |arguments: &[&str]| {
        assert!(project.command(arguments).envs(environment).status().expect("haul can be started").success());
    };
    haul(&["run", "feed_changes", "--until", "caught-up"]);
    let events = events(&project, "orders");
    let of = |op: &str| events.iter().filter(|event| event["@op"] == op).count();
    assert_eq!((of("put"), of("delete")), (5001, 50));
    assert_eq!(events.last().expect("an event")["o_totalprice"], 1.0);
    haul(&["drop", "feed_changes"]);
}

#[test]
fn push_changes() {
    let source = support::postgres().fresh_database();
    support::postgres().sql(&source, SHOP);
    support::postgres().sql(&source, "delete from orders where o_orderkey > 200");
    let web = Web::start(|asked, out| {
        assert_eq!(asked.header("authorization"), "Bearer of good news");
        answer(out, 200, &[], "")
    });
    let project = project();
    let environment = [("SOURCE_URL", source.as_str()), ("API_URL", &web.url()), ("API_TOKEN", "of good news")];
    check_in(&project, "push_changes", &environment, &["--until", "caught-up"]);
    support::postgres().sql(&source, "delete from orders where o_orderkey = 7; update orders set o_totalprice = 0 where o_orderkey = 8");
    for arguments in [&["run", "push_changes", "--until", "caught-up"][..], &["drop", "push_changes"]] {
        assert!(project.command(arguments).envs(environment).status().expect("haul can be started").success());
    }
    let asked: Vec<String> = web.asked().iter().map(|asked| format!("{} {}", asked.method, asked.path)).collect();
    assert_eq!(asked.iter().filter(|asked| asked.starts_with("PUT /orders/")).count(), 200);
    assert_eq!(asked[200..], ["DELETE /orders/7", "DELETE /orders/8"]);
}

#[test]
fn follow_orders() {
    let source = support::postgres().fresh_database();
    support::postgres().sql(&source, SHOP);
    support::postgres().sql(
        &source,
        "alter table orders add o_updated timestamptz; update orders set o_updated = timestamptz '2024-01-01 00:00:00Z' + (o_orderkey % 7) * interval '1 day';
         alter table orders alter o_updated set not null",
    );
    let project = project();
    let environment = [("SOURCE_URL", source.as_str())];
    check_in(&project, "follow_orders", &environment, &["--until", "caught-up"]);
    let sums = || {
        let database = rusqlite::Connection::open(project.path("target/reporting.db")).expect("the database");
        let sums = "select count(*) || '|' || sum(total_cents) from orders";
        database.query_row(sums, [], |row| row.get::<_, String>(0)).expect("orders")
    };
    let expected = "select count(*), sum((o_totalprice * 100)::bigint) from orders";
    assert_eq!(sums(), support::postgres().sql(&source, expected));
    let change =
        "update orders set o_totalprice = o_totalprice + 1, o_updated = timestamptz '2024-02-01 00:00:00Z' where o_orderkey <= 100";
    support::postgres().sql(&source, change);
    let mut again = project.command(&["run", "follow_orders", "--until", "caught-up"]);
    assert!(again.envs(environment).status().expect("haul can be started").success());
    assert_eq!(sums(), support::postgres().sql(&source, expected));
}
