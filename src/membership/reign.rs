//! Who may speak, and how far each admin's log counts (R1, R2).

use std::collections::{BTreeMap, BTreeSet};

use super::log::Logs;
use super::op::{Author, Op, OpBody, OpId, SignedOp, Verified};
use super::roster::{Alarm, MAX_ADMINS};
use crate::identity::{AdminId, DeviceId, RootId};

/// Who may speak, and how far (R1, R2).
#[derive(Default)]
pub(super) struct Reign {
    /// Admins that are not cut.
    pub(super) admins: BTreeMap<AdminId, DeviceId>,
    /// How far the log of each admin counts, the cut ones included.
    pub(super) chains: BTreeMap<AdminId, Chain>,
    /// Root's ops that do not count.
    pub(super) ineffective: BTreeSet<OpId>,
    pub(super) alarms: BTreeSet<Alarm>,
}

/// How far an admin's log counts.
pub(super) enum Chain {
    /// Up to its first fork, at most this `seq`.
    Trunk(u64),
    /// These ops, of which the last is the cut.
    Ancestors(BTreeSet<OpId>),
    /// Root cut it at this `seq`, at an op that is not held: nothing it allowed, and all it denied
    /// so far.
    Lost(u64),
}

impl Chain {
    /// Whether an op that allows counts (R3).
    pub(super) fn allows(&self, op: &Verified<SignedOp>) -> bool {
        match self {
            Self::Trunk(len) => op.op().seq <= *len,
            Self::Ancestors(ids) => ids.contains(&op.id()),
            Self::Lost(_) => false,
        }
    }

    /// Whether an op that denies counts (R4).
    pub(super) fn denies(&self, op: &Verified<SignedOp>) -> bool {
        match self {
            Self::Trunk(_) => true,
            Self::Ancestors(ids) => ids.contains(&op.id()),
            Self::Lost(seq) => op.op().seq <= *seq,
        }
    }

    /// What both leave.
    fn meet(self, other: Self) -> Self {
        match (self, other) {
            (Self::Ancestors(a), Self::Ancestors(b)) => {
                Self::Ancestors(a.intersection(&b).copied().collect())
            }
            (Self::Lost(a), Self::Lost(b)) => Self::Lost(a.min(b)),
            (Self::Trunk(_), chain) | (chain, Self::Trunk(_)) => chain,
            (Self::Lost(seq), _) | (_, Self::Lost(seq)) => Self::Lost(seq),
        }
    }
}

impl Reign {
    /// Reads root's log.
    pub(super) fn read(root: RootId, logs: &Logs) -> Self {
        let root = Author::Root(root);
        let mut reign = Self::default();
        if logs.is_forked(root) {
            reign.alarms.insert(Alarm::RootFork);
        }
        let effective = logs.trunk(root).len() as u64;
        let mut cuts: BTreeMap<AdminId, Chain> = BTreeMap::new();
        for op in logs.after(root, 1) {
            if op.op().seq > effective {
                reign.ineffective.insert(op.id());
                continue;
            }
            match op.op().body {
                OpBody::AdminAdd { admin, device } => {
                    let counts = reign.add_admin(admin, device, cuts.contains_key(&admin));
                    if !counts {
                        reign.ineffective.insert(op.id());
                    }
                }
                OpBody::AdminCut { admin, seq, hash } => {
                    reign.admins.remove(&admin);
                    let chain = ancestors(logs, admin, seq, hash);
                    let chain = match cuts.remove(&admin) {
                        Some(earlier) => earlier.meet(chain),
                        None => chain,
                    };
                    cuts.insert(admin, chain);
                }
                _ => {}
            }
        }
        reign.measure_chains(logs, cuts);
        reign
    }

    /// R2: how far the log of each admin counts.
    fn measure_chains(&mut self, logs: &Logs, mut cuts: BTreeMap<AdminId, Chain>) {
        for (admin, chain) in &mut self.chains {
            if let Some(cut) = cuts.remove(admin) {
                *chain = cut;
                continue;
            }
            let author = Author::Admin(*admin);
            *chain = Chain::Trunk(logs.trunk(author).len() as u64);
            if logs.is_forked(author) {
                self.alarms.insert(Alarm::AdminFork(*admin));
            }
        }
    }

    /// Whether a critical op of a kind that this version does not know counts (R9).
    pub(super) fn must_upgrade(&self, logs: &Logs) -> bool {
        logs.unknown().any(|op| match op.op().author {
            Author::Root(_) => !self.ineffective.contains(&op.id()),
            Author::Admin(admin) => self.chains.get(&admin).is_some_and(|chain| chain.allows(op)),
        })
    }

    /// Whether the AdminAdd counts: the first of a key that was not cut, within the bound.
    fn add_admin(&mut self, admin: AdminId, device: DeviceId, cut: bool) -> bool {
        if cut || self.chains.contains_key(&admin) {
            return false;
        }
        if self.admins.len() >= MAX_ADMINS {
            self.alarms.insert(Alarm::Full);
            return false;
        }
        self.admins.insert(admin, device);
        self.chains.insert(admin, Chain::Trunk(0));
        true
    }
}

/// The ops of `admin` that lead up to the op `hash` at `seq`, that op included.
fn ancestors(logs: &Logs, admin: AdminId, seq: u64, hash: OpId) -> Chain {
    let (mut ids, mut at) = (BTreeSet::new(), hash);
    for expected in (1..=seq).rev() {
        match logs.get(at).map(|op| (op.id(), op.op())) {
            Some((id, Op { author, seq, prev, .. }))
                if *author == Author::Admin(admin) && *seq == expected =>
            {
                ids.insert(id);
                at = *prev;
            }
            _ => return Chain::Lost(seq),
        }
    }
    Chain::Ancestors(ids)
}
