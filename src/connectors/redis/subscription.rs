//! A connection that only listens.

use std::time::Duration;

use futures::StreamExt;
use redis::aio::{PubSubSink, PubSubStream};
use redis::{Client, Value};
use tokio::time::timeout;

use super::error::failure;
use crate::failure::Failure;

/// The longest a connection may take to stand.
const CONNECT: Duration = Duration::from_secs(10);
/// After so long without a message the server is asked whether it is still there.
const SILENCE: Duration = Duration::from_secs(10);
/// How long it may take to answer that.
const ANSWER: Duration = Duration::from_secs(10);

/// A message.
pub struct Message {
    /// The channel that it was published to.
    pub channel: Vec<u8>,
    /// What was published.
    pub payload: Vec<u8>,
}

/// A channel, or all channels of a pattern, that are listened to until it is dropped.
pub struct Subscription {
    sink: PubSubSink,
    stream: PubSubStream,
}

impl Subscription {
    /// Connects and begins to listen: what is published from now on comes.
    pub(super) async fn open(client: &Client, channel: &str, is_pattern: bool) -> Result<Self, Failure> {
        let open = async {
            let mut connection = client.get_async_pubsub().await?;
            if is_pattern {
                connection.psubscribe(channel).await?
            } else {
                connection.subscribe(channel).await?
            };
            Ok(connection.split())
        };
        let late = || Failure::transient("the server did not answer in time");
        let (sink, stream) = timeout(CONNECT, open).await.map_err(|_| late())?.map_err(failure)?;
        Ok(Self { sink, stream })
    }

    /// The next message, however long it takes to come; fails when the server is gone. Nothing is lost when it is given up half-way.
    pub async fn next(&mut self) -> Result<Message, Failure> {
        loop {
            let message = match timeout(SILENCE, self.stream.next()).await {
                Ok(message) => message,
                Err(_) => tokio::select! {
                    message = self.stream.next() => message,
                    pong = timeout(ANSWER, self.sink.ping::<Value>()) => match pong {
                        Ok(Ok(_)) => continue,
                        _ => None,
                    },
                },
            };
            let Some(message) = message else {
                let help = "messages that are published until it stands again are lost; a stream of Redis keeps them";
                return Err(Failure::transient("the connection on which messages come was lost").help(help));
            };
            let channel = message.get_channel().map_err(failure)?;
            return Ok(Message { channel, payload: message.get_payload_bytes().to_vec() });
        }
    }
}
