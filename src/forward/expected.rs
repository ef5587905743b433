//! Which STUN messages `mesh` wants to see, and from whom it expects anything.
//!
//! A check names its pair of devices by a tag, and an answer its question by a transaction; anybody
//! can make up either. `mesh` knows all tags that mean somebody and what it asked whom, and leaves
//! both here, so that what strangers send costs a look-up where it arrives, and wakes nobody.
//!
//! Whoever shakes hands was asked before, as every path is checked from both its ends. So in a flood
//! handshakes too can be told by where they come from ([`Known`]).

use std::collections::HashSet;
use std::hash::Hash;
use std::net::IpAddr;

use parking_lot::RwLock;

use super::DropReason;
use crate::wire::stun::{CheckTag, Envelope, TransactionId};

/// After so many more questions the answer to one is not expected any more: hundreds of peers that
/// are all looked for at once send fewer while an answer is on its way.
const QUESTIONS: usize = 2048;

/// After so many other addresses that were asked, one is not known any more: peers in use are asked
/// again and again, so these are the possible addresses of dozens that are all looked for at once.
const SOURCES: usize = 500;

/// Tags of those who may send checks, and what was asked and where; written by `mesh`, read by the
/// workers.
#[derive(Debug, Default)]
pub struct ExpectedStun(RwLock<Expected>);

#[derive(Debug, Default)]
struct Expected {
    tags: HashSet<CheckTag>,
    complete: bool,
    version: u64,
    asked: Recent<TransactionId, QUESTIONS>,
    sources: Recent<IpAddr, SOURCES>,
}

/// Who is known, for whoever sorts datagrams before they arrive here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// All tags that mean somebody; `None` while there may be others, or where they are too many.
    pub tags: Option<Vec<CheckTag>>,
    /// Where questions went of late; up to 1,000.
    pub sources: Vec<IpAddr>,
    /// Another one for other tags or sources.
    pub version: u64,
}

/// The last `N` values, and up to as many from before them.
#[derive(Debug)]
struct Recent<T, const N: usize> {
    last: HashSet<T>,
    before: HashSet<T>,
}

impl<T, const N: usize> Default for Recent<T, N> {
    fn default() -> Self {
        Self { last: HashSet::new(), before: HashSet::new() }
    }
}

impl<T: Eq + Hash, const N: usize> Recent<T, N> {
    /// Whether it was not there before.
    fn insert(&mut self, value: T) -> bool {
        if self.last.contains(&value) {
            return false;
        }
        let new = !self.before.contains(&value);
        if self.last.len() >= N {
            self.before = std::mem::take(&mut self.last);
        }
        self.last.insert(value);
        new
    }

    fn contains(&self, value: &T) -> bool {
        self.last.contains(value) || self.before.contains(value)
    }
}

impl ExpectedStun {
    /// These tags mean somebody too.
    pub fn extend(&self, tags: impl IntoIterator<Item = CheckTag>) {
        let mut expected = self.0.write();
        expected.tags.extend(tags);
        expected.version += 1;
    }

    /// This one means nobody any more.
    pub fn remove(&self, tag: &CheckTag) {
        let mut expected = self.0.write();
        expected.tags.remove(tag);
        expected.version += 1;
    }

    /// Forgets all tags: another hour began.
    pub fn clear(&self) {
        let mut expected = self.0.write();
        expected.tags.clear();
        expected.complete = false;
        expected.version += 1;
    }

    /// Whether there are no other tags than these.
    pub fn set_complete(&self, complete: bool) {
        if self.0.read().complete != complete {
            let mut expected = self.0.write();
            expected.complete = complete;
            expected.version += 1;
        }
    }

    /// Who is known, with up to `max_tags` tags.
    pub fn known(&self, max_tags: usize) -> Known {
        let expected = self.0.read();
        let all = expected.complete && expected.tags.len() <= max_tags;
        let sources = &expected.sources;
        Known {
            tags: all.then(|| expected.tags.iter().copied().collect()),
            sources: sources.last.union(&sources.before).copied().collect(),
            version: expected.version,
        }
    }

    /// Another one, since anybody became [`Known`] or ceased to be.
    pub fn version(&self) -> u64 {
        self.0.read().version
    }

    /// A question leaves to `to`, and may be answered.
    pub fn expect_answer(&self, transaction: TransactionId, to: IpAddr) {
        let mut expected = self.0.write();
        expected.asked.insert(transaction);
        if expected.sources.insert(to.to_canonical()) {
            expected.version += 1;
        }
    }

    /// Whether `mesh` may have a use for this STUN message, or why not.
    pub fn judge(&self, message: &[u8]) -> Result<(), DropReason> {
        match Envelope::peek(message) {
            Ok(Envelope::Request(tag)) => {
                let expected = self.0.read();
                let stranger = expected.complete && !expected.tags.contains(&tag);
                if stranger { Err(DropReason::StrangersCheck) } else { Ok(()) }
            }
            Ok(Envelope::Response(transaction)) => {
                let asked = self.0.read().asked.contains(&transaction);
                if asked { Ok(()) } else { Err(DropReason::UnaskedAnswer) }
            }
            Err(_) => Err(DropReason::UnknownDatagram),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::identity::WgSecret;
    use crate::wire::stun::{CheckKey, CheckRequest, CheckResponse, StunRequest};

    fn key() -> CheckKey {
        let (own, peer) = (WgSecret::from_bytes([1; 32]), WgSecret::from_bytes([2; 32]));
        CheckKey::derive(&own, &peer.public()).expect("two devices")
    }

    fn transaction(number: usize) -> TransactionId {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        TransactionId::new(bytes)
    }

    #[test]
    fn only_answers_to_what_was_asked_of_late_are_expected() {
        let expected = ExpectedStun::default();
        let answer = |number| {
            let mapped = "192.0.2.1:9".parse().expect("an address");
            CheckResponse { transaction: transaction(number), mapped }.encode(&key())
        };
        assert_eq!(expected.judge(&answer(0)), Err(DropReason::UnaskedAnswer));
        for number in 0..5 * QUESTIONS {
            expected.expect_answer(transaction(number), Ipv4Addr::LOCALHOST.into());
            if number % 100 > 0 {
                continue;
            }
            assert_eq!(expected.judge(&answer(number)), Ok(()));
            assert_eq!(expected.judge(&answer(number.saturating_sub(QUESTIONS))), Ok(()));
            if let Some(long_ago) = number.checked_sub(2 * QUESTIONS) {
                assert_eq!(expected.judge(&answer(long_ago)), Err(DropReason::UnaskedAnswer));
            }
        }
        expected.clear();
        assert_eq!(expected.judge(&answer(5 * QUESTIONS - 1)), Ok(()), "another hour");
    }

    #[test]
    fn who_was_asked_of_late_and_who_may_check_is_known() {
        let expected = ExpectedStun::default();
        let ask = |address: usize| {
            let address = Ipv4Addr::from_bits(address as u32).to_ipv6_mapped();
            expected.expect_answer(transaction(address.to_bits() as usize), address.into());
        };
        let sources = |known: &Known| {
            let bits = |source: &IpAddr| match source {
                IpAddr::V4(v4) => v4.to_bits() as usize,
                IpAddr::V6(v6) => panic!("{v6}"),
            };
            known.sources.iter().map(bits).collect::<std::collections::BTreeSet<_>>()
        };
        let mut known = expected.known(1);
        assert_eq!((&known.tags, known.sources.len()), (&None, 0));
        for number in 0..3 * SOURCES {
            ask(number);
            let now = expected.known(1);
            assert!(now.version != known.version && now.sources.len() <= 2 * SOURCES);
            assert!(
                sources(&now).is_superset(&(number.saturating_sub(SOURCES)..=number).collect())
            );
            ask(number);
            assert_eq!(sources(&expected.known(1)), sources(&now), "it is known already");
            known = now;
        }
        assert_eq!(expected.version(), known.version);
        expected.extend([CheckTag([1; 8])]);
        expected.set_complete(true);
        assert_eq!(expected.known(1).tags, Some(vec![CheckTag([1; 8])]));
        assert_eq!(expected.known(0).tags, None, "too many");
        assert_ne!(expected.version(), known.version);
    }

    #[test]
    fn what_is_no_check_of_anybody_is_not_expected_even_while_tags_are_missing() {
        let expected = ExpectedStun::default();
        let check = CheckRequest { transaction: transaction(1), tag: CheckTag([7; 8]) };
        let check = check.encode(&key());
        assert_eq!(expected.judge(&check), Ok(()), "nobody was looked at");
        let question = StunRequest { transaction: transaction(2), change: (false, false) }.encode();
        let mut unsigned = check[..check.len() - 24].to_vec();
        unsigned[3] -= 24;
        let mut nameless = check.clone();
        nameless[21] = 7;
        let mut indication = check.clone();
        indication[1] = 0x11;
        for message in [question, unsigned, nameless, indication] {
            assert_eq!(expected.judge(&message), Err(DropReason::UnknownDatagram), "{message:?}");
        }
        expected.set_complete(true);
        assert_eq!(expected.judge(&check), Err(DropReason::StrangersCheck));
        expected.extend([CheckTag([7; 8])]);
        assert_eq!(expected.judge(&check), Ok(()));
    }
}
