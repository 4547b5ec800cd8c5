//! The connections to one node: made when they are needed, bounded, and each used by one pipeline at a time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Pipeline, Value};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::command::{Command, Replies};
use super::error::failure;
use super::subscription::Subscription;
use crate::failure::Failure;

/// The longest a connection may take to stand.
const CONNECT: Duration = Duration::from_secs(10);
/// The longest a pipeline may take to be answered. A value of 512 MiB takes seconds to be packed, sent and unpacked.
const ANSWER: Duration = Duration::from_secs(120);
/// The longest anything waits for a free connection.
const WAIT: Duration = Duration::from_secs(600);

/// One node.
pub(super) struct Node {
    client: Client,
    free: Arc<Semaphore>,
    /// Connections that may be lent: one fewer than there are, so that whoever holds one can still have a command answered beside it.
    lent: Arc<Semaphore>,
    /// Whether a lent connection is not one of those that are free.
    apart: bool,
    idle: Mutex<Vec<MultiplexedConnection>>,
}

impl Node {
    /// Connects to nothing yet.
    pub(super) fn new(client: Client, most: u32) -> Arc<Self> {
        let most = (most as usize).max(1);
        let lent = Arc::new(Semaphore::new((most - 1).max(1)));
        // Whoever holds the only connection would wait for ever for a second: it is made beside the one that is allowed.
        let apart = most == 1;
        Arc::new(Self { client, free: Arc::new(Semaphore::new(most)), lent, apart, idle: Mutex::default() })
    }

    /// Sends commands in one go and reads all answers. What fails as a whole is the connection; every refusal of a single command stands in
    /// its place. `longest` is how long the answer may take beyond the usual, for commands that block.
    pub(super) async fn send(&self, commands: &[&Command], longest: Duration) -> Result<Replies, Failure> {
        let _permit = permit(&self.free).await?;
        let mut connection = self.connection().await?;
        connection.set_response_timeout(ANSWER + longest);
        match connection.send_packed_commands(&packed(commands), 0, commands.len()).await {
            Ok(replies) if replies.iter().any(is_read_only) => {
                // The node became a replica: where the name of the host leads to another one by now, only a new connection finds it.
                self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
                Ok(replies)
            }
            Ok(replies) => {
                self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
                Ok(replies)
            }
            Err(error) => {
                // Whatever broke this connection has broken those that lie idle as well.
                self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
                Err(failure(error))
            }
        }
    }

    /// Lends a connection for a sequence of pipelines that depend on each other, such as a transaction. It is closed when it is dropped.
    pub(super) async fn lend(self: &Arc<Self>) -> Result<Lease, Failure> {
        let lent = permit(&self.lent).await?;
        let free = if self.apart { None } else { Some(permit(&self.free).await?) };
        let mut connection = self.connect().await?;
        connection.set_response_timeout(ANSWER);
        Ok(Lease { connection, _permits: (lent, free) })
    }

    /// Listens to a channel, or to all channels of a pattern, on a connection besides those that are counted: it only ever listens.
    pub(super) async fn subscribe(&self, channel: &str, is_pattern: bool) -> Result<Subscription, Failure> {
        Subscription::open(&self.client, channel, is_pattern).await
    }

    async fn connection(&self) -> Result<MultiplexedConnection, Failure> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match idle {
            Some(connection) => Ok(connection),
            None => self.connect().await,
        }
    }

    async fn connect(&self) -> Result<MultiplexedConnection, Failure> {
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(Some(ANSWER));
        self.client.get_multiplexed_async_connection_with_config(&config).await.map_err(failure)
    }
}

/// A connection of one's own.
pub struct Lease {
    connection: MultiplexedConnection,
    _permits: (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>),
}

impl Lease {
    /// Sends commands in one go and reads all answers; a refusal of a single command stands in its place.
    pub async fn send(&mut self, commands: &[Command]) -> Result<Replies, Failure> {
        let commands: Vec<&Command> = commands.iter().collect();
        self.connection.send_packed_commands(&packed(&commands), 0, commands.len()).await.map_err(failure)
    }
}

fn is_read_only(reply: &Value) -> bool {
    matches!(reply, Value::ServerError(error) if error.code() == "READONLY")
}

fn packed(commands: &[&Command]) -> Pipeline {
    let mut pipeline = Pipeline::with_capacity(commands.len());
    pipeline.ignore_errors();
    for command in commands {
        pipeline.add_command(command.packed().clone());
    }
    pipeline
}

async fn permit(of: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Failure> {
    match timeout(WAIT, Arc::clone(of).acquire_owned()).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(Failure::transient(format!("all connections were busy for {} s", WAIT.as_secs()))
            .help("raise `max_connections` of the connection")),
    }
}
