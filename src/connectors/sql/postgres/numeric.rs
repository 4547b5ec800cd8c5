//! PostgreSQL's numeric in binary form: digits in base 10,000, a weight, a sign and a display scale.
//! See `numeric_send` in `src/backend/utils/adt/numeric.c` of PostgreSQL.

use std::fmt::Write;

use arrow::datatypes::i256;

const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xC000;
const INFINITY: u16 = 0xD000;
const MINUS_INFINITY: u16 = 0xF000;

const POWERS: [i128; 39] = {
    let mut powers = [1i128; 39];
    let mut at = 1;
    while at < 39 {
        powers[at] = powers[at - 1] * 10;
        at += 1;
    }
    powers
};

/// A numeric as it stands in the wire, its parts not yet looked at beyond the header.
#[derive(Clone, Copy)]
struct Parts<'a> {
    digits: &'a [u8],
    weight: i32,
    sign: u16,
    display_scale: usize,
}

fn parts(wire: &[u8]) -> Option<Parts<'_>> {
    let (header, digits) = wire.split_first_chunk::<8>()?;
    let [n0, n1, w0, w1, s0, s1, d0, d1] = *header;
    if usize::from(u16::from_be_bytes([n0, n1])) * 2 != digits.len() {
        return None;
    }
    Some(Parts {
        digits,
        weight: i32::from(i16::from_be_bytes([w0, w1])),
        sign: u16::from_be_bytes([s0, s1]),
        display_scale: usize::from(u16::from_be_bytes([d0, d1])),
    })
}

impl Parts<'_> {
    fn each(&self) -> impl Iterator<Item = u16> + '_ {
        self.digits.as_chunks::<2>().0.iter().map(|pair| u16::from_be_bytes(*pair))
    }

    /// The power of ten of the last digit's unit, once `scale` decimals count as whole.
    fn exponent(&self, scale: i8) -> i32 {
        4 * (self.weight + 1) - 2 * self.digits.len() as i32 + i32::from(scale)
    }

    fn special(&self) -> Option<&'static str> {
        match self.sign {
            NAN => Some("NaN"),
            INFINITY => Some("Infinity"),
            MINUS_INFINITY => Some("-Infinity"),
            _ => None,
        }
    }
}

const MALFORMED: &str = "it is no well-formed numeric";

/// Reads a decimal of at most 38 digits, as a whole number of its last decimals. The error says why there is none.
pub(super) fn to_i128(wire: &[u8], precision: u8, scale: i8) -> Result<i128, String> {
    let parts = parts(wire).ok_or(MALFORMED)?;
    if let Some(special) = parts.special() {
        return Err(format!("{special} is no decimal({precision},{scale})"));
    }
    let out_of_range = || format!("{} does not fit decimal({precision},{scale})", to_text(wire).unwrap_or_default());
    let exponent = parts.exponent(scale);
    if parts.digits.len() <= 8 {
        // Four digits of base 10,000 fit 64 bits, which is nearly every value there is.
        let magnitude = parts.each().fold(0u64, |sum, digit| sum * 10_000 + u64::from(digit));
        if let Some(scaled) = shifted(magnitude, exponent).filter(|scaled| i128::from(*scaled) < POWERS[usize::from(precision.min(38))]) {
            let scaled = i128::from(scaled);
            return Ok(if parts.sign == NEGATIVE { -scaled } else { scaled });
        }
    }
    let add = |sum: i128, digit: u16| sum.checked_mul(10_000)?.checked_add(i128::from(digit));
    // The last digit may hold decimals beyond the scale; they are zeros, but may be too many for 128 bits.
    let magnitude = match parts.each().try_fold(0i128, add) {
        Some(magnitude) => magnitude,
        None => {
            let wide = to_i256(wire, precision, scale)?;
            return wide.to_i128().ok_or_else(out_of_range);
        }
    };
    let power = POWERS.get(exponent.unsigned_abs() as usize).copied();
    let scaled = match (exponent, power) {
        _ if magnitude == 0 => 0,
        (0.., Some(power)) => magnitude.checked_mul(power).ok_or_else(out_of_range)?,
        (_, Some(power)) if magnitude % power == 0 => magnitude / power,
        _ => return Err(out_of_range()),
    };
    if POWERS.get(usize::from(precision)).is_some_and(|limit| scaled >= *limit) {
        return Err(out_of_range());
    }
    Ok(if parts.sign == NEGATIVE { -scaled } else { scaled })
}

/// `magnitude` times a power of ten, where that is simple. The divisors are constants, which makes the divisions multiplications.
fn shifted(magnitude: u64, exponent: i32) -> Option<u64> {
    let (quotient, rest) = match exponent {
        0 => (magnitude, 0),
        1..=18 => return magnitude.checked_mul(10u64.pow(exponent.unsigned_abs())),
        -1 => (magnitude / 10, magnitude % 10),
        -2 => (magnitude / 100, magnitude % 100),
        -3 => (magnitude / 1000, magnitude % 1000),
        _ => return None,
    };
    (rest == 0).then_some(quotient)
}

/// Reads a decimal of at most 76 digits.
pub(super) fn to_i256(wire: &[u8], precision: u8, scale: i8) -> Result<i256, String> {
    let text = to_text(wire)?;
    let out_of_range = || format!("{text} does not fit decimal({precision},{scale})");
    let (negative, digits) = text.strip_prefix('-').map_or((false, &*text), |digits| (true, digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let scale = scale as usize;
    let (kept, cut) = fraction.split_at(scale.min(fraction.len()));
    if cut.bytes().any(|digit| digit != b'0') || !whole.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(out_of_range());
    }
    let unscaled = format!("{whole}{kept}{}", "0".repeat(scale - kept.len()));
    let unscaled = unscaled.trim_start_matches('0');
    if unscaled.len() > usize::from(precision) {
        return Err(out_of_range());
    }
    let unscaled = if unscaled.is_empty() { "0" } else { unscaled };
    let value = i256::from_string(unscaled).ok_or_else(out_of_range)?;
    Ok(if negative { value.wrapping_neg() } else { value })
}

/// Reads any numeric in the plain form of PostgreSQL's own output.
pub(super) fn to_text(wire: &[u8]) -> Result<String, String> {
    let mut text = String::new();
    write_text(wire, &mut text)?;
    Ok(text)
}

/// Appends the plain text form.
pub(super) fn write_text(wire: &[u8], out: &mut String) -> Result<(), String> {
    let parts = parts(wire).ok_or(MALFORMED)?;
    if let Some(special) = parts.special() {
        out.push_str(special);
        return Ok(());
    }
    let digit = |place: i32| {
        let at = usize::try_from(place).ok()?.checked_mul(2)?;
        Some(u16::from_be_bytes([*parts.digits.get(at)?, *parts.digits.get(at + 1)?]))
    };
    if parts.sign == NEGATIVE {
        out.push('-');
    }
    if parts.weight < 0 {
        out.push('0');
    }
    for place in 0..=parts.weight {
        let value = digit(place).unwrap_or(0);
        // Only the first group goes without its leading zeros. Writing to a string cannot fail.
        let _ = if place == 0 { write!(out, "{value}") } else { write!(out, "{value:04}") };
    }
    if parts.display_scale > 0 {
        out.push('.');
        let end = out.len() + parts.display_scale;
        let mut place = parts.weight + 1;
        while out.len() < end {
            // Places between the point and the first digit, and beyond the last one, are zeros.
            let value = digit(place).unwrap_or(0);
            let _ = write!(out, "{value:04}");
            place += 1;
        }
        out.truncate(end);
    }
    Ok(())
}

/// Appends the binary form of `value` times ten to the minus `scale`, with its length before it.
pub(super) fn write_i128(value: i128, scale: u8, out: &mut Vec<u8>) {
    // 38 digits make at most 10 groups before and 10 behind the point.
    let mut groups = [0u16; 24];
    let mut count = 0;
    let mut rest = value.unsigned_abs();
    let behind = usize::from(scale).div_ceil(4);
    if !scale.is_multiple_of(4) {
        // The group that holds the last decimals is filled up with zeros on its right.
        let decimals;
        (rest, decimals) = match u64::try_from(rest) {
            // Constant divisors make the divisions multiplications.
            Ok(rest) => match scale % 4 {
                1 => (u128::from(rest / 10), (rest % 10) as u16 * 1000),
                2 => (u128::from(rest / 100), (rest % 100) as u16 * 100),
                _ => (u128::from(rest / 1000), (rest % 1000) as u16 * 10),
            },
            Err(_) => {
                let unit = 10u16.pow(u32::from(scale % 4));
                (rest / u128::from(unit), (rest % u128::from(unit)) as u16 * (10_000 / unit))
            }
        };
        groups[0] = decimals;
        count = 1;
    }
    while rest > u128::from(u64::MAX) {
        groups[count] = (rest % 10_000) as u16;
        rest /= 10_000;
        count += 1;
    }
    let mut rest = rest as u64;
    while rest > 0 {
        groups[count] = (rest % 10_000) as u16;
        rest /= 10_000;
        count += 1;
    }
    write_groups(&groups[..count], behind, value < 0, u16::from(scale), out);
}

/// `groups` are in base 10,000, the last place first; `behind` of them stand behind the point.
fn write_groups(groups: &[u16], behind: usize, negative: bool, display_scale: u16, out: &mut Vec<u8>) {
    let zeros_below = groups.iter().take_while(|group| **group == 0).count();
    let zeros_above = groups.iter().rev().take_while(|group| **group == 0).count();
    let count = groups.len().saturating_sub(zeros_below + zeros_above);
    let digits = if count == 0 { &[] } else { &groups[zeros_below..zeros_below + count] };
    let weight = if count == 0 { 0 } else { (groups.len() - zeros_above) as i32 - behind as i32 - 1 };
    let sign = if negative && count > 0 { NEGATIVE } else { 0 };
    let header = [count as u16, weight as i16 as u16, sign, display_scale].into_iter().fold(0, |sum, word| sum << 16 | u128::from(word));
    // The length before the header, both in one piece.
    out.extend_from_slice(&(u128::from(8 + 2 * count as u32) << 64 | header).to_be_bytes()[4..]);
    if digits.len() <= 8 {
        // Copied in a fixed length, which is no call, and cut to what there is.
        let packed = digits.iter().rev().fold(0, |sum, group| sum << 16 | u128::from(*group));
        let end = out.len() + 2 * digits.len();
        out.extend_from_slice(&packed.unbounded_shl(128 - 16 * digits.len() as u32).to_be_bytes());
        out.truncate(end);
        return;
    }
    for group in digits.iter().rev() {
        out.extend_from_slice(&group.to_be_bytes());
    }
}

/// Appends the binary form of a number in plain text form, with its length before it. The error says why it is none.
pub(super) fn write_plain(text: &str, out: &mut Vec<u8>) -> Result<(), String> {
    let special = match text {
        "NaN" => Some(NAN),
        "Infinity" => Some(INFINITY),
        "-Infinity" => Some(MINUS_INFINITY),
        _ => None,
    };
    if let Some(sign) = special {
        out.extend_from_slice(&8u32.to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&sign.to_be_bytes());
        out.extend_from_slice(&[0; 2]);
        return Ok(());
    }
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_number = |part: &str| part.bytes().all(|digit| digit.is_ascii_digit());
    // PostgreSQL's own bounds: 131072 digits before the point, 16383 behind it.
    if whole.is_empty() || !is_number(whole) || !is_number(fraction) || whole.len() > 131_072 || fraction.len() > 16_383 {
        return Err(format!("`{}` is no number that numeric can hold", text.chars().take(80).collect::<String>()));
    }
    let group = |digits: &[u8], width: u32| {
        let value = digits.iter().fold(0u16, |sum, digit| sum * 10 + u16::from(digit - b'0'));
        value * 10u16.pow(width - digits.len() as u32)
    };
    let mut groups: Vec<u16> = fraction.as_bytes().chunks(4).map(|digits| group(digits, 4)).collect();
    groups.reverse();
    let behind = groups.len();
    groups.extend(whole.as_bytes().rchunks(4).map(|digits| group(digits, digits.len() as u32)));
    write_groups(&groups, behind, negative, fraction.len() as u16, out);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        write_plain(text, &mut out).expect(text);
        assert_eq!(out.len() as u32 - 4, u32::from_be_bytes([out[0], out[1], out[2], out[3]]));
        out.split_off(4)
    }

    #[test]
    fn text_survives() {
        let long = format!("{}.{}", "9".repeat(1000), "1".repeat(999));
        for text in [
            "0",
            "0.00",
            "1",
            "-1",
            "10000",
            "9999",
            "0.0001",
            "0.00001",
            "-12.50",
            "100000000",
            "1.10",
            "NaN",
            "Infinity",
            "-Infinity",
            "12345678.87654321",
            &long,
        ] {
            assert_eq!(to_text(&wire(text)).as_deref(), Ok(text));
        }
        for text in ["", "-", ".5", "1e5", "+1", "nan", "1.2.3", "0x10"] {
            assert!(write_plain(text, &mut Vec::new()).is_err(), "{text}");
        }
    }

    #[test]
    fn decimals_survive_in_every_width() {
        for (text, precision, scale, value) in [
            ("0.00", 15, 2, 0),
            ("-12.50", 15, 2, -1250),
            ("1.1", 38, 10, 11_000_000_000),
            ("9999999999999999999999999999.9999999999", 38, 10, 10i128.pow(38) - 1),
            ("-99999999999999999999999999999999999999", 38, 0, 1 - 10i128.pow(38)),
            ("0.00000000000000000000000000000000000001", 38, 38, 1),
            ("10000.0000", 20, 4, 100_000_000),
        ] {
            let wire = wire(text);
            assert_eq!(to_i128(&wire, precision, scale), Ok(value), "{text}");
            assert_eq!(to_i256(&wire, precision, scale), Ok(i256::from_i128(value)), "{text}");
            let mut back = Vec::new();
            write_i128(value, scale as u8, &mut back);
            assert_eq!(to_i128(&back[4..], precision, scale), Ok(value), "{text}");
        }
        assert!(to_i128(&wire("NaN"), 10, 2).is_err_and(|why| why.contains("NaN")));
        assert!(to_i128(&wire("100"), 2, 0).is_err());
        assert!(to_i128(&wire("1.234"), 10, 2).is_err());
        assert!(to_i128(&[0, 5, 0], 10, 2).is_err());
    }
}
