//! `haul graph NAME`

use crate::plan;

use super::{CliError, Exit, Global, project, render};

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For Markdown pages
    Mermaid,
    /// For Graphviz
    Dot,
}

/// Draws a pipeline from its definition alone.
pub(super) fn run(global: &Global, args: Args) -> Result<Exit, CliError> {
    let project = project::open(global)?;
    let (name, path) = project::pipeline(&project, &args.name)?;
    let checked = plan::check(&name, &project::text(&path)?, &project);
    let Some(pipeline) = checked.pipeline else {
        return Err(CliError::refused(checked.diagnostics, Exit::Definition));
    };
    let graph = render::graph::graph(&pipeline);
    match (global.json, args.format) {
        (true, _) => render::json(&graph),
        (false, Format::Mermaid) => render::out(&graph.mermaid()),
        (false, Format::Dot) => render::out(&graph.dot()),
    }
    Ok(Exit::Done)
}
