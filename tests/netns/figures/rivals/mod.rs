//! What carries packets between two namespaces: nothing at all, ginnel, and other programs.
//!
//! To add a rival, implement [`Carrier`] in a file here (of a program that is set up through `wg`,
//! a row of [`wireguard`] is enough) and add it to [`all`].

mod cable;
mod ginnel;
mod nebula;
mod tinc;
mod wireguard;

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::Options;
use crate::lab::lan::cable as plug;
use crate::lab::namespace::Namespace;
use crate::lab::process::Daemon;
use crate::lab::world::World;

/// A program's socket or interface is there within this.
const READY: Duration = Duration::from_secs(20);
/// The MTU of rivals that can be told one: what WireGuard leaves of 1,500 over IPv6.
const MTU: &str = "1420";
/// The far end's address inside a rival's tunnel; the near end is `.1`.
const FAR: [u8; 4] = [10, 9, 0, 2];

/// Something that can carry packets from one namespace to another.
pub trait Carrier {
    /// What the tables call it; unique.
    fn name(&self) -> String;
    /// Why it cannot be measured here, if so.
    fn missing(&self) -> Option<String>;
    /// Starts both ends. Returns before the first packet has passed.
    fn start(&self, stage: Stage<'_>) -> Result<Box<dyn Tunnel>>;
}

/// Where a carrier is started: two namespaces on one cable, MTU 1500.
pub struct Stage<'a> {
    world: &'a World,
    /// Near end, far end.
    sides: [Namespace; 2],
    /// Their addresses on the cable.
    outer: [IpAddr; 2],
}

impl<'a> Stage<'a> {
    /// ```text
    /// a ──── veth, MTU 1500 ──── b
    /// ```
    pub fn new(world: &'a World) -> Result<Self> {
        let sides = [Namespace::new("a")?, Namespace::new("b")?];
        let outer = plug(&sides[0], &sides[1])?;
        Ok(Stage { world, sides, outer })
    }
}

/// Both ends of a carrier that runs.
pub trait Tunnel {
    /// Near end, far end.
    fn sides(&self) -> [&Namespace; 2];
    /// The far end's address inside.
    fn far_end(&self) -> IpAddr;
    /// The processes whose processor time and memory count.
    fn daemons(&self) -> Vec<u32>;
    /// When the first of the two programs was started, keys and configuration being there.
    fn started(&self) -> Instant;
}

/// All there are, in the order of the tables: the bare cable, ginnel, the rivals.
pub fn all(options: &Options) -> Vec<Box<dyn Carrier>> {
    let mut all: Vec<Box<dyn Carrier>> = vec![Box::new(cable::Cable)];
    all.extend(ginnel::all());
    all.extend(wireguard::all(&options.wireguard_go, options.gotatun.as_deref()));
    all.extend([Box::new(nebula::Nebula) as Box<dyn Carrier>, Box::new(tinc::Tinc)]);
    all
}

/// Two daemons of another program, with 10.9.0.0/24 between them.
struct Rival {
    // Before the namespaces: they end first.
    daemons: Vec<Daemon>,
    sides: [Namespace; 2],
    started: Instant,
}

impl Tunnel for Rival {
    fn sides(&self) -> [&Namespace; 2] {
        self.sides.each_ref()
    }

    fn far_end(&self) -> IpAddr {
        FAR.into()
    }

    fn daemons(&self) -> Vec<u32> {
        self.daemons.iter().map(Daemon::pid).collect()
    }

    fn started(&self) -> Instant {
        self.started
    }
}

/// Waits until `there`, as long as the daemon runs.
fn wait_until(daemon: &mut Daemon, there: impl Fn() -> bool) -> Result<()> {
    let until = Instant::now() + READY;
    while !there() {
        ensure!(daemon.is_running(), "it ended at once");
        ensure!(Instant::now() < until, "it is not ready after {READY:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Whether the namespace has an interface of this name.
fn has_interface(namespace: &Namespace, name: &str) -> bool {
    let table = namespace.run(|| std::fs::read_to_string("/proc/thread-self/net/dev"));
    let row = format!("{name}:");
    table.is_ok_and(|table| table.lines().any(|line| line.trim_start().starts_with(&row)))
}

/// Why a program cannot be run, if so.
fn absent(program: &Path) -> Option<String> {
    let found = if program.components().count() > 1 {
        program.is_file()
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
    };
    (!found).then(|| format!("{} is not installed", program.display()))
}
