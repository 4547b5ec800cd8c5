//! Lines of text on their way into a file.

use std::io::Write;

use super::codec::write_failed;
use crate::failure::Failure;

/// Text gathered before it is handed on.
const BUFFER_BYTES: usize = 64 << 10;

/// Gathers lines and hands them on in large pieces.
pub(super) struct Lines<W> {
    /// The file's path, for errors.
    pub path: String,
    /// The line that is being written, behind those that were not handed on yet.
    pub text: Vec<u8>,
    out: W,
}

impl<W: Write> Lines<W> {
    /// Nothing is written yet.
    pub fn new(path: &str, out: W) -> Self {
        Self { path: path.to_owned(), text: Vec::new(), out }
    }

    /// Ends the line.
    pub fn end_line(&mut self) -> Result<(), Failure> {
        self.text.push(b'\n');
        if self.text.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    /// Hands on what was gathered, and the output.
    pub fn end(mut self) -> Result<W, Failure> {
        self.flush()?;
        Ok(self.out)
    }

    fn flush(&mut self) -> Result<(), Failure> {
        self.out.write_all(&self.text).map_err(|error| write_failed(&self.path, error))?;
        self.text.clear();
        Ok(())
    }
}
