//! A parsed file: its value, and where in the text each key and value of it stands.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use crate::diagnostic::{Diagnostic, SourceText};

/// Bytes of one node in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The key before the value; `None` for list items and for the root.
    pub key: Option<Range<usize>>,
    /// The value: where it is used. For an alias that is the alias.
    pub value: Range<usize>,
    /// Where the value is written: differs from `value` for aliases and merged keys.
    pub defined: Range<usize>,
}

/// One file, parsed. Places are found by JSON pointer, such as `/stages/orders/from/table`.
#[derive(Clone, Debug)]
pub struct Document {
    /// The text.
    pub source: Arc<SourceText>,
    /// What it says.
    pub value: serde_json::Value,
    pub(super) places: HashMap<String, Place>,
}

impl Document {
    /// Joins a value and its places; the places hold the root under the empty pointer.
    pub fn new(source: Arc<SourceText>, value: serde_json::Value, places: HashMap<String, Place>) -> Self {
        Self { source, value, places }
    }

    /// What stands at a pointer.
    pub fn get(&self, pointer: &str) -> Option<&serde_json::Value> {
        self.value.pointer(pointer)
    }

    /// The place of a node that exists.
    pub fn place(&self, pointer: &str) -> Option<&Place> {
        self.places.get(pointer)
    }

    /// The key at a pointer; without one, its value. A pointer to nothing falls back to the nearest node above it that exists.
    pub fn key_span(&self, pointer: &str) -> Range<usize> {
        let place = self.nearest(pointer);
        place.map_or(0..0, |place| place.key.clone().unwrap_or_else(|| place.value.clone()))
    }

    /// The value at a pointer. A pointer to nothing falls back to the key of the nearest node above it that exists.
    pub fn value_span(&self, pointer: &str) -> Range<usize> {
        match self.places.get(pointer) {
            Some(place) => place.value.clone(),
            None => self.key_span(pointer),
        }
    }

    /// The scalar at a pointer as it is written, quotes included.
    pub fn written(&self, pointer: &str) -> Option<&str> {
        self.source.text.get(self.places.get(pointer)?.defined.clone())
    }

    /// The span of a part of a scalar's text, given in bytes of the value. `None` when the text in the file is not the value's text
    /// letter for letter: escapes, folded texts.
    pub fn inner_span(&self, pointer: &str, part: Range<usize>) -> Option<Range<usize>> {
        let value = self.get(pointer)?.as_str()?;
        let written = self.written(pointer)?;
        if value.contains('\n') {
            return self.block_span(pointer, value, part);
        }
        let offset = if written == value {
            0
        } else {
            let inner = written.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
            let inner = inner.or_else(|| written.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')));
            if inner != Some(value) {
                return None;
            }
            1
        };
        let start = self.places.get(pointer)?.defined.start + offset;
        value.get(part.clone()).map(|_| start + part.start..start + part.end)
    }

    /// A diagnostic's first place: the value at a pointer.
    pub fn at_value(&self, diagnostic: Diagnostic, pointer: &str, text: impl Into<String>) -> Diagnostic {
        diagnostic.label(&self.source, self.value_span(pointer), text)
    }

    /// A diagnostic's first place: the key at a pointer.
    pub fn at_key(&self, diagnostic: Diagnostic, pointer: &str, text: impl Into<String>) -> Diagnostic {
        diagnostic.label(&self.source, self.key_span(pointer), text)
    }

    /// The same in a literal block (`|`), whose lines are those of the value behind an indentation.
    fn block_span(&self, pointer: &str, value: &str, part: Range<usize>) -> Option<Range<usize>> {
        let text = &self.source.text;
        let start = self.places.get(pointer)?.defined.start;
        let indent = start - text[..start].rfind('\n').map_or(0, |line| line + 1);
        let (line, column) = {
            let before = value.get(..part.start)?;
            (before.matches('\n').count(), part.start - before.rfind('\n').map_or(0, |line| line + 1))
        };
        let first_line = start - indent;
        let line_start = first_line + text[first_line..].split_inclusive('\n').take(line).map(str::len).sum::<usize>();
        let at = line_start + indent + column;
        // A part over several lines is shown to the end of its first one.
        let shown = value.get(part)?.split('\n').next()?;
        (text.get(at..at + shown.len())? == shown).then(|| at..at + shown.len())
    }

    fn nearest(&self, pointer: &str) -> Option<&Place> {
        let mut pointer = pointer;
        loop {
            if let Some(place) = self.places.get(pointer) {
                return Some(place);
            }
            pointer = &pointer[..pointer.rfind('/')?];
        }
    }
}

/// A JSON pointer's last part, unescaped; empty for the root.
pub fn last_key(pointer: &str) -> String {
    pointer.rsplit('/').next().unwrap_or_default().replace("~1", "/").replace("~0", "~")
}

/// One step further down a JSON pointer.
pub fn child(pointer: &str, key: &str) -> String {
    let mut child = String::with_capacity(pointer.len() + 1 + key.len());
    child.push_str(pointer);
    child.push('/');
    for char in key.chars() {
        match char {
            '~' => child.push_str("~0"),
            '/' => child.push_str("~1"),
            plain => child.push(plain),
        }
    }
    child
}
