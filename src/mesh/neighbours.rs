//! The members that a device keeps connected, whether it has anything to say to them or not.
//!
//! Most of them are *agreed*: without a word, two members know that they are neighbours, as both compute
//! it from the roster. So after a power cut, when nobody is connected to anybody who could introduce
//! them, each looks where its agreed neighbours are and calls them, and they call too, as their NATs
//! demand. On each of a few [circles](super::rings) the members stand in the order of some bytes of
//! their ids, and a member's neighbours are the next ones on both sides: the union of the circles
//! connects everybody over a few steps, also where many are missing. And whoever looks for a member
//! knows who is likely to be connected to it: requests for [introductions] are passed on towards those.
//!
//! The others are *strayed to*, so that no choice of others decides who is heard: who can have devices
//! admitted could place some of them beside another on every circle. Each is a random one beside a
//! random neighbour of one's own, which is connected to it and [introduces](introductions) it: neither
//! has to be looked up. Now and then one of them is exchanged for one beside it. So each walks at random
//! over the circles, and within a day may be any member at all.
//!
//! Where a neighbour is not reached, as most members are off or those beside do not introduce it, it goes
//! by what it has: half of such neighbours are replaced by members that are connected already, the others
//! by members at random among all, for which the DHT is asked: nobody can keep a device to those beside
//! it by being silent, and islands that were parted find one another. A device without any tunnel calls
//! members of which it knows an address, to be introduced by them.

use std::time::{Duration, Instant};

use rand::RngExt;
use rand::seq::{IteratorRandom, SliceRandom};

use super::peer::{Peer, Purpose};
use super::*;
use crate::identity::DeviceId;

/// Members that are kept connected so that the roster spreads: with this many each, a new op reaches
/// every device of a network of thousands in a handful of steps. Two on each of the four circles are
/// agreed: with eight a network of ten thousand is still one when half of it is off. Four stray.
const NEIGHBOURS: usize = 12;

/// How often a device looks whether it has its neighbours.
const NEIGHBOURS_EVERY: Duration = Duration::from_secs(30);

/// A neighbour that was not reached for this long makes room for another member.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where most members are off, the next ones are mostly off too, and each is looked for eagerly at
/// first: the patience doubles up to this. Who comes back calls by itself, or rings the doorbell.
const MOST_PATIENCE: Duration = Duration::from_secs(3840);

/// How often one that was strayed to is exchanged for one beside it. That takes five messages of each
/// device and a handshake, which an idle device hardly exceeds in ten minutes; in a day every one of
/// four has gone six steps, and has been anywhere in a network of ten thousand.
const STRAY_EVERY: Duration = Duration::from_secs(3600);

/// How long a device without tunnels keeps those it called by their old addresses: until the
/// neighbours that it cannot reach were replaced.
const NEEDED_AT_FIRST: Duration = Duration::from_secs(180);

/// How the choice of neighbours goes.
pub(super) struct Choice {
    /// How long a neighbour may stay unreached.
    patience: Duration,
    /// When one is exchanged next.
    stray_at: Instant,
}

impl Choice {
    /// Begins to choose.
    pub(super) fn start(rng: &mut StdRng, now: Instant) -> Self {
        // Devices that start together shall not go on together.
        let stray_at = now + STRAY_EVERY.mul_f64(rng.random());
        Self { patience: PATIENCE, stray_at }
    }
}

impl Mesh {
    /// Keeps [`NEIGHBOURS`] members connected, agreed ones first. Walks the peers in use, and the
    /// members only where a neighbour is lacking or exchanged.
    pub(super) fn choose_neighbours(&mut self, now: Instant) {
        let again = Some((now + NEIGHBOURS_EVERY, "neighbours are chosen"));
        self.deadlines.set(Timer::Neighbours, again);
        if !matches!(self.me.state, api::NetworkState::Up | api::NetworkState::Down) {
            return;
        }
        let neighbours = self.peers.iter().filter(|peer| peer.neighbour);
        let (hopeless, kept): (Vec<_>, Vec<_>) =
            neighbours.partition(|peer| is_hopeless(peer, self.choice.patience, now));
        let all_connected = kept.iter().all(|peer| peer.is_connected());
        let missed: BTreeSet<_> = hopeless.iter().filter_map(|peer| peer.device()).collect();
        let hopeless: Vec<_> = hopeless.iter().map(|peer| peer.key).collect();
        let mut known: BTreeSet<_> = kept.into_iter().filter_map(Peer::device).collect();
        let lacking = NEIGHBOURS.saturating_sub(known.len());
        if hopeless.is_empty() && all_connected {
            self.choice.patience = PATIENCE;
        }
        if lacking == 0 {
            return self.exchange_one(&known, now);
        }
        let mut chosen = Vec::new();
        if !hopeless.is_empty() {
            self.choice.patience = (self.choice.patience * 2).min(MOST_PATIENCE);
            let connected = self.peers.iter().filter(|peer| peer.is_connected());
            let connected = connected.filter_map(|peer| Some((peer.purpose, peer.device()?)));
            let connected = connected.filter(|(_, device)| !known.contains(device));
            // An odd one by lot: who calls with many devices must not take one place after the other.
            let half = (lacking + self.rng.random_range(0..=1)) / 2;
            chosen = by_lot(connected, half, &mut self.rng);
            known.extend(&chosen);
        }
        let agreed = self.beside(&self.me.identity.id.public());
        let agreed = agreed.into_iter().filter(|at| !known.contains(at) && !missed.contains(at));
        chosen.extend(agreed.take(lacking - chosen.len()));
        known.extend(&chosen);
        // In a small network all are neighbours.
        let all = self.ledger.roster().len() <= NEIGHBOURS + 1;
        let rest = lacking - chosen.len();
        chosen.extend(match all || !hopeless.is_empty() {
            true => self.strangers(&known, rest),
            false => self.stray_to(known, rest),
        });
        if chosen.is_empty() {
            return;
        }
        for key in hopeless {
            if let Some(peer) = self.peers.touch(key) {
                peer.neighbour = false;
            }
        }
        chosen.iter().for_each(|device| self.take_neighbour(device, now));
        self.call_acquaintances(now);
    }

    fn take_neighbour(&mut self, device: &DeviceId, now: Instant) {
        if let Some(key) = self.bring_member(device, Purpose::Roster, now)
            && let Some(peer) = self.peers.touch(key)
        {
            peer.neighbour = true;
        }
    }

    /// Goes on, where it is time, from one of the neighbours that are not agreed to one beside it.
    fn exchange_one(&mut self, known: &BTreeSet<DeviceId>, now: Instant) {
        if now < self.choice.stray_at {
            return;
        }
        self.choice.stray_at = now + STRAY_EVERY.mul_f64(self.rng.random_range(0.5..1.5));
        let agreed = self.beside(&self.me.identity.id.public());
        let strayed = self.connected_neighbours().into_iter().filter(|at| !agreed.contains(at));
        let Some(old) = strayed.choose(&mut self.rng) else { return };
        let Some(new) = self.stray(vec![old], known) else { return };
        if let Some(peer) = self.peers.member(&old).and_then(|key| self.peers.touch(key)) {
            peer.neighbour = false;
        }
        self.take_neighbour(&new, now);
    }

    /// So many members that the connected neighbours can introduce, and that are not among `known`.
    fn stray_to(&mut self, mut known: BTreeSet<DeviceId>, count: usize) -> Vec<DeviceId> {
        let guides = self.connected_neighbours();
        let next = |_| {
            let next = self.stray(guides.clone(), &known)?;
            known.insert(next);
            Some(next)
        };
        (0..count).filter_map(next).collect()
    }

    /// The neighbours that can introduce others. Whoever calls this device is none: it could call with
    /// many devices.
    fn connected_neighbours(&self) -> Vec<DeviceId> {
        let chosen = self.peers.iter().filter(|peer| peer.neighbour);
        let can = chosen.filter(|peer| peer.greeting.is_proven() && peer.is_connected());
        can.filter_map(Peer::device).collect()
    }

    /// A member at random beside one of the `guides` at random that is not among `known`.
    fn stray(&mut self, mut guides: Vec<DeviceId>, known: &BTreeSet<DeviceId>) -> Option<DeviceId> {
        let this = self.me.identity.id.public();
        guides.shuffle(&mut self.rng);
        guides.into_iter().find_map(|guide| {
            let beside = self.beside(&guide).into_iter();
            beside.filter(|at| *at != this && !known.contains(at)).choose(&mut self.rng)
        })
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

    /// The members that are neighbours of `device` without a word, and know it.
    pub(super) fn beside(&self, device: &DeviceId) -> BTreeSet<DeviceId> {
        self.ledger.rings().beside(device)
    }

    /// So many members at random that are not among `known`.
    fn strangers(&mut self, known: &BTreeSet<DeviceId>, count: usize) -> Vec<DeviceId> {
        let this = self.me.identity.id.public();
        let members = self.ledger.roster().members().map(|member| member.id);
        let others = members.filter(|member| *member != this && !known.contains(member));
        others.sample(&mut self.rng, count)
    }
}

/// So many of those that are connected, by lot. Whoever only calls comes last: it may call with many
/// devices, but where nobody else is there it is all that there is.
fn by_lot(
    connected: impl Iterator<Item = (Purpose, DeviceId)>,
    count: usize,
    rng: &mut StdRng,
) -> Vec<DeviceId> {
    let only_calls = |(purpose, _): &(Purpose, DeviceId)| *purpose == Purpose::Company;
    let (callers, chosen): (Vec<_>, Vec<_>) = connected.partition(only_calls);
    let mut lot = chosen.into_iter().sample(rng, count);
    lot.extend(callers.into_iter().sample(rng, count - lot.len()));
    lot.into_iter().map(|(_, device)| device).collect()
}

/// Whether a neighbour has not been reached for too long. One that answers checks is only between two
/// sessions.
fn is_hopeless(peer: &Peer, patience: Duration, now: Instant) -> bool {
    let since = peer.last_seen().max(peer.path.last_checked()).unwrap_or(peer.born);
    !peer.is_connected() && now.duration_since(since) > patience
}

#[cfg(test)]
mod tests {
    use super::super::rings::tests::devices;
    use super::*;

    #[test]
    fn whoever_calls_with_many_devices_gets_only_what_is_left() {
        let all = devices(100);
        let mut rng = StdRng::seed_from_u64(1);
        let own = [(Purpose::Roster, all[0]), (Purpose::User, all[1])];
        let callers = all[2..].iter().map(|device| (Purpose::Company, *device));
        let lot = by_lot(callers.clone().chain(own), 3, &mut rng);
        assert!(lot.len() == 3 && lot.contains(&all[0]) && lot.contains(&all[1]), "{lot:?}");
        assert_eq!(by_lot(callers, 3, &mut rng).len(), 3);
    }
}
