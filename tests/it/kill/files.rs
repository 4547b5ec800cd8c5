//! The files sink: one file, and a folder of parts, on a disk and in a bucket.

use std::path::{Path, PathBuf};

use super::rows::{Mode, Rows, gather};
use super::sql::sqlite_source;
use super::{KILLS, PIPELINE, Target, torture_for};
use crate::support::s3::{CREDENTIALS, Store};
use crate::support::{self, Project};

#[test]
fn files_single() {
    on_disk("out.csv", Mode::Replace);
}

#[test]
fn files_folder_replace() {
    on_disk("out/", Mode::Replace);
}

#[test]
fn files_folder_append() {
    on_disk("out/", Mode::Append);
}

#[test]
fn objects_single() {
    in_a_bucket("out.csv", Mode::Replace);
}

#[test]
fn objects_folder_replace() {
    in_a_bucket("out/", Mode::Replace);
}

#[test]
fn objects_folder_append() {
    in_a_bucket("out/", Mode::Append);
}

/// Kills of a load into a bucket: its steps are those of a folder, and each takes a request.
const IN_A_BUCKET: usize = 40;

/// The pipeline that fills a folder before the kills begin.
const BEFORE: &str = "before";

fn on_disk(path: &str, mode: Mode) {
    let project = Project::new();
    let root = project.path("data");
    files(project, "file:data", root, path, mode, KILLS);
}

fn in_a_bucket(path: &str, mode: Mode) {
    let store = Store::start();
    let mut project = Project::new();
    for (name, value) in CREDENTIALS {
        project.env(name, value);
    }
    files(project, &store.url(""), store.bucket(), path, mode, IN_A_BUCKET);
}

fn files(project: Project, url: &str, root: PathBuf, path: &str, mode: Mode, kills: usize) {
    sqlite_source(&project);
    let lines: String = mode.before().iter().map(|(id, payload)| format!("{id},{payload}\n")).collect();
    project.file("before.csv", format!("id,payload\n{lines}"));
    let connections =
        format!("connections: {{ from: {{ url: \"sqlite:source.db\" }}, here: {{ url: \"file:.\" }}, to: {{ url: \"{url}\" }} }}");
    let to = format!("to: {{ files: to, path: \"{path}\", format: csv, mode: {} }}", mode.word());
    for (name, from) in [(BEFORE, "files: here, path: before.csv"), (PIPELINE, "sql: from, table: items")] {
        let splits = "splits: { most: 32, bytes: 16KiB, concurrency: 3 }";
        let stage = format!("kind: batch\n    from: {{ {from} }}\n    {to}\n    {splits}\n");
        project.file(&format!("pipelines/{name}.yaml"), format!("{connections}\nstages:\n  copy:\n    {stage}"));
    }
    let target = Files { project: &project, root, folder: path.ends_with('/'), mode };
    torture_for(&project, &target, support::kills(kills));
}

/// CSV files below the project's folder `data`.
struct Files<'a> {
    project: &'a Project,
    root: PathBuf,
    folder: bool,
    mode: Mode,
}

impl Files<'_> {
    /// The files a reader would find: those that are not hidden.
    fn visible(&self) -> Vec<PathBuf> {
        if !self.folder {
            return vec![self.root.join("out.csv")];
        }
        let mut files = below(&self.root.join("out"));
        files.retain(|path| path.extension().is_some_and(|ending| ending == "csv") && !is_hidden(path, &self.root));
        files
    }

    fn rows(&self) -> Result<Rows, String> {
        let mut rows = Vec::new();
        for path in self.visible() {
            let wrong = |what: &str| format!("{}: {what}", path.display());
            let text = std::fs::read_to_string(&path).map_err(|error| wrong(&error.to_string()))?;
            let body = text.strip_prefix("id,payload\n").ok_or_else(|| wrong("has no header"))?;
            if !body.is_empty() && !body.ends_with('\n') {
                return Err(wrong("is cut"));
            }
            for line in body.lines() {
                let (id, payload) = line.split_once(',').ok_or_else(|| wrong("has a cut line"))?;
                rows.push((id.parse().map_err(|_| wrong("has a strange id"))?, payload.to_owned()));
            }
        }
        Ok(gather(rows))
    }
}

impl Target for Files<'_> {
    fn reset(&self) {
        let _ = std::fs::remove_dir_all(&self.root);
        std::fs::create_dir_all(&self.root).expect("the folder");
        if self.folder {
            // Only what haul wrote may stand in a folder of parts.
            self.project.haul(&["run", BEFORE]).expect(0);
        } else {
            std::fs::copy(self.project.path("before.csv"), self.root.join("out.csv")).expect("a file");
        }
    }

    fn after_kill(&self, _recorded: u64) -> Result<(), String> {
        let found = self.rows()?;
        if !self.folder || self.mode != Mode::Replace {
            // Parts of a folder become visible when the load is published, so the journal may be ahead of what a reader sees.
            return self.mode.check_after_kill(&found, 0);
        }
        // The parts of a replaced folder change one by one: each is whole, and no row is there twice.
        match found.iter().find(|(_, payloads)| payloads.len() > 1) {
            Some((id, payloads)) => Err(format!("after a kill, the id {id} is there {} times", payloads.len())),
            None => Ok(()),
        }
    }

    fn at_end(&self) -> Result<(), String> {
        self.mode.check_at_end(&self.rows()?)?;
        let visible = self.visible();
        let strange: Vec<PathBuf> = below(&self.root).into_iter().filter(|path| !visible.contains(path) && !is_record(path)).collect();
        if strange.is_empty() { Ok(()) } else { Err(format!("files are left behind: {strange:?}")) }
    }
}

/// All files below a folder, however deep.
fn below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.extend(below(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

fn is_hidden(path: &Path, root: &Path) -> bool {
    let below = path.strip_prefix(root).unwrap_or(path);
    below.components().any(|part| part.as_os_str().to_string_lossy().starts_with('.'))
}

/// What haul knows of a target stays with it: the manifest of a folder, and the record of the last load.
fn is_record(path: &Path) -> bool {
    path.file_name().is_some_and(|name| [".haul-manifest.json", "load.json", "lock"].iter().any(|own| name == *own))
}
