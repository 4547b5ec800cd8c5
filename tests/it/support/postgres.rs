//! A private PostgreSQL for the test process: real, on loopback, gone when the process is, however it ends.

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use super::certificates::certificates;

/// A running server.
pub struct Postgres {
    programs: PathBuf,
    /// Its port on 127.0.0.1.
    pub port: u16,
    folder: PathBuf,
    databases: AtomicU32,
    /// The watcher reads the other end, and starts the server anew for every line; when this process ends, also by kill -9, the pipe closes and
    /// the watcher stops the server.
    watcher: Mutex<ChildStdin>,
}

/// The server of this test process, started by the first test that asks.
pub fn postgres() -> &'static Postgres {
    static SERVER: OnceLock<Postgres> = OnceLock::new();
    SERVER.get_or_init(|| start(false))
}

/// The server of this test process that offers TLS, with a certificate for the address 0.0.0.0 alone. A client reaches it there as it reaches
/// another machine: that address is not one of loopback, though Linux takes it to this machine.
pub fn postgres_with_tls() -> &'static Postgres {
    static SERVER: OnceLock<Postgres> = OnceLock::new();
    SERVER.get_or_init(|| start(true))
}

/// A server that nobody else uses, so that it may be restarted, and set as no other test can bear; with TLS as above when that is wanted. It goes
/// with the value.
pub fn own_postgres(tls: bool) -> Postgres {
    start(tls)
}

/// What a server writes into its log when it can be asked.
const READY: &str = "ready to accept connections";

/// How a server is stopped.
#[derive(Clone, Copy, Debug)]
pub enum Shutdown {
    /// Everybody is sent away first.
    Fast,
    /// As if it had crashed: it has to recover.
    Immediate,
}

impl Postgres {
    /// Stops the server and starts it again on the same data.
    pub fn restart(&self, how: Shutdown) {
        let started = || std::fs::read_to_string(self.folder.join("log")).map_or(0, |log| log.matches(READY).count());
        let before = started();
        let signal = match how {
            Shutdown::Fast => "INT",
            Shutdown::Immediate => "QUIT",
        };
        writeln!(self.watcher.lock().expect("the watcher"), "{signal}").expect("the watcher listens");
        let deadline = Instant::now() + Duration::from_secs(120);
        while started() == before {
            assert!(Instant::now() < deadline, "the server does not come back after {how:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Changes settings that need no restart.
    pub fn set(&self, settings: &[&str]) {
        for setting in settings {
            self.sql(&self.url("postgres"), &format!("alter system set {setting}"));
        }
        self.reload();
    }

    /// Lets roles log in by these lines of `pg_hba.conf`, before those that are there.
    pub fn admit(&self, lines: &str) {
        let path = self.folder.join("data/pg_hba.conf");
        let others = std::fs::read_to_string(&path).expect("pg_hba.conf");
        std::fs::write(&path, format!("{lines}\n{others}")).expect("pg_hba.conf can be written");
        self.reload();
    }

    /// From here on another authority has signed the server's certificate. Connections that stand are left alone.
    pub fn change_certificate(&self) {
        certificates(&self.folder, "IP:0.0.0.0");
        self.reload();
    }

    fn reload(&self) {
        let url = self.url("postgres");
        let loaded = || self.sql(&url, "select pg_conf_load_time()");
        let before = loaded();
        self.sql(&url, "select pg_reload_conf()");
        let deadline = Instant::now() + Duration::from_secs(60);
        while loaded() == before {
            assert!(Instant::now() < deadline, "the server does not load its settings again");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Creates an empty database of its own and gives its URL.
    pub fn fresh_database(&self) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql(&self.url("postgres"), &format!("create database {name} template template0"));
        self.url(&name)
    }

    /// Runs SQL with `psql`, which shares no code with haul, and gives its output: a line a row, fields apart by `|`.
    #[track_caller]
    pub fn sql(&self, url: &str, sql: &str) -> String {
        let output = self.psql(url).args(["--command", sql]).stdin(Stdio::null()).output().expect("psql can be started");
        assert!(output.status.success(), "psql refused `{sql}`: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("psql answers in UTF-8").trim_end_matches('\n').to_owned()
    }

    /// `psql`, about to be started.
    pub fn psql(&self, url: &str) -> Command {
        let mut psql = Command::new(self.programs.join("psql"));
        psql.args(["--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1", "--dbname", url]);
        psql
    }

    /// The certificate of the authority that has signed the server's, when it has one.
    pub fn authority(&self) -> PathBuf {
        self.folder.join("authority.pem")
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }
}

/// Another try takes another port, in case somebody was quicker to take the first.
fn start(tls: bool) -> Postgres {
    let programs = find_programs();
    let mut log = String::new();
    for _ in 0..5 {
        match try_to_start(&programs, tls) {
            Ok(server) => return server,
            Err(said) => log = said,
        }
    }
    panic!("PostgreSQL does not start: {log}");
}

/// A server on a new cluster in a folder of its own; what it said when it does not answer.
fn try_to_start(programs: &Path, tls: bool) -> Result<Postgres, String> {
    let folder = tempfile::Builder::new().prefix("haul-postgres-").tempdir().expect("a temporary folder").keep();
    let port = free_port();
    let log = folder.join("log");
    if tls {
        certificates(&folder, "IP:0.0.0.0");
    }
    let watcher = watch(programs, &folder, &log, port, tls);
    if ready(programs, port, &log) {
        return Ok(Postgres { programs: programs.to_owned(), port, folder, databases: AtomicU32::new(0), watcher: Mutex::new(watcher) });
    }
    Err(std::fs::read_to_string(&log).unwrap_or_default())
}

/// Starts a shell that makes the cluster, starts the server as its child, stops it by its process id as soon as the returned pipe closes, and
/// removes the folder.
fn watch(programs: &Path, folder: &Path, log: &Path, port: u16, tls: bool) -> ChildStdin {
    let become_user = unprivileged(folder);
    let certificate = format!("-c ssl=on -c ssl_cert_file='{0}/server.pem' -c ssl_key_file='{0}/server.key'", folder.display());
    let tls = if tls { certificate } else { String::new() };
    let (programs, folder, log) = (programs.display(), folder.display(), log.display());
    // A server that has only just been forked ignores SIGQUIT and dies of SIGTERM; once it runs, SIGQUIT is its immediate shutdown, whoever is
    // connected: nothing of this cluster is needed again.
    let script = format!(
        "{become_user} '{programs}/initdb' --username=postgres --auth=trust --no-sync --encoding=UTF8 --locale=C.UTF-8 --pgdata='{folder}/data' \
            </dev/null >'{log}' 2>&1 || echo 'FATAL: initdb failed' >>'{log}'
        serve() {{
            {become_user} '{programs}/postgres' -D '{folder}/data' -p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='{folder}' \
                -c fsync=off -c full_page_writes=off -c max_connections=200 -c wal_level=logical {tls} </dev/null >>'{log}' 2>&1 &
            server=$!
        }}
        serve
        while read signal; do
            kill -$signal $server
            wait $server
            serve
        done
        kill -TERM $server
        sleep 0.3
        kill -QUIT $server
        wait $server
        rm -rf '{folder}'"
    );
    // A process group of its own: Ctrl-C in the terminal must not end the watcher before it has cleaned up.
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).current_dir("/").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    shell.spawn().expect("sh can be started").stdin.take().expect("a pipe was asked for")
}

/// Waits until the server answers; `false` when it ended instead.
fn ready(programs: &Path, port: u16, log: &Path) -> bool {
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        let mut ask = Command::new(programs.join("pg_isready"));
        ask.args(["--quiet", "--host=127.0.0.1", "--timeout=1", &format!("--port={port}")]);
        if ask.status().expect("pg_isready can be started").success() {
            // Whoever took the port first would answer as well: only our own server writes this log.
            return std::fs::read_to_string(log).is_ok_and(|text| text.contains(READY));
        }
        // It also says FATAL to whoever asks too early.
        let ended = |line: &str| line.contains("FATAL:") && !line.contains("the database system is starting up");
        if std::fs::read_to_string(log).is_ok_and(|text| text.lines().any(ended)) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    false
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port on loopback");
    listener.local_addr().expect("a bound address").port()
}

/// The folder of the server's programs: one on PATH that has them all, else the newest that Debian's packages installed.
fn find_programs() -> PathBuf {
    let has_all = |folder: &PathBuf| ["initdb", "postgres", "psql", "pg_isready"].iter().all(|name| folder.join(name).is_file());
    let on_path = std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect::<Vec<_>>()).unwrap_or_default();
    let mut packaged: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path().join("bin"))).collect())
        .unwrap_or_default();
    packaged.sort_by_key(|folder| folder.parent().and_then(|it| it.file_name()?.to_str()?.parse::<u32>().ok()));
    packaged.reverse();
    on_path.into_iter().chain(packaged).find(has_all).unwrap_or_else(|| {
        panic!(
            "no PostgreSQL server is installed (initdb, postgres, psql, pg_isready), and these tests need one: apt-get install postgresql"
        )
    })
}

/// The words that make a command run as a user the server accepts: it refuses root, who therefore hands the folder to somebody else.
fn unprivileged(folder: &Path) -> String {
    if std::fs::metadata(folder).expect("the folder just made").uid() != 0 {
        return String::new();
    }
    let users = std::fs::read_to_string("/etc/passwd").expect("/etc/passwd");
    let find = |name: &str| users.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields[0] == name);
    let user = find("postgres").or_else(|| find("nobody")).expect("a user `postgres` or `nobody`");
    let id = |field: usize| user[field].parse::<u32>().expect("numeric ids in /etc/passwd");
    let (user, group) = (id(2), id(3));
    let inside = std::fs::read_dir(folder).expect("the folder just made").map(|entry| entry.expect("an entry").path());
    for path in inside.chain([folder.to_owned()]) {
        chown(path, Some(user), Some(group)).expect("root may give the folder away");
    }
    format!("setpriv --reuid={user} --regid={group} --clear-groups --")
}
