//! Templates over rows: the keys of a store, in which `{{ column }}` stands for the text of a row's value.
//!
//! They are read both ways. A row gives its key; a key gives back the texts of the row's columns, as long as some text stands between any two
//! of them. Everything but bare column names is rendered when the pipeline is read, as in any other template.

use std::fmt;
use std::ops::Range;

use super::tags::{self, Piece};
use super::{Problem, ROOTS};

/// The way out of everything that is more than a column.
const SET: &str = "write `{{ column }}`, and compute what is more than a column in a `set` step";

/// A text with columns in it, cut into its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyTemplate {
    parts: Vec<Part>,
}

/// A part of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Text that stands as it is; never empty, and never beside another text.
    Text(String),
    /// The text of this column's value.
    Column(String),
}

/// Stands for the bytes of a column's tag while the rest of a template is rendered. No key needs a NUL next to its columns.
const HOLE: char = '\0';

/// A template whose columns are cut out, so that the rest can be rendered as any other template.
pub struct Holes {
    /// The template, each column's tag replaced by as many NULs: what stands after them stays in its place.
    pub text: String,
    /// The columns and the bytes their tags took, in order.
    columns: Vec<(String, Range<usize>)>,
}

impl Holes {
    /// Cuts the columns out: expressions that are one bare word which is not a name of the template language. Expressions that are more than
    /// a column, or than what a pipeline knows before it runs, are a problem.
    pub fn cut(template: &str) -> Result<Self, Problem> {
        if template.contains(HOLE) {
            return Err(wrong("the key holds a NUL character").help("remove it"));
        }
        let mut text = template.to_owned();
        let mut columns = Vec::new();
        for piece in tags::pieces(template) {
            match piece {
                Piece::Text(_) => {}
                Piece::Statement(span) => return Err(wrong("a key cannot hold statements").at(span).help(SET)),
                Piece::Expression(span) => {
                    let inner = &template[span.start + 2..span.end - 2];
                    let inner = inner.strip_prefix('-').unwrap_or(inner);
                    let inner = inner.strip_suffix('-').unwrap_or(inner).trim();
                    let Some(first) = tags::words(template, span.clone()).next() else { continue };
                    if ROOTS.contains(&first.text) {
                        continue;
                    }
                    if first.text != inner {
                        return Err(wrong("an expression over columns in a key must be one column").at(span).help(SET));
                    }
                    text.replace_range(span.clone(), &HOLE.to_string().repeat(span.len()));
                    columns.push((inner.to_owned(), span));
                }
            }
        }
        Ok(Self { text, columns })
    }

    /// The key's parts, from the rendered text of the rest. Two columns without text between them are a problem: a key would not tell where
    /// one ends.
    pub fn fill(&self, rendered: &str) -> Result<KeyTemplate, Problem> {
        let mut parts: Vec<Part> = Vec::new();
        let mut rest = rendered;
        for (place, (name, span)) in self.columns.iter().enumerate() {
            let at = rest.find(HOLE).ok_or_else(|| wrong("the key cannot be rendered"))?;
            let (text, hole) = rest.split_at(at);
            rest = hole.get(span.len()..).ok_or_else(|| wrong("the key cannot be rendered"))?;
            if !text.is_empty() {
                parts.push(Part::Text(text.to_owned()));
            } else if place > 0 {
                let before = &self.columns[place - 1].0;
                let message = format!("nothing stands between `{before}` and `{name}`, so a key would not tell where one ends");
                return Err(wrong(message).at(span.clone()).help("put a text such as `:` between them"));
            }
            if self.columns[..place].iter().any(|(other, _)| other == name) {
                return Err(wrong(format!("the key names the column `{name}` twice")).at(span.clone()).help("name it once"));
            }
            parts.push(Part::Column(name.clone()));
        }
        if rest.contains(HOLE) {
            return Err(wrong("the key holds a NUL character").help("remove it"));
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(KeyTemplate { parts })
    }
}

fn wrong(message: impl Into<String>) -> Problem {
    super::problem("key-template", message)
}

impl KeyTemplate {
    /// The parts, in order.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The columns, in the order they stand in the key.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Column(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// The key itself, when no column stands in it.
    pub fn constant(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The text before the first column.
    pub fn prefix(&self) -> &str {
        match self.parts.first() {
            Some(Part::Text(text)) => text,
            _ => "",
        }
    }

    /// The pattern that all keys match, in the form of Redis's `MATCH`.
    pub fn pattern(&self) -> String {
        let mut pattern = String::new();
        for part in &self.parts {
            match part {
                Part::Column(_) => pattern.push('*'),
                Part::Text(text) => {
                    for letter in text.chars() {
                        if matches!(letter, '*' | '?' | '[' | ']' | '\\' | '^' | '-') {
                            pattern.push('\\');
                        }
                        pattern.push(letter);
                    }
                }
            }
        }
        pattern
    }

    /// The bytes of each column in a key; `None` when the key is not one of this template. A column ends where the text behind it first
    /// stands, and the last one at the end of the key.
    pub fn read<'k>(&self, key: &'k [u8]) -> Option<Vec<&'k [u8]>> {
        let mut values = Vec::with_capacity(self.parts.len() / 2 + 1);
        let mut rest = key;
        let mut parts = self.parts.iter().peekable();
        while let Some(part) = parts.next() {
            match part {
                Part::Text(text) => rest = rest.strip_prefix(text.as_bytes())?,
                Part::Column(_) => {
                    let value = match parts.next() {
                        None => std::mem::take(&mut rest),
                        Some(Part::Text(text)) if parts.peek().is_none() => {
                            let value = rest.strip_suffix(text.as_bytes())?;
                            rest = b"";
                            value
                        }
                        Some(Part::Text(text)) => {
                            let at = find(rest, text.as_bytes())?;
                            let (value, behind) = rest.split_at(at);
                            rest = &behind[text.len()..];
                            value
                        }
                        // Two columns never stand side by side.
                        Some(Part::Column(_)) => return None,
                    };
                    values.push(value);
                }
            }
        }
        rest.is_empty().then_some(values)
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// As it would be written in a pipeline.
impl fmt::Display for KeyTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.iter().try_for_each(|part| match part {
            Part::Text(text) => f.write_str(text),
            Part::Column(name) => write!(f, "{{{{ {name} }}}}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(text: &str) -> Result<KeyTemplate, String> {
        let holes = Holes::cut(text).map_err(|problem| problem.message)?;
        holes.fill(&holes.text).map_err(|problem| problem.message)
    }

    fn check(text: &str, key: &str, expected: Option<&[&str]>) {
        let template = template(text).expect(text);
        assert_eq!(template.to_string(), text);
        let found = template.read(key.as_bytes());
        let found: Option<Vec<&str>> = found.map(|values| values.iter().map(|value| std::str::from_utf8(value).unwrap()).collect());
        assert_eq!(found.as_deref(), expected, "{text} {key}");
    }

    #[test]
    fn keys_are_read_backwards() {
        check("user:{{ id }}", "user:42", Some(&["42"]));
        check("user:{{ id }}", "user:", Some(&[""]));
        check("user:{{ id }}", "users:42", None);
        check("{{ a }}:{{ b }}", "x:y:z", Some(&["x", "y:z"]));
        check("{{ a }}:b", "x:b:b", Some(&["x:b"]));
        check("{{ a }}:b", "x:c", None);
        check("a{{ a }}aa", "aaa", Some(&[""]));
        check("a{{ a }}aa", "aa", None);
        check("{{ ü }}", "é", Some(&["é"]));
        check("orders", "orders", Some(&[]));
        check("orders", "orders2", None);
    }

    #[test]
    fn patterns_take_texts_as_they_are() {
        assert_eq!(template("a*[{{ b }}]?\\{{ c }}").unwrap().pattern(), "a\\*\\[*\\]\\?\\\\*");
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for (text, part) in [
            ("{{ a }}{{ b }}", "nothing stands between `a` and `b`"),
            ("{{ a | upper }}", "must be one column"),
            ("{{ a }}:{{ a }}", "twice"),
            ("{% if a %}b{% endif %}", "statements"),
        ] {
            assert!(template(text).expect_err(text).contains(part), "{text}");
        }
    }

    #[test]
    fn what_is_known_before_is_rendered_around_the_columns() {
        let holes = Holes::cut("{{ params.env }}:{{ id }}:x").expect("a key");
        let rendered = holes.text.replace("{{ params.env }}", "test");
        assert_eq!(holes.fill(&rendered).expect("a key").to_string(), "test:{{ id }}:x");
    }
}
