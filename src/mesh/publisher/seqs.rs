//! The sequence numbers of what this device stores: `max(last + 1, unix seconds)` for each key.

use std::collections::BTreeMap;

use crate::membership::UnixTime;
use crate::wire::record::{
    DhtKey, MAX_CACHED_SEQS, RecordError, SignedItem, decode_seqs, encode_seqs,
};

/// The last sequence number of each key.
#[derive(Debug, Default)]
pub(super) struct Seqs(BTreeMap<DhtKey, i64>);

impl Seqs {
    /// The sequence number of the next item under `key`. Forgets the oldest keys past the bound.
    pub(super) fn next(&mut self, key: DhtKey, unix: UnixTime) -> i64 {
        let clock = i64::try_from(unix.0).unwrap_or(i64::MAX);
        let seq = self.0.get(&key).map_or(clock, |last| clock.max(last.saturating_add(1)));
        self.0.insert(key, seq);
        while self.0.len() > MAX_CACHED_SEQS {
            let others = self.0.iter().filter(|(other, _)| **other != key);
            let Some(oldest) = others.min_by_key(|(_, seq)| **seq).map(|(key, _)| *key) else {
                break;
            };
            self.0.remove(&oldest);
        }
        seq
    }

    /// A stored item was seen; where it is newer than what was known, the next one passes it.
    pub(super) fn see(&mut self, item: &SignedItem) {
        if let Some(last) = self.0.get_mut(&item.key)
            && item.seq > *last
            && item.verify()
        {
            *last = item.seq;
        }
    }

    /// The form for the cache.
    pub(super) fn export(&self) -> Vec<u8> {
        encode_seqs(&self.0.iter().map(|(key, seq)| (*key, *seq)).collect::<Vec<_>>())
    }

    /// Takes what [`Self::export`] gave before a restart.
    pub(super) fn import(&mut self, bytes: &[u8]) -> Result<(), RecordError> {
        for (key, seq) in decode_seqs(bytes)? {
            let last = self.0.entry(key).or_insert(seq);
            *last = (*last).max(seq);
        }
        Ok(())
    }
}
