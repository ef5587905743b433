//! Which of the peers new ops are pushed to: at most eight, at random, and not for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;

use super::peer::Peer;
use crate::identity::DeviceId;

/// Neighbours of a device: with 8 random ones a network of 10,000 stays connected when half of its
/// devices vanish, and a new op reaches everybody in 5 hops.
pub const NEIGHBOURS: usize = 8;

/// How often one neighbour is exchanged, so that no choice of neighbours lasts.
const SWAP_EVERY: Duration = Duration::from_secs(600);

/// The neighbours of this device.
#[derive(Debug, Default)]
pub struct Neighbours {
    set: BTreeSet<DeviceId>,
    swapped: Option<Instant>,
}

impl Neighbours {
    /// The neighbours, in order.
    pub fn iter(&self) -> impl Iterator<Item = &DeviceId> + Clone {
        self.set.iter()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// Considers a new peer. Every peer is a neighbour with the same chance, whenever it came
    /// (reservoir sampling).
    pub fn consider(&mut self, peer: DeviceId, peers: usize, rng: &mut StdRng) {
        if self.set.len() < NEIGHBOURS {
            self.set.insert(peer);
        } else if !self.set.contains(&peer)
            && rng.random_range(0..peers.max(1)) < NEIGHBOURS
            && let Some(old) = pick(rng, self.set.iter())
        {
            self.set.remove(&old);
            self.set.insert(peer);
        }
    }

    /// A peer is gone; others take its place.
    pub fn remove(&mut self, peer: &DeviceId, peers: &BTreeMap<DeviceId, Peer>, rng: &mut StdRng) {
        self.set.remove(peer);
        while self.set.len() < NEIGHBOURS {
            let others = peers.keys().filter(|peer| !self.set.contains(*peer));
            let Some(new) = pick(rng, others) else { return };
            self.set.insert(new);
        }
    }

    /// Exchanges one for another peer, where it is time and there is one: the new neighbour.
    pub fn swap(
        &mut self,
        peers: &BTreeMap<DeviceId, Peer>,
        rng: &mut StdRng,
        now: Instant,
    ) -> Option<DeviceId> {
        let since = now.duration_since(*self.swapped.get_or_insert(now));
        if since < SWAP_EVERY {
            return None;
        }
        self.swapped = Some(now);
        let new = pick(rng, peers.keys().filter(|peer| !self.set.contains(*peer)))?;
        let old = self.pick(rng)?;
        self.set.remove(&old);
        self.set.insert(new);
        Some(new)
    }

    /// One of them at random.
    pub fn pick(&self, rng: &mut StdRng) -> Option<DeviceId> {
        pick(rng, self.set.iter())
    }
}

fn pick<'a>(
    rng: &mut StdRng,
    choices: impl Iterator<Item = &'a DeviceId> + Clone,
) -> Option<DeviceId> {
    let count = choices.clone().count();
    if count == 0 { None } else { choices.copied().nth(rng.random_range(0..count)) }
}
