//! Feeds: served as long as any pipeline writes one, whether it goes or not.

use super::Daemon;
use crate::define::{FeedServer, feed_server};
use crate::feeds::{self, Feeds};
use crate::serve::Level;

/// The feeds that are served, and how.
pub(super) struct Served {
    feeds: Feeds,
    server: FeedServer,
}

impl Daemon {
    /// Serves feeds as the project's file says by now. What is in the way of that keeps no pipeline from going.
    pub(super) async fn keep_feeds(&mut self) {
        if !self.definitions.pipelines.values().any(|definition| definition.feeds) {
            return self.close_feeds().await;
        }
        let server = match feed_server(&self.definitions.project, &|name| std::env::var(name).ok()) {
            Ok(server) => server,
            Err(problems) => return self.voice.line(Level::Error, "feeds stay as they were: haul.yaml is wrong", None, None, problems),
        };
        if self.feeds.as_ref().is_some_and(|served| served.server == server) {
            return;
        }
        self.close_feeds().await;
        match feeds::start(&self.settings.base, server.clone()).await {
            Ok(feeds) => {
                self.voice.say(
                    Level::Info,
                    match feeds.address() {
                        Some(address) => format!("feeds are served on http://{address}/feeds/"),
                        None => "feeds are served by another process of this project; standing by".to_owned(),
                    },
                );
                self.status.serves(Some(feeds.meter()));
                self.feeds_failed = None;
                self.feeds = Some(Served { feeds, server });
            }
            Err(failure) => {
                let help = failure.help.as_ref().map_or_else(String::new, |help| format!("; {help}"));
                let message = format!("feeds are not served: {failure}{help}");
                // It is tried again every time that files are looked at, and said once.
                if self.feeds_failed.as_ref() != Some(&message) {
                    self.voice.say(Level::Error, &message);
                    self.feeds_failed = Some(message);
                }
            }
        }
    }

    /// Serves no feeds any more.
    pub(super) async fn close_feeds(&mut self) {
        if let Some(served) = self.feeds.take() {
            self.status.serves(None);
            served.feeds.close().await;
        }
    }
}
