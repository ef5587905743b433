//! How long a person waits.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

use super::{Figure, Options, in_quiet_world, median, seconds};
use crate::lab::host::Host;
use crate::lab::lan::Lan;
use crate::lab::nat::Nat;
use crate::lab::traffic::first_ping;
use crate::lab::world::World;

/// Past this a round counts as failed, not as slow.
const LIMIT: Duration = Duration::from_secs(60);

/// ```text
/// a ── Router(port-restricted) ── Internet, DHT, STUN ── Router(port-restricted) ── b
/// ```
/// From `ginnel join` typed on b to the first answer from a, with agents that know nothing yet.
pub fn across_nats(options: &Options) -> Result<Vec<Figure>> {
    let times = rounds(options, |world| {
        let (a, b) = behind_nats(world)?;
        join_to_ping(a, b)
    })?;
    let times = seconds(&times);
    let raw = json!({ "seconds": times });
    let slowest = times.iter().copied().fold(0.0, f64::max);
    Ok(vec![
        Figure::at_most("join to first ping, two NATs, 25 ms", median(&times), 5.0, "s", raw),
        Figure::at_most("… the slowest of them", slowest, 10.0, "s", json!(slowest)),
    ])
}

/// ```text
/// a ── switch ── b
/// ```
pub fn on_a_lan(options: &Options) -> Result<Vec<Figure>> {
    let times = rounds(options, |world| {
        let switch = Lan::isolated("switch", [192, 168, 1])?;
        join_to_ping(world.host("a", &switch)?, world.host("b", &switch)?)
    })?;
    let times = seconds(&times);
    let raw = json!({ "seconds": times });
    Ok(vec![Figure::at_most("join to first ping, one LAN", median(&times), 2.0, "s", raw)])
}

/// As [`across_nats`]; from the start of the killed agent to the first answer.
pub fn after_a_kill(options: &Options) -> Result<Vec<Figure>> {
    let times = rounds(options, |world| {
        let (mut a, mut b) = behind_nats(world)?;
        a.start()?;
        b.start()?;
        b.join(&a.create("home")?.invite)?;
        let [a_ipv4, _] = a.addresses()?;
        first_ping(&b.namespace, a_ipv4, LIMIT)?;
        b.kill9();
        let started = Instant::now();
        b.start()?;
        first_ping(&b.namespace, a_ipv4, LIMIT)?;
        Ok(started.elapsed())
    })?;
    let times = seconds(&times);
    let raw = json!({ "seconds": times });
    let slowest = times.iter().copied().fold(0.0, f64::max);
    Ok(vec![
        Figure::at_most("back after kill -9 of one side", median(&times), 5.0, "s", raw),
        Figure::note("… the slowest of them", format!("{slowest:.2} s"), json!(slowest)),
    ])
}

fn behind_nats(world: &mut World) -> Result<(Host, Host)> {
    world.add_servers()?;
    let left = world.router("left", Nat::PortRestricted)?;
    let right = world.router("right", Nat::PortRestricted)?;
    Ok((world.host("a", &left.lan)?, world.host("b", &right.lan)?))
}

fn join_to_ping(mut a: Host, mut b: Host) -> Result<Duration> {
    a.start()?;
    b.start()?;
    let invite = a.create("home")?.invite;
    let [a_ipv4, _] = a.addresses()?;
    let started = Instant::now();
    b.join(&invite)?;
    first_ping(&b.namespace, a_ipv4, LIMIT)?;
    Ok(started.elapsed())
}

fn rounds(
    options: &Options,
    round: impl Fn(&mut World) -> Result<Duration>,
) -> Result<Vec<Duration>> {
    let one = |number: usize| {
        let mut time = Duration::ZERO;
        in_quiet_world(|world| {
            time = round(world)?;
            Ok(())
        })
        .with_context(|| format!("round {number}"))?;
        Ok(time)
    };
    (1..=options.rounds()).map(one).collect()
}
