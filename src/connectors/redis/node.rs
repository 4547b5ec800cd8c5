//! The connections to one node: made when they are needed, bounded, and each used by one pipeline at a time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Pipeline};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::command::{Command, Replies};
use super::error::failure;
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
    free: Semaphore,
    idle: Mutex<Vec<MultiplexedConnection>>,
}

impl Node {
    /// Connects to nothing yet.
    pub(super) fn new(client: Client, most: u32) -> Arc<Self> {
        Arc::new(Self { client, free: Semaphore::new(most as usize), idle: Mutex::default() })
    }

    /// Sends commands in one go and reads all answers. What fails as a whole is the connection; every refusal of a single command stands in
    /// its place. `longest` is how long the answer may take beyond the usual, for commands that block.
    pub(super) async fn send(&self, commands: &[&Command], longest: Duration) -> Result<Replies, Failure> {
        let Ok(Ok(_permit)) = timeout(WAIT, self.free.acquire()).await else {
            return Err(Failure::transient(format!("all connections were busy for {} s", WAIT.as_secs()))
                .help("raise `max_connections` of the connection"));
        };
        let mut pipeline = Pipeline::with_capacity(commands.len());
        pipeline.ignore_errors();
        for command in commands {
            pipeline.add_command(command.packed().clone());
        }
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        connection.set_response_timeout(ANSWER + longest);
        match connection.send_packed_commands(&pipeline, 0, commands.len()).await {
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

    async fn connect(&self) -> Result<MultiplexedConnection, Failure> {
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(Some(ANSWER));
        self.client.get_multiplexed_async_connection_with_config(&config).await.map_err(failure)
    }
}
