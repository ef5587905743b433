//! The main road: devices behind NATs, found through the DHT, with nothing between them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{CONNECT_LIMIT, Scenario, all_see_one_another, pair};
use crate::lab::host::Host;
use crate::lab::nat::Nat;
use crate::lab::traffic::{Stream, ping, transfer};
use crate::lab::world::World;

pub const SCENARIOS: &[(&str, Scenario)] = &[
    ("two_nats_form_a_lan_with_a_direct_path", form_a_lan),
    ("third_device_is_seen_by_all_and_cut_off_when_revoked", third_is_revoked),
    ("members_exit_codes_and_lookups_as_documented", look_ups),
];

/// What both sides must take back within when a revoke is ordered: 2 s is promised (p95).
const ENFORCED: Duration = Duration::from_secs(2);
/// One datagram each; fine enough to see half a second, small enough to cost nothing.
const EVERY: Duration = Duration::from_millis(10);

/// ```text
/// a ── Router(port-restricted) ── Internet ── Router(port-restricted) ── b
///   192.168.1.0/24                8 DHT nodes, 2 coturn              192.168.1.0/24
/// ```
fn form_a_lan(world: &mut World) -> Result<()> {
    world.add_servers()?;
    let left = world.router("left", Nat::PortRestricted)?;
    let right = world.router("right", Nat::PortRestricted)?;
    let (a, b) = pair(world, ["a", "b"], [&left.lan, &right.lan])?;
    all_see_one_another(&[&a, &b])?;
    for (from, to) in [(&a, &b), (&b, &a)] {
        let direct =
            |status: &crate::lab::status::Status| status.path_kind(&to.name) == Some("direct");
        let status = from.wait_for("a direct path", CONNECT_LIMIT, direct)?;
        let endpoint = status.path_endpoint(&to.name).context("a direct path has an endpoint")?;
        ensure!(endpoint.starts_with("11.0.2."), "the path leads to {endpoint}, not to a router");
    }
    let [b_ipv4, b_ipv6] = b.addresses()?;
    transfer(&a.namespace, &b.namespace, b_ipv4, 100).context("100 MiB over IPv4")?;
    transfer(&a.namespace, &b.namespace, b_ipv6, 20).context("20 MiB over IPv6")?;
    let [a_ipv4, _] = a.addresses()?;
    transfer(&b.namespace, &a.namespace, a_ipv4, 20).context("20 MiB the other way")?;
    Ok(())
}

/// ```text
/// a ── Router(port-restricted) ── Internet ── Router(port-restricted) ── b
///                                    └─────── Router(port-restricted) ── c, removed later
/// ```
fn third_is_revoked(world: &mut World) -> Result<()> {
    world.add_servers()?;
    let routers = [
        world.router("left", Nat::PortRestricted)?,
        world.router("right", Nat::PortRestricted)?,
        world.router("third", Nat::PortRestricted)?,
    ];
    let (a, b) = pair(world, ["a", "b"], [&routers[0].lan, &routers[1].lan])?;
    let mut c = world.host("c", &routers[2].lan)?;
    c.start()?;
    c.join(&a.invite(&[])?)?;
    for (host, peers) in [(&a, ["b", "c"]), (&b, ["a", "c"]), (&c, ["a", "b"])] {
        host.wait_for("both others in the roster", CONNECT_LIMIT, |status| {
            peers.iter().all(|peer| status.peer(peer).is_some())
        })?;
    }
    all_see_one_another(&[&a, &b, &c])?;
    cut_off(&a, &b, &c)?;
    let [a_ipv4, _] = a.addresses()?;
    c.kill9();
    c.start()?;
    c.wait_for("its own revocation after a restart", CONNECT_LIMIT, |status| {
        status.state() == "revoked"
    })?;
    ensure!(ping(&c.namespace, a_ipv4, 5)? == 0, "a revoked device is answered after its restart");
    ensure!(a.status()?.peer("c").is_none(), "a shows the revoked device as a peer again");
    all_see_one_another(&[&a, &b])
}

/// Revokes `c` while it sends to both others.
fn cut_off(a: &Host, b: &Host, c: &Host) -> Result<()> {
    let streams = [
        Stream::start(&c.namespace, &a.namespace, a.addresses()?[0], EVERY)?,
        Stream::start(&c.namespace, &b.namespace, b.addresses()?[1], EVERY)?,
    ];
    // Let it flow: a stream that never arrived could not be seen to end.
    std::thread::sleep(Duration::from_secs(1));
    a.ginnel(&["revoke", "c", "--reason", "test"])?.success()?;
    let ordered = Instant::now();
    for host in [a, b] {
        host.wait_for("the revoked device gone", CONNECT_LIMIT, |status| {
            status.peer("c").is_none()
        })?;
    }
    c.wait_for("its own revocation", CONNECT_LIMIT, |status| status.state() == "revoked")?;
    // What is still let through would arrive now.
    std::thread::sleep(ENFORCED);
    for (name, stream) in ["a", "b"].into_iter().zip(streams) {
        let arrivals = stream.finish()?;
        let before = arrivals.iter().filter(|at| **at < ordered).count();
        ensure!(before > 20, "only {before} datagrams reached {name} before the revocation");
        let last =
            arrivals.last().map(|at| at.saturating_duration_since(ordered)).unwrap_or_default();
        ensure!(last < ENFORCED, "{name} took datagrams for {last:?} after the revocation");
    }
    Ok(())
}

/// ```text
/// a ── Router(port-restricted) ── b
/// ```
fn look_ups(world: &mut World) -> Result<()> {
    world.add_servers()?;
    let router = world.router("home", Nat::PortRestricted)?;
    let (a, b) = pair(world, ["a", "b"], [&router.lan, &router.lan])?;
    let [b_ipv4, b_ipv6] = b.addresses()?;
    let members = a.json(&["members", "--json"])?;
    let named = |name: &str| members.to_string().contains(&format!("\"{name}\""));
    ensure!(named("a") && named("b"), "members lists {members}");
    ensure!(a.ginnel(&["ip", "b"])?.success()?.contains(&b_ipv4.to_string()), "ip b");
    ensure!(a.ginnel(&["whois", &b_ipv6.to_string()])?.success()?.contains('b'), "whois");
    ensure!(
        a.ginnel(&["peers"])?.success()?.contains("b\t"),
        "peers is not tab-separated in a pipe"
    );
    ensure!(a.json(&["log", "--json"])?.to_string().contains("grant"), "log has no grant");
    a.json(&["netcheck", "--json"])?;
    a.json(&["ping", "b", "-c", "3", "--json"])?;
    ensure!(a.ginnel(&["completions", "bash"])?.success()?.contains("ginnel"), "completions");
    ensure!(a.ginnel(&["--version"])?.success()?.contains("0."), "--version");
    a.ginnel(&["status", "--check", "live"])?.exits(0)?;
    a.ginnel(&["status", "--check", "ready"])?.exits(0)?;
    a.ginnel(&["ping", "nobody"])?.exits(5)?.says(&["nobody"])?;
    a.ginnel(&["revoke", "nobody"])?.exits(5)?.says(&["nobody"])?;
    a.ginnel(&["down", "elsewhere"])?.exits(5)?.says(&["elsewhere"])?;
    a.ginnel(&["bogus"])?.exits(2)?;
    b.ginnel(&["invite"])?.exits_one_of(&[1, 4])?.says(&["admin"])?;
    down_and_up(&a, b)
}

fn down_and_up(a: &Host, mut b: Host) -> Result<()> {
    let b_ipv4 = b.addresses()?[0];
    b.ginnel(&["down"])?.success()?;
    ensure!(b.status()?.state() == "down", "state after `down`");
    b.stop()?;
    b.start()?;
    ensure!(b.status()?.state() == "down", "`down` did not survive a restart");
    b.ginnel(&["up"])?.success()?;
    b.wait_connected(&["a"], CONNECT_LIMIT)?;
    ensure!(ping(&a.namespace, b_ipv4, 3)? > 0, "no ping after `up`");
    b.ginnel(&["leave"])?.success()?;
    ensure!(b.status()?.networks().is_empty(), "a network is left after `leave`");
    let links = b.namespace.tool("ip", &["-br", "link"])?;
    ensure!(!links.contains("ginnel"), "an interface is left after `leave`: {links}");
    Ok(())
}
