//! Invites that must not work.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Scenario, pair};
use crate::lab::host::Host;
use crate::lab::nat::Nat;
use crate::lab::process::Outcome;
use crate::lab::world::World;

pub const SCENARIOS: &[(&str, Scenario)] = &[
    ("invite_that_was_used_lets_nobody_else_in", used_twice),
    ("invite_that_expired_lets_nobody_in", expired),
    ("invite_of_a_network_that_is_away_leaves_the_own_network_alone", other_network),
    ("invite_that_is_damaged_is_refused_with_a_reason", damaged),
];

/// A text that is no invite: wrong use, or failed.
const MALFORMED: &[i32] = &[1, 2];
/// Nobody answers to an invite that is not open: failed with a reason, or timed out.
const UNANSWERED: &[i32] = &[1, 6];

/// Joins with a time-out that is kept.
fn join(host: &Host, invite: &str) -> Result<Outcome> {
    let outcome = host.ginnel(&["join", invite, "--name", &host.name, "--timeout", "12s"])?;
    ensure!(outcome.took < Duration::from_secs(20), "--timeout 12s took {:?}", outcome.took);
    Ok(outcome)
}

fn is_not_in(admin: &Host, refused: &Host) -> Result<()> {
    ensure!(admin.status()?.peer(&refused.name).is_none(), "{} became a member", refused.name);
    let up = refused.status()?;
    ensure!(up.state() != "up", "{} believes that it is a member: {:#}", refused.name, up.0);
    Ok(())
}

/// ```text
/// a, b, c ── Router(port-restricted) ── Internet with DHT and STUN
/// ```
fn used_twice(world: &mut World) -> Result<()> {
    world.add_servers()?;
    let router = world.router("home", Nat::PortRestricted)?;
    let (mut a, mut b) = (world.host("a", &router.lan)?, world.host("b", &router.lan)?);
    let mut c = world.host("c", &router.lan)?;
    for host in [&mut a, &mut b, &mut c] {
        host.start()?;
    }
    let invite = a.create("home")?.invite;
    b.join(&invite)?;
    join(&c, &invite)?.exits_one_of(UNANSWERED)?.says(&["invite"])?;
    is_not_in(&a, &c)?;
    c.join(&a.invite(&[])?).context("with an invite of its own")?;
    for host in [&a, &b, &c] {
        ensure!(!host.log().contains(&invite), "the log of {} holds the invite", host.name);
    }
    Ok(())
}

/// As [`used_twice`], with two hosts.
fn expired(world: &mut World) -> Result<()> {
    world.add_servers()?;
    let router = world.router("home", Nat::PortRestricted)?;
    let (mut a, mut b) = (world.host("a", &router.lan)?, world.host("b", &router.lan)?);
    a.start()?;
    b.start()?;
    a.create("home")?;
    let invite = a.invite(&["--expires", "1s"])?;
    // The clock of the machine must pass the invite's last second.
    std::thread::sleep(Duration::from_millis(2500));
    join(&b, &invite)?.exits_one_of(UNANSWERED)?.says(&["invite"])?;
    is_not_in(&a, &b)
}

/// ```text
/// a, b (network home), d (network work, then away) ── Router ── Internet with DHT and STUN
/// ```
fn other_network(world: &mut World) -> Result<()> {
    world.add_servers()?;
    let router = world.router("home", Nat::PortRestricted)?;
    let (a, b) = pair(world, ["a", "b"], [&router.lan, &router.lan])?;
    let mut d = world.host("d", &router.lan)?;
    d.start()?;
    let invite = d.create("work")?.invite;
    d.stop()?;
    join(&b, &invite)?.exits(6)?.says(&[])?;
    let status = b.status()?;
    ensure!(status.0["networks"][0]["name"] == "home", "the own network changed: {:#}", status.0);
    b.wait_connected(&["a"], Duration::from_secs(10))?;
    super::all_see_one_another(&[&a, &b])
}

/// ```text
/// a, b ── Router(port-restricted)
/// ```
fn damaged(world: &mut World) -> Result<()> {
    let router = world.router("home", Nat::PortRestricted)?;
    let (mut a, mut b) = (world.host("a", &router.lan)?, world.host("b", &router.lan)?);
    a.start()?;
    b.start()?;
    let invite = a.create("home")?.invite;
    let half = &invite[..invite.len() / 2];
    let mut mistyped = invite.clone().into_bytes();
    let middle = mistyped.len() / 2;
    mistyped[middle] = if mistyped[middle] == b'a' { b'b' } else { b'a' };
    let mistyped = String::from_utf8(mistyped)?;
    let long = format!("ginnel1{}", "a".repeat(10 * 1024));
    for (what, text) in [
        ("half", half),
        ("mistyped", &mistyped),
        ("10 KiB", &long),
        ("prefix", "ginnel1"),
        ("word", "hello"),
    ] {
        join(&b, text)?.exits_one_of(MALFORMED)?.says(&["invite"]).context(what)?;
    }
    let file = b.folder().join("invite");
    std::fs::write(&file, [0xff, 0xfe, 0x00, 0x80, 0xc3, 0x28])?;
    let at_file = format!("@{}", file.display());
    join(&b, &at_file)?
        .exits_one_of(MALFORMED)?
        .says(&["invite", "utf-8"])
        .context("bytes in a file")?;
    let argument: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(&[0xff, 0xfe, 0x80]);
    let command: &mut Command = &mut b.verb();
    let outcome =
        b.namespace.command(command.arg("join").arg(argument), Duration::from_secs(20))?;
    outcome.exits_one_of(MALFORMED)?.says(&[]).context("an argument that is not UTF-8")?;
    ensure!(b.status()?.networks().is_empty(), "a damaged invite left a network behind");
    // A newline and spaces come with every copy and paste: the true invite still works.
    std::fs::write(&file, format!("  {invite}\n"))?;
    join(&b, &at_file)?.success().context("the whole invite, from a file")?;
    Ok(())
}
