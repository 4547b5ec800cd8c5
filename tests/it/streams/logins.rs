//! Who may stream the log: by which password, over which TLS, and what the others are told.

use super::changes::{assert_same, catch_up, pipeline};
use super::{rows, sql, start, until};
use crate::support::{Postgres, Project, Said, own_postgres, postgres, postgres_with_tls};

/// A role's password, as it stands in a URL and as it is.
const PASSWORD: [&str; 2] = ["p%40ss%2Fword", "p@ss/word"];

/// A database with a table of a role that may replicate.
fn owned_by(server: &Postgres, role: &str, method: &str) -> String {
    let url = server.fresh_database();
    let database = url.rsplit('/').next().expect("the URL ends with the database");
    server.sql(
        &url,
        &format!(
            "set password_encryption = '{method}'; create role {role} login replication password '{}';
             grant create on database {database} to {role}; grant create on schema public to {role};
             set role {role}; create table items (id int primary key, name text); insert into items values (1, 'first')",
            PASSWORD[1]
        ),
    );
    url
}

/// The way of a role to its database, where another machine would reach it: only by TLS, and only to a server that is known.
fn far(server: &Postgres, url: &str, role: &str, password: &str) -> String {
    let far = url.replace("postgres@127.0.0.1", &format!("{role}:{password}@0.0.0.0"));
    format!("{far}?sslmode=verify-full&sslrootcert={}", server.authority().display())
}

/// Ends the server's half of the stream, which comes back by another connection.
fn send_away(url: &str) {
    sql(url, "select pg_terminate_backend(pid) from pg_stat_replication where application_name = 'haul'");
}

#[track_caller]
fn assert_said(said: &Said, parts: &[&str]) {
    let text = format!("{}{}", said.stdout, said.stderr);
    assert!(parts.iter().all(|part| text.contains(part)), "{parts:?} is not all in:\n{text}");
    assert!(!PASSWORD.iter().any(|password| text.contains(password)), "the password was told:\n{text}");
}

#[test]
fn the_log_comes_over_tls_by_either_password() {
    let server = postgres_with_tls();
    for (role, method) in [("by_scram", "scram-sha-256"), ("by_md5", "md5")] {
        server.admit(&format!("hostssl all {role} all {method}\nhost all {role} all reject"));
        let (from, to) = (owned_by(server, role, method), postgres().fresh_database());
        let project = Project::new();
        pipeline(&project, role, &far(server, &from, role, PASSWORD[0]), &to, "rows: 50, every: 10ms");
        catch_up(&project, role);
        sql(&from, "insert into items values (2, 'second')");
        let mut haul = start(&project, role);
        until(&project, "the second row", || rows(&to, "items") == "2|2");
        let streams = "select s.ssl, r.usename from pg_stat_replication r join pg_stat_ssl s using (pid)";
        assert!(sql(&from, streams).lines().any(|line| line == format!("t|{role}")), "{}", sql(&from, streams));
        // The stream has to be let in again, by a password that is not the role's any more.
        sql(&from, &format!("alter role {role} password 'another'"));
        send_away(&from);
        until(&project, "the end", || haul.try_wait().expect("haul can be asked").is_some());
        let log = project.read("log.txt");
        for part in ["starting to stream the slot", "password authentication failed", "SQLSTATE 28P01", "check user and password"] {
            assert!(log.contains(part), "`{part}` is not in:\n{log}");
        }
        let said = project.haul(&["run", role, "--until", "caught-up"]).expect(2);
        assert_said(&said, &["password authentication failed", role, "check user and password"]);
        sql(&from, &format!("set password_encryption = '{method}'; alter role {role} password '{}'", PASSWORD[1]));
        catch_up(&project, role);
        assert_same(&from, &to);
        project.haul(&["drop", role]).expect(0);
    }
}

#[test]
fn a_role_that_may_not_is_told_what_it_lacks() {
    let server = postgres();
    let (from, to) = (owned_by(server, "limited", "scram-sha-256"), server.fresh_database());
    let project = Project::new();
    pipeline(&project, "limited", &from.replace("postgres@", "limited@"), &to, "rows: 50, every: 10ms");
    let refused = |parts: &[&str]| assert_said(&project.haul(&["run", "limited", "--until", "caught-up"]).expect(1), parts);
    sql(&from, "alter role limited noreplication");
    refused(&["making the slot and publication haul_limited_items_", "the role needs REPLICATION and the tables' ownership"]);
    sql(&from, "alter role limited replication; alter table items owner to postgres; grant select on items to limited");
    refused(&["must be owner of table items", "the role needs REPLICATION and the tables' ownership"]);
    sql(&from, "alter table items owner to limited");
    catch_up(&project, "limited");
    sql(&from, "alter role limited noreplication; insert into items values (2, 'second')");
    refused(&["starting to stream the slot haul_limited_items_", "the role needs REPLICATION"]);
    sql(&from, "alter role limited replication");
    catch_up(&project, "limited");
    assert_same(&from, &to);
    project.haul(&["drop", "limited"]).expect(0);
}

#[test]
fn a_stream_that_meets_another_certificate_ends() {
    let server = own_postgres(true);
    let (from, to) = (server.fresh_database(), postgres().fresh_database());
    sql(&from, "create table items (id int primary key, name text); insert into items values (1, 'first')");
    let project = Project::new();
    let known = project.path("known.pem");
    std::fs::copy(server.authority(), &known).expect("the authority's certificate");
    let url = format!("{}?sslmode=verify-full&sslrootcert={}", from.replace("127.0.0.1", "0.0.0.0"), known.display());
    pipeline(&project, "strange", &url, &to, "rows: 50, every: 10ms");
    let mut haul = start(&project, "strange");
    until(&project, "the first row", || rows(&to, "items") == "1|1");
    until(&project, "the stream", || sql(&from, "select count(*) from pg_stat_replication") == "1");
    // The other connections stand: only the one that streams the log meets the new certificate.
    server.change_certificate();
    send_away(&from);
    until(&project, "the end", || haul.try_wait().expect("haul can be asked").is_some());
    let log = project.read("log.txt");
    for part in ["starting to stream the slot", "no TLS connection that can be trusted", "sslrootcert"] {
        assert!(log.contains(part), "`{part}` is not in:\n{log}");
    }
}
