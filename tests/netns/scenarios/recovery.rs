//! What breaks comes back without anybody's help.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{CONNECT_LIMIT, Scenario, all_see_one_another, pair};
use crate::lab::host::Host;
use crate::lab::lan::Router;
use crate::lab::nat::Nat;
use crate::lab::traffic::{Stream, first_ping, longest_silence};
use crate::lab::world::World;

pub const SCENARIOS: &[(&str, Scenario)] = &[
    ("recovery_after_kill_9_of_one_agent", one_killed),
    ("recovery_after_kill_9_of_both_agents", both_killed),
    ("recovery_established_tunnels_never_notice_a_dead_dht", dht_killed),
    ("recovery_after_the_wan_address_changed", wan_changes),
    ("recovery_after_moving_to_another_lan", host_moves),
    ("recovery_after_the_router_forgot_its_mappings", router_forgets),
    ("recovery_leaves_nothing_behind_after_a_stop", clean_stop),
];

/// Both ends of a broken path notice and meet again within this. The figures are stricter; this
/// bound also holds beside another test on two cores.
const HEALED: Duration = Duration::from_secs(60);

/// ```text
/// a ── Router(port-restricted) ── Internet with DHT and STUN ── Router(port-restricted) ── b
/// ```
fn connected(world: &mut World) -> Result<([Router; 2], Host, Host)> {
    world.add_servers()?;
    let routers =
        [world.router("left", Nat::PortRestricted)?, world.router("right", Nat::PortRestricted)?];
    let (a, b) = pair(world, ["a", "b"], [&routers[0].lan, &routers[1].lan])?;
    Ok((routers, a, b))
}

/// See [`connected`].
fn one_killed(world: &mut World) -> Result<()> {
    let (_routers, a, mut b) = connected(world)?;
    let [a_ipv4, _] = a.addresses()?;
    b.kill9();
    b.start()?;
    first_ping(&b.namespace, a_ipv4, HEALED).context("after kill -9 of b")?;
    all_see_one_another(&[&a, &b])?;
    let links = b.namespace.tool("ip", &["-br", "link"])?;
    ensure!(links.matches("ginnel").count() == 1, "interfaces after a restart: {links}");
    Ok(())
}

/// See [`connected`].
fn both_killed(world: &mut World) -> Result<()> {
    let (_routers, mut a, mut b) = connected(world)?;
    let [a_ipv4, _] = a.addresses()?;
    a.kill9();
    b.kill9();
    a.start()?;
    b.start()?;
    first_ping(&b.namespace, a_ipv4, HEALED).context("after kill -9 of both")?;
    all_see_one_another(&[&a, &b])
}

/// See [`connected`].
fn dht_killed(world: &mut World) -> Result<()> {
    let (_routers, a, mut b) = connected(world)?;
    let [a_ipv4, _] = a.addresses()?;
    let stream = Stream::start(&b.namespace, &a.namespace, a_ipv4, Duration::from_millis(20))?;
    std::thread::sleep(Duration::from_millis(500));
    let started = Instant::now();
    world.dht.iter_mut().for_each(crate::lab::world::DhtNode::kill);
    // Long enough for requests to dead nodes to time out.
    std::thread::sleep(Duration::from_secs(6));
    let silence = longest_silence(&stream.finish()?, started, Instant::now());
    ensure!(silence < Duration::from_secs(1), "the tunnel fell silent for {silence:?}");
    for node in &mut world.dht {
        node.start()?;
    }
    b.kill9();
    b.start()?;
    first_ping(&b.namespace, a_ipv4, HEALED).context("with a DHT that was restarted")?;
    all_see_one_another(&[&a, &b])
}

/// See [`connected`]; the left router gets another address and forgets its mappings.
fn wan_changes(world: &mut World) -> Result<()> {
    let (mut routers, a, b) = connected(world)?;
    let [a_ipv4, _] = a.addresses()?;
    let fresh = world.fresh_address();
    routers[0].change_wan(&world.internet, fresh)?;
    first_ping(&b.namespace, a_ipv4, HEALED).context("after the WAN address changed")?;
    let there = |status: &crate::lab::status::Status| {
        status.path_endpoint("a").is_some_and(|endpoint| endpoint.starts_with(&format!("{fresh}:")))
    };
    b.wait_for("a path to the new address", CONNECT_LIMIT, there)?;
    all_see_one_another(&[&a, &b])
}

/// ```text
/// a ── Router(left) ── Internet ── Router(right) ── b
///                         └─────── Router(cafe) ── (b, later)
/// ```
fn host_moves(world: &mut World) -> Result<()> {
    let (_routers, a, b) = connected(world)?;
    let cafe = world.router("cafe", Nat::PortRestricted)?;
    let [a_ipv4, _] = a.addresses()?;
    b.move_to(&cafe.lan)?;
    first_ping(&b.namespace, a_ipv4, HEALED).context("after b moved to another LAN")?;
    all_see_one_another(&[&a, &b])
}

/// See [`connected`]; both routers reboot.
fn router_forgets(world: &mut World) -> Result<()> {
    let (routers, a, b) = connected(world)?;
    let [a_ipv4, _] = a.addresses()?;
    for router in &routers {
        router.forget_mappings()?;
    }
    first_ping(&b.namespace, a_ipv4, HEALED).context("after both routers forgot all mappings")?;
    all_see_one_another(&[&a, &b])
}

/// See [`connected`].
fn clean_stop(world: &mut World) -> Result<()> {
    let (_routers, a, mut b) = connected(world)?;
    let [a_ipv4, _] = a.addresses()?;
    ensure!(b.stop()?.success(), "the agent does not end with 0 after SIGTERM");
    let links = b.namespace.tool("ip", &["-br", "link"])?;
    ensure!(!links.contains("ginnel"), "an interface is left: {links}");
    let routes = b.namespace.tool("ip", &["route", "show", "table", "all"])?;
    ensure!(!routes.contains("ginnel"), "routes are left: {routes}");
    b.ginnel(&["status"])?.exits(3)?.says(&["agent"])?;
    b.start()?;
    first_ping(&b.namespace, a_ipv4, HEALED).context("after a stop and a start")?;
    Ok(())
}
