//! Whoever rings the doorbell, or beacons, looks for company: whom to call of those that one hears.
//!
//! Two lonely devices must find one another, so one that has hardly any tunnel calls whomever it hears
//! of. But after a power cut, or on a Monday morning in an office, all ring at once, and would
//! everybody call everybody, what a start costs a device would grow with the network. So not many are
//! called at once; a device that has [`ENOUGH`] tunnels calls one only now and then, and gives it up
//! soon: many hear each ring, so that whoever rings late is called soon. Nobody is asked to introduce
//! them. A ring is told once, so whoever cannot be called yet is [remembered](MOST_WAITING) for a while.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::peer::Who;
use super::rate::Bucket;
use super::tags::Caller;
use super::*;
use crate::identity::DeviceId;

/// Tunnels to members with which a device looks for no company: they introduce it to the others.
const ENOUGH: usize = 2;

/// How often a device with fewer calls one more, and how many at once: as many as a ring of the
/// doorbell shows.
const CALL_EVERY: Duration = Duration::from_secs(1);
const CALLS_AT_ONCE: u32 = 8;

/// How often a device that has enough calls one.
const ANSWER_EVERY: Duration = Duration::from_secs(15);

/// How long whoever is called may take to call too, as its NAT may demand: it reads the doorbell every
/// five seconds at first, but ever more seldom. Who has enough company does not wait for those.
const COMPANY_FOR: Duration = Duration::from_secs(60);
const ANSWER_FOR: Duration = Duration::from_secs(15);

/// How many are remembered until they may be called, the latest: as many as a ring of the doorbell
/// shows. And for how long: by then they were called by others.
const MOST_WAITING: usize = 8;
const WAITING_FOR: Duration = Duration::from_secs(60);

/// How many that look for company may be called, and who is called next.
pub(super) struct Company {
    calls: Bucket,
    answers: Bucket,
    waiting: VecDeque<(DeviceId, Instant)>,
}

impl Default for Company {
    fn default() -> Self {
        Self {
            calls: Bucket::new(1, CALL_EVERY, CALLS_AT_ONCE),
            answers: Bucket::new(1, ANSWER_EVERY, 1),
            waiting: VecDeque::new(),
        }
    }
}

impl Company {
    fn remember(&mut self, device: &DeviceId, now: Instant) {
        if self.waiting.iter().any(|(waiting, _)| waiting == device) {
            return;
        }
        if self.waiting.len() == MOST_WAITING {
            self.waiting.pop_front();
        }
        self.waiting.push_back((*device, now));
    }

    /// Forgets who has waited for too long; whether anybody is left.
    fn is_awaited(&mut self, now: Instant) -> bool {
        let in_time = |since: &Instant| now.saturating_duration_since(*since) <= WAITING_FOR;
        self.waiting.retain(|(_, since)| in_time(since));
        !self.waiting.is_empty()
    }
}

impl Mesh {
    /// The peer of a member that looks for company, taken into use where it is not and shall be.
    pub(super) fn keep_company(&mut self, device: &DeviceId, now: Instant) -> Option<PeerKey> {
        if let Some(known) = self.peers.member(device) {
            return Some(known);
        }
        let enough = self.has_company();
        let remote = self.ledger.roster().get(device)?.wg;
        let (allowance, time) = match enough {
            true => (&mut self.company.answers, ANSWER_FOR),
            false => (&mut self.company.calls, COMPANY_FOR),
        };
        if !allowance.take(1, now) {
            self.company.remember(device, now);
            self.await_company(now);
            return None;
        }
        // Where it is, it says itself: the DHT need not be asked.
        let key = self.bring(Caller { who: Who::Member(*device), remote }, now)?;
        let peer = self.peers.touch(key)?;
        peer.wanted_until = now + time;
        Some(key)
    }

    /// Calls the one that has waited the longest, where it may be called by now.
    pub(super) fn call_remembered(&mut self, now: Instant) {
        if self.company.is_awaited(now)
            && self.next_call(now) <= now
            && let Some((device, _)) = self.company.waiting.pop_front()
        {
            self.keep_company(&device, now);
        }
        self.await_company(now);
    }

    /// Comes back when the next may be called, where one waits.
    fn await_company(&mut self, now: Instant) {
        let waits = self.company.is_awaited(now);
        let due = waits.then(|| (self.next_call(now), "somebody looks for company"));
        self.deadlines.set(Timer::Company, due);
    }

    fn next_call(&self, now: Instant) -> Instant {
        let enough = self.has_company();
        let allowance = if enough { &self.company.answers } else { &self.company.calls };
        allowance.ready_at(1, now)
    }

    fn has_company(&self) -> bool {
        self.peers.iter().filter(|peer| peer.is_company()).take(ENOUGH).count() == ENOUGH
    }
}
