//! A connection that speaks the replication protocol, which the driver of the other connections does not.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::authentication::{md5_hash, sasl};
use postgres_protocol::message::frontend;
use sqlx::postgres::PgSslMode;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::encrypt::encrypted;
use crate::connectors::sql::postgres::error::{from_io, help_of, kind_of};
use crate::connectors::sql::postgres::session::Pool;
use crate::failure::{Failure, FailureKind};

/// Bytes that are read at once.
const READ: usize = 128 << 10;
/// The largest message that the server may send: it makes none larger.
const MOST: usize = 1 << 30;
const SCRAM: &str = "SCRAM-SHA-256";

/// What bytes go over.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Duplex for T {}

/// A connection that has been let in.
pub(super) struct Wire {
    stream: Box<dyn Duplex>,
    /// What has come and was not taken yet.
    read: BytesMut,
}

impl Wire {
    /// Connects with the settings of all connections.
    pub(super) async fn connect(pool: &Pool) -> Result<Self, Failure> {
        let options = pool.options();
        let socket = options.get_socket().map(|folder| folder.join(format!(".s.PGSQL.{}", options.get_port())));
        let stream: Box<dyn Duplex> = match socket {
            Some(socket) => Box::new(UnixStream::connect(socket).await.map_err(from_io)?),
            None => {
                let tcp = TcpStream::connect((options.get_host(), options.get_port())).await.map_err(from_io)?;
                tcp.set_nodelay(true).map_err(from_io)?;
                match options.get_ssl_mode() {
                    PgSslMode::Disable => Box::new(tcp),
                    mode => encrypted(tcp, options.get_host(), mode, pool.login()).await?,
                }
            }
        };
        let mut wire = Self { stream, read: BytesMut::new() };
        let user = options.get_username();
        let startup = [
            ("user", user),
            ("database", options.get_database().unwrap_or(user)),
            ("replication", "database"),
            ("client_encoding", "UTF8"),
            ("application_name", options.get_application_name().unwrap_or("haul")),
        ];
        wire.send(|buffer| frontend::startup_message(startup, buffer)).await?;
        wire.log_in(user, pool.login().password.reveal()).await?;
        Ok(wire)
    }

    async fn log_in(&mut self, user: &str, password: &str) -> Result<(), Failure> {
        let mut scram = None;
        loop {
            let (tag, mut body) = self.message().await?;
            if tag == b'Z' {
                return Ok(());
            }
            if tag != b'R' {
                continue;
            }
            if body.len() < 4 {
                return Err(malformed());
            }
            let refused = |error: io::Error| Failure::permanent("the server does not know the password").cause(error);
            match (body.get_u32(), &mut scram) {
                (0, _) => {}
                (3, _) => self.send(|buffer| frontend::password_message(password.as_bytes(), buffer)).await?,
                (5, _) => {
                    let salt = body.first_chunk().copied().ok_or_else(malformed)?;
                    let hash = md5_hash(user.as_bytes(), password.as_bytes(), salt);
                    self.send(|buffer| frontend::password_message(hash.as_bytes(), buffer)).await?;
                }
                (10, _) if body.split(|byte| *byte == 0).any(|name| name == SCRAM.as_bytes()) => {
                    let begun = sasl::ScramSha256::new(password.as_bytes(), sasl::ChannelBinding::unsupported());
                    self.send(|buffer| frontend::sasl_initial_response(SCRAM, begun.message(), buffer)).await?;
                    scram = Some(begun);
                }
                (11, Some(scram)) => {
                    scram.update(&body).map_err(refused)?;
                    self.send(|buffer| frontend::sasl_response(scram.message(), buffer)).await?;
                }
                (12, Some(scram)) => scram.finish(&body).map_err(refused)?,
                (other, _) => {
                    return Err(Failure::permanent(format!("the server asks for a way to log in that haul does not know ({other})"))
                        .help("let the role log in with a password (scram-sha-256) or a certificate in the server's pg_hba.conf"));
                }
            }
        }
    }

    /// Sends a statement; its answer comes as messages.
    pub(super) async fn query(&mut self, sql: &str) -> Result<(), Failure> {
        self.send(|buffer| frontend::query(sql, buffer)).await
    }

    /// Sends a message within a running copy.
    pub(super) async fn copy_data(&mut self, data: &[u8]) -> Result<(), Failure> {
        self.send(|buffer| {
            frontend::CopyData::new(data)?.write(buffer);
            Ok(())
        })
        .await
    }

    async fn send(&mut self, make: impl FnOnce(&mut BytesMut) -> io::Result<()>) -> Result<(), Failure> {
        let mut buffer = BytesMut::new();
        make(&mut buffer).map_err(|error| Failure::permanent("a message cannot be sent").cause(error))?;
        self.stream.write_all(&buffer).await.map_err(from_io)?;
        self.stream.flush().await.map_err(from_io)
    }

    /// The next message: its tag and what it holds. What the server refuses is a failure. May be dropped before it answers.
    pub(super) async fn message(&mut self) -> Result<(u8, Bytes), Failure> {
        loop {
            let mut missing = READ;
            if let Some((&[tag, a, b, c, d], _)) = self.read.split_first_chunk::<5>() {
                let length = u32::from_be_bytes([a, b, c, d]) as usize;
                if !(4..=MOST).contains(&length) {
                    return Err(malformed());
                }
                if self.read.len() > length {
                    let mut message = self.read.split_to(1 + length).freeze();
                    message.advance(5);
                    return if tag == b'E' { Err(refused(&message)) } else { Ok((tag, message)) };
                }
                missing = missing.max(1 + length - self.read.len());
            }
            self.read.reserve(missing);
            if self.stream.read_buf(&mut self.read).await.map_err(from_io)? == 0 {
                return Err(Failure::transient("the connection was lost"));
            }
        }
    }
}

/// What a server sends that cannot be.
pub(super) fn malformed() -> Failure {
    broken("the server's answer made no sense")
}

/// A proxy in between, a dying server: a fresh connection may do.
pub(super) fn broken(what: &str) -> Failure {
    Failure::transient(what.to_owned())
}

/// What an error message says.
fn refused(body: &[u8]) -> Failure {
    let field = |wanted: u8| {
        let found = body.split(|byte| *byte == 0).find(|field| field.first() == Some(&wanted));
        found.map(|field| String::from_utf8_lossy(&field[1..]).into_owned()).unwrap_or_default()
    };
    let code = field(b'C');
    let failure = Failure::new(kind_of(&code), format!("{} (SQLSTATE {code})", field(b'M')));
    match (code.as_str(), failure.kind) {
        ("55006", _) => failure.help("another worker still reads the slot; this one waits until it has gone"),
        ("53300", _) => failure.help("raise `max_wal_senders` on the server"),
        ("28000" | "28P01" | "3D000", _) => failure.help(help_of(&code).unwrap_or_default()),
        (_, FailureKind::Permanent) => failure.help("the role needs REPLICATION, and the server a free one of `max_wal_senders`"),
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_of_the_kind_of_its_code() {
        let cases = [("55006", FailureKind::Transient), ("57P01", FailureKind::Transient), ("42704", FailureKind::Permanent)];
        for (code, kind) in cases {
            let body = format!("SERROR\0C{code}\0Mreplication slot \"x\" is what it is\0\0");
            let failure = refused(body.as_bytes());
            assert_eq!(failure.kind, kind, "{code}");
            assert!(failure.to_string().contains("is what it is"), "{failure}");
        }
    }

    #[tokio::test]
    async fn messages_are_cut_from_what_comes() {
        let (mut server, client) = tokio::io::duplex(3);
        let mut wire = Wire { stream: Box::new(client), read: BytesMut::new() };
        let said = tokio::spawn(async move {
            server.write_all(b"d\0\0\0\x06abd\0\0\0\x04z\0\0\0\x01").await.expect("the other end reads");
        });
        assert_eq!(wire.message().await.expect("a message"), (b'd', Bytes::from_static(b"ab")));
        assert_eq!(wire.message().await.expect("a message"), (b'd', Bytes::new()));
        assert!(wire.message().await.is_err(), "a length that cannot be");
        said.await.expect("the server");
    }
}
