//! A large value, piece by piece, as commands that make it again. No piece is much larger than asked for, unless a single element is.

use std::sync::Arc;

use redis::Value as Reply;

use super::value::Piece;
use crate::connectors::redis::reply::{bytes, good, integer, items, text};
use crate::connectors::redis::rows::behind;
use crate::connectors::redis::{Command, Server};
use crate::define::pipeline::KeyType;
use crate::failure::Failure;

/// Pending entries of a stream's group that are read at a time.
const PENDING: i64 = 1000;

/// A value that is being read.
pub(super) struct Pieces {
    server: Arc<Server>,
    key: Vec<u8>,
    ty: KeyType,
    /// Elements, or bytes of a string, that a step reads.
    step: i64,
    next: Next,
    first: bool,
}

/// Where the value goes on.
enum Next {
    /// At this byte, element, or cursor of a scan.
    At(u64),
    /// After this entry of a stream.
    After(Vec<u8>),
    /// Nothing is left, or the key is gone.
    Nothing,
}

impl Pieces {
    /// Begins to read a key of which `bytes` are in memory, in pieces of about `piece` bytes.
    pub(super) async fn begin(server: Arc<Server>, key: Vec<u8>, ty: KeyType, bytes: u64, piece: usize) -> Result<Self, Failure> {
        let piece = i64::try_from(piece).unwrap_or(i64::MAX);
        let step = match ty {
            KeyType::String => piece,
            _ => {
                let length = integer(ask(&server, length(ty, &key)).await?)?;
                let each = (i64::try_from(bytes).unwrap_or(i64::MAX) / length.max(1)).max(1);
                (piece / each).clamp(1, 100_000)
            }
        };
        let next = if ty == KeyType::Stream { Next::After(Vec::new()) } else { Next::At(0) };
        Ok(Self { server, key, ty, step, next, first: true })
    }

    /// The next piece; `None` after the last, and when the key is gone before the first.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        let mut piece = Piece::default();
        let last = match std::mem::replace(&mut self.next, Next::Nothing) {
            Next::Nothing => return Ok(None),
            Next::After(entry) => self.entries(entry, &mut piece).await?,
            Next::At(at) => match self.ty {
                KeyType::String => self.bytes(at, &mut piece).await?,
                KeyType::List => self.elements(at, &mut piece).await?,
                _ => self.members(at, &mut piece).await?,
            },
        };
        match last {
            None => Ok(None),
            Some(last) => Ok(Some(piece.value(std::mem::replace(&mut self.first, false), last))),
        }
    }

    /// A stretch of a string. Whether it was the last; `None` when there is no key.
    async fn bytes(&mut self, at: u64, piece: &mut Piece) -> Result<Option<bool>, Failure> {
        let end = at.saturating_add(self.step.unsigned_abs());
        let commands = [
            Command::new("GETRANGE").key(&self.key).arg(at).arg(end - 1),
            Command::new("STRLEN").key(&self.key),
            Command::new("EXISTS").key(&self.key),
        ];
        let mut replies = self.server.call(&commands).await?.into_iter();
        let mut next = || replies.next().unwrap_or_default();
        let stretch = bytes(next())?.unwrap_or_default();
        let length = integer(next())?.unsigned_abs();
        if integer(next())? == 0 {
            return self.gone();
        }
        piece.command(if at == 0 { "SET" } else { "APPEND" }, [stretch.as_slice()]);
        if end < length {
            self.next = Next::At(end);
        }
        Ok(Some(end >= length))
    }

    async fn elements(&mut self, at: u64, piece: &mut Piece) -> Result<Option<bool>, Failure> {
        let end = at.saturating_add(self.step.unsigned_abs());
        let commands = [Command::new("LRANGE").key(&self.key).arg(at).arg(end - 1), length(self.ty, &self.key)];
        let mut replies = self.server.call(&commands).await?.into_iter();
        let mut next = || replies.next().unwrap_or_default();
        let elements = words(items(next())?)?;
        let length = integer(next())?.unsigned_abs();
        if length == 0 || (elements.is_empty() && at == 0) {
            return self.gone();
        }
        piece.many("RPUSH", &elements, 1);
        if end < length {
            self.next = Next::At(end);
        }
        Ok(Some(end >= length))
    }

    /// Members of a set, a sorted set or a hash, as a scan gives them: some may come twice, which changes nothing.
    async fn members(&mut self, cursor: u64, piece: &mut Piece) -> Result<Option<bool>, Failure> {
        let (scan, add, step) = match self.ty {
            KeyType::Set => ("SSCAN", "SADD", 1),
            KeyType::SortedSet => ("ZSCAN", "ZADD", 2),
            _ => ("HSCAN", "HSET", 2),
        };
        let command = Command::new(scan).key(&self.key).arg(cursor).arg("COUNT").arg(self.step);
        // A scan ends where the key goes away, as if it had seen everything.
        let mut replies = self.server.call(&[command, length(self.ty, &self.key)]).await?.into_iter();
        let mut next = || replies.next().unwrap_or_default();
        let mut page = items(next())?.into_iter();
        let is_gone = integer(next())? == 0;
        let cursor = integer_text(page.next().unwrap_or_default())?;
        let mut members = words(items(page.next().unwrap_or_default())?)?;
        if self.ty == KeyType::SortedSet {
            // A member with its score is read; a score with its member is written.
            members.chunks_exact_mut(2).for_each(|pair| pair.swap(0, 1));
        }
        if is_gone || (members.is_empty() && cursor == 0 && self.first) {
            return self.gone();
        }
        piece.many(add, &members, step);
        if cursor != 0 {
            self.next = Next::At(cursor);
        }
        Ok(Some(cursor == 0))
    }

    /// Entries of a stream, then what else it is: its groups, their consumers and pending entries.
    async fn entries(&mut self, after: Vec<u8>, piece: &mut Piece) -> Result<Option<bool>, Failure> {
        let from = if after.is_empty() { "-".to_owned() } else { behind(&String::from_utf8_lossy(&after)) };
        let command = Command::new("XRANGE").key(&self.key).arg(from).arg("+").arg("COUNT").arg(self.step);
        let entries = items(ask(&self.server, command).await?)?;
        let mut last = None;
        for entry in entries {
            let mut entry = items(entry)?.into_iter();
            let id = bytes(entry.next().unwrap_or_default())?.unwrap_or_default();
            let fields = words(items(entry.next().unwrap_or_default())?)?;
            piece.command("XADD", std::iter::once(id.as_slice()).chain(fields.iter().map(Vec::as_slice)).collect::<Vec<_>>());
            last = Some(id);
        }
        match last {
            Some(id) => {
                self.next = Next::After(id);
                Ok(Some(false))
            }
            None => match self.rest_of_stream(piece).await? {
                true => Ok(Some(true)),
                false => self.gone(),
            },
        }
    }

    /// The last id, the counters and the groups. False when the key is gone.
    async fn rest_of_stream(&self, piece: &mut Piece) -> Result<bool, Failure> {
        let info = Fields::read(match ask(&self.server, Command::new("XINFO STREAM").key(&self.key)).await {
            Ok(info) => info,
            Err(failure) if failure.message.contains("no such key") => return Ok(false),
            Err(failure) => return Err(failure),
        })?;
        let last = info.bytes("last-generated-id")?;
        if self.first {
            // A stream without entries begins with one that is dropped again.
            piece.command("XADD", [&b"MAXLEN"[..], b"0", b"0-1", b"x", b"x"]);
        }
        let mut words = vec![last];
        if let (Ok(added), Ok(deleted)) = (info.bytes("entries-added"), info.bytes("max-deleted-entry-id")) {
            words.extend([b"ENTRIESADDED".to_vec(), added, b"MAXDELETEDID".to_vec(), deleted]);
        }
        piece.command("XSETID", words.iter().map(Vec::as_slice));
        for group in items(ask(&self.server, Command::new("XINFO GROUPS").key(&self.key)).await?)? {
            self.group(&Fields::read(group)?, piece).await?;
        }
        Ok(true)
    }

    async fn group(&self, group: &Fields, piece: &mut Piece) -> Result<(), Failure> {
        let name = group.bytes("name")?;
        let delivered = group.bytes("last-delivered-id")?;
        let mut words = vec![name.clone(), delivered];
        if let Ok(read) = group.bytes("entries-read") {
            words.extend([b"ENTRIESREAD".to_vec(), read]);
        }
        piece.command("XGROUP CREATE", words.iter().map(Vec::as_slice));
        for consumer in items(ask(&self.server, Command::new("XINFO CONSUMERS").key(&self.key).arg(&name)).await?)? {
            let consumer = Fields::read(consumer)?.bytes("name")?;
            piece.command("XGROUP CREATECONSUMER", [name.as_slice(), &consumer]);
        }
        let mut from = "-".to_owned();
        loop {
            let command = Command::new("XPENDING").key(&self.key).arg(&name).arg(from).arg("+").arg(PENDING);
            let pending = items(ask(&self.server, command).await?)?;
            let Some(Ok(entry)) = pending.last().cloned().map(items) else { return Ok(()) };
            from = behind(&text(entry.into_iter().next().unwrap_or_default())?);
            for entry in pending {
                let mut entry = words_of_pending(entry)?.into_iter();
                let mut next = || entry.next().unwrap_or_default();
                let (id, consumer, idle, count) = (next(), next(), next(), next());
                // Without the message itself, a group that still waits for a deleted one keeps waiting for it.
                let words = [&name[..], &consumer, b"0", &id, b"IDLE", &idle, b"RETRYCOUNT", &count, b"FORCE", b"JUSTID"];
                piece.command("XCLAIM", words);
            }
        }
    }

    fn gone(&self) -> Result<Option<bool>, Failure> {
        if self.first {
            return Ok(None);
        }
        Err(Failure::transient(format!("the key {} went away while it was read in pieces", super::shown(&self.key))))
    }
}

/// The fields of an answer of `XINFO`.
struct Fields(Vec<(String, Reply)>);

impl Fields {
    fn read(reply: Reply) -> Result<Self, Failure> {
        let mut fields = Vec::new();
        let mut rest = items(reply)?.into_iter();
        while let (Some(name), Some(value)) = (rest.next(), rest.next()) {
            fields.push((text(name)?, value));
        }
        Ok(Self(fields))
    }

    fn bytes(&self, name: &str) -> Result<Vec<u8>, Failure> {
        let value = self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        match value {
            Some(value @ (Reply::Int(_) | Reply::BulkString(_) | Reply::SimpleString(_))) => word(value),
            _ => Err(Failure::permanent(format!("the server does not tell the `{name}` of a stream"))),
        }
    }
}

fn words_of_pending(entry: Reply) -> Result<Vec<Vec<u8>>, Failure> {
    words(items(entry)?)
}

/// The command that asks how many elements a key has: none when it is not there.
fn length(ty: KeyType, key: &[u8]) -> Command {
    let name = match ty {
        KeyType::String => "STRLEN",
        KeyType::List => "LLEN",
        KeyType::Set => "SCARD",
        KeyType::SortedSet => "ZCARD",
        KeyType::Hash => "HLEN",
        KeyType::Stream => "XLEN",
    };
    Command::new(name).key(key)
}

async fn ask(server: &Server, command: Command) -> Result<Reply, Failure> {
    let reply = server.call(&[command]).await?.pop().unwrap_or_default();
    good(reply)
}

/// The bytes of every item.
pub(super) fn words(replies: Vec<Reply>) -> Result<Vec<Vec<u8>>, Failure> {
    replies.into_iter().map(word).collect()
}

fn word(reply: Reply) -> Result<Vec<u8>, Failure> {
    match reply {
        Reply::Int(number) => Ok(number.to_string().into_bytes()),
        Reply::Double(number) => Ok(number.to_string().into_bytes()),
        other => Ok(bytes(other)?.unwrap_or_default()),
    }
}

/// A cursor: a number of 64 bits without a sign, as text.
pub(super) fn integer_text(reply: Reply) -> Result<u64, Failure> {
    text(reply)?.parse().map_err(|_| Failure::permanent("the server gave a cursor that is no number"))
}
