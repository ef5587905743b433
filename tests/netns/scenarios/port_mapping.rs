//! A router that opens ports when asked.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::{CONNECT_LIMIT, Scenario};
use crate::lab::nat::Nat;
use crate::lab::traffic::ping;
use crate::lab::upnp::PortMapper;
use crate::lab::world::World;

pub const SCENARIOS: &[(&str, Scenario)] = &[
    ("port_mapping_lives_as_long_as_the_agent", lives_with_the_agent),
    ("port_mapping_lets_a_symmetric_nat_in", lets_symmetric_in),
];

/// Port mappers answer within half a second each; three protocols are tried.
const MAPPED: Duration = Duration::from_secs(20);

/// ```text
/// a ── Router(port-restricted, miniupnpd) ── Internet with DHT and STUN
/// ```
fn lives_with_the_agent(world: &mut World) -> Result<()> {
    world.add_servers()?;
    let router = world.router("home", Nat::PortRestricted)?;
    let _mapper = PortMapper::start(world, &router)?;
    let mut a = world.host("a", &router.lan)?;
    a.start()?;
    a.create("home")?;
    let status = a.wait_for("a port mapping", MAPPED, |status| {
        ["upnp", "pcp", "nat-pmp"].contains(&status.port_mapping())
    })?;
    let port = status.listen_port()?.to_string();
    let mappings = PortMapper::mappings(&router)?;
    ensure!(
        mappings.iter().any(|rule| rule.contains(&port)),
        "the router has no mapping to port {port}: {mappings:?}"
    );
    a.stop()?;
    let left = PortMapper::mappings(&router)?;
    ensure!(left.is_empty(), "mappings are left after the agent stopped: {left:?}");
    Ok(())
}

/// ```text
/// a ── Router(port-restricted, miniupnpd) ── Internet ── Router(symmetric) ── b
/// ```
/// Without the mapping this pair has no direct path.
fn lets_symmetric_in(world: &mut World) -> Result<()> {
    world.add_servers()?;
    let home = world.router("home", Nat::PortRestricted)?;
    let office = world.router("office", Nat::Symmetric)?;
    let _mapper = PortMapper::start(world, &home)?;
    let mut a = world.host("a", &home.lan)?;
    let mut b = world.host("b", &office.lan)?;
    a.start()?;
    b.start()?;
    let invite = a.create("home")?.invite;
    let until = Instant::now() + MAPPED;
    while PortMapper::mappings(&home)?.is_empty() {
        if Instant::now() > until {
            bail!("no mapping after {MAPPED:?}");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    b.join(&invite).context("join through the mapped port")?;
    b.wait_connected(&["a"], CONNECT_LIMIT)?;
    ensure!(ping(&b.namespace, a.addresses()?[0], 5)? > 0, "no ping through the mapped port");
    Ok(())
}
