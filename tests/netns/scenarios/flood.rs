//! Far more than anybody honest would send: datagrams from strangers, connections of a local user.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddrV4;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Scenario, pair};
use crate::lab::flood::{A_SECOND, Flood, Noise, SOURCES};
use crate::lab::host::Host;
use crate::lab::lan::Lan;
use crate::lab::namespace::Namespace;
use crate::lab::resources::resident;
use crate::lab::traffic::first_ping;
use crate::lab::world::World;

pub const SCENARIOS: &[(&str, Scenario)] = &[
    ("flood_of_datagrams_costs_no_memory_and_keeps_nobody_out", datagrams),
    ("flood_of_the_local_socket_costs_no_memory_and_keeps_nobody_out", local_user),
];

/// What may be added under a flood: buffers that are touched for the first time.
const GROWTH: u64 = 8 << 20;
/// An honest device is back well before this, also on a machine that runs another test.
const HONEST: Duration = Duration::from_secs(20);
/// Fewer datagrams than this are no flood; how fast they leave is up to the machine.
const LEAST: u64 = 20_000;
/// Connections that a local user holds open.
const HALF_OPEN: usize = 1000;
/// One line without an end.
const LINE: u64 = 1 << 30;
/// Brackets in a request that is nothing but nesting.
const NESTING: usize = 100_000;

/// A device and whoever floods it, on one switch.
pub struct Victim {
    _switch: Lan,
    /// Floods.
    pub stranger: Namespace,
    /// Is flooded.
    pub a: Host,
    /// Talks to a.
    pub b: Host,
    /// The address of a on the switch.
    pub address: std::net::Ipv4Addr,
}

impl Victim {
    /// ```text
    /// a ─┬─ switch ── b
    ///    └─ stranger, behind whom all sources of the flood are
    /// ```
    pub fn new(world: &World) -> Result<Self> {
        let switch = Lan::isolated("switch", [192, 168, 1])?;
        // The first to be plugged in.
        let address = [192, 168, 1, 2].into();
        let (a, b) = pair(world, ["a", "b"], [&switch, &switch])?;
        let stranger = Namespace::new("stranger")?;
        let gateway = switch.connect(&stranger, "eth0")?;
        a.namespace.ip(&format!("route add {SOURCES} via {gateway}"))?;
        Ok(Victim { _switch: switch, stranger, a, b, address })
    }

    /// Where the agent of a listens.
    pub fn target(&self) -> Result<SocketAddrV4> {
        Ok(SocketAddrV4::new(self.address, self.a.status()?.listen_port()?))
    }

    /// All noise that there is for a.
    pub fn noises(&self) -> Result<[Noise; 4]> {
        Ok(Noise::all(self.a.status()?.public_key()?))
    }
}

/// See [`Victim::new`].
fn datagrams(world: &mut World) -> Result<()> {
    let mut victim = Victim::new(world)?;
    let (target, pid) = (victim.target()?, victim.a.pid()?);
    let [overlay, _] = victim.a.addresses()?;
    let before = resident(pid)?;
    for noise in victim.noises()? {
        let flood = Flood::start(&victim.stranger, target, noise, A_SECOND)?;
        let back = comes_back(&mut victim.b, overlay);
        flood.finish(LEAST)?;
        back.with_context(|| format!("in a flood of {}", noise.name()))?;
        let growth = resident(pid)?.saturating_sub(before);
        ensure!(growth <= GROWTH, "{} cost {growth} bytes of memory", noise.name());
    }
    ensure!(victim.a.is_running(), "the agent died");
    Ok(())
}

/// An honest device starts anew and gets an answer through the tunnel; how long that took.
pub fn comes_back(host: &mut Host, overlay: std::net::IpAddr) -> Result<Duration> {
    host.kill9();
    let started = Instant::now();
    host.start()?;
    first_ping(&host.namespace, overlay, HONEST)?;
    Ok(started.elapsed())
}

/// ```text
/// a ── switch          and somebody who is logged in there
/// ```
fn local_user(world: &mut World) -> Result<()> {
    let switch = Lan::isolated("switch", [192, 168, 1])?;
    let mut a = world.host("a", &switch)?;
    a.start()?;
    a.create("home")?;
    let before = resident(a.pid()?)?;
    let mut idle = Vec::new();
    for number in 0..HALF_OPEN {
        // The kernel holds a few that are not accepted yet; then a newcomer waits for its turn.
        let mut stream = UnixStream::connect(a.socket()).context("connect")?;
        if number % 2 == 0 {
            // It may have been displaced already.
            let _ = stream.write_all(b"{\"verb\":");
        }
        idle.push(stream);
    }
    ensure!(a.status()?.state() == "up", "a crowd keeps others out");
    ensure!(endless_line(&a)? < LINE, "the agent took a line of {LINE} bytes");
    let nested = ask(&a, &[&b"[".repeat(NESTING)[..], b"\n"].concat())?;
    ensure!(nested.contains("error"), "{NESTING} brackets are answered with {nested:?}");
    let nested = ask(&a, &[&b"[".repeat(NESTING / 2)[..], b"\n"].concat())?;
    ensure!(nested.contains("error"), "half of them are answered with {nested:?}");
    let growth = resident(a.pid()?)?.saturating_sub(before);
    ensure!(growth <= GROWTH, "a local user cost {growth} bytes of memory");
    ensure!(a.status()?.state() == "up", "others are not answered any more");
    ensure!(a.is_running(), "the agent died");
    drop(idle);
    Ok(())
}

/// How much of a line without an end the agent takes.
fn endless_line(host: &Host) -> Result<u64> {
    let mut stream = UnixStream::connect(host.socket())?;
    let block = vec![b'x'; 1 << 20];
    let mut taken = 0;
    while taken < LINE {
        match stream.write(&block) {
            Ok(length) => taken += length as u64,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    Ok(taken)
}

/// What the agent answers to these bytes; it may stop reading them before their end.
fn ask(host: &Host, bytes: &[u8]) -> Result<String> {
    let mut stream = UnixStream::connect(host.socket())?;
    stream.set_read_timeout(Some(HONEST))?;
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => Err(error)?,
        _ => Ok(String::from_utf8_lossy(&answer).into_owned()),
    }
}
