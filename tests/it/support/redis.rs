//! Private Redis servers for tests: real, on loopback, gone when the value or the test process is, however it ends.

use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use redis::{Client, Connection, FromRedisValue, TlsCertificates};

use super::certificates::certificates;

/// The databases of the shared server: each test that asks takes the next one.
const DATABASES: u32 = 10_000;
/// How long a server may take to start, to die, or to find its peers.
const PATIENCE: Duration = Duration::from_secs(60);

/// One server, with what it writes in a folder of its own. It saves nothing by itself.
pub struct Redis {
    /// Its port on 127.0.0.1; the TLS port of a server with TLS.
    pub port: u16,
    /// What stands before `127.0.0.1` in its URL: the scheme, and user and password where it wants them.
    login: &'static str,
    log: PathBuf,
    certificates: Option<PathBuf>,
    databases: AtomicU32,
    watcher: Watcher,
}

/// A shell that starts and kills the server when told to. When this process ends, also by kill -9, its input closes: it then kills the server
/// by its process id and removes the folder.
struct Watcher {
    commands: Option<ChildStdin>,
    shell: Child,
}

/// Three masters that hold a third of the slots each.
pub struct Cluster {
    /// The masters, in the order of their slots.
    pub nodes: Vec<Redis>,
    /// A replica of each, where they were asked for.
    pub replicas: Vec<Redis>,
}

/// The server of this test process, started by the first test that asks. Tests keep to databases of their own, and leave it running.
pub fn redis() -> &'static Redis {
    static SERVER: OnceLock<Redis> = OnceLock::new();
    SERVER.get_or_init(standalone)
}

/// A server that this test may kill, or fill up, or configure.
pub fn standalone() -> Redis {
    start(|port| (format!("port {port}\ndatabases {DATABASES}\n"), "redis://", None))
}

/// Three masters that agree on who holds which slots, without replicas.
pub fn cluster() -> Cluster {
    let nodes: Vec<Redis> = (0..3).map(|_| cluster_node()).collect();
    for (node, slots) in nodes.iter().zip([("0", "5460"), ("5461", "10922"), ("10923", "16383")]) {
        node.ask::<()>(&["CLUSTER", "ADDSLOTSRANGE", slots.0, slots.1]);
    }
    nodes[1..].iter().for_each(|node| nodes[0].meet(node));
    wait("the cluster to agree", || nodes.iter().all(|node| node.agrees(3)));
    Cluster { nodes, replicas: Vec::new() }
}

/// The same with a replica of each master. None takes over by itself for 15 s; see [`Redis::take_over`].
pub fn replicated_cluster() -> Cluster {
    let mut cluster = cluster();
    cluster.replicas = (0..3).map(|_| cluster_node()).collect();
    cluster.replicas.iter().for_each(|node| cluster.nodes[0].meet(node));
    wait("the cluster to know its replicas", || cluster.nodes.iter().chain(&cluster.replicas).all(|node| node.agrees(6)));
    for (master, replica) in cluster.nodes.iter().zip(&cluster.replicas) {
        replica.ask::<()>(&["CLUSTER", "REPLICATE", &master.id()]);
    }
    let follows = |replica: &Redis| replica.ask::<String>(&["INFO", "replication"]).contains("master_link_status:up");
    wait("the replicas to have everything", || cluster.replicas.iter().all(follows));
    cluster
}

fn cluster_node() -> Redis {
    start(|port| {
        let bus = free_port();
        let config =
            format!("port {port}\ncluster-enabled yes\ncluster-port {bus}\ncluster-config-file nodes.conf\nrepl-diskless-sync-delay 0\n");
        (config, "redis://", None)
    })
}

/// A server that only speaks TLS, with a certificate of an authority of its own, and only to the user `haul` with the password `se/cret`.
pub fn tls() -> Redis {
    start(|port| {
        let folder = tls_folder();
        let at = folder.display();
        let config = format!(
            "port 0\ntls-port {port}\ntls-auth-clients no\n\
             tls-cert-file {at}/server.pem\ntls-key-file {at}/server.key\ntls-ca-cert-file {at}/authority.pem\n\
             user default off\nuser haul on >se/cret ~* &* +@all\n"
        );
        (config, "rediss://haul:se%2Fcret@", Some(folder))
    })
}

impl Redis {
    /// The URL of its database 0.
    pub fn url(&self) -> String {
        format!("{}127.0.0.1:{}", self.login, self.port)
    }

    /// The URL of an empty database that no other test is given.
    pub fn fresh_database(&self) -> String {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        assert!(number < DATABASES, "every database of the shared server is taken");
        format!("{}/{number}", self.url())
    }

    /// The certificate of the authority that a client of a server with TLS must trust.
    pub fn authority(&self) -> PathBuf {
        self.certificates.as_ref().expect("only a server with TLS has one").join("authority.pem")
    }

    /// A blocking connection to database 0, which shares no code of haul's.
    #[track_caller]
    pub fn connect(&self) -> Connection {
        connect_to(&self.url(), self.certificates.is_some().then(|| self.authority()))
    }

    /// Sends one command to database 0.
    #[track_caller]
    pub fn ask<T: FromRedisValue>(&self, words: &[&str]) -> T {
        ask(&mut self.connect(), words)
    }

    /// Its name in a cluster.
    pub fn id(&self) -> String {
        self.ask(&["CLUSTER", "MYID"])
    }

    fn meet(&self, other: &Self) {
        let bus: Vec<String> = other.ask(&["CONFIG", "GET", "cluster-port"]);
        self.ask::<()>(&["CLUSTER", "MEET", "127.0.0.1", &other.port.to_string(), &bus[1]]);
    }

    fn agrees(&self, nodes: usize) -> bool {
        let info: String = self.ask(&["CLUSTER", "INFO"]);
        let known = format!("cluster_known_nodes:{nodes}\r\n");
        info.contains("cluster_state:ok") && info.contains(&known) && info.contains("cluster_slots_ok:16384")
    }

    /// Makes a replica the master, without asking anybody.
    pub fn take_over(&self) {
        self.ask::<()>(&["CLUSTER", "FAILOVER", "TAKEOVER"]);
        wait("the replica to be the master", || self.ask::<String>(&["INFO", "replication"]).contains("role:master"));
    }

    /// Begins to move slots to another master: from now on their keys leave this one.
    pub fn open_slots(&self, to: &Self, slots: std::ops::Range<u16>) {
        let (own, other) = (self.id(), to.id());
        for slot in slots {
            to.ask::<()>(&["CLUSTER", "SETSLOT", &slot.to_string(), "IMPORTING", &own]);
            self.ask::<()>(&["CLUSTER", "SETSLOT", &slot.to_string(), "MIGRATING", &other]);
        }
    }

    /// Moves the keys of open slots, each key for which `moves` says so.
    pub fn move_keys(&self, to: &Self, slots: std::ops::Range<u16>, moves: impl Fn(usize) -> bool) {
        let (mut connection, port) = (self.connect(), to.port.to_string());
        for slot in slots {
            let keys: Vec<Vec<u8>> = ask(&mut connection, &["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), "100000"]);
            for (_, key) in keys.iter().enumerate().filter(|(place, _)| moves(*place)) {
                let mut command = redis::cmd("MIGRATE");
                command.arg("127.0.0.1").arg(&port).arg(key).arg(0).arg(60_000);
                command.exec(&mut connection).expect("a key that moves");
            }
        }
    }

    /// Ends the move of slots: the other master holds them.
    pub fn close_slots(&self, to: &Self, slots: std::ops::Range<u16>) {
        let other = to.id();
        for slot in slots {
            for node in [to, self] {
                node.ask::<()>(&["CLUSTER", "SETSLOT", &slot.to_string(), "NODE", &other]);
            }
        }
    }

    /// Holds every write back until [`Redis::go_on`].
    pub fn hold(&self) {
        self.ask::<()>(&["CLIENT", "PAUSE", "600000", "WRITE"]);
    }

    /// Lets writes go on.
    pub fn go_on(&self) {
        self.ask::<()>(&["CLIENT", "UNPAUSE"]);
    }

    /// Kills it as a machine that loses power does. What `SAVE` has written stays.
    pub fn kill(&self) {
        self.watcher.tell("kill");
        // An old log would say that the next server is ready.
        wait("the server to die", || std::fs::read(&self.log).is_ok_and(|log| log.is_empty()));
    }

    /// Starts it again after [`Redis::kill`], with the data of its last `SAVE`.
    pub fn start_again(&self) {
        self.watcher.tell("start");
        assert!(ready(&self.log), "the server does not come back: {}", std::fs::read_to_string(&self.log).unwrap_or_default());
    }

    /// Kills it and starts it again with all of its data: clients lose their connections, and nothing else.
    pub fn restart(&self) {
        self.ask::<()>(&["SAVE"]);
        self.kill();
        self.start_again();
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.commands = None;
        // The folder is gone, and the port free, when the test goes on.
        let _ = self.shell.wait();
    }
}

impl Watcher {
    fn tell(&self, command: &str) {
        let mut pipe = self.commands.as_ref().expect("open until it is dropped");
        writeln!(pipe, "{command}").expect("the watcher listens");
    }
}

/// A blocking connection to what a URL of [`Redis::fresh_database`] names.
#[track_caller]
pub fn connect(url: &str) -> Connection {
    connect_to(url, None)
}

#[track_caller]
fn connect_to(url: &str, authority: Option<PathBuf>) -> Connection {
    let client = match authority {
        None => Client::open(url),
        Some(path) => {
            let root = std::fs::read(path).expect("the authority's certificate");
            // The process may hold two providers of cryptography; whichever comes first is as good.
            let _ = rustls::crypto::ring::default_provider().install_default();
            Client::build_with_tls(url, TlsCertificates { client_tls: None, root_cert: Some(root) })
        }
    };
    client.and_then(|client| client.get_connection()).unwrap_or_else(|error| panic!("cannot connect to {url}: {error}"))
}

/// Sends one command.
#[track_caller]
pub fn ask<T: FromRedisValue>(connection: &mut Connection, words: &[&str]) -> T {
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    command.query(connection).unwrap_or_else(|error| panic!("redis refused {words:?}: {error}"))
}

/// Another try takes another port, in case somebody was quicker to take the first.
fn start(config: impl Fn(u16) -> (String, &'static str, Option<PathBuf>)) -> Redis {
    let program = find_program();
    let mut said = String::new();
    for _ in 0..5 {
        let folder = tempfile::Builder::new().prefix("haul-redis-").tempdir().expect("a temporary folder").keep();
        let port = free_port();
        let (own, login, certificates) = config(port);
        let place = folder.display();
        let common = format!("bind 127.0.0.1\ndir {place}\nsave \"\"\nappendonly no\nenable-debug-command local\n");
        std::fs::write(folder.join("redis.conf"), common + &own).expect("the server's configuration");
        let log = folder.join("log");
        let watcher = watch(&program, &folder, certificates.as_deref());
        if ready(&log) {
            // Database 0 stays free for tests that name none.
            return Redis { port, login, log, certificates, databases: AtomicU32::new(1), watcher };
        }
        said = std::fs::read_to_string(&log).unwrap_or_default();
    }
    panic!("redis-server does not start: {said}");
}

fn watch(program: &Path, folder: &Path, certificates: Option<&Path>) -> Watcher {
    let (program, folder) = (program.display(), folder.display());
    let certificates = certificates.map(|path| format!("'{}'", path.display())).unwrap_or_default();
    let script = format!(
        "start() {{ '{program}' '{folder}/redis.conf' </dev/null >'{folder}/log' 2>&1 & server=$!; }}
        start
        while read command; do
            case $command in
                start) start;;
                kill) kill -KILL $server; wait $server; : >'{folder}/log';;
            esac
        done
        kill -KILL $server
        wait $server
        rm -rf '{folder}' {certificates}"
    );
    // A process group of its own: Ctrl-C in the terminal must not end the watcher before it has cleaned up.
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).current_dir("/").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let mut shell = shell.spawn().expect("sh can be started");
    Watcher { commands: Some(shell.stdin.take().expect("a pipe was asked for")), shell }
}

/// Waits until the server says that it is ready; `false` when it ended instead. Whoever took the port first would answer as well: only our
/// own server writes this log.
fn ready(log: &Path) -> bool {
    let mut ended = false;
    wait("redis-server to start", || {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        ended = ["Failed listening", "FATAL", "Failed to configure TLS", "exiting"].iter().any(|word| text.contains(word));
        ended || text.contains("Ready to accept connections")
    });
    !ended
}

#[track_caller]
fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port on loopback");
    listener.local_addr().expect("a bound address").port()
}

fn find_program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join("redis-server")).find(|program| program.is_file()).unwrap_or_else(|| {
        panic!("no redis-server is on PATH, and these tests start real ones: apt-get install redis-server");
    })
}

/// A folder with an authority and a server's key and certificate.
fn tls_folder() -> PathBuf {
    let folder = tempfile::Builder::new().prefix("haul-redis-tls-").tempdir().expect("a temporary folder").keep();
    certificates(&folder, "IP:127.0.0.1,DNS:localhost");
    folder
}

#[test]
fn servers_keep_what_was_saved_and_lose_the_rest() {
    let server = standalone();
    server.ask::<()>(&["SET", "kept", "1"]);
    server.restart();
    server.ask::<()>(&["SET", "lost", "1"]);
    server.kill();
    server.start_again();
    assert_eq!(server.ask::<Vec<Option<String>>>(&["MGET", "kept", "lost"]), [Some("1".to_owned()), None]);
    let port = server.port;
    drop(server);
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err(), "the server outlived its value");
}

#[test]
fn databases_are_apart() {
    let (one, two) = (redis().fresh_database(), redis().fresh_database());
    ask::<()>(&mut connect(&one), &["SET", "key", "1"]);
    assert_eq!(ask::<Option<String>>(&mut connect(&two), &["GET", "key"]), None);
}

#[test]
fn a_cluster_shares_its_slots() {
    let cluster = cluster();
    // The slot of `foo` is 12182, of the third master.
    cluster.nodes[2].ask::<()>(&["SET", "foo", "bar"]);
    let refused = redis::cmd("GET").arg("foo").query::<String>(&mut cluster.nodes[0].connect());
    assert!(refused.is_err_and(|error| error.to_string().contains(&format!("127.0.0.1:{}", cluster.nodes[2].port))));
}

#[test]
fn a_server_with_tls_refuses_plain_text_and_strangers() {
    let server = tls();
    assert_eq!(server.ask::<String>(&["ACL", "WHOAMI"]), "haul");
    assert!(Client::open(format!("redis://127.0.0.1:{}", server.port)).unwrap().get_connection().is_err());
    let stranger = Client::open(format!("rediss://haul:se%2Fcret@127.0.0.1:{}", server.port)).unwrap().get_connection();
    assert!(stranger.is_err(), "an unknown authority was trusted");
}
