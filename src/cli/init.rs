//! `haul init [DIR]`

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::load::schema;

use super::{CliError, Exit, Global, render};

/// Arguments of `haul init`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where; made when it does not exist
    #[arg(default_value = ".")]
    dir: PathBuf,
}

/// Writes a small project that runs at once, without any server. Nothing is overwritten.
pub(super) fn run(global: &Global, args: Args) -> Result<Exit, CliError> {
    let dir = global.project.as_ref().map_or_else(|| args.dir.clone(), |project| project.join(&args.dir));
    let files = [
        ("haul.yaml", include_str!("init/haul.yaml").to_owned()),
        ("pipelines/hello.yaml", include_str!("init/hello.yaml").to_owned()),
        ("schema/pipeline.schema.json", schema::text(&schema::pipeline())),
        ("schema/project.schema.json", schema::text(&schema::project())),
    ];
    let taken: Vec<String> = files.iter().map(|(path, _)| dir.join(path)).filter(|path| path.exists()).map(|path| shown(&path)).collect();
    if !taken.is_empty() {
        let verb = if taken.len() == 1 { "exists" } else { "exist" };
        return Err(CliError::new(Exit::Environment, format!("{} {verb} already", taken.join(", ")))
            .help("name an empty folder: `haul init DIR`; nothing was written"));
    }
    for (path, text) in &files {
        write_new(&dir.join(path), text)?;
    }
    let ignores = dir.join(".gitignore");
    let ignored = !ignores.exists();
    if ignored {
        write_new(&ignores, include_str!("init/gitignore"))?;
    }
    let mut written: Vec<String> = files.iter().map(|(path, _)| shown(&dir.join(path))).collect();
    written.extend(ignored.then(|| shown(&ignores)));
    if global.json {
        render::json(&serde_json::json!({ "written": written }));
    } else {
        let enter = if dir == Path::new(".") { String::new() } else { format!("cd {} && ", dir.display()) };
        let lines = written.iter().map(|path| format!("wrote {path}\n")).collect::<String>();
        render::out(&format!("{lines}next: {enter}haul run hello"));
    }
    Ok(Exit::Done)
}

/// Writes a file that does not exist yet, with its folders.
pub(super) fn write_new(path: &Path, text: &str) -> Result<(), CliError> {
    let write = || {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::File::create_new(path)?.write_all(text.as_bytes())
    };
    write().map_err(|error| CliError::new(Exit::Environment, format!("failed to write {}: {error}", shown(path))))
}

/// A path as the user would write it.
pub(super) fn shown(path: &Path) -> String {
    path.strip_prefix(".").unwrap_or(path).display().to_string()
}
