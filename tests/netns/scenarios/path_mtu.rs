//! Paths that carry less than the interface: nothing hangs, whatever the routers say or swallow.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Scenario, connect};
use crate::lab::echo::echo;
use crate::lab::host::Host;
use crate::lab::namespace::Namespace;
use crate::lab::narrow::{Narrow, Routers};
use crate::lab::pump::Pump;
use crate::lab::status::Status;
use crate::lab::traffic::transfer;
use crate::lab::world::World;

pub const SCENARIOS: &[(&str, Scenario)] = &[
    ("path_mtu_1280_over_ipv4_swallows_nothing_though_icmp_is_blocked", black_hole_v4),
    ("path_mtu_1280_over_ipv6_swallows_nothing_though_icmp_is_blocked", black_hole_v6),
    ("path_mtu_1280_with_honest_routers_swallows_nothing", honest),
    ("path_mtu_narrows_and_widens_under_a_transfer_over_ipv4", changes_v4),
    ("path_mtu_narrows_under_a_transfer_over_ipv6", changes_v6),
];

/// What the tunnel adds, and the headers below it, over IPv4 and IPv6.
const ADDED: [u64; 2] = [60, 80];
/// A search takes five seconds, and somebody has to look.
const SETTLE_LIMIT: Duration = Duration::from_secs(15);
/// A larger size is tried each half minute.
const WIDEN_LIMIT: Duration = Duration::from_secs(50);
/// A pause of a TCP stream while the path narrows: it is noticed within five seconds and three
/// tries, and TCP's own retransmission has backed off by then.
const PAUSE_LIMIT: Duration = Duration::from_secs(15);
/// 2 MB/s: enough for many large packets, and little work beside.
const GENTLE: u64 = 2_000_000;

/// ```text
/// a ── left ── 1280 ── right ── b      no ICMP errors, no fragments
/// ```
fn black_hole_v4(world: &mut World) -> Result<()> {
    everything_passes(world, true, Routers::BlackHole)
}

/// As [`black_hole_v4`].
fn black_hole_v6(world: &mut World) -> Result<()> {
    everything_passes(world, false, Routers::BlackHole)
}

/// ```text
/// a ── left ── 1280 ── right ── b      routers as the RFCs want them
/// ```
fn honest(world: &mut World) -> Result<()> {
    everything_passes(world, true, Routers::Honest)
}

fn everything_passes(world: &World, v4: bool, routers: Routers) -> Result<()> {
    let (_narrow, a, b) = pair(world, 1280, v4, routers)?;
    // At once, while the size of the path is being searched, and again when it is known.
    for when in ["at first", "later"] {
        for address in b.addresses()? {
            echo(&a.namespace, address, sizes()).context(when)?;
        }
        is_settled(&a, "b", 1280 - ADDED[usize::from(!v4)])?;
    }
    let mebibytes = if routers == Routers::BlackHole { 100 } else { 20 };
    for (from, to) in [(&a, &b), (&b, &a)] {
        let [ipv4, ipv6] = to.addresses()?;
        transfer(&from.namespace, &to.namespace, ipv4, mebibytes).context("TCP over IPv4")?;
        transfer(&from.namespace, &to.namespace, ipv6, 20).context("TCP over IPv6")?;
    }
    Ok(())
}

/// Every size up to more than a packet of the interface, then in steps that are prime to all of
/// them.
fn sizes() -> impl Iterator<Item = usize> {
    (0..1500).chain((1500..65_000).step_by(1_499)).chain([65_000])
}

/// ```text
/// a ── left ── 1500, 1280, 1400 ── right ── b      no ICMP errors, no fragments
/// ```
fn changes_v4(world: &mut World) -> Result<()> {
    let (narrow, a, b) = pair(world, 1500, true, Routers::BlackHole)?;
    let pump = narrows(&narrow, &a, &b, true)?;
    narrow.set_mtu(1400)?;
    a.wait_for("the wider path", WIDEN_LIMIT, |status| mtu(status, "b") == Some(1340))?;
    went_on(pump)
}

/// ```text
/// a ── left ── 1500, 1280 ── right ── b      no ICMP errors, no fragments
/// ```
fn changes_v6(world: &mut World) -> Result<()> {
    let (narrow, a, b) = pair(world, 1500, false, Routers::BlackHole)?;
    went_on(narrows(&narrow, &a, &b, false)?)
}

fn went_on(pump: Pump) -> Result<()> {
    let flowed = pump.finish()?;
    ensure!(flowed.bytes > 4 * GENTLE && flowed.longest_pause < PAUSE_LIMIT, "{flowed:?}");
    Ok(())
}

/// The path becomes narrow under a stream, which goes on.
fn narrows(narrow: &Narrow, a: &Host, b: &Host, v4: bool) -> Result<Pump> {
    let pump = Pump::start(&a.namespace, &b.namespace, b.addresses()?[0], GENTLE)?;
    is_settled(a, "b", 1420)?;
    narrow.set_mtu(1280)?;
    is_settled(a, "b", 1280 - ADDED[usize::from(!v4)])?;
    let before = pump.received();
    let flows = |_: &Status| pump.received() > before + 4 * GENTLE;
    a.wait_for("the stream to go on", PAUSE_LIMIT, flows)?;
    Ok(pump)
}

/// Waits until packets of so many bytes, and no longer ones, go to `peer`.
fn is_settled(host: &Host, peer: &str, bytes: u64) -> Result<()> {
    let settled = |status: &Status| mtu(status, peer) == Some(bytes);
    host.wait_for(&format!("a path MTU of {bytes}"), SETTLE_LIMIT, settled).map(drop)
}

fn mtu(status: &Status, peer: &str) -> Option<u64> {
    status.peer(peer)?["mtu"].as_u64()
}

/// Two connected devices, with the routers between them.
fn pair(world: &World, middle: u16, v4: bool, routers: Routers) -> Result<(Narrow, Host, Host)> {
    let spaces = [Namespace::new("a")?, Namespace::new("b")?];
    let narrow = Narrow::between([&spaces[0], &spaces[1]], middle, v4, routers)?;
    let [a, b] = spaces;
    let (a, b) = connect(world.host_in("a", a)?, world.host_in("b", b)?)?;
    Ok((narrow, a, b))
}
