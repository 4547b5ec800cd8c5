//! What the payload of `DUMP` says of itself: its type in the first byte, and in the last ten the version of the format and a checksum. See
//! `rdb.h` and `verifyDumpPayload` of Redis.

use crate::define::pipeline::KeyType;

/// The version of the format that a payload is in.
pub(super) fn version(payload: &[u8]) -> Option<u16> {
    let footer = payload.len().checked_sub(10)?;
    Some(u16::from_le_bytes([payload[footer], payload[footer + 1]]))
}

/// The type of the value; `None` for types of modules and of later versions.
pub(super) fn key_type(payload: &[u8]) -> Option<KeyType> {
    Some(match payload.first()? {
        0 => KeyType::String,
        1 | 10 | 14 | 18 => KeyType::List,
        2 | 11 | 20 => KeyType::Set,
        3 | 5 | 12 | 17 => KeyType::SortedSet,
        4 | 9 | 13 | 16 | 22 | 23 | 24 | 25 => KeyType::Hash,
        15 | 19 | 21 => KeyType::Stream,
        _ => return None,
    })
}

/// A payload of the smallest value, a string without bytes, in a version of the format.
pub(super) fn smallest(version: u16) -> Vec<u8> {
    let mut payload = vec![0, 0];
    payload.extend(version.to_le_bytes());
    payload.extend(crc64(&payload).to_le_bytes());
    payload
}

/// CRC-64 with the polynomial of Jones, reflected, from 0.
fn crc64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ u64::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0x95AC_9329_AC4B_C9B5 } else { crc >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_server() {
        assert_eq!(crc64(b"123456789"), 0xe9c6_d914_c4b8_d9ca);
        let payload = smallest(10);
        assert_eq!((version(&payload), key_type(&payload)), (Some(10), Some(KeyType::String)));
    }
}
