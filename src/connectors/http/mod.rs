//! HTTP APIs: pages of rows in.
//!
//! - `api`: a connection: its client, its credentials, the one way to ask for something. `guard`: which addresses may be asked. `answer`: what a
//!   status means for a run.
//! - `source`: which columns. `pages`: which page comes next. `page`, `body`: one answer → rows, with the formats of files.
//!
//! Credentials are sent to the connection's own host only, and neither they nor queries ever show.

mod answer;
mod api;
mod body;
mod guard;
mod page;
mod pages;
mod source;

pub use api::Api;
