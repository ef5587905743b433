//! Finding other devices: what to look up in the DHT, and what came of it.
//!
//! The DHT is for first contact and for healing a partition; between devices with a tunnel,
//! endpoints travel over tunnels. Three things are looked up:
//!
//! * the **record** of each device that is wanted and has no tunnel ([`Directory::want`]);
//! * the **doorbell**, while anything is wanted or this device is lonely (has no tunnel at all):
//!   one look-up finds whoever else is awake;
//! * the **rendezvous** of invites: a joining device polls the sponsors' seats, a sponsor the
//!   joining device's.
//!
//! # Pace
//! While this device has a tunnel, members introduce it to whom it wants, and only what they did
//! not bring about within [`INTRODUCED_WITHIN`] is looked up. Then records and the doorbell: every
//! 5 s in the first minute after a start, a join or an own address change ([`Directory::stir`]),
//! every 15 s for 5 more minutes, then doubling to 5 minutes; each with jitter. A rendezvous: every
//! 2 s for 10 minutes, then every 30 s. At most four look-ups are under way; patient ones start at
//! least 30 s apart.
//! A record is looked up under this epoch's key; where that gave nothing, every fourth time also
//! under the likelier neighbour's (see [`EpochTime::neighbour`](crate::wire::record::EpochTime)).
//!
//! # Use
//! `handle_*` and the setters take what happened; then drain [`Directory::poll_lookup`] and
//! [`Directory::poll_event`]. The first valid value is an event at once, a later one only where newer.
//! Nothing is looked up while the DHT is off, nor under a network's keys before the wall clock is known.

mod book;
mod found;
mod keys;
mod search;
mod values;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;

use book::Book;
pub use book::{MAX_DEVICES, Source};
pub use found::Found;
use keys::Keys;
use search::{Chase, SEEK, Search, Target};

use super::cadence::Cadence;
use super::event::{DhtInput, InterfaceSnapshot};
use super::wall::Wall;
use crate::api::DhtState;
use crate::identity::DeviceId;
use crate::membership::UnixTime;
use crate::membership::invite::InviteId;
use crate::wire::record::{
    DhtKey, MAX_SPONSORS, NetworkSecret, RecordError, Rendezvous, Seat, decode_devices,
    encode_devices,
};

/// How long the members at the other ends of this device's tunnels have to bring about a tunnel to
/// one that is wanted, before the DHT is asked: an introduction and the checks after it take two round
/// trips, over members that do not know both a few more, and the first is asked for anew after a second.
/// A look-up costs a hundred times as much.
const INTRODUCED_WITHIN: Duration = Duration::from_secs(3);

/// Where other devices are, and what to look up to learn it.
pub struct Directory {
    own: Option<DeviceId>,
    state: DhtState,
    lonely: bool,
    keys: Keys,
    book: Book,
    search: Search,
    events: VecDeque<Found>,
    last_now: Instant,
}

impl Directory {
    /// A directory that knows nothing. Until told otherwise, the DHT is taken to be starting.
    pub fn new(rng: StdRng, now: Instant) -> Self {
        Self {
            own: None,
            state: DhtState::Bootstrapping,
            lonely: false,
            keys: Keys::default(),
            book: Book::default(),
            search: Search::new(rng, now),
            events: VecDeque::new(),
            last_now: now,
        }
    }

    /// This device belongs to the network with this secret, which may replace an older one.
    pub fn set_network(&mut self, own: DeviceId, secret: NetworkSecret, now: Instant) {
        self.own = Some(own);
        self.keys.set_secret(secret);
        self.search.chases.remove(&Target::Device(own));
        self.stir(now);
    }

    /// What the wall clock shows.
    pub fn set_wall(&mut self, unix: UnixTime, now: Instant) {
        self.keys.wall = Some(Wall::new(unix, now));
        self.pump(now);
    }

    /// The links of this host: private endpoints are tried only where they are on one of them.
    pub fn set_interfaces(&mut self, interfaces: &InterfaceSnapshot, now: Instant) {
        self.book.set_links(interfaces);
        self.pump(now);
    }

    /// Whether this device has no live tunnel; while so, it reads the doorbell.
    pub fn set_lonely(&mut self, lonely: bool, now: Instant) {
        if std::mem::replace(&mut self.lonely, lonely) == lonely {
            return;
        }
        // Nobody is left who could introduce the others.
        for (target, chase) in self.search.chases.iter_mut().filter(|_| lonely) {
            match target {
                Target::Bell => chase.cadence.restart_seldom(now),
                Target::Device(_) => chase.cadence.hasten(now),
                Target::Seat(..) => {}
            }
        }
        self.pump(now);
    }

    /// A start, a join, or an own address change: look eagerly again.
    pub fn stir(&mut self, now: Instant) {
        for (target, chase) in &mut self.search.chases {
            if !matches!(target, Target::Seat(..)) {
                chase.cadence.restart(now);
            }
        }
        self.pump(now);
    }

    /// Looks for `device` until it is unwanted; it is wanted while it has no tunnel and should.
    pub fn want(&mut self, device: DeviceId, now: Instant) {
        if self.own != Some(device) {
            self.search.add(Target::Device(device), self.first_look(now));
        }
        self.pump(now);
    }

    /// No longer looks for `device`.
    pub fn unwant(&mut self, device: &DeviceId, now: Instant) {
        self.search.chases.remove(&Target::Device(*device));
        self.pump(now);
    }

    /// Whether `device` is wanted.
    pub fn is_wanted(&self, device: &DeviceId) -> bool {
        self.search.chases.contains_key(&Target::Device(*device))
    }

    /// Whether there is anything new to remember since this was asked last.
    pub fn take_news(&mut self) -> bool {
        self.book.take_news()
    }

    /// How many devices are remembered.
    pub fn remembered(&self) -> usize {
        self.book.len()
    }

    /// Forgets a device that is no member any more.
    pub fn forget(&mut self, device: &DeviceId, now: Instant) {
        self.book.forget(device);
        self.unwant(device, now);
    }

    /// A joining device looks for the sponsors of its invite.
    pub fn seek_sponsors(&mut self, invite: InviteId, rv: &Rendezvous, now: Instant) {
        let seats = (0..MAX_SPONSORS).map(Seat::Sponsor);
        self.seek(invite, rv, seats, Cadence::new(&SEEK, now));
        self.pump(now);
    }

    /// A sponsor looks for the device that joins with an invite; eagerly where the invite is
    /// fresh, else at the patient pace.
    pub fn seek_joiner(&mut self, invite: InviteId, rv: &Rendezvous, fresh: bool, now: Instant) {
        let cadence = if fresh { Cadence::new(&SEEK, now) } else { Cadence::patient(&SEEK, now) };
        self.seek(invite, rv, [Seat::Joiner].into_iter(), cadence);
        self.pump(now);
    }

    /// No longer looks for anybody of this invite.
    pub fn stop_seeking(&mut self, invite: &InviteId, now: Instant) {
        self.keys.invites.remove(invite);
        self.search
            .chases
            .retain(|target, _| !matches!(target, Target::Seat(id, _) if id == invite));
        self.pump(now);
    }

    /// Keeps where a device is said to be by a member, a beacon, or the like. An event tells it,
    /// where it is news.
    pub fn accept(
        &mut self,
        device: DeviceId,
        endpoints: &[SocketAddr],
        source: Source,
        now: Instant,
    ) {
        let at = self.keys.unix(now);
        let before = self.book.endpoints(&device, at);
        self.book.accept(device, source, endpoints, at);
        if self.book.endpoints(&device, at) != before {
            self.tell(device, endpoints, source);
        }
        self.pump(now);
    }

    /// Where `device` may be tried from here, newest word first.
    pub fn endpoints(&self, device: &DeviceId, now: Instant) -> Vec<SocketAddr> {
        let at = self.keys.unix(now);
        self.book.endpoints(device, at)
    }

    /// Takes what the DHT says; what is not of this directory is passed over.
    pub fn handle_dht(&mut self, input: &DhtInput, now: Instant) {
        match input {
            DhtInput::Value(item) => self.take_value(item, now),
            DhtInput::LookupDone(key) => self.search.end(key, &self.keys, now),
            DhtInput::State(state, _) => self.set_state(*state, now),
            DhtInput::Published(..) => {}
        }
        self.pump(now);
    }

    /// Starts what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.search.end_lost(&self.keys, now);
        self.pump(now);
    }

    /// The next key to look up.
    pub fn poll_lookup(&mut self) -> Option<DhtKey> {
        self.search.lookups.pop_front()
    }

    /// The next thing that was found.
    pub fn poll_event(&mut self) -> Option<Found> {
        self.events.pop_front()
    }

    /// When [`Self::handle_timeout`] is due, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        if !self.search.lookups.is_empty() || !self.events.is_empty() {
            return Some((self.last_now, "directory output is queued"));
        }
        (self.state != DhtState::Off).then(|| self.search.poll_timeout())?
    }

    /// What a restart should remember.
    pub fn export(&self, now: Instant) -> Vec<u8> {
        encode_devices(&self.book.export(self.keys.unix(now)))
    }

    /// Takes what [`Self::export`] gave before the restart.
    pub fn import(&mut self, bytes: &[u8]) -> Result<(), RecordError> {
        for (device, at, endpoints) in decode_devices(bytes)? {
            self.book.accept(device, Source::Cache, &endpoints, at);
        }
        Ok(())
    }

    fn seek(
        &mut self,
        invite: InviteId,
        rv: &Rendezvous,
        seats: impl Iterator<Item = Seat>,
        cadence: Cadence,
    ) {
        self.keys.invites.insert(invite, rv.clone());
        for seat in seats {
            self.search.chases.insert(Target::Seat(invite, seat), Chase::new(cadence.clone()));
        }
    }

    fn set_state(&mut self, state: DhtState, now: Instant) {
        let before = std::mem::replace(&mut self.state, state);
        if state == DhtState::Off {
            self.search.ground();
        }
        if state == DhtState::Ready && before != DhtState::Ready {
            self.search.chases.values_mut().for_each(|chase| chase.cadence.hasten(now));
        }
    }

    /// When a new target is first looked up.
    fn first_look(&self, now: Instant) -> Instant {
        if self.lonely { now } else { now + INTRODUCED_WITHIN }
    }

    /// Keeps the doorbell among the targets while it is of use, and starts what is due.
    fn pump(&mut self, now: Instant) {
        self.last_now = now;
        if (self.search.is_wanting() || self.lonely) && self.keys.has_secret() {
            self.search.add(Target::Bell, self.first_look(now));
        } else {
            self.search.chases.remove(&Target::Bell);
        }
        if self.state != DhtState::Off {
            self.search.pump(&mut self.keys, now);
        }
    }

    fn tell(&mut self, device: DeviceId, endpoints: &[SocketAddr], source: Source) {
        let endpoints = self.book.triable(endpoints);
        if !endpoints.is_empty() && Some(device) != self.own {
            self.events.push_back(Found::Device { device, endpoints, source });
        }
    }
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Directory").field("state", &self.state).finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(super) mod tests;
