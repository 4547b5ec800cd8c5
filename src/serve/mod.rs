//! What a project does by itself.

mod definitions;

pub use definitions::{Definition, Definitions};
