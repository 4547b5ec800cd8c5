//! Bytes on their way in and out: counted, decompressed, compressed, hashed.

use std::io::{self, BufReader, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use xxhash_rust::xxh3::Xxh3;

use super::store::Pending;
use crate::define::pipeline::Compression;
use crate::failure::Failure;

/// Bytes read from a file at a time.
const READ_BUFFER_BYTES: usize = 64 << 10;

/// The compression that a file's ending names.
pub(super) fn by_ending(path: &str) -> Compression {
    if path.ends_with(".gz") {
        Compression::Gzip
    } else if path.ends_with(".zst") {
        Compression::Zstd
    } else {
        Compression::Plain
    }
}

/// Counts the bytes that come out of a reader.
pub(super) struct Counted<R> {
    inner: R,
    count: Arc<AtomicU64>,
}

impl<R> Counted<R> {
    /// The count goes up as bytes are read.
    pub(super) fn new(inner: R, count: &Arc<AtomicU64>) -> Self {
        Self { inner, count: Arc::clone(count) }
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(into)?;
        self.count.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}

/// A file's content, and the count of its bytes as they lie.
pub(in crate::connectors) type Content = (Box<dyn Read + Send>, Arc<AtomicU64>);

/// The content of a compressed file, and the count of its bytes as they lie. Several gzip members or zstd frames one after the other
/// are one content.
pub(in crate::connectors) fn decompress(file: Box<dyn Read + Send>, how: Compression) -> io::Result<Content> {
    let count = Arc::new(AtomicU64::new(0));
    let counted = Counted::new(file, &count);
    let content: Box<dyn Read + Send> = match how {
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(READ_BUFFER_BYTES, counted))),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::new(counted)?),
        Compression::Plain => Box::new(counted),
        Compression::Snappy => return Err(only_inside()),
    };
    Ok((content, count))
}

fn only_inside() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "snappy compresses the inside of Parquet files only")
}

/// A file that is being written: its bytes as they lie are counted and hashed.
pub(super) struct Hashed {
    file: Box<dyn Pending>,
    seal: Seal,
    hash: Xxh3,
    count: Arc<AtomicU64>,
}

/// The size and hash of a finished file.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Seal {
    /// Bytes as they lie.
    pub bytes: u64,
    /// XXH3-128 of them, in hexadecimal.
    pub xxh3: String,
}

impl Hashed {
    /// Nothing is written yet.
    pub(super) fn new(file: Box<dyn Pending>) -> Self {
        Self::counted(file, Arc::default())
    }

    /// The same; the count goes up as bytes are written.
    pub(super) fn counted(file: Box<dyn Pending>, count: Arc<AtomicU64>) -> Self {
        Self { file, seal: Seal::default(), hash: Xxh3::new(), count }
    }

    /// Makes the file durable.
    pub(super) fn finish(self) -> Result<Seal, Failure> {
        self.file.finish()?;
        Ok(Seal { xxh3: format!("{:032x}", self.hash.digest128()), ..self.seal })
    }
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.file.write(bytes)?;
        self.hash.update(&bytes[..length]);
        self.seal.bytes += length as u64;
        self.count.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The seal of what a reader gives.
pub(super) fn seal(mut content: impl Read) -> io::Result<Seal> {
    let mut hash = Xxh3::new();
    let mut buffer = vec![0; READ_BUFFER_BYTES];
    let mut bytes = 0;
    loop {
        let length = content.read(&mut buffer)?;
        if length == 0 {
            return Ok(Seal { bytes, xxh3: format!("{:032x}", hash.digest128()) });
        }
        hash.update(&buffer[..length]);
        bytes += length as u64;
    }
}

/// Compresses text on its way to a file.
pub(super) enum Compressor {
    /// As it is.
    Plain(Hashed),
    /// gzip, level 6.
    Gzip(flate2::write::GzEncoder<Hashed>),
    /// Zstandard, level 3.
    Zstd(zstd::stream::write::Encoder<'static, Hashed>),
}

impl Compressor {
    /// One gzip member or zstd frame over a file.
    pub(super) fn new(file: Hashed, how: Compression) -> io::Result<Self> {
        Ok(match how {
            Compression::Gzip => Self::Gzip(flate2::write::GzEncoder::new(file, flate2::Compression::default())),
            Compression::Zstd => Self::Zstd(zstd::stream::write::Encoder::new(file, 3)?),
            Compression::Plain => Self::Plain(file),
            Compression::Snappy => return Err(only_inside()),
        })
    }

    /// Writes the trailer; the file itself is still to be finished.
    pub(super) fn end(self) -> io::Result<Hashed> {
        match self {
            Self::Plain(file) => Ok(file),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl Write for Compressor {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(file) => file.flush(),
            Self::Gzip(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }
}

/// An error while writing: most often a full disk, and never one that a second try cures by itself.
pub(super) fn write_failed(path: &str, error: io::Error) -> Failure {
    let help = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            "make room, then run again: committed splits are kept"
        }
        _ => "look at the cause, then run again: committed splits are kept",
    };
    Failure::permanent(format!("cannot write `{path}`")).help(help).cause(error)
}

/// An error while reading. A broken connection may pass; bytes that do not decompress will not.
pub(super) fn read_failed(path: &str, error: io::Error) -> Failure {
    let message = format!("cannot read `{path}`");
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => {
            Failure::transient(message).cause(error)
        }
        io::ErrorKind::UnexpectedEof => Failure::permanent(message).help("the file is cut short: copy it again").cause(error),
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => {
            Failure::permanent(message).help("check `compression:`; the bytes are not what its name or the file's ending says").cause(error)
        }
        _ => Failure::permanent(message).cause(error),
    }
}
