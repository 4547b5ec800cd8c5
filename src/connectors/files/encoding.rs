//! Any encoding → UTF-8, without hiding bytes that are wrong.

use std::io::{self, Cursor, Read};

use encoding_rs::{Decoder, DecoderResult, Encoding, UTF_8};

use crate::connectors::files::codec;
use crate::failure::Failure;

/// A byte that no UTF-8 holds: it stands for bytes that the encoding does not know, so that the record they are in is refused.
const WRONG: u8 = 0xFF;
const BUFFER_BYTES: usize = 64 << 10;
/// What a file of UTF-8 may begin with.
pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The content as UTF-8. A byte order mark wins over the stated encoding, and is not part of the content. What is wrong in UTF-8 is passed on
/// as it is; what is wrong in another encoding becomes a byte that is wrong in UTF-8.
pub(super) fn utf8(mut content: Box<dyn Read + Send>, label: &str, path: &str) -> Result<Box<dyn Read + Send>, Failure> {
    let stated = Encoding::for_label(label.as_bytes()).ok_or_else(|| {
        Failure::permanent(format!("`{label}` is no encoding"))
            .help("use a label of the WHATWG encoding standard, such as `utf-8` or `windows-1252`")
    })?;
    let mut start = Vec::with_capacity(3);
    content.by_ref().take(3).read_to_end(&mut start).map_err(|error| codec::read_failed(path, error))?;
    let (encoding, mark) = Encoding::for_bom(&start).unwrap_or((stated, 0));
    start.drain(..mark);
    let content = Cursor::new(start).chain(content);
    if encoding == UTF_8 {
        return Ok(Box::new(content));
    }
    Ok(Box::new(Decoded {
        input: content,
        decoder: encoding.new_decoder_without_bom_handling(),
        raw: vec![0; BUFFER_BYTES],
        raw_at: 0,
        raw_filled: 0,
        ended: false,
        finished: false,
        text: Vec::new(),
        text_at: 0,
    }))
}

/// Whether a file of a stated encoding is UTF-8 as it lies, from its first bytes.
pub(super) fn lies_in_utf8(label: &str, start: &[u8]) -> bool {
    Encoding::for_bom(start).map_or_else(|| is_utf8(label), |(encoding, _)| encoding == UTF_8)
}

/// Whether a label names UTF-8.
pub(super) fn is_utf8(label: &str) -> bool {
    Encoding::for_label(label.as_bytes()) == Some(UTF_8)
}

struct Decoded<R> {
    input: R,
    decoder: Decoder,
    raw: Vec<u8>,
    raw_at: usize,
    raw_filled: usize,
    ended: bool,
    finished: bool,
    text: Vec<u8>,
    text_at: usize,
}

impl<R: Read> Decoded<R> {
    /// Decodes some more text; leaves none at the end.
    fn decode(&mut self) -> io::Result<()> {
        self.text.clear();
        self.text_at = 0;
        while self.text.is_empty() && !self.finished {
            if self.raw_at == self.raw_filled && !self.ended {
                self.raw_filled = self.input.read(&mut self.raw)?;
                self.raw_at = 0;
                self.ended = self.raw_filled == 0;
            }
            let raw = &self.raw[self.raw_at..self.raw_filled];
            let room = self.decoder.max_utf8_buffer_length_without_replacement(raw.len()).unwrap_or(BUFFER_BYTES * 3);
            self.text.resize(room.max(16), 0);
            let (result, read, written) = self.decoder.decode_to_utf8_without_replacement(raw, &mut self.text, self.ended);
            self.raw_at += read;
            self.text.truncate(written);
            match result {
                DecoderResult::Malformed(_, _) => self.text.push(WRONG),
                DecoderResult::InputEmpty if self.ended => self.finished = true,
                DecoderResult::InputEmpty | DecoderResult::OutputFull => {}
            }
        }
        Ok(())
    }
}

impl<R: Read> Read for Decoded<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.text_at == self.text.len() {
            self.decode()?;
        }
        let length = into.len().min(self.text.len() - self.text_at);
        into[..length].copy_from_slice(&self.text[self.text_at..self.text_at + length]);
        self.text_at += length;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &'static [u8], label: &str, expected: &[u8]) {
        let mut text = Vec::new();
        utf8(Box::new(bytes), label, "x.csv").expect("an encoding").read_to_end(&mut text).expect("bytes");
        assert_eq!(text, expected, "{label}");
    }

    #[test]
    fn encodings_and_marks() {
        check(b"caf\xe9 \x80", "windows-1252", "café €".as_bytes());
        check(b"\xEF\xBB\xBFa,b", "utf-8", b"a,b");
        check(b"\xEF\xBB\xBFa,b", "windows-1252", b"a,b");
        check(b"\xFF\xFEa\0,\0\xe9\0", "utf-8", "a,é".as_bytes());
        check(b"", "windows-1252", b"");
        // What is wrong stays wrong: in UTF-8 as it is, in others as a byte no UTF-8 has.
        check(b"a\xe9b", "utf-8", b"a\xe9b");
        check(b"a\x81\xffb\n", "shift_jis", b"a\xffb\n");
        assert!(utf8(Box::new(&b""[..]), "ebcdic", "x.csv").is_err());
    }
}
