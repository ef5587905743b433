//! One device for tests to drive by hand: the real [`Mesh`] of an admin, whose writes succeed at once.

use super::event::{Input, RequestId};
use super::greeting::Greeting;
use super::peer::Purpose;
use super::writes::Then;
use super::*;
use crate::forward::SlotIndex;
use crate::identity::IdSecret;
use crate::membership::op::{self, Certificate, Flags};
use crate::membership::{GenesisPool, OpBody};
use crate::wire::control::{Control, Proof, ProofEnd};

pub(super) const UNIX: UnixTime = UnixTime(1_800_000_000);

/// An admin's device, and what it sent.
pub(super) struct Stage {
    pub(super) mesh: Mesh,
    pub(super) now: Instant,
    pub(super) sent: Vec<event::Transmit>,
}

/// The keys of a member.
pub(super) struct Villain {
    pub(super) id: IdSecret,
    pub(super) wg: WgSecret,
}

/// The member of this number.
pub(super) fn villain(n: u8) -> Villain {
    Villain { id: IdSecret::from_seed([n; 32]), wg: WgSecret::from_bytes([n; 32]) }
}

impl Stage {
    pub(super) fn new() -> Self {
        let mut stage = Self::founded();
        stage.drain();
        stage
    }

    pub(super) fn founded() -> Self {
        let now = Instant::now();
        let settings = Settings {
            listen_port: 41_641,
            interface: "ginnel0".to_owned(),
            mtu: MTU,
            dht: false,
            lan: false,
            port_mapping: false,
        };
        let found = Found {
            network: "home".parse().unwrap(),
            device: "admin".parse().unwrap(),
            pool: GenesisPool::Default,
            invite: false,
            request: RequestId(0),
        };
        let mesh = Mesh::found(found, settings, [7; 32], Wall::new(UNIX, now), now).unwrap();
        Self { mesh, now, sent: Vec::new() }
    }

    /// Every write succeeds at once.
    pub(super) fn drain(&mut self) {
        while let Some(output) = self.mesh.poll_output() {
            match output {
                Output::Persist(_, Some(ticket)) => {
                    self.mesh.handle_input(Input::Persisted(ticket, Ok(())), self.now).unwrap();
                }
                Output::Transmit(transmit) => self.sent.push(transmit),
                _ => {}
            }
        }
    }

    pub(super) fn admit(&mut self, villain: &Villain, name: &str) {
        let network = self.mesh.network();
        let certificate = Certificate {
            id: villain.id.public(),
            wg: villain.wg.public(),
            name: name.parse().unwrap(),
            ipv4: None,
            groups: Vec::new(),
            routes: Vec::new(),
            flags: Flags { relay: false, exit: false, sponsor: false },
            not_before: UNIX,
            not_after: UnixTime(UNIX.0 + 86_400),
            invite: None,
            bind_sig: op::bind(&villain.id, &villain.wg.public(), &network),
        };
        let grant = OpBody::Grant(Box::new(certificate));
        self.mesh.act(grant, Then::Switched { request: RequestId(1) }, self.now).unwrap();
        self.drain();
        assert!(self.mesh.ledger.roster().get(&villain.id.public()).is_some());
    }

    pub(super) fn say(&mut self, key: PeerKey, message: &Control) -> Result<(), InputError> {
        let bytes = message.encode().unwrap();
        let upcall = Upcall::Control { slot: SlotIndex(key.0), bytes };
        let result = self.mesh.handle_input(Input::Upcall(upcall), self.now);
        self.drain();
        result
    }

    /// The member is connected, as far as the mesh can tell, and proved itself.
    pub(super) fn proven(&mut self, villain: &Villain) -> PeerKey {
        let key = self.mesh.bring_member(&villain.id.public(), Purpose::User, self.now).unwrap();
        let mut greeting = Greeting::default();
        greeting.hear([1; 16]);
        greeting.speak([2; 16], self.now);
        self.mesh.peers.touch(key).unwrap().greeting = greeting;
        let them = ProofEnd { nonce: [1; 16], wg: villain.wg.public() };
        let us = ProofEnd { nonce: [2; 16], wg: self.mesh.me.identity.wg.public() };
        let proof = Proof::sign(&villain.id, &self.mesh.network(), &them, &us);
        self.say(key, &Control::Proof(proof)).unwrap();
        assert!(self.mesh.peers.get(key).unwrap().greeting.is_proven());
        key
    }
}
