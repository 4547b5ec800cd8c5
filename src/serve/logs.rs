//! A log for each run: its events, one JSON line each, as `haul run --json` prints them.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::journal::{Event, What};

/// The log of one run. A log that cannot be written costs nothing but itself: the journal has the events.
pub(super) struct RunLog(Option<BufWriter<File>>);

impl RunLog {
    /// Opens a run's log below a folder, or goes on with it.
    pub(super) fn open(folder: &Path, pipeline: &str, run: &str) -> Self {
        let path = path(folder, pipeline, run);
        let made = path.parent().is_some_and(|folder| fs::create_dir_all(folder).is_ok());
        let file = made.then(|| File::options().append(true).create(true).open(path).ok()).flatten();
        Self(file.map(BufWriter::new))
    }

    /// Writes an event. Splits may be very many, and are flushed with the next other event.
    pub(super) fn write(&mut self, event: &Event) {
        let Self(Some(file)) = self else { return };
        let written = serde_json::to_writer(&mut *file, event).is_ok() && file.write_all(b"\n").is_ok();
        let flushed = matches!(event.what, What::SplitFinished { .. }) || file.flush().is_ok();
        if !written || !flushed {
            self.0 = None;
        }
    }
}

/// Removes the logs of runs that the journal has forgotten, whatever their pipelines.
pub(super) fn prune(folder: &Path, runs: &[String]) {
    for pipeline in fs::read_dir(folder).into_iter().flatten().flatten() {
        for run in runs {
            let _ = fs::remove_file(pipeline.path().join(format!("{run}.ndjson")));
        }
        // Only an empty one goes.
        let _ = fs::remove_dir(pipeline.path());
    }
}

fn path(folder: &Path, pipeline: &str, run: &str) -> PathBuf {
    folder.join(pipeline.replace(['/', '\\'], ".")).join(format!("{run}.ndjson"))
}
