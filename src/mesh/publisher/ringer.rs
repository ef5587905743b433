//! Ringing the doorbell: read, merge, write.
//!
//! Every look-up of the doorbell, whoever asked for it, is a reading. When one ends, a lonely
//! device whose own ring is missing, old or outdated writes the union of all it saw and itself,
//! over the version it saw (`cas`). Nodes may hold different versions after two devices rang at
//! once; then the union goes over all of them, without `cas`.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;

use crate::identity::DeviceId;
use crate::membership::UnixTime;
use crate::mesh::event::PublishError;
use crate::wire::record::{Bell, BellKey, Epoch, NetworkSecret, Ring, SignedItem, bell_epoch};

/// How old the own ring may get, in seconds: a third of the age at which it is no longer believed.
const RING_AGAIN_SECS: u64 = 600;

/// The least time between two rings: under the shortest time between two readings, so that a ring
/// that was lost to another's is repaired by the next.
const RING_GAP: Duration = Duration::from_secs(1);

/// How often, and at what distance in milliseconds, the doorbell is read again after a ring: one of
/// two that rang at the same time is overwritten and repairs that with its first reading, and the
/// other finds it with its second. The usual pace would take five seconds.
const FOLLOW_UPS: u8 = 2;
const FOLLOW_UP_MS: std::ops::Range<u64> = 1100..2000;

/// When a ring of which nothing was heard counts as failed.
const RING_TIMEOUT: Duration = Duration::from_secs(30);

/// How long to wait after another was faster, in milliseconds; random, so that two do not keep
/// step.
const CONFLICT_WAIT_MS: std::ops::Range<u64> = 200..1000;

/// How often in a row others may be faster before the doorbell is left to the next reading of the
/// usual pace: any member can write it, and one that always does must not keep the others asking the
/// DHT every second.
const MAX_CONFLICTS: u8 = 8;

/// The state of the doorbell as far as this device rings it.
#[derive(Debug, Default)]
pub(super) struct Ringer {
    lonely: bool,
    /// The doorbell's key of the epoch in which it was last asked for.
    key: Option<BellKey>,
    /// What the look-up under way has shown.
    seen: Vec<Ring>,
    seqs: BTreeSet<i64>,
    /// The own ring as it was last written.
    rung: Option<(UnixTime, Vec<SocketAddr>)>,
    written: Option<Instant>,
    in_flight: bool,
    /// When to read the doorbell of ourselves.
    read_at: Option<Instant>,
    /// How many readings shall still follow the last ring.
    follow_ups: u8,
    /// How often in a row another was faster.
    conflicts: u8,
}

impl Ringer {
    /// Whether this device has no tunnel; when it begins to have none, it reads and rings at once.
    pub(super) fn set_lonely(&mut self, lonely: bool, now: Instant) {
        if lonely && !self.lonely {
            self.read_by(now);
        }
        if !lonely {
            self.read_at = None;
        }
        self.lonely = lonely;
    }

    /// The own addresses changed.
    pub(super) fn change(&mut self, now: Instant) {
        if self.lonely {
            self.read_by(now + RING_GAP / 2);
        }
    }

    /// The doorbell's key at `unix`.
    pub(super) fn key(&mut self, secret: &NetworkSecret, unix: UnixTime) -> &BellKey {
        let epoch = bell_epoch(secret, unix).epoch;
        let kept = self.key.take().filter(|key| key.epoch() == epoch);
        self.key.insert(kept.unwrap_or_else(|| BellKey::new(secret, epoch)))
    }

    /// The network has another secret.
    pub(super) fn forget_key(&mut self) {
        self.key = None;
    }

    /// When the doorbell is to be read.
    pub(super) fn timeout(&self) -> Option<Instant> {
        self.read_at
    }

    /// Whether to read the doorbell now.
    pub(super) fn take_read(&mut self, now: Instant) -> bool {
        let due = self.read_at.is_some_and(|at| at <= now);
        if due {
            self.read_at = None;
        }
        due
    }

    /// A version of the doorbell was seen.
    pub(super) fn see(&mut self, bell: &Bell) {
        self.seqs.insert(bell.seq());
        // Bounded: eight rings a version, and no more versions than the adapter hands on.
        self.seen.extend(bell.rings().iter().take(8).cloned());
        self.seen.truncate(64);
    }

    /// A reading ended: the ring to write, where one is needed.
    pub(super) fn end_reading(
        &mut self,
        own: (DeviceId, &[SocketAddr]),
        unix: UnixTime,
        now: Instant,
    ) -> Option<Draft> {
        let seen = std::mem::take(&mut self.seen);
        let seqs = std::mem::take(&mut self.seqs);
        let (device, endpoints) = own;
        if !self.lonely || endpoints.is_empty() || self.is_held_up(now) {
            return None;
        }
        let rung = self.rung.as_ref().filter(|(at, told)| {
            told == endpoints && at.0.saturating_add(RING_AGAIN_SECS) >= unix.0
        });
        let stands = seen
            .iter()
            .any(|ring| ring.device == device && rung.is_some_and(|(at, _)| ring.at == *at));
        if stands {
            return None;
        }
        let mut rings: Vec<_> = seen.into_iter().filter(|ring| ring.device != device).collect();
        rings.push(Ring { device, at: unix, endpoints: endpoints.to_vec() });
        self.rung = Some((unix, endpoints.to_vec()));
        self.written = Some(now);
        self.in_flight = true;
        let newest = seqs.last().copied().unwrap_or(-1);
        let cas = if seqs.len() == 1 { Some(newest) } else { None };
        Some(Draft { rings, newest, cas })
    }

    /// A ring ended. Where another was faster, the doorbell is read again soon; where no node
    /// answered, the next reading will ring.
    pub(super) fn end_writing(
        &mut self,
        result: Result<u32, PublishError>,
        rng: &mut StdRng,
        now: Instant,
    ) {
        self.in_flight = false;
        let Err(error) = result else {
            self.conflicts = 0;
            self.follow_ups = FOLLOW_UPS;
            self.follow_up(rng, now);
            return;
        };
        self.rung = None;
        self.written = None;
        if error != PublishError::NoNodes {
            self.conflicts += 1;
        }
        if self.conflicts >= MAX_CONFLICTS {
            self.conflicts = 0;
        } else if self.lonely && error != PublishError::NoNodes {
            self.read_by(now + Duration::from_millis(rng.random_range(CONFLICT_WAIT_MS)));
        }
    }

    /// Drops what is under way.
    pub(super) fn ground(&mut self, now: Instant) {
        self.in_flight = false;
        self.rung = None;
        self.seen.clear();
        self.seqs.clear();
        if self.lonely {
            self.read_by(now);
        }
    }

    /// Plans another reading, where one shall still follow.
    pub(super) fn follow_up(&mut self, rng: &mut StdRng, now: Instant) {
        if self.lonely && self.follow_ups > 0 && self.read_at.is_none() {
            self.follow_ups -= 1;
            self.read_by(now + Duration::from_millis(rng.random_range(FOLLOW_UP_MS)));
        }
    }

    fn read_by(&mut self, at: Instant) {
        self.read_at = Some(self.read_at.map_or(at, |read_at| read_at.min(at)));
    }

    fn is_held_up(&self, now: Instant) -> bool {
        let since = |gap| self.written.is_some_and(|written| now < written + gap);
        (self.in_flight && since(RING_TIMEOUT)) || since(RING_GAP)
    }
}

/// What to write.
pub(super) struct Draft {
    rings: Vec<Ring>,
    newest: i64,
    cas: Option<i64>,
}

impl Draft {
    /// Seals it under `epoch`, newer than everything seen and no older than `unix`.
    pub(super) fn seal(
        self,
        secret: &NetworkSecret,
        epoch: Epoch,
        unix: UnixTime,
        nonce: [u8; 24],
    ) -> SignedItem {
        let seq = i64::try_from(unix.0).unwrap_or(i64::MAX).max(self.newest.saturating_add(1));
        let item = Bell::seal(secret, epoch, self.rings, seq, nonce);
        SignedItem { cas: self.cas, ..item }
    }
}
