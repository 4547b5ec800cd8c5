//! Messages of a WebSocket.

use std::net::SocketAddr;
use std::time::Duration;

use futures::{FutureExt, SinkExt, StreamExt};
use reqwest::dns::Resolve;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, client_async_tls_with_config};

use super::api::Api;
use super::guard::Refused;
use crate::define::pipeline::HttpSource;
use crate::failure::Failure;

/// Messages that are handed on together when so many wait.
const MOST_TOGETHER: usize = 1000;

/// A WebSocket that is listened to.
pub(super) struct Socket {
    inner: WebSocketStream<MaybeTlsStream<TcpStream>>,
    idle: Duration,
    closed: bool,
}

impl Socket {
    /// Connects, with the credentials of the connection.
    pub(super) async fn open(api: &Api, spec: &HttpSource) -> Result<Self, Failure> {
        Ok(Self { inner: connect(api, spec).await?, idle: api.idle(), closed: false })
    }

    /// The messages that have come, and at least one unless only signs of life came. The end of a connection, which should have none, is a failure.
    pub(super) async fn next(&mut self) -> Result<Vec<String>, Failure> {
        let mut texts = Vec::new();
        let mut next = if self.closed { None } else { Some(self.wait().await?) };
        while let Some(message) = next {
            match message {
                Some(Ok(Message::Text(text))) => texts.push(text.as_str().to_owned()),
                Some(Ok(Message::Binary(bytes))) => texts.push(String::from_utf8_lossy(&bytes).into_owned()),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_))) | None => self.closed = true,
                Some(Err(error)) if texts.is_empty() => return Err(failure(error)),
                Some(Err(_)) => self.closed = true,
            }
            let more = !self.closed && texts.len() < MOST_TOGETHER;
            next = if more { self.inner.next().now_or_never() } else { None };
        }
        if self.closed && texts.is_empty() {
            return Err(Failure::transient("the server closed the WebSocket"));
        }
        Ok(texts)
    }

    /// Waits for a message. A quiet connection is asked for a sign of life before it is given up.
    async fn wait(&mut self) -> Result<Option<Result<Message, Error>>, Failure> {
        let patience = self.idle / 2;
        if let Ok(message) = timeout(patience, self.inner.next()).await {
            return Ok(message);
        }
        self.inner.send(Message::Ping(Vec::new().into())).await.map_err(failure)?;
        let silent = |_| Failure::transient(format!("the WebSocket fell silent for {:?}", self.idle));
        timeout(patience, self.inner.next()).await.map_err(silent)
    }
}

async fn connect(api: &Api, spec: &HttpSource) -> Result<WebSocketStream<MaybeTlsStream<TcpStream>>, Failure> {
    let query = spec.query.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let mut url = api.url(&spec.path, query);
    api.guard().check(&url)?;
    let scheme = if url.scheme() == "https" { "wss" } else { "ws" };
    let (host, port) = (url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned(), url.port_or_known_default().unwrap_or(80));
    let during = |failure: Failure| failure.during(format!("WebSocket {}", spec.path));
    url.set_scheme(scheme).map_err(|()| Failure::permanent("the URL cannot be one of a WebSocket"))?;
    let mut request = url.as_str().into_client_request().map_err(failure)?;
    request.headers_mut().extend(api.credentials());
    let shake = async {
        let addresses: Vec<SocketAddr> = match host.parse() {
            Ok(address) => vec![SocketAddr::new(address, port)],
            Err(_) => resolved(api, &host, port).await?,
        };
        let stream = TcpStream::connect(addresses.as_slice()).await;
        let stream = stream.map_err(|error| Failure::transient("no server answers there").cause(error))?;
        let _ = stream.set_nodelay(true);
        let (socket, _) = client_async_tls_with_config(request, stream, None, None).await.map_err(failure)?;
        Ok(socket)
    };
    match timeout(api.idle(), shake).await {
        Ok(socket) => socket.map_err(during),
        Err(_) => Err(during(Failure::transient(format!("no answer came within {:?}", api.idle())))),
    }
}

/// The addresses of a name that may be asked.
async fn resolved(api: &Api, host: &str, port: u16) -> Result<Vec<SocketAddr>, Failure> {
    let name = host.parse().map_err(|_| Failure::permanent("the URL's host is no name"))?;
    match api.guard().resolve(name).await {
        Ok(found) => Ok(found.map(|address| SocketAddr::new(address.ip(), port)).collect()),
        Err(error) => Err(match error.downcast_ref::<Refused>() {
            Some(refused) => refused.failure(),
            None => Failure::transient("the host name cannot be looked up").cause(error),
        }),
    }
}

/// What goes wrong with a WebSocket. Its texts may not show the request, which holds credentials.
fn failure(error: Error) -> Failure {
    match error {
        Error::Http(response) => {
            let status = response.status();
            let text = format!("the server answered {status} instead of a WebSocket");
            if status.is_server_error() || status.as_u16() == 429 || status.as_u16() == 408 {
                Failure::transient(text)
            } else {
                Failure::permanent(text).help("check the path, and `auth` of the connection")
            }
        }
        Error::Url(_) | Error::HttpFormat(_) => Failure::permanent("the request of the WebSocket cannot be made"),
        Error::Tls(error) => Failure::permanent("no TLS connection that can be trusted").cause(error),
        Error::Protocol(ProtocolError::WrongHttpMethod | ProtocolError::MissingUpgradeWebSocketHeader) => {
            Failure::permanent("the server speaks no WebSocket at this path")
        }
        Error::Capacity(error) => Failure::permanent("a message of the WebSocket is too large").cause(error),
        other => Failure::transient("the WebSocket was lost").cause(other),
    }
}
