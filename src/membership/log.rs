//! SKELETON (helper `membership` owns and completes this file).
use super::op::{Author, OpId, SignedOp, Verified};

/// Every valid op this device holds, by author and sequence number; forks are kept (both branches).
#[derive(Debug, Clone, Default)]
pub struct Logs { }

/// What `insert` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted { New, Known }

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    #[error("a bound of the roster was reached (R10)")]
    Full,
}

/// Where an author's log ends here: the longest contiguous chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Head { pub author: Author, pub seq: u64, pub id: OpId }

impl Logs {
    pub fn insert(&mut self, _op: Verified<SignedOp>) -> Result<Inserted, LogError> { todo!() }
    /// One entry an author, ordered.
    pub fn heads(&self) -> Vec<Head> { todo!() }
    /// First 8 bytes of H over all heads (and fork branches): equal digests = equal sets.
    pub fn digest(&self) -> [u8; 8] { todo!() }
    /// The ops of an author with `seq >= from`, in order, forks included.
    pub fn after(&self, _author: Author, _from: u64) -> impl Iterator<Item = &Verified<SignedOp>> { std::iter::empty() }
    pub fn iter(&self) -> impl Iterator<Item = &Verified<SignedOp>> { std::iter::empty() }
    pub fn get(&self, _id: OpId) -> Option<&Verified<SignedOp>> { todo!() }
    pub fn len(&self) -> usize { todo!() }
    pub fn is_empty(&self) -> bool { self.len() == 0 }
}
