//! Answers that wait until there is something, and end then.

use std::time::Duration;

use serde_json::{Value, json};

use super::follow::{Follower, Step, until};
use super::form::{Form, Note, lines};
use super::place::Place;
use crate::failure::Failure;

/// Bytes of events that fill an answer.
const MOST_BYTES: usize = 1 << 20;

/// An answer in the making.
struct Answer {
    events: Vec<u8>,
    count: u64,
    notes: Vec<Value>,
    next: Place,
}

/// Waits for events, and answers with them as JSON: `events`, and in `next` the place behind them.
pub(super) async fn answer(mut follower: Follower, start: Note, limit: u64, wait: Duration) -> Result<Vec<u8>, Failure> {
    let end = until(wait);
    let mut answer = Answer { events: Vec::new(), count: 0, notes: vec![start.value().clone()], next: follower.place() };
    while answer.count < limit && answer.events.len() < MOST_BYTES {
        // What is there already needs no patience.
        let step = if follower.has_more() {
            follower.next().await?
        } else if answer.count > 0 || answer.notes.len() > 1 {
            break;
        } else {
            match tokio::time::timeout_at(end, follower.next()).await {
                Ok(step) => step?,
                Err(_) => break,
            }
        };
        match step {
            Step::Events(shared, up_to) => {
                answer.take(&follower, &Form::Lines.block(shared.block(), None), shared.block().first, up_to, limit)
            }
            Step::Note(note) => {
                answer.notes.push(note.value().clone());
                answer.next = note.place().unwrap_or(answer.next);
            }
            Step::End(_) => break,
        }
    }
    Ok(answer.text())
}

impl Answer {
    fn take(&mut self, follower: &Follower, text: &[u8], first: u64, up_to: Option<u64>, limit: u64) {
        let before = (self.count, self.events.len());
        for (id, line) in (first..).zip(lines(text)) {
            if self.count == limit {
                break;
            }
            if self.count > 0 {
                self.events.push(b',');
            }
            self.events.extend_from_slice(line);
            self.count += 1;
            self.next = up_to.map_or(Place::Behind(id), |up_to| Place::Newest { up_to, id });
        }
        follower.feed.counts.sent(self.count - before.0, self.events.len() - before.1);
    }

    fn text(self) -> Vec<u8> {
        let (next, notes) = (json!(self.next.text()), Value::from(self.notes));
        let mut text = format!("{{\"next\":{next},\"notes\":{notes},\"events\":[").into_bytes();
        text.extend_from_slice(&self.events);
        text.extend_from_slice(b"]}\n");
        text
    }
}
