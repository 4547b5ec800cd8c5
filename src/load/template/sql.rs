//! Where the expressions of a SQL template land. An expression renders as a whole literal or identifier; it may only stand where SQL
//! reads a token of its own, never inside a quoted literal, a quoted identifier or a comment.
//!
//! The same scan runs twice: over the literal text of a template, so that a mistake shows without rendering, and over the rendered text
//! with every expression still a [`HOLE`], which is the guarantee: it sees exactly what the engine will see.

use crate::dialect::Dialect;

/// Stands for one expression in a scanned text. SQL text cannot hold a NUL, so no text of the user's can be mistaken for it.
pub(super) const HOLE: char = '\0';

/// Where a hole stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Where a token of its own can stand.
    Open,
    /// As [`Place::Open`], but the character before it is an operator that could merge with a sign, as in `-{{ n }}`: needs a blank.
    Tight,
    /// Against a word, a number, a quoted thing or another expression, which SQL would read as one token with it.
    Glued,
    /// In `'…'` or `$$…$$`.
    Literal,
    /// In `"…"`, or what else the dialect quotes identifiers with.
    Identifier,
    /// In a comment.
    Comment,
}

/// The place of every hole, in order.
pub(super) fn places(dialect: Dialect, text: &str) -> Vec<Place> {
    let mut scan = Scan { dialect, chars: text.chars().collect(), at: 0, places: Vec::new() };
    scan.run();
    scan.places
}

struct Scan {
    dialect: Dialect,
    chars: Vec<char>,
    at: usize,
    places: Vec<Place>,
}

impl Scan {
    fn run(&mut self) {
        while let Some(c) = self.peek(0) {
            match c {
                HOLE => {
                    let place = self.open_place();
                    self.places.push(place);
                    self.at += 1;
                }
                '\'' => match self.string_prefix().as_str() {
                    "e" if self.dialect != Dialect::Sqlite => self.until_quote('\'', true, Place::Literal),
                    // Oracle's q'[…]' is read by DataFusion's parser; where it ends is its own science, so nothing may stand behind it.
                    "q" | "nq" if self.dialect == Dialect::DataFusion => self.rest(Place::Literal),
                    _ => self.until_quote('\'', false, Place::Literal),
                },
                '"' => self.until_quote('"', false, Place::Identifier),
                '`' if self.dialect != Dialect::Postgres => self.until_quote('`', false, Place::Identifier),
                '[' if self.dialect == Dialect::Sqlite => self.until("]", Place::Identifier),
                '-' if self.peek(1) == Some('-') => self.until("\n", Place::Comment),
                '/' if self.peek(1) == Some('*') => self.block_comment(),
                '$' if self.dialect != Dialect::Sqlite && !self.word_before() => self.dollar(),
                _ => self.at += 1,
            }
        }
    }

    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn before(&self) -> Option<char> {
        self.at.checked_sub(1).map(|at| self.chars[at])
    }

    fn word_before(&self) -> bool {
        self.before().is_some_and(is_word)
    }

    fn string_prefix(&self) -> String {
        let from = self.chars[..self.at].iter().rposition(|c| !is_word(*c)).map_or(0, |at| at + 1);
        self.chars[from..self.at].iter().collect::<String>().to_lowercase()
    }

    fn open_place(&self) -> Place {
        let merges = |c: char| is_word(c) || matches!(c, '\'' | '"' | '`' | '&' | '@' | ':' | '?' | '#' | '\\' | HOLE);
        let cast = self.peek(1) == Some(':') && self.peek(2) == Some(':');
        if self.before().is_some_and(merges) || (!cast && self.peek(1).is_some_and(merges)) {
            return Place::Glued;
        }
        match self.before() {
            Some(c) if !(c.is_whitespace() || matches!(c, '(' | '[' | ',' | '.' | '=' | ';')) => Place::Tight,
            _ => Place::Open,
        }
    }

    fn take(&mut self, inside: Place) {
        if self.peek(0) == Some(HOLE) {
            self.places.push(inside);
        }
        self.at += 1;
    }

    /// Moves behind a quoted thing in which the quote is doubled, or escaped where `escapes`.
    fn until_quote(&mut self, quote: char, escapes: bool, inside: Place) {
        self.at += 1;
        while let Some(c) = self.peek(0) {
            if escapes && c == '\\' {
                self.at += 1;
            } else if c == quote {
                if self.peek(1) != Some(quote) {
                    self.at += 1;
                    return;
                }
                self.at += 1;
            }
            self.take(inside);
        }
    }

    fn until(&mut self, end: &str, inside: Place) {
        let end: Vec<char> = end.chars().collect();
        while self.at < self.chars.len() {
            if self.chars[self.at..].starts_with(&end) {
                self.at += end.len();
                return;
            }
            self.take(inside);
        }
    }

    fn rest(&mut self, inside: Place) {
        while self.at < self.chars.len() {
            self.take(inside);
        }
    }

    fn block_comment(&mut self) {
        let nests = self.dialect != Dialect::Sqlite;
        let mut depth = 0_usize;
        while let Some(c) = self.peek(0) {
            if c == '/' && self.peek(1) == Some('*') && (nests || depth == 0) {
                depth += 1;
                self.at += 2;
            } else if c == '*' && self.peek(1) == Some('/') {
                depth -= 1;
                self.at += 2;
                if depth == 0 {
                    return;
                }
            } else {
                self.take(Place::Comment);
            }
        }
    }

    /// `$tag$ … $tag$`; a `$1` or a lone `$` is passed over.
    fn dollar(&mut self) {
        let length = self.chars[self.at + 1..].iter().position(|c| !is_word(*c) || *c == '$');
        let tag = length.map(|length| self.chars[self.at..=self.at + 1 + length].to_vec());
        match tag {
            Some(tag) if tag.last() == Some(&'$') && !tag.get(1).is_some_and(char::is_ascii_digit) => {
                self.at += tag.len();
                let tag: String = tag.into_iter().collect();
                self.until(&tag, Place::Literal);
            }
            _ => self.at += 1,
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(dialect: Dialect, text: &str, expected: &[Place]) {
        assert_eq!(places(dialect, &text.replace('?', "\0")), expected, "{text}");
    }

    #[test]
    fn places_are_those_the_engine_would_see() {
        use Place::{Comment, Glued, Identifier, Literal, Open, Tight};
        for dialect in [Dialect::Postgres, Dialect::Sqlite, Dialect::DataFusion] {
            check(dialect, "a = ? and b in (?, ?) or c=?", &[Open, Open, Open, Open]);
            check(dialect, "a = '?' or b = 'it''s ?' or c = ?", &[Literal, Literal, Open]);
            check(dialect, "\"?\" = 1 -- ?\n and b = ? /* ? */ or ?", &[Identifier, Comment, Open, Comment, Open]);
            check(dialect, "5-? , x? , ?y , '' ?'' , ??", &[Tight, Glued, Glued, Glued, Glued, Glued]);
            check(dialect, "s.? , ?::date, -? , 'a' ?", &[Open, Open, Tight, Open]);
        }
        check(Dialect::Postgres, "/* /* */ ? */ ?", &[Comment, Open]);
        check(Dialect::Sqlite, "/* /* */ ?", &[Open]);
        check(Dialect::Sqlite, "[a?] `?`", &[Identifier, Identifier]);
        check(Dialect::Postgres, "a[ ?]", &[Open]);
        check(Dialect::Postgres, "E'\\' ?' ?", &[Literal, Open]);
        check(Dialect::Postgres, "'\\' ?", &[Open]);
        check(Dialect::Postgres, "$$ ' ? $$ ? $a$ $$ ? $a$ ? $1", &[Literal, Open, Literal, Open]);
        check(Dialect::DataFusion, "q'[it's]' ?", &[Literal]);
    }
}
