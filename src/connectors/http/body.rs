//! The body of an answer, from the task that receives it to the thread that reads rows out of it.

use std::io::{self, Cursor, Read};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

use super::api::Answer;
use crate::connectors::files::{Content, decompress};
use crate::define::pipeline::Compression;
use crate::failure::Failure;

/// Pieces of a body that may wait for the reader.
const AHEAD: usize = 8;
/// What gzip begins with; no text in UTF-8 does.
const GZIP: &[u8] = &[0x1f, 0x8b];
/// What Zstandard begins with; neither does any text.
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

type Piece = Result<Bytes, Failure>;

/// The reading end of a body.
pub(super) struct Body {
    pieces: mpsc::Receiver<Piece>,
    piece: Bytes,
}

/// A body to be received, and its reading end.
pub(super) fn body() -> (mpsc::Sender<Piece>, Body) {
    let (sender, pieces) = mpsc::channel(AHEAD);
    (sender, Body { pieces, piece: Bytes::new() })
}

/// Receives a body until its end, its failure, or until nobody wants more. The first piece came already.
pub(super) async fn receive(first: Option<Bytes>, answer: &mut Answer, to: mpsc::Sender<Piece>) {
    let mut next = first.map(Ok);
    while let Some(piece) = next {
        let failed = piece.is_err();
        if to.send(piece).await.is_err() || failed {
            return;
        }
        next = answer.next().await.transpose();
    }
}

/// What a body is compressed with, by its first bytes.
pub(super) fn compression(start: &[u8]) -> Compression {
    match start {
        start if start.starts_with(GZIP) => Compression::Gzip,
        start if start.starts_with(ZSTD) => Compression::Zstd,
        _ => Compression::Plain,
    }
}

impl Read for Body {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                Some(Ok(piece)) => self.piece = piece,
                // All that can happen to a body on its way may pass; who reads it knows this kind for that.
                Some(Err(failure)) => return Err(io::Error::new(io::ErrorKind::ConnectionAborted, failure.to_string())),
                None => return Ok(0),
            }
        }
        let length = into.len().min(self.piece.len());
        into[..length].copy_from_slice(&self.piece[..length]);
        self.piece.advance(length);
        Ok(length)
    }
}

impl Body {
    /// The text of the body, and the count of its bytes as they come. What is compressed says so by its first bytes, whatever its headers say: they
    /// differ on whether a compressed file is the content or its form.
    pub(super) fn content(mut self) -> io::Result<Content> {
        let mut start = Vec::with_capacity(ZSTD.len());
        self.by_ref().take(ZSTD.len() as u64).read_to_end(&mut start)?;
        let how = compression(&start);
        let (content, count) = decompress(Box::new(Read::chain(Cursor::new(start), self)), how)?;
        Ok((Box::new(Whole(content)), count))
    }
}

/// Compressed text that ends too early was cut on its way.
struct Whole<R>(R);

impl<R: Read> Read for Whole<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => io::Error::new(io::ErrorKind::ConnectionAborted, "the compressed answer was cut short"),
            _ => error,
        })
    }
}
