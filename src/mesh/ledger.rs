//! The membership as this device holds it: genesis, logs, and the roster that follows from them.
//!
//! [`Ledger`] is the only owner of the logs. An op gets in through [`Ledger::accept`], which
//! verifies it, or through [`Ledger::append`], which takes what this device signed itself after it
//! was written to disk. After either, [`Ledger::derive`] says which devices came and went; the
//! roster in force is always the one of the last `derive`.

use std::sync::{Arc, OnceLock};

use crate::identity::{DeviceId, NetworkId, RootId};
use crate::membership::log::{Inserted, LogError};
use crate::membership::op::OpError;
use crate::membership::pen::PenError;
use crate::membership::{Author, Genesis, Logs, Member, Op, OpBody, OpId, Roster, SignedOp};
use crate::membership::{UnixTime, Unverified, Verified};
use crate::mesh::rings::Rings;

/// Genesis, logs and roster of one network. A copy shares what it holds with the original until one of
/// them changes, so that it costs nothing.
#[derive(Debug, Clone)]
pub struct Ledger {
    network: NetworkId,
    /// `None` while a joining device has not been shown it.
    genesis: Option<Genesis>,
    logs: Arc<Logs>,
    roster: Arc<Roster>,
    /// Of the roster's members; made when they are first asked for.
    rings: Arc<OnceLock<Rings>>,
    /// For when the roster was derived, where no op came since.
    derived: Option<UnixTime>,
}

/// The logs of these ops, in whatever order they lie on disk, and how many found no place.
///
/// An admin's ops find their place only after the root's op that names the admin.
pub fn gather(root: RootId, ops: Vec<Verified<SignedOp>>) -> (Logs, usize) {
    let mut logs = Logs::new(root);
    let mut waiting = ops;
    loop {
        let before = waiting.len();
        waiting.retain(|op| logs.insert(op.clone()).is_err());
        if waiting.is_empty() || waiting.len() == before {
            return (logs, waiting.len());
        }
    }
}

/// How the roster differs from the one before.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Devices that are live and were not.
    pub added: Vec<DeviceId>,
    /// Devices that were live and are not, as they were.
    pub removed: Vec<Member>,
    /// Devices that are live and look different, as they were: another name, address or key.
    pub altered: Vec<Member>,
}

/// Why an op was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AcceptError {
    /// It is not an op of this network.
    #[error(transparent)]
    Op(#[from] OpError),
    /// The logs are full.
    #[error(transparent)]
    Log(#[from] LogError),
}

impl Ledger {
    /// An empty ledger of `network`, which knows nothing but the id.
    pub fn empty(network: NetworkId) -> Self {
        // No key verifies under an all-zero root, so this takes no ops.
        Self::of(network, None, Logs::new(RootId([0; 32])))
    }

    /// The ledger of a network of which the genesis is known. Nobody belongs before the roster was
    /// [derived](Self::derive).
    pub fn new(genesis: Genesis, logs: Logs) -> Self {
        Self::of(genesis.network_id(), Some(genesis), logs)
    }

    fn of(network: NetworkId, genesis: Option<Genesis>, logs: Logs) -> Self {
        let (roster, rings) = (Arc::default(), Arc::default());
        Self { network, genesis, logs: Arc::new(logs), roster, rings, derived: None }
    }

    /// The network.
    pub fn network(&self) -> &NetworkId {
        &self.network
    }

    /// The genesis, once it is known.
    pub fn genesis(&self) -> Option<&Genesis> {
        self.genesis.as_ref()
    }

    /// Every op.
    pub fn logs(&self) -> &Logs {
        &self.logs
    }

    /// The roster in force.
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// The circles on which the roster's members stand.
    pub fn rings(&self) -> &Rings {
        self.rings.get_or_init(|| Rings::of(self.roster.members().map(|member| member.id)))
    }

    /// Verifies and takes an op; `None` where it was known already.
    pub fn accept(&mut self, op: Unverified<SignedOp>) -> Result<Option<OpId>, AcceptError> {
        let op = op.verify(&self.network)?;
        self.append(op)
    }

    /// Takes an op that is verified; `None` where it was known already.
    pub fn append(&mut self, op: Verified<SignedOp>) -> Result<Option<OpId>, AcceptError> {
        let id = op.id();
        if self.logs.contains(id) {
            return Ok(None);
        }
        Ok(match Arc::make_mut(&mut self.logs).insert(op)? {
            Inserted::New => {
                self.derived = None;
                Some(id)
            }
            Inserted::Known => None,
        })
    }

    /// The op that would come next in the log of `author`.
    pub fn next(&self, author: Author, time: UnixTime, body: OpBody) -> Result<Op, PenError> {
        self.logs.next_op(author, time, body)
    }

    /// Derives the roster anew, where another one can come of it, and says what changed.
    pub fn derive(&mut self, now: UnixTime) -> Changes {
        let Some(genesis) = &self.genesis else { return Changes::default() };
        let until = self.roster.next_change();
        if self.derived.is_some_and(|at| at <= now && until.is_none_or(|until| now < until)) {
            return Changes::default();
        }
        self.derived = Some(now);
        let new = Arc::new(Roster::derive(genesis, &self.logs, now));
        let old = std::mem::replace(&mut self.roster, new);
        let mut changes = Changes::default();
        for member in self.roster.members() {
            match old.get(&member.id) {
                None => changes.added.push(member.id),
                Some(old) if old != member => changes.altered.push(old.clone()),
                Some(_) => {}
            }
        }
        let gone = old.members().filter(|member| self.roster.get(&member.id).is_none());
        changes.removed = gone.cloned().collect();
        if !changes.added.is_empty() || !changes.removed.is_empty() {
            self.rings = Arc::default();
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{AdminSecret, RootSecret};
    use crate::membership::GenesisPool;

    #[test]
    fn a_copy_is_the_same_logs_and_roster_until_one_of_them_changes() {
        let root = RootSecret::from_seed([1; 32]);
        let genesis = Genesis {
            version: 1,
            root: root.public(),
            created: UnixTime(1),
            salt: [0; 16],
            ipv4_pool: GenesisPool::Default,
            name: "home".parse().unwrap(),
        };
        let mut ledger = Ledger::new(genesis, Logs::new(root.public()));
        ledger.derive(UnixTime(1));
        let mut copy = ledger.clone();
        assert!(Arc::ptr_eq(&ledger.logs, &copy.logs));
        assert!(Arc::ptr_eq(&ledger.roster, &copy.roster));

        let admin = AdminSecret::from_seed([2; 32]).public();
        let add = OpBody::AdminAdd { admin, device: DeviceId([3; 32]) };
        let add = copy.next(Author::Root(root.public()), UnixTime(2), add).unwrap();
        let add = SignedOp::sign_root(&add, &root, copy.network()).unwrap();
        assert!(copy.append(add.clone()).unwrap().is_some());
        copy.derive(UnixTime(2));
        assert!(copy.roster().is_admin(&admin) && !ledger.roster().is_admin(&admin));
        assert!(ledger.logs().is_empty());

        let logs = copy.logs.clone();
        assert_eq!(copy.append(add), Ok(None));
        assert!(Arc::ptr_eq(&copy.logs, &logs), "what is known changes nothing");
    }
}
