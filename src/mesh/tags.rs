//! Who is asking? Finds the peer behind the tag of a path check.
//!
//! A check names its pair of keys by an 8-byte tag that changes every hour
//! ([`CheckKey::tag`]), so that checks cannot be linked over time by who watches the path. Every
//! device that may send one has an entry here for the hour before, this hour and the next, since
//! clocks differ. A thousand members cost a thousand key agreements when they are first seen and
//! three thousand HMACs an hour.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use super::peer::Who;
use super::rate::Bucket;
use crate::identity::WgPublicKey;
use crate::membership::UnixTime;
use crate::wire::stun::{CheckKey, CheckTag};

/// Seconds in which a tag is current.
const HOUR: u64 = 3600;

/// Checks answered a second, of all peers together.
const ANSWERS: u32 = 200;

/// Somebody who may send checks: who it is, and under which WireGuard key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Caller {
    /// Who it is.
    pub who: Who,
    /// Its WireGuard key.
    pub remote: WgPublicKey,
}

/// The check keys of everybody who may send checks or handshakes.
#[derive(Debug, Default)]
pub struct Tags {
    callers: BTreeMap<Caller, CheckKey>,
    by_remote: BTreeMap<WgPublicKey, Caller>,
    by_tag: HashMap<CheckTag, Caller>,
    now: UnixTime,
    answers: Option<Bucket>,
}

impl Tags {
    /// Lets `caller` send checks under `key`.
    pub fn insert(&mut self, caller: Caller, key: CheckKey) {
        for tag in key.tags(self.now.0) {
            self.by_tag.insert(tag, caller);
        }
        // A sponsor under the guest key is the only caller whose handshakes are not for this
        // device's own key; and it never starts one.
        if caller.who != Who::Sponsor {
            self.by_remote.insert(caller.remote, caller);
        }
        self.callers.insert(caller, key);
    }

    /// `caller` may not send anything any more.
    pub fn remove(&mut self, caller: &Caller) {
        if let Some(key) = self.callers.remove(caller) {
            // A promoted guest has the same keys as the member it became.
            for tag in key.tags(self.now.0) {
                if self.by_tag.get(&tag) == Some(caller) {
                    self.by_tag.remove(&tag);
                }
            }
        }
        if self.by_remote.get(&caller.remote) == Some(caller) {
            self.by_remote.remove(&caller.remote);
        }
    }

    /// Everybody.
    pub fn callers(&self) -> impl Iterator<Item = &Caller> {
        self.callers.keys()
    }

    /// The check key of `caller`.
    pub fn key(&self, caller: &Caller) -> Option<&CheckKey> {
        self.callers.get(caller)
    }

    /// Who uses `tag`, and the key that must verify.
    pub fn find(&self, tag: &CheckTag) -> Option<(Caller, &CheckKey)> {
        let caller = *self.by_tag.get(tag)?;
        Some((caller, self.callers.get(&caller)?))
    }

    /// Who has this WireGuard key.
    pub fn by_remote(&self, remote: &WgPublicKey) -> Option<Caller> {
        self.by_remote.get(remote).copied()
    }

    /// Whether one more check may be answered now.
    pub fn may_answer(&mut self, now: Instant) -> bool {
        let fresh = || Bucket::new(ANSWERS, Duration::from_secs(1), ANSWERS);
        self.answers.get_or_insert_with(fresh).take(1, now)
    }

    /// Computes the tags of another hour, where it is one. Returns when to call again.
    pub fn roll(&mut self, now: UnixTime) -> UnixTime {
        let hour = now.0 / HOUR;
        if hour != self.now.0 / HOUR {
            self.now = now;
            self.by_tag.clear();
            for (caller, key) in &self.callers {
                self.by_tag.extend(key.tags(now.0).map(|tag| (tag, *caller)));
            }
        }
        UnixTime((hour + 1) * HOUR)
    }
}
