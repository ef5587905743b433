//! What a device costs while nobody uses it.
//!
//! Traffic is counted on the only interface of the watched host: tunnels, path checks, STUN, the
//! DHT and what the kernel adds (ARP, neighbour discovery), both ways, with Ethernet headers. The
//! hourly figure is that of the window times 3600 s / window. The window holds one round of the DHT
//! client's five-minute pings and many keepalives; what is rarer (the record's refresh, once in 45
//! to 75 minutes, and a look around in the DHT every 15) is not in it unless it happens to fall
//! there, and is named with its size in the README.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Figure, Options, in_quiet_world};
use crate::lab::host::Host;
use crate::lab::lan::Router;
use crate::lab::namespace::Namespace;
use crate::lab::nat::Nat;
use crate::lab::resources::{counters, processor_time, resident, wake_ups};
use crate::lab::world::World;

/// Peers of the device that is watched.
const PEERS: usize = 10;
/// What joining stirred up has settled after this: addresses are told eagerly for three minutes.
const SETTLE: Duration = Duration::from_secs(200);
/// The period of the DHT client's pings, the longest that matters here.
const WATCH: Duration = Duration::from_secs(300);
/// Everybody knows everybody within this.
const KNOWN: Duration = Duration::from_secs(60);
/// Tells what the traffic is: IP bytes by kind, in both directions.
const COUNT: &str = r#"
table inet count {
  counter dht { }
  counter stun { }
  counter tunnels { }
  counter other { }
  chain out { type filter hook postrouting priority 300; oifname "eth0" jump sort; }
  chain in { type filter hook prerouting priority -350; iifname "eth0" jump sort; }
  chain sort {
    udp dport 6881 counter name dht return
    udp sport 6881 counter name dht return
    udp dport 3478 counter name stun return
    udp sport 3478 counter name stun return
    meta l4proto udp ip daddr != 224.0.0.0/4 counter name tunnels return
    counter name other
  }
}
"#;

/// ```text
/// watched ── Router ── Internet, DHT, STUN ─┬─ Router ── 5 peers
///                                           └─ Router ── 5 peers      all NATs port-restricted
/// ```
pub fn ten_peers(options: &Options) -> Result<Vec<Figure>> {
    if options.quick {
        return Ok(Vec::new());
    }
    let mut figures = Vec::new();
    in_quiet_world(|world| {
        figures = watch(world)?;
        Ok(())
    })?;
    Ok(figures)
}

/// What is read off twice.
struct Reading {
    processor: Duration,
    wake_ups: u64,
    bytes: u64,
    packets: u64,
    kinds: Vec<(String, u64)>,
}

impl Reading {
    fn of(host: &Host) -> Result<Self> {
        let pid = host.pid()?;
        let counted = counters(&host.namespace, "eth0")?;
        Ok(Reading {
            processor: processor_time(pid)?,
            wake_ups: wake_ups(pid)?,
            bytes: counted.bytes,
            packets: counted.sent + counted.received,
            kinds: kinds(&host.namespace)?,
        })
    }
}

fn watch(world: &mut World) -> Result<Vec<Figure>> {
    let (hosts, _routers) = mesh_of_peers(world)?;
    let watched = &hosts[0];
    watched.namespace.nft(COUNT)?;
    // No process asks anything while the device is watched.
    std::thread::sleep(SETTLE);
    let (before, started) = (Reading::of(watched)?, Instant::now());
    std::thread::sleep(WATCH);
    let after = Reading::of(watched)?;
    let seconds = started.elapsed().as_secs_f64();
    let core = (after.processor - before.processor).as_secs_f64() / seconds * 100.0;
    let memory = resident(watched.pid()?)? as f64 / f64::from(1 << 20);
    let hourly = |bytes: u64| bytes as f64 / seconds * 3600.0 / 1e6;
    let bytes = after.bytes - before.bytes;
    let kinds: Vec<(String, f64)> = (after.kinds.iter().zip(&before.kinds))
        .map(|((name, after), (_, before))| (name.clone(), hourly(after - before)))
        .collect();
    let woken = (after.wake_ups - before.wake_ups) as f64 / seconds;
    let status = watched.status()?;
    let raw = json!({
        "bytes": bytes, "packets": after.packets - before.packets, "seconds": seconds,
        "mb_per_hour_ip": kinds.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
        "connected": (0..PEERS).filter(|n| status.is_connected(&format!("peer{n}"))).count(),
    });
    let parts: Vec<String> =
        kinds.iter().map(|(name, hourly)| format!("{name} {hourly:.2}")).collect();
    let traffic = "idle, 10 peers: traffic, both ways, with headers";
    Ok(vec![
        Figure::at_most("idle, 10 peers: resident memory", memory, 25.0, "MiB", json!(memory)),
        Figure::at_most("idle, 10 peers: processor, of one core", core, 0.5, "%", json!(core)),
        Figure::note("… wake-ups", format!("{woken:.1} a second"), json!(woken)),
        Figure::at_most(traffic, hourly(bytes), 1.0, "MB/h", raw),
        Figure::note("… of which, MB/h of IP", parts.join(", "), json!(null)),
    ])
}

/// The watched host, then its peers; every invite is used. The routers have to outlive them.
fn mesh_of_peers(world: &mut World) -> Result<(Vec<Host>, [Router; 3])> {
    world.add_servers()?;
    let routers = [
        world.router("watched", Nat::PortRestricted)?,
        world.router("left", Nat::PortRestricted)?,
        world.router("right", Nat::PortRestricted)?,
    ];
    let mut watched = world.host("watched", &routers[0].lan)?;
    watched.start()?;
    let first = watched.create("home")?.invite;
    let mut hosts = vec![watched];
    for number in 0..PEERS {
        let mut peer = world.host(&format!("peer{number}"), &routers[1 + number % 2].lan)?;
        peer.start()?;
        let invite = if number == 0 { first.clone() } else { hosts[0].invite(&[])? };
        peer.join(&invite)?;
        hosts.push(peer);
    }
    let all = |status: &crate::lab::status::Status| {
        (0..PEERS).all(|number| status.peer(&format!("peer{number}")).is_some())
    };
    hosts[0].wait_for("ten peers", KNOWN, all)?;
    Ok((hosts, routers))
}

fn kinds(namespace: &Namespace) -> Result<Vec<(String, u64)>> {
    let text = namespace.tool("nft", &["-j", "list", "counters", "table", "inet", "count"])?;
    let answer: Value = serde_json::from_str(&text)?;
    let counters = answer["nftables"].as_array().context("nft lists nothing")?;
    counters
        .iter()
        .filter_map(|entry| entry.get("counter"))
        .map(|counter| {
            let name = counter["name"].as_str().context("a counter without name")?;
            Ok((name.to_owned(), counter["bytes"].as_u64().context("no bytes")?))
        })
        .collect()
}
