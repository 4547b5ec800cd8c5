//! Text → document with a span for every key and value.

pub mod template;
