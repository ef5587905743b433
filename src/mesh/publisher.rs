//! Being found: what this device stores in the DHT, and when.
//!
//! Three things are stored:
//!
//! * its **record**: at once when it first has endpoints (300 ms later without a public one); then 300–500 ms after a change, at most
//!   once a minute (in the first minutes after a start, a join or an own address change, every
//!   3 s); otherwise every 45–75 minutes. In the last fifth of an epoch it is stored under the
//!   next epoch's key too, so that readers on either side of the change find it.
//! * its ring at the **doorbell**, while it has no tunnel ([`Publisher::set_lonely`]); see
//!   [`ringer`].
//! * its seat at the **rendezvous** of an invite: a sponsor's ([`Publisher::host`]) or the joining
//!   device's ([`Publisher::arrive`]).
//!
//! `seq = max(last + 1, unix seconds)` for each key, kept over a restart ([`Publisher::export`]);
//! where nodes hold a newer one all the same, it is read and passed. A failed store is tried again
//! after 2 s, doubling to 5 minutes. Nothing is stored while the DHT is off, nor before the wall
//! clock is known.
//!
//! # Use
//! Every [`DhtInput`] goes in, as looked-up values are news here too; then drain
//! [`Publisher::poll_publish`] and [`Publisher::poll_lookup`].

mod outbox;
mod post;
mod ringer;
mod seats;
mod seqs;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;

use outbox::{Job, Outbox};
use post::Post;
use ringer::Ringer;
use seats::Seats;
use seqs::Seqs;

use super::candidate::is_public;
use super::event::{DhtInput, PublishError};
use super::wall::Wall;
use crate::api::DhtState;
use crate::identity::{DeviceId, IdSecret, WgPublicKey};
use crate::membership::UnixTime;
use crate::membership::invite::InviteId;
use crate::wire::record::{
    Bell, BellKey, DhtKey, Epoch, NetworkSecret, Record, RecordBody, RecordError, RecordKey,
    Rendezvous, Seat, SignedItem, device_epoch,
};

/// How often the record is stored where nothing changes, in seconds; nodes drop items after about
/// two hours.
const REFRESH_SECS: std::ops::Range<u64> = 45 * 60..75 * 60;

/// How long after a start, a join or an address change updates may follow one another quickly:
/// STUN, port mappings and peers' reports all come within it.
const EARLY: Duration = Duration::from_secs(180);

/// The least time between two stores of the record for a change, early and later.
const RECORD_GAP: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(60));

/// How long the first addresses wait for a public one before anything is stored: local ones are known
/// at once and STUN answers within a round trip or two, while an item stored without its answers
/// stands until the next store may follow, seconds later, and nobody outside the LAN can use it.
const FIRST_WAIT: Duration = Duration::from_millis(300);

/// After the DHT came back, within how many milliseconds everything is stored again.
const RETURN_SPREAD_MS: std::ops::Range<u64> = 0..2000;

/// What this device stores, and when.
pub struct Publisher {
    network: Option<(IdSecret, DeviceId, NetworkSecret)>,
    wall: Option<Wall>,
    state: DhtState,
    body: RecordBody,
    record: Post,
    /// The epoch under which the record was last stored or tried.
    tried: Option<Epoch>,
    seats: Seats,
    ringer: Ringer,
    seqs: Seqs,
    outbox: Outbox,
    /// When the first minutes began.
    started: Instant,
    /// Nothing is stored before this: the first addresses wait for a public one.
    hold: Instant,
    /// When the record was last taken by a node.
    published: Option<Instant>,
    rng: StdRng,
    last_now: Instant,
}

impl Publisher {
    /// A publisher with nothing to tell. Until told otherwise, the DHT is taken to be starting.
    pub fn new(rng: StdRng, now: Instant) -> Self {
        Self {
            network: None,
            wall: None,
            state: DhtState::Bootstrapping,
            body: RecordBody::default(),
            record: Post::default(),
            tried: None,
            seats: Seats::default(),
            ringer: Ringer::default(),
            seqs: Seqs::default(),
            outbox: Outbox::default(),
            started: now,
            hold: now,
            published: None,
            rng,
            last_now: now,
        }
    }

    /// This device belongs to the network with this secret, which may replace an older one.
    pub fn set_network(&mut self, id: IdSecret, secret: NetworkSecret, now: Instant) {
        let device = id.public();
        self.network = Some((id, device, secret));
        self.tried = None;
        self.ringer.forget_key();
        self.stir(now);
    }

    /// What the wall clock shows.
    pub fn set_wall(&mut self, unix: UnixTime, now: Instant) {
        self.wall = Some(Wall::new(unix, now));
        self.pump(now);
    }

    /// Where this device may be reached, best first. Another order alone is no change.
    pub fn set_endpoints(&mut self, endpoints: &[SocketAddr], now: Instant) {
        let set = |list: &[SocketAddr]| list.iter().copied().collect::<BTreeSet<_>>();
        let changed = set(&self.body.endpoints) != set(endpoints);
        if endpoints.iter().any(|at| at.is_ipv4() && is_public(at)) {
            self.hold = now;
        } else if self.body.endpoints.is_empty() && changed {
            self.hold = now + FIRST_WAIT;
        }
        self.body.endpoints = endpoints.to_vec();
        if changed {
            let gap = if now < self.started + EARLY { RECORD_GAP.0 } else { RECORD_GAP.1 };
            self.record.change(gap, &mut self.rng, now);
            self.ringer.change(now);
            self.seats.change(&mut self.rng, now);
        }
        self.pump(now);
    }

    /// The digest of this device's logs. It rides along; alone it is stored once a minute at most.
    pub fn set_heads(&mut self, heads: [u8; 8], now: Instant) {
        if self.body.heads != heads {
            self.body.heads = heads;
            self.record.change(RECORD_GAP.1, &mut self.rng, now);
        }
        self.pump(now);
    }

    /// What this device's NAT does to ports (0 = unknown), and which members relay for it.
    pub fn set_reach(&mut self, nat: u8, relays: Vec<DeviceId>, now: Instant) {
        if self.body.nat != nat || self.body.relays != relays {
            self.body.nat = nat;
            self.body.relays = relays;
            self.record.change(RECORD_GAP.1, &mut self.rng, now);
        }
        self.pump(now);
    }

    /// Whether this device has no live tunnel; while so, it rings the doorbell.
    pub fn set_lonely(&mut self, lonely: bool, now: Instant) {
        self.ringer.set_lonely(lonely, now);
        self.pump(now);
    }

    /// A start, a join, or an own address change: updates may follow one another quickly again.
    pub fn stir(&mut self, now: Instant) {
        self.started = now;
        self.pump(now);
    }

    /// Takes a sponsor's seat (0 to 3) at the rendezvous of an invite.
    pub fn host(
        &mut self,
        invite: InviteId,
        rv: &Rendezvous,
        seat: u8,
        wg: WgPublicKey,
        now: Instant,
    ) {
        self.seats.take(invite, rv, (Seat::Sponsor(seat), Some(wg)), now);
        self.pump(now);
    }

    /// Takes the joining device's seat at the rendezvous of an invite.
    pub fn arrive(&mut self, invite: InviteId, rv: &Rendezvous, now: Instant) {
        self.seats.take(invite, rv, (Seat::Joiner, None), now);
        self.pump(now);
    }

    /// Leaves the rendezvous of an invite; what is stored there runs out by itself.
    pub fn withdraw(&mut self, invite: &InviteId, now: Instant) {
        self.seats.leave(invite);
        self.outbox.forget(Job::Seat(*invite));
        self.pump(now);
    }

    /// Takes what the DHT says; what is not of this publisher is passed over.
    pub fn handle_dht(&mut self, input: &DhtInput, now: Instant) {
        match input {
            DhtInput::Value(item) => self.take_value(item, now),
            DhtInput::LookupDone(key) => self.end_reading(*key, now),
            DhtInput::Published(key, result) => self.end_store(*key, *result, now),
            DhtInput::State(state, _) => self.set_state(*state, now),
        }
        self.pump(now);
    }

    /// Stores what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.pump(now);
    }

    /// The next item to store.
    pub fn poll_publish(&mut self) -> Option<SignedItem> {
        self.outbox.next_item()
    }

    /// The next key to look up: to read before writing.
    pub fn poll_lookup(&mut self) -> Option<DhtKey> {
        self.outbox.next_read()
    }

    /// When [`Self::handle_timeout`] is due, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        if !self.outbox.is_empty() {
            return Some((self.last_now, "publisher output is queued"));
        }
        if !self.can_store() {
            return None;
        }
        let member = self.network.as_ref();
        let record = member.and_then(|_| self.record.timeout()).map(|at| (at, "record"));
        let bell = member.and_then(|_| self.ringer.timeout()).map(|at| (at, "doorbell"));
        let seats = self.seats.timeout().map(|at| (at, "rendezvous"));
        let first = [record, bell, seats].into_iter().flatten().min();
        first.map(|(at, reason)| (at.max(self.hold), reason))
    }

    /// How long ago a node last took the record.
    pub fn published_ago(&self, now: Instant) -> Option<Duration> {
        self.published.map(|at| now.saturating_duration_since(at))
    }

    /// The sequence numbers, for the cache.
    pub fn export(&self) -> Vec<u8> {
        self.seqs.export()
    }

    /// Takes what [`Self::export`] gave before the restart.
    pub fn import(&mut self, bytes: &[u8]) -> Result<(), RecordError> {
        self.seqs.import(bytes)
    }

    /// Whether there is anything to tell, anywhere to store it, and a time to store it with.
    fn can_store(&self) -> bool {
        self.state != DhtState::Off && self.wall.is_some() && !self.body.endpoints.is_empty()
    }

    fn pump(&mut self, now: Instant) {
        self.last_now = now;
        let Some(wall) = self.wall.filter(|_| self.can_store() && now >= self.hold) else { return };
        let unix = wall.at(now);
        self.store_record(unix, now);
        self.store_seats(unix, now);
        if self.network.is_some() && self.ringer.take_read(now) {
            self.bell(now).into_iter().for_each(|(_, key)| self.outbox.read(key.dht()));
        }
    }

    fn store_record(&mut self, unix: UnixTime, now: Instant) {
        let Some((id, device, secret)) = &self.network else { return };
        let time = device_epoch(device, secret, unix);
        if self.tried != Some(time.epoch) {
            self.record.want_by(now);
        }
        if !self.record.is_due(&mut self.rng, now) {
            return;
        }
        let mut epochs = vec![time.epoch];
        if time.in_last_fifth() {
            epochs.push(Epoch(time.epoch.0.saturating_add(1)));
        }
        self.tried = Some(time.epoch);
        self.record.begin(u32::try_from(epochs.len()).expect("one or two"), now);
        for epoch in epochs {
            let key = RecordKey::new(device, secret, epoch).expect("an own key is a usable key");
            let content = (&self.body, self.seqs.next(key.dht(), unix));
            let item = Record::seal(id, secret, epoch, content, self.rng.random());
            self.outbox.store(Job::Record, item);
        }
    }

    fn store_seats(&mut self, unix: UnixTime, now: Instant) {
        let told = &self.body.endpoints;
        let items = self.seats.store(told, &mut self.seqs, &mut self.rng, (unix, now));
        for (invite, item) in items {
            self.outbox.store(Job::Seat(invite), item);
        }
    }

    /// The time, and the doorbell's key.
    fn bell(&mut self, now: Instant) -> Option<(UnixTime, BellKey)> {
        let (_, _, secret) = self.network.as_ref()?;
        let unix = self.wall?.at(now);
        Some((unix, self.ringer.key(secret, unix).clone()))
    }

    fn take_value(&mut self, item: &SignedItem, now: Instant) {
        self.seqs.see(item);
        if let Some((unix, key)) = self.bell(now)
            && key.dht() == item.key
            && let Ok(bell) = Bell::open(item, &key, unix)
        {
            self.ringer.see(&bell);
        }
    }

    /// A look-up ended; where it was the doorbell's, this device may have to ring.
    fn end_reading(&mut self, done: DhtKey, now: Instant) {
        let Some((unix, key)) = self.bell(now).filter(|(_, key)| key.dht() == done) else { return };
        let Some((_, device, secret)) = self.network.as_ref().filter(|_| self.can_store()) else {
            return;
        };
        let own = (*device, self.body.endpoints.as_slice());
        if let Some(draft) = self.ringer.end_reading(own, unix, now) {
            let item = draft.seal(secret, key.epoch(), unix, self.rng.random());
            self.outbox.store(Job::Bell, item);
        } else {
            self.ringer.follow_up(&mut self.rng, now);
        }
    }

    fn end_store(&mut self, key: DhtKey, result: Result<u32, PublishError>, now: Instant) {
        let Some(job) = self.outbox.answered(key) else { return };
        let ok = result.is_ok();
        if result == Err(PublishError::NotMostRecent) && job != Job::Bell {
            self.outbox.read(key);
        }
        match job {
            Job::Bell => self.ringer.end_writing(result, &mut self.rng, now),
            Job::Record => {
                self.published = if ok { Some(now) } else { self.published };
                let next = self.next_record(now);
                self.record.end(ok, next, &mut self.rng, now);
            }
            Job::Seat(invite) => self.seats.end(&invite, ok, &mut self.rng, now),
        }
    }

    /// How long until the record is stored again where nothing changes: the usual time, but no
    /// later than just after the last fifth of the epoch begins.
    fn next_record(&mut self, now: Instant) -> Duration {
        let usual = Duration::from_secs(self.rng.random_range(REFRESH_SECS));
        let member = self.network.as_ref().zip(self.wall);
        let left = member.and_then(|((_, device, secret), wall)| {
            device_epoch(device, secret, wall.at(now)).until_last_fifth()
        });
        // One second past the boundary, so that rounding does not fall just before it.
        left.map_or(usual, |secs| usual.min(Duration::from_secs(secs + 1)))
    }

    fn set_state(&mut self, state: DhtState, now: Instant) {
        let before = std::mem::replace(&mut self.state, state);
        if state == DhtState::Off {
            self.outbox.clear();
            self.record.ground(now);
            self.ringer.ground(now);
            self.seats.posts().for_each(|post| post.ground(now));
        }
        if state == DhtState::Ready && before != DhtState::Ready {
            // Nodes that were all gone may have lost everything.
            let lost = before == DhtState::Unreachable;
            let at = now + Duration::from_millis(self.rng.random_range(RETURN_SPREAD_MS));
            for post in self.seats.posts().chain([&mut self.record]) {
                if lost || post.is_failing() {
                    post.want_by(at);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
