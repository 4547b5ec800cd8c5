//! What happened: run events, and their fold into the state of a run.
//!
//! The journal is for people and for going on with a cut run. It is never the truth about data: marks in the sinks are, so losing it
//! loses no rows. [`Journal`] is the handle; a thread of its own owns the store (SQLite or PostgreSQL), so no disk is waited for on an
//! async thread, and events that wait together are committed together.

mod event;
mod fold;
mod handle;
mod keeper;
mod postgres;
mod record;
mod schedule;
mod sqlite;
mod store;

pub use event::{Cause, Event, LookupReport, Outcome, OutputReport, Verdict, What};
pub use fold::{AttemptState, RunNote, RunState, RunSummary, SplitState, StageState, fold};
pub use handle::{Journal, Lease};
pub use schedule::{Decided, Pause, SEPARATOR, Tick, TickState};

/// Where the journal is when neither the project nor the caller says otherwise, relative to the project.
pub const DEFAULT_URL: &str = "sqlite:.haul/state.db";
