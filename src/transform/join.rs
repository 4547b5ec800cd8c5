//! How a query joins: through a hash table of the side that is small, and else by sorting both sides, which may spill.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::HashJoinExec;
use datafusion::physical_plan::streaming::StreamingTableExec;
use futures::future::try_join_all;

use super::input::Input;

/// An input is small when it takes no more than this part of the query's memory. A hash table holds its rows twice more while it is built.
const SMALL: usize = 16;

/// Holds the inputs that are small in memory. They are read side by side: two of them may come from one stage, which waits for both.
pub(super) async fn hold_small(inputs: &[Arc<Input>], memory: usize) -> Result<()> {
    // A query over one input meets it at once, and all small ones together may take a quarter.
    if inputs.len() > 1 {
        let share = (memory / SMALL).min(memory / 4 / inputs.len());
        try_join_all(inputs.iter().map(|input| input.hold(share))).await?;
    }
    Ok(())
}

/// The operators of a query. Hash joins are taken only where each of them keeps rows of one held input, and nothing that grew from it.
pub(super) async fn plan(mut state: SessionState, plan: &LogicalPlan, inputs: &[Arc<Input>]) -> Result<Arc<dyn ExecutionPlan>> {
    if inputs.iter().any(|input| input.held()) {
        let optimizer = &mut state.config_mut().options_mut().optimizer;
        optimizer.prefer_hash_join = true;
        // What is held has been measured; of the rest nothing is known.
        optimizer.hash_join_single_partition_threshold = usize::MAX;
        optimizer.hash_join_single_partition_threshold_rows = usize::MAX;
        let hashed = state.create_physical_plan(plan).await?;
        if hashes_small(&hashed) {
            return Ok(hashed);
        }
        state.config_mut().options_mut().optimizer.prefer_hash_join = false;
    }
    state.create_physical_plan(plan).await
}

/// Whether every hash table of a plan is made of the rows of one held input.
fn hashes_small(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let table = plan.downcast_ref::<HashJoinExec>().is_none_or(|join| small(join.left()));
    table && plan.children().into_iter().all(hashes_small)
}

fn small(plan: &Arc<dyn ExecutionPlan>) -> bool {
    match plan.children().as_slice() {
        [] => !plan.is::<StreamingTableExec>(),
        [below] => small(below),
        _ => false,
    }
}
