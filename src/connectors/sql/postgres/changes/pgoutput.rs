//! The messages of pgoutput, PostgreSQL's own plugin of logical decoding, version 1 of its protocol with values in binary form. See the
//! page "Logical Replication Message Formats" of PostgreSQL's manual. The bounds of transactions are read by the connection.

use crate::failure::Failure;

/// One message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    /// The columns of a table from here on, each with the number of its type. Tables go by their number.
    Relation { table: u32, columns: Vec<(&'a str, u32)> },
    /// A new row.
    Insert { table: u32, new: Tuple<'a> },
    /// A changed row; the old one, or only its key, when that may have changed. `whole` when it is all of the old one.
    Update { table: u32, old: Option<Tuple<'a>>, whole: bool, new: Tuple<'a> },
    /// The row, or its key, that is gone.
    Delete { table: u32, old: Tuple<'a> },
    /// All rows of some tables are gone.
    Truncate(Vec<u32>),
    /// Something of no matter here: an origin, a type, a logical message.
    Other,
}

/// The values of a row, in the order of the relation's columns.
pub(super) type Tuple<'a> = Vec<Value<'a>>;

/// One value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Null,
    /// A large value that did not change, and is not sent.
    Unchanged,
    /// In the binary form of its type.
    Binary(&'a [u8]),
}

impl<'a> Message<'a> {
    /// Reads one message.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, Failure> {
        let mut reader = Reader { bytes };
        let message = reader.message();
        match message {
            Some(message) => Ok(message?),
            None => Err(Failure::permanent("a message of logical decoding is cut off, or of another version")),
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn message(&mut self) -> Option<Result<Message<'a>, Failure>> {
        let message = match self.byte()? {
            b'R' => return self.relation().map(Ok),
            b'I' => {
                let table = self.u32()?;
                match self.kind_and_tuple()? {
                    (b'N', new) => return Some(new.map(|new| Message::Insert { table, new })),
                    _ => return None,
                }
            }
            b'U' => {
                let table = self.u32()?;
                return self.update(table);
            }
            b'D' => {
                let table = self.u32()?;
                let (_, old) = self.kind_and_tuple()?;
                return Some(old.map(|old| Message::Delete { table, old }));
            }
            b'T' => {
                let count = self.u32()? as usize;
                self.take(1)?;
                // One after the other: what a broken message claims must not be reserved.
                Message::Truncate((0..count).map(|_| self.u32()).collect::<Option<_>>()?)
            }
            _ => Message::Other,
        };
        Some(Ok(message))
    }

    fn relation(&mut self) -> Option<Message<'a>> {
        let table = self.u32()?;
        self.text()?;
        self.text()?;
        self.take(1)?;
        let count = self.u16()?;
        let mut columns = Vec::with_capacity(count.into());
        for _ in 0..count {
            self.take(1)?;
            columns.push((self.text()?, self.u32()?));
            self.take(4)?;
        }
        Some(Message::Relation { table, columns })
    }

    fn update(&mut self, table: u32) -> Option<Result<Message<'a>, Failure>> {
        let (kind, first) = self.kind_and_tuple()?;
        let (old, new) = if kind == b'N' { (None, first) } else { (Some(first), self.kind_and_tuple()?.1) };
        Some((|| Ok(Message::Update { table, old: old.transpose()?, whole: kind == b'O', new: new? }))())
    }

    fn kind_and_tuple(&mut self) -> Option<(u8, Result<Tuple<'a>, Failure>)> {
        let kind = self.byte()?;
        let count = self.u16()?;
        let mut tuple = Vec::with_capacity(count.into());
        for _ in 0..count {
            tuple.push(match self.byte()? {
                b'n' => Value::Null,
                b'u' => Value::Unchanged,
                b'b' => {
                    let length = self.u32()? as usize;
                    Value::Binary(self.take(length)?)
                }
                b't' => {
                    let text = "a column of the table has a type without a binary form, which cannot be followed";
                    return Some((kind, Err(Failure::permanent(text).help("follow the table by a cursor, or change the column's type"))));
                }
                _ => return None,
            });
        }
        Some((kind, Ok(tuple)))
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(length)?;
        self.bytes = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    /// A text that ends with a zero byte.
    fn text(&mut self) -> Option<&'a str> {
        let end = self.bytes.iter().position(|byte| *byte == 0)?;
        let text = std::str::from_utf8(self.take(end)?).ok()?;
        self.take(1)?;
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_and_cut_ones_are_refused() {
        let relation = b"R\0\0\0\x01public\0t\0d\0\x01\x01id\0\0\0\0\x17\xff\xff\xff\xff";
        let update = b"U\0\0\0\x07K\0\x02b\0\0\0\x011nN\0\x02b\0\0\0\x012u";
        let cases: [(&[u8], Message<'_>); 5] = [
            (relation, Message::Relation { table: 1, columns: vec![("id", 23)] }),
            (b"I\0\0\0\x01N\0\x01b\0\0\0\x02ab", Message::Insert { table: 1, new: vec![Value::Binary(b"ab")] }),
            (
                update,
                Message::Update {
                    table: 7,
                    whole: false,
                    old: Some(vec![Value::Binary(b"1"), Value::Null]),
                    new: vec![Value::Binary(b"2"), Value::Unchanged],
                },
            ),
            (b"D\0\0\0\x01K\0\x01n", Message::Delete { table: 1, old: vec![Value::Null] }),
            (b"T\0\0\0\x02\0\0\0\0\x07\0\0\0\x09", Message::Truncate(vec![7, 9])),
        ];
        for (bytes, expected) in cases {
            assert_eq!(Message::read(bytes).expect("a message"), expected);
            for end in 1..bytes.len() {
                assert!(Message::read(&bytes[..end]).is_err(), "{:?} cut at {end}", expected);
            }
        }
        assert!(Message::read(b"I\0\0\0\x01N\0\x01t\0\0\0\x02ab").is_err());
    }
}
