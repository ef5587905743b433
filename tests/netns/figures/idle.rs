//! What a device costs while nobody uses it.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use super::Figure;
use crate::in_world;
use crate::lab::host::Host;
use crate::lab::nat::Nat;
use crate::lab::resources::{counters, processor_time, resident};
use crate::lab::world::World;

/// Peers of the device that is watched.
const PEERS: usize = 10;
/// What joining stirred up has settled after this: the doorbell is polled often for a minute, and
/// idle tunnels fall silent.
const SETTLE: Duration = Duration::from_secs(75);
/// Long enough for several keepalives and DHT refreshes.
const WATCH: Duration = Duration::from_secs(120);
/// Everybody knows everybody within this.
const KNOWN: Duration = Duration::from_secs(60);

/// ```text
/// watched ── Router ── Internet, DHT, STUN ─┬─ Router ── 5 peers
///                                           └─ Router ── 5 peers      all NATs port-restricted
/// ```
pub fn ten_peers() -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    in_world(|world| {
        figures = watch(world)?;
        Ok(())
    })?;
    Ok(figures)
}

fn watch(world: &mut World) -> Result<Vec<Figure>> {
    world.add_servers()?;
    let routers = [
        world.router("watched", Nat::PortRestricted)?,
        world.router("left", Nat::PortRestricted)?,
        world.router("right", Nat::PortRestricted)?,
    ];
    let mut watched = world.host("watched", &routers[0].lan)?;
    watched.start()?;
    let mut invite = watched.create("home")?.invite;
    let mut peers: Vec<Host> = Vec::new();
    for number in 0..PEERS {
        let mut peer = world.host(&format!("peer{number}"), &routers[1 + number % 2].lan)?;
        peer.start()?;
        peer.join(&invite)?;
        peers.push(peer);
        invite = watched.invite(&[])?;
    }
    let all = |status: &crate::lab::status::Status| {
        (0..PEERS).all(|number| status.peer(&format!("peer{number}")).is_some())
    };
    watched.wait_for("ten peers", KNOWN, all)?;
    // No process asks anything while the device is watched.
    std::thread::sleep(SETTLE);
    let pid = watched.pid()?;
    let before = (processor_time(pid)?, counters(&watched.namespace, "eth0")?, Instant::now());
    std::thread::sleep(WATCH);
    let after = (processor_time(pid)?, counters(&watched.namespace, "eth0")?);
    let watched_for = before.2.elapsed().as_secs_f64();
    let core = (after.0 - before.0).as_secs_f64() / watched_for * 100.0;
    let bytes = (after.1.bytes - before.1.bytes) as f64;
    let packets = after.1.sent + after.1.received - before.1.sent - before.1.received;
    let memory = resident(pid)? as f64 / f64::from(1 << 20);
    let hourly = bytes / watched_for * 3600.0 / 1e6;
    Ok(vec![
        Figure::at_most("idle, 10 peers: resident memory", memory, 25.0, "MiB", json!(memory)),
        Figure::at_most("idle, 10 peers: processor, of one core", core, 0.5, "%", json!(core)),
        Figure::at_most(
            "idle, 10 peers: traffic, both ways, with headers",
            hourly,
            1.0,
            "MB/h",
            json!({ "bytes": bytes, "packets": packets, "seconds": watched_for }),
        ),
    ])
}
