//! The members that a device keeps connected, whether it has anything to say to them or not.
//!
//! They are chosen at random among all, so that no choice of others decides who is heard. Where that
//! fails, as most members are off or nobody says where they are, it goes by what it has: a device
//! without any tunnel calls members of which it knows an address, to be introduced by them; and of
//! the neighbours that were not reached half are replaced by members that are connected already.

use std::time::{Duration, Instant};

use rand::seq::IteratorRandom;

use super::peer::Peer;
use super::*;
use crate::identity::DeviceId;

/// Members that are kept connected so that the roster spreads: with eight random neighbours each, a
/// new op reaches every device of a network of thousands in a handful of steps.
const NEIGHBOURS: usize = 8;

/// How often a device looks whether it has its neighbours.
const NEIGHBOURS_EVERY: Duration = Duration::from_secs(30);

/// A neighbour that was not reached for this long makes room for another member.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// Where most members are off, the next ones are mostly off too, and each is looked for eagerly at
/// first: the patience doubles up to this. Who comes back calls by itself, or rings the doorbell.
const MOST_PATIENCE: Duration = Duration::from_secs(3840);

/// How long a device without tunnels keeps those it called by their old addresses: until the
/// neighbours that it cannot reach were replaced.
const NEEDED_AT_FIRST: Duration = Duration::from_secs(180);

impl Mesh {
    /// Keeps [`NEIGHBOURS`] random members connected. Walks the peers in use, and the members only
    /// where a neighbour is lacking.
    pub(super) fn choose_neighbours(&mut self, now: Instant) {
        let again = Some((now + NEIGHBOURS_EVERY, "neighbours are chosen"));
        self.deadlines.set(Timer::Neighbours, again);
        if !matches!(self.me.state, api::NetworkState::Up | api::NetworkState::Down) {
            return;
        }
        let neighbours = self.peers.iter().filter(|peer| peer.neighbour);
        let (hopeless, kept): (Vec<_>, Vec<_>) =
            neighbours.partition(|peer| is_hopeless(peer, self.patience, now));
        let all_connected = kept.iter().all(|peer| peer.is_connected());
        let hopeless: Vec<_> = hopeless.iter().map(|peer| peer.key).collect();
        let mut known: BTreeSet<_> = kept.into_iter().filter_map(Peer::device).collect();
        let lacking = NEIGHBOURS.saturating_sub(known.len());
        if hopeless.is_empty() && all_connected {
            self.patience = PATIENCE;
        }
        if lacking == 0 {
            return;
        }
        let mut chosen = Vec::new();
        if !hopeless.is_empty() {
            self.patience = (self.patience * 2).min(MOST_PATIENCE);
            let connected = self.peers.iter().filter(|peer| peer.is_connected());
            let connected = connected.filter_map(Peer::device).filter(|at| !known.contains(at));
            chosen = connected.sample(&mut self.rng, lacking.div_ceil(2));
            known.extend(&chosen);
        }
        chosen.extend(self.strangers(&known, lacking - chosen.len()));
        if chosen.is_empty() {
            return;
        }
        for key in hopeless {
            if let Some(peer) = self.peers.touch(key) {
                peer.neighbour = false;
            }
        }
        for device in chosen {
            if let Some(key) = self.bring_member(&device, now)
                && let Some(peer) = self.peers.touch(key)
            {
                peer.neighbour = true;
            }
        }
        self.call_acquaintances(now);
    }

    /// Without any tunnel, calls members that may be where they were. They are no neighbours: a
    /// thousand devices that all know the same one must not keep it for ever.
    fn call_acquaintances(&mut self, now: Instant) {
        if self.peers.iter().any(Peer::is_connected) {
            return;
        }
        let directory = &self.directory;
        let located = |device: &DeviceId| !directory.endpoints(device, now).is_empty();
        let this = self.me.identity.id.public();
        let members = self.ledger.roster().members().map(|member| member.id);
        let members = members.filter(|member| *member != this && located(member));
        for device in members.sample(&mut self.rng, NEIGHBOURS) {
            self.want_member(&device, now + NEEDED_AT_FIRST, now);
        }
    }

    /// So many members at random that are not among `known`.
    fn strangers(&mut self, known: &BTreeSet<DeviceId>, count: usize) -> Vec<DeviceId> {
        let this = self.me.identity.id.public();
        let members = self.ledger.roster().members().map(|member| member.id);
        let others = members.filter(|member| *member != this && !known.contains(member));
        others.sample(&mut self.rng, count)
    }
}

/// Whether a neighbour has not been reached for too long. One that answers checks is only between two
/// sessions.
fn is_hopeless(peer: &Peer, patience: Duration, now: Instant) -> bool {
    let since = peer.last_seen().max(peer.path.last_checked()).unwrap_or(peer.born);
    !peer.is_connected() && now.duration_since(since) > patience
}
