//! Guesses a column's type from its texts. Every sampled value must survive the type unchanged; in doubt it is text.

use super::number::{float_keeps, parts};
use super::parse::{self, Zone};
use crate::data::Type;

/// Most digits after the point for which a column of plain decimals is a decimal. More look like printed floats.
const DECIMAL_SCALE_MOST: usize = 9;

/// What the texts of a column could all be.
#[derive(Clone, Debug)]
pub(crate) struct Guess {
    seen: bool,
    bool: bool,
    date: bool,
    timestamp: bool,
    timestamptz: bool,
    number: bool,
    /// At least one value was a number by its digits, not only a word such as `NaN`.
    digits: bool,
    /// At least one value was a date or timestamp by its digits, not only `infinity`.
    calendar: bool,
    /// At least one number had an exponent, or was a word such as `NaN`.
    float_form: bool,
    float_keeps: bool,
    fits_int64: bool,
    whole_digits: usize,
    fraction_digits: usize,
}

impl Default for Guess {
    fn default() -> Self {
        Self {
            seen: false,
            bool: true,
            date: true,
            timestamp: true,
            timestamptz: true,
            number: true,
            digits: false,
            calendar: false,
            float_form: false,
            float_keeps: true,
            fits_int64: true,
            whole_digits: 0,
            fraction_digits: 0,
        }
    }
}

impl Guess {
    /// Takes one text that is not NULL into account.
    pub(crate) fn see(&mut self, text: &str) {
        self.seen = true;
        if self.bool {
            self.bool = text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("false");
        }
        if self.number {
            self.number = self.see_number(text);
        }
        self.see_calendar(text);
    }

    /// Takes a JSON string into account, which is never a number or a truth value.
    pub(crate) fn see_string(&mut self, text: &str) {
        self.seen = true;
        self.bool = false;
        self.number = false;
        self.see_calendar(text);
    }

    /// Takes a JSON number into account: always a number, whatever it looks like.
    pub(crate) fn see_json_number(&mut self, text: &str) {
        self.seen = true;
        (self.bool, self.date, self.timestamp, self.timestamptz) = (false, false, false, false);
        if self.number && !self.see_number(text) {
            // Exponents without a sign, and the negative zero, which only a float has.
            self.digits = true;
            self.float_form = true;
            self.float_keeps &= text.parse::<f64>().is_ok_and(|value| value.is_finite() && float_keeps(text, value));
        }
    }

    fn see_calendar(&mut self, text: &str) {
        if self.date {
            self.date = parse::date(text.as_bytes()).is_some();
        }
        if self.timestamp || self.timestamptz {
            let zone = parse::timestamp(text.as_bytes()).map(|(_, zone)| zone);
            self.timestamp &= matches!(zone, Some(Zone::Missing | Zone::Any));
            self.timestamptz &= matches!(zone, Some(Zone::Given | Zone::Any));
        }
        self.calendar |= (self.date || self.timestamp || self.timestamptz) && text.as_bytes().iter().any(u8::is_ascii_digit);
    }

    /// Whether a text is a number as machines print them: no plus, no leading zeros, and an exponent only after a point or with a sign,
    /// so that codes such as `007` and `12e5` stay text.
    fn see_number(&mut self, text: &str) -> bool {
        if is_float_word(text) {
            self.float_form = true;
            return true;
        }
        let Some(found) = parts(text.as_bytes()) else { return false };
        let leading_zero = found.whole.len() > 1 && found.whole[0] == b'0';
        let code_like = found.exponent.is_some() && !text.contains(['.', '+']) && !text[1..].contains('-');
        let dangling = found.whole.is_empty() || (text.contains('.') && found.fraction.is_empty());
        let negative_zero = found.negative && found.exponent.is_none() && found.fraction.is_empty() && found.whole == b"0";
        if text.starts_with('+') || leading_zero || code_like || dangling || negative_zero {
            return false;
        }
        self.digits = true;
        self.float_form |= found.exponent.is_some();
        self.fits_int64 &= found.fraction.is_empty() && text.parse::<i64>().is_ok();
        self.whole_digits = self.whole_digits.max(found.whole.len());
        self.fraction_digits = self.fraction_digits.max(found.fraction.len());
        if self.float_keeps {
            self.float_keeps = text.parse::<f64>().is_ok_and(|value| value.is_finite() && float_keeps(text, value));
        }
        true
    }

    /// The type of everything seen; text when nothing was.
    pub(crate) fn decide(&self) -> Type {
        if !self.seen {
            Type::Text
        } else if self.bool {
            Type::Bool
        } else if self.number && self.digits {
            self.decide_number()
        } else if self.date && self.calendar {
            Type::Date
        } else if self.timestamptz && self.calendar {
            Type::TimestampTz
        } else if self.timestamp && self.calendar {
            Type::Timestamp
        } else {
            Type::Text
        }
    }

    fn decide_number(&self) -> Type {
        if self.float_form {
            return if self.float_keeps { Type::Float(64) } else { Type::Number };
        }
        if self.fits_int64 {
            return Type::Int(64);
        }
        if self.fraction_digits > DECIMAL_SCALE_MOST {
            return if self.float_keeps { Type::Float(64) } else { Type::Number };
        }
        // Room for larger values than the sample held.
        match self.whole_digits + self.fraction_digits {
            0..=15 => Type::Decimal(18, self.fraction_digits as i8),
            16..=38 => Type::Decimal(38, self.fraction_digits as i8),
            _ => Type::Number,
        }
    }
}

fn is_float_word(text: &str) -> bool {
    let word = text.strip_prefix('-').unwrap_or(text);
    ["nan", "inf", "infinity"].iter().any(|known| word.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_samples() {
        let check = |texts: &[&str], expected: &str| {
            let mut guess = Guess::default();
            texts.iter().for_each(|text| guess.see(text));
            assert_eq!(guess.decide().to_string(), expected, "{texts:?}");
        };
        check(&[], "text");
        check(&["true", "FALSE"], "bool");
        check(&["true", "1"], "text");
        check(&["0", "-12", "9223372036854775807"], "int64");
        check(&["9223372036854775808"], "decimal(38,0)");
        check(&["12.50", "3"], "decimal(18,2)");
        check(&["123456789012345.67"], "decimal(38,2)");
        check(&[&"9".repeat(40)], "decimal");
        check(&["0.30000000000000004", "1.5"], "float64");
        check(&["0.1000000000000000055", "1.5"], "decimal");
        check(&["1.5e300", "2", "NaN", "-inf"], "float64");
        check(&["1e+22"], "float64");
        check(&["NaN", "nan"], "text");
        check(&["12e5"], "text");
        check(&["007"], "text");
        check(&["0.5", "00.5"], "text");
        check(&["+5"], "text");
        check(&["-0"], "text");
        check(&["-0.0"], "decimal(18,1)");
        check(&["2024-02-29", "infinity"], "date");
        check(&["infinity"], "text");
        check(&["2023-02-29"], "text");
        check(&["2024-01-01 10:00", "2024-01-01T10:00:00.5"], "timestamp");
        check(&["2024-01-01T10:00:00Z", "2024-01-01 10:00:00+02"], "timestamptz");
        check(&["2024-01-01T10:00:00Z", "2024-01-01 10:00:00"], "text");
        check(&["2024-01-01", "2024-01-01 10:00:00"], "text");
        check(&["2024-01-01 10:00:00.1234567"], "text");
        check(&["", "1"], "text");
        check(&["-", "1"], "text");
    }
}
