//! What happened: run events, and their fold into the state of a run.
//!
//! The journal is for people and for going on with a cut run. It is never the truth about data: marks in the sinks are, so losing it
//! loses no rows.

mod event;

pub use event::{Cause, Event, Outcome, OutputReport, Verdict, What};
