//! What the integration tests stand on: a folder with a pipeline in it, real servers, and golden files.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

mod certificates;
pub mod heard;
pub mod loads;
mod postgres;
pub mod proxy;
pub mod redis;
pub mod s3;
pub mod web;

pub use certificates::certificates;
pub use postgres::{Postgres, Shutdown, own_postgres, postgres, postgres_with_tls};

/// A project of its own: a temporary folder that goes away with the value.
pub struct Project {
    folder: tempfile::TempDir,
    environment: Vec<(String, String)>,
}

/// What a finished `haul` said.
#[derive(Debug)]
pub struct Said {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Project {
    /// An empty project.
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("haul-test-").tempdir().expect("a temporary folder");
        Self { folder, environment: Vec::new() }
    }

    /// Sets a variable of the environment that `haul` runs in.
    pub fn env(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Writes a file below the project, with the folders it needs.
    pub fn file(&self, path: &str, content: impl AsRef<[u8]>) -> &Self {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().expect("a path below the project")).expect("folders in the project");
        std::fs::write(path, content).expect("a file in the project");
        self
    }

    /// A path below the project.
    pub fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// The text of a file below the project.
    pub fn read(&self, path: &str) -> String {
        let path = self.path(path);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
    }

    /// The built `haul`, about to run in the project without a terminal.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_haul"));
        command.args(arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs the built `haul` in the project to its end.
    pub fn haul(&self, arguments: &[&str]) -> Said {
        let output = self.command(arguments).output().expect("haul can be started");
        Said {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("standard output is UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("standard error is UTF-8"),
        }
    }
}

impl Said {
    /// Fails the test, showing everything that was said, unless the exit code is this one.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "standard output:\n{}\nstandard error:\n{}", self.stdout, self.stderr);
        self
    }
}

/// Compares with a file below `tests/`. With `UPDATE_GOLDENS=1` in the environment it writes the file instead.
#[track_caller]
pub fn golden(path: &str, actual: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(path);
    if std::env::var_os("UPDATE_GOLDENS").is_some_and(|value| value == "1") {
        std::fs::create_dir_all(file.parent().expect("a path below tests/")).expect("the golden's folder");
        std::fs::write(&file, actual).expect("the golden can be written");
        return;
    }
    let expected = std::fs::read_to_string(&file)
        .unwrap_or_else(|error| panic!("cannot read tests/{path}: {error}; UPDATE_GOLDENS=1 writes it. It would hold:\n{actual}"));
    if let Some(difference) = first_difference(&expected, actual) {
        panic!("tests/{path} {difference}\nUPDATE_GOLDENS=1 accepts the new text, which is:\n{actual}");
    }
}

/// The first line in which two texts differ, in words.
pub fn first_difference(expected: &str, actual: &str) -> Option<String> {
    if expected == actual {
        return None;
    }
    let (mut left, mut right) = (expected.split('\n'), actual.split('\n'));
    let mut line = 1;
    loop {
        match (left.next(), right.next()) {
            (Some(old), Some(new)) if old == new => line += 1,
            (old, new) => {
                let shown = |text: Option<&str>| text.map_or_else(|| "the end".to_owned(), |text| format!("{text:?}"));
                return Some(format!("differs in line {line}: expected {}, found {}", shown(old), shown(new)));
            }
        }
    }
}

/// A number from the environment, which makes a test longer or repeats one.
pub fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// How many kills a test deals: `HAUL_KILLS`, or what it does without.
pub fn kills(usual: usize) -> usize {
    setting("HAUL_KILLS").map_or(usual, |kills| kills as usize)
}

/// Dice for the moments of kills, and their seed, by which `HAUL_KILL_SEED` repeats them.
pub fn dice() -> (fastrand::Rng, u64) {
    let seed = setting("HAUL_KILL_SEED").unwrap_or_else(|| fastrand::u64(..));
    (fastrand::Rng::with_seed(seed), seed)
}

/// The most memory that a running process had so far, in KiB.
pub fn peak_kib(process: &std::process::Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).expect("a process of Linux that runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
    peak.expect("its peak")
}
