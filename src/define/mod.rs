//! Document → checked pipeline, all problems at once.
//!
//! [`check`] reads a file as far as it goes without any environment and reports every problem that is in it. [`resolve`] gives the same
//! file its params and environment, and answers with the pipeline that a plan is made from. Neither does any I/O.

mod caches;
mod check;
pub mod codes;
mod conform;
mod connections;
mod feeds;
mod graph;
mod http;
mod inputs;
mod keys;
mod labels;
mod notify;
mod outputs;
mod overlap;
mod params;
pub mod pipeline;
mod reader;
mod redis;
mod resolve;
pub mod schedule;
mod stages;
mod steps;
mod streams;
mod tables;

pub use crate::load::Project;
pub use check::{Checked, check, check_project, has_errors, in_file_order};
pub use feeds::{FeedServer, feed_server};
pub use notify::{Notice, Request, requests};
pub use reader::Grammar;
pub use resolve::{Given, Resolved, RunFacts, resolve, state_url};
pub use tables::full_name;
