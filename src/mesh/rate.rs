//! How much one peer may make this device do: leaky buckets by virtual scheduling.
//!
//! A [`Bucket`] stores one instant, the time at which all that was taken will have been paid for
//! (the generic cell rate algorithm, ITU-T I.371). Taking costs no loop and no timer.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::identity::DeviceId;

/// Messages a second a peer may send, and how many at once.
const MESSAGES: u32 = 50;

/// Bytes a second a peer may send, and how many at once.
const BYTES: u32 = 256 * 1024;

/// So many units a second, and as many as `burst` at once.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    per_unit: Duration,
    tolerance: Duration,
    paid_at: Option<Instant>,
}

impl Bucket {
    /// `units` in each `period`, `burst` of them at once. `units` is not 0.
    pub fn new(units: u32, period: Duration, burst: u32) -> Self {
        let per_unit = period / units.max(1);
        Self { per_unit, tolerance: per_unit * burst, paid_at: None }
    }

    /// Takes `units`, or nothing where they are not there.
    pub fn take(&mut self, units: u32, now: Instant) -> bool {
        let ready = self.ready_at(units, now) <= now;
        if ready {
            let from = self.paid_at.map_or(now, |paid| paid.max(now));
            self.paid_at = Some(from + self.per_unit * units);
        }
        ready
    }

    /// When `units` can be taken: `now` or later; never comes to pass for more than the burst.
    pub fn ready_at(&self, units: u32, now: Instant) -> Instant {
        let from = self.paid_at.map_or(now, |paid| paid.max(now));
        let after = from + self.per_unit * units;
        match (after - now).checked_sub(self.tolerance) {
            Some(wait) => now + wait,
            None => now,
        }
    }
}

/// What one peer may send inside its tunnel: 50 messages and 256 KiB a second.
#[derive(Debug, Clone)]
pub struct Inflow {
    messages: Bucket,
    bytes: Bucket,
    dropped: u64,
}

impl Default for Inflow {
    fn default() -> Self {
        let second = Duration::from_secs(1);
        Self {
            messages: Bucket::new(MESSAGES, second, MESSAGES),
            bytes: Bucket::new(BYTES, second, BYTES),
            dropped: 0,
        }
    }
}

impl Inflow {
    /// Whether a message of `len` bytes shall be heard; a refused one is counted. The answers to
    /// this device's own requests (`solicited`) are paced by the requests: only their bytes count.
    pub fn admit(&mut self, len: usize, solicited: bool, now: Instant) -> bool {
        let len = u32::try_from(len).unwrap_or(u32::MAX / 2);
        let heard = len <= BYTES
            && self.bytes.ready_at(len, now) <= now
            && (solicited || self.messages.take(1, now))
            && self.bytes.take(len, now);
        self.dropped += u64::from(!heard);
        heard
    }

    /// Messages that were refused.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

/// Members that left whose budgets are remembered: more than call anew while one budget fills up.
const MOST_LEFT: usize = 256;

/// What members that went out of use may still cost, so that being called anew buys nothing.
#[derive(Debug)]
pub struct Left<T>(VecDeque<(DeviceId, T)>);

impl<T> Default for Left<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T> Left<T> {
    /// The member left. Returns what was kept of the one that is forgotten for it.
    pub fn keep(&mut self, device: DeviceId, budget: T) -> Option<T> {
        let oldest = if self.0.len() >= MOST_LEFT { self.0.pop_front() } else { None };
        self.0.push_back((device, budget));
        oldest.map(|(_, budget)| budget)
    }

    /// The member is back.
    pub fn take(&mut self, device: &DeviceId) -> Option<T> {
        let at = self.0.iter().position(|(left, _)| left == device)?;
        self.0.remove(at).map(|(_, budget)| budget)
    }

    /// What is kept.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|(_, budget)| budget)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Where the virtual time of a test begins.
    pub(crate) fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let t = start();
        let mut bucket = Bucket::new(10, Duration::from_secs(1), 5);
        assert_eq!((0..20).filter(|_| bucket.take(1, t)).count(), 5);
        assert_eq!(bucket.ready_at(1, t), t + Duration::from_millis(100));
        assert!(!bucket.take(1, t + Duration::from_millis(99)));
        assert!(bucket.take(1, t + Duration::from_millis(100)));
        assert_eq!((0..20).filter(|_| bucket.take(1, t + Duration::from_secs(60))).count(), 5);
    }

    #[test]
    fn a_peer_is_heard_fifty_times_a_second_and_no_more() {
        let t = start();
        let mut inflow = Inflow::default();
        assert_eq!((0..1000).filter(|_| inflow.admit(20, false, t)).count(), 50);
        assert_eq!(inflow.dropped(), 950);
        let later = t + Duration::from_millis(500);
        assert_eq!((0..1000).filter(|_| inflow.admit(20, false, later)).count(), 25);
    }

    #[test]
    fn those_who_left_are_remembered_to_a_bound_the_latest_longest() {
        let mut left = Left::default();
        let device = |n: u16| {
            let mut id = [0; 32];
            id[..2].copy_from_slice(&n.to_be_bytes());
            DeviceId(id)
        };
        let forgotten: Vec<u16> = (0..300).filter_map(|n| left.keep(device(n), n)).collect();
        assert_eq!(forgotten, (0..44).collect::<Vec<u16>>());
        assert_eq!((left.take(&device(43)), left.take(&device(44))), (None, Some(44)));
        assert_eq!((left.take(&device(44)), left.iter().count()), (None, 255));
    }

    #[test]
    fn answers_that_were_asked_for_are_limited_by_bytes_alone() {
        let t = start();
        let mut inflow = Inflow::default();
        assert_eq!((0..1000).filter(|_| inflow.admit(1024, true, t)).count(), 256);
        assert!(!inflow.admit(usize::MAX, true, t + Duration::from_secs(9)));
    }
}
