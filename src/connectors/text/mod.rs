//! Rows of text, shared by the systems that keep text: `rows` gathers them in chunks, `object` makes rows of JSON objects, `event` JSON objects
//! of changes.

mod event;
mod object;
mod rows;

pub(super) use event::{own_members, print_event};
pub(super) use object::{ObjectSample, Wanted, append, find, take, with_declared};
pub(super) use rows::{Rows, RowsOut, bad_value};
