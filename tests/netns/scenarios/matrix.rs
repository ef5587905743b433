//! Every combination of what may go wrong in merging and splitting: offload at either end or not,
//! both families, TCP and UDP, on a clean line, one that loses and one that reorders. Four streams
//! at once, everything compared at the far end.
//!
//! `GINNEL_MATRIX_MIB` is how many MiB each of the 48 cells carries (default 8); with 1024 and a
//! release build it is an hour's work:
//!
//! ```text
//! cargo build --release
//! GINNEL_BIN=target/release/ginnel GINNEL_MATRIX_MIB=1024 cargo test --release --test netns -- matrix
//! ```

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use super::{CONNECT_LIMIT, Scenario};
use crate::lab::host::Host;
use crate::lab::internet::Weather;
use crate::lab::namespace::Namespace;
use crate::lab::numbered::{self, Count};
use crate::lab::traffic::transfer;
use crate::lab::world::World;

pub const SCENARIOS: &[(&str, Scenario)] = &[
    ("matrix_offload_at_both_ends", |world| all_lines(world, [true, true])),
    ("matrix_offload_at_the_first_end", |world| all_lines(world, [true, false])),
    ("matrix_offload_at_the_second_end", |world| all_lines(world, [false, true])),
    ("matrix_offload_at_neither_end", |world| all_lines(world, [false, false])),
];

/// Streams at once.
const STREAMS: usize = 4;
/// MiB a cell, where the environment says nothing.
const MEBIBYTES: usize = 8;

/// The lines: name, weather, and how many of a hundred datagrams may be missing. The way there is
/// crossed once; what a full queue somewhere drops comes on top of what the line loses.
const LINES: [(&str, Weather, f64); 3] = [
    ("a clean line", Weather { loss: 0, reorder: 0 }, 1.0),
    ("a line that loses 1 %", Weather { loss: 1, reorder: 0 }, 3.0),
    ("a line that reorders 5 %", Weather { loss: 0, reorder: 5 }, 1.0),
];

/// ```text
/// a ── Internet ── b          each with a public address; no delay but what work makes
/// ```
fn all_lines(world: &mut World, offload: [bool; 2]) -> Result<()> {
    world.internet.set_half_way(Duration::from_micros(100));
    let mut hosts = Vec::new();
    for (name, offload) in ["a", "b"].into_iter().zip(offload) {
        let (mut host, _) = world.public_host(name)?;
        let mut command = host.agent_command();
        if !offload {
            command.arg("--no-offload");
        }
        host.start_with(&mut command)?;
        hosts.push(host);
    }
    let (a, b) = (&hosts[0], &hosts[1]);
    b.join(&a.create("home")?.invite)?;
    a.wait_connected(&["b"], CONNECT_LIMIT)?;
    b.wait_connected(&["a"], CONNECT_LIMIT)?;
    for (line, weather, missing) in LINES {
        world.internet.set_weather(weather);
        for (from, to) in [(a, b), (b, a)] {
            for address in to.addresses()? {
                let cell = || format!("{} to {address} over {line}", from.name);
                streams(from, to, address).with_context(|| format!("TCP, {}", cell()))?;
                let count = all_datagrams(from, to, address);
                let count = count.with_context(|| format!("UDP, {}", cell()))?;
                ensure!(count.loss() * 100.0 <= missing, "{count:?}, {}", cell());
            }
        }
    }
    Ok(())
}

/// MiB of one stream: a cell is both directions of all streams.
fn share() -> usize {
    let said = std::env::var("GINNEL_MATRIX_MIB").ok().and_then(|text| text.parse().ok());
    (said.unwrap_or(MEBIBYTES) / STREAMS / 2).max(1)
}

fn streams(from: &Host, to: &Host, address: IpAddr) -> Result<()> {
    let (from, to) = (&from.namespace, &to.namespace);
    at_once(|| transfer(from, to, address, share()).map(drop)).map(drop)
}

fn all_datagrams(from: &Host, to: &Host, address: IpAddr) -> Result<Count> {
    let (from, to): (&Namespace, &Namespace) = (&from.namespace, &to.namespace);
    let counts = at_once(|| numbered::exchange(from, to, address, (share() as u64) << 20))?;
    let sum = |read: fn(&Count) -> u64| counts.iter().map(read).sum();
    Ok(Count { sent: sum(|count| count.sent), received: sum(|count| count.received) })
}

/// Does the same [`STREAMS`] times at once.
fn at_once<T: Send>(work: impl Fn() -> Result<T> + Sync) -> Result<Vec<T>> {
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..STREAMS).map(|_| scope.spawn(&work)).collect();
        let ended = running.into_iter().map(|thread| {
            thread.join().map_err(|_| anyhow!("a stream panicked")).and_then(|result| result)
        });
        ended.collect()
    })
}
