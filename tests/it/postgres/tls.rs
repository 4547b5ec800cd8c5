//! Connections to a server that is not this machine, as far as haul can tell: see [`postgres_with_tls`].

use haul::define::pipeline::WriteMode;
use haul::failure::FailureKind;

use super::{server, spec};
use crate::support::loads::ids;
use crate::support::{Project, postgres, postgres_with_tls};

/// Describes a table on a server that is reached under an address; the error of a connection that is refused.
async fn described(port: u16, address: &str, query: &str) -> Result<String, String> {
    let url = format!("postgres://postgres@{address}:{port}/postgres?{query}");
    let read = haul::define::pipeline::SqlRead::Query("select ssl from pg_stat_ssl where pid = pg_backend_pid()".to_owned());
    let server = server(&url).expect("a URL");
    let source = server.source(&haul::define::pipeline::SqlSource { connection: "pg".to_owned(), read, split_by: None });
    let description = source.describe().await.map_err(|failure| {
        assert_eq!(failure.kind, FailureKind::Permanent, "trying again changes nothing: {failure}");
        assert!(failure.help.as_deref().is_some_and(|help| help.contains("sslrootcert") && help.contains("sslmode")), "{failure:?}");
        failure.to_string()
    })?;
    let (rows, _) = crate::support::loads::read(&source, Default::default(), 1).await.expect("rows");
    let encrypted = arrow::array::AsArray::as_boolean(rows.column(0)).value(0);
    Ok(format!("{}; {}", if encrypted { "TLS" } else { "plain" }, description.consistency))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_machine_must_prove_its_name_unless_the_url_says_otherwise() {
    let server = postgres_with_tls();
    let authority = format!("sslrootcert={}", server.authority().display());
    let verified = "TLS; one exported snapshot for all splits";
    assert_eq!(described(server.port, "0.0.0.0", &authority).await.as_deref(), Ok(verified));

    // Signed by nobody that is known, by another authority, for another name.
    let refused = async |address: &str, query: &str, why: &str| {
        let failure = described(server.port, address, query).await.expect_err(query);
        assert!(failure.contains("no TLS connection that can be trusted") && failure.contains(why), "{address} {query}: {failure}");
    };
    refused("0.0.0.0", "", "UnknownIssuer").await;
    let other = tempfile::tempdir().expect("a temporary folder");
    crate::support::certificates(other.path(), "IP:0.0.0.0");
    refused("0.0.0.0", &format!("sslrootcert={}", other.path().join("authority.pem").display()), "invalid peer certificate").await;
    refused("127.0.0.1", &format!("{authority}&sslmode=verify-full"), "not valid for name").await;

    // Weaker as the URL says, and the plan says it too.
    let weaker = async |query: &str, expected: &str| {
        let found = described(server.port, "0.0.0.0", query).await.expect(query);
        assert_eq!(found, format!("TLS; one exported snapshot for all splits; {expected}"));
    };
    weaker(&format!("{authority}&sslmode=verify-ca"), "the server's name is not verified (sslmode=verify-ca)").await;
    weaker("sslmode=require", "the server is not verified (sslmode=require)").await;
    weaker("sslmode=prefer", "TLS only if the server offers it, and unverified (sslmode=prefer)").await;
    // On this machine nothing needs to be said.
    assert_eq!(described(server.port, "127.0.0.1", "").await.as_deref(), Ok(verified));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_tls_is_refused_unless_the_url_says_otherwise() {
    let port = postgres().port;
    for query in ["", "sslmode=require", "sslmode=verify-ca"] {
        let failure = described(port, "0.0.0.0", query).await.expect_err(query);
        assert!(failure.contains("server does not support TLS"), "{query}: {failure}");
    }
    let plain = described(port, "0.0.0.0", "sslmode=disable").await;
    assert_eq!(plain.as_deref(), Ok("plain; one exported snapshot for all splits; no TLS (sslmode=disable)"));
    let local = described(port, "127.0.0.1", "").await;
    assert_eq!(local.as_deref(), Ok("plain; one exported snapshot for all splits"));
    let target = server(&format!("postgres://postgres@0.0.0.0:{port}/postgres?sslmode=disable")).expect("a URL");
    let planned = target.sink(&super::SqlSink { mode: WriteMode::Append, ..spec("t") }).plan(&ids(0..1, "a").0).await;
    assert!(planned.expect("a plan").expect("no problems").guarantee.ends_with("; no TLS (sslmode=disable)"));
}

#[test]
fn the_environment_names_an_authority_and_weakens_nothing() {
    let server = postgres_with_tls();
    let project = Project::new();
    let pipeline = format!(
        "connections: {{ far: {{ url: \"postgres://postgres@0.0.0.0:{}/postgres\" }} }}\n\
         stages:\n  one:\n    kind: batch\n    from: {{ sql: far, query: \"select 1 as x\" }}\n    to: {{ discard: \"a test\" }}\n",
        server.port
    );
    project.file("pipelines/far.yaml", pipeline);
    let said = project.command(&["plan", "far"]).env("PGSSLMODE", "disable").output().expect("haul can be started");
    assert_ne!(said.status.code(), Some(0), "PGSSLMODE has weakened TLS");
    let said = project.command(&["plan", "far"]).env("PGSSLROOTCERT", server.authority()).output().expect("haul can be started");
    assert_eq!(said.status.code(), Some(0), "{}", String::from_utf8_lossy(&said.stderr));
}
