//! Tunnels to peers: who gets one, how its session is made, and what waits for it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::RngExt;

use super::directory::Source;
use super::event::{Output, Transmit};
use super::greeting::Greeting;
use super::path::{Demand, PathAgent, PathEvent};
use super::peer::{Need, Peer, Purpose, Who, allowed_sources};
use super::tags::Caller;
use super::upkeep::WARM_EVERY;
use super::*;
use crate::forward::tunnel::{HandshakeOutcome, Initiation, TunnelError};
use crate::forward::{Carries, PeerSlot, SlotIndex, Tunnel, Upcall};
use crate::identity::{DeviceId, WgSecret};
use crate::wire::classify::receiver_index;

/// The side that does not lead waits this long for the other's handshake before it starts its own:
/// several round trips of a slow path, and still unnoticed by a user.
pub(super) const FOLLOW_AFTER: Duration = Duration::from_millis(500);

/// How long a peer that somebody asked for is kept without a sign of use.
pub(super) const WANTED_FOR: Duration = Duration::from_secs(60);

/// The WireGuard message type of an initiation.
const INITIATION: u8 = 1;

impl Mesh {
    pub(super) fn handle_upcall(&mut self, upcall: Upcall, now: Instant) -> Result<(), InputError> {
        match upcall {
            Upcall::Datagram { from, bytes } => self.handle_stun(from, &bytes, now),
            Upcall::Handshake { from, bytes } => self.handle_handshake(from, &bytes, now),
            Upcall::Control { slot, bytes } => self.handle_control(PeerKey(slot.0), &bytes, now),
            Upcall::NoSession { destination, packet } => {
                self.handle_no_session(destination, packet, now)
            }
            Upcall::Awake { slot } => {
                self.handle_tunnel_timeout(PeerKey(slot.0), now);
                // User data began after a pause: its path is watched closely from now on.
                self.handle_peer_due(PeerKey(slot.0), now);
                Ok(())
            }
            Upcall::Roamed { slot, from } => {
                self.handle_roamed(PeerKey(slot.0), from, now);
                Ok(())
            }
        }
    }

    /// A WireGuard handshake message of which the MACs verified.
    fn handle_handshake(
        &mut self,
        from: SocketAddr,
        bytes: &[u8],
        now: Instant,
    ) -> Result<(), InputError> {
        let mut answers = Vec::new();
        let (key, new, outcome) = if bytes.first() == Some(&INITIATION) {
            let initiation = Initiation::read(&self.me.identity.wg, bytes);
            let initiation = initiation.ok_or(InputError::NotAuthentic)?;
            let remote = initiation.names();
            let caller = self.caller(&remote).ok_or(InputError::Stranger)?;
            let known = self.peers.of(&caller.who).any(|peer| peer.remote == remote);
            let key = self.bring(caller, now).ok_or(InputError::TooMany)?;
            let peer = self.peers.touch(key).ok_or(InputError::Stranger)?;
            let mut tunnel = peer.slot.tunnel.lock();
            (key, !known, tunnel.handle_initiation(initiation, &mut answers, now))
        } else {
            let index = receiver_index(bytes).ok_or(InputError::Malformed)?;
            let key = PeerKey(SlotIndex::of_receiver(index).0);
            let peer = self.peers.touch(key).ok_or(InputError::Stranger)?;
            let mut tunnel = peer.slot.tunnel.lock();
            (key, false, tunnel.handle_handshake(bytes, &mut answers, now))
        };
        let Some(peer) = self.peers.touch(key) else { return Ok(()) };
        if outcome == Err(TunnelError::Replayed) && peer.may_call() {
            // Perhaps its clock was set back: then it is we who can begin.
            peer.call_at(now);
            self.next_look(key, now);
        }
        let Some(peer) = self.peers.touch(key) else { return Ok(()) };
        let endpoint = peer.slot.endpoint().filter(|endpoint| *endpoint != from);
        if let (Ok(HandshakeOutcome::Established), Some(endpoint)) = (&outcome, endpoint) {
            // The answer may have come by way of somebody who only passed it on.
            let confirmation = peer.slot.tunnel.lock().seal_to_vec(&[], now);
            self.transmit_all(endpoint, confirmation.into_iter().collect());
        }
        self.transmit_all(from, answers);
        if outcome.is_err() && new {
            // Whoever knows both public keys, as a removed device does, can name a member in an
            // initiation; only the member can make the rest of it. A name alone brings nobody into
            // use.
            self.drop_peer(key, now);
        }
        match outcome.map_err(|_| InputError::NotAuthentic)? {
            HandshakeOutcome::Established => self.session_stands(key, now),
            // Who looks for it goes on: whoever recorded the initiation can have sent it again, from
            // anywhere. That it is there shows when its first message comes through the tunnel.
            HandshakeOutcome::Responded
            | HandshakeOutcome::PassedOver
            | HandshakeOutcome::CookieStored => {}
        }
        Ok(())
    }

    /// A packet for a member to which there is no session.
    fn handle_no_session(
        &mut self,
        destination: IpAddr,
        packet: Vec<u8>,
        now: Instant,
    ) -> Result<(), InputError> {
        let roster = self.ledger.roster();
        let device = roster.by_address(destination).ok_or(InputError::Stranger)?.id;
        let key = self.bring_member(&device, Purpose::User, now).ok_or(InputError::TooMany)?;
        let peer = self.peers.touch(key).ok_or(InputError::Stranger)?;
        peer.hold(packet, now);
        peer.wanted_until = now + WANTED_FOR;
        if peer.is_connected() {
            self.send_waiting(key, now);
        } else if peer.may_call() {
            self.handle_peer_due(key, now);
        } else {
            self.seek_introduction(key, None, now);
            self.next_look(key, now + WARM_EVERY);
        }
        Ok(())
    }

    /// The peer of `caller`, taken into use where it is not. `None` where there are too many.
    pub(super) fn bring(&mut self, caller: Caller, now: Instant) -> Option<PeerKey> {
        if let Some(peer) = self.peers.of(&caller.who).find(|peer| peer.remote == caller.remote) {
            return Some(peer.key);
        }
        let index = match self.peers.free_number() {
            Some(index) => index,
            None => {
                self.make_room(now)?;
                self.peers.free_number()?
            }
        };
        let local = self.local_secret(caller.who)?;
        if !self.may_call(&caller) {
            return None;
        }
        let check = self.tags.key(&caller)?.clone();
        let tunnel = Tunnel::new(&local, &caller.remote, index)?;
        let leads = check.is_lower();
        let slot = self.slot(index, caller.who, tunnel, now);
        let path = {
            let unix = self.unix(now).0;
            PathAgent::new(check, self.rng.random(), self.surroundings(), unix, now)
        };
        let mut peer = Peer::new(Arc::new(slot), caller.who, caller.remote, path);
        peer.bind_tunnel();
        peer.leads = leads || matches!(caller.who, Who::Sponsor | Who::Admitter);
        peer.wanted_until = now + WANTED_FOR;
        peer.path.set_demand(Demand::Warm, now);
        if let Who::Member(device) = caller.who {
            peer.path.set_remotes(&self.directory.endpoints(&device, now), now);
        }
        let key = peer.key;
        self.peers.insert(peer);
        self.deadlines.set(Timer::Peer(key), Some((now, "a peer came into use")));
        Some(key)
    }

    /// Lets the peer go that has been looked for in vain the longest. Who can be reached is so in a
    /// second or two; what fills every place for longer is a hostile member naming devices that
    /// are off, or a local program that talks to every address there is.
    fn make_room(&mut self, now: Instant) -> Option<()> {
        let idle = |peer: &&Peer| !peer.neighbour && !peer.slot.tunnel.lock().has_session();
        let oldest = self.peers.iter().filter(idle).min_by_key(|peer| (peer.born, peer.key))?.key;
        self.drop_peer(oldest, now);
        Some(())
    }

    /// A slot for `who`: members carry user data from their own addresses, all others control.
    fn slot(&self, index: SlotIndex, who: Who, tunnel: Tunnel, now: Instant) -> PeerSlot {
        let member = match who {
            Who::Member(device) => self.ledger.roster().get(&device),
            Who::Guest(_) | Who::Applicant | Who::Sponsor | Who::Admitter | Who::Removed(_) => None,
        };
        let open = member.is_some() && !self.me.holding;
        let carries = if open { Carries::Everything } else { Carries::ControlOnly };
        let allowed = member.map(allowed_sources).unwrap_or_default();
        PeerSlot::new(index, tunnel, allowed, carries, now)
    }

    /// The static secret that this device uses towards `who`.
    fn local_secret(&self, who: Who) -> Option<WgSecret> {
        match (who, &self.joins) {
            (Who::Sponsor, Joins::Joiner(joiner)) => Some(joiner.guest_secret().clone()),
            (Who::Sponsor, Joins::Sponsor(_)) => None,
            _ => Some(self.me.identity.wg.clone()),
        }
    }

    /// Takes a peer out of use.
    pub(super) fn drop_peer(&mut self, key: PeerKey, now: Instant) {
        let Some(peer) = self.peers.remove(key) else { return };
        for timer in [Timer::Path(key), Timer::Tunnel(key), Timer::Peer(key)] {
            self.deadlines.set(timer, None);
        }
        if let Some(device) = peer.device() {
            self.gossip.peer_down(&device, self.ledger.logs(), now);
            self.directory.unwant(&device, now);
        }
        self.join_tunnel_lost(key, now);
        self.connections_changed(now);
    }

    /// What a peer's path agent wants done.
    pub(super) fn drain_path(&mut self, key: PeerKey, now: Instant) {
        while let Some(peer) = self.peers.get_mut(key) {
            if let Some(transmit) = peer.path.poll_transmit() {
                self.peers.note_check(&transmit.payload, key);
                self.expect_answer(&transmit.payload);
                self.outputs.push_back(Output::Transmit(transmit));
            } else if let Some(event) = peer.path.poll_event() {
                self.handle_path_event(key, event, now);
            } else {
                break;
            }
        }
        let Some(peer) = self.peers.get(key) else { return };
        self.deadlines.set(Timer::Path(key), peer.path.poll_timeout());
        let tunnel = peer.slot.tunnel.lock().poll_timeout();
        self.deadlines.set(Timer::Tunnel(key), tunnel);
    }

    fn handle_path_event(&mut self, key: PeerKey, event: PathEvent, now: Instant) {
        match event {
            PathEvent::Validated(path) | PathEvent::PrimaryChanged(path) => {
                let Some(peer) = self.peers.touch(key) else { return };
                peer.slot.set_endpoint(Some(path.endpoint));
                let after = if peer.leads { Duration::ZERO } else { FOLLOW_AFTER };
                let device = peer.device();
                let needed = peer.initiates() && !peer.slot.tunnel.lock().has_session();
                let greets = device.is_some() && !needed && !peer.greeting.is_proven();
                if needed && peer.handshake_at.is_none() {
                    peer.call_at(now + after);
                    self.next_look(key, now + after);
                }
                if let Some(device) = device {
                    self.directory.accept(device, &[path.endpoint], Source::Gossip, now);
                }
                if greets {
                    // The sessions outlived the path; the acquaintance did not.
                    self.say_hello(key, now);
                }
                self.connections_changed(now);
            }
            PathEvent::Lost => {
                let Some(peer) = self.peers.touch(key) else { return };
                peer.slot.set_endpoint(None);
                peer.greeting = Greeting::default();
                peer.asking.begin_anew(now);
                let device = peer.device();
                let needed = peer.need(now) > Need::None;
                if needed {
                    // Members introduce it before the DHT would be asked.
                    self.deadlines.set(Timer::Peer(key), Some((now, "a path was lost")));
                }
                if let Some(device) = device {
                    self.gossip.peer_down(&device, self.ledger.logs(), now);
                    if needed {
                        self.directory.want(device, now);
                    }
                }
                self.reach.suspect(now);
                self.join_tunnel_lost(key, now);
                self.connections_changed(now);
            }
            PathEvent::Sized(size) => {
                if let Some(peer) = self.peers.get(key) {
                    peer.slot.set_limit(size.limit());
                }
            }
            PathEvent::Observed(address) => {
                if let Some(device) = self.peers.get(key).and_then(Peer::device) {
                    self.reach.note_observed(device, address, now);
                }
            }
        }
    }

    /// Starts a handshake on the path that answered, where one is needed.
    pub(super) fn shake_hands(&mut self, key: PeerKey, now: Instant) {
        let Some(peer) = self.peers.touch(key) else { return };
        let Some(endpoint) = peer.path.primary().map(|path| path.endpoint) else {
            peer.handshake_at = None;
            return;
        };
        let mut tunnel = peer.slot.tunnel.lock();
        if tunnel.has_session() {
            peer.handshake_at = None;
            return;
        }
        let payload = tunnel.initiate(now);
        drop(tunnel);
        peer.note_called(now);
        self.outputs.push_back(Output::Transmit(Transmit::new(endpoint, payload)));
    }

    /// A tunnel's timers are due.
    pub(super) fn handle_tunnel_timeout(&mut self, key: PeerKey, now: Instant) {
        let Some(peer) = self.peers.touch(key) else { return };
        let mut datagrams = Vec::new();
        peer.slot.tunnel.lock().handle_timeout(&mut datagrams, now);
        if let Some(endpoint) = peer.slot.endpoint() {
            self.transmit_all(endpoint, datagrams);
        }
    }

    /// A session was made: whoever waits for it goes on.
    pub(super) fn session_stands(&mut self, key: PeerKey, now: Instant) {
        let Some(peer) = self.peers.touch(key) else { return };
        peer.handshake_at = None;
        match peer.who {
            // New keys for an old acquaintance need no introduction; who forgot us says `Hello`.
            Who::Member(_) if !peer.greeting.is_proven() => self.say_hello(key, now),
            Who::Member(_) => {}
            Who::Sponsor | Who::Admitter => self.sponsor_connected(key, now),
            Who::Guest(_) | Who::Applicant | Who::Removed(_) => {}
        }
        self.look_no_more(key, now);
        self.send_waiting(key, now);
        self.connections_changed(now);
    }

    /// Sends the packets that waited for a session.
    pub(super) fn send_waiting(&mut self, key: PeerKey, now: Instant) {
        if self.me.holding {
            return;
        }
        let Some(peer) = self.peers.touch(key) else { return };
        let Some(endpoint) = peer.slot.endpoint() else { return };
        let packets: Vec<_> = peer.take_waiting(now).collect();
        let slot = peer.slot.clone();
        let sealed = packets.iter().filter_map(|packet| {
            let datagram = slot.tunnel.lock().seal_to_vec(packet, now).ok()?;
            slot.note_sent(packet.len(), now);
            Some(datagram)
        });
        let sealed: Vec<_> = sealed.collect();
        self.transmit_all(endpoint, sealed);
    }

    pub(super) fn transmit_all(&mut self, to: SocketAddr, payloads: Vec<Vec<u8>>) {
        let transmits = payloads.into_iter().map(|payload| Transmit::new(to, payload));
        self.outputs.extend(transmits.map(Output::Transmit));
    }

    /// The peer of a member, taken into use where it is not, and looked for where it is not
    /// connected. One that calls us is not looked for: it is where it calls from.
    pub(super) fn bring_member(
        &mut self,
        device: &DeviceId,
        purpose: Purpose,
        now: Instant,
    ) -> Option<PeerKey> {
        let remote = self.ledger.roster().get(device)?.wg;
        let key = self.bring(Caller { who: Who::Member(*device), remote }, now)?;
        let peer = self.peers.get_mut(key)?;
        let begins_to_wait = purpose == Purpose::User && !peer.is_waited_for(now);
        if begins_to_wait {
            // It may have been looked for in vain for long, and ever more patiently.
            peer.asking.begin_anew(now);
        }
        if begins_to_wait || purpose > peer.purpose || peer.need(now) == Need::None {
            self.deadlines.set(Timer::Peer(key), Some((now, "a peer is wanted")));
        }
        peer.purpose = peer.purpose.max(purpose);
        if peer.path.primary().is_none() {
            self.directory.want(*device, now);
        }
        Some(key)
    }
}
