//! Feeds over HTTP: what `to: { feed: … }` has written, served to as many clients as want it.
//!
//! - `place`: where a client goes on, in the words of requests. `follow`: one client's way through a feed, whatever it speaks.
//! - `feed`: one feed: the newest events, encoded once and shared by all clients, and readers of its log for those that are behind. `hub`: all
//!   feeds of a project.
//! - `form`: events and notes as lines, server-sent events and messages. `stream`, `socket`, `poll`: the protocols. `gate`: who may read.
//!   `patient`: connections that take nothing are given up. `http`: requests. `metrics`: what is counted.
//!
//! A client holds a position and the piece of the feed that is on its way to it, never a queue: what it has not taken yet lies in the log.

mod feed;
mod follow;
mod form;
mod gate;
mod http;
mod hub;
mod metrics;
mod patient;
mod place;
mod poll;
mod socket;
mod stream;

use std::fs::{File, TryLockError};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use self::hub::Hub;
use crate::connectors::feed::folder;
use crate::define::FeedServer;
use crate::failure::Failure;
use crate::tasks;

/// The file whose lock says that a process serves the feeds of a project. It holds the address.
const SERVED: &str = "served";
/// How often a process asks whether it may serve what another one does.
const PERIOD: Duration = Duration::from_millis(500);
/// How long clients are given to hear of the end.
const GOODBYE: Duration = Duration::from_secs(2);

/// The feeds of a project, served until it is dropped or closed.
pub struct Feeds {
    hub: Arc<Hub>,
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
    address: Option<SocketAddr>,
}

impl Feeds {
    /// Where they are served; `None` while another process of the same project does it, for which this one stands by.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// What is counted, for as long as anybody asks.
    pub fn meter(&self) -> Meter {
        Meter(Arc::clone(&self.hub))
    }

    /// Tells clients that it is over, and ends.
    pub async fn close(self) {
        self.stop.cancel();
        let _ = tokio::time::timeout(GOODBYE, self.task).await;
    }
}

/// Tells what is counted of feeds.
pub struct Meter(Arc<Hub>);

impl Meter {
    /// In the text format of Prometheus.
    pub fn metrics(&self) -> String {
        self.0.metrics()
    }
}

impl std::fmt::Debug for Meter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meter")
    }
}

/// Serves the feeds of the project in `base`. Fails when its address cannot be listened on.
pub async fn start(base: &Path, server: FeedServer) -> Result<Feeds, Failure> {
    let folder = folder(base);
    let file = folder.join(SERVED);
    let opened = std::fs::create_dir_all(&folder).and_then(|()| File::options().create(true).write(true).truncate(false).open(&file));
    let lock = opened.map_err(|error| Failure::permanent(format!("failed to open {}", file.display())).cause(error))?;
    let stop = CancellationToken::new();
    let hub = Arc::new(Hub::new(base, server, stop.clone()));
    let turn = Turn { lock, hub: Arc::clone(&hub), stop: stop.clone() };
    if !turn.take()? {
        let task = tasks::start(turn.wait());
        return Ok(Feeds { hub, stop, task, address: None });
    }
    let (listener, address) = turn.bind().await?;
    let task = tasks::start(turn.serve(listener));
    Ok(Feeds { hub, stop, task, address: Some(address) })
}

/// The right to serve the feeds of a project.
struct Turn {
    lock: File,
    hub: Arc<Hub>,
    stop: CancellationToken,
}

impl Turn {
    /// Whether this process may.
    fn take(&self) -> Result<bool, Failure> {
        match self.lock.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(Failure::permanent("failed to lock the folder of feeds").cause(error)),
        }
    }

    async fn bind(&self) -> Result<(TcpListener, SocketAddr), Failure> {
        let wanted = self.hub.server().listen;
        let failed = |error: std::io::Error| {
            Failure::permanent(format!("failed to listen on {wanted} for feeds"))
                .help("name another address in haul.yaml: `feeds: { listen: \"127.0.0.1:9466\" }`, or stop what listens there")
                .cause(error)
        };
        let listener = TcpListener::bind(wanted).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        // Only for people, and for whoever asked for any free port.
        let _ = self.lock.set_len(0).and_then(|()| std::io::Write::write_all(&mut &self.lock, format!("http://{address}\n").as_bytes()));
        Ok((listener, address))
    }

    async fn serve(self, listener: TcpListener) {
        http::serve(listener, Arc::clone(&self.hub), self.stop.clone()).await;
    }

    /// Takes over when the process ends that serves now.
    async fn wait(self) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(PERIOD) => {}
                () = self.stop.cancelled() => return,
            }
            if matches!(self.take(), Ok(true)) {
                break;
            }
        }
        loop {
            match self.bind().await {
                Ok((listener, _)) => return self.serve(listener).await,
                Err(_) => tokio::select! {
                    () = tokio::time::sleep(PERIOD) => {}
                    () = self.stop.cancelled() => return,
                },
            }
        }
    }
}
