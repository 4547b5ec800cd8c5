//! `haul graph NAME`

use clap::ValueEnum;

use super::{CliError, Exit, Global, render};

/// Arguments of `haul graph`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The pipeline's name, or the path of its file
    name: String,
    /// The language of the drawing
    #[arg(long, value_enum, default_value_t = Format::Mermaid)]
    format: Format,
}

/// The languages a graph can be drawn in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For Markdown pages
    Mermaid,
    /// For Graphviz
    Dot,
}
