//! An answer that goes on: lines, or server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::stream::unfold;

use super::follow::{Follower, Step};
use super::form::{Form, Note};

/// The body of an answer.
pub(super) fn body(follower: Follower, form: Form, start: &Note, keep_alive: Duration) -> Body {
    let first = [form.opening(), &form.note(start)].concat();
    let going = Going { follower, form, keep_alive, first: Some(first.into()), over: false };
    Body::from_stream(unfold(going, |mut going| async {
        let piece = going.next().await?;
        Some((Ok::<Bytes, Infallible>(piece), going))
    }))
}

struct Going {
    follower: Follower,
    form: Form,
    keep_alive: Duration,
    first: Option<Bytes>,
    over: bool,
}

impl Going {
    /// The next piece of the answer; `None` at its end.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        if self.over {
            return None;
        }
        let step = match tokio::time::timeout(self.keep_alive, self.follower.next()).await {
            Err(_) => return Some(self.form.keep_alive()),
            Ok(Ok(step)) => step,
            // The connection breaks off, and the client comes again.
            Ok(Err(_)) => return None,
        };
        Some(match step {
            Step::Events(shared, up_to) => {
                let piece = match up_to {
                    None => shared.form(self.form),
                    up_to => self.form.block(shared.block(), up_to),
                };
                let block = shared.block();
                self.follower.feed.counts.sent(block.last - block.first + 1, piece.len());
                piece
            }
            Step::Note(note) => self.form.note(&note),
            Step::End(note) => {
                self.over = true;
                self.form.note(&note)
            }
        })
    }
}
