//! An object store of a test's own: a real S3 server on loopback, which keeps its objects as plain files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use tokio::sync::Mutex;

/// What a client must show.
pub const CREDENTIALS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "haul"), ("AWS_SECRET_ACCESS_KEY", "a secret of this test")];

/// A store with one bucket, named `lake`. It answers until the test's process ends.
pub struct Store {
    host: String,
    folder: tempfile::TempDir,
}

impl Store {
    /// Starts a store.
    pub fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("haul-test-").tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join("lake")).expect("a bucket");
        let files = FileSystem::new(folder.path()).expect("a store");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a listener for tokio");
        let host = listener.local_addr().expect("an address").to_string();
        std::thread::spawn(move || serve(files, listener));
        Self { host, folder }
    }

    /// The URL of a connection to a place in the bucket.
    pub fn url(&self, prefix: &str) -> String {
        format!("s3://lake/{prefix}?region=us-east-1&endpoint=http://{}", self.host)
    }

    /// The folder in which the objects of the bucket are files.
    pub fn bucket(&self) -> PathBuf {
        self.folder.path().join("lake")
    }

    /// Uploads in parts that were begun and neither ended nor given up.
    pub fn open_uploads(&self) -> Vec<String> {
        let entries = std::fs::read_dir(Path::new(self.folder.path())).expect("the store's folder");
        let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with(".upload")).collect()
    }
}

/// Answers one request after the other: the store looks at a condition such as `If-Match` before it writes, not while it does, and two that come
/// together would both be granted.
fn serve(files: FileSystem, listener: std::net::TcpListener) {
    let [(_, key), (_, secret)] = CREDENTIALS;
    let mut service = S3ServiceBuilder::new(files);
    service.set_auth(SimpleAuth::from_single(key, secret));
    let service = service.build();
    let turn = Arc::new(Mutex::new(()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let (service, turn) = (service.clone(), Arc::clone(&turn));
            let one_by_one = service_fn(move |request| {
                let (service, turn) = (service.clone(), Arc::clone(&turn));
                // To its end, even when the client goes away.
                let answer = tokio::spawn(async move {
                    let _turn = turn.lock().await;
                    Service::call(&service, request).await
                });
                async { answer.await.expect("the store answers") }
            });
            // A client that goes away is no fault of the server.
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), one_by_one));
        }
    });
}
