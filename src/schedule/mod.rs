//! Decides what runs when. Pure: time comes in as a number, nothing is read, written or started here.
//!
//! [`book`] keeps what has been decided of all schedules; [`tick`] knows when a schedule's ticks are, [`due`] which of them are due, given
//! what was decided last; [`triggers`] what is wrong with pipelines that run after each other.

pub mod book;
mod due;
pub mod tick;
pub mod triggers;

pub use due::{Due, Missed, due};

use crate::define::pipeline::Schedule;

/// Where the data interval of a run begins that nobody had scheduled: the tick before, of the first of its schedules that has ticks.
pub fn interval_start(schedule: &Schedule, at_ms: i64) -> Option<i64> {
    schedule.entries.iter().find_map(|entry| tick::previous(&entry.when, at_ms))
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
