//! The texts of one column, gathered as bytes and checked all at once: most are short, and to look at each by itself costs more than to
//! copy it.

use arrow::array::{StringArray, StringBuilder};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};

/// Texts so far, one after the other.
pub(super) struct Texts {
    bytes: Vec<u8>,
    ends: Vec<i32>,
}

impl Texts {
    pub(super) fn new() -> Self {
        Self { bytes: Vec::new(), ends: vec![0] }
    }

    /// Appends a text; an empty one stands for NULL. A batch holds less than 2 GiB, so that its offsets fit.
    pub(super) fn push(&mut self, text: &[u8]) {
        self.bytes.extend_from_slice(text);
        self.ends.push(self.bytes.len() as i32);
    }

    /// The array of all texts, which are then forgotten. What is no UTF-8 becomes NULL, and `refuse` is told its row and why.
    pub(super) fn finish(&mut self, nulls: Option<NullBuffer>, refuse: &mut dyn FnMut(usize, String)) -> StringArray {
        // The next batch is likely to be as large.
        let next = Self { bytes: Vec::with_capacity(self.bytes.len()), ends: Vec::with_capacity(self.ends.len()) };
        let Self { bytes, ends } = std::mem::replace(self, next);
        self.ends.push(0);
        let offsets = OffsetBuffer::new(ScalarBuffer::from(ends));
        let bytes = Buffer::from_vec(bytes);
        if let Ok(array) = StringArray::try_new(offsets.clone(), bytes.clone(), nulls.clone()) {
            return array;
        }
        let mut array = StringBuilder::with_capacity(offsets.len(), bytes.len());
        for (row, range) in offsets.windows(2).enumerate() {
            match utf8(&bytes[range[0] as usize..range[1] as usize]) {
                _ if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) => array.append_null(),
                Ok(text) => array.append_value(text),
                Err(why) => {
                    array.append_null();
                    refuse(row, why);
                }
            }
        }
        array.finish()
    }
}

/// A single text. The error says why it is none.
pub(super) fn utf8(wire: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(wire).map_err(|error| format!("it is no valid UTF-8 after byte {}", error.valid_up_to()))
}

#[cfg(test)]
mod tests {
    use arrow::array::Array;

    use super::*;

    #[test]
    fn one_bad_text_does_not_spoil_the_others() {
        let mut texts = Texts::new();
        for _ in 0..2 {
            // The halves of a character stand in two texts: together they would be UTF-8.
            for text in [&b"a"[..], b"", b"x\xc3", b"\xa4y", "ä".as_bytes()] {
                texts.push(text);
            }
            let nulls = NullBuffer::from(vec![true, false, true, true, true]);
            let mut refused = Vec::new();
            let array = texts.finish(Some(nulls), &mut |row, why| refused.push((row, why)));
            let found: Vec<Option<&str>> = array.iter().collect();
            assert_eq!(found, [Some("a"), None, None, None, Some("ä")]);
            let why = |byte: u8| format!("it is no valid UTF-8 after byte {byte}");
            assert_eq!(refused, [(2, why(1)), (3, why(0))]);
            assert_eq!(array.null_count(), 3);
        }
    }
}
