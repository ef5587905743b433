//! What the kernel sifts at the gate while strangers flood it, and how finely.
//!
//! The thread at the gate tells when it is flooded, and each time the [sieve](UdpQueue::sift) becomes
//! finer: of what comes from nobody known, a quarter of what passed before. So it passes what a
//! thread can well receive, whatever the flood is. After a while without, it becomes coarser again,
//! and in the end goes away: that is how the end of a flood is noticed.
//!
//! Whoever becomes known has to be let through from then on. Before a question leaves, the kernel
//! is told to whom ([`Sieve::follow`]), so that no answer can be early.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::forward::ExpectedStun;
use crate::io::udp::{MAX_TAGS, UdpQueue};

/// How long a sieve stays as it is without a flood behind it: far longer than it takes to notice one.
const SIFTED: Duration = Duration::from_secs(1);

/// One step: four times fewer, in powers of two.
const STEP: u32 = 2;

/// At the finest, one in 65,536 of what strangers send passes.
const FINEST: u32 = 16;

/// The sieve of one gate; its thread and the one that sends questions share it.
#[derive(Debug, Default)]
pub(super) struct Sieve(Mutex<Option<Placed>>);

/// One that is in place, whether or not the kernel can do that.
#[derive(Debug, Clone, Copy)]
struct Placed {
    /// One in 2^`lot` of what strangers send passes.
    lot: u32,
    since: Instant,
    /// Of what is [expected](ExpectedStun::version).
    version: u64,
}

impl Sieve {
    /// Whether anything is sifted, so that it has to be [tended](Self::tend).
    pub(super) fn is_in_place(&self) -> bool {
        self.0.lock().is_some()
    }

    /// More passes than should.
    pub(super) fn refine(&self, gate: &UdpQueue, expected: &ExpectedStun, now: Instant) {
        let mut placed = self.0.lock();
        let lot = placed.map_or(0, |placed| placed.lot);
        match &mut *placed {
            Some(placed) if lot >= FINEST => placed.since = now,
            other => *other = Some(sift(gate, expected, lot + STEP, now)),
        }
    }

    /// Makes the sieve coarser where it is time, and tells the kernel who became known.
    pub(super) fn tend(&self, gate: &UdpQueue, expected: &ExpectedStun, now: Instant) {
        let mut place = self.0.lock();
        let Some(placed) = *place else { return };
        if now.saturating_duration_since(placed.since) < SIFTED {
            drop(place);
            self.follow(gate, expected);
        } else if placed.lot > STEP {
            *place = Some(sift(gate, expected, placed.lot - STEP, now));
        } else {
            gate.take_all();
            *place = None;
        }
    }

    /// Tells the kernel who became known; costs nothing where nobody did.
    pub(super) fn follow(&self, gate: &UdpQueue, expected: &ExpectedStun) {
        if let Some(placed) = &mut *self.0.lock()
            && placed.version != expected.version()
        {
            *placed = sift(gate, expected, placed.lot, placed.since);
        }
    }
}

/// Called under the lock, so that what the kernel was told last is the newest.
fn sift(gate: &UdpQueue, expected: &ExpectedStun, lot: u32, since: Instant) -> Placed {
    let known = expected.known(MAX_TAGS);
    if let Err(error) = gate.sift(&known, lot) {
        tracing::debug!(%error, "the kernel does not sift");
    }
    Placed { lot, since, version: known.version }
}
