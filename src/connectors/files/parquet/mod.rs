//! Apache Parquet.

mod merge;
mod read;
mod write;

pub(super) use merge::merge;
pub(super) use read::ParquetFile;
pub(super) use write::ParquetWriter;

use std::io::{BufReader, Read};
use std::sync::Arc;

use ::parquet::errors::{ParquetError, Result};
use ::parquet::file::reader::{ChunkReader, Length};
use bytes::Bytes;

use super::store::Ranges;

/// The key of an Arrow field's metadata that names the logical type of a column which Parquet can only hold as text.
const AS_KEY: &str = "haul.as";

/// Bytes of a file, for the Parquet library.
#[derive(Clone)]
struct Pages(Arc<dyn Ranges>);

impl Length for Pages {
    fn len(&self) -> u64 {
        self.0.size()
    }
}

impl ChunkReader for Pages {
    type T = BufReader<From>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        Ok(BufReader::new(From { ranges: Arc::clone(&self.0), at: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        self.0.get(start, length).map_err(|error| ParquetError::External(error.into()))
    }
}

/// Reads on from a place.
struct From {
    ranges: Arc<dyn Ranges>,
    at: u64,
}

impl Read for From {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let length = (into.len() as u64).min(self.ranges.size().saturating_sub(self.at)) as usize;
        into[..length].copy_from_slice(&self.ranges.get(self.at, length)?);
        self.at += length as u64;
        Ok(length)
    }
}

/// What went wrong in the library; a broken connection beneath may pass by itself.
fn failed(doing: &str, path: &str, error: ParquetError) -> crate::failure::Failure {
    match error {
        ParquetError::External(cause) => match cause.downcast::<std::io::Error>() {
            Ok(error) => super::codec::read_failed(path, *error),
            Err(cause) => crate::failure::Failure::permanent(format!("cannot {doing} `{path}`")).cause(cause),
        },
        error => crate::failure::Failure::permanent(format!("cannot {doing} `{path}`")).cause(error),
    }
}
