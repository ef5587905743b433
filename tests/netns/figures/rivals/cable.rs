//! No VPN: what the machine can do.

use std::net::IpAddr;
use std::time::Instant;

use anyhow::Result;

use super::{Carrier, Stage, Tunnel};
use crate::lab::namespace::Namespace;

/// The bare veth pair.
pub struct Cable;

struct Plugged {
    sides: [Namespace; 2],
    far_end: IpAddr,
    started: Instant,
}

impl Carrier for Cable {
    fn name(&self) -> String {
        "no VPN".into()
    }

    fn missing(&self) -> Option<String> {
        None
    }

    fn start(&self, stage: Stage<'_>) -> Result<Box<dyn Tunnel>> {
        let [_, far_end] = stage.outer;
        Ok(Box::new(Plugged { sides: stage.sides, far_end, started: Instant::now() }))
    }
}

impl Tunnel for Plugged {
    fn sides(&self) -> [&Namespace; 2] {
        self.sides.each_ref()
    }

    fn far_end(&self) -> IpAddr {
        self.far_end
    }

    fn daemons(&self) -> Vec<u32> {
        Vec::new()
    }

    fn started(&self) -> Instant {
        self.started
    }
}
