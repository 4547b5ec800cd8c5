//! Where one file of text can be cut: at the starts of records, found by looking through the whole file once. Nothing is guessed: a line
//! break in quotes is no cut, and each cut knows its line, so that bad rows are named as if the file was read in one go.

use std::io::{self, Read};

use serde::{Deserialize, Serialize};

use super::csv::Boundaries;

/// Bytes looked through at a time.
const BUFFER_BYTES: usize = 1 << 20;

/// The start of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cut {
    /// Its place in the file.
    pub at: u64,
    /// Its line, from 1.
    pub line: u64,
}

/// The first start of a record in every so many bytes of CSV, the very first left out.
pub(super) fn csv(mut records: Boundaries<impl Read>, every: u64) -> io::Result<Vec<Cut>> {
    let (mut cuts, mut due) = (Vec::new(), every);
    while let Some(cut) = records.next()? {
        if cut.at >= due {
            cuts.push(cut);
            due = cut.at + every;
        }
    }
    Ok(cuts)
}

/// The same of NDJSON, where every line feed ends a record.
pub(super) fn ndjson(mut content: impl Read, every: u64) -> io::Result<Vec<Cut>> {
    let (mut cuts, mut due) = (Vec::new(), every);
    let (mut buffer, mut before, mut line) = (vec![0; BUFFER_BYTES], 0, 1);
    loop {
        let length = match content.read(&mut buffer) {
            Ok(0) => return Ok(cuts),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let mut rest = &buffer[..length];
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            line += 1;
            rest = &rest[end + 1..];
            let at = before + (length - rest.len()) as u64;
            if at >= due {
                cuts.push(Cut { at, line });
                due = at + every;
            }
        }
        before += length as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::define::pipeline::CsvDialect;

    fn dialect() -> CsvDialect {
        CsvDialect { delimiter: b',', quote: Some(b'"'), escape: None, header: true, null: Vec::new(), encoding: "utf-8".to_owned() }
    }

    #[test]
    fn cuts_stand_at_records_and_know_their_lines() {
        let check = |text: &str, every: u64, expected: &[(u64, u64)]| {
            let found = Boundaries::new(text.as_bytes(), &dialect()).and_then(|records| csv(records, every)).expect("bytes");
            assert_eq!(found.iter().map(|cut| (cut.at, cut.line)).collect::<Vec<_>>(), expected, "{text:?}");
        };
        check("a\nb\nc\n", 1, &[(2, 2), (4, 3)]);
        check("a\nb\nc\n", 3, &[(4, 3)]);
        check("a\n\"b\n\nb\"\nc", 3, &[(9, 5)]);
        check("a\r\n\"\"\"\n\"\r\nc\r\nd", 1, &[(3, 2), (10, 4), (13, 5)]);
        check("\u{feff}\"a\nb\",c\nd", 1, &[(11, 3)]);
        check("a", 1, &[]);
        check("", 1, &[]);
        let found = ndjson(&b"{}\n\n{\"a\": \"\\n\"}\r\n{}"[..], 1).expect("bytes");
        assert_eq!(found, [Cut { at: 3, line: 2 }, Cut { at: 4, line: 3 }, Cut { at: 17, line: 4 }]);
    }
}
