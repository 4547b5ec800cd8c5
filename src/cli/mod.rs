//! One file a verb; `render` is the only place that prints.
//!
//! A verb is a module with an `Args` and `run(&Global, Args) -> Result<Exit, CliError>`. What a verb has to say goes to standard output
//! (text, or JSON with `--json`); progress, errors and their way out go to standard error.

mod bug;
mod completions;
mod drop;
mod exit;
mod graph;
mod init;
mod new;
mod pause;
mod plan;
mod project;
mod ready;
pub mod render;
mod run;
mod runs;
mod schedule;
mod schema;
mod serve;
mod show;
pub mod signals;
mod validate;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::ready::Which;

pub use exit::{CliError, Exit};

/// Moves data between databases, Redis, HTTP and files, from pipelines written in YAML, and proves what arrived.
#[derive(Debug, Parser)]
#[command(name = "haul", version, disable_help_subcommand = true, max_term_width = 100)]
pub struct Cli {
    /// What holds for every verb.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What holds for every verb.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Global {
    /// The project's folder [default: the nearest one above that holds haul.yaml or pipelines/]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Everywhere")]
    pub project: Option<PathBuf>,
    /// Say it in JSON: one document, or one event a line while a run goes
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub json: bool,
    /// No colours, whatever the terminal can do; NO_COLOR in the environment does the same
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub no_color: bool,
    /// Say only how it ended
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = "Everywhere")]
    pub quiet: bool,
    /// Say more
    #[arg(short, long, global = true, help_heading = "Everywhere")]
    pub verbose: bool,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Write a small project that runs at once, without any server
    Init(init::Args),
    /// Write a pipeline with one stage for each table or file that is found in a source
    New(new::Args),
    /// Check pipelines offline: no environment, secret or server is needed
    Validate(validate::Args),
    /// Show what a run would do: stages, DDL, type grades, splits, guarantees
    Plan(Which),
    /// Run a pipeline, or go on with a run that was cut
    Run(run::Args),
    /// Compare sources and targets again, down to the keys that differ
    Verify(Which),
    /// Show what runs when by itself, and what will not
    Schedule(schedule::Args),
    /// Run what is due, until stopped
    Serve(serve::Args),
    /// Hold a pipeline's schedules back
    Pause(pause::PauseArgs),
    /// Let a pipeline's schedules go on
    Resume(pause::ResumeArgs),
    /// Go on with a run that failed or was cut, from where it stopped
    Retry(run::RetryArgs),
    /// List past runs, latest first
    Runs(runs::Args),
    /// Show what happened in a run
    Show(show::Args),
    /// Remove what a pipeline's streams keep in the systems they follow: slots, publications, positions
    Drop(Which),
    /// Draw a pipeline as a graph
    Graph(graph::Args),
    /// Print or write the JSON Schemas of pipelines and of haul.yaml
    Schema(schema::Args),
    /// Print shell completions
    Completions(completions::Args),
}

/// Parses the arguments, runs the verb, and answers with its exit code.
pub fn main() -> ExitCode {
    bug::install_hook();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version come this way too, and are no errors.
        Err(error) => {
            let code = if error.use_stderr() { Exit::Definition } else { Exit::Done };
            let _ = error.print();
            return code.into();
        }
    };
    let global = cli.global.clone();
    match bug::guard(|| cli.verb.run(&cli.global)) {
        Some(Ok(exit)) => exit.into(),
        Some(Err(error)) => {
            render::error(&error, &global);
            error.exit.into()
        }
        // The hook has told of it.
        None => Exit::Failed.into(),
    }
}

impl Verb {
    fn run(self, global: &Global) -> Result<Exit, CliError> {
        match self {
            Self::Init(args) => init::run(global, args),
            Self::New(args) => new::run(global, args),
            Self::Validate(args) => validate::run(global, args),
            Self::Plan(args) => plan::run(global, args),
            Self::Run(args) => run::run(global, args),
            Self::Verify(args) => verify::run(global, args),
            Self::Schedule(args) => schedule::run(global, args),
            Self::Serve(args) => serve::run(global, args),
            Self::Pause(args) => pause::pause(global, args),
            Self::Resume(args) => pause::resume(global, args),
            Self::Retry(args) => run::retry(global, args),
            Self::Runs(args) => runs::run(global, args),
            Self::Show(args) => show::run(global, args),
            Self::Drop(args) => drop::run(global, args),
            Self::Graph(args) => graph::run(global, args),
            Self::Schema(args) => schema::run(global, args),
            Self::Completions(args) => completions::run(global, args),
        }
    }
}
