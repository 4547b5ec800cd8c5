//! Decides what runs when. Pure: time comes in as a number, nothing is read, written or started here.
//!
//! [`tick`] knows when a schedule's ticks are, [`due`] which of them are due, given what was decided last; [`triggers`] what is wrong with pipelines that run after each other.

mod due;
pub mod tick;
pub mod triggers;

pub use due::{Due, Missed, due};

#[cfg(test)]
mod tests;
