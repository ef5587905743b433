//! Tests of the real binary in network namespaces, a demonstration, and measurements.
//!
//! ```text
//! cargo test --test netns                        all scenarios, two at once
//! cargo test --test netns -- two_nats            those with "two_nats" in their name
//! cargo test --test netns -- --demo              a private LAN forms, told in plain words
//! cargo test --test netns -- --figures --help    measurements: what there is, and where it goes
//! cargo test --test netns -- --soak [SECONDS]    full rate for ten minutes, new keys with a stock peer
//! cargo test --test netns -- --tidy              removes what runs that were killed left behind
//! ```
//!
//! Needs root, `/dev/net/tun` and the programs of [`TOOLS`]; where something is missing, tests are
//! reported as ignored with the reason, never as passed. `GINNEL_NETNS=off` ignores them too;
//! `GINNEL_BIN` names another binary than the one Cargo built.

#![allow(
    clippy::disallowed_methods,
    reason = "reads the clock and starts threads: a lab is neither simulated nor on a hot path"
)]

mod demo;
mod figures;
mod lab;
mod scenarios;
mod soak;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, anyhow};
use libtest_mimic::{Arguments, Completion, Failed, Trial};

use lab::namespace::remove_leftovers;
use lab::world::World;

/// Programs the lab runs; `scripts/test.sh` installs them.
const TOOLS: &[&str] =
    &["ip", "ss", "nft", "ping", "conntrack", "turnserver", "turnutils_stunclient", "miniupnpd"];
/// Two scenarios at once keep two cores busy without making the delays of either lie.
const AT_ONCE: usize = 2;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let mode = words.first().map(String::as_str).unwrap_or_default();
    let missing = missing();
    if matches!(mode, "--demo" | "--figures" | "--soak" | "--tidy") {
        if let Some(reason) = missing {
            eprintln!("This needs namespaces of its own: {reason}.");
            return ExitCode::FAILURE;
        }
        remove_leftovers();
        let done = match mode {
            "--demo" => in_world(demo::run),
            "--soak" => {
                let seconds = words.get(1).and_then(|text| text.parse().ok());
                in_world(|world| soak::run(world, seconds)).and_then(|()| stock_rekeys())
            }
            "--tidy" => Ok(()),
            _ => figures::run(&words[1..]),
        };
        return match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("\n{error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = arguments.test_threads.or(Some(AT_ONCE));
    if missing.is_none() && !arguments.list {
        remove_leftovers();
    }
    let trials = scenarios::all().map(|(name, tools, scenario)| {
        let missing = missing.clone().or_else(|| absent(tools));
        Trial::ignorable_test(name, move || match missing {
            Some(reason) => Ok(Completion::ignored_with(reason)),
            None => in_world(scenario)
                .map(|()| Completion::Completed)
                .map_err(|error| Failed::from(format!("{error:#}"))),
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// Runs one scenario in a world of its own; its error carries the ends of all logs.
fn in_world(scenario: impl FnOnce(&mut World) -> Result<()>) -> Result<()> {
    let mut world = World::new()?;
    let done = catch_unwind(AssertUnwindSafe(|| scenario(&mut world)));
    let done = done.unwrap_or_else(|panic| Err(anyhow!("panicked: {}", words_of(&*panic))));
    done.map_err(|error| anyhow!("{error:#}\n\n{}", world.log_tails()))
}

fn words_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}

/// The part of the soak that another WireGuard has in it, where there is one.
fn stock_rekeys() -> Result<()> {
    if let Some(reason) = absent(scenarios::interop::TOOLS) {
        println!("new keys with a stock WireGuard: left out, {reason}");
        return Ok(());
    }
    in_world(scenarios::interop::rekeys)
}

/// Why no namespace can be made here, if so.
fn missing() -> Option<String> {
    if std::env::var_os("GINNEL_NETNS").is_some_and(|value| value == "off") {
        return Some("GINNEL_NETNS=off".into());
    }
    if !rustix::process::geteuid().is_root() {
        return Some("not root".into());
    }
    if !Path::new("/dev/net/tun").exists() {
        return Some("no /dev/net/tun".into());
    }
    absent(TOOLS)
}

/// The first of these programs that is not there, as a reason.
fn absent(tools: &[&str]) -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let absent =
        |tool: &&&str| !std::env::split_paths(&path).any(|folder| folder.join(tool).exists());
    tools.iter().find(absent).map(|tool| format!("{tool} is not installed"))
}
