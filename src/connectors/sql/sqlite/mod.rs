//! SQLite, in process.
//!
//! - [`Database`] opens the file and hands out sources and sinks.
//! - `types` and `value` say what values become; `encode` and `decode` move them between Arrow and SQLite.
//! - `table` looks at what the database holds. `source` and `reading` read it, `poll` follows a cursor.
//! - `sink` and `tables` (several at once) begin loads and `marks` records them, `target` plans the shape of a table, `writer` commits splits (`once`, `insert`, `compare`),
//!   `apply` makes changes, `sift` finds rows that are refused, `publish` makes a load visible.
//!
//! SQLite has one writer at a time. Nothing here holds that place while it waits for rows, but for transactions of changes that are too large for
//! memory: a writer gathers a split (in memory, then in its own temporary file) and takes the place only to commit it.

mod apply;
mod compare;
mod connection;
mod decode;
mod encode;
mod insert;
pub(in crate::connectors) mod marks;
mod once;
mod poll;
mod publish;
mod reading;
mod sift;
mod sink;
mod source;
mod table;
mod tables;
mod target;
mod types;
mod value;
mod writer;

pub use connection::Database;
pub(in crate::connectors) use connection::blocking;
pub(in crate::connectors) use once::Once;
pub(in crate::connectors) use sink::{check_epoch, in_transaction};
