//! Joining, from both sides: what the [join machines](super::join) want done with tunnels, ops and
//! files.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::event::{Output, Persist, RequestId};
use super::join::{Admission, Channel, Guest, JoinerEvent, Shown, SponsorEvent, unique_name};
use super::peer::Who;
use super::tags::Caller;
use super::writes::{Act, Then};
use super::*;
use crate::api::{ErrorKind, JoinStage, Joined, Response, SCHEMA, Stage};
use crate::forward::{Carries, PeerSlot};
use crate::identity::{DeviceId, WgPublicKey};
use crate::membership::invite::InviteId;
use crate::membership::{Logs, OpBody};
use crate::wire::control::{Control, Secret};
use crate::wire::record::Rendezvous;

/// For how long after it was opened an invite's device is looked for every few seconds.
const FRESH_INVITE: u64 = 600;

/// The admin that opened an invite has the first of its four seats; others come with member
/// sponsors.
const ADMIN_SEAT: u8 = 0;

impl Mesh {
    /// The keys are safe: looks for sponsors at the hints, on the local network and in the DHT.
    pub(super) fn start_joining(&mut self, now: Instant) {
        self.roll_tags(now);
        if self.settings.port_mapping {
            self.outputs.push_back(Output::MapPort);
        }
        let Joins::Joiner(joiner) = &self.joins else { return };
        let (hints, keys) = (joiner.invite().hints.clone(), joiner.invite().keys());
        let rv = Rendezvous::new(*keys.rv);
        self.directory.seek_sponsors(keys.id, &rv, now);
        self.publisher.arrive(keys.id, &rv, now);
        self.beacons.join(keys.id, &rv, now);
        self.beacons.set_searching(true, now);
        for hint in hints {
            self.meet_sponsor(hint.wg, &[hint.address], now);
        }
    }

    /// A sponsor may be at these addresses.
    pub(super) fn meet_sponsor(&mut self, wg: WgPublicKey, at: &[SocketAddr], now: Instant) {
        let Joins::Joiner(joiner) = &mut self.joins else { return };
        if !joiner.wants_sponsor(&wg) {
            return;
        }
        joiner.reaching();
        let caller = Caller { who: Who::Sponsor, remote: wg };
        self.allow(caller);
        if let Some(peer) = self.bring(caller, now).and_then(|key| self.peers.touch(key)) {
            at.iter().for_each(|address| peer.path.add_remote(*address, now));
        }
    }

    /// A joiner with this guest key may be at these addresses.
    pub(super) fn meet_guest(&mut self, caller: Caller, at: &[SocketAddr], now: Instant) {
        if let Some(peer) = self.bring(caller, now).and_then(|key| self.peers.touch(key)) {
            at.iter().for_each(|address| peer.path.add_remote(*address, now));
        }
    }

    /// A tunnel to a sponsor stands.
    pub(super) fn sponsor_connected(&mut self, key: PeerKey, now: Instant) {
        let Some(peer) = self.peers.get(key) else { return };
        let (who, remote) = (peer.who, peer.remote);
        let guest = self.peers.of(&Who::Sponsor).find(|peer| peer.remote == remote);
        let guest = guest.map(|peer| peer.key);
        let Joins::Joiner(joiner) = &mut self.joins else { return };
        match (who, guest) {
            (Who::Sponsor, _) => joiner.connected(key, remote, now),
            (Who::Admitter, Some(guest)) => joiner.switched(guest, key, now),
            _ => {}
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
        if self.act(OpBody::Grant(Box::new(certificate)), then, now).is_err() {
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
        self.tell_secret(peer, now);
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
    fn promote(&mut self, key: PeerKey, device: DeviceId, now: Instant) {
        let Some(member) = self.ledger.roster().get(&device) else { return };
        let allowed = super::sessions::allowed_sources(member);
        let others: Vec<_> = self.peers.of(&Who::Member(device)).map(|peer| peer.key).collect();
        others.into_iter().for_each(|key| self.drop_peer(key, now));
        let Some(mut peer) = self.peers.remove(key) else { return };
        self.tags.remove(&Caller { who: peer.who, remote: peer.remote });
        peer.slot = Arc::new(PeerSlot::succeeding(&peer.slot, allowed, Carries::Everything));
        peer.who = Who::Member(device);
        self.peers.insert(peer);
        self.allow(Caller { who: Who::Member(device), remote: member_key(self, &device) });
    }

    fn handle_joiner_event(&mut self, event: JoinerEvent, now: Instant) {
        match event {
            JoinerEvent::Stage(stage, detail) => self.tell_stage(stage, &detail, now),
            JoinerEvent::Verified(shown) => self.network_shown(*shown, now),
            JoinerEvent::Switch { guest, sponsor } => {
                let caller = Caller { who: Who::Admitter, remote: sponsor };
                self.allow(caller);
                let at = self.peers.get(guest).and_then(|peer| peer.slot.endpoint());
                self.meet_guest(caller, at.as_slice(), now);
            }
            JoinerEvent::Granted { .. } => {}
            JoinerEvent::Ops(ops) => {
                self.take_ops(ops, None, now);
                self.check_admitted();
            }
            JoinerEvent::Secret(secret) => {
                self.learn_secret(secret, now);
                self.check_admitted();
            }
            JoinerEvent::Abandon(guest) => {
                let remote = self.peers.get(guest).map(|peer| peer.remote);
                if let Some(remote) = remote {
                    self.forbid(&Caller { who: Who::Sponsor, remote }, now);
                    self.forbid(&Caller { who: Who::Admitter, remote }, now);
                }
            }
            JoinerEvent::Failed(error) => self.join_failed(error, now),
        }
    }

    /// The sponsor proved the network: from here on there is a ledger.
    fn network_shown(&mut self, shown: Shown, now: Instant) {
        if self.ledger.genesis().is_some() {
            return;
        }
        let mut logs = Logs::new(shown.genesis.root);
        for op in shown.ops {
            // A log that holds nothing yet has room.
            let _ = logs.insert(op);
        }
        let unix = self.unix(now);
        self.ledger = Ledger::new(shown.genesis, logs, unix);
        self.check_admitted();
    }

    /// Whether the roster has this device and it knows K_net by now: then everything is written,
    /// and it is a member. A member without K_net could be found by nobody.
    fn check_admitted(&mut self) {
        if self.me.secret.is_none() {
            return;
        }
        let roster = self.ledger.roster();
        let Joins::Joiner(joiner) = &mut self.joins else { return };
        let before = joiner.stage();
        joiner.roster_changed(roster);
        if joiner.stage() < Stage::Admitted || before >= Stage::Admitted {
            return;
        }
        let Some(genesis) = self.ledger.genesis() else { return };
        let ops = self.ledger.logs().iter().map(|op| op.signed().encode()).collect();
        let files = vec![
            Persist::Genesis(genesis.encode()),
            Persist::Ops(ops),
            self.secrets(),
            self.intent_of(None),
        ];
        let ticket = self.writes.wait(Act { ops: Vec::new(), then: Then::Joined });
        self.outputs.push_back(Output::Persist(files, Some(ticket)));
    }

    /// This device is a member, for good: its sponsor is a peer like others.
    pub(super) fn joined(&mut self, now: Instant) {
        let sponsor = self.sponsor();
        let Joins::Joiner(mut joiner) = std::mem::replace(&mut self.joins, sponsor) else { return };
        joiner.up();
        while let Some(event) = joiner.poll_event() {
            if let JoinerEvent::Stage(stage, detail) = event {
                self.tell_stage(stage, &detail, now);
            }
        }
        self.gossip = self.new_gossip();
        self.stop_seeking(&joiner.invite().keys().id, now);
        let admitters: Vec<_> =
            self.peers.of(&Who::Admitter).map(|peer| (peer.key, peer.remote)).collect();
        for (key, remote) in admitters {
            let member = self.ledger.roster().by_wg(&remote).map(|member| member.id);
            match member {
                Some(device) => self.promote(key, device, now),
                None => self.drop_peer(key, now),
            }
        }
        let sponsors: Vec<_> = self.peers.of(&Who::Sponsor).map(|peer| peer.remote).collect();
        for remote in sponsors {
            self.forbid(&Caller { who: Who::Sponsor, remote }, now);
        }
        self.begin(&[], now);
        for peer in self.peers.iter().filter_map(|p| p.device().map(|_| p.key)).collect::<Vec<_>>()
        {
            self.say_hello(peer, now);
        }
        let me = self.self_status();
        for (request, since) in std::mem::take(&mut self.clients.joining) {
            let joined = Joined {
                schema: SCHEMA,
                stage: Stage::Up,
                network: self.name().unwrap_or_default().to_owned(),
                name: me.name.clone(),
                ipv4: me.ipv4,
                ipv6: me.ipv6,
                elapsed_ms: millis(now.saturating_duration_since(since)),
            };
            self.reply(request, Response::Joined(joined));
        }
    }

    fn tell_stage(&mut self, stage: Stage, detail: &str, now: Instant) {
        for (request, since) in self.clients.joining.clone() {
            let elapsed_ms = millis(now.saturating_duration_since(since));
            let stage = JoinStage { schema: SCHEMA, stage, detail: detail.to_owned(), elapsed_ms };
            self.reply(request, Response::JoinStage(stage));
        }
    }

    /// A client waits for this join.
    pub(super) fn attach_join(
        &mut self,
        request: RequestId,
        timeout: Duration,
        now: Instant,
    ) -> Option<Response> {
        if let Joins::Sponsor(_) = &self.joins {
            let text = match self.name() {
                Some(name) => format!("this device is in the network {name:?} already"),
                None => "this device is in that network already".to_owned(),
            };
            return Some(Response::error(ErrorKind::Failed, text));
        }
        self.clients.joining.push((request, now));
        self.tell_stage(Stage::Searching, "looking for a device of the network", now);
        if let Joins::Joiner(joiner) = &self.joins
            && joiner.is_over()
        {
            let invite = joiner.invite().clone();
            self.become_joiner(invite, timeout, now);
            self.start_joining(now);
        }
        None
    }

    /// It did not work. The keys are kept where the network may know them by now, so that the next
    /// try is the same device; otherwise nothing is left behind.
    fn join_failed(&mut self, error: api::Error, now: Instant) {
        let Joins::Joiner(joiner) = &self.joins else { return };
        let invite = joiner.invite().keys().id;
        let kept = joiner.stage() >= Stage::Requested && error.kind == ErrorKind::Unreachable;
        let keys: Vec<_> = self.peers.iter().map(|peer| peer.key).collect();
        keys.into_iter().for_each(|key| self.drop_peer(key, now));
        self.stop_seeking(&invite, now);
        for (request, _) in std::mem::take(&mut self.clients.joining) {
            self.reply(request, Response::Error(error.clone()));
        }
        if !kept {
            self.outputs.push_back(Output::UnmapPort);
            self.outputs.push_back(Output::Forget);
        }
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
            .callers()
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
            opened && op.op().time.0 + FRESH_INVITE > now.0
        })
    }

    fn stop_seeking(&mut self, invite: &InviteId, now: Instant) {
        self.directory.stop_seeking(invite, now);
        self.publisher.withdraw(invite, now);
        self.beacons.withdraw(invite, now);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn member_key(mesh: &Mesh, device: &DeviceId) -> WgPublicKey {
    mesh.ledger.roster().get(device).map_or(WgPublicKey([0; 32]), |member| member.wg)
}
