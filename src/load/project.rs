//! Finds a project: the folder that holds `haul.yaml` or `pipelines/`, and the pipelines in it by name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::document::Document;
use super::yaml;
use crate::diagnostic::suggest::known_names;
use crate::diagnostic::{Diagnostic, SourceText};
use crate::failure::Failure;

/// The project file's name.
pub const FILE: &str = "haul.yaml";
/// The folder of pipelines beside it.
pub const PIPELINES: &str = "pipelines";
/// The file of environment variables beside it.
const ENV_FILE: &str = ".env";

/// A folder with pipelines, and what its project file says.
#[derive(Clone, Debug)]
pub struct Project {
    /// The folder. Paths in pipelines are relative to it.
    pub base: PathBuf,
    /// The project file, when there is one that can be parsed and says something.
    pub document: Option<Document>,
    /// What keeps the project file from being parsed.
    pub diagnostics: Vec<Diagnostic>,
    /// Variables of the `.env` file, which count where the environment has none of the name.
    pub variables: BTreeMap<String, String>,
}

impl Project {
    /// A project without a project file.
    pub fn bare(base: impl Into<PathBuf>) -> Self {
        Self { base: base.into(), document: None, diagnostics: Vec::new(), variables: BTreeMap::new() }
    }

    /// A project whose project file has this text; nothing is read.
    pub fn with_file(base: impl Into<PathBuf>, source: &Arc<SourceText>) -> Self {
        let mut project = Self::bare(base);
        match yaml::parse(source) {
            Ok(document) => project.document = Some(document),
            // A project file may be there only to mark the folder.
            Err(problems) => project.diagnostics = problems.into_iter().filter(|problem| problem.code != "file-empty").collect(),
        }
        project
    }

    /// Finds the project that a folder belongs to: the nearest folder upwards with a project file or a folder `pipelines/`, else the folder
    /// itself. Fails when a file of it is there and cannot be read.
    pub fn find(folder: &Path) -> Result<Self, Failure> {
        let base = nearest(folder).unwrap_or(folder);
        let file = base.join(FILE);
        let mut project = match read_text(&file)? {
            Some(text) => Self::with_file(base, &Arc::new(SourceText { path: shown(&file), text })),
            None => Self::bare(base),
        };
        project.variables = variables(&base.join(ENV_FILE))?;
        Ok(project)
    }

    /// The file of a pipeline named on the command line: a name, or a path to a `.yaml` file.
    pub fn pipeline_path(&self, name: &str) -> Result<PathBuf, Failure> {
        let path = Path::new(name);
        if is_yaml(path) {
            if path.is_file() {
                return Ok(path.to_owned());
            }
            return Err(Failure::permanent(format!("there is no file {name}")).help("a pipeline is named without `.yaml`, or by its path"));
        }
        let names = self.pipeline_names();
        if let Some(path) = names.get(name) {
            return Ok(path.clone());
        }
        let help = if names.is_empty() {
            format!("write {PIPELINES}/{name}.yaml beside {FILE}, or give the path of a file")
        } else {
            known_names(name, "pipelines", names.keys().map(String::as_str))
        };
        Err(Failure::permanent(format!("there is no pipeline `{name}` below {}", shown(&self.base.join(PIPELINES)))).help(help))
    }

    /// The pipelines by name, with their files: every YAML file below `pipelines/`, named by its path without ending.
    pub fn pipeline_names(&self) -> BTreeMap<String, PathBuf> {
        let root = self.base.join(PIPELINES);
        let named = |file: PathBuf| {
            let below = file.strip_prefix(&root).ok()?.with_extension("");
            Some((below.to_string_lossy().replace('\\', "/"), file))
        };
        yaml_files(&root).into_iter().filter_map(named).collect()
    }
}

/// Whether a folder is that of a project: whether it holds a project file or a folder `pipelines/`.
pub fn is_project(folder: &Path) -> bool {
    folder.join(FILE).is_file() || folder.join(PIPELINES).is_dir()
}

/// The nearest folder upwards that is a project's.
pub fn nearest(folder: &Path) -> Option<&Path> {
    folder.ancestors().find(|folder| is_project(folder))
}

/// A pipeline's name: its path below the nearest folder `pipelines/` without ending, else its file's name without ending.
pub fn pipeline_name(path: &Path) -> String {
    let parts: Vec<_> = path.with_extension("").components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    let below = parts.iter().rposition(|part| part == PIPELINES).map_or(&parts[parts.len().saturating_sub(1)..], |at| &parts[at + 1..]);
    below.join("/")
}

/// Every YAML file below a folder, sorted by path. Hidden files and folders are left out, and what cannot be listed.
pub fn yaml_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_name().to_string_lossy().starts_with('.') {
                continue;
            }
            // Links to folders are not followed: they could lead in a circle.
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(path);
            } else if is_yaml(&path) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// A path as a user in the current folder would write it.
pub fn shown(path: &Path) -> String {
    let below = std::env::current_dir().ok().and_then(|folder| path.strip_prefix(folder).ok().map(Path::to_owned));
    below.filter(|below| !below.as_os_str().is_empty()).unwrap_or_else(|| path.to_owned()).display().to_string()
}

fn is_yaml(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml")
}

fn read_text(file: &Path) -> Result<Option<String>, Failure> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::permanent(format!("cannot read {}", shown(file))).cause(error)),
    }
}

/// Reads `NAME=value` lines.
fn variables(file: &Path) -> Result<BTreeMap<String, String>, Failure> {
    let Some(text) = read_text(file)? else { return Ok(BTreeMap::new()) };
    let entries = dotenvy::from_read_iter(text.as_bytes());
    // The library's message would quote the line, which may hold a secret.
    entries.collect::<Result<_, _>>().map_err(|_| {
        Failure::permanent(format!("a line of {} is not NAME=value", shown(file))).help("quote values that hold spaces or `#`")
    })
}
