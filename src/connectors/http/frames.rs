//! A body without end → its rows: lines of NDJSON, or events as the HTML standard has them (server-sent events). Pure.

use std::time::Duration;

use crate::failure::Failure;

/// The longest line or event.
const MOST_BYTES: usize = 16 << 20;

/// One row of a feed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Item {
    /// A JSON object, as it came; bytes that are no UTF-8 are replaced.
    pub text: String,
    /// The event's id, when it has one.
    pub id: Option<String>,
}

/// Cuts bytes into rows.
#[derive(Default)]
pub(super) struct Frames {
    events: bool,
    bytes: Vec<u8>,
    /// How much of the bytes is cut already.
    cut: usize,
    /// How much of the rest was looked through.
    looked: usize,
    /// The event in the making.
    data: Option<String>,
    /// The last id, which holds for later events as well.
    id: Option<String>,
    /// How long the server wants to be left alone after a break.
    pub retry: Option<Duration>,
}

impl Frames {
    /// Lines, or events.
    pub(super) fn new(events: bool) -> Self {
        Self { events, ..Self::default() }
    }

    /// Takes bytes as they come.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.bytes.drain(..self.cut);
        self.cut = 0;
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() + self.data.as_ref().map_or(0, String::len) > MOST_BYTES + bytes.len() {
            return Err(Failure::permanent(format!("a row of the feed is larger than {MOST_BYTES} bytes")));
        }
        Ok(())
    }

    /// The next row that is whole.
    pub(super) fn next(&mut self) -> Option<Item> {
        while let Some(line) = self.line() {
            if !self.events {
                if !line.trim().is_empty() {
                    return Some(Item { text: line, id: None });
                }
            } else if line.is_empty() {
                if let Some(text) = self.data.take() {
                    return Some(Item { text, id: self.id.clone() });
                }
            } else {
                self.field(&line);
            }
        }
        None
    }

    fn field(&mut self, line: &str) {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()).filter(|id| !id.is_empty()),
            "retry" => self.retry = value.parse().ok().map(Duration::from_millis).or(self.retry),
            // Comments keep the connection alive; names of events mean nothing here.
            _ => {}
        }
    }

    /// The next whole line, without its end: LF, CR LF, or in events CR alone.
    fn line(&mut self) -> Option<String> {
        let rest = &self.bytes[self.cut..];
        let events = self.events;
        let Some(found) = rest[self.looked..].iter().position(|byte| *byte == b'\n' || (events && *byte == b'\r')) else {
            self.looked = rest.len();
            return None;
        };
        let end = self.looked + found;
        // Whether a CR has its LF is only known by the byte behind it.
        let behind = if rest[end] == b'\r' { rest.get(end + 1).map(|byte| usize::from(*byte == b'\n')) } else { Some(0) };
        let Some(behind) = behind else {
            self.looked = end;
            return None;
        };
        let line = String::from_utf8_lossy(rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end])).into_owned();
        self.cut += end + 1 + behind;
        self.looked = 0;
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However the bytes are cut on their way, the rows are the same.
    fn check(events: bool, text: &str, expected: &[(&str, Option<&str>)]) {
        for size in 1..=text.len().min(40) {
            let mut frames = Frames::new(events);
            let mut found = Vec::new();
            for part in text.as_bytes().chunks(size) {
                frames.push(part).expect("room");
                found.extend(std::iter::from_fn(|| frames.next()));
            }
            let expected: Vec<Item> =
                expected.iter().map(|(text, id)| Item { text: (*text).to_owned(), id: id.map(str::to_owned) }).collect();
            assert_eq!(found, expected, "{text:?} in pieces of {size}");
        }
    }

    #[test]
    fn lines_are_whole() {
        check(false, "{\"a\":1}\r\n\n  \n{\"é\":2}\n{\"cut", &[("{\"a\":1}", None), ("{\"é\":2}", None)]);
    }

    #[test]
    fn events_are_those_of_the_standard() {
        check(
            true,
            ": hello\n\nid: 7\nevent: x\ndata: {\"a\":\ndata: 1}\n\ndata:b\n\nid\ndata: c\n\ndata: never ended",
            &[("{\"a\":\n1}", Some("7")), ("b", Some("7")), ("c", None)],
        );
        check(true, "data: a\r\rdata: b\r\n\r\nretry: 5\n\n", &[("a", None), ("b", None)]);
        let mut frames = Frames::new(true);
        frames.push(b"retry: 250\n\nretry: soon\n").expect("room");
        assert_eq!((frames.next(), frames.retry), (None, Some(Duration::from_millis(250))));
    }

    #[test]
    fn a_row_without_end_is_refused() {
        let mut frames = Frames::new(false);
        let piece = vec![b'x'; 1 << 20];
        assert!((0..18).any(|_| frames.push(&piece).is_err()));
    }
}
