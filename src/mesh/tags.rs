//! Who is asking? Finds the peer behind the tag of a path check.
//!
//! A check names its pair of keys by an 8-byte tag that changes every hour
//! ([`CheckKey::tag`]), so that checks cannot be linked over time by who watches the path. Tags of
//! the hour before, this hour and the next are accepted, since clocks differ.
//!
//! Every member may send checks, as the roster says; nothing is kept here of those that never did. A key
//! agreement and three HMACs for each of ten thousand members would be half a second at every
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

/// Those who may send checks or handshakes and are no members, and the check keys that were needed,
/// members' too.
#[derive(Debug)]
pub struct Tags {
    /// The static secret of this device, under which all but sponsors know it.
    own: WgSecret,
    /// Who may send checks and is no member.
    guests: BTreeSet<Caller>,
    by_remote: BTreeMap<WgPublicKey, Caller>,
    known: BTreeMap<Caller, Known>,
    by_tag: HashMap<CheckTag, Caller>,
    /// The keys of `by_tag`, where the workers can see them.
    expected: Arc<ExpectedStun>,
    /// Whether nobody is left whose tags were not computed.
    complete: bool,
    now: UnixTime,
    answers: Option<Bucket>,
}

/// What was computed of a caller.
#[derive(Debug)]
struct Known {
    /// A key with which there is no agreement is nobody's.
    key: Option<CheckKey>,
    /// Whether `by_tag` has its tags of this hour.
    tagged: bool,
}

impl Tags {
    /// Nobody but members may send anything to the device with this static secret.
    pub fn new(own: WgSecret) -> Self {
        Self {
            own,
            guests: BTreeSet::new(),
            by_remote: BTreeMap::new(),
            known: BTreeMap::new(),
            by_tag: HashMap::new(),
            expected: Arc::default(),
            complete: false,
            now: UnixTime::default(),
            answers: None,
        }
    }

    /// Lets `caller` send checks, who is no member.
    pub fn insert(&mut self, caller: Caller) {
        self.guests.insert(caller);
        self.by_remote.insert(caller.remote, caller);
        self.note_member();
    }

    /// Lets a sponsor send checks under `key`, which is of the guest's secret. It is the only caller
    /// whose handshakes are not for this device's own key; and it never starts one.
    pub fn insert_sponsor(&mut self, sponsor: Caller, key: CheckKey) {
        self.guests.insert(sponsor);
        self.known.insert(sponsor, Known { key: Some(key), tagged: false });
        self.tag(sponsor);
    }

    /// There is one more member: not all tags are known any more.
    pub fn note_member(&mut self) {
        self.set_complete(false);
    }

    /// `caller` may not send anything any more.
    pub fn remove(&mut self, caller: &Caller) {
        self.guests.remove(caller);
        if let Some(Known { key: Some(key), .. }) = self.known.remove(caller) {
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

    /// Everybody who may send checks and is no member.
    pub fn guests(&self) -> impl Iterator<Item = &Caller> {
        self.guests.iter()
    }

    /// Whether `caller` is one of them.
    pub fn has_guest(&self, caller: &Caller) -> bool {
        self.guests.contains(caller)
    }

    /// Who of them has this WireGuard key.
    pub fn guest(&self, remote: &WgPublicKey) -> Option<Caller> {
        self.by_remote.get(remote).copied()
    }

    /// The check key of `caller`, a member or not, who is in use from now on.
    pub fn key(&mut self, caller: &Caller) -> Option<&CheckKey> {
        self.tag(*caller);
        self.known.get(caller)?.key.as_ref()
    }

    /// Who of the `members` and the others uses `tag`, and the key that must verify.
    pub fn find(
        &mut self,
        tag: &CheckTag,
        members: impl Iterator<Item = Caller>,
    ) -> Option<(Caller, &CheckKey)> {
        if !self.complete && !self.by_tag.contains_key(tag) {
            self.seek(tag, members);
        }
        let caller = *self.by_tag.get(tag)?;
        Some((caller, self.known.get(&caller)?.key.as_ref()?))
    }

    /// Computes the tags of one after the other until one is `tag`.
    fn seek(&mut self, tag: &CheckTag, members: impl Iterator<Item = Caller>) {
        let guests: Vec<_> = self.guests.iter().copied().collect();
        let mut left = members.chain(guests);
        while !self.by_tag.contains_key(tag)
            && let Some(caller) = left.next()
        {
            self.tag(caller);
        }
        let complete = left.all(|caller| self.is_tagged(&caller));
        self.set_complete(complete);
    }

    fn set_complete(&mut self, complete: bool) {
        self.complete = complete;
        self.expected.set_complete(complete);
    }

    /// What is to be handed up: all checks, until a stranger's has shown that nobody else's tags are
    /// left to be computed.
    pub fn expected(&self) -> &Arc<ExpectedStun> {
        &self.expected
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
            self.complete = false;
            self.known.values_mut().for_each(|known| known.tagged = false);
            in_use.for_each(|caller| self.tag(caller));
        }
        UnixTime((hour + 1) * HOUR)
    }

    fn is_tagged(&self, caller: &Caller) -> bool {
        self.known.get(caller).is_some_and(|known| known.tagged)
    }

    /// Computes the tags of a caller for this hour, where that was not done.
    fn tag(&mut self, caller: Caller) {
        let own = &self.own;
        let agree = || Known { key: CheckKey::derive(own, &caller.remote), tagged: false };
        let known = self.known.entry(caller).or_insert_with(agree);
        if std::mem::replace(&mut known.tagged, true) {
            return;
        }
        if let Some(key) = &known.key {
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
    use crate::membership::InviteId;
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
        tags
    }

    /// Devices 2 to 9, of which one may be gone.
    fn all_but(gone: u8) -> impl Iterator<Item = Caller> {
        (2..10).filter(move |number| *number != gone).map(member)
    }

    fn all() -> impl Iterator<Item = Caller> {
        all_but(0)
    }

    #[test]
    fn every_caller_is_found_by_its_tag_whether_in_use_or_not() {
        let mut tags = tags();
        assert!(tags.key(&member(3)).is_some());
        let guest = Caller { who: Who::Guest(InviteId([1; 16])), remote: secret(11).public() };
        tags.insert(guest);
        assert_eq!(tags.guest(&guest.remote), Some(guest));
        let later = UnixTime(NOW.0 + 2 * HOUR);
        for now in [NOW, later] {
            tags.roll(now, [member(3)].into_iter());
            for caller in all().chain([guest]) {
                let number = (2..12).find(|number| secret(*number).public() == caller.remote);
                let tag = tag_of(number.expect("one of them"), now);
                assert_eq!(tags.find(&tag, all()).map(|(found, _)| found), Some(caller));
            }
        }
        assert!(tags.find(&tag_of(4, NOW), all()).is_none(), "two hours old");
    }

    #[test]
    fn a_stranger_has_every_caller_looked_at_once_an_hour() {
        let mut tags = tags();
        let tagged = |tags: &Tags| tags.known.values().filter(|known| known.tagged).count();
        assert_eq!(tagged(&tags), 0, "nothing is kept of who never called");
        assert!(tags.find(&tag_of(99, NOW), all()).is_none());
        assert_eq!(tagged(&tags), 8);
        let nobody = std::iter::from_fn(|| panic!("the members are walked again"));
        assert!(tags.find(&tag_of(98, NOW), nobody).is_none());
        tags.remove(&member(5));
        assert!(tags.find(&tag_of(5, NOW), all_but(5)).is_none());
        tags.roll(UnixTime(NOW.0 + HOUR), [member(3)].into_iter());
        assert_eq!(tagged(&tags), 1, "the one in use");
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
        tags.find(&tag_of(99, NOW), all());
        assert_eq!(refused(NOW), Some(10));
        tags.remove(&member(5));
        assert_eq!(refused(NOW), Some(5));
        tags.note_member();
        assert_eq!(refused(NOW), None, "the new one was not looked at");
        let more = || all_but(5).chain([member(10)]);
        assert!(tags.find(&tag_of(10, NOW), more()).is_some());
        assert_eq!(expected.judge(&check_of(10, NOW)), Ok(()));
        assert_eq!(expected.judge(&check_of(11, NOW)), Err(DropReason::StrangersCheck));
        let later = UnixTime(NOW.0 + 2 * HOUR);
        tags.roll(later, std::iter::empty());
        assert_eq!(refused(later), None, "another hour");
        tags.find(&tag_of(99, later), more());
        assert_eq!(refused(later), Some(5));
    }

    #[test]
    fn a_key_with_which_there_is_no_agreement_is_nobody() {
        let mut tags = tags();
        let own = Caller { who: member(2).who, remote: secret(1).public() };
        assert!(tags.key(&own).is_none());
        assert!(tags.find(&tag_of(2, NOW), [own].into_iter()).is_none());
    }
}
