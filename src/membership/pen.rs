//! What writes ops: each chained to the one before, and none where it would do harm.
//!
//! A device gets a [`Pen`] from the logs it holds. It refuses to write past a gap or (but for
//! denials, which count even so) past a fork of the author's own log, in a log that is full (R10),
//! and where the roster holds critical acts that this version does not know (R9). That the log was
//! compared with another device before is the caller's part.

use super::log::{DENIAL_OPS, Logs, MAX_LOG_OPS};
use super::op::{Author, Op, OpBody, OpError, OpId};
use super::reign::Reign;
use super::time::UnixTime;
use crate::identity::hash;

impl Logs {
    /// What writes the author's next ops.
    ///
    /// # Errors
    /// [`PenError`], where this device must not write in this log now.
    pub fn pen(&self, author: Author) -> Result<Pen, PenError> {
        let must_upgrade = |root| Reign::read(root, self).must_upgrade(self);
        if self.unknown().next().is_some() && self.root().is_some_and(must_upgrade) {
            return Err(PenError::Upgrade);
        }
        let head = self.head(author);
        let (seq, prev) = head.map_or((0, OpId::NONE), |head| (head.seq, head.id));
        let forked = self.is_forked(author);
        if !forked && self.after(author, seq + 1).next().is_some() {
            return Err(PenError::Gap);
        }
        let held = self.held(author);
        let room = MAX_LOG_OPS.saturating_sub(held.max(seq));
        Ok(Pen { author, seq, prev, forked, room })
    }

    /// The author's next op, ready to be signed.
    ///
    /// # Errors
    /// As [`Logs::pen`] and [`Pen::write`].
    pub fn next_op(&self, author: Author, time: UnixTime, body: OpBody) -> Result<Op, PenError> {
        self.pen(author)?.write(time, body)
    }
}

/// Writes the ops of one author, each chained to the one before.
///
/// It writes ahead of the logs: what it wrote must be signed, put on disk and inserted in its order,
/// or thrown away whole.
#[derive(Debug, Clone)]
pub struct Pen {
    author: Author,
    seq: u64,
    prev: OpId,
    forked: bool,
    room: u64,
}

/// Why this device must not write an op now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PenError {
    /// Only denials count past a fork.
    #[error(
        "this log is forked (its key was used on two devices, or old state was restored): \
         nothing but removals counts any more"
    )]
    Forked,
    /// Later ops of this author are held, and one before them is missing.
    #[error("this admin's own log is incomplete here; let it connect to another device first")]
    Gap,
    /// The log has no more room (R10).
    #[error("this admin's log is full")]
    Full,
    /// The roster holds acts that this version does not understand (R9).
    #[error("the network uses acts of a newer version of ginnel; upgrade this device first")]
    Upgrade,
    /// The op itself cannot be.
    #[error("the act cannot be signed: {0}")]
    Op(#[from] OpError),
}

impl Pen {
    /// The author's next op, ready to be signed.
    ///
    /// # Errors
    /// [`PenError::Forked`] and [`PenError::Full`] where only denials are left to this author, and
    /// [`PenError::Op`] where the body is none; nothing was written.
    pub fn write(&mut self, time: UnixTime, body: OpBody) -> Result<Op, PenError> {
        let denial = body.is_denial();
        if self.forked && !denial {
            return Err(PenError::Forked);
        }
        let reserved = match self.author {
            Author::Admin(_) if !denial => DENIAL_OPS,
            Author::Root(_) | Author::Admin(_) => 0,
        };
        if self.room <= reserved {
            return Err(PenError::Full);
        }
        let op = Op { author: self.author, seq: self.seq + 1, prev: self.prev, time, body };
        self.prev = OpId(hash(&op.encode()?));
        self.seq += 1;
        self.room -= 1;
        Ok(op)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{NOW, World, admin, cut_whole, device, revoke};
    use super::super::log::Inserted;
    use super::super::op::SignedOp;
    use super::*;

    #[test]
    fn a_pen_chains_what_it_writes() {
        let mut world = World::new(1);
        let mut pen = world.logs.pen(author(1)).unwrap();
        for n in 5..9 {
            let op = pen.write(NOW, revoke(n)).unwrap();
            let signed = SignedOp::sign_admin(&op, &admin(1), &world.network).unwrap();
            assert_eq!(world.logs.insert(signed), Ok(Inserted::New));
        }
        assert_eq!(world.logs.trunk(author(1)).len(), 5);
    }

    #[test]
    fn what_cannot_be_signed_leaves_the_pen_where_it_was() {
        let world = World::new(1);
        let mut pen = world.logs.pen(author(1)).unwrap();
        let add = OpBody::AdminAdd { admin: admin(2).public(), device: device(2) };
        assert_eq!(pen.write(NOW, add), Err(PenError::Op(OpError::Author)));
        assert_eq!(pen.write(NOW, revoke(5)), world.logs.next_op(author(1), NOW, revoke(5)));
    }

    #[test]
    fn past_a_fork_only_denials_are_written() {
        let mut world = World::new(1);
        let first = world.logs.after(author(1), 1).next().unwrap().clone();
        world.grants(2);
        world.branches(1, &first, revoke(9));
        let grant = OpBody::Grant(Box::new(world.certificate(3)));
        assert_eq!(world.logs.next_op(author(1), NOW, grant), Err(PenError::Forked));
        world.does(1, revoke(2));
        let standing = world.roster().standing(&device(2));
        assert!(matches!(standing, super::super::roster::Standing::Revoked { .. }));
    }

    #[test]
    fn an_admin_whose_own_log_has_a_gap_writes_nothing() {
        let mut world = World::new(1);
        let before = world.logs.clone();
        world.grants(2);
        let last = world.grants(3);
        let mut logs = before;
        logs.insert(last).unwrap();
        assert_eq!(logs.next_op(author(1), NOW, revoke(9)), Err(PenError::Gap));
    }

    #[test]
    fn a_critical_act_of_a_later_version_stops_every_pen_until_its_author_is_cut() {
        let mut world = World::new(2);
        world.does(2, OpBody::Unknown { kind: 77, critical: false, bytes: vec![1] });
        assert!(!world.roster().must_upgrade());
        world.does(1, revoke(9));
        let mut root_pen = world.logs.pen(Author::Root(world.root.public())).unwrap();
        world.does(2, OpBody::Unknown { kind: 77, critical: true, bytes: vec![1] });
        assert!(world.roster().must_upgrade());
        assert_eq!(world.logs.next_op(author(1), NOW, revoke(8)), Err(PenError::Upgrade));
        let cut = root_pen.write(NOW, cut_whole(2)).unwrap();
        let cut = SignedOp::sign_root(&cut, &world.root, &world.network).unwrap();
        world.logs.insert(cut).unwrap();
        assert!(!world.roster().must_upgrade());
        world.does(1, revoke(8));
    }

    fn author(n: u8) -> Author {
        Author::Admin(admin(n).public())
    }
}
