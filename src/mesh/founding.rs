//! How a [`Mesh`] comes to be: a network founded here, an invite taken up, or a restart.

use std::collections::VecDeque;
use std::time::Instant;

use rand::{Rng, RngCore};
use zeroize::Zeroizing;

use super::event::{Output, Persist, RequestId};
use super::gossip::Gossip;
use super::join::{Joiner, Sponsor};
use super::lan::Beacons;
use super::ledger::Ledger;
use super::peers::Peers;
use super::writes::{Act, Then};
use super::*;
use crate::identity::{AdminSecret, IdSecret, NetworkId, RootSecret, WgSecret};
use crate::membership::op::{self, Certificate, Flags, GenesisPool, OpError};
use crate::membership::{Author, Genesis, Invite, Logs, OpBody, OpId, SignedOp, Verified};

/// How long a certificate lasts, in seconds: a year, so that a forgotten device falls out by
/// itself, and a device that is off for a holiday does not.
const CERTIFICATE_LIFE: u64 = 365 * 86_400;

/// How far back a certificate begins, in seconds: clocks differ, and a device whose clock is a
/// little slow shall not find itself not yet admitted.
const CLOCK_SLACK: u64 = 300;

/// What a new network is made of.
#[derive(Debug, Clone)]
pub struct Found {
    /// The network's name.
    pub network: DeviceName,
    /// This device's name.
    pub device: DeviceName,
    /// The IPv4 addresses.
    pub pool: GenesisPool,
    /// Whether to open a first invite.
    pub invite: bool,
    /// Who asked.
    pub request: RequestId,
}

/// What was on disk.
#[derive(Debug)]
pub struct Saved {
    /// The keys.
    pub identity: Identity,
    /// The root key, where it lies here.
    pub root: Option<RootSecret>,
    /// The genesis, unless the device never got so far.
    pub genesis: Option<Genesis>,
    /// Every op, verified anew.
    pub logs: Logs,
    /// K_net.
    pub secret: Option<NetworkSecret>,
    /// What makes a start quick.
    pub cache: Vec<u8>,
    /// Name, on or off, and the invite of an unfinished join.
    pub intent: Intent,
}

/// What the user wants of this network.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Intent {
    /// The name this device asked for.
    pub name: DeviceName,
    /// Whether the interface shall be on.
    pub up: bool,
    /// The token of a join that is not finished.
    pub invite: Option<String>,
}

impl Intent {
    /// The file form.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(postcard::to_allocvec(self).expect("an intent has no unserializable part"))
    }

    /// Reads the file form.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        postcard::from_bytes(bytes).ok()
    }
}

/// Why a join could not begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// The invite holds a key that is none.
    #[error("the invite names a sponsor with an impossible key")]
    Key,
}

impl Mesh {
    /// Founds a network: this device is its root and its first admin.
    pub fn found(
        found: Found,
        settings: Settings,
        seed: [u8; 32],
        clock: WallClock,
        now: Instant,
    ) -> Result<Self, OpError> {
        let mut rng = Self::generator(seed);
        let unix = clock.unix(now);
        let root = RootSecret::from_seed(rng.random());
        let genesis = Genesis {
            version: 1,
            root: root.public(),
            created: unix,
            salt: rng.random(),
            ipv4_pool: found.pool,
            name: found.network.clone(),
        };
        let identity = new_identity(genesis.network_id(), true, &mut rng);
        let me = Me::new(identity, Some(root), found.device.clone());
        let mut mesh = Self::assemble(me, Ledger::new(genesis.clone(), Logs::default(), unix), settings, rng, clock, now);
        mesh.me.secret = Some(NetworkSecret::new(0, mesh.rng.random()));
        let ops = mesh.founding_ops(&found.device, now)?;
        let files = vec![
            Persist::Genesis(genesis.encode()),
            Persist::Identity(mesh.me.identity.encode()),
            Persist::Root(Zeroizing::new(
                mesh.me.root.as_ref().map(|root| root.seed().to_vec()).unwrap_or_default(),
            )),
            mesh.secrets(),
            Persist::Ops(ops.iter().map(|op| op.signed().encode()).collect()),
            mesh.intent(),
        ];
        let then = Then::Founded { request: found.request, invite: found.invite };
        let ticket = mesh.writes.wait(Act { ops, then });
        mesh.outputs.push_back(Output::Persist(files, Some(ticket)));
        Ok(mesh)
    }

    /// Root names this device an admin, which grants itself a certificate.
    fn founding_ops(
        &self,
        device: &DeviceName,
        now: Instant,
    ) -> Result<Vec<Verified<SignedOp>>, OpError> {
        let unix = self.unix(now);
        let (id, network) = (&self.me.identity, self.ledger.network());
        let (Some(root), Some(admin)) = (&self.me.root, &id.admin) else { return Ok(Vec::new()) };
        let add = OpBody::AdminAdd { admin: admin.public(), device: id.id.public() };
        let add = self.ledger.next(Author::Root(root.public()), unix, add);
        let pool = self.ledger.genesis().and_then(Genesis::pool);
        let certificate = Certificate {
            id: id.id.public(),
            wg: id.wg.public(),
            name: device.clone(),
            ipv4: pool.and_then(|pool| pool.assign(&id.id.public(), |_| false)),
            groups: Vec::new(),
            routes: Vec::new(),
            flags: Flags { relay: true, exit: false, sponsor: true },
            not_before: UnixTime(unix.0.saturating_sub(CLOCK_SLACK)),
            not_after: UnixTime(unix.0 + CERTIFICATE_LIFE),
            invite: None,
            bind_sig: op::bind(&id.id, &id.wg.public(), network),
        };
        let grant = OpBody::Grant(Box::new(certificate));
        let grant = self.ledger.next(Author::Admin(admin.public()), unix, grant);
        Ok(vec![
            SignedOp::sign_root(&add, root, network)?,
            SignedOp::sign_admin(&grant, admin, network)?,
        ])
    }

    /// The certificate that admits a device.
    pub(super) fn certificate(
        &self,
        applicant: &join::Applicant,
        name: DeviceName,
        now: Instant,
    ) -> Certificate {
        let unix = self.unix(now);
        let roster = self.ledger.roster();
        let pool = self.ledger.genesis().and_then(Genesis::pool);
        Certificate {
            id: applicant.id,
            wg: applicant.wg,
            name,
            ipv4: pool.and_then(|pool| pool.assign(&applicant.id, |at| roster.ipv4_taken(at))),
            groups: Vec::new(),
            routes: Vec::new(),
            flags: Flags { relay: true, exit: false, sponsor: false },
            not_before: UnixTime(unix.0.saturating_sub(CLOCK_SLACK)),
            not_after: UnixTime(unix.0 + CERTIFICATE_LIFE),
            invite: Some(applicant.invite),
            bind_sig: applicant.bind_sig,
        }
    }

    /// Takes up an invite with fresh keys.
    pub fn take_up(
        invite: Invite,
        device: DeviceName,
        settings: Settings,
        seed: [u8; 32],
        clock: WallClock,
        now: Instant,
    ) -> Self {
        let mut rng = Self::generator(seed);
        let identity = new_identity(invite.network, false, &mut rng);
        let me = Me::new(identity, None, device);
        let ledger = Ledger::empty(invite.network);
        let mut mesh = Self::assemble(me, ledger, settings, rng, clock, now);
        mesh.become_joiner(invite, now);
        mesh
    }

    /// The network as it was before a restart.
    pub fn restore(
        saved: Saved,
        settings: Settings,
        seed: [u8; 32],
        clock: WallClock,
        now: Instant,
    ) -> Self {
        let rng = Self::generator(seed);
        let unix = clock.unix(now);
        let mut me = Me::new(saved.identity, saved.root, saved.intent.name.clone());
        me.secret = saved.secret;
        me.up = saved.intent.up;
        let ledger = match saved.genesis {
            Some(genesis) => Ledger::new(genesis, saved.logs, unix),
            None => Ledger::empty(me.identity.network),
        };
        let mut mesh = Self::assemble(me, ledger, settings, rng, clock, now);
        let unfinished = saved.intent.invite.as_deref().and_then(|token| token.parse().ok());
        match unfinished {
            Some(invite) => mesh.become_joiner(invite, now),
            None => mesh.begin(&saved.cache, now),
        }
        mesh
    }

    fn assemble(
        me: Me,
        ledger: Ledger,
        settings: Settings,
        mut rng: StdRng,
        clock: WallClock,
        now: Instant,
    ) -> Self {
        let unix = clock.unix(now);
        let device = me.identity.id.public();
        Self {
            peers: Peers::starting_at(rng.next_u32()),
            tags: Tags::default(),
            reach: Reachability::new(settings.listen_port, rng.random(), now),
            directory: Directory::new(unix, rng.random(), now),
            publisher: Publisher::new(me.identity.id.clone(), unix, rng.random(), now),
            beacons: Beacons::new(device, settings.listen_port, unix, rng.random(), now),
            gossip: Gossip::new(rng.random(), now),
            joins: Joins::Sponsor(Sponsor::new(rng.random())),
            pings: Pings::default(),
            writes: Writes::default(),
            deadlines: Deadlines::default(),
            outputs: VecDeque::new(),
            last_now: now,
            settings,
            clock,
            rng,
            me,
            ledger,
        }
    }

    fn become_joiner(&mut self, invite: Invite, now: Instant) {
        self.me.state = api::NetworkState::Joining;
        let joiner = Joiner::new(invite, &self.me.identity, self.me.name.clone(), self.rng.random(), now);
        self.joins = Joins::Joiner(Box::new(joiner));
        self.start_joining(now);
    }
}

impl Me {
    fn new(identity: Identity, root: Option<RootSecret>, name: DeviceName) -> Self {
        Self {
            identity,
            root,
            secret: None,
            name,
            interfaces: InterfaceSnapshot::default(),
            dht: (api::DhtState::Off, 0),
            state: api::NetworkState::Up,
            up: true,
        }
    }
}

/// Fresh keys for `network`.
fn new_identity(network: NetworkId, admin: bool, rng: &mut StdRng) -> Identity {
    Identity {
        network,
        id: IdSecret::from_seed(rng.random()),
        wg: WgSecret::from_bytes(rng.random()),
        admin: admin.then(|| AdminSecret::from_seed(rng.random())),
    }
}
