//! What gossip keeps of one peer: what it has, and what it may still cost.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::serve;
use crate::membership::{SignedOp, Verified};
use crate::mesh::rate::{Bucket, Inflow};
use crate::wire::control::{AuthorTag, MAX_HEADS};

/// Answers a second for one peer, and at once: above the 12 that a peer like us asks for.
const SERVE_RATE: u32 = 16;

/// Ops of a peer that may fail to verify before it is unheard: more than a broken disk or a version
/// with another idea of an op sends before a person notices.
pub const BAD_OPS: u32 = 16;

/// How fast one such op is forgiven: a hostile peer costs one verification a minute.
const BAD_OPS_FORGIVEN: Duration = Duration::from_secs(60);

/// A peer with a proven tunnel.
pub struct Peer {
    /// How often its heads were asked for since it last said what we say.
    pub asked: u32,
    /// Whether it told its heads on this tunnel, and then what was asked of it.
    pub told: bool,
    /// What it may send.
    pub inflow: Inflow,
    /// What it is answered.
    pub served: Bucket,
    /// What it is known to have of each log.
    has: BTreeMap<AuthorTag, u64>,
    bad: Bucket,
    muted: bool,
}

impl Default for Peer {
    /// A peer of which nothing is known yet.
    fn default() -> Self {
        Self {
            asked: 0,
            told: false,
            inflow: Inflow::default(),
            served: Bucket::new(SERVE_RATE, Duration::from_secs(1), SERVE_RATE),
            has: BTreeMap::new(),
            bad: Bucket::new(1, BAD_OPS_FORGIVEN, BAD_OPS),
            muted: false,
        }
    }
}

impl Peer {
    /// The same peer, which greeted anew: what it has must be learnt again. What it may cost goes
    /// on, or each greeting would buy another burst.
    pub fn greeted_anew(self) -> Self {
        Self { asked: 0, told: false, has: BTreeMap::new(), ..self }
    }

    /// It has that log up to `seq`.
    pub fn learn(&mut self, author: AuthorTag, seq: u64) {
        if self.has.len() < 2 * MAX_HEADS || self.has.contains_key(&author) {
            let known = self.has.entry(author).or_default();
            *known = seq.max(*known);
        }
    }

    /// Whether it is known to have an op, forks aside.
    pub fn has(&self, op: &Verified<SignedOp>) -> bool {
        let (author, seq) = serve::place(op);
        self.has.get(&AuthorTag::of(&author)).is_some_and(|known| *known >= seq)
    }

    /// An op of it did not verify.
    pub fn misbehaved(&mut self, now: Instant) {
        self.muted = !self.bad.take(1, now);
    }

    /// Whether its ops are looked at.
    pub fn is_heard(&mut self, now: Instant) -> bool {
        self.muted &= self.bad.ready_at(1, now) > now;
        !self.muted
    }
}
