//! Who may read.

use super::*;

#[test]
fn tokens_and_origins() {
    let (_project, _haul, address) =
        filled("", ", tokens: [\"{{ env.ONE | default('one') }}\", two], origins: [\"https://shop.example\"]", 1);
    let check = |path: &str, headers: &[(&str, &str)], status: u16| {
        let answer = get(&address, path, headers);
        assert_eq!(answer.status, status, "{path} {headers:?}");
        answer
    };
    assert_eq!(check("/feeds/a", &[], 401).header("www-authenticate"), "Bearer");
    check("/feeds/a?token=three", &[], 401);
    check("/feeds/a?token=two", &[], 200);
    check("/feeds/a", &[("Authorization", "Bearer one")], 200);
    // What is not there is no secret's business either.
    check("/feeds/none", &[], 401);
    let page = check("/feeds/a?token=one", &[("Origin", "https://shop.example")], 200);
    assert_eq!(page.header("access-control-allow-origin"), "https://shop.example");
    assert!(page.header("access-control-expose-headers").contains("haul-feed-place"));
    let refused = check("/feeds/a", &[("Origin", "https://shop.example")], 401);
    assert_eq!(refused.header("access-control-allow-origin"), "https://shop.example", "a page sees why");
    let other = check("/feeds/a?token=one", &[("Origin", "https://other.example")], 403);
    assert_eq!(other.header("access-control-allow-origin"), "");
    // A socket knows no such headers: the page is refused at once.
    let upgrade = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Origin", "https://other.example"),
    ];
    check("/feeds/a?token=one", &upgrade, 403);
}

#[test]
fn pages_cannot_reach_what_only_this_machine_may() {
    let (_project, _haul, address) = filled("", "", 1);
    let status = |headers: &[(&str, &str)]| get(&address, "/feeds/a", headers).status;
    assert_eq!(status(&[]), 200);
    assert_eq!(status(&[("Host", "rebound.example")]), 403);
    assert_eq!(status(&[("Origin", "https://any.example")]), 403);
    assert_eq!(status(&[("Origin", &format!("http://{address}"))]), 200);
}

#[test]
fn an_address_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let project = project("", "");
    let address = taken.local_addr().expect("an address").to_string();
    project.file("haul.yaml", format!("feeds: {{ listen: \"{address}\" }}\n"));
    let said = project.haul(&["run", "p", "--until", "caught-up"]).expect(3);
    assert!(
        said.stderr.contains(&format!("failed to listen on {address} for feeds")) && said.stderr.contains("feeds: { listen:"),
        "{}",
        said.stderr
    );
}
