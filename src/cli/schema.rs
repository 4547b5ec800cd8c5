//! `haul schema`: the JSON Schemas of the files a user writes.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::Value;

use crate::load::schema;

/// Prints the JSON Schema of pipelines, or writes the schemas' files.
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

/// The schema files by name.
pub fn files() -> [(&'static str, Value); 2] {
    [("pipeline.schema.json", schema::pipeline()), ("project.schema.json", schema::project())]
}

/// Runs the verb.
pub fn run(args: &Args) -> ExitCode {
    let Some(folder) = &args.write else {
        let schema = match args.which {
            Which::Pipeline => schema::pipeline(),
            Which::Project => schema::project(),
        };
        super::render::diagnostics::print(&schema::text(&schema));
        return ExitCode::SUCCESS;
    };
    match write(folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            super::render::diagnostics::complain(&format!("cannot write the schemas below {}: {error}", folder.display()));
            ExitCode::from(3)
        }
    }
}

fn write(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for (name, schema) in files() {
        std::fs::write(folder.join(name), schema::text(&schema))?;
    }
    Ok(())
}
