//! The feeds of a project, each opened when somebody asks for it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use super::feed::Feed;
use super::gate::Gate;
use super::metrics;
use crate::define::FeedServer;
use crate::failure::Failure;
use crate::tasks;

/// All feeds of a project.
pub(super) struct Hub {
    base: PathBuf,
    server: FeedServer,
    pub gate: Gate,
    pub stop: CancellationToken,
    feeds: Mutex<BTreeMap<String, Arc<Feed>>>,
}

impl Hub {
    pub(super) fn new(base: &Path, server: FeedServer, stop: CancellationToken) -> Self {
        Self { base: base.to_owned(), gate: Gate::new(&server), server, stop, feeds: Mutex::default() }
    }

    pub(super) fn server(&self) -> &FeedServer {
        &self.server
    }

    /// A feed by its name; `None` when it was never written.
    pub(super) async fn feed(&self, name: &str) -> Result<Option<Arc<Feed>>, Failure> {
        if let Some(known) = self.feeds.lock().unwrap_or_else(PoisonError::into_inner).get(name) {
            return Ok(Some(Arc::clone(known)));
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if name.is_empty() || !name.bytes().all(plain) {
            return Ok(None);
        }
        let (base, own) = (self.base.clone(), name.to_owned());
        let Some(opened) = tasks::blocking(move || Feed::open(&base, &own)).await? else { return Ok(None) };
        let mut feeds = self.feeds.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Some(Arc::clone(feeds.entry(name.to_owned()).or_insert(opened))))
    }

    pub(super) fn metrics(&self) -> String {
        let feeds = self.feeds.lock().unwrap_or_else(PoisonError::into_inner);
        let shown: Vec<_> = feeds.values().map(|feed| (feed.name.as_str(), &feed.counts, feed.edges().borrow().head)).collect();
        metrics::render(&shown)
    }
}
