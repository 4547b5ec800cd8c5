//! YAML text → document. The only file that names the YAML crate.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};
use serde_saphyr::budget::BudgetBreach;
use serde_saphyr::options::{DuplicateKeyPolicy, MergeKeyPolicy};
use serde_saphyr::{Error, Location, NonFiniteFloatPolicy, Spanned};

use super::document::{Document, Place, child};
use super::stack::on_a_deep_stack;
use super::syntax;
use crate::diagnostic::{Diagnostic, SourceText};

/// The most bytes one file may have.
pub const MAX_BYTES: usize = 1 << 20;
/// The deepest that lists and mappings may nest.
pub const MAX_DEPTH: usize = 64;
/// The most keys, values and collections in one file, each use of an alias counted.
pub const MAX_NODES: usize = 100_000;

/// Parses one file. Anchors, aliases and merge keys are resolved; every duplicate key and every template without quotes is reported.
pub fn parse(source: &Arc<SourceText>) -> Result<Document, Vec<Diagnostic>> {
    if source.text.len() > MAX_BYTES {
        let message = format!("the file has {} bytes; a pipeline may have {MAX_BYTES}", source.text.len());
        return Err(vec![Diagnostic::error("file-too-large", message).label(source, 0..0, "").help("split it into several pipelines")]);
    }
    on_a_deep_stack(|| parse_here(source))
}

fn parse_here(source: &Arc<SourceText>) -> Result<Document, Vec<Diagnostic>> {
    let root: Spanned<Node> = match serde_saphyr::from_str_with_options(&source.text, options()) {
        Ok(root) => root,
        Err(error) => return Err(vec![explain(source, &error)]),
    };
    let mut walk = Walk { source, places: HashMap::new(), problems: Vec::new() };
    let value = walk.node(root, None, String::new());
    if walk.places.len() > MAX_NODES {
        walk.problems.push(too_many_nodes().label(source, 0..0, ""));
    }
    if !walk.problems.is_empty() {
        return Err(walk.problems);
    }
    if value.is_null() {
        let empty = Diagnostic::error("file-empty", "the file says nothing").label(source, 0..0, "");
        return Err(vec![empty.help("a pipeline needs at least `stages:`")]);
    }
    Ok(Document::new(Arc::clone(source), value, walk.places))
}

/// YAML 1.2 as its core schema has it: `no` and `017` are texts. Duplicate keys are passed on, so that both places can be shown.
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: MAX_DEPTH, max_nodes: MAX_NODES, max_events: 8 * MAX_NODES, max_documents: 2 },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 2 * MAX_NODES, max_replay_stack_depth: MAX_DEPTH },
        emit_comments: false,
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        merge_keys: MergeKeyPolicy::Merge,
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        reject_unsupported_tags: true,
        with_snippet: false,
    }
}

/// A node before its places are taken apart from its value.
enum Node {
    Leaf(Value),
    List(Vec<Spanned<Node>>),
    Mapping(Vec<(Spanned<Key>, Spanned<Node>)>),
}

/// A key of a mapping. YAML allows any node; here only texts make sense.
enum Key {
    Text(String),
    Collection,
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Leaf(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Leaf(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Leaf(value.into()))
    }

    // Integers beyond 64 bits keep their size at least; where the digits matter, the text as written is used.
    fn visit_i128<E: serde::de::Error>(self, value: i128) -> Result<Node, E> {
        self.visit_f64(value as f64)
    }

    fn visit_u128<E: serde::de::Error>(self, value: u128) -> Result<Node, E> {
        self.visit_f64(value as f64)
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Leaf(Number::from_f64(value).map_or_else(|| Value::String(value.to_string()), Value::Number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Leaf(Value::String(value.to_owned())))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Leaf(Value::Null))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Node::Mapping(entries))
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KeyVisitor)
    }
}

struct KeyVisitor;

impl<'de> Visitor<'de> for KeyVisitor {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Key, E> {
        Ok(Key::Text(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Key, E> {
        Ok(Key::Text(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Key, E> {
        Ok(Key::Text(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Key, E> {
        Ok(Key::Text(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Key, E> {
        Ok(Key::Text(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Key, E> {
        Ok(Key::Text("null".to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Key, A::Error> {
        while access.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Key::Collection)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Key, A::Error> {
        while access.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Key::Collection)
    }
}

/// Takes nodes apart into values and places.
struct Walk<'a> {
    source: &'a Arc<SourceText>,
    places: HashMap<String, Place>,
    problems: Vec<Diagnostic>,
}

impl Walk<'_> {
    fn node(&mut self, node: Spanned<Node>, key: Option<Range<usize>>, pointer: String) -> Value {
        let text = &self.source.text;
        let mut place = Place { key, value: bytes(text, node.referenced), defined: bytes(text, node.defined) };
        if !matches!(node.value, Node::Leaf(_)) && place.value == place.defined {
            place.value = collection(text, &place);
        }
        let value = match node.value {
            Node::Leaf(value) => value,
            Node::List(items) => {
                let item = |(index, item): (usize, Spanned<Node>)| self.node(item, None, child(&pointer, &index.to_string()));
                Value::Array(items.into_iter().enumerate().map(item).collect())
            }
            Node::Mapping(entries) => self.mapping(entries, &pointer),
        };
        self.places.insert(pointer, place);
        value
    }

    fn mapping(&mut self, entries: Vec<(Spanned<Key>, Spanned<Node>)>, pointer: &str) -> Value {
        let mut object = serde_json::Map::with_capacity(entries.len());
        for (key, value) in entries {
            let at = bytes(&self.source.text, key.referenced);
            let Key::Text(name) = key.value else {
                let problem = syntax::bare_template(self.source, at.start).unwrap_or_else(|| {
                    Diagnostic::error("yaml-key", "a key is a list or a mapping").label(self.source, at, "keys are plain texts")
                });
                self.problems.push(problem);
                continue;
            };
            if object.contains_key(&name) {
                let first = self.places.get(&child(pointer, &name)).and_then(|place| place.key.clone()).unwrap_or_default();
                let problem = Diagnostic::error("duplicate-key", format!("the key `{name}` is given twice"))
                    .label(self.source, at, "again here")
                    .label(self.source, first, "first here");
                self.problems.push(problem.help("remove one of the two, or rename it"));
                continue;
            }
            let value = self.node(value, Some(at), child(pointer, &name));
            object.insert(name, value);
        }
        Value::Object(object)
    }
}

/// A location's bytes, without the line end that block scalars and collections carry behind them.
fn bytes(text: &str, location: Location) -> Range<usize> {
    let span = location.span();
    let start = usize::try_from(span.byte_offset().unwrap_or(0)).unwrap_or(0).min(text.len());
    let len = usize::try_from(span.byte_len().unwrap_or(0)).unwrap_or(0);
    let end = start.saturating_add(len).min(text.len());
    match text.get(start..end) {
        Some(part) => start..start + part.trim_end().len(),
        None => 0..0,
    }
}

/// Where to point for a list or mapping, of which the parser gives only the beginning: its key; for an item without a key, what stands
/// on its first line.
fn collection(text: &str, place: &Place) -> Range<usize> {
    match &place.key {
        Some(key) => key.clone(),
        None => {
            let start = place.value.start;
            let line = text[start..].split('\n').next().unwrap_or_default();
            start..start + line.trim_end().len()
        }
    }
}

fn too_many_nodes() -> Diagnostic {
    let message = format!("the file has more than {MAX_NODES} keys and values, with aliases counted where they are used");
    Diagnostic::error("file-too-large", message).help("split it into several pipelines, or use fewer aliases")
}

/// Says what the YAML parser refused; sentences about syntax are [`syntax::explain`]'s.
fn explain(source: &Arc<SourceText>, error: &Error) -> Diagnostic {
    let at = error.location().map_or(0..0, |location| place_of(&source.text, location));
    // An error inside of an alias is wrapped; the alias is the place that counts.
    let cause = match error.without_snippet() {
        Error::AliasError { error, .. } => error.without_snippet(),
        other => other,
    };
    match cause {
        Error::Budget { breach: BudgetBreach::Depth { .. }, .. } => {
            Diagnostic::error("file-too-deep", format!("lists and mappings nest deeper than {MAX_DEPTH}")).label(source, at, "here")
        }
        Error::Budget { .. } | Error::AliasReplayLimitExceeded { .. } | Error::AliasReplayStackDepthExceeded { .. } => {
            too_many_nodes().label(source, at, "reached here")
        }
        Error::MultipleDocuments { .. } => Diagnostic::error("yaml-syntax", "the file holds several YAML documents")
            .label(source, at, "the second one begins here")
            .help("a file is one pipeline: move each document to its own file"),
        Error::UnknownAnchor { .. } => Diagnostic::error("yaml-anchor", "the alias has no anchor before it")
            .label(source, at, "nothing is anchored under this name above")
            .help("write `&name` before the value that `*name` repeats"),
        Error::MergeValueNotMapOrSeqOfMaps { .. } => Diagnostic::error("yaml-anchor", "`<<` merges mappings only")
            .label(source, at, "not a mapping")
            .help("write `<<: *name` with the anchor on a mapping"),
        Error::UnsupportedTag { tag, .. } => Diagnostic::error("yaml-tag", format!("the tag `{tag}` means nothing here"))
            .label(source, at, "")
            .help("remove the tag; quote the value to make it a text"),
        other => syntax::explain(source, &other.to_string(), at),
    }
}

/// The byte a location names by line and column: errors carry no byte offsets. One character wide.
fn place_of(text: &str, location: Location) -> Range<usize> {
    if location.span().byte_offset().is_some() {
        return bytes(text, location);
    }
    let line = usize::try_from(location.line()).unwrap_or(1).max(1);
    let column = usize::try_from(location.column()).unwrap_or(1).max(1);
    let line_start = text.split_inclusive('\n').take(line - 1).map(str::len).sum::<usize>();
    let column_bytes: usize = text[line_start..].chars().take(column - 1).map(char::len_utf8).sum();
    syntax::visible(text, line_start + column_bytes)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document(text: &str) -> Document {
        let source = Arc::new(SourceText { path: "test.yaml".to_owned(), text: text.to_owned() });
        parse(&source).unwrap_or_else(|problems| panic!("{text:?}: {problems:?}"))
    }

    #[test]
    fn scalars_are_those_of_yaml_1_2() {
        let text = "a: no\nb: 017\nc: 1_000\nd: 2020-01-01\ne: true\nf: ~\ng: 0x10\nh: 1.50\ni: .inf\nj: on\n";
        let expected = json!({
            "a": "no", "b": "017", "c": "1_000", "d": "2020-01-01", "e": true, "f": null, "g": 16, "h": 1.5, "i": ".inf", "j": "on"
        });
        assert_eq!(document(text).value, expected);
    }

    #[test]
    fn every_key_and_value_has_its_place() {
        let document = document("a: 1\nb: {c: 'x', d: [1, 22]}\nlist:\n  - k: v\nb~/: \"q\"\n");
        let text = |span: Range<usize>| &document.source.text[span];
        assert_eq!(text(document.value_span("/b/c")), "'x'");
        assert_eq!(text(document.key_span("/b/d")), "d");
        assert_eq!(text(document.value_span("/b/d/1")), "22");
        assert_eq!(text(document.value_span("/list/0")), "k: v");
        assert_eq!(text(document.value_span("/b~0~1")), "\"q\"");
        assert_eq!(text(document.value_span("/list/0/gone/deeper")), "k: v");
        assert_eq!(document.inner_span("/b/c", 0..1).map(text), Some("x"));
    }

    #[test]
    fn aliases_and_merges_point_to_their_use() {
        let document = document("base: &b {x: 1, y: 2}\nc: {<<: *b, y: 3}\n");
        assert_eq!(document.value["c"], json!({ "y": 3, "x": 1 }));
        assert_eq!(&document.source.text[document.value_span("/c/x")], "*b");
        assert_eq!(document.written("/c/x"), Some("1"));
    }

    #[test]
    fn limits_hold() {
        let refused = |text: String| {
            let source = Arc::new(SourceText { path: "test.yaml".to_owned(), text });
            parse(&source).err().map(|problems| problems[0].code)
        };
        assert_eq!(refused(format!("a: {}", "x".repeat(MAX_BYTES))), Some("file-too-large"));
        assert_eq!(refused(format!("a: {}{}", "[".repeat(65), "]".repeat(65))), Some("file-too-deep"));
        assert_eq!(refused(format!("a: {}{}", "[".repeat(20_000), "]".repeat(20_000))), Some("file-too-deep"));
        assert_eq!(refused(format!("a: {}1{}", "[".repeat(60), "]".repeat(60))), None);
        assert_eq!(refused(format!("a: [{}]", "1,".repeat(MAX_NODES))), Some("file-too-large"));
        let mut bomb = "a: &a [1,1,1,1,1,1,1,1,1,1]\n".to_owned();
        for (next, last) in ["b", "c", "d", "e", "f"].iter().zip(["a", "b", "c", "d", "e"]) {
            bomb += &format!("{next}: &{next} [{}]\n", format!("*{last},").repeat(10));
        }
        assert_eq!(refused(bomb), Some("file-too-large"));
    }
}
