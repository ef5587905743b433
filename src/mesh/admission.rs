//! Joining as a sponsor sees it, and what both sides of a join share: what the
//! [join machines](super::join) want done with tunnels, ops and files.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::join::{Admission, Channel, Guest, SponsorEvent, unique_name};
use super::peer::Who;
use super::tags::Caller;
use super::writes::Then;
use super::*;
use crate::forward::{Carries, PeerSlot};
use crate::identity::DeviceId;
use crate::membership::OpBody;
use crate::membership::invite::InviteId;
use crate::wire::control::{Control, Secret};
use crate::wire::record::Rendezvous;

/// For how long after it was opened an invite's device is looked for every few seconds.
const FRESH_INVITE: u64 = 600;

/// The admin that opened an invite has the first of its four seats; others come with member
/// sponsors.
const ADMIN_SEAT: u8 = 0;

impl Mesh {
    /// A joiner with this guest key may be at these addresses.
    pub(super) fn meet_guest(&mut self, caller: Caller, at: &[SocketAddr], now: Instant) {
        if let Some(peer) = self.bring(caller, now).and_then(|key| self.peers.touch(key)) {
            at.iter().for_each(|address| peer.path.add_remote(*address, now));
        }
    }

    /// A message of somebody who joins, or of whom this device joins.
    pub(super) fn hear_joining(
        &mut self,
        key: PeerKey,
        message: &Control,
        now: Instant,
    ) -> Result<(), InputError> {
        let peer = self.peers.get(key).ok_or(InputError::Stranger)?;
        let channel = match peer.who {
            Who::Guest(invite) => Channel::Guest(invite),
            _ => Channel::Device(peer.remote),
        };
        if let (Who::Member(_), Control::JoinProve(_)) = (peer.who, message) {
            // It has not heard that it is one.
            self.tell_secret(key, now);
        }
        match &mut self.joins {
            Joins::Joiner(joiner) => joiner.handle(key, message, now),
            Joins::Sponsor(sponsor) => {
                let known = (self.ledger.roster(), self.ledger.logs());
                sponsor.handle((key, channel), message, known, now);
            }
        }
        Ok(())
    }

    pub(super) fn joins_due(&self) -> Option<(Instant, &'static str)> {
        match &self.joins {
            Joins::Joiner(joiner) => joiner.poll_timeout(),
            Joins::Sponsor(sponsor) => sponsor.poll_timeout(),
        }
    }

    pub(super) fn handle_joins_due(&mut self, now: Instant) {
        match &mut self.joins {
            Joins::Joiner(joiner) => joiner.handle_timeout(now),
            Joins::Sponsor(sponsor) => sponsor.handle_timeout(now),
        }
    }

    /// What the join machines queued.
    pub(super) fn settle_joins(&mut self, now: Instant) -> bool {
        let mut busy = false;
        loop {
            let transmit = match &mut self.joins {
                Joins::Joiner(joiner) => joiner.poll_transmit(),
                Joins::Sponsor(sponsor) => sponsor.poll_transmit(),
            };
            let Some((key, message)) = transmit else { break };
            self.tell(key, &message, now);
            busy = true;
        }
        while let Joins::Sponsor(sponsor) = &mut self.joins
            && let Some(event) = sponsor.poll_event()
        {
            self.handle_sponsor_event(event, now);
            busy = true;
        }
        while let Joins::Joiner(joiner) = &mut self.joins
            && let Some(event) = joiner.poll_event()
        {
            self.handle_joiner_event(event, now);
            busy = true;
        }
        busy
    }

    fn handle_sponsor_event(&mut self, event: SponsorEvent, now: Instant) {
        match event {
            SponsorEvent::Candidate { guest, wg } => {
                let caller = Caller { who: Who::Applicant, remote: wg };
                self.allow(caller);
                let at = self.peers.get(guest).and_then(|peer| peer.slot.endpoint());
                if let Some(at) = at {
                    self.meet_guest(caller, &[at], now);
                }
            }
            SponsorEvent::Forget(wg) => {
                self.forbid(&Caller { who: Who::Applicant, remote: wg }, now);
            }
            SponsorEvent::Admit(admission) => self.admit(&admission, now),
        }
    }

    /// Signs and writes the certificate of a device that proved everything.
    fn admit(&mut self, admission: &Admission, now: Instant) {
        let name = unique_name(self.ledger.roster(), &admission.name, &admission.id);
        let certificate = self.certificate(admission, name, now);
        let then = Then::Admitted { device: admission.id, peer: admission.peer };
        if let Err(refusal) = self.act(OpBody::Grant(Box::new(certificate)), then, now) {
            tracing::warn!(?refusal, "a device that proved everything is not admitted");
            self.admission_failed(&admission.id);
        }
    }

    pub(super) fn admission_failed(&mut self, device: &DeviceId) {
        if let Joins::Sponsor(sponsor) = &mut self.joins {
            sponsor.failed(device);
        }
    }

    /// The certificate is on disk and in the roster: the device is told, and is a member.
    pub(super) fn admitted(&mut self, device: DeviceId, peer: PeerKey, now: Instant) {
        if self.ledger.roster().get(&device).is_some() {
            // A certificate may count for nothing by now: its invite was used twice, or closed.
            self.tell_secret(peer, now);
        }
        let Joins::Sponsor(sponsor) = &mut self.joins else { return };
        sponsor.granted(&device, self.ledger.roster(), self.ledger.logs());
        while let Joins::Sponsor(sponsor) = &mut self.joins
            && let Some((key, message)) = sponsor.poll_transmit()
        {
            self.tell(key, &message, now);
        }
        self.promote(peer, device, now);
    }

    /// Tells a live member K_net.
    pub(super) fn tell_secret(&mut self, peer: PeerKey, now: Instant) {
        if let Some(secret) = &self.me.secret {
            let secret = Control::Secret(Secret::from(secret));
            self.tell(peer, &secret, now);
        }
    }

    /// The tunnel of a device under its own key becomes a member's: the same sessions and path,
    /// open to user data.
    pub(super) fn promote(&mut self, key: PeerKey, device: DeviceId, now: Instant) {
        let Some(member) = self.ledger.roster().get(&device) else { return };
        let allowed = super::peer::allowed_sources(member);
        let others: Vec<_> = self.peers.of(&Who::Member(device)).map(|peer| peer.key).collect();
        others.into_iter().for_each(|key| self.drop_peer(key, now));
        let Some(mut peer) = self.peers.remove(key) else { return };
        self.tags.remove(&Caller { who: peer.who, remote: peer.remote });
        // After a start nobody's user data flows before heads were compared, not a newcomer's either.
        let carries = if self.me.holding { Carries::ControlOnly } else { Carries::Everything };
        peer.slot = Arc::new(PeerSlot::succeeding(&peer.slot, allowed, carries));
        peer.who = Who::Member(device);
        peer.bind_tunnel();
        // In use already: its next check is not to be sought among all.
        let _ = self.tags.key(&Caller { who: peer.who, remote: peer.remote });
        self.peers.insert(peer);
    }

    /// The invites that may admit a device decide which guest keys are answered.
    pub(super) fn sync_invites(&mut self, now: Instant) {
        let unix = self.unix(now);
        let Joins::Sponsor(sponsor) = &mut self.joins else { return };
        if self.me.identity.admin.is_none() {
            return;
        }
        sponsor.refresh(self.ledger.roster(), self.ledger.logs(), unix);
        let guests: Vec<_> = sponsor.guests(self.ledger.roster()).collect();
        let callers: Vec<_> = guests
            .iter()
            .map(|guest| Caller { who: Who::Guest(guest.invite), remote: guest.gk })
            .collect();
        let stale: Vec<_> = self
            .tags
            .guests()
            .filter(|caller| matches!(caller.who, Who::Guest(_)) && !callers.contains(caller))
            .copied()
            .collect();
        stale.iter().for_each(|caller| self.forbid(caller, now));
        callers.into_iter().for_each(|caller| self.allow(caller));
        self.meet_at_invites(&guests, now);
    }

    /// Where an invite's device and its sponsors find each other: kept for as long as it is open.
    fn meet_at_invites(&mut self, guests: &[Guest], now: Instant) {
        let open: BTreeSet<_> =
            guests.iter().filter(|guest| guest.open).map(|guest| guest.invite).collect();
        let over: Vec<_> = self.meeting.difference(&open).copied().collect();
        for invite in over {
            self.stop_seeking(&invite, now);
        }
        let wg = self.me.identity.wg.public();
        let unix = self.unix(now);
        for guest in
            guests.iter().filter(|guest| guest.open && !self.meeting.contains(&guest.invite))
        {
            let rv = Rendezvous::new(guest.rv);
            // After a restart an invite is only fresh if it could have been made just now.
            let fresh = self.is_fresh(&guest.invite, unix);
            self.directory.seek_joiner(guest.invite, &rv, fresh, now);
            self.publisher.host(guest.invite, &rv, ADMIN_SEAT, wg, now);
            self.beacons.host(guest.invite, &rv, wg, now);
        }
        self.meeting = open;
    }

    /// Whether the invite was opened within the time in which a joiner is likely at the door.
    fn is_fresh(&self, invite: &InviteId, now: UnixTime) -> bool {
        self.ledger.logs().iter().any(|op| {
            let opened =
                matches!(&op.op().body, OpBody::InviteOpen(open) if open.invite == *invite);
            opened && op.op().time.0.saturating_add(FRESH_INVITE) > now.0
        })
    }

    pub(super) fn stop_seeking(&mut self, invite: &InviteId, now: Instant) {
        self.directory.stop_seeking(invite, now);
        self.publisher.withdraw(invite, now);
        self.beacons.withdraw(invite, now);
    }
}
