//! Single values between their text form and Arrow, shared by CSV and NDJSON.
//!
//! The text of a value and the value are the same thing here: what [`Printer`] writes, [`Builder`] of the same type reads back equal.

mod build;
mod calendar;
mod infer;
mod number;
mod parse;
mod print;

pub(super) use build::Builder;
pub(super) use infer::Guess;
pub(super) use print::{Printer, json_string};
