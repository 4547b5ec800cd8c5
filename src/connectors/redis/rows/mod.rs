//! Keys of a Redis server as rows.
//!
//! - `layout`: which columns a shape of keys has, and where in a key or its value each stands.
//! - `source`, `sample`, `reading`, `fetch`, `decode`: keys → rows. `follow`: one key that is followed. `channel`: messages as
//!   they are published. `sink`, `target`, `writer`, `encode`, `proof`, `changes`: rows → keys.

mod changes;
mod channel;
mod decode;
mod encode;
mod fetch;
mod follow;
mod layout;
mod place;
mod proof;
mod reading;
mod sample;
mod sink;
mod source;
mod target;
mod writer;

use std::sync::Arc;

pub(super) use self::place::behind;
use super::Server;
use crate::connectors::{Sink, Source};
use crate::define::pipeline::{RedisFollow, RedisRows, RedisRowsSink};

impl Server {
    /// Rows read out of keys.
    pub fn rows(self: &Arc<Self>, spec: &RedisRows) -> Arc<dyn Source> {
        Arc::new(source::RowSource::new(Arc::clone(self), spec.clone()))
    }

    /// Rows of one key as they come.
    pub fn follow(self: &Arc<Self>, spec: &RedisFollow) -> Arc<dyn Source> {
        Arc::new(follow::FollowSource::new(Arc::clone(self), spec.clone()))
    }

    /// Rows of messages as they are published.
    pub fn channel(self: &Arc<Self>, spec: &RedisRows) -> Arc<dyn Source> {
        Arc::new(channel::ChannelSource::new(Arc::clone(self), spec.clone()))
    }

    /// Rows written into keys.
    pub fn rows_sink(self: &Arc<Self>, spec: &RedisRowsSink) -> Arc<dyn Sink> {
        Arc::new(sink::RowSink::new(Arc::clone(self), spec.clone()))
    }
}
