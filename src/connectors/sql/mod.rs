//! SQL databases.

pub mod postgres;
pub mod sqlite;
