//! Crowds: networks of many devices that were all admitted before the run begins.
//!
//! A thousand joins, one by one, would take longer than what a scenario is about. So the admin's log
//! is written here in one go, and every device starts from its saved state, as after a restart.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use ginnel::identity::{AdminSecret, IdSecret, Identity, RootSecret, WgSecret};
use ginnel::membership::certificate::{CERTIFICATE_LIFETIME, bind};
use ginnel::membership::{
    Author, Certificate, DeviceName, Flags, Genesis, GenesisPool, Logs, OpBody, SignedOp, UnixTime,
};
use ginnel::mesh::event::Persist;
use ginnel::mesh::ledger::Ledger;
use ginnel::wire::record::{CachedDevice, NetworkSecret, encode_devices};
use ginnel::wire::saved::{Cache, Intent};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use zeroize::Zeroizing;

use super::clock::EPOCH;
use super::disk::Disk;
use super::net::SiteId;
use super::node::PORT;
use super::tally::live_bytes;
use super::world::{DeviceNo, World};

/// The members of a network and what each has on its disk.
pub struct Crowd {
    genesis: Genesis,
    root: RootSecret,
    logs: Logs,
    secret: NetworkSecret,
    /// The first is the admin.
    identities: Vec<Identity>,
    /// Where everybody remembers devices to have been when the network began.
    remembered: Vec<CachedDevice>,
}

impl Crowd {
    /// A network of `members` devices, of which the first is the admin.
    pub fn new(members: usize, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let root = RootSecret::from_seed(rng.random());
        let genesis = Genesis {
            version: 1,
            root: root.public(),
            created: UnixTime(EPOCH),
            salt: rng.random(),
            ipv4_pool: GenesisPool::Default,
            name: "home".parse().expect("a label"),
        };
        let identity = |number| Identity {
            network: genesis.network_id(),
            id: IdSecret::from_seed(rng.random()),
            wg: WgSecret::from_bytes(rng.random()),
            admin: (number == 0).then(|| AdminSecret::from_seed(rng.random())),
        };
        let identities: Vec<_> = (0..members).map(identity).collect();
        let logs = Logs::new(root.public());
        let secret = NetworkSecret::new(0, rng.random());
        let remembered = Vec::new();
        let mut crowd = Self { genesis, root, logs, secret, identities, remembered };
        crowd.admit_all();
        crowd
    }

    /// Root names the first device an admin, which grants everybody a certificate.
    fn admit_all(&mut self) {
        let network = self.genesis.network_id();
        let first = &self.identities[0];
        let admin = first.admin.as_ref().expect("the first has an admin key");
        let add = OpBody::AdminAdd { admin: admin.public(), device: first.id.public() };
        let by_root = Author::Root(self.root.public());
        let add = self.logs.next_op(by_root, UnixTime(EPOCH), add).expect("the first op");
        self.logs
            .insert(SignedOp::sign_root(&add, &self.root, &network).expect("root signs"))
            .expect("root's log takes it");
        let author = Author::Admin(admin.public());
        let mut taken = BTreeSet::new();
        for number in 0..self.identities.len() {
            let certificate = self.certificate(number, &mut taken);
            let grant = OpBody::Grant(Box::new(certificate));
            let grant = self.logs.next_op(author, UnixTime(EPOCH), grant).expect("it follows");
            let grant = SignedOp::sign_admin(&grant, admin, &network).expect("the admin signs");
            self.logs.insert(grant).expect("the admin's log takes it");
        }
    }

    fn certificate(&self, number: usize, taken: &mut BTreeSet<std::net::Ipv4Addr>) -> Certificate {
        let Identity { network, id, wg, .. } = &self.identities[number];
        let pool = self.genesis.pool().expect("the default pool");
        let ipv4 = pool.assign(&id.public(), |address| taken.contains(&address));
        taken.extend(ipv4);
        Certificate {
            id: id.public(),
            wg: wg.public(),
            name: name(number),
            ipv4,
            groups: Vec::new(),
            routes: Vec::new(),
            flags: Flags { relay: true, exit: false, sponsor: number == 0 },
            not_before: UnixTime(EPOCH - 300),
            not_after: UnixTime(EPOCH + CERTIFICATE_LIFETIME),
            invite: None,
            bind_sig: bind(id, &wg.public(), network),
        }
    }

    /// What each device has on its disk; the ops are the same for all.
    fn disks(&self) -> Vec<Disk> {
        let ops = self.logs.iter().map(|op| op.signed().encode()).collect();
        let ops = Arc::new(Persist::Ops(ops));
        let disk = |(number, identity): (usize, &Identity)| {
            let intent = Intent {
                name: name(number),
                up: true,
                invite: None,
                interface: "ginnel0".to_owned(),
                port: PORT,
            };
            let mut files = vec![
                Persist::Identity(identity.encode()),
                Persist::Genesis(self.genesis.encode()),
                Persist::Secrets(self.secret.encode()),
                Persist::Intent(intent.encode()),
            ];
            if identity.admin.is_some() {
                files.push(Persist::Root(Zeroizing::new(self.root.seed().to_vec())));
            }
            if !self.remembered.is_empty() {
                let devices = encode_devices(&self.remembered);
                files.push(Persist::Cache(Cache { devices, published: Vec::new() }.encode()));
            }
            let files = files.into_iter().map(Arc::new);
            Disk::of(files.chain([ops.clone()]))
        };
        self.identities.iter().enumerate().map(disk).collect()
    }

    /// What logs and roster take on one device, in bytes. Here all devices share them.
    pub fn ledger_bytes(&self) -> isize {
        let disk = self.disks().swap_remove(0);
        let before = live_bytes();
        let saved = disk.saved().expect("an identity was written");
        let mut ledger = saved.ledger.expect("a genesis was written");
        ledger.derive(UnixTime(EPOCH));
        ledger.rings();
        live_bytes() - before
    }

    /// Everybody remembers this device to have been at that address.
    pub fn remember(&mut self, number: usize, address: SocketAddr) {
        let device = self.identities[number].id.public();
        self.remembered.push((device, UnixTime(EPOCH), vec![address]));
    }

    /// Every device starts where `place` says.
    pub fn start(&self, world: &mut World, place: impl FnMut(&mut World, usize) -> Place) {
        self.start_some(world, 0..self.identities.len(), place);
    }

    /// Only these of the crowd start; the world numbers devices in the order in which they start.
    pub fn start_some(
        &self,
        world: &mut World,
        numbers: impl IntoIterator<Item = usize>,
        mut place: impl FnMut(&mut World, usize) -> Place,
    ) -> Vec<DeviceNo> {
        world.checks.written_before(&self.logs);
        let disks = self.disks();
        // One for all, as every device would make the same of what lies on its disk.
        let mut ledger = Ledger::new(self.genesis.clone(), self.logs.clone());
        ledger.derive(world.unix_now());
        let start = |number: usize| {
            let disk = disks[number].clone();
            let site = place(world, number);
            let saved = disk.saved_with(Some(ledger.clone()));
            world.restore(site, saved.expect("an identity was written"), disk)
        };
        numbers.into_iter().map(start).collect()
    }
}

/// A site, or the open Internet.
pub type Place = Option<SiteId>;

fn name(number: usize) -> DeviceName {
    format!("d{number}").parse().expect("a label")
}
