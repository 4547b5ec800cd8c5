//! The frame of COPY BINARY: a header, tuples, a trailer. See the section "Binary Format" of PostgreSQL's page on COPY.

use crate::failure::Failure;

/// What every binary COPY begins with: the signature, no flags, no extension.
pub(super) const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What it ends with.
pub(super) const TRAILER: &[u8] = &[0xff, 0xff];

/// Cuts a stream of frames into tuples. A frame may end anywhere, even inside a number.
#[derive(Debug, Default)]
pub(super) struct Cutter {
    /// The beginning of what the next frame goes on with.
    pending: Vec<u8>,
    begun: bool,
    ended: bool,
}

impl Cutter {
    /// Takes the next frame and hands on every tuple that is whole, with its field count.
    pub(super) fn feed(&mut self, frame: &[u8], mut tuple: impl FnMut(&[u8]) -> Result<(), Failure>) -> Result<(), Failure> {
        if self.pending.is_empty() {
            let used = self.cut(frame, &mut tuple)?;
            self.pending.extend_from_slice(&frame[used..]);
        } else {
            let mut pending = std::mem::take(&mut self.pending);
            pending.extend_from_slice(frame);
            let used = self.cut(&pending, &mut tuple)?;
            pending.drain(..used);
            self.pending = pending;
        }
        Ok(())
    }

    /// Whether the trailer has been seen: a stream that stops before it was cut off.
    pub(super) fn ended(&self) -> bool {
        self.ended && self.pending.is_empty()
    }

    fn cut(&mut self, bytes: &[u8], tuple: &mut impl FnMut(&[u8]) -> Result<(), Failure>) -> Result<usize, Failure> {
        let mut at = 0;
        if !self.begun {
            match header_length(bytes)? {
                Some(length) => at = length,
                None => return Ok(0),
            }
            self.begun = true;
        }
        while !self.ended {
            match tuple_length(&bytes[at..])? {
                Tuple::Cut => return Ok(at),
                Tuple::Trailer => {
                    self.ended = true;
                    at += TRAILER.len();
                }
                Tuple::Whole(length) => {
                    tuple(&bytes[at..at + length])?;
                    at += length;
                }
            }
        }
        if at < bytes.len() { Err(malformed("it goes on after its end")) } else { Ok(at) }
    }
}

enum Tuple {
    Whole(usize),
    Trailer,
    Cut,
}

fn header_length(bytes: &[u8]) -> Result<Option<usize>, Failure> {
    let Some((fixed, _)) = bytes.split_first_chunk::<19>() else { return Ok(None) };
    // The high half of the flags, at bytes 11 and 12, holds what a reader must know; there is nothing we know.
    if fixed[..11] != HEADER[..11] || fixed[11..13] != [0, 0] {
        return Err(malformed("its header is unknown"));
    }
    let extension = u32::from_be_bytes([fixed[15], fixed[16], fixed[17], fixed[18]]) as usize;
    let length = fixed.len() + extension;
    Ok((bytes.len() >= length).then_some(length))
}

fn tuple_length(bytes: &[u8]) -> Result<Tuple, Failure> {
    let Some((count, _)) = bytes.split_first_chunk::<2>() else { return Ok(Tuple::Cut) };
    let fields = match i16::from_be_bytes(*count) {
        -1 => return Ok(Tuple::Trailer),
        fields @ 0.. => fields,
        _ => return Err(malformed("a tuple's field count is negative")),
    };
    let mut at = 2;
    for _ in 0..fields {
        let Some(length) = bytes.get(at..at + 4).and_then(|length| length.first_chunk::<4>()) else { return Ok(Tuple::Cut) };
        match i32::from_be_bytes(*length) {
            -1 => at += 4,
            length @ 0.. => at += 4 + length as usize,
            _ => return Err(malformed("a field's length is negative")),
        }
    }
    Ok(if at <= bytes.len() { Tuple::Whole(at) } else { Tuple::Cut })
}

/// Calls `field` for each field of a whole tuple: its place and its bytes, or `None` for NULL.
pub(super) fn fields<'a>(tuple: &'a [u8], mut field: impl FnMut(usize, Option<&'a [u8]>)) -> Option<usize> {
    let (count, mut rest) = tuple.split_first_chunk::<2>()?;
    let count = usize::try_from(i16::from_be_bytes(*count)).ok()?;
    for place in 0..count {
        let (length, after) = rest.split_first_chunk::<4>()?;
        match usize::try_from(i32::from_be_bytes(*length)) {
            Err(_) => {
                field(place, None);
                rest = after;
            }
            Ok(length) => {
                let (value, after) = after.split_at_checked(length)?;
                field(place, Some(value));
                rest = after;
            }
        }
    }
    Some(count)
}

fn malformed(why: &str) -> Failure {
    Failure::transient(format!("the server's COPY stream is malformed: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_may_be_cut_anywhere() {
        let tuples: [&[u8]; 3] = [b"\0\x02\0\0\0\x01a\xff\xff\xff\xff", b"\0\x01\0\0\0\0", b"\0\0"];
        let stream = [HEADER, &tuples.concat(), TRAILER].concat();
        for size in 1..=stream.len() {
            let mut cutter = Cutter::default();
            let mut seen: Vec<Vec<u8>> = Vec::new();
            for (place, frame) in stream.chunks(size).enumerate() {
                assert!(!cutter.ended(), "size {size}, frame {place}");
                let keep = |tuple: &[u8]| {
                    seen.push(tuple.to_vec());
                    Ok(())
                };
                cutter.feed(frame, keep).expect("a well-formed stream");
            }
            assert!(cutter.ended());
            assert_eq!(seen, tuples);
        }
        let mut cutter = Cutter::default();
        assert!(cutter.feed(&stream[..stream.len() - 1], |_| Ok(())).is_ok());
        assert!(!cutter.ended(), "a stream without its whole trailer has not ended");
        assert!(Cutter::default().feed(b"PGCOPX\n\xff\r\n\0\0\0\0\0\0\0\0\0", |_| Ok(())).is_err());
        assert!(Cutter::default().feed(&[HEADER, TRAILER, b"x"].concat(), |_| Ok(())).is_err());
    }

    #[test]
    fn fields_are_found() {
        let mut seen = Vec::new();
        let count = fields(b"\0\x03\0\0\0\x01a\xff\xff\xff\xff\0\0\0\0", |place, value| seen.push((place, value.map(<[u8]>::to_vec))));
        assert_eq!(count, Some(3));
        assert_eq!(seen, [(0, Some(b"a".to_vec())), (1, None), (2, Some(Vec::new()))]);
        assert_eq!(fields(b"\0\x01\0\0\0\x05ab", |_, _| ()), None);
    }
}
