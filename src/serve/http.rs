//! What a daemon answers to HTTP: whether it lives, whether it is ready, and its metrics.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::status::Status;
use super::{Level, Voice};
use crate::failure::Failure;
use crate::tasks;

/// Listens, until the handle is dropped.
pub(super) async fn start(address: SocketAddr, status: Arc<Status>, voice: &Voice) -> Result<AbortOnDropHandle<()>, Failure> {
    let failed = |error: std::io::Error| {
        Failure::permanent(format!("failed to listen on {address}"))
            .help("name another address with `--listen`, or none with `--listen off`")
            .cause(error)
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    voice.say(Level::Info, format!("listening on http://{address}"));
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(status);
    Ok(tasks::start(async move {
        // Accept errors are retried by the server itself; it has no other.
        let _ = axum::serve(listener, router).await;
    }))
}

async fn ready(State(status): State<Arc<Status>>) -> impl IntoResponse {
    let (ready, word) = status.readiness();
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, format!("{word}\n"))
}

async fn metrics(State(status): State<Arc<Status>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], status.metrics())
}
