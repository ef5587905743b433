//! What the DHT is asked to do, and which stores have not been answered.

use std::collections::{BTreeMap, VecDeque};

use crate::membership::invite::InviteId;
use crate::wire::record::{DhtKey, SignedItem};

/// What a store is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Job {
    /// This device's record.
    Record,
    /// The ring at the doorbell.
    Bell,
    /// The seat at an invite's rendezvous.
    Seat(InviteId),
}

/// Items to store and keys to look up.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    jobs: BTreeMap<DhtKey, Job>,
    items: VecDeque<SignedItem>,
    reads: VecDeque<DhtKey>,
}

impl Outbox {
    /// Stores `item`.
    pub(super) fn store(&mut self, job: Job, item: SignedItem) {
        self.jobs.insert(item.key, job);
        self.items.push_back(item);
    }

    /// Looks `key` up.
    pub(super) fn read(&mut self, key: DhtKey) {
        self.reads.push_back(key);
    }

    /// The store under `key` was answered: what it was of, where it is one of ours.
    pub(super) fn answered(&mut self, key: DhtKey) -> Option<Job> {
        self.jobs.remove(&key)
    }

    /// Answers to that job's stores are of no interest any more.
    pub(super) fn forget(&mut self, job: Job) {
        self.jobs.retain(|_, kept| *kept != job);
    }

    /// Nothing can be asked: everything is dropped.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Whether nothing waits to be fetched.
    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty() && self.reads.is_empty()
    }

    /// The next item to store.
    pub(super) fn next_item(&mut self) -> Option<SignedItem> {
        self.items.pop_front()
    }

    /// The next key to look up.
    pub(super) fn next_read(&mut self) -> Option<DhtKey> {
        self.reads.pop_front()
    }
}
