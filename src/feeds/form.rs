//! Events and notes as clients read them: JSON objects on lines, or server-sent events. Pure.
//!
//! An event has its number as the member `@id`, and `@op` behind it; a note of the feed about itself has `@feed`.

use bytes::Bytes;
use serde_json::{Value, json};

use super::place::{Begun, Place};
use crate::connectors::feed::{Block, Edges};

/// How events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// An object on each line.
    Lines,
    /// Server-sent events.
    Events,
}

impl Form {
    /// Events with their numbers. Amid newest rows, `up_to` is part of the place behind each of them.
    pub(super) fn block(self, block: &Block, up_to: Option<u64>) -> Bytes {
        let mut out = Vec::with_capacity(block.lines.len() * 2);
        for (id, line) in (block.first..).zip(lines(&block.lines)) {
            let mut digits = Vec::with_capacity(20);
            let _ = std::io::Write::write_fmt(&mut digits, format_args!("{id}"));
            if self == Self::Events {
                out.extend_from_slice(b"id: ");
                if let Some(up_to) = up_to {
                    out.extend_from_slice(format!("{up_to}/").as_bytes());
                }
                out.extend_from_slice(&digits);
                out.extend_from_slice(b"\ndata: ");
            }
            out.extend_from_slice(b"{\"@id\":");
            out.extend_from_slice(&digits);
            out.push(b',');
            out.extend_from_slice(line.get(1..).unwrap_or_default());
            out.extend_from_slice(if self == Self::Events { b"\n\n" } else { b"\n" });
        }
        out.into()
    }

    /// A note.
    pub(super) fn note(self, note: &Note) -> Bytes {
        let value = &note.value;
        match (self, note.place) {
            (Self::Lines, _) => format!("{value}\n").into(),
            (Self::Events, Some(place)) => format!("id: {}\nevent: feed\ndata: {value}\n\n", place.text()).into(),
            (Self::Events, None) => format!("event: feed\ndata: {value}\n\n").into(),
        }
    }

    /// What shows that a connection lives: nothing that a reader takes for an event.
    pub(super) fn keep_alive(self) -> Bytes {
        Bytes::from_static(match self {
            Self::Lines => b"\n",
            Self::Events => b":\n\n",
        })
    }

    /// What stands before everything else.
    pub(super) fn opening(self) -> &'static [u8] {
        match self {
            Self::Lines => b"",
            // How long a client waits before it comes again.
            Self::Events => b"retry: 1000\n\n",
        }
    }

    pub(super) fn media_type(self) -> &'static str {
        match self {
            Self::Lines => "application/x-ndjson",
            Self::Events => "text/event-stream",
        }
    }
}

/// The lines of a block, or of its form.
pub(super) fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

/// What a feed says of itself.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Note {
    value: Value,
    /// The place that a client is at with it.
    place: Option<Place>,
}

impl Note {
    /// The JSON object.
    pub(super) fn value(&self) -> &Value {
        &self.value
    }

    /// The place that a client is at with it, when it moves it.
    pub(super) fn place(&self) -> Option<Place> {
        self.place
    }

    /// Where a client begins. `lost` is `null` when nobody knows how many.
    pub(super) fn start(feed: &str, begun: &Begun, edges: &Edges) -> Self {
        let snapshot = matches!(begun.place, Place::Newest { .. });
        let value = json!({
            "@feed": "start", "feed": feed, "identity": edges.identity, "place": begun.place.text(), "snapshot": snapshot,
            "oldest": edges.oldest, "head": edges.head, "lost": begun.lost,
        });
        Self { value, place: Some(begun.place) }
    }

    /// The newest rows are through, and what follows is new.
    pub(super) fn snapshot_end(id: u64) -> Self {
        let place = Place::Behind(id);
        Self { value: json!({ "@feed": "snapshot_end", "place": place.text() }), place: Some(place) }
    }

    /// Events are not kept any more that this client did not get.
    pub(super) fn gap(place: Place, lost: u64) -> Self {
        Self { value: json!({ "@feed": "gap", "place": place.text(), "lost": lost }), place: Some(place) }
    }

    /// A slow client goes on with the newest event.
    pub(super) fn skipped(id: u64, lost: u64) -> Self {
        let place = Place::Behind(id);
        Self { value: json!({ "@feed": "skipped", "place": place.text(), "lost": lost }), place: Some(place) }
    }

    /// A slow client gets the last event of each key up to a number.
    pub(super) fn latest(up_to: u64) -> Self {
        Self { value: json!({ "@feed": "latest_per_key", "up_to": up_to }), place: None }
    }

    /// The connection ends here.
    pub(super) fn end(reason: &str, place: Place) -> Self {
        Self { value: json!({ "@feed": "end", "reason": reason, "place": place.text() }), place: Some(place) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_have_their_numbers_in_every_form() {
        let lines = Bytes::from_static(b"{\"@op\":\"put\",\"a\":1}\n{\"@op\":\"clear\"}\n");
        let block = Block { first: 9, last: 10, lines };
        let check = |form: Form, up_to, expected: &str| assert_eq!(String::from_utf8_lossy(&form.block(&block, up_to)), expected);
        check(Form::Lines, Some(7), "{\"@id\":9,\"@op\":\"put\",\"a\":1}\n{\"@id\":10,\"@op\":\"clear\"}\n");
        check(Form::Events, None, "id: 9\ndata: {\"@id\":9,\"@op\":\"put\",\"a\":1}\n\nid: 10\ndata: {\"@id\":10,\"@op\":\"clear\"}\n\n");
        check(
            Form::Events,
            Some(30),
            "id: 30/9\ndata: {\"@id\":9,\"@op\":\"put\",\"a\":1}\n\nid: 30/10\ndata: {\"@id\":10,\"@op\":\"clear\"}\n\n",
        );
        assert_eq!(String::from_utf8_lossy(&Form::Lines.block(&block.behind(9), None)), "{\"@id\":10,\"@op\":\"clear\"}\n");
        let note = Form::Events.note(&Note::gap(Place::Behind(7), 3));
        assert_eq!(note, "id: 7\nevent: feed\ndata: {\"@feed\":\"gap\",\"place\":\"7\",\"lost\":3}\n\n");
    }
}
