//! Numbers, sizes, rates and times, for people.

use crate::journal::{Outcome, Verdict};

/// With thousands separators: `80,789`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number and its noun: `1 row`, `80,789 rows`. The plural is the noun with an `s`.
pub fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

/// Bytes, in the unit that leaves one to four digits: `512 B`, `3.4 KiB`, `120 MiB`.
pub fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value < 99.95 { format!("{value:.1} {}", units[unit]) } else { format!("{value:.0} {}", units[unit]) }
}

/// A time span: `350 ms`, `2.1 s`, `3 m 12 s`, `1 h 02 m`, `2 d 03 h`.
pub fn span(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 => format!("{ms} ms"),
        1..10 => format!("{:.1} s", (ms / 100) as f64 / 10.0),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} m {:02} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {:02} m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {:02} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// How many of something in a time, for each second; `None` when the time is too short to say.
pub fn per_second(number: u64, ms: u64) -> Option<u64> {
    (ms >= 1).then(|| (u128::from(number) * 1000 / u128::from(ms)).try_into().unwrap_or(u64::MAX))
}

/// The word of an outcome; a run or stage without one runs, or its process was killed.
pub fn outcome(outcome: Option<Outcome>) -> &'static str {
    outcome.map_or("unfinished", Outcome::as_str)
}

/// What was proved of an output, in a few words.
pub fn verdict(verdict: &Verdict) -> String {
    match verdict {
        Verdict::NotChecked => "not checked".to_owned(),
        Verdict::Counted { .. } => "counted".to_owned(),
        Verdict::Identical { .. } => "identical".to_owned(),
        Verdict::Different { expected_rows, found_rows, .. } if expected_rows == found_rows => {
            format!("DIFFERENT: {} on both sides, not the same ones", counted(*found_rows, "row"))
        }
        Verdict::Different { expected_rows, found_rows, .. } => {
            format!("DIFFERENT: {} sent, {} found", counted(*expected_rows, "row"), count(*found_rows))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well_at_every_size() {
        assert_eq!([0, 7, 999, 1000, 80_789, 1_234_567].map(count), ["0", "7", "999", "1,000", "80,789", "1,234,567"]);
        assert_eq!(count(u64::MAX), "18,446,744,073,709,551,615");
        assert_eq!([counted(1, "row"), counted(0, "row"), counted(2000, "split")], ["1 row", "0 rows", "2,000 splits"]);
        let sizes = [0, 1023, 1024, 1536, 1_048_575, 1 << 20, 120 << 20, 5 << 30].map(size);
        assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "1.0 MiB", "120 MiB", "5.0 GiB"]);
        assert_eq!(size(u64::MAX), "16.0 EiB");
    }

    #[test]
    fn times_read_well_at_every_length() {
        let spans = [0, 350, 999, 1000, 2149, 9999, 10_000, 59_999, 60_000, 192_000, 3_725_000, 183_600_000].map(span);
        let expected =
            ["0 ms", "350 ms", "999 ms", "1.0 s", "2.1 s", "9.9 s", "10 s", "59 s", "1 m 00 s", "3 m 12 s", "1 h 02 m", "2 d 03 h"];
        assert_eq!(spans, expected);
        assert_eq!([per_second(500, 250), per_second(500, 0), per_second(u64::MAX, 1)], [Some(2000), None, Some(u64::MAX)]);
    }
}
