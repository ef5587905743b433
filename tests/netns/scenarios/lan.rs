//! No Internet at all.

use anyhow::{Result, ensure};

use super::{CONNECT_LIMIT, Scenario, all_see_one_another, pair};
use crate::lab::lan::Lan;
use crate::lab::nat::Nat;
use crate::lab::traffic::transfer;
use crate::lab::world::World;

pub const SCENARIOS: &[(&str, Scenario)] = &[
    ("lan_without_anything_else_forms_by_itself", nothing_else),
    ("lan_behind_one_nat_takes_the_short_way", one_nat),
];

/// ```text
/// a ── switch ── b        no router, no name server, no DHT, no STUN, no configuration file
/// ```
fn nothing_else(world: &mut World) -> Result<()> {
    let switch = Lan::isolated("switch", [192, 168, 1])?;
    let mut a = world.host("a", &switch)?;
    let mut b = world.host("b", &switch)?;
    for host in [&mut a, &mut b] {
        host.configure("")?;
        host.start()?;
    }
    b.join(&a.create("home")?.invite)?;
    let status = a.wait_connected(&["b"], CONNECT_LIMIT)?;
    ensure!(status.path_kind("b") == Some("lan"), "the path is {:?}", status.path_kind("b"));
    let status = b.wait_connected(&["a"], CONNECT_LIMIT)?;
    ensure!(status.path_kind("a") == Some("lan"), "the path is {:?}", status.path_kind("a"));
    all_see_one_another(&[&a, &b])
}

/// ```text
/// a ─┬─ Router(port-restricted) ── Internet with DHT and STUN
/// b ─┘
/// ```
fn one_nat(world: &mut World) -> Result<()> {
    world.add_servers()?;
    let router = world.router("home", Nat::PortRestricted)?;
    let (a, b) = pair(world, ["a", "b"], [&router.lan, &router.lan])?;
    a.wait_for("the path inside the LAN", CONNECT_LIMIT, |status| {
        status.path_kind("b") == Some("lan")
    })?;
    all_see_one_another(&[&a, &b])?;
    transfer(&a.namespace, &b.namespace, b.addresses()?[0], 20)?;
    Ok(())
}
