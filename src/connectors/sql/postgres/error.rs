//! What PostgreSQL and the driver report, as failures of the right kind.

use std::io;

use sqlx::postgres::PgDatabaseError;

use crate::failure::{Failure, FailureKind};

/// The one place that decides what a driver's error means for a run.
pub(super) fn failure(error: sqlx::Error) -> Failure {
    match error {
        sqlx::Error::Database(database) => match database.try_downcast_ref::<PgDatabaseError>() {
            Some(error) => from_server(error),
            None => Failure::permanent(database.message().to_owned()),
        },
        sqlx::Error::Io(error) => from_io(error),
        sqlx::Error::Tls(cause) => untrusted().cause(cause),
        sqlx::Error::Configuration(cause) => Failure::permanent("the connection's settings are wrong").cause(cause),
        // The server talked out of turn: a proxy in between, a dying server. A fresh connection may do.
        error @ sqlx::Error::Protocol(_) => Failure::transient("the server's answer made no sense").cause(error),
        error => Failure::permanent("the driver failed").cause(error),
    }
}

fn from_server(error: &PgDatabaseError) -> Failure {
    let mut message = format!("{} (SQLSTATE {})", error.message(), error.code());
    // The context of COPY names line and column; the detail names the key or the dependent objects.
    for more in [error.detail(), error.r#where()].into_iter().flatten() {
        message.push_str("; ");
        message.push_str(&more.lines().take(3).collect::<Vec<_>>().join(", "));
    }
    let failure = Failure::new(kind_of(error.code()), message);
    match (error.hint(), help_of(error.code())) {
        (Some(hint), _) => failure.help(hint.to_owned()),
        (None, Some(help)) => failure.help(help),
        (None, None) => failure,
    }
}

/// Sorts SQLSTATE codes; see the appendix "PostgreSQL Error Codes" of its manual.
pub(super) fn kind_of(code: &str) -> FailureKind {
    match code {
        // Out of memory or of connections, but not out of disk or over a configured limit.
        "53200" | "53300" => FailureKind::Transient,
        // Shut down, crashed, starting up, cancelled by an administrator, timed out.
        "57014" | "57P01" | "57P02" | "57P03" | "57P05" | "25P03" | "25P04" => FailureKind::Transient,
        // Lock not available, object in use, snapshot too old.
        "55P03" | "55006" | "72000" => FailureKind::Transient,
        // A trigger of the target's refuses the row, or its view does.
        "P0001" | "44000" => FailureKind::BadRows,
        _ => match code.get(..2) {
            // Connection exceptions; serialization failures and deadlocks.
            Some("08" | "40") => FailureKind::Transient,
            // Data exceptions and broken constraints: the rows are at fault.
            Some("22" | "23") => FailureKind::BadRows,
            _ => FailureKind::Permanent,
        },
    }
}

/// The way out that a code has, whatever was being done.
pub(super) fn help_of(code: &str) -> Option<&'static str> {
    Some(match code {
        "28000" | "28P01" => "check user and password in the connection's URL, and the server's pg_hba.conf",
        "3D000" => "check the database's name at the end of the connection's URL",
        "42501" => "grant what is missing; docs/postgresql.md lists the least privileges",
        "53300" => "lower `max_connections` of the connection, or raise it on the server",
        "53100" => "free space on the server's disk",
        "25006" => "this server only takes reads; write to the primary",
        _ => return None,
    })
}

/// The other end cannot be trusted, or not be talked to in private.
pub(super) fn untrusted() -> Failure {
    Failure::permanent("no TLS connection that can be trusted")
        .help("name the authority with `?sslrootcert=/path/ca.pem` in the URL, or write a weaker `?sslmode=`: require, prefer or disable")
}

/// Whether the other end's certificate, or its TLS, is not what it should be. The driver hands it on as an error of the stream.
fn is_untrusted(error: &io::Error) -> bool {
    use rustls::Error::{InvalidCertificate, NoCertificatesPresented, PeerIncompatible};
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    matches!(cause, Some(InvalidCertificate(_) | NoCertificatesPresented | PeerIncompatible(_)))
}

/// What a broken stream means.
pub(super) fn from_io(error: io::Error) -> Failure {
    let text = error.to_string();
    // The resolver's errors have no kind of their own; a name that does not exist will not exist in a second either.
    let unknown_host =
        text.contains("Name or service not known") || text.contains("No address associated") || text.contains("nodename nor");
    match error.kind() {
        _ if is_untrusted(&error) => untrusted().cause(error),
        _ if unknown_host => Failure::permanent("the host name is not known").help("check the host in the connection's URL").cause(error),
        io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput => Failure::permanent("the server cannot be reached").cause(error),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Failure::transient("no server answers there")
            .help("check that the server runs, and host and port in the connection's URL")
            .cause(error),
        _ => Failure::transient("the connection was lost").cause(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_transient() {
        let transient = ["08006", "40001", "40P01", "53300", "57P01", "57P03", "55P03", "25P03"];
        let permanent = ["28P01", "3D000", "42P01", "42501", "42601", "53100", "58030", "XX000", "0A000", "25006", ""];
        let bad_rows = ["22003", "22021", "22001", "23505", "23502", "23514", "44000", "P0001"];
        for (codes, kind) in
            [(&transient[..], FailureKind::Transient), (&permanent[..], FailureKind::Permanent), (&bad_rows[..], FailureKind::BadRows)]
        {
            for code in codes {
                assert_eq!(kind_of(code), kind, "{code}");
            }
        }
    }
}
