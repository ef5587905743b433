//! The joiner's conversation with one sponsor, and how patiently it is repeated.

use std::time::{Duration, Instant};

use super::offer::Parts;
use crate::api;
use crate::identity::{DeviceId, WgPublicKey};
use crate::mesh::key::PeerKey;
use crate::mesh::rate::Bucket;
use crate::wire::control::{Nonce, Reply};

/// The first pause before a request is repeated; two round trips of a slow path. Doubled each time.
const REPEAT: Duration = Duration::from_millis(500);

/// The longest pause between repetitions. A join takes half a dozen round trips, and where a third
/// of all datagrams is lost each of them fails half the time: with pauses of 4 s one join in ten took
/// over half a minute.
const REPEAT_MAX: Duration = Duration::from_secs(1);

/// Repetitions before a sponsor counts as silent where another waits: 0.5 + 7 × 1 s.
const REPEATS: u32 = 8;

/// The same where none waits, and once the device proved itself: the sponsor's disk may be slow, and
/// another sponsor would make a second Grant. 0.5 + 23 × 1 s.
const REPEATS_PATIENT: u32 = 24;

/// How often a sponsor is asked from the beginning: it may crash and start anew in between.
const BEGINNINGS: u32 = 3;

/// How long the handshake of the new key may take: three of WireGuard's retransmissions.
const SWITCH_TIME: Duration = Duration::from_secs(15);

/// Answers of 16 KiB, 14 messages, that are asked for in a second, and at once: below the 50 messages
/// a second that a peer may send.
const EXCERPTS: u32 = 3;

/// The conversation with one sponsor.
pub struct Attempt {
    /// Its WireGuard key.
    pub sponsor: WgPublicKey,
    /// Where the conversation stands.
    pub step: Step,
    /// What it showed so far.
    pub parts: Parts,
    /// Why it does not go on, where the sponsor said so and may yet do better.
    pub complaint: Option<api::Error>,
    /// How many ops of the sponsor are here, from the first without a hole.
    pub have: u64,
    /// How often the sponsor told all it has; each time the next is waited for longer.
    passes: u32,
    repeats: u32,
    beginnings: u32,
    due: Instant,
    pace: Bucket,
}

/// Where the conversation with a sponsor stands.
pub enum Step {
    /// Waits for its turn.
    Queued,
    /// `JoinHello` went out.
    Hello,
    /// `JoinRequest` went out, for the sponsor's nonce.
    Request {
        /// Who was asked.
        sponsor: DeviceId,
        /// Its nonce.
        nonce: Nonce,
    },
    /// The new key's handshake is under way.
    Switch {
        /// Who was asked.
        sponsor: DeviceId,
    },
    /// `JoinProve` went out.
    Prove {
        /// Who was asked.
        sponsor: DeviceId,
        /// The tunnel of the new key.
        peer: PeerKey,
    },
    /// Granted; `JoinProve` goes on, for the ops.
    Granted {
        /// The tunnel of the new key.
        peer: PeerKey,
    },
}

impl Attempt {
    /// Waits for its turn.
    pub fn new(sponsor: WgPublicKey, now: Instant) -> Self {
        let parts = Parts::default();
        let pace = Bucket::new(EXCERPTS, Duration::from_secs(1), EXCERPTS);
        let step = Step::Queued;
        Self {
            sponsor,
            step,
            parts,
            complaint: None,
            have: 0,
            passes: 0,
            repeats: 0,
            beginnings: 1,
            due: now,
            pace,
        }
    }

    /// Asks the sponsor for its nonce again, where that was not done too often; the request is to be
    /// sent.
    pub fn begin_again(&mut self, now: Instant) -> bool {
        let may = self.beginnings < BEGINNINGS;
        if may {
            self.beginnings += 1;
            self.parts = Parts::default();
            self.enter(Step::Hello, now);
        }
        may
    }

    /// Goes on to the next step; its request is to be sent.
    pub fn enter(&mut self, step: Step, now: Instant) {
        let time = if matches!(step, Step::Switch { .. }) { SWITCH_TIME } else { Duration::ZERO };
        self.step = step;
        self.repeats = 0;
        self.due = now + time;
    }

    /// The step's request went out.
    pub fn sent(&mut self, now: Instant) {
        self.due = now + (REPEAT * (1 << self.repeats.min(8))).min(REPEAT_MAX);
    }

    /// The answer did not come in time: whether to ask again. `alone` where no sponsor waits.
    pub fn may_repeat(&mut self, alone: bool) -> bool {
        self.repeats += 1;
        let limit = match self.step {
            Step::Switch { .. } => 1,
            Step::Prove { .. } => REPEATS_PATIENT,
            Step::Granted { .. } => u32::MAX,
            _ if alone => REPEATS_PATIENT,
            Step::Queued | Step::Hello | Step::Request { .. } => REPEATS,
        };
        self.repeats < limit
    }

    /// Ops came in the sponsor's order. At the end of an answer the next is asked for as soon as the
    /// pace allows; after the last, what is still missing was lost, and all is asked for anew.
    pub fn took(&mut self, ops: usize, reply: &Reply, now: Instant) {
        let first = reply.next.saturating_sub(ops as u64);
        if first <= self.have && self.have < reply.next {
            self.have = reply.next;
            self.repeats = self.passes;
        }
        if reply.left == 0 && reply.end {
            self.have = 0;
            self.passes = self.passes.saturating_add(1);
            self.repeats = self.passes;
            self.sent(now);
        } else if reply.left == 0 && reply.next == self.have {
            self.due = self.pace.ready_at(1, now);
            self.pace.take(1, self.due);
        }
    }

    /// The tunnel of the new key, once it stands.
    pub fn own_tunnel(&self) -> Option<PeerKey> {
        match self.step {
            Step::Prove { peer, .. } | Step::Granted { peer } => Some(peer),
            Step::Queued | Step::Hello | Step::Request { .. } | Step::Switch { .. } => None,
        }
    }

    /// When the answer to the step's request is overdue.
    pub fn deadline(&self) -> Option<Instant> {
        match self.step {
            Step::Queued => None,
            Step::Hello
            | Step::Request { .. }
            | Step::Switch { .. }
            | Step::Prove { .. }
            | Step::Granted { .. } => Some(self.due),
        }
    }
}
