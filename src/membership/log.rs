//! Every valid op this device holds, by author and sequence number, forks included.
//!
//! A log is what one author wrote: each op names the one before it, so an honest log is a chain.
//! Ops may come in any order and twice. The *trunk* of a log is its longest prefix without a fork
//! (one op at each `seq`, each naming the one before); what lies off the trunk is kept too, because
//! a `Revoke` counts wherever it was signed (R4) and because two branches are the proof of a fork.
//!
//! # Who gets in
//! Root, and every admin that an op of root names. A stranger's ops are refused
//! ([`LogError::Stranger`]), so nobody but root can make a device hold more logs. An admin's ops may
//! come before the `AdminAdd` that names it: the reader asks for them again.
//!
//! # Bounds (R10)
//! [`MAX_LOG_OPS`] ops a log and [`MAX_BYTES`] in all. The last part of both is kept for denials,
//! and of the bytes the very last for root: a log that somebody filled up can still take away, and
//! root can still cut whoever filled it. At one `seq` of a forked log only the two allowing ops of
//! the lowest ids are kept: two prove the fork, and no more of them could count.
//!
//! # Comparing
//! [`Logs::heads`] and [`Logs::digest`] are what devices tell one another; [`Logs::missing`] says
//! what to ask for. Inserting is O(log n), a digest O(authors + ops off the trunks).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::op::{Author, OpBody, OpId, SignedOp, Verified};
use crate::identity::{AdminId, RootId, hash};

/// The most ops of one log.
pub const MAX_LOG_OPS: u64 = 65_536;

/// The most wire bytes of all logs together: 64 MiB.
pub const MAX_BYTES: usize = 64 << 20;

/// How many of [`MAX_LOG_OPS`] only denials may use: a sixteenth, more than an admin ever revokes
/// by hand.
pub(super) const DENIAL_OPS: u64 = MAX_LOG_OPS / 16;

/// How many of [`MAX_BYTES`] only denials and root may use: an eighth each.
const RESERVED_BYTES: usize = MAX_BYTES / 8;

/// How many allowing ops are kept at one `seq`: two prove a fork.
const BRANCHES: usize = 2;

/// Where an op stands in the logs; the order in which ops are listed.
type Place = (Author, u64, OpId);

/// Every valid op this device holds. The default one belongs to no network and takes no op.
#[derive(Debug, Clone, Default)]
pub struct Logs {
    root: Option<RootId>,
    /// Every admin that an op of root names, whether or not it counts.
    admins: BTreeSet<AdminId>,
    /// By reference: half of a tree's nodes that was filled in order is empty, and copies of the logs
    /// share what never changes.
    ops: BTreeMap<Place, Arc<Verified<SignedOp>>>,
    places: HashMap<OpId, (Author, u64)>,
    logs: BTreeMap<Author, Log>,
    /// Critical ops of kinds this version does not know (R9).
    unknown: BTreeSet<OpId>,
    bytes: usize,
    refused: bool,
}

/// What is kept of one author beside its ops.
#[derive(Debug, Clone, Default)]
struct Log {
    /// The ids of the trunk, `seq` 1 first.
    trunk: Vec<OpId>,
    /// Ops held, the trunk's included.
    len: u64,
}

/// What `insert` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// The op is held from now on; tell the others.
    New,
    /// It was held already, or is one more branch of a fork that is proved already.
    Known,
}

/// Why an op was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// A bound was reached; the logs go on without the op, and an alarm is raised.
    #[error("a bound of the roster was reached (R10)")]
    Full,
    /// Neither this network's root nor an admin that it named.
    #[error("the author is no admin of this network")]
    Stranger,
}

/// Where an author's log ends here: the longest contiguous chain; of a fork's branches the one with
/// the lowest id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Head {
    /// Whose log.
    pub author: Author,
    /// The sequence number of its last op.
    pub seq: u64,
    /// The id of its last op.
    pub id: OpId,
}

impl Logs {
    /// The empty logs of the network with this root.
    pub fn new(root: RootId) -> Self {
        Self { root: Some(root), ..Self::default() }
    }

    /// Takes an op.
    ///
    /// # Errors
    /// [`LogError::Stranger`] and [`LogError::Full`]; nothing was changed.
    pub fn insert(&mut self, op: Verified<SignedOp>) -> Result<Inserted, LogError> {
        if self.contains(op.id()) {
            return Ok(Inserted::Known);
        }
        if !self.admits(op.op().author) {
            return Err(LogError::Stranger);
        }
        let excess = match self.excess_branch(&op) {
            Branch::Keep => None,
            Branch::Replace(worst) => Some(worst),
            Branch::Drop => return Ok(Inserted::Known),
        };
        if excess.is_none() && !self.has_room(&op) {
            self.refused = true;
            return Err(LogError::Full);
        }
        if let Some(worst) = excess {
            self.remove(worst);
        }
        self.add(op);
        Ok(Inserted::New)
    }

    /// Whether ops of this author are taken.
    pub fn admits(&self, author: Author) -> bool {
        match author {
            Author::Root(root) => self.root == Some(root),
            Author::Admin(admin) => self.admins.contains(&admin),
        }
    }

    /// One entry an author, ordered.
    pub fn heads(&self) -> Vec<Head> {
        self.logs.keys().filter_map(|author| self.head(*author)).collect()
    }

    /// Where this author's log ends here.
    pub fn head(&self, author: Author) -> Option<Head> {
        let trunk = self.trunk(author);
        let (mut seq, mut id) = (trunk.len() as u64, trunk.last().copied().unwrap_or(OpId::NONE));
        while let Some(next) = self.at(author, seq + 1).find(|op| op.op().prev == id) {
            (seq, id) = (seq + 1, next.id());
        }
        (seq > 0).then_some(Head { author, seq, id })
    }

    /// The first 8 bytes of `H` over all logs, what lies off their trunks included: equal digests,
    /// equal sets.
    pub fn digest(&self) -> [u8; 8] {
        let mut text = Vec::new();
        for author in self.logs.keys() {
            let trunk = self.trunk(*author);
            let (tag, key) = match author {
                Author::Root(RootId(key)) => (0, key),
                Author::Admin(AdminId(key)) => (1, key),
            };
            text.push(tag);
            text.extend_from_slice(key);
            text.extend_from_slice(&(trunk.len() as u64).to_be_bytes());
            text.extend_from_slice(&trunk.last().unwrap_or(&OpId::NONE).0);
            for loose in self.off_trunk(*author) {
                text.extend_from_slice(&loose.op().seq.to_be_bytes());
                text.extend_from_slice(&loose.id().0);
            }
        }
        let mut digest = [0; 8];
        digest.copy_from_slice(&hash(&text)[..8]);
        digest
    }

    /// What to ask of a device that told these `heads` and this `digest`: for each author the first
    /// sequence number that may be missing here. Where only branches of a fork can differ, whole
    /// logs: that is rare, and it ends.
    pub fn missing(&self, heads: &[Head], digest: [u8; 8]) -> Vec<(Author, u64)> {
        if digest == self.digest() {
            return Vec::new();
        }
        let ours = self.heads();
        let wanted: Vec<_> =
            heads.iter().filter_map(|head| Some((head.author, self.missing_from(head)?))).collect();
        if wanted.is_empty() && ours == heads {
            return ours.iter().map(|head| (head.author, 1)).collect();
        }
        wanted
    }

    /// The ops of an author with `seq >= from`, in order, forks included.
    pub fn after(&self, author: Author, from: u64) -> impl Iterator<Item = &Verified<SignedOp>> {
        let first = (author, from, OpId::NONE);
        let last = (author, u64::MAX, OpId([0xff; 32]));
        self.ops.range(first..=last).map(|(_, op)| &**op)
    }

    /// Every op: root's first, then by author and sequence number. Inserted in this order into
    /// empty logs, every op is taken.
    pub fn iter(&self) -> impl Iterator<Item = &Verified<SignedOp>> {
        self.ops.values().map(|op| &**op)
    }

    /// The op with this id.
    pub fn get(&self, id: OpId) -> Option<&Verified<SignedOp>> {
        let (author, seq) = *self.places.get(&id)?;
        self.ops.get(&(author, seq, id)).map(|op| &**op)
    }

    /// Whether the op with this id is held.
    pub fn contains(&self, id: OpId) -> bool {
        self.places.contains_key(&id)
    }

    /// Ops held.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether no op is held.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// The wire bytes of all ops held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether an op was ever refused because a bound was reached.
    pub fn has_refused(&self) -> bool {
        self.refused
    }

    /// Whether the author signed two ops of which neither leads to the other.
    pub fn is_forked(&self, author: Author) -> bool {
        let next = self.trunk(author).len() as u64 + 1;
        self.at(author, next).next().is_some()
    }

    /// The author's longest prefix without a fork: its ids, `seq` 1 first.
    pub fn trunk(&self, author: Author) -> &[OpId] {
        self.logs.get(&author).map_or(&[], |log| &log.trunk)
    }

    /// Ops held of this author.
    pub(super) fn held(&self, author: Author) -> u64 {
        self.logs.get(&author).map_or(0, |log| log.len)
    }

    /// The root whose network this is.
    pub(super) fn root(&self) -> Option<RootId> {
        self.root
    }

    /// The critical ops of kinds that this version does not know.
    pub(super) fn unknown(&self) -> impl Iterator<Item = &Verified<SignedOp>> {
        self.unknown.iter().filter_map(|id| self.get(*id))
    }

    /// The ops at one place of a log, lowest id first.
    fn at(&self, author: Author, seq: u64) -> impl Iterator<Item = &Verified<SignedOp>> {
        let place = (author, seq, OpId::NONE)..=(author, seq, OpId([0xff; 32]));
        self.ops.range(place).map(|(_, op)| &**op)
    }

    fn off_trunk(&self, author: Author) -> impl Iterator<Item = &Verified<SignedOp>> {
        self.after(author, self.trunk(author).len() as u64 + 1)
    }

    /// From where to ask for the log that ends in `theirs`; `None` where nothing is missing.
    fn missing_from(&self, theirs: &Head) -> Option<u64> {
        let ours = self.head(theirs.author).map_or(0, |head| head.seq);
        match (self.contains(theirs.id), theirs.seq > ours) {
            (true, false) => None,
            (false, true) => Some(self.trunk(theirs.author).len() as u64 + 1),
            // Their end hangs in the air here, or is another branch: its root may be anywhere.
            (true, true) | (false, false) => Some(1),
        }
    }

    fn has_room(&self, op: &Verified<SignedOp>) -> bool {
        let denial = op.op().body.is_denial();
        let (ops, bytes) = match op.op().author {
            Author::Root(_) => (MAX_LOG_OPS, MAX_BYTES),
            Author::Admin(_) if denial => (MAX_LOG_OPS, MAX_BYTES - RESERVED_BYTES),
            Author::Admin(_) => (MAX_LOG_OPS - DENIAL_OPS, MAX_BYTES - 2 * RESERVED_BYTES),
        };
        self.held(op.op().author) < ops
            && op.op().seq <= MAX_LOG_OPS
            && self.bytes + op.signed().wire_len() <= bytes
    }

    /// What to do with one more op at its place.
    fn excess_branch(&self, op: &Verified<SignedOp>) -> Branch {
        if op.op().body.is_denial() {
            return Branch::Keep;
        }
        let others = self.at(op.op().author, op.op().seq).filter(|o| !o.op().body.is_denial());
        let others: Vec<_> = others.map(Verified::id).collect();
        match others.last() {
            Some(worst) if others.len() >= BRANCHES => {
                if op.id() < *worst {
                    Branch::Replace(*worst)
                } else {
                    Branch::Drop
                }
            }
            _ => Branch::Keep,
        }
    }

    fn add(&mut self, op: Verified<SignedOp>) {
        let (author, seq, id) = (op.op().author, op.op().seq, op.id());
        match op.op().body {
            OpBody::AdminAdd { admin, .. } => {
                self.admins.insert(admin);
            }
            OpBody::Unknown { critical: true, .. } => {
                self.unknown.insert(id);
            }
            _ => {}
        }
        self.bytes += op.signed().wire_len();
        self.places.insert(id, (author, seq));
        self.ops.insert((author, seq, id), Arc::new(op));
        self.logs.entry(author).or_default().len += 1;
        self.settle(author, seq);
    }

    fn remove(&mut self, id: OpId) {
        let Some((author, seq)) = self.places.remove(&id) else { return };
        if let Some(op) = self.ops.remove(&(author, seq, id)) {
            self.bytes -= op.signed().wire_len();
        }
        if let Some(log) = self.logs.get_mut(&author) {
            log.len -= 1;
        }
        self.unknown.remove(&id);
    }

    /// Brings the trunk up to date after an op came to `seq`. A trunk that a fork cut short never
    /// grows past it again, so all the work together is linear.
    fn settle(&mut self, author: Author, seq: u64) {
        let mut trunk = match self.logs.get_mut(&author) {
            Some(log) => std::mem::take(&mut log.trunk),
            None => return,
        };
        if seq <= trunk.len() as u64 {
            trunk.truncate(usize::try_from(seq - 1).unwrap_or(usize::MAX));
        } else {
            loop {
                let mut next = self.at(author, trunk.len() as u64 + 1);
                let (Some(only), None) = (next.next(), next.next()) else { break };
                if only.op().prev != trunk.last().copied().unwrap_or(OpId::NONE) {
                    break;
                }
                trunk.push(only.id());
            }
        }
        if let Some(log) = self.logs.get_mut(&author) {
            log.trunk = trunk;
        }
    }
}

/// What to do with one more op where a log is forked.
enum Branch {
    Keep,
    Replace(OpId),
    Drop,
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Dice, NOW, SignedAct, World, admin, insert_all, revoke};
    use super::super::op::Op;
    use super::super::roster::Roster;
    use super::*;

    #[test]
    fn ops_may_come_in_any_order_and_twice() {
        let mut world = World::new(1);
        let ops: Vec<_> = (2..12).map(|n| world.grants(n)).collect();
        let mut logs = bare(&world);
        for op in ops.iter().rev() {
            assert_eq!(logs.insert(op.clone()), Ok(Inserted::New));
            assert_eq!(logs.insert(op.clone()), Ok(Inserted::Known));
        }
        assert_eq!(logs.head(author(1)), None, "the first of the log is missing");
        assert_eq!(logs.trunk(author(1)).len(), 0);
        insert_all(&mut logs, &all(&world));
        assert_eq!(logs.heads(), world.logs.heads());
        assert_eq!(logs.digest(), world.logs.digest());
        assert_eq!(logs.trunk(author(1)).len(), 11);
        assert_eq!((logs.len(), logs.bytes()), (world.logs.len(), world.logs.bytes()));
    }

    #[test]
    fn a_head_is_the_end_of_what_hangs_together() {
        let mut world = World::new(1);
        let ops: Vec<_> = (2..6).map(|n| world.grants(n)).collect();
        let mut logs = bare(&world);
        logs.insert(all(&world)[1].clone()).unwrap();
        logs.insert(ops[0].clone()).unwrap();
        logs.insert(ops[2].clone()).unwrap();
        let head = Head { author: author(1), seq: 2, id: ops[0].id() };
        assert_eq!(logs.head(author(1)), Some(head));
        assert!(!logs.is_forked(author(1)));
        assert_eq!(logs.after(author(1), 3).map(Verified::id).collect::<Vec<_>>(), [ops[2].id()]);
        assert_eq!(logs.get(ops[2].id()), Some(&ops[2]));
        assert_eq!(logs.get(ops[3].id()), None);
    }

    #[test]
    fn strangers_are_refused_however_many_they_are() {
        let mut world = World::new(1);
        for n in 0..100_000_u32 {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&n.to_be_bytes());
            let author = Author::Admin(AdminId(key));
            let op = Op { author, seq: 1, prev: OpId::NONE, time: NOW, body: revoke(1) };
            assert_eq!(world.logs.insert(Verified::unsigned(op)), Err(LogError::Stranger));
        }
        let mut foreign = Logs::new(RootId([9; 32]));
        let mut nobodys = Logs::default();
        for op in world.logs.iter() {
            assert_eq!(foreign.insert(op.clone()), Err(LogError::Stranger));
            assert_eq!(nobodys.insert(op.clone()), Err(LogError::Stranger));
        }
        assert!(foreign.is_empty() && nobodys.is_empty());
    }

    #[test]
    fn iteration_gives_an_order_in_which_every_op_is_taken() {
        let mut world = World::new(3);
        world.grants(9);
        world.does(3, revoke(2));
        let mut logs = Logs::new(world.root.public());
        for op in world.logs.iter() {
            assert_eq!(logs.insert(op.clone()), Ok(Inserted::New));
        }
        assert_eq!(logs.digest(), world.logs.digest());
    }

    #[test]
    fn a_fork_ends_the_trunk_and_both_branches_stay() {
        let mut world = World::new(1);
        let first = all(&world)[1].clone();
        let ops: Vec<_> = (2..6).map(|n| world.grants(n)).collect();
        let before = world.logs.digest();
        let other = world.branches(1, &first, revoke(9));
        assert!(world.logs.is_forked(author(1)));
        assert_eq!(world.logs.trunk(author(1)), [first.id()]);
        assert_ne!(world.logs.digest(), before);
        for op in ops.iter().chain([&other]) {
            assert!(world.logs.contains(op.id()));
        }
        assert_eq!(world.logs.insert(ops[0].clone()), Ok(Inserted::Known));
    }

    #[test]
    fn a_fork_is_the_same_in_whatever_order_its_ops_came() {
        let mut world = World::new(1);
        let first = all(&world)[1].clone();
        let second = world.grants(2);
        for n in 3..8 {
            world.grants(n);
        }
        let mut branch = world.branches(1, &first, revoke(9));
        for n in 20..25 {
            branch = world.branches(1, &branch, revoke(n));
        }
        world.branches(1, &second, revoke(30));
        let mut ops = all(&world);
        let mut dice = Dice(7);
        for _ in 0..50 {
            dice.shuffle(&mut ops);
            let mut logs = Logs::new(world.root.public());
            insert_all(&mut logs, &ops);
            assert_eq!(logs.heads(), world.logs.heads());
            assert_eq!(logs.digest(), world.logs.digest());
            assert_eq!(logs.trunk(author(1)), [first.id()]);
        }
    }

    #[test]
    fn of_a_many_headed_fork_two_branches_and_every_denial_stay() {
        let world = World::new(1);
        let first = all(&world)[1].clone();
        let author = author(1);
        let mut ops = Vec::new();
        for n in 2..40 {
            let grant = OpBody::Grant(Box::new(world.certificate(n)));
            for body in [grant, revoke(n)] {
                let op = Op { author, seq: 2, prev: first.id(), time: NOW, body };
                ops.push(world.sign(1, &op));
            }
        }
        let mut dice = Dice(3);
        let mut digests = BTreeSet::new();
        for _ in 0..20 {
            dice.shuffle(&mut ops);
            let mut logs = world.logs.clone();
            insert_all(&mut logs, &ops);
            let denials = logs.after(author, 2).filter(|op| op.op().body.is_denial()).count();
            assert_eq!((denials, logs.after(author, 2).count()), (38, 38 + BRANCHES));
            assert_eq!(logs.bytes(), logs.iter().map(|op| op.signed().wire_len()).sum::<usize>());
            digests.insert(logs.digest());
        }
        assert_eq!(digests.len(), 1);
    }

    #[test]
    fn a_full_log_still_takes_denials_until_the_very_end() {
        let world = World::new(1);
        let mut logs = world.logs.clone();
        let mut chain = Chainer::after(&logs);
        while chain.seq < MAX_LOG_OPS - DENIAL_OPS {
            assert_eq!(logs.insert(chain.next(close(0))), Ok(Inserted::New));
        }
        assert!(!logs.has_refused());
        let grant = OpBody::Grant(Box::new(world.certificate(9)));
        assert_eq!(logs.insert(chain.clone().next(grant.clone())), Err(LogError::Full));
        assert!(logs.has_refused());
        assert_eq!(
            logs.pen(author(1)).unwrap().write(NOW, grant),
            Err(super::super::pen::PenError::Full)
        );
        while chain.seq < MAX_LOG_OPS {
            assert_eq!(logs.insert(chain.next(revoke(9))), Ok(Inserted::New));
        }
        assert_eq!(logs.insert(chain.next(revoke(9))), Err(LogError::Full));
        assert_eq!(logs.trunk(author(1)).len() as u64, MAX_LOG_OPS);
    }

    #[test]
    fn an_admin_that_fills_every_byte_cannot_keep_root_from_cutting_it() {
        let mut world = World::new(2);
        let junk = OpBody::Unknown { kind: 99, critical: false, bytes: vec![0; 900] };
        for n in [1, 2] {
            let mut chain = Chainer { author: author(n), ..Chainer::after(&world.logs) };
            if n == 2 {
                (chain.seq, chain.prev) = (0, OpId::NONE);
            }
            while world.logs.insert(chain.next(junk.clone())).is_ok() {}
        }
        assert!(world.logs.bytes() <= MAX_BYTES - 2 * RESERVED_BYTES);
        assert!(world.logs.has_refused());
        world.does(1, revoke(9));
        world.root_does(super::super::fixture::cut_whole(2));
        assert!(!world.roster().is_admin(&admin(2).public()));
    }

    #[test]
    fn a_hundred_thousand_ops_go_in_in_any_order_and_come_out_as_one_roster() {
        let world = World::new(2);
        let mut ops = all(&world);
        for n in [1, 2] {
            let mut chain = Chainer { author: author(n), ..Chainer::after(&world.logs) };
            if n == 2 {
                (chain.seq, chain.prev) = (0, OpId::NONE);
            }
            ops.extend((0..50_000).map(|n| chain.next(close(n))));
        }
        let root_ops = ops[..2].to_vec();
        Dice(5).shuffle(&mut ops);
        let mut logs = Logs::new(world.root.public());
        for op in root_ops {
            logs.insert(op).unwrap();
        }
        for op in ops {
            logs.insert(op).unwrap();
        }
        assert_eq!(logs.trunk(author(1)).len(), 50_002);
        assert_eq!(logs.trunk(author(2)).len(), 50_000);
        let roster = Roster::derive(&world.genesis, &logs, NOW);
        assert_eq!(roster, world.roster());
        assert_eq!(roster.len(), 2);
    }

    #[test]
    fn two_devices_find_what_each_is_missing() {
        let mut world = World::new(2);
        for n in 3..8 {
            world.grants(n);
        }
        world.does(2, revoke(5));
        let everything = all(&world);
        for share in 0..=everything.len() {
            let mut one = Logs::new(world.root.public());
            let mut two = Logs::new(world.root.public());
            insert_all(&mut one, &everything[..share]);
            insert_all(&mut two, &everything[everything.len() - share..]);
            insert_all(&mut two, &everything[..2]);
            converge(&mut one, &mut two);
        }
    }

    #[test]
    fn two_devices_with_two_branches_of_a_fork_find_what_each_is_missing() {
        let mut world = World::new(1);
        let mut stem = all(&world)[1].clone();
        for n in 2..6 {
            stem = world.grants(n);
        }
        for lengths in [(1, 1), (1, 6), (6, 1), (4, 4)] {
            let (mut one, mut two) = (world.logs.clone(), world.logs.clone());
            for (logs, length, salt) in [(&mut one, lengths.0, 30), (&mut two, lengths.1, 60)] {
                let mut chain = Chainer { author: author(1), seq: stem.op().seq, prev: stem.id() };
                for n in 0..length {
                    logs.insert(chain.next(revoke(salt + n))).unwrap();
                }
            }
            converge(&mut one, &mut two);
            assert!(one.is_forked(author(1)));
        }
    }

    /// Both ask each other, as often as it takes, and then hold the same.
    fn converge(one: &mut Logs, two: &mut Logs) {
        for _ in 0..4 {
            for asks in [true, false] {
                let (asker, other) = if asks { (&mut *one, &*two) } else { (&mut *two, &*one) };
                for (author, from) in asker.missing(&other.heads(), other.digest()) {
                    for op in other.after(author, from) {
                        let _ = asker.insert(op.clone());
                    }
                }
            }
        }
        assert_eq!(one.digest(), two.digest());
        assert_eq!((one.heads(), one.len()), (two.heads(), two.len()));
        assert!(one.missing(&two.heads(), two.digest()).is_empty());
    }

    /// Chains ops that nobody signed.
    #[derive(Clone)]
    struct Chainer {
        author: Author,
        seq: u64,
        prev: OpId,
    }

    impl Chainer {
        /// After the end of admin 1's log.
        fn after(logs: &Logs) -> Self {
            let head = logs.head(author(1)).unwrap();
            Self { author: head.author, seq: head.seq, prev: head.id }
        }

        fn next(&mut self, body: OpBody) -> SignedAct {
            self.seq += 1;
            let (author, seq, prev) = (self.author, self.seq, self.prev);
            let op = Verified::unsigned(Op { author, seq, prev, time: NOW, body });
            self.prev = op.id();
            op
        }
    }

    fn close(n: u32) -> OpBody {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&n.to_be_bytes());
        OpBody::InviteClose { invite: super::super::invite::InviteId(id) }
    }

    /// The logs of the world with nothing but root's ops.
    fn bare(world: &World) -> Logs {
        let mut logs = Logs::new(world.root.public());
        for op in world.logs.after(Author::Root(world.root.public()), 1) {
            logs.insert(op.clone()).unwrap();
        }
        logs
    }

    fn all(world: &World) -> Vec<SignedAct> {
        world.logs.iter().cloned().collect()
    }

    fn author(n: u8) -> Author {
        Author::Admin(admin(n).public())
    }
}
