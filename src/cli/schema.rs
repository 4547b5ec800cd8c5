//! `haul schema`: the JSON Schemas of the files a user writes.

use std::path::PathBuf;

use super::{CliError, Exit, Global, render};
use crate::load::schema;

/// Arguments of `haul schema`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which schema to print
    #[arg(value_enum, default_value = "pipeline")]
    which: Which,
    /// Write `pipeline.schema.json` and `project.schema.json` below this folder instead of printing
    #[arg(long, value_name = "FOLDER", num_args = 0..=1, default_missing_value = "schema")]
    write: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Which {
    /// A file below `pipelines/`
    Pipeline,
    /// `haul.yaml`
    Project,
}

/// Prints one schema, or writes both.
pub(super) fn run(_global: &Global, args: Args) -> Result<Exit, CliError> {
    let Some(folder) = &args.write else {
        let schema = match args.which {
            Which::Pipeline => schema::pipeline(),
            Which::Project => schema::project(),
        };
        render::out(schema::text(&schema).trim_end());
        return Ok(Exit::Done);
    };
    let failed = |error: std::io::Error| {
        CliError::new(Exit::Environment, format!("failed to write the schemas below {}: {error}", folder.display()))
    };
    std::fs::create_dir_all(folder).map_err(failed)?;
    for (name, schema) in schema::files() {
        std::fs::write(folder.join(name), schema::text(&schema)).map_err(failed)?;
    }
    Ok(Exit::Done)
}
