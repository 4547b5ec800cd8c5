//! What must be known of a stream's source and targets before it is followed.

use std::collections::BTreeSet;

use super::build::Builder;
use super::{InputPlan, Origin, OutputPlan};
use crate::define::pipeline::{Input, SinkSpec, SourceSpec, SqlSink, Stage, WriteMode};
use crate::diagnostic::Diagnostic;
use crate::load::template::KeyTemplate;
use crate::transform::Compiled;

impl Builder<'_> {
    /// A stream goes through row by row, into outputs that can commit what came so far.
    pub(super) fn can_stream(&mut self, stage: &Stage, transform: &Compiled, outputs: &[OutputPlan]) -> bool {
        let before = self.problems.diagnostics.len();
        if !transform.rowwise() {
            let help = "do it in the source's query, or in a batch stage that reads the table which the stream writes";
            let problem = Diagnostic::error("stream-transform", "a step here must see all rows, and a stream never has all of them");
            self.problems.definition(&format!("{}/transform", stage.at), problem.help(help));
        }
        for output in outputs.iter().filter(|output| !output.target.checkpoints) {
            let message = format!("{} cannot commit a part of its rows and go on, as a stream must", output.label);
            self.problems.definition(&output.output.at, Diagnostic::error("stream-target", message).help("write to a table"));
        }
        if matches!(stage.flow.from.as_slice(), [Input { source: SourceSpec::Changes(_), .. }]) && transform.rowwise() {
            self.can_apply(transform.key(), outputs);
        }
        self.problems.diagnostics.len() == before
    }

    /// Steps need whole rows, and an update may leave large values out. `None` when the source cannot be asked, which is then among the problems.
    pub(super) async fn partial_rows(&mut self, inputs: &[InputPlan], stage: &Stage) -> Option<()> {
        let ([InputPlan { origin: Origin::Source(from), label, .. }], [input]) = (inputs, stage.flow.from.as_slice()) else {
            return Some(());
        };
        if stage.flow.transform.is_empty() {
            return Some(());
        }
        let unsent = match from.source.unsent().await {
            Ok(unsent) => unsent,
            Err(failure) => {
                self.problems.failure(&input.at, "source-unreadable", &failure);
                return None;
            }
        };
        if !unsent.is_empty() {
            let names: Vec<String> = unsent.iter().map(|name| format!("`{name}`")).collect();
            let message = format!(
                "an update that leaves a large value of {} as it is does not send it, and would end the stream: the steps need whole rows",
                names.join(" or ")
            );
            let (_, table) = label.split_once('.').unwrap_or_default();
            let help = format!(
                "`alter table {table} replica identity full` has updates send all values; short ones, up to about 2 kB a row, always come"
            );
            self.problems.warning(&format!("{}/transform", stage.at), Diagnostic::warning("partial-rows", message).help(help));
        }
        Some(())
    }

    /// Changes are applied by the key that they have at their source, by an engine that can.
    fn can_apply(&mut self, key: &[String], outputs: &[OutputPlan]) {
        let set = |names: &[String]| names.iter().cloned().collect::<BTreeSet<String>>();
        let list = || format!("write `key: [{}]`", key.join(", "));
        for output in outputs {
            let (own, whose, field, help) = match &output.output.sink {
                SinkSpec::Feed(feed) => (feed.key.clone(), "", "key", list()),
                SinkSpec::Sql(SqlSink { mode: WriteMode::Upsert { key: own }, .. }) => (own.clone(), "", "key", list()),
                SinkSpec::Redis(rows) => (named(&rows.key), "the key of ", rows.shape.word(), format!("write a key with {}", holes(key))),
                // Events say what they are about themselves, wherever they go.
                SinkSpec::Http(requests) if !requests.by_place() && set(&named(&requests.path)).is_subset(&set(key)) => continue,
                SinkSpec::Http(requests) => (named(&requests.path), "the path of ", "path", format!("write a path with {}", holes(key))),
                _ => continue,
            };
            if set(&own) != set(key) {
                let message =
                    format!("changes name their rows by ({}), and {whose}{} by ({})", key.join(", "), output.label, own.join(", "));
                let problem = Diagnostic::error("stream-target", message).help(help);
                self.problems.definition(&format!("{}/{field}", output.output.at), problem);
            }
        }
    }
}

/// The columns that a template takes.
fn named(template: &KeyTemplate) -> Vec<String> {
    template.columns().map(str::to_owned).collect()
}

/// How a template names these columns.
fn holes(key: &[String]) -> String {
    let holes: Vec<String> = key.iter().map(|name| format!("{{{{ {name} }}}}")).collect();
    format!("{} and no other column", holes.join(" and "))
}
