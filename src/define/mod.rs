//! Document → checked pipeline, all problems at once.

pub mod pipeline;
