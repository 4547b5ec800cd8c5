//! DataFusion as haul sets it up: exact decimals, plain `Utf8` strings, names as they are spelled.

use std::sync::{Arc, OnceLock};

use datafusion::common::DataFusionError;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::optimizer::{Analyzer, AnalyzerRule};
use datafusion::prelude::{SessionConfig, SessionContext};

use super::rewrite::{CheckOverflow, CompareAsMeant};

/// Threads one query works on. More would only cut the memory into smaller shares.
const PARTITIONS: usize = 2;
/// Rows of the batches inside a query.
const BATCH_ROWS: usize = 8192;
/// What a row is taken to weigh where nothing is known of it yet.
const ROW_BYTES: usize = 256;
/// A batch is at most this part of a query's memory: a sort must hold two copies of one, and a query has several sorts.
pub(super) const PIECES: usize = 128;

fn config() -> SessionConfig {
    let mut config = SessionConfig::new().with_information_schema(false).with_target_partitions(PARTITIONS);
    let options = config.options_mut();
    let parser = &mut options.sql_parser;
    parser.enable_ident_normalization = false;
    parser.parse_float_as_decimal = true;
    parser.map_string_types_to_utf8view = false;
    // Sort-merge joins spill; a hash join would need one side in memory.
    options.optimizer.prefer_hash_join = false;
    config
}

fn builder() -> SessionStateBuilder {
    let mut rules: Vec<Arc<dyn AnalyzerRule + Send + Sync>> = vec![Arc::new(CompareAsMeant)];
    rules.extend(Analyzer::new().rules);
    rules.push(Arc::new(CheckOverflow));
    SessionStateBuilder::new_with_default_features().with_analyzer_rules(rules)
}

fn build(builder: SessionStateBuilder) -> SessionState {
    let mut state = builder.build();
    // What `timestamptz` is. Given before, it would make instants of what `to_timestamp` gives as well.
    state.config_mut().options_mut().execution.time_zone = Some("UTC".to_owned());
    state
}

/// The session that types expressions and queries. It holds no tables and does no I/O.
pub(super) fn planning() -> &'static SessionState {
    static STATE: OnceLock<SessionState> = OnceLock::new();
    STATE.get_or_init(|| build(builder().with_config(config())))
}

/// A session with tables, to type a query or to run it within a runtime's memory.
pub(super) fn running(runtime: Arc<RuntimeEnv>, memory_bytes: usize, rows: usize) -> SessionContext {
    let fitting = memory_bytes / PIECES / ROW_BYTES;
    let mut config = config().with_batch_size(rows.min(fitting).clamp(1, BATCH_ROWS));
    // What a sort keeps back for merging its spill files; the default of 10 MiB would starve a small budget.
    config.options_mut().execution.sort_spill_reservation_bytes = (memory_bytes / PIECES).min(10 << 20);
    SessionContext::new_with_state(build(builder().with_config(config).with_runtime_env(runtime)))
}

/// The words of an error without the library's labels, on one line.
pub(super) fn words(error: &DataFusionError) -> String {
    let root = error.find_root();
    let text = match root {
        DataFusionError::ArrowError(error, _) => error.to_string(),
        other => other.strip_backtrace(),
    };
    let mut text = text.split("\n\nbacktrace").next().unwrap_or_default().replace('\n', " ");
    const LABELS: &[&str] = &[
        "Arrow error: ",
        "Cast error: ",
        "Compute error: ",
        "Arithmetic overflow: ",
        "Parser error: ",
        "Invalid argument error: ",
        "Error during planning: ",
        "This feature is not implemented: ",
        "Execution error: ",
        "Schema error: ",
        "SQL error: ",
    ];
    while let Some(rest) = LABELS.iter().find_map(|label| text.strip_prefix(label)) {
        text = rest.to_owned();
    }
    let mut chars = text.chars();
    match chars.next() {
        Some(first) if chars.clone().next().is_none_or(|second| second.is_lowercase() || second == ' ') => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => text,
    }
}
