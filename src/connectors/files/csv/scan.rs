//! Bytes → records and their fields, without copying what needs no unescaping.
//!
//! This is our own because a reader of values needs to know whether a field was quoted (quoted text is never NULL), where its line is, and
//! the raw record; the records and fields are those of `csv-core`, which a test compares with. Records end at LF, CR or CRLF outside of
//! quotes, and at the end of the file.

use std::io::{self, Read};

/// Bytes asked of the input at a time; the buffer grows beyond only for a longer record.
const BUFFER_BYTES: usize = 1 << 20;
/// The longest record. A quote that is never closed would otherwise swallow any file into memory.
pub(super) const MOST_RECORD_BYTES: usize = 1 << 30;

/// The special characters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Marks {
    pub delimiter: u8,
    pub quote: Option<u8>,
    pub escape: Option<u8>,
}

/// One field: where its content is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    start: usize,
    end: usize,
    /// Whether it stood in quotes.
    pub quoted: bool,
    /// The content had to be unescaped, and is in the scratch buffer.
    unescaped: bool,
}

/// One record: where it is in the buffer, and its first line in the file, from 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    pub line: u64,
    start: usize,
    end: usize,
    /// What is wrong with its quotes, if anything.
    pub fault: Option<&'static str>,
}

/// Splits an input into records.
pub(super) struct Scanner<R> {
    input: R,
    marks: Marks,
    /// Bytes that end a run of plain text.
    special: [bool; 256],
    buffer: Vec<u8>,
    at: usize,
    filled: usize,
    ended: bool,
    /// Bytes of the input before the buffer's.
    before: u64,
    line: u64,
    fields: Vec<Field>,
    scratch: Vec<u8>,
}

/// What one pass over the buffer found.
enum Pass {
    /// A record; the next one begins there, so many lines later.
    Record { record: Record, next: usize, lines: u64 },
    /// The record goes on beyond the buffer.
    Short,
}

impl<R: Read> Scanner<R> {
    /// Nothing is read yet; the input begins with that line of its file.
    pub(super) fn new(input: R, marks: Marks, line: u64) -> Self {
        let mut special = [false; 256];
        for byte in [marks.delimiter, b'\n', b'\r'] {
            special[usize::from(byte)] = true;
        }
        Self {
            input,
            marks,
            special,
            buffer: Vec::new(),
            at: 0,
            filled: 0,
            ended: false,
            before: 0,
            line,
            fields: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// The next record; `None` at the end. Its fields are there until the next call.
    pub(super) fn next(&mut self) -> io::Result<Option<Record>> {
        loop {
            if self.at < self.filled
                && let Pass::Record { record, next, lines } = self.pass()
            {
                self.at = next;
                self.line += lines;
                return Ok(Some(record));
            }
            if self.ended {
                return Ok(None);
            }
            self.fill()?;
        }
    }

    /// Goes back to the beginning of a file; `false` when that has left the buffer.
    pub(super) fn rewind(&mut self) -> bool {
        if self.before == 0 {
            (self.at, self.line) = (0, 1);
        }
        self.before == 0
    }

    /// Where the next record begins: its place in the input, and its line. `None` when there is none.
    pub(super) fn place(&mut self) -> io::Result<Option<(u64, u64)>> {
        if self.at == self.filled && !self.ended {
            self.fill()?;
        }
        Ok((self.at < self.filled).then_some((self.before + self.at as u64, self.line)))
    }

    /// The fields of the last record.
    pub(super) fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// The bytes of the last record, without its line end.
    pub(super) fn raw(&self, record: &Record) -> &[u8] {
        &self.buffer[record.start..record.end]
    }

    /// The text of a field of the last record, whose own text has been found to be UTF-8: nothing is checked again but what was unescaped.
    #[inline]
    pub(super) fn text<'a>(&'a self, record: &Record, record_text: &'a str, field: &Field) -> &'a str {
        if field.unescaped {
            // Escapes are ASCII characters: without them the text is still UTF-8.
            return std::str::from_utf8(self.content(field)).unwrap_or_default();
        }
        // Fields are cut at ASCII characters.
        record_text.get(field.start - record.start..field.end - record.start).unwrap_or_default()
    }

    /// The content of a field of the last record.
    #[inline]
    pub(super) fn content(&self, field: &Field) -> &[u8] {
        if field.unescaped { &self.scratch[field.start..field.end] } else { &self.buffer[field.start..field.end] }
    }

    fn fill(&mut self) -> io::Result<()> {
        self.buffer.copy_within(self.at..self.filled, 0);
        self.filled -= self.at;
        self.before += self.at as u64;
        self.at = 0;
        if self.filled == self.buffer.len() {
            if self.filled >= MOST_RECORD_BYTES {
                let text = format!("the record at line {} is longer than {MOST_RECORD_BYTES} bytes; is a quote never closed?", self.line);
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            let mut larger = vec![0; (self.buffer.len() * 2).max(BUFFER_BYTES)];
            larger[..self.filled].copy_from_slice(&self.buffer[..self.filled]);
            self.buffer = larger;
        }
        while self.filled < self.buffer.len() {
            match self.input.read(&mut self.buffer[self.filled..]) {
                Ok(0) => {
                    self.ended = true;
                    break;
                }
                Ok(length) => self.filled += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn pass(&mut self) -> Pass {
        self.fields.clear();
        self.scratch.clear();
        let start = self.at;
        let mut at = start;
        let mut lines = 1;
        let mut fault = None;
        let bytes = &self.buffer[..self.filled];
        loop {
            let quoted = self.marks.quote.is_some() && bytes.get(at).copied() == self.marks.quote;
            if quoted {
                let Some((field, after)) = quoted_field(bytes, at + 1, self.marks, self.ended, &mut self.scratch, &mut fault) else {
                    return Pass::Short;
                };
                lines += bytes[at..after].iter().filter(|byte| **byte == b'\n').count() as u64;
                at = after;
                self.fields.push(field);
                if bytes.get(at).is_some_and(|byte| !self.special[usize::from(*byte)]) {
                    fault = Some("there is text after a closing quote");
                    at += plain_length(&bytes[at..], &self.special);
                }
            } else {
                let length = plain_length(&bytes[at..], &self.special);
                self.fields.push(Field { start: at, end: at + length, quoted: false, unescaped: false });
                at += length;
            }
            let Some(end) = bytes.get(at).copied() else {
                if !self.ended {
                    return Pass::Short;
                }
                return Pass::Record { record: Record { line: self.line, start, end: at, fault }, next: at, lines };
            };
            if end == self.marks.delimiter {
                at += 1;
                continue;
            }
            let record = Record { line: self.line, start, end: at, fault };
            let next = match (end, bytes.get(at + 1)) {
                (b'\r', Some(b'\n')) => at + 2,
                (b'\r', None) if !self.ended => return Pass::Short,
                _ => at + 1,
            };
            return Pass::Record { record, next, lines };
        }
    }
}

#[inline]
fn plain_length(bytes: &[u8], special: &[bool; 256]) -> usize {
    bytes.iter().position(|byte| special[usize::from(*byte)]).unwrap_or(bytes.len())
}

/// Reads a quoted field whose content starts at `start`: the field, and the place after the closing quote. `None` when more of the file is
/// needed to tell.
fn quoted_field(
    bytes: &[u8],
    start: usize,
    marks: Marks,
    ended: bool,
    scratch: &mut Vec<u8>,
    fault: &mut Option<&'static str>,
) -> Option<(Field, usize)> {
    let quote = marks.quote?;
    let unescaped_start = scratch.len();
    let mut unescaped = false;
    let mut from = start;
    let mut at = start;
    let closed = loop {
        let Some(byte) = bytes.get(at).copied() else {
            if !ended {
                return None;
            }
            *fault = Some("a quote is never closed");
            break false;
        };
        let next = bytes.get(at + 1).copied();
        if next.is_none() && !ended {
            return None;
        }
        let escapes = match marks.escape {
            Some(escape) => byte == escape && (next == Some(quote) || next == Some(escape)),
            None => byte == quote && next == Some(quote),
        };
        if escapes {
            scratch.extend_from_slice(&bytes[from..at]);
            unescaped = true;
            from = at + 1;
            at += 2;
        } else if byte == quote {
            break true;
        } else {
            at += 1;
        }
    };
    let after = if closed { at + 1 } else { at };
    let field = if unescaped {
        scratch.extend_from_slice(&bytes[from..at]);
        Field { start: unescaped_start, end: scratch.len(), quoted: true, unescaped }
    } else {
        Field { start, end: at, quoted: true, unescaped }
    };
    Some((field, after))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Gives its bytes in pieces of one size, so that records meet the ends of the buffer.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let length = self.0.len().min(into.len()).min(7);
            into[..length].copy_from_slice(&self.0[..length]);
            self.0 = &self.0[length..];
            Ok(length)
        }
    }

    fn ours(text: &[u8], marks: Marks) -> Vec<Vec<Vec<u8>>> {
        let mut scanner = Scanner::new(Slow(text), marks, 1);
        let mut records = Vec::new();
        while let Some(record) = scanner.next().expect("bytes") {
            if record.fault.is_some() {
                return Vec::new();
            }
            let fields: Vec<Vec<u8>> = scanner.fields().iter().map(|field| scanner.content(field).to_vec()).collect();
            if !(fields.len() == 1 && scanner.raw(&record).is_empty()) {
                records.push(fields);
            }
        }
        records
    }

    fn theirs(text: &[u8]) -> Vec<Vec<Vec<u8>>> {
        let mut reader = csv_core::Reader::new();
        let (mut output, mut ends) = (vec![0; text.len() + 16], vec![0; text.len() + 16]);
        let (mut at, mut out, mut fields, mut records) = (0, 0, 0, Vec::new());
        loop {
            let (result, read, written, ended) = reader.read_record(&text[at..], &mut output[out..], &mut ends[fields..]);
            (at, out, fields) = (at + read, out + written, fields + ended);
            match result {
                csv_core::ReadRecordResult::Record => {
                    let starts = std::iter::once(0).chain(ends.iter().copied());
                    records.push(starts.zip(&ends).take(fields).map(|(start, end)| output[start..*end].to_vec()).collect());
                    (out, fields) = (0, 0);
                }
                csv_core::ReadRecordResult::End => return records,
                csv_core::ReadRecordResult::InputEmpty => {}
                other => panic!("{other:?}"),
            }
        }
    }

    const COMMAS: Marks = Marks { delimiter: b',', quote: Some(b'"'), escape: None };

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn records_are_those_of_csv_core(text in "([a,\"\r\n]|\"[a,\r\n]*(\"\"[a,\n]*)*\"[,\n]){0,40}") {
            let found = ours(text.as_bytes(), COMMAS);
            // Broken quotes are refused here, and repaired there.
            if !found.is_empty() {
                prop_assert_eq!(found, theirs(text.as_bytes()));
            }
        }
    }

    #[test]
    fn lines_quotes_and_escapes() {
        let text = b"a,\"b\nc\"\r\n\"d\"\"e\",\n\n\"open";
        let mut scanner = Scanner::new(&text[..], COMMAS, 1);
        let mut seen = Vec::new();
        while let Some(record) = scanner.next().expect("bytes") {
            let fields: Vec<String> = scanner
                .fields()
                .iter()
                .map(|field| format!("{}{}", String::from_utf8_lossy(scanner.content(field)), if field.quoted { "\u{201d}" } else { "" }))
                .collect();
            seen.push(format!("{}: {}{}", record.line, fields.join("|"), record.fault.unwrap_or("")));
        }
        assert_eq!(seen, ["1: a|b\nc\u{201d}", "3: d\"e\u{201d}|", "4: ", "5: open\u{201d}a quote is never closed"]);
        let escaped = Marks { delimiter: b';', quote: Some(b'\''), escape: Some(b'\\') };
        assert_eq!(ours(b"'it\\'s';'C:\\x';'\\\\'", escaped), [[b"it's".to_vec(), b"C:\\x".to_vec(), b"\\".to_vec()]]);
    }
}
