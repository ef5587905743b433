//! What is looked up when: targets with their pace, and the look-ups under way.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;

use super::keys::Keys;
use crate::identity::DeviceId;
use crate::membership::invite::InviteId;
use crate::mesh::cadence::{Cadence, Plan};
use crate::wire::record::{DhtKey, Epoch, Seat};

/// The most look-ups under way: each asks some twenty nodes at once.
pub(super) const MAX_IN_FLIGHT: usize = 4;

/// When a look-up of which nothing was heard counts as ended: the adapter gives up after 20 s.
const FLIGHT_TIMEOUT: Duration = Duration::from_secs(30);

/// What eager look-ups cost at most, on average: ten wanted devices and the doorbell every five
/// seconds are no more than this, and a thousand wanted devices no flood.
const EAGER_SPACING: Duration = Duration::from_millis(400);

/// How far ahead of that average eager look-ups may run: eight at once.
const EAGER_BURST: Duration = Duration::from_millis(3200);

/// The least time between two patient look-ups: with ten unreachable devices each is asked for
/// every five minutes, and no number of them costs more.
pub(super) const PATIENT_SPACING: Duration = Duration::from_secs(30);

/// Around a change of epoch, in seconds, the doorbell is also read under the neighbouring key, as
/// clocks differ.
const BELL_OVERLAP_SECS: u64 = 600;

/// How often the neighbouring epoch is tried too: once in so many look-ups that gave nothing.
const NEIGHBOUR_EVERY: u32 = 4;

/// The pace of records and the doorbell.
pub(super) static CHASE: Plan = Plan {
    phases: &[
        (Duration::from_secs(60), Duration::from_secs(5)),
        (Duration::from_secs(360), Duration::from_secs(15)),
    ],
    first: Duration::from_secs(15),
    cap: Duration::from_secs(300),
};

/// The pace of a rendezvous.
pub(super) static SEEK: Plan = Plan {
    phases: &[(Duration::from_secs(600), Duration::from_secs(2))],
    first: Duration::from_secs(2),
    cap: Duration::from_secs(30),
};

/// What a look-up is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    Device(DeviceId),
    Bell,
    Seat(InviteId, Seat),
}

/// A look-up under way.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) target: Target,
    pub(super) epoch: Epoch,
    since: Instant,
    /// Whether a valid value came.
    pub(super) hit: bool,
}

/// A target and its pace.
#[derive(Debug)]
pub(super) struct Chase {
    pub(super) cadence: Cadence,
    /// Look-ups that gave nothing since the last that gave something.
    misses: u32,
    /// The neighbouring epoch comes next, at once.
    neighbour_next: bool,
    /// The newest sequence number seen of a seat.
    pub(super) seat_seq: i64,
}

impl Chase {
    pub(super) fn new(cadence: Cadence) -> Self {
        Self { cadence, misses: 0, neighbour_next: false, seat_seq: -1 }
    }
}

/// The targets and the look-ups under way.
pub(super) struct Search {
    pub(super) chases: BTreeMap<Target, Chase>,
    flights: BTreeMap<DhtKey, Flight>,
    /// Until when eager look-ups are paid for; they may run [`EAGER_BURST`] ahead of it.
    eager_paid: Instant,
    /// When the next patient look-up may start.
    patient_from: Instant,
    pub(super) lookups: VecDeque<DhtKey>,
    /// What is due first, as of the last [`pump`](Self::pump): it is asked for far more often than it
    /// changes, and finding it walks the targets.
    next: Option<(Instant, Target)>,
    rng: StdRng,
}

impl Search {
    pub(super) fn new(rng: StdRng, now: Instant) -> Self {
        Self {
            chases: BTreeMap::new(),
            flights: BTreeMap::new(),
            eager_paid: now,
            patient_from: now,
            lookups: VecDeque::new(),
            next: None,
            rng,
        }
    }

    /// Adds a target where it is not one yet.
    pub(super) fn add(&mut self, target: Target, now: Instant) {
        let chase = || Chase::new(Cadence::new(&CHASE, now));
        self.chases.entry(target).or_insert_with(chase);
    }

    /// Whether any device is looked for.
    pub(super) fn is_wanting(&self) -> bool {
        self.chases.keys().any(|target| matches!(target, Target::Device(_)))
    }

    /// Drops everything under way.
    pub(super) fn ground(&mut self) {
        self.flights.clear();
        self.lookups.clear();
    }

    /// The look-up under way for `key`.
    pub(super) fn flight(&mut self, key: &DhtKey) -> Option<&mut Flight> {
        self.flights.get_mut(key)
    }

    /// Starts what is due.
    pub(super) fn pump(&mut self, keys: &mut Keys, now: Instant) {
        loop {
            let free = self.flights.len() < MAX_IN_FLIGHT;
            self.next = if free { self.next_due(keys, now) } else { None };
            match self.next {
                Some((due, target)) if due <= now => self.start(target, keys, now),
                _ => break,
            }
        }
    }

    /// When something is due, and why.
    pub(super) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let lost = self.flights.values().map(|flight| flight.since + FLIGHT_TIMEOUT).min();
        let lost = lost.map(|at| (at, "look-up lost"));
        lost.into_iter().chain(self.next.map(|(at, _)| (at, "look-up due"))).min()
    }

    /// Ends the look-ups of which nothing was heard.
    pub(super) fn end_lost(&mut self, keys: &Keys, now: Instant) {
        let is_lost = |flight: &Flight| now >= flight.since + FLIGHT_TIMEOUT;
        let lost = self.flights.iter().filter(|(_, flight)| is_lost(flight));
        let lost: Vec<_> = lost.map(|(key, _)| *key).collect();
        lost.iter().for_each(|key| self.end(key, keys, now));
    }

    /// A look-up ended.
    pub(super) fn end(&mut self, key: &DhtKey, keys: &Keys, now: Instant) {
        let Some(flight) = self.flights.remove(key) else { return };
        let Some(chase) = self.chases.get_mut(&flight.target) else { return };
        chase.misses = if flight.hit { 0 } else { chase.misses + 1 };
        let Some(time) = keys.epoch(&flight.target, now) else { return };
        let neighbour = match flight.target {
            Target::Bell => time.elapsed.min(time.remaining()) < BELL_OVERLAP_SECS,
            _ => chase.misses % NEIGHBOUR_EVERY == 1,
        };
        if neighbour && time.epoch == flight.epoch {
            chase.neighbour_next = true;
            chase.cadence.hasten(now);
        }
    }

    /// The target that is due first, and when it may start.
    fn next_due(&self, keys: &Keys, now: Instant) -> Option<(Instant, Target)> {
        let eager_from = self.eager_paid.checked_sub(EAGER_BURST).unwrap_or(self.eager_paid);
        let busy = |target: &Target| self.flights.values().any(|flight| flight.target == *target);
        self.chases
            .iter()
            .filter(|(target, _)| !busy(target) && keys.has_key(target))
            .map(|(target, chase)| {
                let due = chase.cadence.due();
                let eager = due.max(eager_from);
                let patient = is_patient(target, chase, eager.max(now));
                (if patient { due.max(self.patient_from) } else { eager }, due, *target)
            })
            .min()
            .map(|(at, _, target)| (at, target))
    }

    fn start(&mut self, target: Target, keys: &mut Keys, now: Instant) {
        let Some(chase) = self.chases.get_mut(&target) else { return };
        if is_patient(&target, chase, now) {
            self.patient_from = now + PATIENT_SPACING;
        }
        self.eager_paid = self.eager_paid.max(now) + EAGER_SPACING;
        let neighbour = std::mem::take(&mut chase.neighbour_next);
        chase.cadence.advance(&mut self.rng, now);
        // A device whose id is no usable key has none to look up.
        let Some((key, epoch)) = keys.key(&target, neighbour, now) else { return };
        self.flights.insert(key, Flight { target, epoch, since: now, hit: false });
        self.lookups.push_back(key);
    }
}

/// Whether the target has been looked for in vain for long. A rendezvous is never kept waiting: it
/// has a person in front of it.
fn is_patient(target: &Target, chase: &Chase, now: Instant) -> bool {
    !matches!(target, Target::Seat(..)) && chase.cadence.is_patient(now)
}
