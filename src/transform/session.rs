//! DataFusion as haul sets it up: exact decimals, plain `Utf8` strings, names as they are spelled.

use std::sync::OnceLock;

use datafusion::common::DataFusionError;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::prelude::SessionConfig;

/// The settings of every session, planning or running.
pub(super) fn config() -> SessionConfig {
    let mut config = SessionConfig::new().with_information_schema(false);
    let options = config.options_mut();
    let parser = &mut options.sql_parser;
    parser.enable_ident_normalization = false;
    parser.parse_float_as_decimal = true;
    parser.map_string_types_to_utf8view = false;
    config
}

/// The session that types expressions. It holds no tables and does no I/O.
pub(super) fn planning() -> &'static SessionState {
    static STATE: OnceLock<SessionState> = OnceLock::new();
    STATE.get_or_init(|| SessionStateBuilder::new_with_default_features().with_config(config()).build())
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
