//! What a device costs, and how that grows with the network.

use std::time::Duration;

use ginnel::api::PeerState;

use super::crowd::Crowd;
use super::net::{NatKind, Weather};
use super::tally::{Tally, cpu_time, live_bytes};
use super::world::World;

/// What was done so far, by all devices together.
#[derive(Debug, Clone, Copy)]
struct Meter {
    at: Duration,
    tally: Tally,
    lookups: u64,
    stores: u64,
    cpu: Duration,
}

impl Meter {
    fn read(world: &World) -> Self {
        let operations = world.dht.operations;
        Self {
            at: world.elapsed(),
            tally: world.tally,
            lookups: operations.lookups,
            stores: operations.publishes,
            cpu: cpu_time(),
        }
    }
}

/// What one device cost in a minute.
struct Cost {
    tally: Tally,
    lookups: u64,
    stores: u64,
    cpu: Duration,
    device_minutes: f64,
}

impl Cost {
    fn between(before: Meter, after: Meter, devices: usize) -> Self {
        Self {
            tally: after.tally - before.tally,
            lookups: after.lookups - before.lookups,
            stores: after.stores - before.stores,
            cpu: after.cpu - before.cpu,
            device_minutes: (after.at - before.at).as_secs_f64() / 60.0 * devices as f64,
        }
    }
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let each = |count: u64| count as f64 / self.device_minutes;
        let tally = &self.tally;
        write!(f, "datagrams {:.1} ({:.0} B):", each(tally.datagrams), each(tally.bytes))?;
        write!(f, " checks {:.1}, STUN {:.1},", each(tally.checks), each(tally.stun))?;
        write!(f, " handshakes {:.1},", each(tally.handshakes))?;
        write!(f, " messages {:.1}, empty {:.1};", each(tally.messages), each(tally.keepalives))?;
        write!(f, " look-ups {:.2}, stores {:.3};", each(self.lookups), each(self.stores))?;
        write!(f, " {:.1} ms", self.cpu.as_secs_f64() * 1000.0 / self.device_minutes)
    }
}

/// Devices each behind a NAT of its own, all started within a second.
fn measure(devices: usize) {
    let start = (cpu_time(), live_bytes());
    let mut world = World::new(1, Weather::FAIR);
    let crowd = Crowd::new(devices, 1);
    let zero = Meter::read(&world);
    crowd.start(&mut world, |world, _| Some(world.net.site(NatKind::PORT_RESTRICTED)));
    let set_up = cpu_time() - start.0;
    let mut before = zero;
    for (phase, minutes) in [("start", 0), ("cold", 5), ("settling", 10), ("idle", 10)] {
        world.run_for(Duration::from_secs(minutes * 60));
        let now = Meter::read(&world);
        if minutes > 0 {
            println!("{devices} {phase}: {}", Cost::between(before, now, devices));
        }
        let heap = (live_bytes() - start.1) / 1024 / devices as isize;
        println!("   cpu {:.1?}, {heap} KiB a device", now.cpu - before.cpu);
        before = now;
    }
    let tunnels: usize = world
        .nodes
        .iter()
        .map(|node| {
            let status = node.status(world.now());
            status.peers.iter().filter(|peer| peer.state == PeerState::Connected).count()
        })
        .sum();
    println!("   set up {set_up:.1?}, tunnels {:.1}", tunnels as f64 / devices as f64);
}

#[test]
#[ignore = "measures"]
fn measure_one() {
    let devices = std::env::var("SIM_DEVICES").map_or(10, |n| n.parse().expect("a number"));
    measure(devices);
}
