//! Who is asking? Finds the peer behind the tag of a path check.
//!
//! A check names its pair of keys by an 8-byte tag that changes every hour
//! ([`CheckKey::tag`]), so that checks cannot be linked over time by who watches the path. Tags of
//! the hour before, this hour and the next are accepted, since clocks differ.
//!
//! A key agreement and three HMACs for each of ten thousand members would be half a second at every
//! start and a tenth of one in every hour, mostly for devices that never call. So the tags of an hour
//! are computed at once only for those in use; a tag that is none of theirs is sought among the
//! others, one by one, until it is found. Who was looked at so is not looked at again in that hour:
//! a stranger's checks cost each member once an hour, and nothing after that.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::peer::Who;
use super::rate::Bucket;
use crate::forward::ExpectedStun;
use crate::identity::{WgPublicKey, WgSecret};
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

/// Everybody who may send checks or handshakes, and their check keys.
#[derive(Debug)]
pub struct Tags {
    /// The static secret of this device, under which all but sponsors know it.
    own: WgSecret,
    /// The keys, as far as they were needed.
    callers: BTreeMap<Caller, Option<CheckKey>>,
    by_remote: BTreeMap<WgPublicKey, Caller>,
    by_tag: HashMap<CheckTag, Caller>,
    /// Those of whom no tags of this hour were computed.
    untagged: BTreeSet<Caller>,
    /// The keys of `by_tag`, where the workers can see them.
    expected: Arc<ExpectedStun>,
    now: UnixTime,
    answers: Option<Bucket>,
}

impl Tags {
    /// Nobody may send anything to the device with this static secret.
    pub fn new(own: WgSecret) -> Self {
        Self {
            own,
            callers: BTreeMap::new(),
            by_remote: BTreeMap::new(),
            by_tag: HashMap::new(),
            untagged: BTreeSet::new(),
            expected: Arc::default(),
            now: UnixTime::default(),
            answers: None,
        }
    }

    /// Lets `caller` send checks.
    pub fn insert(&mut self, caller: Caller) {
        self.callers.insert(caller, None);
        self.untagged.insert(caller);
        self.expected.set_complete(false);
        self.by_remote.insert(caller.remote, caller);
    }

    /// Lets a sponsor send checks under `key`, which is of the guest's secret. It is the only caller
    /// whose handshakes are not for this device's own key; and it never starts one.
    pub fn insert_sponsor(&mut self, sponsor: Caller, key: CheckKey) {
        self.callers.insert(sponsor, Some(key));
        self.tag(sponsor);
    }

    /// `caller` may not send anything any more.
    pub fn remove(&mut self, caller: &Caller) {
        self.untagged.remove(caller);
        if let Some(Some(key)) = self.callers.remove(caller) {
            // A promoted guest has the same keys as the member it became.
            for tag in key.tags(self.now.0) {
                if self.by_tag.get(&tag) == Some(caller) {
                    self.by_tag.remove(&tag);
                    self.expected.remove(&tag);
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

    /// Whether `caller` may send checks.
    pub fn has(&self, caller: &Caller) -> bool {
        self.callers.contains_key(caller)
    }

    /// The check key of `caller`, who is in use from now on.
    pub fn key(&mut self, caller: &Caller) -> Option<&CheckKey> {
        if self.untagged.remove(caller) {
            self.tag(*caller);
        }
        self.callers.get(caller)?.as_ref()
    }

    /// Who uses `tag`, and the key that must verify.
    pub fn find(&mut self, tag: &CheckTag) -> Option<(Caller, &CheckKey)> {
        while !self.by_tag.contains_key(tag)
            && let Some(caller) = self.untagged.pop_first()
        {
            self.tag(caller);
        }
        self.expected.set_complete(self.untagged.is_empty());
        let caller = *self.by_tag.get(tag)?;
        Some((caller, self.callers.get(&caller)?.as_ref()?))
    }

    /// What is to be handed up: all checks, until a stranger's has shown that nobody else's tags are
    /// left to be computed.
    pub fn expected(&self) -> &Arc<ExpectedStun> {
        &self.expected
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

    /// Begins another hour, where it is one, with the tags of those in use. Returns when to call
    /// again.
    pub fn roll(&mut self, now: UnixTime, in_use: impl Iterator<Item = Caller>) -> UnixTime {
        let hour = now.0 / HOUR;
        if hour != self.now.0 / HOUR {
            self.now = now;
            self.by_tag.clear();
            self.expected.clear();
            self.untagged = self.callers.keys().copied().collect();
            for caller in in_use {
                if self.untagged.remove(&caller) {
                    self.tag(caller);
                }
            }
        }
        UnixTime((hour + 1) * HOUR)
    }

    /// Computes the tags of a caller for this hour.
    fn tag(&mut self, caller: Caller) {
        let Some(key) = self.callers.get_mut(&caller) else { return };
        if key.is_none() {
            // A key with which there is no agreement is nobody's.
            *key = CheckKey::derive(&self.own, &caller.remote);
        }
        if let Some(key) = key {
            let tags = key.tags(self.now.0);
            self.by_tag.extend(tags.map(|tag| (tag, caller)));
            self.expected.extend(tags);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::DropReason;
    use crate::identity::DeviceId;
    use crate::wire::stun::{CheckRequest, TransactionId};

    const NOW: UnixTime = UnixTime(1_767_225_600);

    fn secret(number: u8) -> WgSecret {
        WgSecret::from_bytes([number; 32])
    }

    fn member(number: u8) -> Caller {
        Caller { who: Who::Member(DeviceId([number; 32])), remote: secret(number).public() }
    }

    /// What `number` writes into its checks to device 1.
    fn tag_of(number: u8, now: UnixTime) -> CheckTag {
        CheckKey::derive(&secret(number), &secret(1).public()).expect("two devices").tag(now.0)
    }

    fn tags() -> Tags {
        let mut tags = Tags::new(secret(1));
        tags.roll(NOW, std::iter::empty());
        (2..10).for_each(|number| tags.insert(member(number)));
        tags
    }

    #[test]
    fn every_caller_is_found_by_its_tag_whether_in_use_or_not() {
        let mut tags = tags();
        assert!(tags.key(&member(3)).is_some());
        let later = UnixTime(NOW.0 + 2 * HOUR);
        for now in [NOW, later] {
            tags.roll(now, [member(3)].into_iter());
            for number in 2..10 {
                let found = tags.find(&tag_of(number, now)).map(|(caller, _)| caller);
                assert_eq!(found, Some(member(number)));
            }
        }
        assert!(tags.find(&tag_of(4, NOW)).is_none(), "two hours old");
    }

    #[test]
    fn a_stranger_has_every_caller_looked_at_once_an_hour() {
        let mut tags = tags();
        assert_eq!(tags.untagged.len(), 8);
        assert!(tags.find(&tag_of(99, NOW)).is_none());
        assert!(tags.untagged.is_empty());
        tags.remove(&member(5));
        assert!(tags.find(&tag_of(5, NOW)).is_none());
        tags.roll(UnixTime(NOW.0 + HOUR), [member(3)].into_iter());
        assert_eq!(tags.untagged.len(), 6, "the one in use and the removed one are not sought");
    }

    /// A check of `number` to device 1.
    fn check_of(number: u8, now: UnixTime) -> Vec<u8> {
        let key = CheckKey::derive(&secret(number), &secret(1).public()).expect("two devices");
        let transaction = TransactionId::new([number; 12]);
        CheckRequest { transaction, tag: key.tag(now.0) }.encode(&key)
    }

    #[test]
    fn strangers_checks_are_told_from_all_others_once_every_caller_was_looked_at() {
        let mut tags = tags();
        let expected = tags.expected().clone();
        let refused =
            |now| (2..=99).filter(|number| expected.judge(&check_of(*number, now)).is_err()).min();
        assert_eq!(refused(NOW), None, "nobody was looked at");
        tags.find(&tag_of(99, NOW));
        assert_eq!(refused(NOW), Some(10));
        tags.remove(&member(5));
        assert_eq!(refused(NOW), Some(5));
        tags.insert(member(10));
        assert_eq!(refused(NOW), None, "the new one was not looked at");
        assert!(tags.find(&tag_of(10, NOW)).is_some());
        assert_eq!(expected.judge(&check_of(10, NOW)), Ok(()));
        assert_eq!(expected.judge(&check_of(11, NOW)), Err(DropReason::StrangersCheck));
        let later = UnixTime(NOW.0 + 2 * HOUR);
        tags.roll(later, std::iter::empty());
        assert_eq!(refused(later), None, "another hour");
        tags.find(&tag_of(99, later));
        assert_eq!(refused(later), Some(5));
    }

    #[test]
    fn a_key_with_which_there_is_no_agreement_is_nobody() {
        let mut tags = tags();
        let own = Caller { who: member(2).who, remote: secret(1).public() };
        tags.insert(own);
        assert!(tags.has(&own) && tags.key(&own).is_none());
    }
}
