//! `overlap: allow`: two runs of a pipeline may go at once when there is nothing that both would write.

use super::graph::items;
use super::pipeline::{Kind, SinkSpec, Stage};
use super::reader::Reader;
use crate::diagnostic::Diagnostic;
use crate::load::file;
use crate::load::shape::OneOrMany;
use crate::load::template::{self, Target};

/// Refuses `allow` for everything that two runs would take from each other. Only what the file says shows that: once templates are rendered,
/// every path is one run's own.
pub fn check(reader: &mut Reader<'_>, said: Option<&OneOrMany<file::Schedule>>, stages: &[Stage]) {
    let said = items(said, "/schedule");
    let allows = said.iter().find(|(_, entry)| entry.overlap == Some(file::Overlap::Allow));
    let Some((at, _)) = allows.filter(|_| !reader.renders()) else { return };
    for (shared, what) in stages.iter().flat_map(shared) {
        let problem = Diagnostic::error("overlap-allow", format!("two runs at once would take {what} from each other"));
        let problem = reader.document.at_value(problem, &format!("{at}/overlap"), "they may go at once");
        let problem = reader.document.at_value(problem, &shared, "both write here");
        let help = "write `overlap: queue`, or give each run files of its own: `path: \"orders-{{ run.id }}.csv\"`";
        reader.problems.push(problem.help(help));
    }
}

/// What runs of a stage share, each with its place.
fn shared(stage: &Stage) -> Vec<(String, &'static str)> {
    if matches!(stage.kind, Kind::Stream { .. }) {
        return vec![(stage.at.clone(), "the position of a stream")];
    }
    let rejects = stage.flow.rejects.iter().filter(|rejects| !of_one_run(&rejects.path));
    let mut found: Vec<_> = rejects.map(|rejects| (format!("{}/to/path", rejects.at), "the file of bad rows")).collect();
    for output in &stage.flow.to {
        found.extend(match &output.sink {
            // The record of what was written belongs to the output of a stage, and a run that takes it over shuts the earlier one out.
            SinkSpec::Sql(_) | SinkSpec::Tables(_) => Some((output.at.clone(), "the load of a table")),
            SinkSpec::Redis(_) => Some((output.at.clone(), "the load of keys")),
            SinkSpec::RedisKeys(_) => Some((output.at.clone(), "the copy of keys")),
            SinkSpec::Files(files) if !of_one_run(&files.path) => Some((format!("{}/path", output.at), "files")),
            SinkSpec::Feed(_) => Some((output.at.clone(), "the feed")),
            SinkSpec::Http(_) => Some((output.at.clone(), "the record of what was sent")),
            SinkSpec::Files(_) | SinkSpec::Discard | SinkSpec::Cache(_) => None,
        });
    }
    found
}

/// Whether a path names the run that writes it.
fn of_one_run(path: &str) -> bool {
    template::check(path, Target::Text).is_ok_and(|uses| uses.run_id)
}
