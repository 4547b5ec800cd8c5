//! Feeds: rows and changes kept as numbered events, which are served over HTTP.
//!
//! A feed is one SQLite file below the project's `.haul/feeds`. One transaction holds a commit's events, the newest row of each key and the mark
//! of the load, so that a killed writer leaves all of them or none; readers, in this process or another, see whole commits only and hold
//! nobody up. Events lie in blocks of many lines, so that a reader takes hundreds of them as one value.
//!
//! - `encode`: rows and changes → events. `writer`: events → blocks, with their mark. `append`: numbers, blocks, newest rows, what is dropped.
//! - `sink`: loads. `file`: the tables. `log`: what readers see.

mod append;
mod encode;
mod file;
mod log;
mod sink;
mod writer;

pub use file::{Settings, folder, path};
pub use log::{Block, Edges, Log};
pub use sink::sink;
