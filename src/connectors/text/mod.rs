//! Rows of text, shared by the systems that keep text: `rows` gathers them in chunks, `object` makes rows of JSON objects.

mod object;
mod rows;

pub(super) use object::{ObjectSample, Wanted, append, find, take, with_declared};
pub(super) use rows::{Rows, RowsOut, bad_value};
