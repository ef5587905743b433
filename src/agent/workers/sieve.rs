//! What the kernel sifts at the gate while strangers flood it, and how finely.
//!
//! The thread at the gate tells what strangers sent in vain. Where that is a flood, the
//! [sieve](UdpQueue::sift) becomes finer: of what comes from nobody known, a quarter of what passed
//! before. So it passes what a thread can well receive, whatever the flood is. After a while without, it
//! becomes coarser again, and in the end goes away: that is how the end of a flood is noticed. What
//! passes because of its sender or its tag counts for nothing, since a finer sieve would not hold it back.
//!
//! Whoever becomes known has to be let through from then on. Before a datagram leaves, the kernel
//! is told to whom ([`Sieve::follow`]), so that no answer can be early.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::forward::ingress::Strange;
use crate::forward::{ForwardingTable, Version};
use crate::io::udp::{Family, MAX_SOURCES, MAX_TAGS, UdpQueue};

/// So many datagrams of strangers in [`WINDOW`], 4,000 a second, are a flood. In a longer time than a
/// burst takes: to keep others out by it, somebody has to send as much as a flood all the time.
const FLOOD: usize = 400;
const WINDOW: Duration = Duration::from_millis(100);

/// How long a sieve stays as it is without a flood behind it: far longer than it takes to notice one.
const SIFTED: Duration = Duration::from_secs(1);

/// One step: four times fewer, in powers of two.
const STEP: u32 = 2;

/// At the finest, one in 65,536 of what strangers send passes.
const FINEST: u32 = 16;

/// The sieve of one gate: its thread counts and tends, and the one that sends for the mesh follows.
#[derive(Debug, Default)]
pub(super) struct Sieve(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    placed: Option<Placed>,
    /// Datagrams of strangers since the window began.
    strange: usize,
    window: Option<Instant>,
}

/// One that is in place, whether or not the kernel can do that.
#[derive(Debug, Clone, Copy)]
struct Placed {
    /// One in 2^`lot` of what strangers send passes.
    lot: u32,
    since: Instant,
    version: Version,
}

impl Sieve {
    /// Whether anything is sifted, so that it has to be [tended](Self::tend).
    pub(super) fn is_in_place(&self) -> bool {
        self.0.lock().placed.is_some()
    }

    /// Counts what strangers sent in vain, and makes the sieve finer where it is too much.
    pub(super) fn count(
        &self,
        strange: Strange,
        gate: &UdpQueue,
        table: &ForwardingTable,
        now: Instant,
    ) {
        let mut state = self.0.lock();
        let over = |start| now.saturating_duration_since(start) > WINDOW;
        if state.window.is_none_or(over) {
            (state.strange, state.window) = (0, Some(now));
        }
        // A check that a sieve lets through, it would let through however fine it is.
        let checks = if state.placed.is_none() { strange.checks } else { 0 };
        state.strange += checks + strange.others;
        if state.strange < FLOOD {
            return;
        }
        state.window = None;
        match &mut state.placed {
            Some(placed) if placed.lot == FINEST => placed.since = now,
            placed => {
                let lot = placed.map_or(0, |placed| placed.lot) + STEP;
                *placed = Some(Placed::new(gate, table, lot, now));
            }
        }
    }

    /// Makes the sieve coarser where it is time, and tells the kernel who became known.
    pub(super) fn tend(&self, gate: &UdpQueue, table: &ForwardingTable, now: Instant) {
        let placed = &mut self.0.lock().placed;
        match placed {
            Some(kept) if now.saturating_duration_since(kept.since) < SIFTED => {
                kept.follow(gate, table);
            }
            Some(old) if old.lot > STEP => {
                *placed = Some(Placed::new(gate, table, old.lot - STEP, now));
            }
            Some(_) => {
                gate.take_all();
                *placed = None;
            }
            None => {}
        }
    }

    /// Tells the kernel who became known; costs next to nothing where nobody did.
    pub(super) fn follow(&self, gate: &UdpQueue, table: &ForwardingTable) {
        if let Some(placed) = &mut self.0.lock().placed {
            placed.follow(gate, table);
        }
    }
}

/// All of it under the lock, so that what the kernel was told last is the newest.
impl Placed {
    fn new(gate: &UdpQueue, table: &ForwardingTable, lot: u32, since: Instant) -> Self {
        let version = sift(gate, table, lot, None);
        Self { lot, since, version }
    }

    fn follow(&mut self, gate: &UdpQueue, table: &ForwardingTable) {
        if table.expected().version() != self.version {
            self.version = sift(gate, table, self.lot, Some(self.version));
        }
    }
}

/// Tells the kernel who is known, for the families of which it does not know yet.
fn sift(gate: &UdpQueue, table: &ForwardingTable, lot: u32, told: Option<Version>) -> Version {
    let mut known = table.expected().known(MAX_TAGS);
    // Peers in use may not have been written to for long, while they send.
    let peers = table.endpoints().map(|endpoint| endpoint.ip().to_canonical());
    known.sources.extend(peers.take(MAX_SOURCES - known.sources.len()));
    let version = known.version;
    let tags = told.is_none_or(|told| told.tags != version.tags);
    for (family, news) in [
        (Family::V4, told.is_none_or(|told| told.v4 != version.v4)),
        (Family::V6, told.is_none_or(|told| told.v6 != version.v6)),
    ] {
        if (tags || news)
            && let Err(error) = gate.sift(family, &known, lot)
        {
            tracing::debug!(%error, ?family, "the kernel does not sift");
        }
    }
    version
}
