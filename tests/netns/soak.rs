//! Ten minutes at full rate: memory does not grow, nothing is logged as an error.
//!
//! ```text
//! cargo build --release
//! GINNEL_BIN=target/release/ginnel cargo test --release --test netns -- --soak [SECONDS]
//! ```

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::lab::host::Host;
use crate::lab::lan::cable;
use crate::lab::namespace::Namespace;
use crate::lab::pump::Pump;
use crate::lab::resources::resident;
use crate::lab::world::World;

/// How long, where the command line says nothing.
const SECONDS: u64 = 600;
/// Buffers and caches have grown to their size by then.
const WARM_UP: Duration = Duration::from_secs(20);
/// How often memory is looked at.
const EVERY: Duration = Duration::from_secs(5);
/// How much more than after the warm-up is no growth: a few pages of the allocator's.
const SLACK: u64 = 1 << 20;

/// ```text
/// a ── cable ── b         two streams there, two back, as fast as they go
/// ```
pub fn run(world: &mut World, seconds: Option<u64>) -> Result<()> {
    let length = Duration::from_secs(seconds.unwrap_or(SECONDS));
    world.log_level = "info";
    let (a, b) = (Namespace::new("a")?, Namespace::new("b")?);
    cable(&a, &b)?;
    let (mut a, mut b) = (world.host_in("a", a)?, world.host_in("b", b)?);
    a.start()?;
    b.start()?;
    b.join(&a.create("home")?.invite)?;
    a.wait_connected(&["b"], Duration::from_secs(30))?;
    let mut pumps = Vec::new();
    for (from, to) in [(&a, &b), (&b, &a)] {
        for address in to.addresses()? {
            pumps.push(Pump::start(&from.namespace, &to.namespace, address, 0)?);
        }
    }
    let hosts = [&a, &b];
    let (started, mut warm, mut most) = (Instant::now(), None, [0u64; 2]);
    while started.elapsed() < length {
        std::thread::sleep(EVERY);
        let now = memory(hosts)?;
        if started.elapsed() >= WARM_UP {
            warm.get_or_insert(now);
            most = [most[0].max(now[0]), most[1].max(now[1])];
        }
    }
    let warm = warm.unwrap_or(memory(hosts)?);
    let mut bytes = 0;
    for pump in pumps {
        let flowed = pump.finish()?;
        ensure!(flowed.longest_pause < Duration::from_secs(5), "a stream stood still: {flowed:?}");
        bytes += flowed.bytes;
    }
    let rate = bytes as f64 * 8.0 / started.elapsed().as_secs_f64() / 1e9;
    println!(
        "{} s, four streams: {:.1} GB, {rate:.2} Gbit/s, all bytes right",
        length.as_secs(),
        bytes as f64 / 1e9
    );
    for (side, host) in hosts.into_iter().enumerate() {
        let kib = |bytes: u64| bytes >> 10;
        println!(
            "{}: resident {} KiB after {} s, {} KiB at most later; dropped {}",
            host.name,
            kib(warm[side]),
            WARM_UP.as_secs(),
            kib(most[side]),
            host.status()?.network()["drops"]
        );
        ensure!(most[side] <= warm[side] + SLACK, "the memory of {} grew", host.name);
        let log = host.log();
        let bad: Vec<_> = log.lines().filter(|line| line.contains("ERROR")).collect();
        ensure!(bad.is_empty(), "{} logged {bad:#?}", host.name);
    }
    Ok(())
}

fn memory(hosts: [&Host; 2]) -> Result<[u64; 2]> {
    Ok([resident(hosts[0].pid()?)?, resident(hosts[1].pid()?)?])
}
