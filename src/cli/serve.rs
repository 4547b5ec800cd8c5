//! `haul serve`: does what a project does by itself, until it is stopped.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use super::{CliError, Exit, Global, project, render, signals};
use crate::load::shape;
use crate::run::Control;
use crate::serve::{self, Settings};

/// Arguments of `haul serve`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to answer to HTTP (/livez, /readyz, /metrics); `off` for nowhere
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9464")]
    listen: Listen,
    /// The most runs that go at the same time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Runs are forgotten that began longer ago
    #[arg(long, value_name = "TIME", default_value = "90d", value_parser = length)]
    keep_for: Duration,
    /// The latest so many runs of a pipeline are kept
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    keep_runs: u32,
    /// How to write the log, on standard error
    #[arg(long, value_enum, default_value_t)]
    log: Log,
}

/// Forms of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Log {
    /// For people
    #[default]
    Text,
    /// One JSON document a line
    Json,
}

#[derive(Clone, Copy, Debug)]
struct Listen(Option<SocketAddr>);

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self(None)),
            _ => text
                .parse()
                .map(|address| Self(Some(address)))
                .map_err(|_| "write an address and a port, such as 127.0.0.1:9464, or `off`".to_owned()),
        }
    }
}

fn length(text: &str) -> Result<Duration, String> {
    shape::Duration(text.to_owned()).read().ok_or_else(|| "write a whole number and its unit: `12h`, `90d`".to_owned())
}

/// Serves a project.
pub(super) fn run(global: &Global, args: Args) -> Result<Exit, CliError> {
    let project = project::open(global)?;
    let settings = Settings {
        base: project.base.clone(),
        runs: args.runs.into(),
        listen: args.listen.0,
        keep_for: args.keep_for,
        keep_runs: args.keep_runs,
    };
    let log = if global.json { Log::Json } else { args.log };
    signals::block_on(|stop| async move {
        let journal = stop.unless(project::journal(&project)).await?;
        let control = Control { drain: stop.drain.clone(), abort: stop.abort.clone() };
        let (mut lines, served) = serve::start(settings, journal, control);
        let print = async {
            while let Some(line) = lines.recv().await {
                render::log::line(&line, log, render::paint_err(global));
            }
        };
        let (served, ()) = tokio::join!(served, print);
        served?;
        Ok(stop.exit().unwrap_or(Exit::Done))
    })?
}
