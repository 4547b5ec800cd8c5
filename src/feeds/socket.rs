//! Messages of a WebSocket: one for each event and each note.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, close_code};
use bytes::Bytes;
use futures::SinkExt;

use super::follow::{Follower, Step};
use super::form::{Form, Note};

/// Hands a client its events until either side ends it.
pub(super) async fn talk(mut socket: WebSocket, mut follower: Follower, start: Note, keep_alive: Duration) {
    if socket.send(Message::text(start.value().to_string())).await.is_err() {
        return;
    }
    loop {
        let step = tokio::select! {
            step = tokio::time::timeout(keep_alive, follower.next()) => step,
            said = socket.recv() => match said {
                // Clients have nothing to say; pings are answered by the socket itself.
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => continue,
            },
        };
        let sent = match step {
            Err(_) => socket.send(Message::Ping(Bytes::new())).await,
            Ok(Err(_)) => return close(socket, close_code::ERROR, "the feed cannot be read").await,
            Ok(Ok(Step::Note(note))) => socket.send(Message::text(note.value().to_string())).await,
            Ok(Ok(Step::End(note))) => {
                let _ = socket.send(Message::text(note.value().to_string())).await;
                return close(socket, close_code::AGAIN, "go on behind the last event").await;
            }
            Ok(Ok(Step::Events(shared, _))) => {
                let lines = shared.form(Form::Lines);
                let block = shared.block();
                follower.feed.counts.sent(block.last - block.first + 1, lines.len());
                events(&mut socket, &lines).await
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Each line is a message, and a part of what all clients share.
async fn events(socket: &mut WebSocket, lines: &Bytes) -> Result<(), axum::Error> {
    let mut start = 0;
    while let Some(length) = lines[start..].iter().position(|byte| *byte == b'\n') {
        let text = Utf8Bytes::try_from(lines.slice(start..start + length)).unwrap_or_default();
        socket.feed(Message::Text(text)).await?;
        start += length + 1;
    }
    socket.flush().await
}

async fn close(mut socket: WebSocket, code: u16, reason: &'static str) {
    let _ = socket.send(Message::Close(Some(CloseFrame { code, reason: reason.into() }))).await;
}
