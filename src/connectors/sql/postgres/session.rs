//! Connections: how they are made, how many there may be, and how they end.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{ConnectOptions, Connection as _, Executor as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use url::{Host, Url};

use super::error::failure;
use super::login::Login;
use crate::connectors::tls;
use crate::define::pipeline::Connection;
use crate::failure::Failure;

/// The longest a connection may take to stand.
const CONNECT: Duration = Duration::from_secs(10);
/// The longest anything waits for a free connection.
const WAIT: Duration = Duration::from_secs(600);
/// The longest a dropped connection may take to say goodbye before it is cut.
const GOODBYE: Duration = Duration::from_secs(2);
/// The parameters a URL may hold.
const PARAMETERS: &[&str] = &[
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

/// What a connection is wanted for. Whoever needs several takes them in this order, and each kind leaves room for the next, so
/// that waiting always ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// Holds a snapshot for as long as a stage reads.
    View,
    /// Looks something up or reads one split.
    Read,
    /// Prepares, writes or publishes.
    Write,
}

/// Makes, counts and keeps connections to one server.
pub(super) struct Pool {
    name: String,
    options: PgConnectOptions,
    login: Login,
    total: Arc<Semaphore>,
    views: Arc<Semaphore>,
    readers: Arc<Semaphore>,
    writers: Arc<Semaphore>,
    idle: Mutex<Vec<PgConnection>>,
}

impl Pool {
    pub(super) fn new(connection: &Connection) -> Result<Self, Failure> {
        let name = &connection.name;
        let most = connection.max_connections as usize;
        if most < 3 {
            return Err(Failure::permanent(format!("connection `{name}` allows {most} connections, which is too few"))
                .help("set `max_connections` to 3 or more: one holds the snapshot, one reads, one writes"));
        }
        let views = (most / 4).max(1);
        let others = most - views - 1;
        let options = options(connection)?;
        Ok(Self {
            name: name.clone(),
            login: Login::of(connection, &options),
            options,
            total: Arc::new(Semaphore::new(most)),
            views: Arc::new(Semaphore::new(views)),
            readers: Arc::new(Semaphore::new(others)),
            writers: Arc::new(Semaphore::new(others)),
            idle: Mutex::default(),
        })
    }

    /// What a plan says of connections to another machine that are less than verified; nothing is said of the others.
    pub(super) fn weakness(&self) -> Option<&'static str> {
        if is_local(&self.options) {
            return None;
        }
        match self.options.get_ssl_mode() {
            PgSslMode::VerifyFull => None,
            PgSslMode::VerifyCa => Some("the server's name is not verified (sslmode=verify-ca)"),
            PgSslMode::Require => Some("the server is not verified (sslmode=require)"),
            PgSslMode::Prefer | PgSslMode::Allow => Some("TLS only if the server offers it, and unverified (sslmode=prefer)"),
            PgSslMode::Disable => Some("no TLS (sslmode=disable)"),
        }
    }

    /// The settings of every connection, for those that the driver does not make.
    pub(super) fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    /// What the settings keep to themselves.
    pub(super) fn login(&self) -> &Login {
        &self.login
    }

    /// A connection of its own for the caller: an idle one that still answers, or a new one.
    pub(super) async fn session(self: &Arc<Self>, usage: Use) -> Result<Session, Failure> {
        let permits = timeout(WAIT, self.permits(usage)).await.unwrap_or_else(|_| {
            Err(Failure::transient(format!("all connections of `{}` were busy for {} s", self.name, WAIT.as_secs()))
                .help("raise `max_connections` of the connection"))
        })?;
        self.admitted(permits).await
    }

    /// One that holds a snapshot, for a caller that has no other connection: it waits until stages before it have read what they read.
    pub(super) async fn view(self: &Arc<Self>) -> Result<Session, Failure> {
        let permits = self.permits(Use::View).await?;
        self.admitted(permits).await
    }

    async fn permits(&self, usage: Use) -> Result<[OwnedSemaphorePermit; 2], Failure> {
        let gate = match usage {
            Use::View => &self.views,
            Use::Read => &self.readers,
            Use::Write => &self.writers,
        };
        let closed = |_| Failure::cancelled();
        Ok([Arc::clone(gate).acquire_owned().await.map_err(closed)?, Arc::clone(&self.total).acquire_owned().await.map_err(closed)?])
    }

    async fn admitted(self: &Arc<Self>, permits: [OwnedSemaphorePermit; 2]) -> Result<Session, Failure> {
        loop {
            let idle = self.idle.lock().ok().and_then(|mut idle| idle.pop());
            let connection = match idle {
                Some(mut idle) => match timeout(CONNECT, idle.ping()).await {
                    Ok(Ok(())) => idle,
                    _ => continue,
                },
                None => self.connect().await.map_err(|failure| failure.during(format_args!("connecting to `{}`", self.name)))?,
            };
            return Ok(Session { connection: Some(connection), pool: Arc::clone(self), permits: Some(permits) });
        }
    }

    async fn connect(&self) -> Result<PgConnection, Failure> {
        tls::install_provider();
        let connect = async {
            let mut connection = self.options.connect().await.map_err(failure)?;
            let version = connection.server_version_num().unwrap_or(0);
            if version < 120_000 {
                return Err(Failure::permanent(format!("the server's version is {}; haul needs PostgreSQL 12 or newer", version / 10_000)));
            }
            connection.execute(&*settings(version)).await.map_err(failure)?;
            Ok(connection)
        };
        let late = |_| Failure::transient(format!("no answer within {} s", CONNECT.as_secs()));
        timeout(CONNECT, connect).await.map_err(late)?
    }
}

/// One connection in use. Dropped without [`Session::release`] it is closed, whatever it was doing: nothing stays open in a transaction.
pub(super) struct Session {
    connection: Option<PgConnection>,
    pool: Arc<Pool>,
    permits: Option<[OwnedSemaphorePermit; 2]>,
}

impl Session {
    /// The connection itself.
    pub(super) fn raw(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect("a session has its connection until it is dropped")
    }

    /// Runs statements that give no rows, in one round trip.
    pub(super) async fn run(&mut self, sql: impl Into<String>) -> Result<u64, Failure> {
        let sql = sql.into();
        self.raw().execute(&*sql).await.map(|done| done.rows_affected()).map_err(failure)
    }

    /// Gives the connection back for others. Only for connections in no transaction and no COPY.
    pub(super) fn release(mut self) {
        if let (Some(connection), Ok(mut idle)) = (self.connection.take(), self.pool.idle.lock()) {
            idle.push(connection);
        }
    }

    /// Ends the transaction by committing, and gives the connection back.
    pub(super) async fn finish(mut self) -> Result<(), Failure> {
        self.run("commit").await?;
        self.release();
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let (Some(connection), permits) = (self.connection.take(), self.permits.take()) else { return };
        // A goodbye spares the server's log a line; the permits go when the connection has gone.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = timeout(GOODBYE, connection.close()).await;
                drop(permits);
            });
        }
    }
}

/// Reads the URL. The environment may fill in user, password and certificates as it does for `psql`, but never weakens TLS.
fn options(connection: &Connection) -> Result<PgConnectOptions, Failure> {
    let wrong = |why: String| Failure::permanent(format!("the URL of connection `{}` {why}", connection.name));
    let url: Url = connection.url.reveal().parse().map_err(|error| wrong(format!("is no URL: {error}")))?;
    let mut written = None;
    for (key, value) in url.query_pairs() {
        if !PARAMETERS.contains(&&*key) && !key.starts_with("options[") {
            return Err(wrong(format!("has an unknown parameter `{key}`")).help(format!("known parameters: {}", PARAMETERS.join(", "))));
        }
        if key == "sslmode" {
            let mode: Result<PgSslMode, _> = value.parse();
            let modes = "sslmode is one of disable, prefer, require, verify-ca, verify-full";
            written = Some(mode.map_err(|_| wrong(format!("has the sslmode `{value}`")).help(modes))?);
        }
    }
    let mut options = PgConnectOptions::from_url(&url).map_err(|error| wrong("is wrong".to_owned()).cause(error))?;
    if let Some(Host::Ipv6(address)) = url.host() {
        options = options.host(&address.to_string());
    }
    let mode = written.unwrap_or(if is_local(&options) { PgSslMode::Prefer } else { PgSslMode::VerifyFull });
    let named = url.query_pairs().any(|(key, _)| key == "application_name");
    let options = if named { options } else { options.application_name("haul") };
    Ok(options.ssl_mode(mode).extra_float_digits(3))
}

fn is_local(options: &PgConnectOptions) -> bool {
    let host = options.get_host();
    options.get_socket().is_some()
        || host.starts_with('/')
        || host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// What every session is set to. Time zone, date style and encoding come with the connection itself.
fn settings(version: u32) -> String {
    let mut settings = String::from(
        "set default_transaction_isolation = 'read committed'; set intervalstyle = postgres; set standard_conforming_strings = on; set bytea_output = hex; set statement_timeout = 0; \
         set lock_timeout = 0; set idle_in_transaction_session_timeout = '15min'; set jit = off; \
         set tcp_keepalives_idle = 60; set tcp_keepalives_interval = 10; set tcp_keepalives_count = 6",
    );
    if version >= 140_000 {
        // Ends what the server still computes for a client that is gone. Not every platform has it.
        settings.push_str("; select set_config('client_connection_check_interval', '10s', false) where version() like '%linux%'");
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn connection(url: &str, max_connections: u32) -> Connection {
        Connection {
            name: "pg".to_owned(),
            engine: None,
            url: Secret::new(url.to_owned()),
            max_connections,
            http: Default::default(),
            at: String::new(),
        }
    }

    #[test]
    fn tls_is_verified_unless_the_host_is_this_one_or_the_url_says_otherwise() {
        for (url, mode) in [
            ("postgres://u@db.example.com/x", PgSslMode::VerifyFull),
            ("postgres://u@10.1.2.3/x", PgSslMode::VerifyFull),
            ("postgres://u@[2001:db8::1]:5433/x", PgSslMode::VerifyFull),
            ("postgres://u@localhost.example.com/x", PgSslMode::VerifyFull),
            ("postgres://u@localhost/x?host=db.example.com", PgSslMode::VerifyFull),
            ("postgres://u@localhost/x", PgSslMode::Prefer),
            ("postgres://u@127.0.0.2/x", PgSslMode::Prefer),
            ("postgres://u@[::1]/x", PgSslMode::Prefer),
            ("postgres://u@%2Fvar%2Frun%2Fpostgresql/x", PgSslMode::Prefer),
            ("postgres:///x?host=/var/run/postgresql", PgSslMode::Prefer),
            ("postgres://u@db.example.com/x?sslmode=disable", PgSslMode::Disable),
            ("postgres://u@localhost/x?sslmode=verify-ca", PgSslMode::VerifyCa),
        ] {
            let options = options(&connection(url, 8)).expect(url);
            assert_eq!(format!("{:?}", options.get_ssl_mode()), format!("{mode:?}"), "{url}");
        }
        let options = options(&connection("postgres://u@[2001:db8::1]:5433/x", 8)).expect("options");
        assert_eq!((options.get_host(), options.get_port()), ("2001:db8::1", 5433));
    }

    #[test]
    fn every_use_leaves_room_for_the_next() {
        for most in 3..40 {
            let pool = Pool::new(&connection("postgres://u@localhost/x", most)).map_err(|failure| failure.to_string()).expect("a pool");
            let (views, readers, writers) =
                (pool.views.available_permits(), pool.readers.available_permits(), pool.writers.available_permits());
            assert!(views > 0 && readers > 0 && writers > 0);
            assert!(views + readers < most as usize && views + writers < most as usize);
        }
        assert!(Pool::new(&connection("postgres://u@localhost/x", 2)).is_err());
    }
}
