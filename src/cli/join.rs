//! `ginnel join`: the stages as they come, then the addresses.
//!
//! With `--json` every stage is an object on stdout. Otherwise stages go to stderr, each with the
//! time since the start; on a terminal a spinner below them shows that something is going on.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use indicatif::ProgressBar;

use super::args::JoinArgs;
use super::render::clean;
use super::{Failure, client, device_name, invite_text, print, print_json, unexpected, views};
use crate::api::{JoinStage, Request, Response};

/// How much longer than its own time-out the agent may take to say that it gave up.
const GRACE: Duration = Duration::from_secs(10);

/// Turns a second: smooth to the eye, and nothing to the processor.
const SPIN: Duration = Duration::from_millis(100);

/// Joins, and returns when the network is up.
pub fn run(args: JoinArgs, socket: &Path, out: &mut impl Write) -> Result<(), Failure> {
    let device = device_name(args.name)?.to_string();
    let invite = invite_text::obtain(args.invite)?;
    let timeout_ms = u64::try_from(args.timeout.as_millis()).unwrap_or(u64::MAX);
    let request = Request::Join { invite, device, timeout_ms };
    let mut answers = client::ask(socket, &request, Some(args.timeout + GRACE))?;
    let progress = (!args.json).then(Progress::start);
    loop {
        match answers.receive()? {
            Response::JoinStage(stage) => match &progress {
                Some(progress) => progress.show(&stage),
                None => print_json(&stage, out)?,
            },
            Response::Joined(joined) => {
                drop(progress);
                return match args.json {
                    true => print_json(&joined, out),
                    false => print(&views::joined(&joined), out),
                };
            }
            other => return Err(unexpected(&other)),
        }
    }
}

/// Stages on stderr; the spinner goes when this is dropped.
struct Progress(Option<ProgressBar>);

impl Progress {
    fn start() -> Self {
        let spinner = io::stderr().is_terminal().then(ProgressBar::new_spinner);
        if let Some(spinner) = &spinner {
            spinner.enable_steady_tick(SPIN);
            spinner.set_message("joining");
        }
        Self(spinner)
    }

    fn show(&self, stage: &JoinStage) {
        let seconds = stage.elapsed_ms as f64 / 1000.0;
        let line = format!("{seconds:>6.1} s  {}", clean(&stage.detail));
        match &self.0 {
            Some(spinner) => spinner.println(line),
            // Where stderr is closed there is nobody to tell.
            None => drop(writeln!(io::stderr(), "{line}")),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(spinner) = &self.0 {
            spinner.finish_and_clear();
        }
    }
}
