//! Joining as the device sees it that wants to be let in: what the
//! [joiner](super::join::Joiner) wants done with tunnels, ops and files.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::event::{Output, Persist, RequestId};
use super::join::{JoinerEvent, Shown};
use super::peer::Who;
use super::tags::Caller;
use super::writes::{Act, Then};
use super::*;
use crate::api::{ErrorKind, JoinStage, Joined, Response, SCHEMA, Stage};
use crate::identity::WgPublicKey;
use crate::membership::Logs;
use crate::wire::record::Rendezvous;

impl Mesh {
    /// The keys are safe: looks for sponsors at the hints, on the local network and in the DHT.
    pub(super) fn start_joining(&mut self, now: Instant) {
        self.roll_tags(now);
        if self.settings.port_mapping {
            self.outputs.push_back(Output::MapPort);
        }
        // Until somebody answers nothing but STUN shows our public address, and the Internet may come
        // back later than the first round of questions lasts.
        self.reach.set_demand(true, now);
        self.reach.set_enclosed(true, now);
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

    /// A tunnel to a sponsor is gone: the next one is asked, where there is one.
    pub(super) fn join_tunnel_lost(&mut self, key: PeerKey, now: Instant) {
        if let Joins::Joiner(joiner) = &mut self.joins {
            joiner.lost(key, now);
        }
    }

    pub(super) fn handle_joiner_event(&mut self, event: JoinerEvent, now: Instant) {
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
        self.ledger = Ledger::new(shown.genesis, logs);
        self.ledger.derive(unix);
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
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
