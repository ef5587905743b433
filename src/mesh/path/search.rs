//! Whom to ask, and whom to answer.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::RngExt;

use super::super::candidate::{MAX_REMOTES, canonical};
use super::route::Route;
use super::{ANSWERS_PER_SECOND, Asked, BURST, Demand, EXPIRE, MAX_LEARNT, PathAgent, Transmit};
use crate::wire::stun::{CheckRequest, TransactionId};

/// The most checks that may wait for an answer: one whole burst over the most addresses possible.
/// As they expire after [`EXPIRE`], no peer can make us send more than 39 checks a second for long,
/// whatever addresses it names. The primary is not bound by it.
pub(super) const MAX_IN_FLIGHT: usize = (MAX_REMOTES + MAX_LEARNT) * BURST.len();

/// The longest gap between two checks of an address while an active peer has no path: with
/// [`HUNT_SPREAD`] under 30 s, so that our NAT's hole never closes and the peer's first check gets in.
const HUNT_ACTIVE: Duration = Duration::from_secs(16);

/// The same for a warm peer, who may be switched off for weeks: some five minutes, as a new address of
/// either side restarts the burst anyway.
const HUNT_WARM: Duration = Duration::from_secs(300);

/// How much longer or shorter a gap of the search may be. Devices that start together, as after a power
/// cut, would else go on asking one that all know in step, and it answers only so many a second.
pub(super) const HUNT_SPREAD: std::ops::Range<f64> = 0.6..1.4;

/// How many answers of a second are kept for the primary, which is asked at most three times a second.
const ANSWERS_FOR_PRIMARY: u32 = 3;

/// A request is not asked back when we asked that address a moment ago: the answer may be on the
/// way, and two agents must not ask each other back for ever.
const TRIGGER_GAP: Duration = Duration::from_millis(10);

/// The same where a whole burst went unanswered before: requests from there may be replays that
/// want us to bother whoever lives at that address.
const TRIGGER_GAP_SILENT: Duration = Duration::from_secs(1);

/// Searching.
impl PathAgent {
    /// A burst over every address but the primary, which [`suspect`](Self::suspect) checks.
    pub(super) fn search(&mut self, now: Instant) {
        for (address, route) in &mut self.routes {
            if self.primary != Some(*address) {
                route.start_burst(now);
            }
        }
    }

    /// Asks new addresses; without a path the old ones too, as the peer may have just woken up.
    pub(super) fn begin(&mut self, new: &[SocketAddr], now: Instant) {
        if self.demand == Demand::Idle || new.is_empty() {
            return;
        }
        if self.primary.is_none() {
            return self.search(now);
        }
        // Whoever has a new address may have lost an old one.
        self.suspect(now);
        for address in new {
            if let Some(route) = self.routes.get_mut(address) {
                route.start_burst(now);
            }
        }
    }

    /// Sends nothing more of its own accord.
    pub(super) fn rest(&mut self) {
        for route in self.routes.values_mut() {
            route.due = None;
            route.unanswered = None;
        }
    }

    /// The longest gap of the search for a first path, or `None` where one burst is enough.
    pub(super) fn hunt_gap(&self) -> Option<Duration> {
        match (self.primary, self.demand) {
            (Some(_), _) | (None, Demand::Idle) => None,
            (None, Demand::Warm) => Some(HUNT_WARM),
            (None, Demand::Active) => Some(HUNT_ACTIVE),
        }
    }

    /// Sends one check.
    pub(super) fn ask(&mut self, to: SocketAddr, now: Instant) {
        let Some(route) = self.routes.get_mut(&to) else { return };
        self.asked.retain(|_, asked| now.saturating_duration_since(asked.at) <= EXPIRE);
        if self.asked.len() >= MAX_IN_FLIGHT && self.primary != Some(to) {
            return;
        }
        route.asked(now);
        let transaction = TransactionId::new(self.rng.random());
        self.asked.insert(transaction, Asked { to, at: now, size: None });
        let payload = CheckRequest { transaction, tag: self.tag }.encode(&self.key);
        self.transmits.push_back(Transmit::new(to, payload));
    }

    /// The peer sent from this address: asks it back if it never answered, and finds out whether
    /// the peer moved if it is not the primary.
    pub(super) fn notice(&mut self, from: SocketAddr, now: Instant) {
        let Some(from) = self.surroundings.accept_source(from) else { return };
        self.learn(from, now);
        if self.primary == Some(from) {
            return;
        }
        let Some(route) = self.routes.get_mut(&from) else { return };
        let proven = route.is_fresh(now) && route.unanswered.is_none();
        let suspicious = route.silent && !route.listed;
        let gap = if suspicious { TRIGGER_GAP_SILENT } else { TRIGGER_GAP };
        // What was asked before the peer was heard may have met a closed hole, which its own check
        // has opened since: that does not count against asking again.
        let asked_since = route.asked_at >= route.heard_at && route.heard_at.is_some();
        if proven || (asked_since && route.asked_at.is_some_and(|at| now < at + gap)) {
            return;
        }
        if route.due.is_none() && !suspicious {
            route.start_burst(now);
            route.advance_burst(None, 1.0, now);
        }
        self.ask(from, now);
        if self.demand > Demand::Idle {
            self.suspect(now);
        }
    }

    /// Remembers an address that the peer sent from. Whether it is new.
    pub(super) fn learn(&mut self, address: SocketAddr, now: Instant) -> bool {
        if self.routes.contains_key(&address) {
            return false;
        }
        self.routes.insert(address, Route::new(false, now));
        self.bound_learnt();
        true
    }

    /// Forgets the least useful of the addresses that the peer does not name.
    pub(super) fn bound_learnt(&mut self) {
        let learnt = |(address, route): &(&SocketAddr, &Route)| {
            !route.listed && self.primary != Some(**address)
        };
        while self.routes.iter().filter(learnt).count() > MAX_LEARNT {
            let oldest =
                self.routes.iter().filter(learnt).min_by_key(|(_, route)| route.usefulness());
            let Some(oldest) = oldest.map(|(address, _)| *address) else { return };
            self.routes.remove(&oldest);
        }
    }

    /// Whether this request from there would be answered now: ask before others' allowance is spent
    /// on it.
    pub fn would_answer(&self, from: SocketAddr, request: &CheckRequest, now: Instant) -> bool {
        self.answer_until(canonical(from), request, now).is_some()
    }

    /// Takes one answer of the rate; false where there is none, or the request had its answer.
    pub(super) fn may_answer(
        &mut self,
        from: SocketAddr,
        request: &CheckRequest,
        now: Instant,
    ) -> bool {
        let until = self.answer_until(from, request, now);
        self.answers_until = until.unwrap_or(self.answers_until);
        until.is_some()
    }

    /// Until when one more answer uses up the rate, where it is within it.
    fn answer_until(
        &self,
        from: SocketAddr,
        request: &CheckRequest,
        now: Instant,
    ) -> Option<Instant> {
        if self.answered.contains(&request.transaction) {
            return None;
        }
        let each = Duration::from_secs(1) / ANSWERS_PER_SECOND;
        let kept = if self.primary == Some(from) { 0 } else { ANSWERS_FOR_PRIMARY };
        let until = self.answers_until.max(now) + each;
        (until <= now + each * (ANSWERS_PER_SECOND - kept)).then_some(until)
    }
}
