//! The members that a device keeps connected, whether it has anything to say to them or not.
//!
//! Most of them are *agreed*: without a word, two members know that they are neighbours, as both compute
//! it from the roster. So after a power cut, when nobody is connected to anybody who could introduce
//! them, each looks where its agreed neighbours are and calls them, and they call too, as their NATs
//! demand. On each of [`RINGS`] circles the members stand in the order of some bytes of their ids, and a
//! member's neighbours are the next ones on both sides: the union of a few such circles connects
//! everybody over a few steps, also where many are missing. And whoever looks for a member knows who is
//! likely to be connected to it: [introductions] are asked of those.
//!
//! The others are chosen at random among all, so that no choice of others decides who is heard: who
//! can have devices admitted could place some of them beside another on every circle.
//!
//! Where that fails, as most members are off or nobody says where they are, it goes by what it has: a
//! device without any tunnel calls members of which it knows an address, to be introduced by them; and
//! of the neighbours that were not reached half are replaced by members that are connected already.

use std::time::{Duration, Instant};

use rand::seq::IteratorRandom;

use super::peer::{Peer, Purpose};
use super::*;
use crate::identity::DeviceId;

/// Members that are kept connected so that the roster spreads: with this many each, a new op reaches
/// every device of a network of thousands in a handful of steps.
const NEIGHBOURS: usize = 12;

/// Circles on which the agreed neighbours stand, two on each, by eight bytes of their ids: with eight
/// a network of ten thousand is still one when half of it is off, and four are left to chance.
const RINGS: usize = 4;

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
    /// Keeps [`NEIGHBOURS`] members connected, agreed ones first. Walks the peers in use, and the
    /// members only where a neighbour is lacking.
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
        let missed: BTreeSet<_> = hopeless.iter().filter_map(|peer| peer.device()).collect();
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
        let agreed = self.beside(&self.me.identity.id.public());
        let agreed = agreed.into_iter().filter(|at| !known.contains(at) && !missed.contains(at));
        chosen.extend(agreed.take(lacking - chosen.len()));
        known.extend(&chosen);
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
            if let Some(key) = self.bring_member(&device, Purpose::Roster, now)
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
        if self.peers.iter().any(Peer::is_company) {
            return;
        }
        let directory = &self.directory;
        let located = |device: &DeviceId| !directory.endpoints(device, now).is_empty();
        let this = self.me.identity.id.public();
        let members = self.ledger.roster().members().map(|member| member.id);
        let members = members.filter(|member| *member != this && located(member));
        for device in members.sample(&mut self.rng, NEIGHBOURS) {
            self.want_member(&device, Purpose::Roster, now + NEEDED_AT_FIRST, now);
        }
    }

    /// The members that are neighbours of this one without a word, and know it. O(members).
    pub(super) fn beside(&self, device: &DeviceId) -> BTreeSet<DeviceId> {
        agreed(device, self.ledger.roster().members().map(|member| member.id))
    }

    /// So many members at random that are not among `known`.
    fn strangers(&mut self, known: &BTreeSet<DeviceId>, count: usize) -> Vec<DeviceId> {
        let this = self.me.identity.id.public();
        let members = self.ledger.roster().members().map(|member| member.id);
        let others = members.filter(|member| *member != this && !known.contains(member));
        others.sample(&mut self.rng, count)
    }
}

/// Those of the `members` that have `this` for a neighbour as it has them.
fn agreed(this: &DeviceId, members: impl Iterator<Item = DeviceId> + Clone) -> BTreeSet<DeviceId> {
    let mut agreed = BTreeSet::new();
    for ring in 0..RINGS {
        // Ids are keys, in which every byte is as good as drawn by lot.
        let place = |device: &DeviceId| {
            u64::from_be_bytes(std::array::from_fn(|at| device.0[8 * ring + at]))
        };
        let own = place(this);
        // The circle begins behind this member, so that the first and the last are beside it.
        let others = members.clone().filter(|device| device != this);
        let others = others.map(|device| (place(&device) <= own, place(&device), device));
        let ends = [others.clone().min(), others.max()].into_iter().flatten();
        agreed.extend(ends.map(|(_, _, device)| device));
    }
    agreed
}

/// Whether a neighbour has not been reached for too long. One that answers checks is only between two
/// sessions.
fn is_hopeless(peer: &Peer, patience: Duration, now: Instant) -> bool {
    let since = peer.last_seen().max(peer.path.last_checked()).unwrap_or(peer.born);
    !peer.is_connected() && now.duration_since(since) > patience
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::hash;

    fn devices(count: u8) -> Vec<DeviceId> {
        (0..count).map(|number| DeviceId(hash(&[number]))).collect()
    }

    #[test]
    fn agreed_neighbours_are_so_on_both_sides_and_connect_everybody() {
        let all = devices(200);
        let of = |this: &DeviceId| agreed(this, all.iter().copied());
        for this in &all {
            assert!((2..=8).contains(&of(this).len()));
            assert!(of(this).iter().all(|other| of(other).contains(this)));
        }
        let mut reached = BTreeSet::from([all[0]]);
        // A single circle would take a hundred steps.
        for _ in 0..5 {
            reached.extend(reached.iter().flat_map(of).collect::<Vec<_>>());
        }
        assert_eq!(reached.len(), all.len());
    }

    #[test]
    fn two_members_agree_and_one_is_alone() {
        let all = devices(2);
        assert_eq!(agreed(&all[0], all.iter().copied()), BTreeSet::from([all[1]]));
        assert!(agreed(&all[0], all.iter().copied().take(1)).is_empty());
    }
}
