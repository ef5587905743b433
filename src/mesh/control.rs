//! What peers say inside their tunnels, and what is said to them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::RngExt;

use super::directory::Source;
use super::event::{Output, Transmit};
use super::greeting::Ends;
use super::ledger::AcceptError;
use super::peer::{Need, Peer, Who};
use super::upkeep::WARM_EVERY;
use super::*;
use crate::identity::DeviceId;
use crate::membership::{OpBody, SignedOp, Unverified};
use crate::wire::control::{Control, Endpoints, Goodbye, Hello, Ping, Pong, VERSION};

/// A peer that said goodbye is called again at once only where it had been in use for so long: one
/// that comes and goes would begin anew with all that it may ask for.
const CALLED_AGAIN_AFTER: Duration = Duration::from_secs(30);

impl Mesh {
    /// A control message came out of a tunnel.
    pub(super) fn handle_control(
        &mut self,
        key: PeerKey,
        bytes: &[u8],
        now: Instant,
    ) -> Result<(), InputError> {
        // Touched, as its tunnel may owe a keepalive now.
        let peer = self.peers.touch(key).ok_or(InputError::Stranger)?;
        // Gossip counts what proven members say. Everybody else is counted here, or a guest, or a
        // member that never proves itself, could have signatures made and checked without end.
        // Who is asked to let this device in only answers.
        let asked = matches!(peer.who, Who::Sponsor | Who::Admitter);
        if !peer.greeting.is_proven() && !peer.inflow.admit(bytes.len(), asked, now) {
            return Err(InputError::TooMany);
        }
        match peer.who {
            Who::Member(device) => self.hear_member(key, device, bytes, now),
            Who::Removed(device) => {
                self.dismiss(key, device, now);
                Ok(())
            }
            Who::Guest(_) | Who::Applicant | Who::Sponsor | Who::Admitter => {
                let message = Control::decode(bytes).map_err(|_| InputError::Malformed)?;
                // A sponsor that knows this device already, as after a crash, may have begun the session.
                self.sponsor_connected(key, now);
                self.hear_joining(key, &message, now)
            }
        }
    }

    fn hear_member(
        &mut self,
        key: PeerKey,
        device: DeviceId,
        bytes: &[u8],
        now: Instant,
    ) -> Result<(), InputError> {
        let proven = self.peers.get(key).is_some_and(|peer| peer.greeting.is_proven());
        if proven && !self.gossip.admit(&device, bytes.len(), now) {
            return Err(InputError::TooMany);
        }
        let message = Control::decode(bytes).map_err(|_| InputError::Malformed)?;
        match (&message, proven) {
            (Control::Hello(hello), _) => return self.hear_hello(key, device, hello, now),
            (Control::JoinProve(_), _) => return self.hear_joining(key, &message, now),
            (Control::Proof(proof), _) => {
                let ends = self.ends(key).ok_or(InputError::Stranger)?;
                let peer = self.peers.touch(key).ok_or(InputError::Stranger)?;
                let first = !peer.greeting.is_proven();
                if !peer.greeting.check(&ends, &device, proof) {
                    return Err(InputError::NotAuthentic);
                }
                if first {
                    self.member_proven(key, device, now);
                }
            }
            (Control::Ops(ops), false) => self.hear_removal(ops, now),
            // A joined device or a lost packet: the other side thinks that we know it already.
            (_, false) => self.say_hello(key, now),
            (Control::Heads(_) | Control::Fetch(_) | Control::Ops(_), true) => {
                let ops = self.gossip.handle(device, &message, self.ledger.logs(), now);
                self.take_ops(ops, Some(device), now);
            }
            (Control::Secret(secret), true) => self.hear_secret(secret.into(), now),
            (Control::Endpoints(at), true) => self.hear_endpoints(key, device, at, now),
            (Control::Ping(ping), true) => {
                let observed = self.peers.get(key).and_then(|peer| peer.slot.endpoint());
                let pong = Pong { token: ping.token, observed };
                self.tell(key, &Control::Pong(pong), now);
            }
            (Control::Pong(pong), true) => self.handle_pong(key, pong.token, now),
            (Control::Goodbye(why), true) => self.hear_goodbye((key, device), *why, now),
            (Control::Introduce(_) | Control::Introduced(_), true)
                if !self.may_introduce(key, &message, now) =>
            {
                return Err(InputError::TooMany);
            }
            (Control::Introduce(asked), true) => self.hear_introduce((key, device), asked, now),
            (Control::Introduced(introduction), true) => self.hear_introduced(introduction, now),
            // What a member may not say, and what a later version says, is no news.
            _ => {}
        }
        Ok(())
    }

    fn hear_hello(
        &mut self,
        key: PeerKey,
        device: DeviceId,
        hello: &Hello,
        now: Instant,
    ) -> Result<(), InputError> {
        if hello.id != device {
            return Err(InputError::NotAuthentic);
        }
        let peer = self.peers.touch(key).ok_or(InputError::Stranger)?;
        if peer.greeting.hear(hello.nonce) {
            self.say_hello(key, now);
        }
        let ends = self.ends(key).ok_or(InputError::Stranger)?;
        let peer = self.peers.get(key).ok_or(InputError::Stranger)?;
        if let Some(proof) = peer.greeting.prove(&ends, &self.me.identity.id) {
            self.tell(key, &Control::Proof(proof), now);
        }
        self.send_waiting(key, now);
        Ok(())
    }

    /// Says who we are, first or again.
    pub(super) fn say_hello(&mut self, key: PeerKey, now: Instant) {
        let id = self.me.identity.id.public();
        let Some(me) = self.ledger.roster().get(&id) else { return };
        let (cert, digest) = (me.grant, self.ledger.logs().digest());
        let fresh = self.rng.random();
        let Some(peer) = self.peers.touch(key) else { return };
        let hello = Hello {
            version: VERSION,
            id,
            cert,
            digest,
            knet_generation: self.me.secret.as_ref().map_or(0, |secret| secret.generation),
            nonce: peer.greeting.speak(fresh, now),
        };
        self.tell(key, &Control::Hello(hello), now);
        self.next_look(key, now + WARM_EVERY);
    }

    /// Nobody need ask the DHT where a peer is.
    pub(super) fn look_no_more(&mut self, key: PeerKey, now: Instant) {
        if let Some(device) = self.peers.get(key).and_then(Peer::device) {
            self.directory.unwant(&device, now);
        }
    }

    /// The peer is who the roster says: it takes part in everything.
    fn member_proven(&mut self, key: PeerKey, device: DeviceId, now: Instant) {
        tracing::debug!(?device, "connected");
        self.directory.unwant(&device, now);
        self.gossip.peer_up(device, self.ledger.logs(), now);
        self.tell_secret(key, now);
        self.tell_endpoints(key, now);
        self.send_waiting(key, now);
        self.seek_introductions(key, now);
        self.connections_changed(now);
    }

    /// Verifies ops that a peer sent, keeps the new ones on disk, and acts on them.
    pub(super) fn take_ops(
        &mut self,
        ops: Vec<Unverified<SignedOp>>,
        from: Option<DeviceId>,
        now: Instant,
    ) {
        let mut new = Vec::new();
        for op in ops {
            match self.ledger.accept(op) {
                Ok(id) => new.extend(id),
                Err(reason) => {
                    tracing::debug!(?from, %reason, "an op was refused");
                    // Full logs and an author not heard of yet are not the peer's fault.
                    if let (Some(from), AcceptError::Op(_)) = (&from, &reason) {
                        self.gossip.refused(from, now);
                    }
                }
            }
        }
        if new.is_empty() {
            return self.gossip.inserted(&[], from, self.ledger.logs(), now);
        }
        // In memory first: a removal is enforced before it is written.
        self.gossip.inserted(&new, from, self.ledger.logs(), now);
        self.ops_came(&new, now);
        let logs = self.ledger.logs();
        let bytes = new.iter().filter_map(|id| logs.get(*id)).map(|op| op.signed().encode());
        let file = event::Persist::Ops(bytes.collect());
        self.outputs.push_back(Output::Persist(vec![file], None));
    }

    /// Where a peer says that it is.
    fn hear_endpoints(&mut self, key: PeerKey, device: DeviceId, at: &Endpoints, now: Instant) {
        self.directory.accept(device, &at.endpoints, Source::Gossip, now);
        if let Some(peer) = self.peers.touch(key) {
            peer.path.set_remotes(&at.endpoints, now);
        }
    }

    /// Our addresses changed: connected peers hear it first, then the DHT and the local network.
    pub(super) fn endpoints_changed(&mut self, now: Instant) {
        let endpoints = self.reach.endpoints();
        self.publisher.set_endpoints(&endpoints, now);
        for key in self.proven_members() {
            self.tell_endpoints(key, now);
        }
        self.first_invite(now);
    }

    fn tell_endpoints(&mut self, key: PeerKey, now: Instant) {
        let at = self.own_endpoints(now);
        self.tell(key, &Control::Endpoints(at), now);
    }

    /// K_net, from a proven member. A newer one counts only where a `Revoke` names it: otherwise
    /// one hostile member could give every device a secret of its own making, under the highest
    /// generation there is, and would know where all are even after its removal.
    fn hear_secret(&mut self, secret: NetworkSecret, now: Instant) {
        let Some(own) = &self.me.secret else { return self.learn_secret(secret, now) };
        if secret.generation <= own.generation {
            return;
        }
        let hash = crate::identity::hash(secret.key());
        let named = self.ledger.logs().iter().any(|op| {
            matches!(
                &op.op().body,
                OpBody::Revoke { knet_generation, knet_hash, .. }
                    if *knet_generation == secret.generation && *knet_hash == hash
            )
        });
        if named {
            self.learn_secret(secret, now);
        }
    }

    /// K_net, from whom it may be taken: a sponsor, or a member that can show it is the network's.
    pub(super) fn learn_secret(&mut self, secret: NetworkSecret, now: Instant) {
        let newer = self.me.secret.as_ref().is_none_or(|own| own.generation < secret.generation);
        if newer {
            self.me.secret = Some(secret);
            let file = self.secrets();
            self.outputs.push_back(Output::Persist(vec![file], None));
            if let Joins::Sponsor(_) = self.joins {
                self.secret_known(now);
            }
        }
    }

    /// Takes a peer out of use that nobody needs. It hears so, as it would go on otherwise, and call
    /// us back into use with the next message or handshake.
    pub(super) fn let_go(&mut self, key: PeerKey, now: Instant) {
        if self.peers.get(key).is_some_and(|peer| peer.greeting.is_proven()) {
            self.tell(key, &Control::Goodbye(Goodbye::Idle), now);
        }
        self.drop_peer(key, now);
    }

    /// A peer ended its side of the tunnel. Where it only had no use for it, and we have, another is
    /// made.
    fn hear_goodbye(&mut self, (key, device): (PeerKey, DeviceId), why: Goodbye, now: Instant) {
        let Some(peer) = self.peers.get(key) else { return };
        let (neighbour, purpose) = (peer.neighbour, peer.purpose);
        let needed = peer.need(now) > Need::None;
        let settled = now.duration_since(peer.born) > CALLED_AGAIN_AFTER;
        self.drop_peer(key, now);
        if why == Goodbye::Idle
            && needed
            && settled
            && let Some(key) = self.bring_member(&device, purpose, now)
            && let Some(peer) = self.peers.touch(key)
        {
            peer.neighbour = neighbour;
        }
    }

    /// Says goodbye to every connected peer.
    pub(super) fn say_goodbye(&mut self, reason: Goodbye, now: Instant) {
        for key in self.proven_members() {
            self.tell(key, &Control::Goodbye(reason), now);
        }
    }

    /// Probes a peer.
    pub(super) fn probe(&mut self, key: PeerKey, token: u64, now: Instant) {
        self.tell(key, &Control::Ping(Ping { token, padding: Vec::new() }), now);
    }

    /// Sends a message through a peer's tunnel, where there is a session and a path. What is lost
    /// is said again by whoever needs the answer.
    pub(super) fn tell(&mut self, key: PeerKey, message: &Control, now: Instant) {
        let Some(peer) = self.peers.touch(key) else { return };
        let Some(to) = peer.slot.endpoint() else { return };
        let packet = message.to_packet().expect("messages are built within their bounds");
        if let Ok(payload) = peer.slot.tunnel.lock().seal_to_vec(&packet, now) {
            self.outputs.push_back(Output::Transmit(Transmit::new(to, payload)));
        }
    }

    fn ends(&self, key: PeerKey) -> Option<Ends> {
        Some(Ends {
            network: *self.ledger.network(),
            mine: self.me.identity.wg.public(),
            theirs: self.peers.get(key)?.remote,
        })
    }

    /// The members whose proof held.
    pub(super) fn proven_members(&self) -> Vec<PeerKey> {
        let proven = |peer: &&Peer| peer.device().is_some() && peer.greeting.is_proven();
        self.peers.iter().filter(proven).map(|peer| peer.key).collect()
    }

    /// Where a peer's datagrams come from is where a check should go, too.
    pub(super) fn handle_roamed(&mut self, key: PeerKey, from: SocketAddr, now: Instant) {
        if let Some(peer) = self.peers.touch(key) {
            peer.path.handle_roamed(from, now);
        }
    }
}
