//! `haul completions SHELL`

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, CliError, Exit, Global, render};

/// Arguments of `haul completions`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Whose completions
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints the script that the shell reads.
pub(super) fn run(global: &Global, args: Args) -> Result<Exit, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "haul", &mut script);
    let script = String::from_utf8_lossy(&script);
    if global.json {
        render::json(&serde_json::json!({ "shell": args.shell.to_string(), "script": script }));
    } else {
        render::out(script.trim_end());
    }
    Ok(Exit::Done)
}
