//! Keys that are copied as they are, from one server to another.
//!
//! A key is a row: its name, its type, when it expires, and its value in one of two forms (see [`value`]): the payload of `DUMP`, or commands
//! that make it. A key that is too large for one row is several, in order, each with a piece of its value as commands.

mod check;
mod compare;
mod expiry;
mod glob;
mod payload;
mod pieces;
mod reading;
mod scan;
mod sink;
mod source;
mod target;
mod value;
mod writer;

use crate::data::{Column, Schema, Type};

/// The names of the columns, in order.
const COLUMNS: [&str; 4] = ["key", "type", "expires_at", "value"];

/// What `native` says of the key's column as long as it is the source's own.
const KEY: &str = "key";

/// What `native` says of the value's column: before the version of the payloads' format, and where there are none.
const DUMP_OF: &str = "DUMP of version ";
/// What it says where the source refuses `DUMP`.
const NO_DUMP: &str = "commands: the source refuses DUMP";

/// The columns of keys. `carried` says how their values can be carried, for plans and for the target to read.
fn schema(carried: &str) -> Schema {
    let column = |name: &str, ty: Type, nullable: bool, native: &str| Column {
        name: name.to_owned(),
        ty,
        nullable,
        native: Some(native.to_owned()),
    };
    Schema {
        columns: vec![
            column(COLUMNS[0], Type::Bytes, false, KEY),
            column(COLUMNS[1], Type::Text, false, "type"),
            column(COLUMNS[2], Type::TimestampTz, true, "expiry"),
            column(COLUMNS[3], Type::Native { engine: "redis", name: "value".to_owned() }, false, carried),
        ],
    }
}

/// A key for people: its text where it is plain, with escapes where it is not, cut to a readable length.
fn shown(key: &[u8]) -> String {
    const MOST: usize = 120;
    let text = key.escape_ascii().to_string();
    let text = std::str::from_utf8(key).map_or(text, |plain| plain.escape_debug().to_string());
    if text.chars().count() <= MOST { text } else { text.chars().take(MOST).chain("…".chars()).collect() }
}
