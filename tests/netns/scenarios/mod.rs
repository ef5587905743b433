//! All scenarios. Each gets a fresh world and has the topology drawn above it.

pub mod flood;
pub mod interop;
mod invites;
mod lab_itself;
mod lan;
mod local_faults;
mod matrix;
mod noise;
mod path_mtu;
mod port_mapping;
mod recovery;
mod two_nats;

use std::time::Duration;

use anyhow::Result;

use crate::lab::host::Host;
use crate::lab::lan::Lan;
use crate::lab::traffic::ping;
use crate::lab::world::World;

/// A test.
pub type Scenario = fn(&mut World) -> Result<()>;

/// Two devices that know each other's addresses are connected well before this; a slow machine
/// that runs another test beside has the rest.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);

/// Every scenario with its name, and the programs it needs beyond the lab's.
pub fn all() -> impl Iterator<Item = (&'static str, &'static [&'static str], Scenario)> {
    let parts = [
        lab_itself::SCENARIOS,
        two_nats::SCENARIOS,
        lan::SCENARIOS,
        port_mapping::SCENARIOS,
        recovery::SCENARIOS,
        invites::SCENARIOS,
        local_faults::SCENARIOS,
        noise::SCENARIOS,
        flood::SCENARIOS,
        path_mtu::SCENARIOS,
        matrix::SCENARIOS,
    ];
    let parts = parts.map(|part| (part, &[][..])).into_iter();
    let parts = parts.chain([(interop::SCENARIOS, interop::TOOLS)]);
    parts.flat_map(|(part, tools)| part.iter().map(move |(name, run)| (*name, tools, *run)))
}

/// Two hosts on these LANs, [connected](connect).
fn pair(world: &World, names: [&str; 2], lans: [&Lan; 2]) -> Result<(Host, Host)> {
    let [first, second] = names;
    connect(world.host(first, lans[0])?, world.host(second, lans[1])?)
}

/// Starts two hosts, makes the network `home` on the first and joins with the second.
fn connect(mut first: Host, mut second: Host) -> Result<(Host, Host)> {
    first.start()?;
    second.start()?;
    second.join(&first.create("home")?.invite)?;
    first.wait_connected(&[&*second.name], CONNECT_LIMIT)?;
    second.wait_connected(&[&*first.name], CONNECT_LIMIT)?;
    Ok((first, second))
}

/// Pings between all hosts, both ways, over IPv4 and IPv6, without a loss.
fn all_see_one_another(hosts: &[&Host]) -> Result<()> {
    for from in hosts {
        for to in hosts.iter().filter(|to| to.name != from.name) {
            for address in to.addresses()? {
                let answered = ping(&from.namespace, address, 3)?;
                anyhow::ensure!(
                    answered == 3,
                    "{} got {answered} of 3 answers from {} at {address}",
                    from.name,
                    to.name
                );
            }
        }
    }
    Ok(())
}
