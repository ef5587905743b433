//! A small network for the tests of this layer: a root, admins, devices, and the logs they write.

use super::certificate::{Certificate, Flags, bind};
use super::genesis::{GENESIS_VERSION, Genesis, GenesisPool};
use super::invite::{Invite, InviteKeys};
use super::log::{Inserted, Logs};
use super::op::{Author, Op, OpBody, OpId, SignedOp, UnixTime, Verified};
use super::roster::Roster;
use crate::identity::{AdminSecret, DeviceId, IdSecret, NetworkId, RootSecret, WgSecret};

/// When everything happens: 2026-01-26.
pub(super) const NOW: UnixTime = UnixTime(1_769_385_600);

pub(super) type SignedAct = Verified<SignedOp>;

pub(super) struct World {
    pub(super) root: RootSecret,
    pub(super) genesis: Genesis,
    pub(super) network: NetworkId,
    pub(super) logs: Logs,
}

impl World {
    /// A network with this many admins, on devices 1, 2, … that are granted by the first.
    pub(super) fn new(admins: u8) -> Self {
        let root = RootSecret::from_seed([0xaa; 32]);
        let genesis = Genesis {
            version: GENESIS_VERSION,
            root: root.public(),
            created: NOW,
            salt: [0x5a; 16],
            ipv4_pool: GenesisPool::Named("10.71.0.0/16".parse().unwrap()),
            name: "home".parse().unwrap(),
        };
        let (network, logs) = (genesis.network_id(), Logs::new(root.public()));
        let mut world = Self { root, genesis, network, logs };
        for n in 1..=admins {
            world.root_does(OpBody::AdminAdd { admin: admin(n).public(), device: device(n) });
        }
        for n in 1..=admins {
            let grant = world.certificate(n);
            world.does(1, OpBody::Grant(Box::new(grant)));
        }
        world
    }

    /// Signs and inserts root's next op.
    pub(super) fn root_does(&mut self, body: OpBody) -> SignedAct {
        let author = Author::Root(self.root.public());
        let op = self.logs.next_op(author, NOW, body).unwrap();
        let signed = SignedOp::sign_root(&op, &self.root, &self.network).unwrap();
        assert_eq!(self.logs.insert(signed.clone()), Ok(Inserted::New));
        signed
    }

    /// Signs and inserts the next op of admin `n`.
    pub(super) fn does(&mut self, n: u8, body: OpBody) -> SignedAct {
        self.does_at(n, NOW, body)
    }

    pub(super) fn does_at(&mut self, n: u8, time: UnixTime, body: OpBody) -> SignedAct {
        let op = self.logs.next_op(Author::Admin(admin(n).public()), time, body).unwrap();
        let signed = self.sign(n, &op);
        assert_eq!(self.logs.insert(signed.clone()), Ok(Inserted::New));
        signed
    }

    pub(super) fn sign(&self, n: u8, op: &Op) -> SignedAct {
        SignedOp::sign_admin(op, &admin(n), &self.network).unwrap()
    }

    /// Signs and inserts an op of admin `n` right after `before`, whatever else stands there.
    pub(super) fn branches(&mut self, n: u8, before: &SignedAct, body: OpBody) -> SignedAct {
        let (author, seq) = (before.op().author, before.op().seq + 1);
        assert_eq!(author, Author::Admin(admin(n).public()));
        let op = Op { author, seq, prev: before.id(), time: NOW, body };
        let signed = self.sign(n, &op);
        assert_eq!(self.logs.insert(signed.clone()), Ok(Inserted::New));
        signed
    }

    /// Admin 1 grants device `n` its usual certificate.
    pub(super) fn grants(&mut self, n: u8) -> SignedAct {
        let certificate = self.certificate(n);
        self.does(1, OpBody::Grant(Box::new(certificate)))
    }

    /// The usual certificate of device `n`.
    pub(super) fn certificate(&self, n: u8) -> Certificate {
        let (id, wg) = (id_secret(n), wg_secret(n).public());
        Certificate {
            id: id.public(),
            wg,
            name: format!("device-{n}").parse().unwrap(),
            ipv4: Some([10, 71, 0, n].into()),
            groups: Vec::new(),
            routes: Vec::new(),
            flags: Flags { relay: true, ..Flags::default() },
            not_before: NOW,
            not_after: NOW.plus(365 * 86_400),
            invite: None,
            bind_sig: bind(&id, &wg, &self.network),
        }
    }

    /// The keys of invite `n`.
    pub(super) fn invite(&self, n: u8) -> InviteKeys {
        Invite::new(self.network, [n; 16], Vec::new()).keys()
    }

    /// Admin `n` opens invite `invite` for a day.
    pub(super) fn opens(&mut self, n: u8, invite: u8) -> SignedAct {
        let open = self.invite(invite).open(NOW.plus(86_400), false, None);
        self.does(n, OpBody::InviteOpen(open))
    }

    pub(super) fn roster(&self) -> Roster {
        self.roster_at(NOW)
    }

    pub(super) fn roster_at(&self, now: UnixTime) -> Roster {
        Roster::derive(&self.genesis, &self.logs, now)
    }
}

pub(super) fn revoke(n: u8) -> OpBody {
    let reason = "stolen".to_owned();
    OpBody::Revoke { device: device(n), reason, knet_generation: 2, knet_hash: [7; 32] }
}

pub(super) fn cut(n: u8, last: &SignedAct) -> OpBody {
    OpBody::AdminCut { admin: admin(n).public(), seq: last.op().seq, hash: last.id() }
}

pub(super) fn cut_whole(n: u8) -> OpBody {
    OpBody::AdminCut { admin: admin(n).public(), seq: 0, hash: OpId::NONE }
}

pub(super) fn admin(n: u8) -> AdminSecret {
    AdminSecret::from_seed([n; 32])
}

pub(super) fn device(n: u8) -> DeviceId {
    id_secret(n).public()
}

pub(super) fn id_secret(n: u8) -> IdSecret {
    IdSecret::from_seed([n ^ 0x80; 32])
}

pub(super) fn wg_secret(n: u8) -> WgSecret {
    WgSecret::from_bytes([n; 32])
}

/// A seeded generator (xorshift64*, Vigna 2016): the same numbers in every run.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        usize::try_from(number).unwrap() % bound
    }

    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at + 1));
        }
    }
}

/// Inserts until nothing more is taken, as a device that asks again does.
pub(super) fn insert_all(logs: &mut Logs, ops: &[SignedAct]) {
    loop {
        let before = logs.len();
        for op in ops {
            let _ = logs.insert(op.clone());
        }
        if logs.len() == before {
            return;
        }
    }
}
