//! NDJSON lines → batches.

use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::connectors::files::codec;
use crate::connectors::files::encoding::utf8;
use crate::connectors::files::look::Sampled;
use crate::connectors::text::{ObjectSample, Rows, RowsOut, Wanted, take};
use crate::data::text::json::members;
use crate::data::{Chunk, Schema};
use crate::failure::Failure;

/// The longest line.
const MOST_LINE_BYTES: u64 = 1 << 30;

/// The lines of one NDJSON file, as rows of some columns.
pub(in crate::connectors) struct NdjsonRows {
    path: String,
    input: BufReader<Box<dyn Read + Send>>,
    /// Every column a line may have; `None` when others are passed over.
    all: Option<Vec<String>>,
    wanted: Vec<Wanted>,
    line: u64,
    text: Vec<u8>,
    /// The line before it.
    last: Vec<u8>,
    count: Arc<AtomicU64>,
    counted: u64,
}

impl NdjsonRows {
    /// `content` is decompressed; `count` counts the file's bytes as they lie.
    pub(in crate::connectors) fn open(path: &str, content: Box<dyn Read + Send>, count: Arc<AtomicU64>) -> Result<Self, Failure> {
        Ok(Self::from_line(1, path, utf8(content, "utf-8", path)?, count))
    }

    /// The part of a file that begins with that line.
    pub(in crate::connectors::files) fn from_line(line: u64, path: &str, content: Box<dyn Read + Send>, count: Arc<AtomicU64>) -> Self {
        let input = BufReader::with_capacity(256 << 10, content);
        let (all, wanted, text, last) = (None, Vec::new(), Vec::new(), Vec::new());
        Self { path: path.to_owned(), input, all, wanted, line: line - 1, text, last, count, counted: 0 }
    }

    /// Says what is read of which columns, and which others a line may have: `None` passes over whatever there is. With `keeps_null`, NULL of a
    /// JSON column is a missing key, and `null` is a value.
    pub(in crate::connectors) fn want(&mut self, all: Option<&Schema>, wanted: &Schema, guessed: &[bool], keeps_null: bool) {
        self.all = all.map(|all| all.columns.iter().map(|column| column.name.clone()).collect());
        self.wanted = Wanted::of(wanted, guessed, keeps_null);
    }

    /// Reads the next line that is not empty into `text`, without its end; `false` at the end of the file.
    fn next_line(&mut self) -> Result<bool, Failure> {
        if !self.text.is_empty() {
            std::mem::swap(&mut self.text, &mut self.last);
        }
        loop {
            self.text.clear();
            let read = self.input.by_ref().take(MOST_LINE_BYTES + 1).read_until(b'\n', &mut self.text);
            if read.map_err(|error| codec::read_failed(&self.path, error))? == 0 {
                return Ok(false);
            }
            self.line += 1;
            if self.text.len() as u64 > MOST_LINE_BYTES {
                return Err(Failure::permanent(format!("{}:{}: the line is longer than {MOST_LINE_BYTES} bytes", self.path, self.line)));
            }
            while self.text.last().is_some_and(u8::is_ascii_whitespace) {
                self.text.pop();
            }
            if !self.text.is_empty() {
                return Ok(true);
            }
        }
    }

    /// The last line that was read to its end, once there are no more.
    pub(in crate::connectors) fn last_line(&self) -> &[u8] {
        &self.last
    }

    /// Adds up to `most` lines to the sample.
    pub(in crate::connectors) fn sample(&mut self, sample: &mut ObjectSample, most: usize) -> Result<Sampled, Failure> {
        let mut seen = Sampled::default();
        while (seen.rows as usize) < most && self.next_line()? {
            if let Ok(text) = std::str::from_utf8(&self.text) {
                // A broken line is left for the read to report.
                let _ = members(text, |key, value| {
                    sample.see(&key, value);
                    Ok(())
                });
            }
            seen.rows += 1;
            seen.bytes += self.text.len() as u64 + 1;
        }
        Ok(seen)
    }
}

impl Rows for NdjsonRows {
    fn fill(&mut self, out: &mut RowsOut) -> Result<Option<Chunk>, Failure> {
        while !out.is_full() && self.next_line()? {
            let Ok(text) = std::str::from_utf8(&self.text) else {
                out.reject(
                    format_args!("{}:{}", self.path, self.line),
                    "the line is not UTF-8".to_owned(),
                    &String::from_utf8_lossy(&self.text),
                );
                continue;
            };
            take(text, format_args!("{}:{}", self.path, self.line), self.all.as_deref(), &self.wanted, out);
        }
        let total = self.count.load(Ordering::Relaxed);
        let bytes = total - std::mem::replace(&mut self.counted, total);
        out.take(bytes)
    }
}
