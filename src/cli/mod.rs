//! One file a verb; `render` is the only place that prints.

use std::process::ExitCode;

/// Parses the arguments, runs the verb, and answers with its exit code.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
