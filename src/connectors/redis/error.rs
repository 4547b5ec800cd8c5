//! What servers and the driver report, as failures of the right kind.

use std::time::Duration;

use redis::{ErrorKind, RedisError, ServerError};

use crate::failure::{Failure, FailureKind};

/// How long to wait for a cluster that has lost a master. By default it takes 15 s to notice, and then elects another: the usual four waits
/// of a stage's `retry` are longer than that.
pub const FAILOVER: Duration = Duration::from_secs(5);

/// The one place that decides what a driver's error means for a run.
pub fn failure(error: RedisError) -> Failure {
    match error.kind() {
        ErrorKind::Server(_) | ErrorKind::Extension => from_server(error.code().unwrap_or("ERR"), error.detail().unwrap_or_default()),
        ErrorKind::AuthenticationFailed => {
            Failure::permanent("the server refused user or password").help("check user and password in the connection's URL").cause(error)
        }
        ErrorKind::InvalidClientConfig => Failure::permanent("the connection's settings are wrong").cause(error),
        ErrorKind::Io => from_io(error),
        // The server talked out of turn: a proxy in between, a dying server. A fresh connection may do.
        ErrorKind::Parse => Failure::transient("the server's answer made no sense").cause(error),
        _ => Failure::permanent("the driver failed").cause(error),
    }
}

/// What a server's refusal of one command means for a run.
pub fn refusal(error: &ServerError) -> Failure {
    from_server(error.code(), error.details().unwrap_or_default())
}

fn from_server(code: &str, detail: &str) -> Failure {
    let message = if detail.is_empty() { format!("the server answered {code}") } else { format!("the server answered {code} {detail}") };
    let failure = Failure::new(kind_of(code), message).retry_after((code == "CLUSTERDOWN").then_some(FAILOVER));
    match help_of(code, detail) {
        Some(help) => failure.help(help),
        None => failure,
    }
}

/// Sorts the codes that errors begin with.
fn kind_of(code: &str) -> FailureKind {
    match code {
        // The server starts, the cluster moves slots or elects a master, a script or a copy to a replica holds it up.
        "LOADING" | "BUSY" | "TRYAGAIN" | "CLUSTERDOWN" | "MASTERDOWN" | "MOVED" | "ASK" => FailureKind::Transient,
        // After a failover the old master is a replica for a while; replicas that lag.
        "READONLY" | "NOREPLICAS" => FailureKind::Transient,
        _ => FailureKind::Permanent,
    }
}

fn help_of(code: &str, detail: &str) -> Option<&'static str> {
    Some(match code {
        "NOAUTH" => "give user and password in the connection's URL: `redis://user:password@host`",
        "WRONGPASS" => "check user and password in the connection's URL",
        "NOPERM" => "grant the user what is missing with ACL SETUSER; docs/redis_migration.md lists the least rights",
        "READONLY" => "this server is a replica; name the primary in the connection's URL",
        "OOM" => "raise `maxmemory` of the server, or make room",
        "MISCONF" => "the server cannot save its data to disk and refuses writes; see its log",
        "CLUSTERDOWN" => "some slots have no master; `redis-cli --cluster check` shows which",
        "WRONGTYPE" => "the key holds a value of another type; remove it, or write to another key",
        "ERR" if detail.starts_with("DB index is out of range") => "check the database's number at the end of the connection's URL",
        "ERR" if detail.contains("max number of clients") => {
            "lower `max_connections` of the connection, or raise `maxclients` of the server"
        }
        _ => return None,
    })
}

fn from_io(error: RedisError) -> Failure {
    let text = error.to_string();
    // The resolver's errors have no kind of their own; a name that does not exist will not exist in a second either.
    let unknown_host = ["Name or service not known", "No address associated", "nodename nor"].iter().any(|part| text.contains(part));
    if unknown_host {
        return Failure::permanent("the host name is not known").help("check the host in the connection's URL").cause(error);
    }
    if ["certificate", "Certificate", "TLS", "tls"].iter().any(|part| text.contains(part)) {
        return Failure::permanent("no TLS connection that can be trusted")
            .help("name the authority with `?ca=ca.pem` in the URL; `?verify=none` gives up the check")
            .cause(error);
    }
    if error.is_connection_refusal() {
        return Failure::transient("no server answers there")
            .help("check that the server runs, and host and port in the connection's URL")
            .cause(error);
    }
    if error.is_timeout() {
        return Failure::transient("the server did not answer in time").cause(error);
    }
    Failure::transient("the connection was lost").cause(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_transient() {
        for code in ["LOADING", "TRYAGAIN", "CLUSTERDOWN", "READONLY", "BUSY"] {
            assert_eq!(kind_of(code), FailureKind::Transient, "{code}");
        }
        for code in ["ERR", "WRONGTYPE", "NOPERM", "NOAUTH", "WRONGPASS", "CROSSSLOT", "MISCONF", "BUSYKEY", "NOSCRIPT", "OOM", ""] {
            assert_eq!(kind_of(code), FailureKind::Permanent, "{code}");
        }
    }
}
