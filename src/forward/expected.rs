//! Which STUN messages `mesh` wants to see.
//!
//! A check names its pair of devices by a tag, and an answer its question by a transaction; anybody
//! can make up either. `mesh` knows all tags that mean somebody and what it asked, and leaves both
//! here, so that what strangers send costs a look-up where it arrives, and wakes nobody.

use std::collections::HashSet;

use parking_lot::RwLock;

use super::DropReason;
use crate::wire::stun::{CheckTag, Envelope, TransactionId};

/// After so many more questions the answer to one is not expected any more: hundreds of peers that
/// are all looked for at once send fewer while an answer is on its way.
const QUESTIONS: usize = 2048;

/// Tags of those who may send checks, and the transactions that were begun; written by `mesh`, read
/// by the workers.
#[derive(Debug, Default)]
pub struct ExpectedStun(RwLock<Expected>);

#[derive(Debug, Default)]
struct Expected {
    tags: HashSet<CheckTag>,
    complete: bool,
    version: u64,
    /// Up to [`QUESTIONS`] of late, and the as many before them.
    asked: HashSet<TransactionId>,
    asked_before: HashSet<TransactionId>,
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

    /// All tags that mean somebody, with their [`version`](Self::version); `None` while there may be
    /// others.
    pub fn all_tags(&self) -> Option<(Vec<CheckTag>, u64)> {
        let expected = self.0.read();
        let tags = || expected.tags.iter().copied().collect();
        expected.complete.then(|| (tags(), expected.version))
    }

    /// Another one, since the tags or what is known of them changed.
    pub fn version(&self) -> u64 {
        self.0.read().version
    }

    /// A question leaves, and may be answered.
    pub fn expect_answer(&self, transaction: TransactionId) {
        let mut expected = self.0.write();
        if expected.asked.len() >= QUESTIONS {
            expected.asked_before = std::mem::take(&mut expected.asked);
        }
        expected.asked.insert(transaction);
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
                let expected = self.0.read();
                let asked = expected.asked.contains(&transaction)
                    || expected.asked_before.contains(&transaction);
                if asked { Ok(()) } else { Err(DropReason::UnaskedAnswer) }
            }
            Err(_) => Err(DropReason::UnknownDatagram),
        }
    }
}

#[cfg(test)]
mod tests {
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
