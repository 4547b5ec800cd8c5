//! The log as the server streams it; see the page "Streaming Replication Protocol" of PostgreSQL's manual.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::place;
use super::slot::Slot;
use super::wire::{Wire, broken, malformed};
use crate::clock;
use crate::connectors::sql::postgres::session::Pool;
use crate::failure::Failure;

/// The longest that the server may take to begin.
const START: Duration = Duration::from_secs(30);

/// From 1970 to 2000, from which PostgreSQL counts.
pub(super) const EPOCH_US: i64 = 946_684_800_000_000;

/// What the server says.
pub(super) enum Event {
    /// A transaction begins, which ended with the commit record at `end`.
    Begin { end: u64, xid: u32 },
    /// Everything of a transaction has been said; `after` is the place behind its commit record.
    Commit { after: u64, at_us: i64 },
    /// A message of pgoutput.
    Change(Bytes),
    /// Everything that was committed before this place has been said. Who `asks` waits for [`Log::confirm`].
    Alive { until: u64, asks: bool },
}

/// A running stream of the log.
pub(super) struct Log {
    wire: Wire,
    confirmed: u64,
}

impl Log {
    /// Begins behind everything that was committed before `lsn`.
    pub(super) async fn start(pool: &Pool, slot: &Slot, lsn: u64) -> Result<Self, Failure> {
        let started = tokio::time::timeout(START, Self::ask(pool, slot, lsn)).await;
        let late = |_| Failure::transient(format!("no answer within {} s", START.as_secs()));
        let started = started.map_err(late).and_then(|started| started);
        started.map_err(|failure| failure.during(format!("starting to stream the slot {}", slot.name)))
    }

    async fn ask(pool: &Pool, slot: &Slot, lsn: u64) -> Result<Self, Failure> {
        let mut wire = Wire::connect(pool).await?;
        let (name, from) = (&slot.name, place::print(lsn));
        wire.query(&format!("START_REPLICATION SLOT {name} LOGICAL {from} (proto_version '1', publication_names '{name}', binary 'true')"))
            .await?;
        while wire.message().await?.0 != b'W' {}
        let mut log = Self { wire, confirmed: lsn };
        log.confirm(lsn).await?;
        Ok(log)
    }

    /// The next message. May be dropped before it answers: it writes nothing, of which a half could stay on the wire.
    pub(super) async fn next(&mut self) -> Result<Event, Failure> {
        loop {
            let (tag, mut body) = self.wire.message().await?;
            match tag {
                b'd' if body.is_empty() => return Err(malformed()),
                b'd' => match body.get_u8() {
                    b'w' if body.len() > 24 => {
                        body.advance(24);
                        return event(body);
                    }
                    b'k' if body.len() >= 17 => {
                        let until = body.get_u64();
                        return Ok(Event::Alive { until, asks: body[8] == 1 });
                    }
                    _ => return Err(malformed()),
                },
                b'c' | b'C' => return Err(Failure::transient("the server ended the stream of its log")),
                _ => {}
            }
        }
    }

    /// Tells the server that it is being listened to, and that the log before a place is not needed any more.
    pub(super) async fn confirm(&mut self, lsn: u64) -> Result<(), Failure> {
        self.confirmed = self.confirmed.max(lsn);
        let mut status = BytesMut::with_capacity(34);
        status.put_u8(b'r');
        for _ in ["written", "flushed", "applied"] {
            status.put_u64(self.confirmed);
        }
        status.put_i64(clock::now_ms() * 1000 - EPOCH_US);
        status.put_u8(0);
        self.wire.copy_data(&status).await
    }
}

/// The bounds of a transaction are read here, everything else by `pgoutput`.
fn event(mut body: Bytes) -> Result<Event, Failure> {
    match body[0] {
        b'B' if body.len() >= 21 => {
            body.advance(1);
            let end = body.get_u64();
            body.advance(8);
            Ok(Event::Begin { end, xid: body.get_u32() })
        }
        b'C' if body.len() >= 26 => {
            body.advance(1 + 1 + 8);
            Ok(Event::Commit { after: body.get_u64(), at_us: body.get_i64() })
        }
        b'B' | b'C' => Err(broken("a message of logical decoding is cut off")),
        _ => Ok(Event::Change(body)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_of_transactions_are_read() {
        let begin = [&b"B"[..], &7_u64.to_be_bytes(), &1_u64.to_be_bytes(), &9_u32.to_be_bytes()].concat();
        let commit = [&b"C\0"[..], &7_u64.to_be_bytes(), &8_u64.to_be_bytes(), &5_u64.to_be_bytes()].concat();
        assert!(matches!(event(Bytes::from(begin.clone())), Ok(Event::Begin { end: 7, xid: 9 })));
        assert!(matches!(event(Bytes::from(commit.clone())), Ok(Event::Commit { after: 8, at_us: 5 })));
        for (message, length) in [(&begin, 20), (&commit, 25)] {
            assert!(event(Bytes::copy_from_slice(&message[..length])).is_err());
        }
        assert!(matches!(event(Bytes::from_static(b"I")), Ok(Event::Change(_))));
    }
}
