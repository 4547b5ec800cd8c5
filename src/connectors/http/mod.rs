//! HTTP APIs: pages and feeds of rows in, requests with rows out.
//!
//! - `api`: a connection: its client, its credentials, the one way to ask for something. `guard`: which addresses may be asked. `answer`: what a
//!   status means for a run.
//! - `source`: which columns. `pages`: which page comes next. `page`, `body`: one answer → rows, with the formats of files.
//! - `follow`: feeds. `frames`: lines and events. `socket`: messages of a WebSocket. `note`: what haul's own feeds say.
//! - `sink`: what rows become. `writer`: requests and their keys, `changes` what they say of changes. `record`: what was sent.
//!
//! Credentials are sent to the connection's own host only, and neither they nor queries ever show.

mod answer;
mod api;
mod body;
mod changes;
mod follow;
mod frames;
mod guard;
mod note;
mod page;
mod pages;
mod record;
mod sink;
mod socket;
mod source;
mod writer;

pub use api::Api;
