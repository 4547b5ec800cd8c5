//! SQL databases.

mod cursor;
pub mod postgres;
pub mod sqlite;
