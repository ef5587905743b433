//! Keeps the signed logs of all devices equal, over the tunnels that stand.
//!
//! **New ops are pushed.** Each device has at least 8 random neighbours among the peers it is
//! connected with (all, where there are fewer), and exchanges one with the first comparison after each
//! 10 minutes. An op that is
//! new here goes to every neighbour at once, except to those known to have it; denials (`Revoke`,
//! `InviteClose`, `AdminCut`) go first, even to those, and from the device that signed them to every
//! peer it is connected with.
//!
//! **Everything else is compared and fetched.** The first message on a tunnel is the head vector:
//! one entry an author, with the end of its longest chain and a hash over what stands beside it.
//! Whoever lacks something asks for it, in answers of at most 16 KiB ([`gaps`]). After a push, the
//! neighbours are asked for their digest within a second, again with doubling pauses until it equals
//! ours: so a lost push is repaired in about a second, and nothing needs an acknowledgement.
//!
//! **Idle costs next to nothing.** Every 30 s the digest, 12 bytes, goes to one random neighbour,
//! which answers only where its own differs. When nothing changed for 10 minutes, the pause doubles
//! up to 5 minutes: 12 messages of 124 bytes an hour with WireGuard, UDP and IP, whatever the number
//! of peers, and as many received on average.
//!
//! **What a peer can cost is bounded.** It is heard 50 times and 256 KiB a second (answers to our own
//! fetches count by bytes only), asked for at most 192 KiB/s, answered at most 16 times a second, and
//! unheard for a while after 16 ops that did not verify.
//!
//! The owner inserts what [`Gossip::handle`] returns after verifying it and then calls
//! [`Gossip::inserted`], also for ops that this device signed itself. It drains
//! [`Gossip::poll_transmit`] after every call. A peer is up once its `Proof` held.

pub mod gaps;
pub mod neighbours;
pub mod peer;
pub mod serve;
pub mod view;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;

use crate::identity::{DeviceId, RootId};
use crate::membership::{Author, Logs, OpId, SignedOp, Unverified, Verified};
use crate::mesh::deadlines::Deadlines;
use crate::mesh::rate::Left;
use crate::wire::control::{AuthorTag, Control, Fetch, HeadEntry, Heads, Ops};

use gaps::Gaps;
use neighbours::Neighbours;
use peer::Peer;
use view::View;

/// How often the digest is compared while things change.
const COMPARE_EVERY: Duration = Duration::from_secs(30);

/// The longest pause between comparisons: 12 an hour.
const COMPARE_SELDOM: Duration = Duration::from_secs(300);

/// How long nothing must have changed before comparisons become seldom.
const QUIET_AFTER: Duration = Duration::from_secs(600);

/// How long after a push the neighbours are asked whether they have it: a round trip, and time for
/// their own pushes to make the question needless. Up to as much again at random.
const CONFIRM_AFTER: Duration = Duration::from_millis(500);

/// How long the answer to a question for the heads may take; doubled with each try.
const HEADS_TIME: Duration = Duration::from_secs(1);

/// How often the heads are asked for in vain (1 + 2 + 4 + 8 + 16 s) before the next comparison has
/// to do.
const HEADS_TRIES: u32 = 5;

/// The most messages of one push to one neighbour: more is cheaper to fetch than to push.
const PUSH_MESSAGES: usize = 8;

/// A peer that is known to have so many more ops than we is being caught up with: what it gives is
/// old, and only denials are pushed on, to those not known to have them.
const CATCHING_UP: u64 = 64;

/// What is next due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Compare,
    Heads(DeviceId),
}

/// Keeps this device's logs equal with its peers'.
pub struct Gossip {
    peers: BTreeMap<DeviceId, Peer>,
    /// Those whose tunnels are gone: what they may cost goes on.
    left: Left<Peer>,
    neighbours: Neighbours,
    gaps: Gaps,
    due: Deadlines<Due>,
    outbox: VecDeque<(DeviceId, Control)>,
    rng: StdRng,
    pause: Duration,
    last_change: Option<Instant>,
    dropped: u64,
}

impl Gossip {
    /// No peers yet. `rng` is seeded by the owner; `root` is the author whose log comes first.
    pub fn new(root: RootId, rng: StdRng) -> Self {
        Self {
            peers: BTreeMap::new(),
            left: Left::default(),
            neighbours: Neighbours::default(),
            gaps: Gaps::new(AuthorTag::of(&Author::Root(root))),
            due: Deadlines::default(),
            outbox: VecDeque::new(),
            rng,
            pause: COMPARE_EVERY,
            last_change: None,
            dropped: 0,
        }
    }

    /// A tunnel to `peer` stands, and both proofs held: its first message is our head vector.
    pub fn peer_up(&mut self, peer: DeviceId, logs: &Logs, now: Instant) {
        let known = self.peers.remove(&peer).or_else(|| self.left.take(&peer));
        self.peers.insert(peer, known.map(Peer::greeted_anew).unwrap_or_default());
        self.neighbours.consider(peer, self.peers.len(), &mut self.rng);
        self.ask_heads(peer, logs, now);
        self.schedule(now);
    }

    /// The tunnel to `peer` is gone.
    pub fn peer_down(&mut self, peer: &DeviceId, logs: &Logs, now: Instant) {
        let Some(gone) = self.peers.remove(peer) else { return };
        if let Some(forgotten) = self.left.keep(*peer, gone.greeted_anew()) {
            self.dropped += forgotten.inflow.dropped();
        }
        self.neighbours.remove(peer, &self.peers, &mut self.rng);
        self.due.set(Due::Heads(*peer), None);
        self.outbox.retain(|(to, _)| to != peer);
        self.gaps.forget(peer);
        self.schedule(now);
        self.advance(logs, now);
    }

    /// Whether a control message of `len` bytes from `peer` shall be decoded at all: asked for each
    /// message before anything else is done with it.
    pub fn admit(&mut self, peer: &DeviceId, len: usize, now: Instant) -> bool {
        let solicited = self.gaps.expects(peer);
        self.peers.get_mut(peer).is_some_and(|peer| peer.inflow.admit(len, solicited, now))
    }

    /// Handles a message of a peer that is up; returns ops to verify and insert. Messages that are
    /// not gossip do nothing.
    pub fn handle(
        &mut self,
        from: DeviceId,
        message: &Control,
        logs: &Logs,
        now: Instant,
    ) -> Vec<Unverified<SignedOp>> {
        if !self.peers.contains_key(&from) {
            return Vec::new();
        }
        match message {
            Control::Heads(heads) => self.handle_heads(from, heads, logs, now),
            Control::Fetch(fetch) => self.handle_fetch(from, fetch, logs, now),
            Control::Ops(ops) => return self.handle_ops(from, ops, logs, now),
            _ => {}
        }
        Vec::new()
    }

    /// These ops are new in `logs`: from that peer, or signed by this device itself.
    pub fn inserted(&mut self, ids: &[OpId], from: Option<DeviceId>, logs: &Logs, now: Instant) {
        let ops: Vec<_> = ids.iter().filter_map(|id| logs.get(*id)).collect();
        for op in &ops {
            let (author, seq) = serve::place(op);
            if let Some(peer) = from.and_then(|from| self.peers.get_mut(&from)) {
                peer.learn(AuthorTag::of(&author), seq);
            }
        }
        if !ops.is_empty() {
            self.last_change = Some(now);
            self.pause = COMPARE_EVERY;
            self.push(&ops, from, logs, now);
            self.schedule(now);
        }
        self.advance(logs, now);
    }

    /// An op of `from` did not verify. After 16 in short time its ops are not looked at any more.
    pub fn refused(&mut self, from: &DeviceId, now: Instant) {
        if let Some(peer) = self.peers.get_mut(from) {
            peer.misbehaved(now);
        }
    }

    /// Whether heads were compared with `peer` on this tunnel and nothing it had is missing here.
    pub fn is_compared(&self, peer: &DeviceId) -> bool {
        self.peers.get(peer).is_some_and(|peer| peer.told) && !self.gaps.lacks_from(peer)
    }

    /// Messages that were refused because a peer sent too many.
    pub fn dropped(&self) -> u64 {
        let all = self.peers.values().chain(self.left.iter());
        self.dropped + all.map(|peer| peer.inflow.dropped()).sum::<u64>()
    }

    /// The next message to send.
    pub fn poll_transmit(&mut self) -> Option<(DeviceId, Control)> {
        self.outbox.pop_front()
    }

    /// When [`Gossip::handle_timeout`] is next due.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.due.poll().into_iter().chain(self.gaps.poll_timeout()).min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, logs: &Logs, now: Instant) {
        while let Some(due) = self.due.pop_due(now) {
            match due {
                Due::Compare => self.compare(logs, now),
                Due::Heads(peer) => self.ask_heads(peer, logs, now),
            }
        }
        self.schedule(now);
        if self.gaps.poll_timeout().is_some_and(|(at, _)| at <= now) {
            for silent in self.gaps.handle_timeout(now) {
                if let Some(peer) = self.peers.get_mut(&silent) {
                    // What it has is not here: its heads count as told when they are told again.
                    peer.told = false;
                }
            }
            self.advance(logs, now);
        }
    }

    fn handle_heads(&mut self, from: DeviceId, heads: &Heads, logs: &Logs, now: Instant) {
        let equal = heads.digest == logs.digest();
        let Some(peer) = self.peers.get_mut(&from) else { return };
        for entry in &heads.entries {
            peer.learn(entry.author, entry.seq);
        }
        if equal || !heads.entries.is_empty() {
            peer.told = true;
        }
        if equal {
            peer.asked = 0;
            self.due.set(Due::Heads(from), None);
        }
        if heads.ask || (!equal && heads.entries.is_empty()) {
            // Who only told its digest is asked for its heads; who told them needs no more.
            let reply = if equal {
                view::digest(logs, false)
            } else {
                view::heads(logs, heads.entries.is_empty())
            };
            self.outbox.push_back((from, Control::Heads(reply)));
        }
        let entries: &[HeadEntry] = if equal { &[] } else { &heads.entries };
        if equal || !entries.is_empty() {
            let view = View::of(logs);
            self.gaps.told(from, entries, &view, now);
        }
        self.advance(logs, now);
    }

    fn handle_fetch(&mut self, from: DeviceId, fetch: &Fetch, logs: &Logs, now: Instant) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        if peer.served.take(1, now) {
            let answer = serve::answer(fetch, logs).into_iter();
            self.outbox.extend(answer.map(|ops| (from, Control::Ops(ops))));
        }
    }

    fn handle_ops(
        &mut self,
        from: DeviceId,
        message: &Ops,
        logs: &Logs,
        now: Instant,
    ) -> Vec<Unverified<SignedOp>> {
        let Some(peer) = self.peers.get_mut(&from) else { return Vec::new() };
        if !peer.is_heard(now) {
            return Vec::new();
        }
        let mut fresh = Vec::new();
        for wire in &message.ops {
            match SignedOp::decode(&wire.0) {
                Ok(op) if logs.get(op.id()).is_some() => {}
                Ok(op) => fresh.push(op),
                Err(_) => peer.misbehaved(now),
            }
        }
        if let Some(reply) = &message.reply {
            self.gaps.answered(from, reply, now);
            if fresh.is_empty() {
                self.advance(logs, now);
            }
        }
        fresh
    }

    /// Sends new ops on, denials first, and asks the neighbours a little later whether they came.
    fn push(
        &mut self,
        ops: &[&Verified<SignedOp>],
        from: Option<DeviceId>,
        logs: &Logs,
        now: Instant,
    ) {
        let view = View::of(logs);
        let old = from.is_some_and(|peer| self.gaps.behind(&peer, &view) > CATCHING_UP);
        let (denials, others): (Vec<&Verified<SignedOp>>, Vec<_>) =
            ops.iter().copied().partition(|op| serve::is_denial(op));
        let to_all = from.is_none() && !denials.is_empty();
        let targets: Vec<DeviceId> = if to_all {
            self.peers.keys().copied().collect()
        } else {
            self.neighbours.iter().copied().collect()
        };
        for target in targets {
            let Some(peer) = self.peers.get_mut(&target) else { continue };
            if Some(target) != from {
                let denials = denials.iter().copied().filter(|op| !old || !peer.has(op));
                let lacked = others.iter().copied().filter(|op| !old && !peer.has(op));
                let messages = serve::push(denials.chain(lacked));
                let messages = messages.into_iter().take(PUSH_MESSAGES);
                self.outbox.extend(messages.map(|ops| (target, Control::Ops(ops))));
            }
            peer.asked = 0;
            let jitter = self.rng.random_range(0..=CONFIRM_AFTER.as_millis() as u64);
            let at = now + CONFIRM_AFTER + Duration::from_millis(jitter);
            self.due.set_if_none(Due::Heads(target), (at, "gossip: did the push arrive"));
        }
    }

    /// Asks a peer for its heads; the first time on a tunnel by telling it ours.
    fn ask_heads(&mut self, to: DeviceId, logs: &Logs, now: Instant) {
        let Some(peer) = self.peers.get_mut(&to) else { return };
        if peer.asked >= HEADS_TRIES {
            return;
        }
        let again = now + HEADS_TIME * (1 << peer.asked);
        peer.asked += 1;
        let heads = if peer.told { view::digest(logs, true) } else { view::heads(logs, true) };
        self.due.set(Due::Heads(to), Some((again, "gossip: answer to our heads")));
        self.outbox.push_back((to, Control::Heads(heads)));
    }

    /// Compares digests with one neighbour, a new one where one is due, and sets the next pause.
    fn compare(&mut self, logs: &Logs, now: Instant) {
        let new = self.neighbours.swap(&self.peers, &mut self.rng, now);
        if let Some(peer) = new.or_else(|| self.neighbours.pick(&mut self.rng)) {
            self.outbox.push_back((peer, Control::Heads(view::digest(logs, false))));
        }
        let quiet = self.last_change.is_none_or(|at| now.duration_since(at) >= QUIET_AFTER);
        self.pause = if quiet { (self.pause * 2).min(COMPARE_SELDOM) } else { COMPARE_EVERY };
    }

    /// Comparisons run while there is a neighbour.
    fn schedule(&mut self, now: Instant) {
        if self.last_change.is_none() {
            self.last_change = Some(now);
        }
        if self.neighbours.is_empty() {
            self.due.set(Due::Compare, None);
        } else {
            let tenth = self.pause.as_millis() as u64 / 10;
            let jitter = Duration::from_millis(self.rng.random_range(0..=tenth));
            let at = now + self.pause + jitter;
            match self.due.get(&Due::Compare) {
                Some(set) if set <= at => {}
                _ => self.due.set(Due::Compare, Some((at, "gossip: compare heads"))),
            }
        }
    }

    fn advance(&mut self, logs: &Logs, now: Instant) {
        if self.gaps.is_empty() {
            return;
        }
        let view = View::of(logs);
        let fetches = self.gaps.advance(&view, &mut self.rng, now);
        self.outbox.extend(fetches.into_iter().map(|(to, fetch)| (to, Control::Fetch(fetch))));
    }
}

#[cfg(test)]
mod tests;
