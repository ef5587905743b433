//! The `ginnel` binary: parse the arguments, start the log, call the agent or the command line.

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use ginnel::agent::{self, AgentOptions};
use ginnel::api::{self, ErrorKind};
use ginnel::cli::args::{AgentArgs, CommandLine, DhtArgs, StatusArgs, Verb};
use ginnel::cli::{self, Exit, Failure};
use ginnel::config::{Config, LogFilter};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let CommandLine { socket, verb } = CommandLine::parse();
    let outcome = match verb.unwrap_or(Verb::Status(StatusArgs::default())) {
        Verb::Agent(args) => run_agent(args, socket).map_err(Failure::from),
        Verb::Dht(args) => run_dht_node(args).map_err(Failure::from),
        verb => cli::run(verb, &socket),
    };
    cli::report(outcome)
}

fn run_agent(args: AgentArgs, socket: std::path::PathBuf) -> anyhow::Result<Exit> {
    let config = Config::load(args.config.as_deref())
        .map_err(|error| api::Error { kind: ErrorKind::Usage, message: error.to_string() })?;
    start_log(&config.log)?;
    let AgentArgs { state_dir, no_offload, .. } = args;
    agent::run(AgentOptions { config, state_dir, socket, offload: !no_offload })?;
    Ok(Exit::Done)
}

fn run_dht_node(args: DhtArgs) -> anyhow::Result<Exit> {
    start_log(&LogFilter::from_env()?.unwrap_or_default())?;
    agent::run_dht_node(args.listen.into(), args.bootstrap)?;
    Ok(Exit::Done)
}

/// What a library calls an error and is none: answers of the kernel that nobody waits for.
const QUIET: &str = "netlink_proto=error";

/// Logs to stderr; journald stamps its lines itself.
fn start_log(filter: &LogFilter) -> anyhow::Result<()> {
    let filter = format!("{QUIET},{}", filter.as_str());
    let filter = EnvFilter::builder().with_regex(false).parse(filter).context("the log filter")?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    let started = match std::env::var_os("JOURNAL_STREAM") {
        Some(_) => log.without_time().try_init(),
        None => log.try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("cannot start the log: {error}"))
}
