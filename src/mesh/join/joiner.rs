//! The side that is let in: one for each join under way.
//!
//! Up to four sponsors are reached at once; the first whose tunnel stands is asked, the others wait.
//! A sponsor that falls silent, or cannot admit, makes room for the next. What a proven sponsor says
//! of the invite itself (used, expired, closed) ends the join at once. A sponsor that shows another
//! network ends it too, unless a better one comes within [`GRACE`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::attempt::{Attempt, Step};
use super::claimant::Claimant;
use super::event::{JoinerEvent, JoinerKeys};
use super::words;
use crate::api::{self, ErrorKind, Stage};
use crate::identity::{WgPublicKey, WgSecret};
use crate::membership::{DeviceName, Invite, Roster, SignedOp};
use crate::mesh::key::PeerKey;
use crate::wire::control::join::{JoinOffer, Refusal};
use crate::wire::control::{Control, Nonce, Ops};

/// Sponsors that are tried at once: as many as publish at an invite's rendezvous.
const MAX_SPONSORS: usize = 4;

/// Failed sponsors that are remembered: more than a network has admins.
const MAX_SPENT: usize = 64;

/// How long after the last sponsor failed another may still come, before the join fails with that
/// one's reason.
const GRACE: Duration = Duration::from_secs(10);

/// Is let in.
pub struct Joiner {
    claimant: Claimant,
    attempts: BTreeMap<PeerKey, Attempt>,
    /// In the order in which their tunnels came to stand; the first is asked.
    queue: VecDeque<PeerKey>,
    /// Sponsors that are not worth another try.
    spent: BTreeSet<WgPublicKey>,
    stage: Stage,
    last_failure: Option<api::Error>,
    grace_ends: Option<Instant>,
    gives_up: Instant,
    over: bool,
    outbox: VecDeque<(PeerKey, Control)>,
    events: VecDeque<JoinerEvent>,
}

impl Joiner {
    /// Starts to join with `invite`. `nonce` is 16 random bytes; at `gives_up` it has failed.
    pub fn new(
        invite: Invite,
        keys: JoinerKeys,
        name: DeviceName,
        nonce: Nonce,
        gives_up: Instant,
    ) -> Self {
        let mut joiner = Self {
            claimant: Claimant { derived: invite.keys(), invite, keys, name, nonce },
            attempts: BTreeMap::new(),
            queue: VecDeque::new(),
            spent: BTreeSet::new(),
            stage: Stage::Searching,
            last_failure: None,
            grace_ends: None,
            gives_up,
            over: false,
            outbox: VecDeque::new(),
            events: VecDeque::new(),
        };
        let detail = "looking for a device of the network".to_owned();
        joiner.events.push_back(JoinerEvent::Stage(Stage::Searching, detail));
        joiner
    }

    /// The invite.
    pub fn invite(&self) -> &Invite {
        &self.claimant.invite
    }

    /// The secret half of the invite's guest key.
    pub fn guest_secret(&self) -> &WgSecret {
        &self.claimant.derived.gk
    }

    /// The stage reached so far.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Whether it is over, one way or the other.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Whether that sponsor is worth reaching: there is room, and it did not fail for good.
    pub fn wants_sponsor(&self, sponsor: &WgPublicKey) -> bool {
        !self.over
            && self.stage < Stage::Admitted
            && self.attempts.len() < MAX_SPONSORS
            && !self.spent.contains(sponsor)
    }

    /// Addresses of a sponsor are known, and its tunnel is being tried.
    pub fn reaching(&mut self) {
        self.reach_stage(Stage::Reaching, "found a device of the network; reaching it");
    }

    /// A tunnel under the guest key stands.
    pub fn connected(&mut self, guest: PeerKey, sponsor: WgPublicKey, now: Instant) {
        if self.over || self.attempts.contains_key(&guest) {
            return;
        }
        if !self.wants_sponsor(&sponsor) {
            self.events.push_back(JoinerEvent::Abandon(guest));
            return;
        }
        self.reach_stage(Stage::Connected, "connected; checking that it is the invite's network");
        self.attempts.insert(guest, Attempt::new(sponsor, now));
        self.queue.push_back(guest);
        self.grace_ends = None;
        self.ask_first(now);
    }

    /// The new key's tunnel stands, to the sponsor that `guest` leads to.
    pub fn switched(&mut self, guest: PeerKey, peer: PeerKey, now: Instant) {
        let Some(attempt) = self.attempts.get_mut(&guest) else { return };
        if let Step::Switch { sponsor } = attempt.step {
            attempt.enter(Step::Prove { sponsor, peer }, now);
            self.send(guest, now);
        }
    }

    /// A tunnel is gone: the guest's or the new key's.
    pub fn lost(&mut self, peer: PeerKey, now: Instant) {
        if let Some(guest) = self.attempt_of(peer) {
            self.drop_attempt(
                guest,
                words::unreachable("the device that was asked went away"),
                now,
            );
        }
    }

    /// Handles a message that came through one of this join's tunnels.
    pub fn handle(&mut self, from: PeerKey, message: &Control, now: Instant) {
        let Some(guest) = self.attempt_of(from).filter(|_| !self.over) else { return };
        match message {
            Control::JoinOffer(part) if from == guest => self.offered(guest, part, now),
            Control::JoinAccepted(accepted) if accepted.id == self.claimant.keys.id.public() => {
                self.accepted(guest, now);
            }
            Control::JoinGranted(granted) if granted.id == self.claimant.keys.id.public() => {
                self.granted(guest, from, now);
            }
            Control::JoinRefused(refused) => self.refused(guest, refused.reason, now),
            Control::Ops(ops) if self.is_proven(guest, from) => self.told(guest, ops, now),
            Control::Secret(secret) if self.is_proven(guest, from) => {
                self.events.push_back(JoinerEvent::Secret(secret.into()));
            }
            _ => {}
        }
    }

    /// The owner's roster changed, and it has K_net: with this device in it, nothing more is asked.
    pub fn roster_changed(&mut self, roster: &Roster) {
        let me = roster.get(&self.claimant.keys.id.public());
        if let Some(me) = me.filter(|me| !self.over && me.wg == self.claimant.keys.wg) {
            let detail = format!("the network knows this device as \"{}\"", me.name);
            self.reach_stage(Stage::Admitted, &detail);
            self.grace_ends = None;
            let granted = |attempt: &Attempt| matches!(attempt.step, Step::Granted { .. });
            let others = self.attempts.extract_if(.., |_, attempt| !granted(attempt));
            self.events.extend(others.map(|(guest, _)| JoinerEvent::Abandon(guest)));
            self.queue.clear();
        }
    }

    /// The interface is up: the join is over.
    pub fn up(&mut self) {
        if !self.over {
            self.reach_stage(Stage::Up, "the network is up");
            self.over = true;
        }
    }

    /// The next message to send.
    pub fn poll_transmit(&mut self) -> Option<(PeerKey, Control)> {
        self.outbox.pop_front()
    }

    /// The next thing to do or tell.
    pub fn poll_event(&mut self) -> Option<JoinerEvent> {
        self.events.pop_front()
    }

    /// When [`Joiner::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        if self.over {
            return None;
        }
        let waits = self.attempts.values().filter(|_| self.stage < Stage::Admitted);
        let repeats = waits.filter_map(Attempt::deadline).map(|at| (at, "join: repeat a request"));
        let grace = self.grace_ends.map(|at| (at, "join: no other sponsor"));
        let end = std::iter::once((self.gives_up, "join: give up"));
        repeats.chain(grace).chain(end).min()
    }

    /// Repeats requests, and gives up.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.over {
            return;
        }
        let waits = self.stage < Stage::Admitted;
        let is_due = |attempt: &Attempt| waits && attempt.deadline().is_some_and(|at| at <= now);
        let due = self.attempts.iter().filter(|(_, attempt)| is_due(attempt));
        for guest in due.map(|(guest, _)| *guest).collect::<Vec<_>>() {
            self.repeat(guest, now);
        }
        if now >= self.gives_up {
            let late = words::unreachable(words::too_late(self.stage));
            let error = self.last_failure.take().unwrap_or(late);
            self.fail(error);
        } else if self.grace_ends.is_some_and(|at| at <= now) {
            self.grace_ends = None;
            if let Some(error) = self.last_failure.take() {
                self.fail(error);
            }
        }
    }

    fn offered(&mut self, guest: PeerKey, part: &JoinOffer, now: Instant) {
        let Some(attempt) = self.attempts.get_mut(&guest) else { return };
        if !matches!(attempt.step, Step::Hello) || part.guest_nonce != self.claimant.nonce {
            return;
        }
        let Some(nonce) = attempt.parts.add(part) else { return };
        match attempt.parts.verify(&self.claimant.invite.network, &attempt.sponsor) {
            Ok(shown) => {
                attempt.enter(Step::Request { sponsor: shown.sponsor, nonce }, now);
                self.send(guest, now);
                let detail = format!("asked to join \"{}\"", shown.genesis.name);
                self.events.push_back(JoinerEvent::Verified(Box::new(shown)));
                self.reach_stage(Stage::Requested, &detail);
            }
            Err(error) => {
                self.drop_attempt(guest, words::fake(error), now);
            }
        }
    }

    fn accepted(&mut self, guest: PeerKey, now: Instant) {
        let Some(attempt) = self.attempts.get_mut(&guest) else { return };
        if let Step::Request { sponsor, .. } = attempt.step {
            attempt.enter(Step::Switch { sponsor }, now);
            let sponsor = attempt.sponsor;
            self.events.push_back(JoinerEvent::Switch { guest, sponsor });
        }
    }

    fn granted(&mut self, guest: PeerKey, from: PeerKey, now: Instant) {
        let Some(attempt) = self.attempts.get_mut(&guest) else { return };
        if let Step::Prove { sponsor, peer } = attempt.step
            && peer == from
        {
            attempt.enter(Step::Granted { peer }, now);
            attempt.sent(now);
            self.events.push_back(JoinerEvent::Granted { guest, peer, sponsor });
        }
    }

    fn told(&mut self, guest: PeerKey, message: &Ops, now: Instant) {
        if let (Some(attempt), Some(reply)) = (self.attempts.get_mut(&guest), &message.reply) {
            attempt.took(message.ops.len(), reply, now);
        }
        let ops = message.ops.iter().filter_map(|wire| SignedOp::decode(&wire.0).ok());
        self.events.push_back(JoinerEvent::Ops(ops.collect()));
    }

    fn refused(&mut self, guest: PeerKey, reason: Refusal, now: Instant) {
        let Some(attempt) = self.attempts.get_mut(&guest) else { return };
        let proven = match attempt.step {
            Step::Queued | Step::Granted { .. } => return,
            Step::Hello => false,
            Step::Request { .. } | Step::Switch { .. } | Step::Prove { .. } => true,
        };
        // Who asked at the same time may yet fail, and a full disk may yet be emptied: the request
        // is repeated, and counts as unanswered.
        if matches!(reason, Refusal::Busy | Refusal::Failed) && proven {
            attempt.complaint = Some(words::refused(reason));
            return;
        }
        // A sponsor that started anew meanwhile knows neither its nonce nor our claim any more.
        let forgotten = matches!(reason, Refusal::BadRequest | Refusal::Unknown);
        if forgotten && proven && attempt.begin_again(now) {
            return self.send(guest, now);
        }
        let settled = matches!(reason, Refusal::Used | Refusal::Expired | Refusal::Closed);
        if settled && proven {
            self.fail(words::refused(reason));
        } else {
            self.drop_attempt(guest, words::refused(reason), now);
        }
    }

    /// Asks the first in the queue, where none is being asked.
    fn ask_first(&mut self, now: Instant) {
        let Some(first) = self.queue.front().copied() else { return };
        if let Some(attempt) = self.attempts.get_mut(&first)
            && matches!(attempt.step, Step::Queued)
        {
            attempt.enter(Step::Hello, now);
            self.send(first, now);
        }
    }

    /// Sends the request of the attempt's step, and sets when it is repeated.
    fn send(&mut self, guest: PeerKey, now: Instant) {
        let Some(attempt) = self.attempts.get_mut(&guest) else { return };
        if let Some((to, message)) = self.claimant.message(guest, attempt) {
            attempt.sent(now);
            self.outbox.push_back((to, message));
        }
    }

    /// The answer did not come: asks again, or the next sponsor.
    fn repeat(&mut self, guest: PeerKey, now: Instant) {
        let alone = self.queue.len() <= 1;
        let Some(attempt) = self.attempts.get_mut(&guest) else { return };
        if attempt.may_repeat(alone) {
            self.send(guest, now);
            return;
        }
        let silent = words::unreachable("the device that was asked stopped answering");
        let failure = attempt.complaint.take().unwrap_or(silent);
        self.drop_attempt(guest, failure, now);
    }

    /// Goes on with the next sponsor, or waits a little for one.
    fn drop_attempt(&mut self, guest: PeerKey, failure: api::Error, now: Instant) {
        let Some(dropped) = self.attempts.remove(&guest) else { return };
        self.queue.retain(|queued| *queued != guest);
        self.outbox.retain(|(to, _)| *to != guest);
        self.events.push_back(JoinerEvent::Abandon(guest));
        // Silence says less than a reason, and another tunnel to the same sponsor may do better.
        let silent = failure.kind == ErrorKind::Unreachable;
        if !silent && self.spent.len() < MAX_SPENT {
            self.spent.insert(dropped.sponsor);
        }
        if !silent || self.last_failure.is_none() {
            self.last_failure = Some(failure);
        }
        if self.attempts.is_empty() && !silent {
            self.grace_ends = Some(now + GRACE);
        }
        self.ask_first(now);
    }

    fn fail(&mut self, error: api::Error) {
        self.over = true;
        self.outbox.clear();
        let guests: Vec<PeerKey> = self.attempts.keys().copied().collect();
        self.events.extend(guests.into_iter().map(JoinerEvent::Abandon));
        self.attempts.clear();
        self.queue.clear();
        self.events.push_back(JoinerEvent::Failed(error));
    }

    fn reach_stage(&mut self, stage: Stage, detail: &str) {
        if stage > self.stage && !self.over {
            self.stage = stage;
            self.events.push_back(JoinerEvent::Stage(stage, detail.to_owned()));
        }
    }

    /// The attempt that a tunnel belongs to.
    fn attempt_of(&self, peer: PeerKey) -> Option<PeerKey> {
        if self.attempts.contains_key(&peer) {
            return Some(peer);
        }
        let own = |attempt: &Attempt| attempt.own_tunnel() == Some(peer);
        self.attempts.iter().find(|(_, attempt)| own(attempt)).map(|(guest, _)| *guest)
    }

    /// Whether `peer` is the new key's tunnel to a sponsor that proved itself.
    fn is_proven(&self, guest: PeerKey, peer: PeerKey) -> bool {
        self.attempts.get(&guest).is_some_and(|attempt| attempt.own_tunnel() == Some(peer))
    }
}
