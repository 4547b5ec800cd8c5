//! Text → document with a span for every key and value.

pub mod document;
pub mod file;
pub mod project;
pub mod schema;
pub mod shape;
pub mod stack;
mod syntax;
pub mod template;
pub mod yaml;

pub use document::Document;
pub use project::Project;
