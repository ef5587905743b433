//! Which STUN messages `mesh` wants to see, and from where it expects anything.
//!
//! A check names its pair of devices by a tag, and an answer its question by a transaction; anybody
//! can make up either. `mesh` knows all tags that mean somebody and what it asked, and leaves both
//! here, so that what strangers send costs a look-up where it arrives, and wakes nobody.
//!
//! Whoever matters was written to: every path is checked from both its ends, and before any handshake.
//! So in a flood all else can be told by the address that it comes from ([`Known`]).

use std::collections::HashSet;
use std::net::IpAddr;

use parking_lot::RwLock;

use super::DropReason;
use super::recent::Recent;
use crate::wire::stun::{CheckTag, Envelope, TransactionId};

/// After so many more questions the answer to one is not expected any more: hundreds of peers that
/// are all looked for at once send fewer while an answer is on its way.
const QUESTIONS: usize = 2048;

/// After so many other addresses that were written to, one is a stranger's again, unless it is a
/// peer's in use: more than the possible addresses of a dozen peers that are looked for at once.
const SOURCES: usize = 250;

/// Tags of those who may send checks, and what was asked and where; written by those who send for
/// `mesh`, read by the workers.
#[derive(Debug, Default)]
pub struct ExpectedStun(RwLock<Expected>);

#[derive(Debug, Default)]
struct Expected {
    tags: HashSet<CheckTag>,
    complete: bool,
    asked: Recent<TransactionId, QUESTIONS>,
    sources: Recent<IpAddr, SOURCES>,
    version: Version,
}

/// Another one since the tags changed, or since an address of the one family or the other is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Version {
    /// Of the tags.
    pub tags: u64,
    /// Of the IPv4 addresses.
    pub v4: u64,
    /// Of the IPv6 addresses.
    pub v6: u64,
}

/// Who is known, for whoever sorts datagrams before they arrive here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// All tags that mean somebody; `None` while there may be others, or where they are too many.
    pub tags: Option<Vec<CheckTag>>,
    /// Where datagrams went of late; up to 500.
    pub sources: Vec<IpAddr>,
    /// As of when.
    pub version: Version,
}

impl ExpectedStun {
    /// These tags mean somebody too.
    pub fn extend(&self, tags: impl IntoIterator<Item = CheckTag>) {
        let mut expected = self.0.write();
        expected.tags.extend(tags);
        expected.version.tags += 1;
    }

    /// This one means nobody any more.
    pub fn remove(&self, tag: &CheckTag) {
        let mut expected = self.0.write();
        expected.tags.remove(tag);
        expected.version.tags += 1;
    }

    /// Forgets all tags: another hour began.
    pub fn clear(&self) {
        let mut expected = self.0.write();
        expected.tags.clear();
        expected.complete = false;
        expected.version.tags += 1;
    }

    /// Whether there are no other tags than these.
    pub fn set_complete(&self, complete: bool) {
        if self.0.read().complete != complete {
            let mut expected = self.0.write();
            expected.complete = complete;
            expected.version.tags += 1;
        }
    }

    /// A question leaves, and may be answered.
    pub fn expect_answer(&self, transaction: TransactionId) {
        self.0.write().asked.insert(transaction);
    }

    /// A datagram leaves to this address, and something may come back.
    pub fn expect_from(&self, source: IpAddr) {
        let source = source.to_canonical();
        let mut expected = self.0.write();
        if expected.sources.insert(source) {
            let version = &mut expected.version;
            *if source.is_ipv4() { &mut version.v4 } else { &mut version.v6 } += 1;
        }
    }

    /// Whether a datagram went to this address of late.
    pub fn is_from_somebody(&self, source: IpAddr) -> bool {
        self.0.read().sources.contains(&source.to_canonical())
    }

    /// Who is known, with up to `max_tags` tags.
    pub fn known(&self, max_tags: usize) -> Known {
        let expected = self.0.read();
        let all = expected.complete && expected.tags.len() <= max_tags;
        Known {
            tags: all.then(|| expected.tags.iter().copied().collect()),
            sources: expected.sources.iter().copied().collect(),
            version: expected.version,
        }
    }

    /// Of what is [`known`](Self::known) now.
    pub fn version(&self) -> Version {
        self.0.read().version
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
            expected.expect_answer(transaction(number));
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
    fn whoever_was_written_to_of_late_and_may_check_is_known() {
        let expected = ExpectedStun::default();
        let v4 = IpAddr::from(Ipv4Addr::new(192, 0, 2, 1));
        let v6 = IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1]);
        let version = |tags, v4, v6| Version { tags, v4, v6 };
        assert_eq!(expected.version(), version(0, 0, 0));
        for _ in 0..2 {
            expected.expect_from(Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped().into());
            expected.expect_from(v4);
            assert_eq!(expected.version(), version(0, 1, 0));
        }
        assert!(expected.is_from_somebody(v4) && !expected.is_from_somebody(v6));
        expected.expect_from(v6);
        assert_eq!(expected.known(1).sources.len(), 2);
        assert_eq!(expected.known(1).tags, None, "there may be others");
        expected.extend([CheckTag([1; 8])]);
        expected.set_complete(true);
        assert_eq!(expected.known(1).tags, Some(vec![CheckTag([1; 8])]));
        assert_eq!(expected.known(0).tags, None, "too many");
        assert_eq!(expected.known(1).version, version(2, 1, 1));
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
