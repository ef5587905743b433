//! The requests that were answered, each once.
//!
//! A request is authentic for as long as its hour's tag is, up to three hours. Recorded and sent
//! again from the peer's own address it would draw on the answers that the peer's true checks need,
//! and a path whose checks go unanswered dies. A true request never comes twice: each has a
//! transaction of its own.

use std::collections::VecDeque;

use crate::wire::stun::TransactionId;

/// How many are remembered: hours of checks of a path in use, in 8 KiB.
const REMEMBERED: usize = 1024;

/// The latest transactions of one peer, oldest first, by their first 8 bytes: which are random, and
/// which only the peer can choose.
#[derive(Debug, Default)]
pub(super) struct Answered(VecDeque<u64>);

impl Answered {
    /// Whether this one was answered before.
    pub(super) fn contains(&self, transaction: &TransactionId) -> bool {
        self.0.contains(&short(transaction))
    }

    /// Remembers this one, and forgets the oldest where there are too many.
    pub(super) fn insert(&mut self, transaction: &TransactionId) {
        if self.0.len() == REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back(short(transaction));
    }
}

fn short(transaction: &TransactionId) -> u64 {
    let bytes = transaction.as_bytes().first_chunk().copied();
    u64::from_be_bytes(bytes.unwrap_or_default())
}
