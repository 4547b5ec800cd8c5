//! Single values between their text form and Arrow: the one text form of each logical type, for everything that keeps values as text (the
//! fields of CSV and of Redis, the strings of JSON, the texts of SQLite, columns of text in PostgreSQL).
//!
//! The text of a value and the value are the same thing here: what [`Printer`] writes, [`Builder`] of the same type reads back equal.

mod build;
mod calendar;
mod cells;
mod infer;
pub(crate) mod json;
mod number;
pub(crate) mod parse;
mod print;
#[cfg(test)]
mod tests;

pub(crate) use build::Builder;
pub(crate) use calendar::DAY_MICROS;
pub(crate) use cells::Cells;
pub(crate) use infer::Guess;
pub(crate) use number::{finite_as_written, float_keeps, float32_keeps};
pub(crate) use print::Printer;
