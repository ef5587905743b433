//! The program under test: with offload, as it comes, and without.

use std::net::IpAddr;
use std::time::Instant;

use anyhow::Result;

use super::{Carrier, Stage, Tunnel};
use crate::lab::host::Host;
use crate::lab::namespace::Namespace;

/// Makes the agent carry packet by packet.
const NO_OFFLOAD: &str = "--no-offload";

/// As it comes, and plain.
pub fn all() -> impl Iterator<Item = Box<dyn Carrier>> {
    [Ginnel { plain: false }, Ginnel { plain: true }]
        .into_iter()
        .map(|carrier| Box::new(carrier) as Box<dyn Carrier>)
}

struct Ginnel {
    plain: bool,
}

struct Pair {
    hosts: [Host; 2],
    far_end: IpAddr,
    started: Instant,
}

impl Carrier for Ginnel {
    fn name(&self) -> String {
        if self.plain { "ginnel, no offload".into() } else { "ginnel".into() }
    }

    fn missing(&self) -> Option<String> {
        None
    }

    fn start(&self, stage: Stage<'_>) -> Result<Box<dyn Tunnel>> {
        let [a, b] = stage.sides;
        let mut hosts = [stage.world.host_in("a", a)?, stage.world.host_in("b", b)?];
        self.start_agents(&mut hosts)?;
        hosts[1].join(&hosts[0].create("home")?.invite)?;
        let far_end = hosts[1].addresses()?[0];
        // Joining happens once in a device's life. What compares with the others is a start.
        for host in &mut hosts {
            host.stop()?;
        }
        let started = Instant::now();
        self.start_agents(&mut hosts)?;
        Ok(Box::new(Pair { hosts, far_end, started }))
    }
}

impl Ginnel {
    fn start_agents(&self, hosts: &mut [Host; 2]) -> Result<()> {
        hosts.iter_mut().try_for_each(|host| {
            let mut command = host.agent_command();
            if self.plain {
                command.arg(NO_OFFLOAD);
            }
            host.start_with(&mut command)
        })
    }
}

impl Tunnel for Pair {
    fn sides(&self) -> [&Namespace; 2] {
        self.hosts.each_ref().map(|host| &host.namespace)
    }

    fn far_end(&self) -> IpAddr {
        self.far_end
    }

    fn daemons(&self) -> Vec<u32> {
        self.hosts.iter().filter_map(|host| host.pid().ok()).collect()
    }

    fn started(&self) -> Instant {
        self.started
    }
}
