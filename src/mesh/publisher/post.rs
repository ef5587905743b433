//! When one item is stored: soon after a change, at intervals, and again after a failure.

use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;

use crate::mesh::cadence::jittered;

/// The first wait after a failure; doubled with each.
const RETRY_FIRST: Duration = Duration::from_secs(2);

/// The longest wait after failures: a DHT that is gone is asked every few minutes.
const RETRY_CAP: Duration = Duration::from_secs(300);

/// How long changes are gathered before they are stored, in milliseconds: addresses of one event
/// (a new link) come within this time.
const DEBOUNCE_MS: std::ops::Range<u64> = 300..500;

/// When a store of which nothing was heard counts as failed: the adapter gives up after 20 s.
const STORE_TIMEOUT: Duration = Duration::from_secs(30);

/// The schedule of one item.
#[derive(Debug, Default)]
pub(super) struct Post {
    due: Option<Instant>,
    sent: Option<Instant>,
    in_flight: u32,
    failed: bool,
    failures: u32,
}

impl Post {
    /// Stores at `at`, or earlier where that was planned.
    pub(super) fn want_by(&mut self, at: Instant) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// What is told changed: stores at once where nothing was stored yet, else after a short
    /// wait, and no sooner than `gap` after the last time.
    pub(super) fn change(&mut self, gap: Duration, rng: &mut StdRng, now: Instant) {
        let at = self.sent.map_or(now, |sent| {
            let debounce = Duration::from_millis(rng.random_range(DEBOUNCE_MS));
            (now + debounce).max(sent + gap)
        });
        self.want_by(at);
    }

    /// When something is to be done: a store begun, or one given up.
    pub(super) fn timeout(&self) -> Option<Instant> {
        if self.in_flight > 0 { self.sent.map(|sent| sent + STORE_TIMEOUT) } else { self.due }
    }

    /// Whether a store shall begin now. Gives up one that was never answered.
    pub(super) fn is_due(&mut self, rng: &mut StdRng, now: Instant) -> bool {
        if self.in_flight > 0 && self.sent.is_some_and(|sent| now >= sent + STORE_TIMEOUT) {
            self.in_flight = 0;
            self.fail(rng, now);
        }
        self.in_flight == 0 && self.due.is_some_and(|due| due <= now)
    }

    /// `items` stores began.
    pub(super) fn begin(&mut self, items: u32, now: Instant) {
        self.due = None;
        self.sent = Some(now);
        self.in_flight = items;
        self.failed = false;
    }

    /// One store ended. Where it was the last and all went well, the next is `next` from now.
    pub(super) fn end(&mut self, ok: bool, next: Duration, rng: &mut StdRng, now: Instant) {
        if self.in_flight == 0 {
            return;
        }
        self.in_flight -= 1;
        self.failed |= !ok;
        if self.in_flight > 0 {
            return;
        }
        if self.failed {
            self.fail(rng, now);
        } else {
            self.failures = 0;
            self.want_by(now + next);
        }
    }

    /// Whether the last store failed.
    pub(super) fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// Drops what is under way, as nothing will be heard of it.
    pub(super) fn ground(&mut self, now: Instant) {
        if std::mem::take(&mut self.in_flight) > 0 {
            self.want_by(now);
        }
    }

    fn fail(&mut self, rng: &mut StdRng, now: Instant) {
        let wait = RETRY_FIRST.saturating_mul(1 << self.failures.min(16)).min(RETRY_CAP);
        self.failures += 1;
        self.want_by(now + jittered(wait, rng));
    }
}
