//! Runs a sealed plan.

pub mod progress;
