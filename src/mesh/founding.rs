//! How a [`Mesh`] comes to be: a network founded here, an invite taken up, or a restart.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use rand::{Rng, RngExt};
use zeroize::Zeroizing;

use super::event::{Output, Persist, RequestId};
use super::gossip::Gossip;
use super::join::{Admission, Joiner, JoinerKeys, Sponsor, SponsorIdentity};
use super::lan::Beacons;
use super::ledger::Ledger;
use super::peers::Peers;
use super::writes::{Act, Then};
use super::*;
use crate::identity::{AdminSecret, IdSecret, NetworkId, RootId, RootSecret, WgSecret};
use crate::membership::certificate::CERTIFICATE_LIFETIME;
use crate::membership::op::{self, Certificate, Flags, GenesisPool, OpError};
use crate::membership::pen::PenError;
use crate::membership::{Author, Genesis, Invite, Logs, OpBody, SignedOp, Verified};
use crate::wire::saved::{Cache, Intent};

/// How long a join that a restart interrupted is tried again: nobody waits at a prompt any more.
const RESUMED_JOIN: Duration = Duration::from_secs(3600);

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
    /// The genesis, and every op, verified anew; unless the device never got so far.
    pub ledger: Option<Ledger>,
    /// K_net.
    pub secret: Option<NetworkSecret>,
    /// What makes a start quick.
    pub cache: Vec<u8>,
    /// Name, on or off, and the invite of an unfinished join.
    pub intent: Intent,
}

/// Why a network could not be founded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FoundError {
    /// The first ops could not be written.
    #[error(transparent)]
    Pen(#[from] PenError),
    /// The first ops could not be signed.
    #[error(transparent)]
    Op(#[from] OpError),
}

impl Mesh {
    /// Founds a network: this device is its root and its first admin.
    pub fn found(
        found: Found,
        settings: Settings,
        seed: [u8; 32],
        wall: Wall,
        now: Instant,
    ) -> Result<Self, FoundError> {
        let mut rng = Self::generator(seed);
        let unix = wall.at(now);
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
        let mut ledger = Ledger::new(genesis.clone(), Logs::new(root.public()));
        ledger.derive(unix);
        let me = Me::new(identity, Some(root), found.device.clone());
        let mut mesh = Self::assemble(me, ledger, settings, rng, wall, now);
        mesh.me.secret = Some(NetworkSecret::new(0, mesh.rng.random()));
        let ops = mesh.founding_ops(&found.device, now)?;
        let files = vec![
            Persist::Genesis(genesis.encode()),
            Persist::Root(Zeroizing::new(
                mesh.me.root.as_ref().map(|root| root.seed().to_vec()).unwrap_or_default(),
            )),
            mesh.secrets(),
            Persist::Ops(ops.iter().map(|op| op.signed().encode()).collect()),
            mesh.intent(),
            // Last: until it is there the network is unfinished, and the next start removes it.
            Persist::Identity(mesh.me.identity.encode()),
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
    ) -> Result<Vec<Verified<SignedOp>>, FoundError> {
        let unix = self.unix(now);
        let (id, network) = (&self.me.identity, self.ledger.network());
        let (Some(root), Some(admin)) = (&self.me.root, &id.admin) else { return Ok(Vec::new()) };
        let add = OpBody::AdminAdd { admin: admin.public(), device: id.id.public() };
        let add = self.ledger.next(Author::Root(root.public()), unix, add)?;
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
            not_after: UnixTime(unix.0 + CERTIFICATE_LIFETIME),
            invite: None,
            bind_sig: op::bind(&id.id, &id.wg.public(), network),
        };
        let grant = OpBody::Grant(Box::new(certificate));
        let grant = self.ledger.next(Author::Admin(admin.public()), unix, grant)?;
        Ok(vec![
            SignedOp::sign_root(&add, root, network)?,
            SignedOp::sign_admin(&grant, admin, network)?,
        ])
    }

    /// The certificate that admits a device.
    pub(super) fn certificate(
        &self,
        applicant: &Admission,
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
            not_after: UnixTime(unix.0 + CERTIFICATE_LIFETIME),
            invite: Some(applicant.invite),
            bind_sig: applicant.bind_sig,
        }
    }

    /// Takes up an invite with fresh keys, and gives up after `timeout`.
    pub fn take_up(
        (invite, device, timeout): (Invite, DeviceName, Duration),
        settings: Settings,
        seed: [u8; 32],
        wall: Wall,
        now: Instant,
    ) -> Self {
        let mut rng = Self::generator(seed);
        let identity = new_identity(invite.network, false, &mut rng);
        let me = Me::new(identity, None, device);
        let ledger = Ledger::empty(invite.network);
        let mut mesh = Self::assemble(me, ledger, settings, rng, wall, now);
        mesh.become_joiner(invite, timeout, now);
        // The identity last, as in a founding.
        let files = vec![mesh.intent(), Persist::Identity(mesh.me.identity.encode())];
        let ticket = mesh.writes.wait(Act { ops: Vec::new(), then: Then::Prepared });
        mesh.outputs.push_back(Output::Persist(files, Some(ticket)));
        mesh
    }

    /// The network as it was before a restart.
    pub fn restore(
        saved: Saved,
        settings: Settings,
        seed: [u8; 32],
        wall: Wall,
        now: Instant,
    ) -> Self {
        let rng = Self::generator(seed);
        let unix = wall.at(now);
        let mut me = Me::new(saved.identity, saved.root, saved.intent.name.clone());
        me.secret = saved.secret;
        me.up = saved.intent.up;
        let mut ledger = saved.ledger.unwrap_or_else(|| Ledger::empty(me.identity.network));
        ledger.derive(unix);
        let mut mesh = Self::assemble(me, ledger, settings, rng, wall, now);
        let unfinished = saved.intent.invite.as_deref().and_then(|token| token.parse().ok());
        match unfinished {
            Some(invite) => {
                mesh.become_joiner(invite, RESUMED_JOIN, now);
                mesh.start_joining(now);
            }
            None => {
                mesh.hold_user_data(now);
                mesh.begin(&saved.cache, now);
            }
        }
        mesh
    }

    fn assemble(
        me: Me,
        ledger: Ledger,
        settings: Settings,
        mut rng: StdRng,
        wall: Wall,
        now: Instant,
    ) -> Self {
        let unix = wall.at(now);
        let joins = Joins::Sponsor(new_sponsor(&me, &ledger, rng.random()));
        let gossip = new_gossip(&ledger, &mut rng);
        let mut mesh = Self {
            peers: Peers::starting_at(rng.next_u32()),
            tags: Tags::new(me.identity.wg.clone()),
            reach: Reachability::new(settings.listen_port, rng.random(), now),
            directory: Directory::new(StdRng::from_seed(rng.random()), now),
            publisher: Publisher::new(StdRng::from_seed(rng.random()), now),
            beacons: Beacons::new(StdRng::from_seed(rng.random()), now),
            gossip,
            joins,
            choice: Choice::start(&mut rng, now),
            derived: now,
            meeting: BTreeSet::new(),
            told_removed: BTreeSet::new(),
            clients: Clients::default(),
            company: Company::default(),
            meetings: Meetings::default(),
            writes: Writes::default(),
            deadlines: Deadlines::default(),
            outputs: VecDeque::new(),
            last_now: now,
            settings,
            wall,
            rng,
            me,
            ledger,
        };
        mesh.set_wall(unix, now);
        if mesh.settings.lan {
            mesh.beacons.set_port(mesh.settings.listen_port, now);
        }
        mesh
    }

    pub(super) fn become_joiner(&mut self, invite: Invite, timeout: Duration, now: Instant) {
        self.me.state = api::NetworkState::Joining;
        let identity = &self.me.identity;
        let keys = JoinerKeys { id: identity.id.clone(), wg: identity.wg.public(), admin: None };
        let (name, nonce) = (self.me.name.clone(), self.rng.random());
        self.joins = Joins::Joiner(Box::new(Joiner::new(invite, keys, name, nonce, now + timeout)));
    }

    /// The sponsor of the network as it is known now.
    pub(super) fn sponsor(&mut self) -> Joins {
        Joins::Sponsor(new_sponsor(&self.me, &self.ledger, self.rng.random()))
    }

    pub(super) fn new_gossip(&mut self) -> Gossip {
        new_gossip(&self.ledger, &mut self.rng)
    }
}

fn new_sponsor(me: &Me, ledger: &Ledger, secret: [u8; 32]) -> Sponsor {
    let identity = SponsorIdentity {
        network: *ledger.network(),
        genesis: ledger.genesis().map(Genesis::encode).unwrap_or_default(),
        device: me.identity.id.public(),
        wg: me.identity.wg.public(),
        admin: me.identity.admin.as_ref().map(AdminSecret::public),
    };
    Sponsor::new(identity, secret)
}

fn new_gossip(ledger: &Ledger, rng: &mut StdRng) -> Gossip {
    // A device that was shown no genesis has nobody to gossip with.
    let root = ledger.genesis().map_or(RootId([0; 32]), |genesis| genesis.root);
    Gossip::new(root, StdRng::from_seed(rng.random()))
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
            state: api::NetworkState::Down,
            up: true,
            holding: false,
            may_be_stale: false,
            interface: None,
            cached: Cache::default(),
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
