//! Many clients that break off and come again at random, over all four protocols: each sees every event once and in order.
//!
//! `HAUL_CLIENTS` sets their number.

use futures::StreamExt;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use super::*;
use crate::support::setting;

/// Clients without a setting.
const CLIENTS: u64 = 100;
/// Events that each of them sees.
const EVENTS: u64 = 1000;

/// A client's way: the last event it saw, and when it breaks off next.
struct Walk {
    address: String,
    seen: u64,
    until: u64,
    breaks: u64,
}

impl Walk {
    /// Takes what came; whether it goes on with this connection.
    fn take(&mut self, value: &Value) -> bool {
        if let Some(id) = value["@id"].as_u64() {
            assert_eq!(id, self.seen + 1, "an event is missing, or came twice");
            is_row(value, id);
            self.seen = id;
        } else if value["@feed"] == "start" {
            assert_eq!((&value["lost"], &value["place"]), (&0.into(), &Value::from(self.seen.to_string())));
        }
        self.seen < self.until && value["@feed"] != "end"
    }

    async fn request(&self, query: &str, header: &str) -> std::io::Result<BufReader<TcpStream>> {
        let mut stream = TcpStream::connect(&self.address).await?;
        let request = format!("GET /feeds/a?{query} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{header}\r\n", self.address);
        stream.write_all(request.as_bytes()).await?;
        Ok(BufReader::new(stream))
    }

    /// Lines and events: every line that holds an object. Lines of the protocol hold none.
    async fn lines(&mut self, events: bool) -> std::io::Result<()> {
        let header = if events { format!("Accept: text/event-stream\r\nLast-Event-ID: {}\r\n", self.seen) } else { String::new() };
        let body = self.request(&format!("from={}", self.seen), &header).await?;
        let mut lines = body.lines();
        while let Some(line) = lines.next_line().await? {
            let line = line.strip_prefix("data: ").unwrap_or(&line);
            if line.starts_with('{') && !self.take(&serde_json::from_str(line).expect("JSON")) {
                break;
            }
        }
        Ok(())
    }

    async fn poll(&mut self) -> std::io::Result<()> {
        let body = self.request(&format!("as=poll&limit=300&wait=5s&from={}", self.seen), "").await?;
        let mut lines = body.lines();
        while let Some(line) = lines.next_line().await? {
            if line.starts_with('{') {
                let answer: Value = serde_json::from_str(&line).expect("JSON");
                for event in answer["events"].as_array().expect("events") {
                    self.take(event);
                }
                assert_eq!(answer["next"], self.seen.to_string());
            }
        }
        Ok(())
    }

    async fn socket(&mut self) -> std::io::Result<()> {
        let stream = TcpStream::connect(&self.address).await?;
        let url = format!("ws://{}/feeds/a?from={}", self.address, self.seen);
        let Ok((mut socket, _)) = tokio_tungstenite::client_async(url, stream).await else { return Ok(()) };
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Text(text) = message
                && !self.take(&serde_json::from_str(&text).expect("JSON"))
            {
                break;
            }
        }
        let _ = socket.close(None).await;
        Ok(())
    }

    async fn go(mut self, protocol: u64, mut dice: fastrand::Rng) -> u64 {
        while self.seen < EVENTS {
            self.until = EVENTS.min(self.seen + dice.u64(1..=EVENTS / 3));
            let went = match protocol % 4 {
                0 => self.lines(true).await,
                1 => self.lines(false).await,
                2 => self.poll().await,
                _ => self.socket().await,
            };
            self.breaks += 1;
            if went.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        self.breaks
    }
}

#[test]
fn everybody_sees_everything_once_and_in_order() {
    let clients = setting("HAUL_CLIENTS").unwrap_or(CLIENTS);
    let (project, haul, address) = filled(", key: id", "", 100);
    let seed = fastrand::u64(..);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let walks: Vec<_> = (0..clients)
        .map(|client| {
            let walk = Walk { address: address.clone(), seen: 0, until: 0, breaks: 0 };
            runtime.spawn(walk.go(client, fastrand::Rng::with_seed(seed ^ client)))
        })
        .collect();
    for part in 0..(EVENTS - 100) / 50 {
        add(&project, 101 + part * 50..=150 + part * 50);
        std::thread::sleep(Duration::from_millis(10));
    }
    let breaks: u64 = runtime.block_on(async {
        let all = async {
            let mut breaks = 0;
            for walk in walks {
                breaks += walk.await.expect("a client saw everything");
            }
            breaks
        };
        tokio::time::timeout(PATIENCE * 5, all)
            .await
            .unwrap_or_else(|_| panic!("not all clients saw everything; haul said:\n{}", haul.said()))
    });
    println!("{clients} clients, {breaks} connections, seed {seed}");
    assert!(breaks > clients * 2, "clients hardly broke off: {breaks} connections");
    haul.stop();
}
