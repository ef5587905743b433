//! How much of what can grow is in use: what others say must never make a device grow without end.

use super::candidate::MAX_REMOTES;
use super::directory::MAX_DEVICES;
use super::path::MAX_LEARNT;
use super::peers::{MAX_CHECKS, MAX_PEERS};
use super::*;

/// One thing that can grow, and its bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gauge {
    /// What is counted.
    pub name: &'static str,
    /// How many there are.
    pub used: usize,
    /// How many there may be.
    pub most: usize,
}

/// Deadlines of one peer: its path, its tunnel, its needs.
const DEADLINES_OF_A_PEER: usize = 3;

/// Deadlines that there are once: what [`Timer`] has beside a peer's.
const DEADLINES: usize = 13;

impl Mesh {
    /// Everything that others could make grow. Costs a walk over the peers in use.
    pub fn gauges(&self) -> [Gauge; 5] {
        let peers = self.peers.iter().count();
        let addresses = self.peers.iter().map(|peer| peer.path.addresses().count()).max();
        let gauge = |name, used, most| Gauge { name, used, most };
        [
            gauge("peers in use", peers, MAX_PEERS),
            gauge("path checks under way", self.peers.checks_under_way(), MAX_CHECKS),
            gauge("addresses of a peer", addresses.unwrap_or_default(), MAX_REMOTES + MAX_LEARNT),
            gauge("deadlines", self.deadlines.len(), DEADLINES + DEADLINES_OF_A_PEER * peers),
            gauge("devices remembered", self.directory.remembered(), MAX_DEVICES),
        ]
    }
}
