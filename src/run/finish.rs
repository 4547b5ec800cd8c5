//! The end of a stage: proof and publication.

use std::sync::atomic::Ordering;

use super::stage::{LoadRun, StageRun};
use super::verify;
use crate::failure::Failure;
use crate::journal::{OutputReport, Verdict};
use crate::plan::OutputPlan;

impl StageRun {
    /// Proves and publishes every output. A stream's rows have been visible all along, and its loads stay open for the next run. What stages its
    /// rows is proved before anybody sees them.
    pub async fn finish(&self) -> Result<Vec<OutputReport>, Failure> {
        self.release();
        if self.plan.streams() {
            // Its load has no end; what a run has to tell is what it added.
            let rows = self.counters.rows_out.load(Ordering::Relaxed);
            let report = |output: &OutputPlan| OutputReport { target: output.label.clone(), rows, verdict: Verdict::NotChecked };
            return Ok(self.plan.outputs.iter().map(report).collect());
        }
        let mut reports = Vec::with_capacity(self.loads.len());
        for (output, run) in self.plan.outputs.iter().zip(&self.loads) {
            let staged = output.sink.staged();
            let verdict = if run.is_published() && (staged || self.done_before) {
                verify::trusted(&self.plan, output, run)
            } else if staged {
                let verdict = self.proved(output, run).await?;
                self.publish(output, run).await?;
                verdict
            } else {
                // An earlier process may have published it and not come to the proof.
                if !run.is_published() {
                    self.publish(output, run).await?;
                }
                self.proved(output, run).await?
            };
            reports.push(OutputReport { target: output.label.clone(), rows: run.total().rows, verdict });
        }
        self.rejects.publish(false).await?;
        Ok(reports)
    }

    async fn proved(&self, output: &OutputPlan, run: &LoadRun) -> Result<Verdict, Failure> {
        let verdict = verify::output(&self.plan, output, run).await?;
        if let Verdict::Different { expected_rows, found_rows, examples } = &verdict {
            let mut message = format!("{} does not hold what was sent: {expected_rows} rows sent, {found_rows} found", output.label);
            for example in examples {
                message.push_str("; ");
                message.push_str(example);
            }
            let help = if output.sink.staged() {
                "nothing was published; `--fresh` loads it again"
            } else if output.appends() {
                "something else may have written to the target; `haul verify` compares again, `--fresh` writes every row a second time"
            } else {
                "something else may have written to the target; `haul verify` compares again, `--fresh` loads again"
            };
            return Err(Failure::permanent(message).help(help));
        }
        Ok(verdict)
    }

    async fn publish(&self, output: &OutputPlan, run: &LoadRun) -> Result<(), Failure> {
        output.sink.publish(&run.load).await.map_err(|failure| failure.during(format!("publishing {}", output.label)))?;
        run.set_published();
        Ok(())
    }
}
