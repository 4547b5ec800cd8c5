//! haul moves data between databases, Redis, HTTP and files, from pipelines written in YAML.
//!
//! This page is the map. Modules stand in the order data flows; a module may use those below it, never those above it (a test reads the
//! `use` lines). A file that says one thing is the rule; `mod.rs` holds a contract and re-exports.
//!
//! - [`cli`]: one file a verb. `cli::render` is the only place that prints.
//! - [`serve`]: what a project does by itself.
//! - [`schedule`]: what is due when. Pure: it reads no clock and starts nothing.
//! - [`run`]: one dispatcher owns the state of a run; units (one segment of the DAG, or one split of it) are tasks that talk to it by messages.
//! - [`feeds`]: what stages have written to feeds, served over HTTP. Knows no plans and no runs.
//! - [`plan`]: checked definition → sealed plan. Only a sealed plan can be run.
//! - [`cache`]: keyed rows that stages look up, and the sinks that fill them. Knows no plans and no runs.
//! - [`connectors`]: the open set of systems. They know the contract in `connectors::mod`, and nothing of plans or runs.
//! - [`transform`]: steps compiled once against real columns, then run on batches. Knows no source and no sink.
//! - [`define`]: document → checked pipeline, all problems at once. Does no I/O.
//! - [`load`]: text → document with a span for every key and value; templates. `load::yaml` alone names the YAML crate.
//! - [`journal`]: what happened, as events, and their fold into the state of a run. Knows no pipelines.
//! - [`data`]: what crosses an edge.
//! - [`tasks`]: work beside the task that asks for it.
//! - [`diagnostic`], [`failure`], [`dialect`], [`clock`], [`secret`]: leaves.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod cache;
pub mod cli;
pub mod clock;
pub mod connectors;
pub mod data;
pub mod define;
pub mod diagnostic;
pub mod dialect;
pub mod failure;
pub mod feeds;
pub mod journal;
pub mod load;
pub mod plan;
pub mod run;
pub mod schedule;
pub mod secret;
pub mod serve;
pub mod tasks;
pub mod transform;
