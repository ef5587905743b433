//! The side that lets devices in: one for all invites of a network on this device.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::event::{Admission, Channel, Guest, SponsorEvent, SponsorIdentity};
use super::name::unique_name;
use super::offer;
use crate::identity::{DeviceId, WgPublicKey, kdf};
use crate::membership::invite::InviteId;
use crate::membership::op::InviteOpen;
use crate::membership::roster::{InviteState, Standing};
use crate::membership::{Author, Logs, OpBody, Roster, UnixTime};
use crate::mesh::gossip::serve;
use crate::mesh::key::PeerKey;
use crate::wire::control::join::{
    JoinAccepted, JoinClaim, JoinGranted, JoinHello, JoinProve, JoinRefused, JoinRequest,
    JoinScene, Refusal,
};
use crate::wire::control::{Control, Nonce};

/// How long an accepted request waits for the handshake of the new key: three of WireGuard's
/// retransmissions.
const CANDIDATE_TIME: Duration = Duration::from_secs(20);

/// How many devices may wait at once with one invite: the rightful one, a second that got hold of
/// the token, and one restart of each.
const CANDIDATES_AN_INVITE: usize = 4;

/// How many may wait at once in all: each costs the owner a WireGuard peer.
const CANDIDATES: usize = 64;

/// How long after its end an invite's guest key is still answered, so that whoever comes late is
/// told why instead of waiting in vain: a day, the usual life of an invite.
const ANSWERED_AFTER_END: u64 = 24 * 3600;

/// The most invites that are answered, newest first: what one admin may have open.
const ANSWERED: usize = 64;

/// The type of a `bind_sig`, which a certificate defines (`membership::op::bind`).
const BIND: &str = "bind";

/// Lets devices in.
pub struct Sponsor {
    me: SponsorIdentity,
    /// Makes nonces out of the guests' own, so that nothing is kept for a guest.
    secret: [u8; 32],
    invites: BTreeMap<InviteId, InviteOpen>,
    candidates: BTreeMap<DeviceId, Candidate>,
    outbox: VecDeque<(PeerKey, Control)>,
    events: VecDeque<SponsorEvent>,
}

struct Candidate {
    claim: JoinClaim,
    until: Instant,
    /// Its own tunnel, once it proved itself and its Grant is being written.
    pending: Option<PeerKey>,
}

impl Sponsor {
    /// A sponsor without invites; `secret` is 32 random bytes of this start.
    pub fn new(me: SponsorIdentity, secret: [u8; 32]) -> Self {
        Self {
            me,
            secret,
            invites: BTreeMap::new(),
            candidates: BTreeMap::new(),
            outbox: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// The roster changed, or time passed: which invites are answered. Cost: one walk over the ops.
    pub fn refresh(&mut self, roster: &Roster, logs: &Logs, wall: UnixTime) {
        let opened = logs.iter().filter_map(|op| match (&op.op().body, &op.op().author) {
            (OpBody::InviteOpen(open), Author::Admin(_)) => Some(open),
            _ => None,
        });
        let recent =
            |open: &&InviteOpen| open.expires.0.saturating_add(ANSWERED_AFTER_END) > wall.0;
        let mut known: Vec<&InviteOpen> = opened.filter(recent).collect();
        known.sort_by_key(|open| {
            let closed = !matches!(roster.invite(&open.invite), InviteState::Open(_));
            (closed, std::cmp::Reverse(open.expires), open.invite)
        });
        known.truncate(ANSWERED);
        self.invites = known.into_iter().map(|open| (open.invite, open.clone())).collect();
        for open in roster.open_invites() {
            self.invites.insert(open.invite, open.clone());
        }
    }

    /// The guest keys to answer.
    pub fn guests<'a>(&'a self, roster: &'a Roster) -> impl Iterator<Item = Guest> + 'a {
        self.invites.values().map(|open| Guest {
            invite: open.invite,
            gk: open.gk,
            rv: open.rv,
            open: matches!(roster.invite(&open.invite), InviteState::Open(_)),
            expires: open.expires,
        })
    }

    /// Handles a message that came in under `channel`; others than a guest's do nothing.
    pub fn handle(
        &mut self,
        from: (PeerKey, Channel),
        message: &Control,
        (roster, logs): (&Roster, &Logs),
        now: Instant,
    ) {
        let (peer, channel) = from;
        let answer = match (channel, message) {
            (Channel::Guest(invite), Control::JoinHello(hello)) => {
                self.hello(peer, invite, hello, (roster, logs))
            }
            (Channel::Guest(invite), Control::JoinRequest(request)) => {
                self.request(peer, invite, request, roster, now).map(Some)
            }
            (Channel::Device(wg), Control::JoinProve(prove)) => {
                self.prove(peer, wg, prove, (roster, logs))
            }
            _ => return,
        };
        match answer {
            Ok(message) => self.outbox.extend(message.map(|message| (peer, message))),
            Err(reason) => {
                let refused = Control::JoinRefused(JoinRefused { reason });
                self.outbox.push_back((peer, refused));
            }
        }
    }

    /// The Grant of `id` is on disk and in `roster` and `logs`: tells the device, with the ops it
    /// needs to see so itself. The owner sends the network's secret after this.
    pub fn granted(&mut self, id: &DeviceId, roster: &Roster, logs: &Logs) {
        let Some(candidate) = self.candidates.remove(id) else { return };
        let invite = candidate.claim.invite;
        if let Some(peer) = candidate.pending {
            self.tell_granted(peer, &JoinProve { invite, id: *id, have: 0 }, roster, logs);
        }
    }

    /// The Grant of `id` could not be written: the device is told, and may try again.
    pub fn failed(&mut self, id: &DeviceId) {
        let Some(candidate) = self.candidates.get_mut(id) else { return };
        if let Some(peer) = candidate.pending.take() {
            let refused = JoinRefused { reason: Refusal::Failed };
            self.outbox.push_back((peer, Control::JoinRefused(refused)));
        }
    }

    /// The next message to send.
    pub fn poll_transmit(&mut self) -> Option<(PeerKey, Control)> {
        self.outbox.pop_front()
    }

    /// The next thing for the owner to do.
    pub fn poll_event(&mut self) -> Option<SponsorEvent> {
        self.events.pop_front()
    }

    /// When [`Sponsor::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let waiting = self.candidates.values().filter(|candidate| candidate.pending.is_none());
        waiting.map(|candidate| (candidate.until, "join: handshake of a candidate")).min()
    }

    /// Forgets candidates that did not come.
    pub fn handle_timeout(&mut self, now: Instant) {
        let events = &mut self.events;
        self.candidates.retain(|_, candidate| {
            let keep = candidate.pending.is_some() || candidate.until > now;
            if !keep {
                events.push_back(SponsorEvent::Forget(candidate.claim.wg));
            }
            keep
        });
    }

    /// Shows the network, whatever became of the invite: refusals follow the proof of who refuses.
    fn hello(
        &mut self,
        peer: PeerKey,
        invite: InviteId,
        hello: &JoinHello,
        (roster, logs): (&Roster, &Logs),
    ) -> Result<Option<Control>, Refusal> {
        if hello.invite != invite {
            return Err(Refusal::Unknown);
        }
        let parts = offer::make(&self.me.genesis, &self.me.device, roster, logs)
            .ok_or(Refusal::CannotAdmit)?;
        let nonce = self.nonce(peer, &hello.nonce);
        self.outbox.extend(parts.into_iter().map(|mut part| {
            part.guest_nonce = hello.nonce;
            part.nonce = nonce;
            (peer, Control::JoinOffer(part))
        }));
        Ok(None)
    }

    fn request(
        &mut self,
        peer: PeerKey,
        invite: InviteId,
        request: &JoinRequest,
        roster: &Roster,
        now: Instant,
    ) -> Result<Control, Refusal> {
        let claim = &request.claim;
        let open = self.invites.get(&invite).ok_or(Refusal::Unknown)?;
        let scene = JoinScene {
            sponsor: self.me.wg,
            guest_nonce: request.guest_nonce,
            sponsor_nonce: self.nonce(peer, &request.guest_nonce),
        };
        let bound = claim.id.verify(BIND, &self.me.network, &claim.wg.0, &claim.bind_sig);
        if claim.invite != invite
            || !request.verify(&scene, &self.me.network, &open.ik)
            || !bound
            || !claim.wg.is_usable()
            || claim.admin.is_some() != open.admin
        {
            return Err(Refusal::BadRequest);
        }
        let accepted = Control::JoinAccepted(JoinAccepted { id: claim.id });
        if self.is_in(claim, roster) {
            return Ok(accepted);
        }
        self.may_admit(&invite, roster)?;
        keys_are_new(claim, &self.me, roster)?;
        // Handshakes are told apart by their key: a claim of a guest's key, which needs no secret,
        // would take the invite's holder the way in.
        if self.invites.values().any(|open| open.gk == claim.wg) {
            return Err(Refusal::KeyInUse);
        }
        self.expect(peer, claim, now)?;
        Ok(accepted)
    }

    /// Answers handshakes of the claim's key for a while.
    fn expect(&mut self, guest: PeerKey, claim: &JoinClaim, now: Instant) -> Result<(), Refusal> {
        let until = now + CANDIDATE_TIME;
        if let Some(candidate) = self.candidates.get_mut(&claim.id) {
            if candidate.claim.wg != claim.wg || candidate.claim.invite != claim.invite {
                return Err(Refusal::KeyInUse);
            }
            candidate.until = until;
            candidate.claim = claim.clone();
        } else {
            let twin = self.candidates.values().any(|candidate| candidate.claim.wg == claim.wg);
            let rivals = self.rivals(&claim.invite).count();
            if twin || rivals >= CANDIDATES_AN_INVITE || self.candidates.len() >= CANDIDATES {
                return Err(Refusal::Busy);
            }
            let candidate = Candidate { claim: claim.clone(), until, pending: None };
            self.candidates.insert(claim.id, candidate);
        }
        self.events.push_back(SponsorEvent::Candidate { guest, wg: claim.wg });
        Ok(())
    }

    fn prove(
        &mut self,
        peer: PeerKey,
        wg: WgPublicKey,
        prove: &JoinProve,
        (roster, logs): (&Roster, &Logs),
    ) -> Result<Option<Control>, Refusal> {
        if roster.get(&prove.id).is_some_and(|member| member.wg == wg) {
            self.tell_granted(peer, prove, roster, logs);
            return Ok(None);
        }
        self.may_admit(&prove.invite, roster)?;
        let busy = self
            .rivals(&prove.invite)
            .any(|rival| rival.claim.id != prove.id && rival.pending.is_some());
        let candidate = self.candidates.get_mut(&prove.id).ok_or(Refusal::Unknown)?;
        let claim = &candidate.claim;
        if claim.wg != wg || claim.invite != prove.invite {
            return Err(Refusal::BadRequest);
        }
        if busy {
            return Err(Refusal::Busy);
        }
        keys_are_new(claim, &self.me, roster)?;
        if candidate.pending.replace(peer).is_none() {
            let named = self.invites.get(&prove.invite).and_then(|open| open.name.clone());
            let wanted = named.as_ref().unwrap_or(&claim.name);
            self.events.push_back(SponsorEvent::Admit(Box::new(Admission {
                peer,
                invite: claim.invite,
                id: claim.id,
                wg,
                admin: claim.admin,
                name: unique_name(roster, wanted, &claim.id),
                bind_sig: claim.bind_sig,
            })));
        }
        Ok(None)
    }

    /// Whether this device may admit one more with the invite.
    fn may_admit(&self, invite: &InviteId, roster: &Roster) -> Result<(), Refusal> {
        match roster.invite(invite) {
            InviteState::Open(_) => {}
            InviteState::Used(_) | InviteState::Reused(_) => return Err(Refusal::Used),
            InviteState::Closed => return Err(Refusal::Closed),
            InviteState::Expired => return Err(Refusal::Expired),
            InviteState::Unknown => return Err(Refusal::Unknown),
        }
        match self.me.admin {
            Some(admin) if roster.is_admin(&admin) && roster.has_room() => Ok(()),
            Some(admin) if roster.is_admin(&admin) => Err(Refusal::Failed),
            Some(_) | None => Err(Refusal::CannotAdmit),
        }
    }

    /// Whether the device is in already: its answer was lost.
    fn is_in(&self, claim: &JoinClaim, roster: &Roster) -> bool {
        roster
            .get(&claim.id)
            .is_some_and(|member| member.wg == claim.wg && member.invite == Some(claim.invite))
    }

    fn rivals(&self, invite: &InviteId) -> impl Iterator<Item = &Candidate> {
        self.candidates.values().filter(move |candidate| candidate.claim.invite == *invite)
    }

    /// Says so, with the next ops that fit one answer.
    fn tell_granted(&mut self, peer: PeerKey, prove: &JoinProve, roster: &Roster, logs: &Logs) {
        let Some(member) = roster.get(&prove.id) else { return };
        let granted = JoinGranted { id: prove.id, grant: member.grant };
        self.outbox.push_back((peer, Control::JoinGranted(granted)));
        let author = logs.get(member.grant).map(|op| op.op().author);
        let rank = |of: &Author| (!matches!(of, Author::Root(_)), Some(*of) != author);
        let mut authors: Vec<Author> = logs.heads().iter().map(|head| head.author).collect();
        authors.sort_by_key(rank);
        let ops = authors.iter().flat_map(|author| logs.after(*author, 1));
        let messages = serve::excerpt(ops, prove.have);
        self.outbox.extend(messages.into_iter().map(|ops| (peer, Control::Ops(ops))));
    }

    /// This device's nonce towards a guest: fresh with the guest's nonce, the tunnel and the start.
    fn nonce(&self, peer: PeerKey, guest: &Nonce) -> Nonce {
        let context = [peer.0.to_be_bytes().as_slice(), guest].concat();
        let mut nonce = Nonce::default();
        nonce.copy_from_slice(&kdf(&self.secret, "join nonce", &context)[..16]);
        nonce
    }
}

/// A `Grant` for a key that another device has would put both out (R7); a key that was removed
/// never comes back.
fn keys_are_new(claim: &JoinClaim, me: &SponsorIdentity, roster: &Roster) -> Result<(), Refusal> {
    let wg_taken = claim.wg == me.wg || roster.by_wg(&claim.wg).is_some();
    let admin_taken = claim.admin.is_some_and(|admin| roster.is_admin(&admin));
    if wg_taken || admin_taken || roster.standing(&claim.id) != Standing::Unknown {
        return Err(Refusal::KeyInUse);
    }
    Ok(())
}
